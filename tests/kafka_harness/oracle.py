"""The promises of delivery, checked against what was produced, what the function saw and what was dead-lettered."""

from __future__ import annotations

import bisect
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, TypeAlias

from kafka_harness.journal import Call
from kafka_harness.producing import Placed
from kafka_harness.topics import Consumed

Origin: TypeAlias = tuple[str, int]
"""A record: ``("topic-0", offset)``."""

Unit: TypeAlias = Literal["key", "partition"]
"""What is kept in order: the records of a key (null keys: of the partition), or all of a partition."""

_SHOWN = 5


def origin_of(letter: Consumed) -> Origin:
    """Where a dead letter came from, by the headers that Spring and others read. Raises LookupError without them."""
    topic = letter.header("kafka_dlt-original-topic") or b""
    (partition,) = struct.unpack(">i", letter.header("kafka_dlt-original-partition") or b"")
    (offset,) = struct.unpack(">q", letter.header("kafka_dlt-original-offset") or b"")
    return f"{topic.decode()}-{partition}", offset


def handled_at(calls: Iterable[Call]) -> dict[Origin, int]:
    """When each handled record was first handled (``end_ns``): answered 2xx and not named as failed."""
    first: dict[Origin, int] = {}
    for call in sorted(calls, key=lambda call: call.end_ns):
        for offset in _handled(call):
            first.setdefault((call.partition, offset), call.end_ns)
    return first


def duplicates(calls: Iterable[Call]) -> dict[Origin, int]:
    """How often a record was handled again after it had been, for those that were."""
    times: Counter[Origin] = Counter()
    for call in calls:
        times.update((call.partition, offset) for offset in _handled(call))
    return {origin: count - 1 for origin, count in times.items() if count > 1}


def assert_nothing_lost(
    produced: Iterable[Placed],
    calls: Iterable[Call],
    dead_letters: Iterable[Consumed] = (),
    *,
    filtered: Collection[Origin] = (),
    origin: Callable[[Consumed], Origin] = origin_of,
) -> None:
    """Handled, dead-lettered and filtered records together are exactly those that were produced."""
    expected = {placed.origin for placed in produced}
    settled = set(handled_at(calls)) | {origin(letter) for letter in dead_letters} | set(filtered)
    lost, invented = expected - settled, settled - expected
    assert not lost, f"{len(lost)} of {len(expected)} records were lost: {_few(sorted(lost))}"
    assert not invented, f"{len(invented)} records were never produced: {_few(sorted(invented))}"


def assert_dead_letters_unchanged(
    produced: Iterable[Placed], dead_letters: Iterable[Consumed], *, origin: Callable[[Consumed], Origin] = origin_of
) -> None:
    """Key and value of every dead letter are those of its record, byte for byte."""
    records = {placed.origin: placed for placed in produced}
    changed = []
    for letter in dead_letters:
        record = records.get(origin(letter))
        if record is None or (record.key, record.value) != (letter.key, letter.value):
            changed.append(f"{record} became {letter.key!r}: {letter.value!r}")
    assert not changed, f"{len(changed)} dead letters differ from their records: {_few(changed)}"


def assert_ordered(calls: Iterable[Call], *, by: Unit) -> None:
    """Within each key or partition, records were first handled in the order of their offsets."""
    newest: dict[object, tuple[int, Call]] = {}
    seen: set[Origin] = set()
    offenders = []
    for call in sorted(calls, key=lambda call: call.end_ns):
        failed = set(call.failed)
        for offset, unit in zip(call.offsets, _units(call, by), strict=True):
            if not call.succeeded or offset in failed or (call.partition, offset) in seen:
                continue
            seen.add((call.partition, offset))
            if unit in newest and newest[unit][0] > offset:
                later, earlier_call = newest[unit]
                offenders.append(
                    f"{call.partition}@{offset} after {later} ({_described(earlier_call)}, then {_described(call)})"
                )
            newest[unit] = max(newest.get(unit, (offset, call)), (offset, call), key=lambda entry: entry[0])
    assert not offenders, f"{len(offenders)} records were first handled out of the order by {by}: {_few(offenders)}"


def assert_no_overlap(calls: Iterable[Call], *, by: Unit) -> None:
    """No two calls with the same key, or of the same partition, were in the function at the same time."""
    busiest: dict[object, Call] = {}
    offenders = []
    for call in sorted(calls, key=lambda call: call.start_ns):
        for unit in set(_units(call, by)):
            before = busiest.get(unit)
            if before is not None and before.end_ns > call.start_ns:
                offenders.append(f"{_described(call)} began inside {_described(before)}")
            if before is None or call.end_ns > before.end_ns:
                busiest[unit] = call
    assert not offenders, f"{len(offenders)} calls overlapped by {by}: {_few(offenders)}"


def assert_calls_understood(calls: Iterable[Call]) -> None:
    """The function could read every request: none was malformed."""
    errors = [call.error for call in calls if call.error]
    assert not errors, f"{len(errors)} requests were malformed: {_few(errors)}"


class SettledTimes:
    """When each produced record was settled, so that a checkpoint can be judged as of any moment.

    Times are monotonic nanoseconds. A dead letter counts from the time at which the broker stored it, of which
    ``monotonic_of`` makes a monotonic one; its topic must be stamped by the broker.
    """

    def __init__(
        self,
        produced: Iterable[Placed],
        calls: Iterable[Call],
        dead_letters: Iterable[Consumed] = (),
        *,
        monotonic_of: Callable[[int], int] = lambda epoch_ns: epoch_ns,
        filtered: Collection[Origin] = (),
        origin: Callable[[Consumed], Origin] = origin_of,
    ) -> None:
        settled = handled_at(calls)
        for letter in dead_letters:
            if not letter.stamped_by_broker:
                raise ValueError(f"{letter.topic} must be created with topics.STAMPED_BY_BROKER for this check")
            stored_ns = monotonic_of(letter.timestamp_ms * 1_000_000)
            place = origin(letter)
            settled[place] = min(settled.get(place, stored_ns), stored_ns)
        settled.update(dict.fromkeys(filtered, 0))
        self._offsets: dict[str, list[int]] = {}
        self._all_settled_ns: dict[str, list[float]] = {}
        for place in sorted({placed.origin for placed in produced}):
            partition, offset = place
            times = self._all_settled_ns.setdefault(partition, [])
            times.append(max(settled.get(place, float("inf")), times[-1] if times else 0.0))
            self._offsets.setdefault(partition, []).append(offset)

    def unsettled_before(self, partition: str, checkpoint: int, at_ns: int) -> int | None:
        """The lowest produced offset below ``checkpoint`` that was not settled at ``at_ns``; None: all were."""
        offsets = self._offsets.get(partition, [])
        below = bisect.bisect_left(offsets, checkpoint)
        settled = bisect.bisect_right(self._all_settled_ns.get(partition, []), at_ns)
        return offsets[settled] if settled < below else None


def _handled(call: Call) -> Sequence[int]:
    if not call.succeeded:
        return ()
    if not call.failed:
        return call.offsets
    failed = set(call.failed)
    return [offset for offset in call.offsets if offset not in failed]


def _units(call: Call, by: Unit) -> Sequence[object]:
    if by == "partition":
        return [call.partition] * len(call.offsets)
    return [(call.partition, key) for key in call.keys]


def _described(call: Call) -> str:
    last = f"..{call.offsets[-1]}" if len(call.offsets) > 1 else ""
    return (
        f"{call.partition}@{call.offsets[0]}{last} x{len(call.offsets)} attempt {call.attempt} -> "
        f"{call.status or call.ending}, {call.start_ns / 1e9:.4f}..{call.end_ns / 1e9:.4f} s"
    )


def _few(offenders: Sequence[object]) -> str:
    more = f" and {len(offenders) - _SHOWN} more" if len(offenders) > _SHOWN else ""
    return "; ".join(str(offender) for offender in offenders[:_SHOWN]) + more
