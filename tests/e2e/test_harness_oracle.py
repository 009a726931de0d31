"""The harness' oracle: each promise is shown broken and kept, so that a green run means something."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from kafka_harness import oracle
from kafka_harness.commit_watch import CommitWatch, Observation
from kafka_harness.journal import Call, key_id
from kafka_harness.producing import Placed
from kafka_harness.scrape import Scrape
from kafka_harness.topics import Consumed


def test_the_oracle_sees_what_is_lost_and_what_was_never_there() -> None:
    produced = [Placed("orders", 0, offset, b"k", b"v") for offset in range(4)]
    calls = [_call("orders", offsets=[0, 1], failed=[1]), _call("orders", offsets=[2, 3], status=500)]
    letters = [_letter("orders", 0, 1)]
    with pytest.raises(AssertionError, match=r"2 of 4 records were lost: \('orders-0', 2\)"):
        oracle.assert_nothing_lost(produced, calls, letters)
    oracle.assert_nothing_lost(produced, calls, letters, filtered=[("orders-0", 2), ("orders-0", 3)])
    with pytest.raises(AssertionError, match="never produced"):
        oracle.assert_nothing_lost(produced[:1], calls, letters)
    oracle.assert_dead_letters_unchanged(produced, letters)
    with pytest.raises(AssertionError, match="1 dead letters differ"):
        oracle.assert_dead_letters_unchanged(produced, [letters[0]._replace(value=b"other")])


def test_the_oracle_sees_disorder_overlap_and_duplicates() -> None:
    early, late = _call("orders", offsets=[0], start_ns=5, end_ns=9), _call("orders", offsets=[1], start_ns=1, end_ns=4)
    with pytest.raises(AssertionError, match="orders-0@0 after 1"):
        oracle.assert_ordered([early, late], by="key")
    oracle.assert_ordered([early, _call("orders", offsets=[1], key=b"other", start_ns=1, end_ns=4)], by="key")
    oracle.assert_no_overlap([early, late], by="key")
    with pytest.raises(AssertionError, match="1 calls overlapped by partition"):
        oracle.assert_no_overlap([early, _call("orders", offsets=[1], key=b"x", start_ns=8, end_ns=12)], by="partition")
    assert oracle.duplicates([early, early, late]) == {("orders-0", 0): 1}


@pytest.mark.parametrize("set_ahead_ms", [0, 700])
def test_the_oracle_judges_checkpoints_though_the_time_of_day_is_set(set_ahead_ms: int) -> None:
    produced = [Placed("orders", 0, offset, b"k", b"v") for offset in range(3)]
    watch = CommitWatch("nobody:1", "orders")
    early, late = _letter("orders", 0, 0, stored_ms=5_050), _letter("orders", 0, 1, stored_ms=5_150 + set_ahead_ms)
    watch.observations += [_look(1_100, 5_100, 1), _look(1_200, 5_200 + set_ahead_ms, 2)]
    watch.assert_safe(produced, [], [early, late])
    watch.observations.insert(1, _look(1_140, 5_140 + set_ahead_ms, 2))
    with pytest.raises(AssertionError, match="1 checkpoints were too far: orders-0: 2 committed, 1 not settled"):
        watch.assert_safe(produced, [], [early, late])


def test_a_scrape_is_looked_up_by_name_and_labels() -> None:
    scrape = Scrape('# TYPE lag gauge\nlag{mapping="a",partition="0"} 2\nlag{mapping="a",partition="1"} 3\n')
    assert scrape.value("lag", mapping="a") == 5
    assert scrape.value("lag", partition="1") == 3
    with pytest.raises(LookupError, match="no sample lag"):
        scrape.value("lag", mapping="b")


def _call(
    topic: str,
    *,
    offsets: Sequence[int],
    key: bytes = b"k",
    start_ns: int = 1,
    end_ns: int = 2,
    status: int = 200,
    failed: Sequence[int] = (),
) -> Call:
    return Call(
        start_ns=start_ns,
        end_ns=end_ns,
        mapping="mapping",
        partition=f"{topic}-0",
        offsets=list(offsets),
        keys=[key_id(key)] * len(offsets),
        attempt=1,
        idempotency_key="identity",
        status=status,
        failed=list(failed),
    )


def _look(monotonic_ms: int, epoch_ms: int, checkpoint: int) -> Observation:
    return Observation(monotonic_ms * 1_000_000, epoch_ms * 1_000_000, {"orders-0": checkpoint})


def _letter(topic: str, partition: int, offset: int, *, stored_ms: int = 0) -> Consumed:
    headers = (
        ("kafka_dlt-original-topic", topic.encode()),
        ("kafka_dlt-original-partition", struct.pack(">i", partition)),
        ("kafka_dlt-original-offset", struct.pack(">q", offset)),
    )
    return Consumed("letters", 0, 0, b"k", b"v", headers, stored_ms, True)
