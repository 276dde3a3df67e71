"""What a decision depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.document import Cause, Mark, ServerRecord
from livekit_pool.core.events import Probed
from tests.core.samples import (
    NAMES,
    PASSED,
    REFUSED,
    START,
    UNAUTHORIZED,
    book,
    document,
    situation,
)


def test_a_candidate_joins_what_is_shared_and_what_is_seen() -> None:
    shared = replace(
        document(),
        servers={
            "green": ServerRecord(cool_down_until=START + 5, cool_down_cause=Cause.DOWN),
            "blue": ServerRecord(drained=Mark(by="ann", since=START, reason="")),
        },
    )
    here = situation(
        shared, book({"green": PASSED, "blue": UNAUTHORIZED}), lists=(NAMES, ("blue",))
    )
    green, blue = here.candidates
    assert (green.name, green.cooling_until, green.forgivable) == ("green", START + 5, True)
    assert (green.passed, green.drained, green.shared) == (True, False, False)
    assert (blue.name, blue.drained, blue.misconfigured, blue.shared) == ("blue", True, True, True)


def test_a_cool_down_that_has_ended_is_none() -> None:
    shared = replace(document(), servers={"green": ServerRecord(cool_down_until=START)})
    assert situation(shared, book({}), now=START).candidate("green").cooling_until is None


def test_lists_are_one_only_if_they_were_read_and_are_alike() -> None:
    here = situation(document(), book({}))
    assert here.one_list
    assert not replace(here, lists=None).one_list
    assert not replace(here, lists=(NAMES, NAMES[:2])).one_list
    assert not replace(here, lists=(NAMES, tuple(reversed(NAMES)))).one_list
    assert replace(here, lists=(NAMES[:2],)).alone().one_list


def test_evidence_from_before_the_server_became_active_is_none() -> None:
    health = book({})
    health.probed(Probed(server="red", outcome=REFUSED, began=START), START + 1)
    here = situation(document(), health)
    assert replace(here, active_from=START).evidence() is not None
    assert replace(here, active_from=START + 0.5).evidence() is None


@pytest.mark.parametrize(
    ("participants", "window"), [(0, 0.0), (200, 0.0), (201, 1.005), (1000, 5)]
)
def test_moves_are_spread_only_where_there_are_many(participants: int, window: float) -> None:
    here = situation(document(), book({}), participants=participants)
    assert here.window() == pytest.approx(window)
    assert situation(document(), book({})).window(participants) == pytest.approx(window)
