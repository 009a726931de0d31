"""The admin server over real sockets."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from runner.admin.health import HealthReport, readiness
from runner.admin.server import AdminServer, AdminUnavailable
from runner.clients.secret import Secret
from runner.core.flow import PauseReason
from runner.model import ErrorKind, FunctionError, LastError, MappingState, Partition, Problem, Reason
from runner.telemetry.snapshot import LimitsSnapshot, MappingSnapshot, PartitionSnapshot, Usage
from runner.telemetry.telemetry import Telemetry

PASSWORD = "hunter2-never-shown"
READ_LIMIT = 10.0


class World:
    """What a process would show, set by a test."""

    def __init__(self) -> None:
        self.mappings: Sequence[MappingSnapshot] = [mapping()]
        self.health = HealthReport()
        self.telemetry = Telemetry(version="1.2.3", snapshots=lambda: self.mappings, limits=limits)
        self.telemetry.observer("orders", "charge").records_fetched(Partition("orders", 0), 5, 50)

    def server(self, host: str = "127.0.0.1", port: int = 0) -> AdminServer:
        return AdminServer(
            host,
            port,
            telemetry=self.telemetry,
            snapshots=lambda: self.mappings,
            health=lambda: self.health,
            ready=lambda: readiness(self.mappings),
        )


def mapping(
    *, state: MappingState = MappingState.ENABLED, problem: Problem | None = None, joined: bool = True
) -> MappingSnapshot:
    partition = PartitionSnapshot(
        partition=Partition("orders", 0),
        assigned=True,
        lag_records=7,
        lag_seconds=1.5,
        unsettled_records=3,
        unsettled_bytes=24,
        ahead_records=2,
        paused_reason=PauseReason.MAXIMUM_AHEAD,
        blocking_lane="lane 3",
        waiting_for="a retry at 12:00:00",
        checkpoint=42,
        problem=Problem(Reason.EVENT_SOURCE_UNREADABLE, "bad CRC"),
    )
    return MappingSnapshot(
        mapping="orders",
        function="charge",
        state=state,
        problem=problem,
        last_processing_result="OK",
        joined=joined,
        partitions=[partition],
        inflight=2,
        waiting=1,
        concurrency_limit=64,
        polled_at=1234.5,
        last_error=LastError(FunctionError(ErrorKind.ERROR, "HTTPError", "HTTP 500", status_code=500), 1234.0),
        config={"batch_size": 100, "source": {"kafka": {"password": Secret(literal=PASSWORD)}}},
    )


def limits() -> LimitsSnapshot:
    return LimitsSnapshot(Usage(2, 1000), Usage(24, 256_000_000), {"charge": Usage(2, 64)})


@pytest.fixture
def world() -> World:
    return World()


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[str]:
    server = world.server()
    await server.start()
    try:
        yield f"http://{server.address}"
    finally:
        await server.stop()


@asynccontextmanager
async def request(
    url: str, method: str = "GET", headers: dict[str, str] | None = None, data: bytes | None = None
) -> AsyncIterator[aiohttp.ClientResponse]:
    timeout = aiohttp.ClientTimeout(total=READ_LIMIT)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(method, url, headers=headers, data=data, allow_redirects=False) as response,
    ):
        yield response


async def send_raw(address: str, data: bytes) -> bytes:
    """What the server answers to ``data`` until it closes the connection."""
    host, port = address.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), READ_LIMIT)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_real_scrape_is_clean_for_promtool(
    world: World, tmp_path: Path, component_missing: Callable[[str], None]
) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        component_missing("promtool is not installed: it is in Debian's package prometheus")
        return
    async with serving(world) as address, request(f"{address}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        page = tmp_path / "page"
        page.write_bytes(await response.read())
    with page.open("rb") as scrape:
        checked = await anyio.run_process([promtool, "check", "metrics"], stdin=scrape, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_metrics_come_in_the_format_that_is_asked_for(world: World) -> None:
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
    async with serving(world) as address, request(f"{address}/metrics", headers=accept) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        families = {family.name: family for family in parse_openmetrics(await response.text())}  # type: ignore[no-untyped-call]
    assert families["stream_runner_records_fetched"].samples[0].value == 5
    assert families["stream_runner_lag_seconds"].samples[0].value == 1.5
    assert families["stream_runner_lag_seconds"].unit == "seconds"


async def test_healthz_follows_the_report(world: World) -> None:
    async with serving(world) as address:
        async with request(f"{address}/healthz") as response:
            assert response.status == 200
            assert await response.json() == {"ok": True, "faults": []}
        world.health = HealthReport(("the poller of orders last turned 61.0 s ago (limit 60 s)",))
        async with request(f"{address}/healthz") as response:
            assert response.status == 503
            assert (await response.json())["faults"] == list(world.health.faults)


async def test_readyz_waits_for_the_first_assignment(world: World) -> None:
    world.mappings = [mapping(state=MappingState.CREATING, joined=False)]
    async with serving(world) as address:
        async with request(f"{address}/readyz") as response:
            assert response.status == 503
            assert (await response.json())["faults"] == ["mapping orders has not joined yet"]
        world.mappings = [mapping()]
        async with request(f"{address}/readyz") as response:
            assert response.status == 200


async def test_mappings_show_everything_but_secrets(world: World) -> None:
    problem = Problem(Reason.EVENT_SOURCE_NOT_FOUND, "no topic \udc80ordres\r\n", "did you mean orders?")
    world.mappings = [mapping(state=MappingState.PROBLEM, problem=problem)]
    async with serving(world) as address, request(f"{address}/mappings") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json"
        text = await response.text()
    assert PASSWORD not in text
    [shown] = json.loads(text)["mappings"]
    assert shown == {
        "mapping": "orders",
        "function": "charge",
        "state": "problem",
        "problem": {"reason": "EVENT_SOURCE_NOT_FOUND", "text": problem.text, "hint": "did you mean orders?"},
        "last_processing_result": "OK",
        "last_error": {"kind": "error", "type": "HTTPError", "text": "HTTP 500", "status_code": 500, "at": 1234.0},
        "joined": True,
        "inflight": 2,
        "waiting": 1,
        "concurrency_limit": 64,
        "polled_at": 1234.5,
        "config": {"batch_size": 100, "source": {"kafka": {"password": "***"}}},
        "partitions": [
            {
                "topic": "orders",
                "partition": 0,
                "assigned": True,
                "lag_records": 7,
                "lag_seconds": 1.5,
                "unsettled_records": 3,
                "unsettled_bytes": 24,
                "ahead_records": 2,
                "paused_reason": "maximum_ahead",
                "blocking_lane": "lane 3",
                "waiting_for": "a retry at 12:00:00",
                "checkpoint": 42,
                "problem": {"reason": "EVENT_SOURCE_UNREADABLE", "text": "bad CRC", "hint": ""},
            }
        ],
    }


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/mappings"])
async def test_head_is_get_without_a_body(world: World, path: str) -> None:
    async with serving(world) as address, request(f"{address}{path}", "HEAD") as response:
        assert response.status == 200
        assert int(response.headers["Content-Length"]) > 0
        assert await response.read() == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_only_reading_is_answered(world: World, method: str) -> None:
    async with serving(world) as address, request(f"{address}/mappings", method, data=b"x" * 1000) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"
        assert await response.text() == "only GET and HEAD are answered\n"


@pytest.mark.parametrize("path", ["/", "/metrics/", "/nothing", "/metrics/../healthz2", "/%00", "/admin?x=1"])
async def test_unknown_paths_are_not_found(world: World, path: str) -> None:
    async with serving(world) as address:
        answer = await send_raw(address, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"not found; there are /metrics, /healthz, /readyz, /mappings\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nbroken header\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    ],
)
async def test_no_response_tells_what_the_server_is_made_of(world: World, data: bytes, status: bytes) -> None:
    async with serving(world) as address:
        answer = await send_raw(address, data)
    assert answer.split(b" ", 2)[1] == status
    assert b"Server: stream-runner\r\n" in answer
    assert b"aiohttp" not in answer.lower()
    assert b"python" not in answer.lower()


async def test_a_failure_of_ours_is_reported_without_its_text(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> HealthReport:
        raise RuntimeError("private detail")

    server = AdminServer("127.0.0.1", 0, telemetry=world.telemetry, snapshots=list, health=broken, ready=HealthReport)
    await server.start()
    try:
        async with request(f"http://{server.address}/healthz") as response:
            assert response.status == 500
            assert await response.text() == "internal server error\n"
            assert response.headers["Server"] == "stream-runner"
        async with request(f"http://{server.address}/readyz") as response:
            assert response.status == 200
    finally:
        await server.stop()
    assert "private detail" in caplog.text


async def test_an_address_in_use_is_reported_with_what_to_do(world: World) -> None:
    async with serving(world) as address:
        taken = address.removeprefix("http://")
        second = world.server(port=int(taken.rsplit(":", 1)[1]))
        with pytest.raises(AdminUnavailable, match=r"admin\.listen") as caught:
            await second.start()
        assert taken in str(caught.value)
        await second.stop()


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 9464), ("no-such-host.invalid", 9464), ("127.0.0.1", 70_000)])
async def test_an_address_that_cannot_be_had_is_reported(world: World, host: str, port: int) -> None:
    with pytest.raises(AdminUnavailable, match=f"cannot listen on {host}:{port}: "):
        await world.server(host, port).start()


async def test_stop_closes_idle_connections_at_once_and_frees_the_port(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.admin.server.SHUTDOWN_TIMEOUT", 5 * READ_LIMIT)
    server = world.server()
    await server.start()
    port = int(server.address.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"}\n")
    began = time.monotonic()
    await server.stop()
    await server.stop()
    assert time.monotonic() - began < READ_LIMIT
    assert await asyncio.wait_for(reader.read(), READ_LIMIT) == b""
    writer.close()
    await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_server_may_start_again(world: World) -> None:
    server = world.server()
    for _ in range(2):
        await server.start()
        async with request(f"http://{server.address}/healthz") as response:
            assert response.status == 200
        await server.stop()
    assert server.address == "127.0.0.1:0"


async def test_ipv6_addresses_are_written_in_brackets(world: World) -> None:
    assert world.server("::1", 9464).address == "[::1]:9464"
