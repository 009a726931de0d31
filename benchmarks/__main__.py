"""Runs the contenders in interleaved pairs, prints the ratios, and fails when a bound is broken."""

from __future__ import annotations

import asyncio
import pstats
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import bounds, contenders  # noqa: E402
from benchmarks.contenders import Measured, Task  # noqa: E402
from kafka_harness import placement, producing, topics  # noqa: E402
from kafka_harness.behaviour import Behaviour  # noqa: E402
from kafka_harness.broker import Broker  # noqa: E402
from kafka_harness.function_process import FunctionProcess  # noqa: E402


@click.command()
@click.option("--records", default=1_000_000, show_default=True, help="in the topics of 8 partitions and of 1")
@click.option("--pairs", default=5, show_default=True)
@click.option("--idle-seconds", default=30.0, show_default=True)
def main(records: int, pairs: int, idle_seconds: float) -> None:
    """CPU a record against the bare client, at 8 partitions and at 1; further figures beside it.

    Exits with 1, and says why, when a bound is broken: the ratios' medians, and what idling takes.
    """
    ratios: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, Broker() as broker:
        for partitions in (8, 1):
            task = _fill(broker.bootstrap, partitions, records, Path(directory))
            ratios[partitions] = _compare(task, pairs)
        _post(_fill(broker.bootstrap, 8, 20_000, Path(directory)), Path(directory))
        idle = Task(broker.bootstrap, "idle", 200, 0, Path(directory))
        asyncio.run(topics.create_topic(broker.bootstrap, "idle", partitions=200))
        share = contenders.idle(idle, "idle", idle_seconds)
        click.echo(f"idle with 200 partitions: {share:.2%} of a core")
    broken = bounds.broken(ratios, share)
    for line in broken:
        click.echo(f"bound broken: {line}", err=True)
    sys.exit(1 if broken else 0)


def _fill(bootstrap: str, partitions: int, records: int, directory: Path) -> Task:
    topic = f"benchmark-{partitions}-{records}"

    async def fill() -> None:
        await topics.create_topic(bootstrap, topic, partitions=partitions)
        for start in range(0, records, 200_000):
            items = producing.numbered(min(200_000, records - start), keys=1000, start=start, padding=160)
            await producing.produce(bootstrap, topic, items, place=placement.by_murmur2(partitions))

    asyncio.run(fill())
    return Task(bootstrap, topic, partitions, records, directory)


def _compare(task: Task, pairs: int) -> list[float]:
    """The ratios of the pairs."""
    name = bounds.partitions_of(task.partitions)
    bare: list[Measured] = []
    ours: list[Measured] = []
    for number in range(pairs):
        bare.append(contenders.bare(task, f"bare-{task.partitions}-{number}"))
        ours.append(_ours(task, "records", number))
    again = contenders.bare(task, f"bare-{task.partitions}-again")
    ratios = [mine.cpu_us / theirs.cpu_us for mine, theirs in zip(ours, bare, strict=True)]
    click.echo(
        f"{name}, in-process no-op, payload records: {statistics.median(ratios):.2f} x the CPU of the bare loop "
        f"[{min(ratios):.2f}..{max(ratios):.2f}]; ours {_median(ours):.2f} us, bare {_median(bare):.2f} us a record "
        f"(bare against itself: {again.cpu_us / bare[-1].cpu_us:.2f}); "
        f"ours {statistics.median(each.rate for each in ours):,.0f} records/s"
    )
    event = _ours(task, "lambda", 0)
    click.echo(f"{name}, in-process no-op, payload lambda: {event.cpu_us:.2f} us a record, {event.rate:,.0f} records/s")
    _profile(task)
    return ratios


def _ours(task: Task, payload: str, number: int, profile: Path | None = None) -> Measured:
    group = f"ours-{task.partitions}-{payload}-{number}{'-profiled' if profile else ''}"
    measured = contenders.in_process(task, group, payload, profile=profile)

    async def verify() -> None:
        committed = await topics.committed_offsets(task.bootstrap, group)
        ends = await topics.end_offsets(task.bootstrap, task.topic)
        assert committed == ends, (committed, ends)

    asyncio.run(verify())
    return measured


def _median(measured: list[Measured]) -> float:
    return statistics.median(each.cpu_us for each in measured)


def _profile(task: Task) -> None:
    """Where the time of ours goes, by package and module; a profiler's shares, not its seconds, say something."""
    path = task.directory / f"profile-{task.partitions}"
    _ours(task, "records", 0, path)
    shares: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, _) in pstats.Stats(str(path)).stats.items():  # type: ignore[attr-defined]
        shares[_place(file)] += own
    total = sum(shares.values())
    parts = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in shares.most_common(10))
    click.echo(f"  where it goes: {parts}")


def _place(file: str) -> str:
    for root in ("runner", "aiokafka"):
        marker = f"/{root}/"
        if marker in file:
            return f"{root}/{file.rsplit(marker, 1)[1]}"
    return "built-in functions" if file.startswith(("~", "<")) else "the rest"


def _post(task: Task, directory: Path) -> None:
    async def measure() -> Measured:
        function = FunctionProcess(directory)
        await function.start(Behaviour(payload="raw"))
        try:
            return await asyncio.to_thread(contenders.one_post_a_record, task, "posts", function.url)
        finally:
            function.kill()

    measured = asyncio.run(measure())
    click.echo(
        f"one POST a record, 64 at once: {measured.cpu_us:.0f} us a record, {measured.rate:,.0f} records/s, "
        "the start of the process included"
    )


if __name__ == "__main__":
    main()
