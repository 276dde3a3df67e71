"""The machine: rotations that somebody asked for, until they are answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from livekit_pool.core.actions import Answered, Probe, Refused
from livekit_pool.core.document import Cause
from livekit_pool.core.events import Loaded, RotateAsked, SwapFailed, Tick
from livekit_pool.core.health import Settings
from livekit_pool.core.machine import PoolMachine
from tests.core.samples import (
    NAMES,
    PASSED,
    REFUSED,
    START,
    Pool,
    away,
    back,
    drained,
    moved,
    swap_of,
    swaps_of,
)


def ask(request: str = "r1", to: str | None = None, expected: int | None = None) -> RotateAsked:
    return RotateAsked(
        request=request, reason="because", actor="ann", to=to, expected_revision=expected
    )


def test_a_rotation_by_hand_is_answered_when_it_is_written() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask()))
    assert swap.rotation is not None
    assert (swap.rotation.cause, swap.rotation.to) == (Cause.MANUAL, "green")
    assert pool.won(swap)[-1] == Answered(
        request="r1", revision=2, rotation=swap.rotation, changed=True
    )


def test_a_rotation_to_the_active_server_is_answered_at_once() -> None:
    assert Pool().feed(ask(to="red")) == [
        Answered(request="r1", revision=1, rotation=None, changed=False)
    ]


def test_without_a_document_nobody_can_be_served() -> None:
    (refused,) = PoolMachine(NAMES, Settings(), "p").receive(ask(), START)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.revision) == ("store_unavailable", 0)


def test_two_who_ask_one_process_at_once_cause_one_rotation() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask("r1")))
    pool.feed(ask("r2"))
    first, second = pool.won(swap)[-2:]
    assert isinstance(first, Answered)
    assert isinstance(second, Refused)
    assert (second.request, second.code, second.revision) == ("r2", "revision_conflict", 2)


def test_two_who_ask_two_processes_at_once_cause_one_rotation() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask()))
    refused = pool.lost(swap, moved(pool.document, "green"))[-1]
    assert isinstance(refused, Refused)
    assert refused.code == "revision_conflict"


def test_a_named_rotation_that_lost_is_decided_anew() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask(to="blue")))
    again = swap_of(pool.lost(swap, moved(pool.document, "green")))
    assert (again.expected, again.document.active_server) == (2, "blue")


def test_a_named_rotation_that_somebody_else_did_is_answered() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask(to="blue")))
    assert pool.lost(swap, moved(pool.document, "blue"))[-1] == Answered(
        request="r1", revision=2, rotation=None, changed=False
    )


def test_an_expected_revision_that_lost_is_a_conflict() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask(to="blue", expected=1)))
    refused = pool.lost(swap, drained(pool.document, "green"))[-1]
    assert isinstance(refused, Refused)
    assert (refused.code, refused.revision) == ("revision_conflict", 2)


def test_an_answer_that_was_lost_shows_in_the_document() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask(expected=1)))
    pool.feed(SwapFailed(operation=swap.operation))
    after = drained(swap.document, "blue")
    assert pool.feed(Loaded(document=after))[-1] == Answered(
        request="r1", revision=2, rotation=swap.rotation, changed=True
    )


@pytest.mark.parametrize(
    "theirs",
    [
        {"active_since": 3},
        {"active_server": "blue"},
        {"last_rotation": START + 3},
        {"actor": "ben"},
        {"reason": "another"},
    ],
)
def test_what_somebody_else_did_does_not_pass_for_an_own_swap(theirs: dict[str, Any]) -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask()))
    pool.feed(SwapFailed(operation=swap.operation))
    actions = pool.feed(Loaded(document=replace(swap.document, revision=3, **theirs)))
    (refused,) = [action for action in actions if isinstance(action, Refused)]
    assert refused.code == "revision_conflict"


def test_a_swap_that_was_not_applied_is_repeated() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask(expected=1)))
    pool.feed(SwapFailed(operation=swap.operation))
    assert swap_of(pool.feed(Loaded(document=pool.document))).rotation is not None


def test_nobody_waits_for_the_store_for_ever() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask("r1")))
    pool.feed(SwapFailed(operation=swap.operation), ask("r2", to="blue"))
    assert pool.feed(Tick()) == []
    pool.now += 6
    refused = pool.feed(Tick())
    assert {(a.request, a.code) for a in refused if isinstance(a, Refused)} == {
        ("r1", "store_outcome_unknown"),
        ("r2", "store_unavailable"),
    }
    assert swaps_of(pool.feed(Loaded(document=pool.document))) == []


def test_a_swap_that_is_under_way_is_waited_for() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask()))
    pool.now += 6
    assert pool.feed(Tick()) == []
    assert isinstance(pool.won(swap)[-1], Answered)


def test_a_request_waits_for_the_probe_it_needs() -> None:
    pool = Pool(outcomes={"red": PASSED})
    assert pool.feed(ask()) == [Probe(server="green"), Probe(server="blue")]
    pool.probed("green", REFUSED)
    assert swap_of(pool.probed("blue", PASSED)).document.active_server == "blue"


def test_a_request_does_not_wait_for_a_probe_for_ever() -> None:
    pool = Pool(outcomes={"red": PASSED})
    pool.feed(ask(to="blue"))
    assert pool.feed(Tick()) == [Probe(server="blue")]
    pool.now += 6
    (refused,) = pool.feed(Tick())
    assert isinstance(refused, Refused)
    assert refused.code == "server_not_eligible"


def test_a_request_that_waits_does_not_hold_up_the_pool() -> None:
    pool = Pool(outcomes={"red": PASSED, "green": PASSED})
    pool.feed(ask(to="blue"))
    assert swap_of(pool.probed("red", REFUSED)).document.active_server == "green"


def test_a_rotation_by_hand_is_refused_in_time_while_the_store_is_away() -> None:
    pool = away()
    assert pool.feed(RotateAsked(request="r", reason="because", actor="ann")) == []
    assert pool.feed(Tick()) == []
    pool.now += pool.machine.settings.patience
    (refused,) = pool.feed(Tick())
    assert isinstance(refused, Refused)
    assert (refused.request, refused.code, refused.revision) == ("r", "store_unavailable", 1)
    assert swaps_of(back(pool)) == []


def test_a_rotation_by_hand_waits_for_a_store_that_is_soon_back() -> None:
    pool = away()
    pool.feed(RotateAsked(request="r", reason="because", actor="ann"))
    swap = swap_of(back(pool))
    assert isinstance(pool.won(swap)[-1], Answered)
