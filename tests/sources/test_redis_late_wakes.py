"""Who loses the race for entries again and again sits out longer and longer, and nobody else waits."""

from __future__ import annotations

import pytest

from runner.sources.redis_late_wakes import LateWakes


def test_who_was_not_woken_in_vain_waits_for_nothing() -> None:
    wakes = LateWakes()
    assert wakes.pause() == 0.0
    wakes.note(was_woken=False)
    assert wakes.pause() == 0.0
    wakes.note(was_woken=True)
    wakes.came()
    assert wakes.pause() == 0.0


def test_who_is_too_late_again_and_again_waits_twice_as_long_each_time() -> None:
    wakes = LateWakes()
    pauses = []
    for _ in range(6):
        wakes.note(was_woken=True)
        pauses.append(wakes.pause())
    assert pauses == pytest.approx([0.0025, 0.005, 0.01, 0.02, 0.02, 0.02])
    wakes.note(was_woken=True)
    wakes.came()
    wakes.note(was_woken=True)
    assert wakes.pause() == pytest.approx(0.0025), "a success begins anew"
