"""Own faults: what is told of them, and how often, by a turned clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from livekit_pool import observe
from livekit_pool.driver.clock import JUMP, Jumps, StoreClock
from livekit_pool.driver.own_faults import QUIET, OwnFaults
from livekit_pool.stores.base import Loaded


class Scene:
    """Own faults at a time that the test says, and what was told."""

    def __init__(self, log: pytest.LogCaptureFixture) -> None:
        self.now = 0.0
        self.failing: tuple[str, ...] = ()
        self.faults = OwnFaults(lambda: self.failing, clock=lambda: self.now)
        self._log = log

    def told(self) -> list[tuple[str, Mapping[str, Any]]]:
        found = [(each.message, each.__dict__["fields"]) for each in self._log.records]
        self._log.clear()
        return found


@pytest.fixture
def scene(caplog: pytest.LogCaptureFixture) -> Scene:
    return Scene(caplog)


def test_each_kind_is_told_when_it_begins_and_again_after_a_quiet_time(scene: Scene) -> None:
    for _ in range(5):
        scene.now += QUIET / 2
        scene.faults.seen("the event loop stood still", server="red")
    scene.faults.seen("no sockets", server="green")
    assert scene.told() == [
        (observe.OWN_FAULT, {"what": "the event loop stood still", "server": "red"}),
        (observe.OWN_FAULT, {"what": "no sockets", "server": "green"}),
    ]
    scene.now += QUIET + 1
    scene.faults.seen("the event loop stood still", server="red")
    assert len(scene.told()) == 1


def test_names_are_told_when_they_fail_and_when_they_are_back(scene: Scene) -> None:
    scene.faults.look()
    assert scene.told() == []
    scene.failing = ("a.example", "b.example")
    for _ in range(3):
        scene.faults.look()
    assert scene.told() == [(observe.NAMES_FAIL, {"names": "a.example, b.example"})]
    scene.failing = ()
    scene.now += 1
    scene.faults.look()
    assert scene.told() == [], "a resolver that is only slow comes and goes"
    scene.now += QUIET
    scene.faults.look()
    assert scene.told() == [(observe.NAMES_BACK, {})]


@pytest.mark.parametrize("by", [-7200.0, 7200.0, 2 * JUMP])
def test_a_clock_that_was_set_is_seen_once(by: float) -> None:
    monotonic, ahead = 0.0, 0.0
    jumps = Jumps(wall=lambda: 1e9 + monotonic + ahead, monotonic=lambda: monotonic)
    for _ in range(1000):  # it runs a little fast
        monotonic += 1.0
        ahead += 0.01
        assert jumps.look() == 0.0
    ahead += by
    assert jumps.look() == pytest.approx(by)
    assert jumps.look() == 0.0


def test_the_store_s_clock_is_followed_on_and_never_back() -> None:
    clock = StoreClock()

    def told(now: float) -> float:
        return clock.sync(Loaded(document=None, now=now))

    assert told(1e9) == 0.0, "nobody knew it before"
    assert told(1e9 + JUMP / 2) == 0.0, "the way of an answer"
    assert told(1e9 + 7200) == pytest.approx(7200, abs=2)
    assert clock.now() == pytest.approx(1e9 + 7200, abs=2)
    assert told(1e9) == 0.0
    assert clock.now() == pytest.approx(1e9 + 7200, abs=2)
