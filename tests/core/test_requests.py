"""The verdict on a rotation that somebody asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.document import Cause, Mark, ServerRecord, rotated
from livekit_pool.core.events import RotateAsked
from livekit_pool.core.health import HealthBook
from livekit_pool.core.requests import Asked, Done, Go, No, Wait, verdict
from livekit_pool.core.situation import Situation
from tests.core.samples import (
    NAMES,
    PASSED,
    REFUSED,
    SILENT,
    START,
    UNAUTHORIZED,
    book,
    document,
    situation,
)

ALL_WELL = dict.fromkeys(NAMES, PASSED)
MARK = Mark(by="ann", since=START, reason="")


def asked(
    to: str | None = None,
    *,
    expected: int | None = None,
    force: bool = False,
    participants: int = 0,
) -> Asked:
    event = RotateAsked(
        request="r1",
        reason="because",
        actor="ann",
        to=to,
        expected_revision=expected,
        force=force,
        participants=participants,
    )
    return Asked(event=event, lineage="L", active_since=1, until=START + 5)


def here(health: HealthBook | None = None) -> Situation:
    return situation(document(), health or book(ALL_WELL))


def code(answer: object) -> str:
    assert isinstance(answer, No)
    assert answer.message.endswith(".")
    return answer.code


def test_it_goes_to_the_next_available_server() -> None:
    answer = verdict(asked(participants=400), here(book({**ALL_WELL, "green": REFUSED})))
    assert isinstance(answer, Go)
    rotation = answer.rotation
    assert rotation is not None
    assert (rotation.from_, rotation.to, rotation.cause) == ("red", "blue", Cause.MANUAL)
    assert (rotation.reason, rotation.actor, rotation.window) == ("because", "ann", 2.0)


def test_it_cools_nobody_down_and_sets_no_error() -> None:
    answer = verdict(asked(), here())
    assert isinstance(answer, Go)
    assert answer.document.servers == {}
    assert answer.document.last_error is None


def test_it_works_while_paused() -> None:
    paused = replace(here(), document=replace(document(), paused=MARK))
    answer = verdict(asked(), paused)
    assert isinstance(answer, Go)
    assert answer.document.paused == MARK


def test_nowhere_to_go() -> None:
    assert code(
        verdict(asked(), here(book({"red": PASSED, "green": REFUSED, "blue": REFUSED})))
    ) == ("no_server")
    only = ("red",)
    alone = situation(document(only), book({"red": PASSED}, only), names=only)
    assert code(verdict(asked(), alone)) == "no_server"


def test_without_a_name_it_does_not_go_to_a_cooling_server() -> None:
    cooling = ServerRecord(cool_down_until=START + 9, cool_down_cause=Cause.DOWN)
    shared = replace(document(), servers={"green": cooling, "blue": cooling})
    assert code(verdict(asked(), situation(shared, book(ALL_WELL)))) == "no_server"


def test_unseen_servers_are_probed_first() -> None:
    answer = verdict(asked(), here(book({"red": PASSED})))
    assert isinstance(answer, Wait)
    assert (answer.probe, code(answer.otherwise)) == (("green", "blue"), "no_server")


def test_to_the_active_server_there_is_nothing_to_do() -> None:
    assert verdict(asked("red"), here(book({}))) == Done()


def test_a_server_nobody_knows() -> None:
    answer = verdict(asked("purple", force=True), here())
    assert code(answer) == "unknown_server"


def test_a_name_overrides_a_cool_down() -> None:
    cooling = ServerRecord(cool_down_until=START + 9, cool_down_cause=Cause.DOWN)
    shared = replace(document(), servers={"blue": cooling})
    answer = verdict(asked("blue"), situation(shared, book(ALL_WELL)))
    assert isinstance(answer, Go)
    assert not answer.document.record("blue").cooling(START)


@pytest.mark.parametrize("obstacle", ["drained", "down", "misconfigured", "not in the list"])
def test_an_obstacle_takes_force(obstacle: str) -> None:
    outcome = {"down": REFUSED, "misconfigured": UNAUTHORIZED}.get(obstacle, PASSED)
    shared = document()
    if obstacle == "drained":
        shared = replace(shared, servers={"blue": ServerRecord(drained=MARK)})
    lists = (NAMES, NAMES[:2]) if obstacle == "not in the list" else (NAMES,)
    there = situation(shared, book({**ALL_WELL, "blue": outcome}), lists=lists)
    answer = verdict(asked("blue"), there)
    assert code(answer) == "server_not_eligible"
    assert isinstance(answer, No)
    assert f"blue is {obstacle}" in answer.message
    forced = verdict(asked("blue", force=True), there)
    assert isinstance(forced, Go)
    assert forced.document.active_server == "blue"


@pytest.mark.parametrize("seen", [{}, {"blue": SILENT}])
def test_a_server_that_did_not_pass_its_last_probe_is_probed_first(seen: dict[str, object]) -> None:
    health = book({"blue": SILENT} if seen else {})
    answer = verdict(asked("blue"), here(health))
    assert isinstance(answer, Wait)
    assert (answer.probe, code(answer.otherwise)) == (("blue",), "server_not_eligible")


def test_a_rotation_by_force_to_a_drained_server_ends_its_drain() -> None:
    shared = replace(
        document(),
        servers={"blue": ServerRecord(drained=MARK), "green": ServerRecord(drained=MARK)},
    )
    answer = verdict(asked("blue", force=True), situation(shared, book(ALL_WELL)))
    assert isinstance(answer, Go)
    assert answer.document.record("blue").drained is None
    assert answer.document.record("green").drained == MARK


def test_another_revision_than_expected_is_a_conflict() -> None:
    assert isinstance(verdict(asked(expected=1), here()), Go)
    for expected in (0, 2):
        answer = verdict(asked("blue", expected=expected, force=True), here())
        assert code(answer) == "revision_conflict"


def test_whoever_asked_to_leave_a_server_that_was_left_meanwhile_is_refused() -> None:
    after, _ = rotated(
        document(), to="green", names=NAMES, cause=Cause.DOWN, reason="", actor="", now=START
    )
    there = situation(after, book(ALL_WELL))
    assert code(verdict(asked(), there)) == "revision_conflict"
    assert isinstance(verdict(asked("blue"), there), Go)
    assert verdict(asked("green"), there) == Done()


def test_another_lineage_is_another_pool() -> None:
    there = situation(replace(document(), lineage="M"), book(ALL_WELL))
    assert code(verdict(asked(), there)) == "revision_conflict"


def test_a_drain_elsewhere_is_no_conflict() -> None:
    drained = replace(document(), revision=2, servers={"blue": ServerRecord(drained=MARK)})
    assert isinstance(verdict(asked(), situation(drained, book(ALL_WELL))), Go)
