"""The verdict on a drain, a pause, and the end of either; what the machine makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from livekit_pool.core.actions import Answered, Probe, Refused
from livekit_pool.core.document import (
    Cause,
    Document,
    Mark,
    ServerRecord,
    drained,
    paused,
    resumed,
    undrained,
)
from livekit_pool.core.events import Change, Loaded, MarkAsked, ProbeOutcome, SwapFailed, Tick
from livekit_pool.core.health import Settings
from livekit_pool.core.machine import PoolMachine
from livekit_pool.core.requests import Asked, Done, Go, No, Verdict, Wait, verdict
from livekit_pool.core.situation import Situation
from tests.core.samples import (
    MARK,
    NAMES,
    PASSED,
    REFUSED,
    START,
    UNAUTHORIZED,
    Pool,
    book,
    document,
    moved,
    notes_of,
    situation,
    stepped,
    swap_of,
    swaps_of,
)

ALL_WELL = dict.fromkeys(NAMES, PASSED)
SET = Mark(by="ann", since=START, reason="update")
UNDO = (Change.UNDRAIN, Change.RESUME)


def ask(change: Change, server: str = "", request: str = "r1", **fields: Any) -> MarkAsked:
    return MarkAsked(
        request=request,
        change=change,
        actor="ann",
        server=server,
        reason="" if change in UNDO else "update",
        **fields,
    )


def judged(event: MarkAsked, there: Situation) -> Verdict:
    return verdict(Asked(event=event, lineage="L", active_since=1, until=START + 5), there)


def drain(
    server: str,
    outcomes: Mapping[str, ProbeOutcome] = ALL_WELL,
    shared: Document | None = None,
    **fields: Any,
) -> Verdict:
    there = situation(shared or document(), book(outcomes))
    return judged(ask(Change.DRAIN, server, **fields), there)


def go(answer: object) -> Go:
    assert isinstance(answer, Go)
    return answer


def code(answer: object) -> str:
    assert isinstance(answer, No)
    assert answer.message.endswith(".")
    return answer.code


# --- transitions ---------------------------------------------------------------------------


def test_a_mark_is_one_revision_and_makes_no_fault_late() -> None:
    cooling = ServerRecord(cool_down_until=START + 9, cool_down_cause=Cause.DOWN, failures=2)
    before = replace(document(), servers={"blue": cooling, "green": ServerRecord()})
    after = drained(before, server="blue", mark=SET)
    assert after == replace(
        before, revision=2, servers={**before.servers, "blue": replace(cooling, drained=SET)}
    )
    assert undrained(after, server="blue") == replace(before, revision=3)
    halted = paused(before, mark=SET)
    assert halted == replace(before, revision=2, paused=SET)
    assert resumed(halted) == replace(before, revision=3)


# --- drain ---------------------------------------------------------------------------------


def test_another_server_is_drained_and_nobody_moves() -> None:
    answer = go(drain("blue"))
    assert answer.rotation is None
    assert answer.document == drained(document(), server="blue", mark=SET)


def test_draining_the_active_server_is_one_change_with_its_rotation() -> None:
    answer = go(drain("red", participants=400))
    rotation = answer.rotation
    assert rotation is not None
    assert (rotation.from_, rotation.to, rotation.cause) == ("red", "green", Cause.MANUAL)
    assert (rotation.reason, rotation.actor) == ("drained: update", "ann")
    assert (rotation.revision, rotation.window) == (2, 2.0)
    assert (answer.document.revision, answer.document.active_since) == (2, 2)
    assert answer.document.record("red") == ServerRecord(drained=SET)
    assert answer.document.last_error is None


def test_the_active_server_is_left_for_the_next_available_one() -> None:
    answer = go(drain("red", {**ALL_WELL, "green": REFUSED}))
    assert answer.document.active_server == "blue"


def test_a_target_nobody_has_seen_is_probed_first() -> None:
    answer = drain("red", {"red": PASSED})
    assert isinstance(answer, Wait)
    assert (answer.probe, code(answer.otherwise)) == (("green", "blue"), "no_server")


LAST_ACTIVE = {"red": PASSED, "green": REFUSED, "blue": UNAUTHORIZED}
LAST_STANDBY = {"red": REFUSED, "green": REFUSED, "blue": PASSED}


@pytest.mark.parametrize(("last", "outcomes"), [("red", LAST_ACTIVE), ("blue", LAST_STANDBY)])
def test_the_last_available_server_takes_force(
    last: str, outcomes: dict[str, ProbeOutcome]
) -> None:
    answer = drain(last, outcomes)
    assert code(answer) == "no_server"
    assert isinstance(answer, No)
    assert f"No other server than {last} is available" in answer.message
    forced = go(drain(last, outcomes, force=True))
    assert forced.rotation is None
    assert forced.document == drained(document(), server=last, mark=SET)


def test_force_takes_nothing_from_who_is_available() -> None:
    answer = go(drain("red", force=True))
    assert answer.document.active_server == "green"
    waits = drain("red", {"red": PASSED}, force=True)
    assert isinstance(waits, Wait)
    assert go(waits.otherwise).document == drained(document(), server="red", mark=SET)


def test_another_server_is_last_while_the_others_are_drained_or_cooling() -> None:
    out = {
        "red": ServerRecord(drained=MARK),
        "green": ServerRecord(cool_down_until=START + 9, cool_down_cause=Cause.DOWN),
    }
    assert code(drain("blue", shared=replace(document(), servers=out))) == "no_server"
    only_cooling = replace(document(), servers={"green": out["green"]})
    assert go(drain("blue", shared=only_cooling)).rotation is None


def test_another_server_is_last_while_no_other_is_in_every_list() -> None:
    there = situation(
        moved(document(), "green"), book({**ALL_WELL, "green": REFUSED}), lists=(NAMES, NAMES[1:])
    )
    assert code(judged(ask(Change.DRAIN, "blue"), there)) == "no_server"


def test_whether_another_server_is_the_last_may_take_a_probe() -> None:
    answer = drain("blue", {"red": REFUSED, "blue": PASSED})
    assert isinstance(answer, Wait)
    assert (answer.probe, code(answer.otherwise)) == (("green",), "no_server")
    unseen = drain("blue", {"red": REFUSED, "green": REFUSED})
    assert isinstance(unseen, Wait)
    assert unseen.probe == ("blue",)


def test_whether_another_server_is_the_last_may_take_a_signed_probe() -> None:
    over = ServerRecord(cool_down_until=START - 0.5, cool_down_cause=Cause.RATE_LIMIT, failures=1)
    shared = replace(document(), servers={"green": over})
    answer = drain("blue", {**ALL_WELL, "red": REFUSED}, shared)
    assert isinstance(answer, Wait)
    assert (answer.probe, answer.signed) == ((), ("green",))


def test_a_server_that_is_not_available_is_not_the_last_available_one() -> None:
    answer = go(drain("blue", {"red": REFUSED, "green": REFUSED, "blue": REFUSED}))
    assert answer.document.record("blue").drained == SET


def test_an_order_of_an_operator_works_while_paused() -> None:
    halted = paused(document(), mark=MARK)
    assert go(drain("red", shared=halted)).document.active_server == "green"
    assert go(drain("blue", shared=halted)).document.paused == MARK


# --- undrain, pause, resume ----------------------------------------------------------------


def test_undrain_pause_and_resume() -> None:
    out = drained(document(), server="blue", mark=MARK)
    there = situation(out, book(ALL_WELL))
    assert go(judged(ask(Change.UNDRAIN, "blue"), there)).document == undrained(out, server="blue")
    assert go(judged(ask(Change.PAUSE), there)).document == paused(out, mark=SET)
    halted = paused(out, mark=MARK)
    there = situation(halted, book(ALL_WELL))
    assert go(judged(ask(Change.RESUME), there)).document == resumed(halted)


@pytest.mark.parametrize("expected", [None, 99])
@pytest.mark.parametrize("change", Change)
def test_what_is_so_already_needs_nothing_and_keeps_its_first_mark(
    change: Change, expected: int | None
) -> None:
    shared = document()
    if change not in UNDO:
        shared = paused(drained(shared, server="blue", mark=MARK), mark=MARK)
    server = "" if change in (Change.PAUSE, Change.RESUME) else "blue"
    there = situation(shared, book(ALL_WELL))
    assert judged(ask(change, server, expected_revision=expected), there) == Done()


@pytest.mark.parametrize("change", Change)
def test_another_revision_than_expected_is_a_conflict(change: Change) -> None:
    shared = document()
    if change in UNDO:
        shared = paused(drained(shared, server="blue", mark=MARK), mark=MARK)
    server = "" if change in (Change.PAUSE, Change.RESUME) else "blue"
    there = situation(shared, book(ALL_WELL))
    done = go(judged(ask(change, server, expected_revision=shared.revision), there))
    assert done.document.revision == shared.revision + 1
    for other in (shared.revision - 1, shared.revision + 1):
        answer = judged(ask(change, server, expected_revision=other, force=True), there)
        assert code(answer) == "revision_conflict"


def test_a_server_nobody_knows() -> None:
    for change in (Change.DRAIN, Change.UNDRAIN):
        there = situation(document(), book(ALL_WELL))
        assert code(judged(ask(change, "purple", force=True), there)) == "unknown_server"


def test_a_drain_outlives_its_server_in_the_list_and_can_be_undone_all_the_same() -> None:
    out = drained(document(), server="purple", mark=MARK)
    there = situation(out, book(ALL_WELL))
    assert go(judged(ask(Change.UNDRAIN, "purple"), there)).rotation is None
    assert code(judged(ask(Change.DRAIN, "purple"), there)) == "unknown_server"


# --- the machine ---------------------------------------------------------------------------


def answered(actions: list[Any]) -> Answered:
    (answer,) = [action for action in actions if isinstance(action, Answered)]
    return answer


def test_a_drain_is_answered_when_it_is_written() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask(Change.DRAIN, "red")))
    answer = answered(pool.won(swap))
    assert (answer.request, answer.revision, answer.changed) == ("r1", 2, True)
    assert answer.rotation == swap.rotation
    assert answer.mark is not None
    assert (answer.mark.by, answer.mark.reason) == ("ann", "update")
    again = answered(pool.feed(ask(Change.DRAIN, "red", "r2")))
    assert (again.revision, again.changed, again.rotation) == (2, False, None)
    assert again.mark == answer.mark


def test_two_who_drain_the_active_server_at_once_cause_one_rotation() -> None:
    pool = Pool()
    theirs = go(drain("red")).document
    swap = swap_of(pool.feed(ask(Change.DRAIN, "red")))
    answer = answered(pool.lost(swap, theirs))
    assert (answer.changed, answer.rotation, answer.mark) == (False, None, SET)


def test_two_who_drain_the_last_two_at_once_leave_one() -> None:
    pool = Pool(outcomes={"red": PASSED, "green": REFUSED, "blue": PASSED})
    swap = swap_of(pool.feed(ask(Change.DRAIN, "blue")))
    theirs = drained(document(), server="red", mark=MARK)
    (refused,) = [a for a in pool.lost(swap, theirs) if isinstance(a, Refused)]
    assert (refused.code, refused.revision) == ("no_server", 2)


def test_a_drain_waits_for_the_probe_it_needs() -> None:
    pool = Pool(outcomes={"red": PASSED})
    assert pool.feed(ask(Change.DRAIN, "red")) == [Probe(server="green"), Probe(server="blue")]
    pool.probed("green", REFUSED)
    swap = swap_of(pool.probed("blue", PASSED))
    assert swap.document.active_server == "blue"


def test_a_forced_drain_does_not_wait_for_a_probe_for_ever() -> None:
    pool = Pool(outcomes={"red": PASSED})
    assert swaps_of(pool.feed(ask(Change.DRAIN, "red", force=True))) == []
    pool.now += 6
    swap = swap_of(pool.feed(Tick()))
    assert (swap.rotation, swap.document.active_server) == (None, "red")


@pytest.mark.parametrize(
    "event",
    [ask(Change.DRAIN, "blue"), ask(Change.DRAIN, "red"), ask(Change.PAUSE), ask(Change.RESUME)],
)
def test_an_answer_that_was_lost_shows_in_the_document(event: MarkAsked) -> None:
    pool = Pool(shared=paused(document(), mark=MARK) if event.change is Change.RESUME else None)
    swap = swap_of(pool.feed(event))
    pool.feed(SwapFailed(operation=swap.operation))
    after = drained(swap.document, server="green", mark=MARK)
    answer = answered(pool.feed(Loaded(document=after)))
    assert (answer.revision, answer.changed, answer.rotation) == (
        swap.document.revision,
        True,
        swap.rotation,
    )


@pytest.mark.parametrize(
    "theirs", [{"by": "ben"}, {"since": START + 3}, {"reason": "another"}, None]
)
def test_what_somebody_else_set_does_not_pass_for_an_own_change(
    theirs: dict[str, Any] | None,
) -> None:
    pool = Pool()
    swap = swap_of(pool.feed(ask(Change.PAUSE)))
    pool.feed(SwapFailed(operation=swap.operation))
    assert swap.document.paused is not None
    if theirs is None:  # nobody did: it is done now
        after = drained(pool.document, server="green", mark=MARK)
        assert swap_of(pool.feed(Loaded(document=after))).document.revision == 3
        return
    mark = replace(swap.document.paused, **theirs)
    answer = answered(pool.feed(Loaded(document=replace(swap.document, paused=mark))))
    assert (answer.changed, answer.mark) == (False, mark)


def test_while_paused_a_dead_server_is_left_by_nobody_until_it_is_resumed() -> None:
    pool = Pool()
    pool.won(swap_of(pool.feed(ask(Change.PAUSE))))
    actions = pool.probed("red", REFUSED)
    assert (swaps_of(actions), notes_of(actions)) == ([], ["Fault while paused"])
    swap = swap_of(pool.won(swap_of(pool.feed(ask(Change.RESUME)))))
    assert swap.rotation is not None
    assert (swap.rotation.to, swap.rotation.cause) == ("green", Cause.DOWN)


# --- a drained active server ---------------------------------------------------------------


def forced(outcomes: dict[str, ProbeOutcome] | None = None) -> Pool:
    """A pool whose active server, red, was drained by force when no other was available."""
    pool = Pool(outcomes=outcomes or {"red": PASSED, "green": REFUSED, "blue": REFUSED})
    pool.won(swap_of(pool.feed(ask(Change.DRAIN, "red", force=True))))
    return pool


def test_a_drained_active_server_is_left_as_soon_as_another_one_is_available() -> None:
    pool = forced()
    assert not pool.machine.takes_rooms
    assert swaps_of(pool.probed("blue", PASSED)) == []  # not risen yet
    swap = swap_of(pool.probed("blue", PASSED))
    rotation = swap.rotation
    assert rotation is not None
    assert (rotation.from_, rotation.to, rotation.cause) == ("red", "blue", Cause.MANUAL)
    assert (rotation.reason, rotation.actor) == ("drained: update", "ann")
    assert swap.document.record("red").drained is not None
    assert swap.document.record("red").cool_down_until is None
    pool.won(swap)
    assert pool.machine.takes_rooms


def test_that_there_is_nowhere_to_go_is_said() -> None:
    pool = Pool(outcomes={"red": PASSED, "green": REFUSED, "blue": REFUSED})
    swap = swap_of(pool.feed(ask(Change.DRAIN, "red", force=True)))
    assert "No LiveKit server available" in notes_of(pool.won(swap))


def test_a_drained_active_server_is_not_left_while_paused() -> None:
    pool = forced()
    pool.won(swap_of(pool.feed(ask(Change.PAUSE))))
    assert swaps_of(pool.probed("blue", PASSED, 2)) == []
    resumed = pool.won(swap_of(pool.feed(ask(Change.RESUME))))
    assert swap_of(resumed).document.active_server == "blue"


def test_an_active_server_that_is_undrained_stays() -> None:
    pool = forced()
    pool.won(swap_of(pool.feed(ask(Change.UNDRAIN, "red"))))
    assert pool.machine.takes_rooms
    assert swaps_of(pool.probed("blue", PASSED, 2)) == []


def test_nobody_is_left_for_a_drained_server_however_well_it_is() -> None:
    shared = document()
    for server in ("green", "blue"):
        shared = drained(shared, server=server, mark=MARK)
    pool = Pool(shared=shared)
    actions = pool.probed("red", REFUSED)
    assert (swaps_of(actions), notes_of(actions)) == ([], ["No LiveKit server available"])


def test_rooms_are_placed_while_a_step_stands_in_for_a_drained_server() -> None:
    assert stepped(drained(document(), server="red", mark=MARK)).machine.takes_rooms


def test_before_there_is_a_document_nothing_is_known_of_a_drain() -> None:
    assert PoolMachine(NAMES, Settings(), "p").takes_rooms
