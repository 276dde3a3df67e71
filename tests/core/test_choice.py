"""Policies: filter, then rank."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.choice import (
    Candidate,
    Choice,
    first_available,
    in_turn,
    last_resort,
    next_available,
    next_or_last,
)
from livekit_pool.core.health import Health

GOOD = Candidate(
    name="good",
    health=Health.UP,
    seen=True,
    passed=True,
    misconfigured=False,
    drained=False,
    shared=True,
    cooling_until=None,
    forgivable=False,
)
COOLING = replace(GOOD, name="cooling", cooling_until=20.0, forgivable=True)
UNSEEN = replace(GOOD, name="unseen", health=Health.UNKNOWN, seen=False, passed=False)
DEAD = replace(GOOD, name="dead", health=Health.DOWN, passed=False)
BLINKING = replace(GOOD, name="blinking", passed=False)


def test_the_order_is_the_lists_after_the_active_one_wrapping() -> None:
    assert in_turn(("a", "b", "c"), "b") == ("c", "a")
    assert in_turn(("a", "b", "c"), "c") == ("a", "b")
    assert in_turn(("a",), "a") == ()


def test_the_order_begins_with_the_first_after_a_server_that_is_gone() -> None:
    assert in_turn(("a", "b"), "gone") == ("a", "b")


@pytest.mark.parametrize(
    "worse",
    [
        DEAD,
        COOLING,
        BLINKING,
        replace(GOOD, drained=True),
        replace(GOOD, misconfigured=True),
        replace(GOOD, shared=False),
        replace(GOOD, limited=True),
        replace(GOOD, health=Health.UNKNOWN),
    ],
)
@pytest.mark.parametrize("policy", [next_available, first_available, last_resort])
def test_what_is_not_choosable_is_skipped(worse: Candidate, policy: type) -> None:
    second = replace(GOOD, name="second")
    assert policy([replace(worse, name="first"), second, replace(GOOD, name="third")]) == Choice(
        server="second"
    )


def test_available_is_healthy_not_cooling_not_drained() -> None:
    assert GOOD.available
    assert BLINKING.available
    for worse in (DEAD, COOLING, replace(GOOD, drained=True), replace(GOOD, misconfigured=True)):
        assert not worse.available


def test_unseen_servers_are_probed_first_when_none_is_choosable() -> None:
    drained = replace(UNSEEN, name="x", drained=True)
    cooling = replace(UNSEEN, name="y", cooling_until=5.0)
    private = replace(UNSEEN, name="z", shared=False)
    assert next_available([DEAD, UNSEEN, drained, cooling, private]) == Choice(probe=("unseen",))
    assert last_resort([COOLING, UNSEEN]) == Choice(probe=("unseen",))


def test_there_may_be_nothing() -> None:
    assert next_available([]) == Choice()
    assert next_available([DEAD, COOLING]) == Choice()
    assert last_resort([]) == Choice()
    assert last_resort([DEAD]) == Choice()


def test_the_last_resort_is_the_cool_down_that_ends_first() -> None:
    later = replace(COOLING, name="later", cooling_until=30.0)
    sooner = replace(COOLING, name="sooner", cooling_until=10.0)
    assert last_resort([later, sooner, COOLING]) == Choice(server="sooner")


def test_only_who_is_in_cool_down_rests() -> None:
    assert COOLING.resting
    assert not replace(COOLING, cooling_until=None).resting


def test_the_last_resort_waits_for_an_available_server_that_missed_one_probe() -> None:
    assert last_resort([COOLING, BLINKING]) == Choice()
    assert last_resort([COOLING, replace(BLINKING, shared=False)]).server == "cooling"


@pytest.mark.parametrize(
    "worse",
    [
        replace(COOLING, forgivable=False),
        replace(COOLING, health=Health.DOWN),
        replace(COOLING, passed=False),
        replace(COOLING, drained=True),
        replace(COOLING, misconfigured=True),
        replace(COOLING, shared=False),
    ],
)
def test_the_last_resort_is_no_worse_than_cooling(worse: Candidate) -> None:
    assert last_resort([worse]) == Choice()


def test_obstacles_are_what_force_overrides() -> None:
    assert GOOD.obstacle is None
    assert COOLING.obstacle is None
    assert UNSEEN.obstacle is None
    assert DEAD.obstacle == "down"
    assert replace(DEAD, drained=True).obstacle == "drained"
    assert str(replace(GOOD, misconfigured=True).obstacle).startswith("misconfigured")
    assert str(replace(GOOD, shared=False).obstacle).startswith("not in the list")


def test_a_resting_server_that_was_seen_up_only_before_it_was_left_is_probed_first() -> None:
    """All servers die at once: what another process saw of them before must not go round."""
    resting = replace(GOOD, cooling_until=10.0, forgivable=True, proven=False)

    assert last_resort([resting]) == Choice(probe=(resting.name,))
    assert last_resort([replace(resting, proven=True)]) == Choice(server=resting.name)


RETURNING = replace(GOOD, name="returning", returning=True)


def test_who_can_wait_waits_for_those_in_turn_of_whom_nobody_knows() -> None:
    """A process that has just begun must not skip a server because it has not looked yet."""
    assert next_available([UNSEEN, GOOD]) == Choice(probe=("unseen",))
    assert next_available([GOOD, UNSEEN]) == Choice(server="good")


@pytest.mark.parametrize("policy", [first_available, last_resort])
def test_who_cannot_wait_takes_the_first_that_is_choosable_now(policy: type) -> None:
    assert policy([UNSEEN, RETURNING, GOOD]) == Choice(server="good")
    assert policy([UNSEEN]) == Choice(probe=("unseen",))


@pytest.mark.parametrize("policy", [next_available, first_available])
def test_a_server_comes_back_from_a_refusal_by_a_signed_probe(policy: type) -> None:
    assert policy([RETURNING]) == Choice(signed=("returning",))
    assert policy([replace(RETURNING, returning=False)]) == Choice(server="returning")
    assert next_available([RETURNING, GOOD]) == Choice(signed=("returning",))
    for hopeless in (
        replace(RETURNING, cooling_until=5.0),
        replace(RETURNING, limited=True),
        replace(RETURNING, drained=True),
        replace(RETURNING, passed=False),
        replace(RETURNING, shared=False),
    ):
        assert policy([hopeless]) == Choice()


ASKED = replace(RETURNING, name="asked", asked=True)
STRAINED = replace(GOOD, name="strained", cooling_until=50.0, strained=True)


@pytest.mark.parametrize("policy", [next_available, first_available])
def test_nobody_waits_for_a_signed_probe_that_was_in_vain(policy: type) -> None:
    assert policy([ASKED]) == Choice()
    assert policy([ASKED, GOOD]) == Choice(server="good")


def test_the_last_of_all_is_one_that_answers_and_may_still_refuse() -> None:
    assert last_resort([STRAINED]) == Choice(server="strained")
    assert last_resort([ASKED]) == Choice(server="asked")
    assert last_resort([STRAINED, COOLING]) == Choice(server="cooling")
    assert last_resort([RETURNING, STRAINED]) == Choice(signed=("returning",))
    assert last_resort([replace(STRAINED, proven=False)]) == Choice(probe=("strained",))
    for worse in (
        replace(STRAINED, strained=False),  # exhausted, or it refuses our key
        replace(STRAINED, passed=False),
        replace(STRAINED, drained=True),
        replace(STRAINED, over=True),
        replace(ASKED, misconfigured=True),
    ):
        assert last_resort([worse]) == Choice()


def test_who_answers_and_serves_nobody_is_left_in_turn_and_else_for_the_last() -> None:
    assert next_or_last([UNSEEN, GOOD]) == Choice(probe=("unseen",))
    assert next_or_last([RETURNING, GOOD]) == Choice(signed=("returning",))
    assert next_or_last([DEAD, GOOD]) == Choice(server="good")
    assert next_or_last([DEAD, COOLING]) == Choice(server="cooling")


def test_while_there_is_no_other_one_whose_calls_are_limited_is_asked_again() -> None:
    limited = replace(GOOD, name="limited", limited=True)
    assert last_resort([limited]) == Choice(signed=("limited",))
    assert last_resort([replace(limited, drained=True)]) == Choice()
    assert next_available([limited]) == Choice()
