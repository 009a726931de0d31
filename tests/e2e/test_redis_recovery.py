"""Whatever happens to a Redis server or its readers under load: soon all is as before, at the cost stated here."""

from __future__ import annotations

import enum
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from e2e_support import redis_faults
from e2e_support.redis_faults import Aof, Fault, Harm
from e2e_support.redis_group import Delivery, StreamGroup
from e2e_support.redis_recovery import RECOVERY_SECONDS, Origins, RecoveryRig
from e2e_support.scale import FULL, MINUTE, scaled
from kafka_harness import oracle, producing
from kafka_harness.behaviour import Behaviour
from kafka_harness.component import ComponentMissing
from kafka_harness.function_process import FunctionProcess
from kafka_harness.journal import Call, entry_id
from kafka_harness.runner_process import RunnerProcess
from kafka_harness.waiting import until
from redis_harness.client import connect
from redis_harness.fixtures import NewRedis
from redis_harness.flavour import Flavour
from redis_harness.options import RedisOptions

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(10 * MINUTE if FULL else MINUTE)]

DELIVERIES: Final[tuple[Delivery, ...]] = ("ordered", "shared")
EPISODES: Final = scaled(1, 3)


class Lost(enum.Enum):
    """What is never handled, of all that the server had accepted."""

    NOTHING = enum.auto()
    UNDELIVERED = enum.auto()  # exactly what was in the streams that went and had not been handled
    UNSYNCED = enum.auto()  # at most what was accepted right before


class Repeated(enum.Enum):
    """What is handled again, at most."""

    NOTHING = enum.auto()
    BEYOND_CHECKPOINT = enum.auto()  # of the stream whose group went, from the checkpoint on
    UNACKNOWLEDGED = enum.auto()  # what was handled, and not acknowledged by then
    UNSYNCED = enum.auto()  # and what was handled, and acknowledged, right before


@dataclass(frozen=True)
class Case:
    name: str
    fault: Fault
    lost: Lost
    repeated: Repeated
    aof: Aof | None = None


CASES: Final = [
    Case("flushall", redis_faults.flush_all, Lost.UNDELIVERED, Repeated.NOTHING),
    Case("del", redis_faults.delete_streams, Lost.UNDELIVERED, Repeated.NOTHING),
    Case("xgroup-destroy", redis_faults.destroy_groups, Lost.NOTHING, Repeated.BEYOND_CHECKPOINT),
    Case("script-flush", redis_faults.flush_scripts, Lost.NOTHING, Repeated.NOTHING),
    Case("maxmemory", redis_faults.fill_memory, Lost.NOTHING, Repeated.NOTHING),
    Case("client-kill", redis_faults.kill_clients, Lost.NOTHING, Repeated.NOTHING),
    Case("stop-of-one", redis_faults.stop_runners(1), Lost.NOTHING, Repeated.NOTHING),
    Case("stop-of-all", redis_faults.stop_runners(2), Lost.NOTHING, Repeated.NOTHING),
    Case("restart", redis_faults.restart, Lost.UNDELIVERED, Repeated.NOTHING),
    Case("kill", redis_faults.kill, Lost.UNDELIVERED, Repeated.NOTHING),
    Case("restart-aof-always", redis_faults.restart, Lost.NOTHING, Repeated.UNACKNOWLEDGED, "always"),
    Case("kill-aof-always", redis_faults.kill, Lost.NOTHING, Repeated.UNACKNOWLEDGED, "always"),
    Case("restart-aof-everysec", redis_faults.restart, Lost.NOTHING, Repeated.UNACKNOWLEDGED, "everysec"),
    Case("kill-aof-everysec", redis_faults.kill, Lost.UNSYNCED, Repeated.UNSYNCED, "everysec"),
]


class Rigs:
    """One rig at a time: starting one takes longer than a fault and its recovery."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._flavour: Flavour | None = None
        self._rig: RecoveryRig | None = None

    async def of(self, flavour: Flavour) -> RecoveryRig:
        """Raises ComponentMissing."""
        if self._rig is None or self._flavour is not flavour:
            self.end()
            self._flavour, self._rig = flavour, RecoveryRig(flavour, DELIVERIES, self._directory)
            try:
                await self._rig.start()
            except BaseException:
                self.end()
                raise
        return self._rig

    def end(self) -> None:
        """The next test gets a new one."""
        rig, self._rig = self._rig, None
        if rig is not None:
            rig.stop()


@pytest.fixture(scope="module")
def rigs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rigs]:
    rigs = Rigs(tmp_path_factory.mktemp("recovery"))
    yield rigs
    rigs.end()


@pytest.fixture
async def rig(
    request: pytest.FixtureRequest, rigs: Rigs, failed: Callable[[], bool], component_missing: Callable[[str], None]
) -> AsyncIterator[RecoveryRig]:
    try:
        rig = await rigs.of(request.param)
    except ComponentMissing as missing:
        component_missing(str(missing))
        raise
    yield rig
    if failed():
        print(rig.output())
        rigs.end()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("rig", list(Flavour), indirect=True)
async def test_all_is_as_before(rig: RecoveryRig, case: Case) -> None:
    await redis_faults.persist(rig, case.aof)
    for _ in range(EPISODES):
        await survive(rig, case)


async def survive(rig: RecoveryRig, case: Case) -> None:
    async with rig.episode() as producer:
        harm = await case.fault(rig, producer)
        await rig.until_flowing(producer, since=harm.healed_at, timeout=left(harm))
        flowing_at = time.monotonic()
    placed = producer.placed()
    may_be_lost, may_repeat = bounds(case, harm)
    await rig.until_as_before({each.origin for each in placed} - may_be_lost, timeout=left(harm))
    recovered_at = time.monotonic()

    calls = rig.calls()
    lost = {each.origin for each in placed} - rig.handled()
    if case.lost is Lost.UNDELIVERED:
        assert lost >= may_be_lost, "not lost: " + told(may_be_lost - lost, calls, harm)
        assert lost, "nothing was at stake"
    oracle.assert_calls_understood(calls)
    oracle.assert_nothing_lost([each for each in placed if each.origin not in lost & may_be_lost], calls)
    repeated = set(oracle.duplicates(calls))
    assert repeated <= may_repeat, "handled again: " + told(repeated - may_repeat, calls, harm)
    rig.assert_order(calls)
    print(
        f"{rig.server.flavour} {case.name}: {len(placed)} entries, {len(lost)} lost, {len(repeated)} repeated, "
        f"flowing after {flowing_at - harm.healed_at:.2f} s, as before after {recovered_at - harm.healed_at:.2f} s"
    )


def told(origins: Origins, calls: Sequence[Call], harm: Harm) -> str:
    """The calls with the first of some entries, in seconds from when the cause was gone."""
    partition, offset = min(origins)
    lines = [
        f"{call.start_ns / 1e9 - harm.healed_at:+.3f} to {call.end_ns / 1e9 - harm.healed_at:+.3f}: {call.status} "
        f"{call.ending}, generation {call.generation}, {len(call.offsets)} from {entry_id(call.offsets[0])}"
        for call in calls
        if call.partition == partition and offset in call.offsets
    ]
    return "\n".join([f"{len(origins)} entries, the first {entry_id(offset)} of {partition}:", *lines])


def left(harm: Harm) -> float:
    """Seconds until all must be as before."""
    return harm.healed_at + RECOVERY_SECONDS - time.monotonic()


def bounds(case: Case, harm: Harm) -> tuple[Origins, Origins]:
    """What may be lost, and what may be handled more than once."""
    may_be_lost = {Lost.NOTHING: set(), Lost.UNDELIVERED: harm.undelivered, Lost.UNSYNCED: harm.unsynced}[case.lost]
    may_repeat = {
        Repeated.NOTHING: set(),
        Repeated.BEYOND_CHECKPOINT: harm.beyond_checkpoint,
        Repeated.UNACKNOWLEDGED: harm.unacknowledged,
        Repeated.UNSYNCED: harm.unacknowledged | harm.unsynced,
    }[case.repeated]
    return may_be_lost, may_repeat


async def test_a_server_that_restarts_right_after_the_first_lease_is_another(
    new_redis: NewRedis, function: FunctionProcess, new_runner: Callable[..., RunnerProcess]
) -> None:
    server = new_redis(options=RedisOptions(aof="always"))
    # A heartbeat is long: there was none before the restart.
    group = StreamGroup("early", lease=10.0, heartbeat=2.0, number=1)
    await function.start(Behaviour(hang=True, fenced=True))
    async with connect(server.url) as client:
        await group.add(client, group.streams[0], producing.numbered(1, keys=1))
    await new_runner(group.configuration(server.url, function, ordering="partition")).start()
    await function.until_held(1)
    await server.shut_down()
    await server.restart()
    restarted_at = time.monotonic()

    def given_up() -> bool:
        return any(call.ending == "abandoned" for call in function.calls())

    await until(given_up, what="what was begun before is given up", timeout=2 * group.heartbeat)
    await function.behave(Behaviour(fenced=True))
    async with connect(server.url) as client:
        await group.until_settled(client, function, timeout=restarted_at + RECOVERY_SECONDS - time.monotonic())
        await group.assert_promises(client, function.calls(), by="partition")
