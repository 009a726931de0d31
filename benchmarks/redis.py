"""Compares the Redis source with the bare client in interleaved pairs, and fails when a bound is broken."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from benchmarks.redis_contenders import Contenders, Cost
from benchmarks.redis_store import Store
from redis_harness.flavour import Flavour
from redis_harness.server import RedisServer

CLIENT_RATIO = 1.5
"""CPU a record of the client's process over that of the bare loop, by the median of the pairs, at most."""
SERVER_RATIO = 2.5
"""The same of the server."""
HANDOVER_MS = 5.0
"""From the return of XADD to the function, by the median, at most."""
_SIZES = (100, 1024)
_TRICKLE_STREAMS = 8
_TRICKLE_PAUSE = 0.02
_IDLE_STREAMS = 200


@click.command()
@click.option("--records", default=120_000, show_default=True, help="of each size, in one stream")
@click.option("--pairs", default=9, show_default=True)
@click.option("--trickle", default=500, show_default=True, help="single entries")
@click.option("--idle-seconds", default=30.0, show_default=True)
def main(records: int, pairs: int, trickle: int, idle_seconds: float) -> None:
    """CPU a record against the bare client, of both processes and for entries of 100 B and 1 KiB; how soon single
    entries are handed over; what idling takes. Exits with 1, and says why, when a bound is broken."""
    broken: list[str] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        RedisServer(Flavour.VALKEY) as server,
        closing(Store(server.url)) as store,
    ):
        contenders = Contenders(store, Path(directory))
        for size in _SIZES:
            stream = f"entries-{size}"
            store.fill(stream, records, size)
            for delivery in ("ordered", "shared"):
                broken += _compare(contenders, stream, f"{size} B, {delivery}", records, pairs, delivery)
            store.remove(stream)
        broken += _trickle(contenders, trickle)
        _idle(contenders, idle_seconds)
    for line in broken:
        click.echo(f"bound broken: {line}", err=True)
    sys.exit(1 if broken else 0)


def _compare(contenders: Contenders, stream: str, what: str, records: int, pairs: int, delivery: str) -> list[str]:
    """The bounds that are broken."""
    bare: list[Cost] = []
    ours: list[Cost] = []
    for number in range(pairs):
        bare.append(contenders.bare(stream, records, f"bare-{delivery}-{stream}-{number}"))
        ours.append(contenders.ours(stream, records, f"{delivery}-{stream}-{number}", delivery))
    again = contenders.bare(stream, records, f"bare-{delivery}-{stream}-again")
    click.echo(
        f"{what}, in-process no-op, payload records: "
        f"ours {statistics.median(each.client.rate for each in ours):,.0f} records/s, "
        f"bare {statistics.median(each.client.rate for each in bare):,.0f}"
    )
    figures: dict[str, tuple[Callable[[Cost], float], float]] = {
        "client": (lambda cost: cost.client.cpu_us, CLIENT_RATIO),
        "server": (lambda cost: cost.server_cpu_us, SERVER_RATIO),
    }
    broken: list[str] = []
    for side, (cpu_us, bound) in figures.items():
        mine, theirs = [cpu_us(each) for each in ours], [cpu_us(each) for each in bare]
        ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
        ratio = statistics.median(ratios)
        click.echo(
            f"  {side}: {ratio:.2f} x the CPU of the bare loop {_range(ratios)}; "
            f"ours {statistics.median(mine):.2f} us, bare {statistics.median(theirs):.2f} us a record "
            f"(bare against itself: {cpu_us(again) / theirs[-1]:.2f})"
        )
        if ratio > bound:
            broken.append(f"{what}, {side}: {ratio:.2f} x the CPU of the bare loop, more than {bound:g}")
    return broken


def _range(ratios: Sequence[float]) -> str:
    return f"[{min(ratios):.2f}..{max(ratios):.2f}]"


def _trickle(contenders: Contenders, entries: int) -> list[str]:
    """The bounds that are broken."""
    streams = [f"trickle.{number}" for number in range(_TRICKLE_STREAMS)]
    handover = contenders.handover(streams, "trickle", entries, _TRICKLE_PAUSE)
    click.echo(
        f"single entries over {len(streams)} streams, no batching window: with the function after "
        f"{handover.median_ms:.2f} ms by the median, p99 {handover.p99_ms:.2f} ms"
    )
    if handover.median_ms <= HANDOVER_MS:
        return []
    return [f"single entries: with the function after {handover.median_ms:.2f} ms, more than {HANDOVER_MS:g}"]


def _idle(contenders: Contenders, seconds: float) -> None:
    share = contenders.idle([f"idle.{number}" for number in range(_IDLE_STREAMS)], "idle", seconds)
    click.echo(
        f"idle with {_IDLE_STREAMS} streams: {share.client:.2%} of a core, {share.server:.2%} the server's beside it"
    )


if __name__ == "__main__":
    main()
