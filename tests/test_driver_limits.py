"""Allowances and doubts: how often somebody may ask, and whose word costs no more for a while."""

from __future__ import annotations

import pytest

from livekit_pool.driver.allowance import Allowance
from livekit_pool.driver.doubts import Doubts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# ---- allowances -------------------------------------------------------------------------------


def test_six_at_once_then_one_every_ten_seconds() -> None:
    clock = Clock()
    allowance = Allowance(6, clock=clock)
    assert [allowance.take("a") for _ in range(6)] == [0.0] * 6
    assert allowance.take("a") == pytest.approx(10.0)
    assert allowance.take("b") == 0.0
    clock.now += 9.9
    assert allowance.take("a") == pytest.approx(0.1)  # having asked costs nothing
    clock.now += 0.1
    assert allowance.take("a") == 0.0
    assert allowance.take("a") == pytest.approx(10.0)


def test_who_asks_each_second_for_an_hour_gets_what_an_hour_brings() -> None:
    clock = Clock()
    allowance = Allowance(6, clock=clock)
    allowed = 0
    for _ in range(3600):
        allowed += allowance.take("a") == 0.0
        clock.now += 1.0
    assert allowed == 6 + 6 * 60 - 1


def test_an_allowance_keeps_no_more_than_ten_thousand_names() -> None:
    clock = Clock()
    allowance = Allowance(1, clock=clock)
    for number in range(10_001):
        assert allowance.take(str(number)) == 0.0
    assert allowance.take("10000") > 0  # the newest is known
    assert allowance.take("0") == 0.0  # the oldest is not


# ---- doubts -----------------------------------------------------------------------------------


def test_each_further_doubt_doubles_the_pause() -> None:
    doubts, now, pauses = Doubts(first=5.0, longest=300.0), 0.0, []
    for _ in range(9):
        doubts.add("a", now)
        since = now
        while doubts.doubtful("a", now):
            now += 1.0
        pauses.append(now - since)
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert not doubts.doubtful("b", now)


def test_a_name_left_alone_is_as_good_as_new() -> None:
    doubts = Doubts(first=5.0, longest=60.0)
    doubts.add("a", 0.0)
    doubts.add("a", 5.0 + 60.0)  # not yet: its pause is the second
    assert doubts.doubtful("a", 65.0 + 9.9)
    doubts.add("a", 75.0 + 60.1)
    assert doubts.doubtful("a", 135.1 + 4.9)
    assert not doubts.doubtful("a", 135.1 + 5.0)


def test_a_forgotten_doubt_is_none() -> None:
    doubts = Doubts(first=5.0, longest=60.0)
    doubts.add("a", 0.0)
    doubts.forget("a")
    assert not doubts.doubtful("a", 0.0)


def test_several_voices_shorten_a_pause() -> None:
    doubts = Doubts(first=60.0, longest=60.0)
    doubts.add("a", 0.0)
    assert doubts.doubtful("a", 59.9)
    assert doubts.doubtful("a", 19.9, voices=3)
    assert not doubts.doubtful("a", 20.0, voices=3)


def test_no_more_than_ten_thousand_doubts_are_kept() -> None:
    doubts = Doubts(first=5.0, longest=60.0)
    for number in range(10_001):
        doubts.add(str(number), 0.0)
    assert not doubts.doubtful("0", 1.0)
    assert doubts.doubtful("1", 1.0)
