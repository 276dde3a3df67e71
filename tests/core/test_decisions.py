"""What the pool does of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.actions import NoteEvent
from livekit_pool.core.decisions import Decision, decide
from livekit_pool.core.document import Cause, Document, Mark, ServerRecord, rotated
from livekit_pool.core.events import FaultSeen, FaultSource, Probed, ProbeOutcome
from livekit_pool.core.health import HealthBook, Settings
from livekit_pool.core.limits import Limits
from livekit_pool.core.pending import PendingFaults
from livekit_pool.core.situation import FRESH, WITNESS
from livekit_pool.resets import Reset
from tests.core.samples import (
    FAILED,
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
RED_DEAD = {**ALL_WELL, "red": REFUSED}
MARK = Mark(by="ann", since=START, reason="")
PAUSED = replace(document(), paused=MARK)


def failed_joins(number: int) -> PendingFaults:
    faults = PendingFaults(Settings())
    for _ in range(number):
        fault = FaultSeen(
            server="red", revision=1, kind=Cause.TIMEOUT, source=FaultSource.JOIN, detail="no join"
        )
        faults.add(fault, START, answering=True)
    faults.forgive(began=START)
    return faults


def changed(decision: Decision) -> Document:
    assert decision.document is not None
    return decision.document


def notes(decision: Decision) -> list[str]:
    return [note.event for note in decision.notes]


# --- the active server is confirmed down ---------------------------------------------------


def test_a_pool_that_is_well_is_left_alone() -> None:
    assert decide(situation(document(), book(ALL_WELL))) == Decision()


def test_a_dead_server_is_left_at_once_and_cooled() -> None:
    decision = decide(situation(document(), book(RED_DEAD), participants=400))
    after, rotation = changed(decision), decision.rotation
    assert rotation is not None
    assert (rotation.from_, rotation.to, rotation.cause) == ("red", "green", Cause.DOWN)
    assert (rotation.reason, rotation.actor) == ("probe refused", "pool p")
    assert (rotation.reports, rotation.window) == (1, 2.0)
    assert after.record("red") == ServerRecord(
        cool_down_until=START + 5, cool_down_cause=Cause.DOWN, failures=1
    )


def test_the_interval_never_delays_leaving_a_dead_server() -> None:
    just_rotated, _ = rotated(
        document(), to="red", names=NAMES, cause=Cause.DOWN, reason="", actor="", now=START
    )
    assert changed(decide(situation(just_rotated, book(RED_DEAD)))).active_server == "green"


def test_silence_is_a_timeout() -> None:
    health = book(ALL_WELL)
    for _ in range(3):
        health.probed(Probed(server="red", outcome=SILENT), START)
    health.probed(Probed(server="blue", outcome=PASSED), START)
    rotation = decide(situation(document(), health)).rotation
    assert rotation is not None
    assert rotation.cause is Cause.TIMEOUT


def test_one_rotation_answers_all_faults() -> None:
    faults = failed_joins(0)
    for _ in range(50):
        fault = FaultSeen(server="red", revision=1, kind=Cause.DOWN, source=FaultSource.SOCKET)
        faults.add(fault, START, answering=True)
    rotation = decide(situation(document(), book(RED_DEAD), faults=faults)).rotation
    assert rotation is not None
    assert rotation.reports == 50


def test_old_evidence_is_looked_at_again_before_a_server_is_left() -> None:
    late = situation(document(), book(RED_DEAD), now=START - 1 + FRESH + 0.1)
    assert decide(late) == Decision(probe=("red",))


def test_long_reasons_are_cut() -> None:
    health = book(ALL_WELL)
    health.probed(Probed(server="red", outcome=REFUSED, detail="x" * 900), START)
    rotation = decide(situation(document(), health)).rotation
    assert rotation is not None
    assert len(rotation.reason) == 200


def test_when_no_server_is_available_nothing_is_written() -> None:
    decision = decide(situation(document(), book(dict.fromkeys(NAMES, REFUSED))))
    assert decision.document is None
    assert notes(decision) == [NoteEvent.NO_SERVER]


def test_a_server_nobody_has_probed_is_probed_first() -> None:
    decision = decide(situation(document(), book({"red": REFUSED, "green": REFUSED})))
    assert decision == Decision(probe=("blue",))


def test_when_nothing_else_is_left_a_cooling_server_that_answers_is_taken() -> None:
    cooling = ServerRecord(cool_down_until=START + 60, cool_down_cause=Cause.DOWN, failures=4)
    shared = replace(document(), servers={"blue": cooling}, last_rotation=START - 60)
    outcomes = {"red": REFUSED, "green": REFUSED, "blue": PASSED}
    after = changed(decide(situation(shared, book(outcomes))))
    assert after.active_server == "blue"
    assert after.record("blue").failures == 4


def test_the_only_server_is_never_left_nor_cooled() -> None:
    only = ("red",)
    decision = decide(situation(document(only), book({"red": REFUSED}, only), names=only))
    assert decision.document is None
    assert notes(decision) == [NoteEvent.NO_SERVER]


def test_while_paused_a_dead_server_is_only_noted() -> None:
    decision = decide(situation(PAUSED, book(RED_DEAD)))
    assert decision.document is None
    assert notes(decision) == [NoteEvent.FAULT_WHILE_PAUSED]


# --- silence needs a second witness --------------------------------------------------------

SEEN_ELSEWHERE = [
    pytest.param((), True, id="a process alone needs none"),
    pytest.param(({"red": False},), True, id="down there too"),
    pytest.param(({"red": True}, {"red": False}), True, id="down on one of two"),
    pytest.param(({"red": True},), False, id="up there"),
    pytest.param(({},), False, id="nothing was said yet"),
    pytest.param(({"green": False},), False, id="said of another server"),
]


def test_who_says_nothing_about_a_silent_server_may_be_gone_with_it() -> None:
    here = replace(situation(document(), silent_red()), elsewhere=({},))
    for elsewhere, waited, leaves in (
        (({},), WITNESS - 0.1, False),
        (({},), WITNESS, True),
        (({"green": True},), WITNESS, True),
        (({}, {"red": True}), 100.0, False),
    ):
        decision = decide(replace(here, elsewhere=elsewhere, unwitnessed_from=here.now - waited))
        assert (decision.document is not None) is leaves, (elsewhere, waited)


def silent_red() -> HealthBook:
    health = book(ALL_WELL)
    for _ in range(3):
        health.probed(Probed(server="red", outcome=SILENT), START)
    health.probed(Probed(server="blue", outcome=PASSED), START)
    return health


@pytest.mark.parametrize(("elsewhere", "leaves"), SEEN_ELSEWHERE)
def test_silence_counts_once_another_machine_sees_it(
    elsewhere: tuple[dict[str, bool], ...], leaves: bool
) -> None:
    decision = decide(replace(situation(document(), silent_red()), elsewhere=elsewhere))
    if leaves:
        assert (changed(decision).active_server, notes(decision)) == ("green", [])
        return
    assert decision.document is None
    assert [(note.event, note.fields) for note in decision.notes] == [
        (NoteEvent.UNWITNESSED, {"server": "red"})
    ]


@pytest.mark.parametrize(("elsewhere", "leaves"), SEEN_ELSEWHERE)
@pytest.mark.parametrize("outcome", [REFUSED, FAILED])
def test_what_comes_from_the_other_side_needs_no_second_witness(
    elsewhere: tuple[dict[str, bool], ...], leaves: bool, outcome: ProbeOutcome
) -> None:
    health = book(ALL_WELL)
    for _ in range(3):
        health.probed(Probed(server="red", outcome=outcome), START)
    here = replace(situation(document(), health), elsewhere=elsewhere)
    assert changed(decide(here)).active_server == "green"


def test_while_paused_nobody_asks_for_a_second_witness() -> None:
    here = replace(situation(PAUSED, silent_red()), elsewhere=({"red": True},))
    assert notes(decide(here)) == [NoteEvent.FAULT_WHILE_PAUSED]


# --- joins fail although probes pass -------------------------------------------------------


def test_three_failed_joins_are_a_reason_to_leave() -> None:
    assert decide(situation(document(), book(ALL_WELL), faults=failed_joins(2))) == Decision()
    decision = decide(situation(document(), book(ALL_WELL), faults=failed_joins(3)))
    assert decision.rotation is not None
    assert (decision.rotation.cause, decision.rotation.reason) == (Cause.TIMEOUT, "no join")
    assert decision.rotation.reports == 3
    assert changed(decision).record("red").cool_down_until == START + 5


def test_failed_joins_without_a_detail_are_counted_in_the_reason() -> None:
    faults = failed_joins(4)
    faults.detail = ""
    rotation = decide(situation(document(), book(ALL_WELL), faults=faults)).rotation
    assert rotation is not None
    assert rotation.reason == "4 joins in a row failed"


def test_failed_joins_wait_for_the_interval_after_a_rotation() -> None:
    at = START + 100
    before, _ = rotated(
        document(), to="red", names=NAMES, cause=Cause.MANUAL, reason="", actor="", now=at
    )
    here = situation(before, book(ALL_WELL), faults=failed_joins(3))
    assert decide(replace(here, now=at + 9.9)) == Decision()
    assert changed(decide(replace(here, now=at + 10.0))).active_server == "green"


def test_failed_joins_count_only_while_probes_pass() -> None:
    health = book({**ALL_WELL, "red": SILENT})
    assert decide(situation(document(), health, faults=failed_joins(3))) == Decision()


def test_failed_joins_never_lead_to_a_cooling_server() -> None:
    cooling = ServerRecord(cool_down_until=START + 60, cool_down_cause=Cause.DOWN)
    shared = replace(document(), servers={"green": cooling, "blue": cooling})
    decision = decide(situation(shared, book(ALL_WELL), faults=failed_joins(3)))
    assert decision.document is None
    assert notes(decision) == [NoteEvent.NO_SERVER]


def test_while_paused_failed_joins_are_only_noted() -> None:
    decision = decide(situation(PAUSED, book(ALL_WELL), faults=failed_joins(3)))
    assert decision.document is None
    assert notes(decision) == [NoteEvent.FAULT_WHILE_PAUSED]


# --- the list changed ----------------------------------------------------------------------

SHORT = ("green", "blue")


def test_a_removed_server_is_left_for_one_that_all_processes_have() -> None:
    here = situation(document(), book(ALL_WELL, SHORT), names=SHORT, lists=(SHORT, ("red", "blue")))
    decision = decide(here)
    assert decision.rotation is not None
    assert (decision.rotation.to, decision.rotation.cause) == ("blue", Cause.REMOVED)
    assert changed(decision).record("red") == ServerRecord(), "it did not fail: no cool-down"


def test_a_removed_server_that_others_have_is_not_left_for_one_that_they_lack() -> None:
    here = situation(document(), book(ALL_WELL, SHORT), names=SHORT, lists=(SHORT, ("red",)))
    assert decide(here).document is None


def test_a_server_that_nobody_has_any_more_is_left_for_any() -> None:
    health = book(ALL_WELL, SHORT)
    here = situation(document(), health, names=SHORT, lists=(SHORT, ("purple",)))
    assert changed(decide(here)).active_server == "green"


def test_a_server_that_all_have_is_better_than_the_next_one() -> None:
    here = situation(document(), book(ALL_WELL, SHORT), names=SHORT, lists=(SHORT, ("blue",)))
    assert changed(decide(here)).active_server == "blue"


def test_before_the_lists_were_read_nothing_counts_as_removed() -> None:
    here = replace(situation(document(), book(ALL_WELL, SHORT), names=SHORT), lists=None)
    assert decide(here) == Decision()


def test_while_paused_a_removed_server_is_only_noted() -> None:
    decision = decide(situation(PAUSED, book(ALL_WELL, SHORT), names=SHORT))
    assert decision.document is None
    assert notes(decision) == [NoteEvent.FAULT_WHILE_PAUSED]


def test_positions_are_written_anew_once_all_have_the_same_list() -> None:
    turned = ("blue", "red", "green")
    here = situation(document(), book(ALL_WELL, turned), names=turned, lists=(turned, NAMES))
    assert (decide(here).document, notes(decide(here))) == (None, [NoteEvent.LISTS_DIFFER])
    decision = decide(replace(here, lists=(turned, turned)))
    assert decision.rotation is None
    assert changed(decision).active_server == "red"
    assert changed(decision).active_server_index == 1


@pytest.mark.parametrize("repaired", [False, True])
def test_a_document_of_the_original_system_becomes_one_of_the_pool(repaired: bool) -> None:
    shared = replace(document(), revision=0, active_since=0, repaired=repaired)
    here = situation(shared, book(ALL_WELL), lists=(NAMES, NAMES[:2]))
    assert decide(here).document is None, "each process would write the positions of its own list"
    after = changed(decide(replace(here, lists=(NAMES,))))
    assert after == replace(shared, revision=1, active_since=1)
    assert not after.repaired


# --- a foreign client rotated --------------------------------------------------------------

FOREIGN = replace(document(), active_server_index=2, index_written=0)


def test_a_foreign_rotation_to_an_available_server_is_adopted() -> None:
    shared = replace(FOREIGN, last_error="quota exceeded")
    decision = decide(situation(shared, book(ALL_WELL)))
    after, rotation = changed(decision), decision.rotation
    assert rotation is not None
    assert (rotation.to, rotation.cause, rotation.actor) == ("blue", Cause.FOREIGN, "foreign")
    assert rotation.reason == "quota exceeded"
    assert (after.active_server, after.revision, after.active_since) == ("blue", 2, 2)
    assert after.foreign_index is None
    assert after.record("red") == ServerRecord()


@pytest.mark.parametrize(
    "shared",
    [
        replace(FOREIGN, active_server_index=3),
        replace(FOREIGN, paused=MARK),
        replace(FOREIGN, servers={"blue": ServerRecord(drained=MARK)}),
        replace(FOREIGN, servers={"blue": ServerRecord(cool_down_until=START + 1)}),
    ],
)
def test_a_foreign_rotation_to_any_other_is_undone_with_a_note(shared: Document) -> None:
    decision = decide(situation(shared, book(ALL_WELL)))
    after, rotation = changed(decision), decision.rotation
    assert (after.active_server, after.active_since, after.active_server_index) == ("red", 1, 0)
    assert after.foreign_index is None, "once"
    assert rotation is not None
    assert (rotation.from_, rotation.to, rotation.cause) == ("red", "red", Cause.FOREIGN)
    place = "position 3" if shared.active_server_index == 3 else "blue"
    assert rotation.reason == f"a foreign client rotated to {place}: not followed"
    assert notes(decision) == [NoteEvent.FOREIGN_WRITTEN_BACK]


def test_a_foreign_rotation_to_the_active_server_changes_positions_only() -> None:
    turned = ("green", "blue", "red")
    decision = decide(situation(FOREIGN, book(ALL_WELL, turned), names=turned))
    assert (decision.rotation, decision.notes) == (None, ())
    assert changed(decision).active_server_index == 2


def test_a_foreign_rotation_to_a_dead_server_is_undone() -> None:
    decision = decide(situation(FOREIGN, book({**ALL_WELL, "blue": REFUSED})))
    assert changed(decision).active_server == "red"


def test_a_foreign_rotation_to_an_unseen_server_waits_for_a_probe() -> None:
    here = situation(FOREIGN, book({"red": PASSED}), foreign_from=START)
    assert decide(here) == Decision(probe=("blue",))
    assert changed(decide(replace(here, now=START + 5))).active_server == "red"


def test_a_foreign_index_that_counts_in_another_list_waits() -> None:
    turned = (*NAMES, "purple")
    here = situation(FOREIGN, book(ALL_WELL, turned), names=turned, lists=(turned, NAMES))
    assert (decide(here).document, notes(decide(here))) == (None, [NoteEvent.LISTS_DIFFER])
    assert changed(decide(replace(here, lists=(turned,)))).active_server == "blue"


def test_lists_of_one_length_do_not_hold_up_a_foreign_rotation() -> None:
    shared = replace(FOREIGN, active_server_index=1)
    here = situation(shared, book(ALL_WELL), lists=(NAMES, NAMES[:2]))
    assert changed(decide(here)).active_server == "green"


def test_a_foreign_rotation_comes_before_what_the_pool_would_do() -> None:
    assert changed(decide(situation(FOREIGN, book(RED_DEAD)))).active_server == "blue"


# --- what should be known ------------------------------------------------------------------


def test_a_server_that_refuses_our_key_is_noted() -> None:
    decision = decide(situation(document(), book({**ALL_WELL, "blue": UNAUTHORIZED})))
    assert [(note.event, note.fields) for note in decision.notes] == [
        (NoteEvent.SERVER_MISCONFIGURED, {"server": "blue"})
    ]


def test_a_server_that_refuses_our_key_is_left_at_once() -> None:
    decision = decide(situation(document(), book({**ALL_WELL, "red": UNAUTHORIZED})))
    after, rotation = changed(decision), decision.rotation
    assert rotation is not None
    assert (rotation.to, rotation.cause) == ("green", Cause.CREDENTIALS)
    assert after.record("red") == ServerRecord(
        cool_down_until=START + 300, cool_down_cause=Cause.CREDENTIALS
    )
    assert notes(decision) == [NoteEvent.SERVER_MISCONFIGURED]


def test_a_key_refused_before_the_server_became_active_is_no_reason_to_leave_it() -> None:
    here = situation(document(), book({**ALL_WELL, "red": UNAUTHORIZED}))
    assert decide(replace(here, active_from=START)).document is None


# --- a server that refuses for a limit -------------------------------------------------------


def refused(kind: Cause, retry_after: float | None = None, detail: str = "") -> PendingFaults:
    faults = PendingFaults(Settings())
    for _ in range(3):
        faults.add(
            FaultSeen(
                server="red",
                revision=1,
                kind=kind,
                source=FaultSource.JOIN,
                detail=detail,
                retry_after=retry_after,
            ),
            START,
            answering=True,
        )
    return faults


LIMITS = (Cause.RATE_LIMIT, Cause.CONNECTION_LIMIT, Cause.PARTICIPANT_LIMIT)


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize(("retry_after", "until"), [(None, 30), (7.0, 7), (1e9, 86_400)])
def test_a_limit_is_left_with_the_cool_down_that_the_server_asks_for(
    kind: Cause, retry_after: float | None, until: float
) -> None:
    faults = refused(kind, retry_after, "refused a join with HTTP 429")
    decision = decide(situation(document(), book(ALL_WELL), faults=faults))
    after, rotation = changed(decision), decision.rotation
    assert rotation is not None
    assert (rotation.cause, rotation.reason) == (kind, "refused a join with HTTP 429")
    assert rotation.reports == 3
    record = after.record("red")
    assert (record.cool_down_until, record.cool_down_cause) == (START + until, kind)
    assert after.last_error == rotation.reason


def test_a_quota_is_left_until_its_reset() -> None:
    noon = 1_764_158_400.0  # 26 November 2025, 12:00 UTC
    here = situation(document(), book(ALL_WELL), faults=refused(Cause.QUOTA), now=noon)
    december = noon + 4 * 86_400 + 43_200
    assert changed(decide(here)).record("red") == ServerRecord(
        cool_down_until=december, cool_down_cause=Cause.QUOTA
    )
    once = replace(here, limits={"red": Limits(reset=Reset(at=noon + 60))})
    assert changed(decide(once)).record("red").cool_down_until == noon + 60
    over = replace(here, limits={"red": Limits(reset=Reset(at=noon - 7200))})
    assert changed(decide(over)).record("red").cool_down_until == noon + 300


def test_a_quota_that_is_spent_just_after_its_reset_is_asked_again_soon() -> None:
    """Its counter may be late: that is no reason to leave it out for another month."""
    first = 1_764_547_200.0  # 1 December 2025 in UTC
    for late, until in ((10.0, 300.0), (3599.0, 300.0), (3601.0, 31 * 86_400 - 3601.0)):
        now = first + late
        here = situation(document(), book(ALL_WELL), faults=refused(Cause.QUOTA), now=now)
        assert changed(decide(here)).record("red").cool_down_until == now + until


def test_a_quota_that_names_a_time_is_asked_again_then() -> None:
    noon = 1_764_158_400.0
    for asked, until in ((20.0, 20.0), (0.0, 388_800.0 - 0.0)):
        faults = refused(Cause.QUOTA, asked)
        here = situation(document(), book(ALL_WELL), faults=faults, now=noon)
        assert changed(decide(here)).record("red").cool_down_until == noon + until


@pytest.mark.parametrize("kind", [Cause.QUOTA, Cause.CREDENTIALS])
def test_who_serves_nobody_is_left_for_one_that_is_in_cool_down(kind: Cause) -> None:
    cooling = ServerRecord(cool_down_until=START + 60, cool_down_cause=Cause.DOWN, failures=4)
    shared = replace(
        document(), servers={"green": cooling, "blue": cooling}, last_rotation=START - 60
    )
    outcomes = ALL_WELL if kind is Cause.QUOTA else {**ALL_WELL, "red": UNAUTHORIZED}
    faults = refused(Cause.QUOTA) if kind is Cause.QUOTA else PendingFaults(Settings())
    decision = decide(situation(shared, book(outcomes), faults=faults))
    assert changed(decision).active_server == "green"


@pytest.mark.parametrize("kind", [Cause.QUOTA, Cause.CREDENTIALS])
def test_who_serves_nobody_is_not_left_past_a_server_that_was_not_looked_at(kind: Cause) -> None:
    outcomes = {"red": PASSED if kind is Cause.QUOTA else UNAUTHORIZED, "blue": PASSED}
    faults = refused(Cause.QUOTA) if kind is Cause.QUOTA else PendingFaults(Settings())
    decision = decide(situation(document(), book(outcomes), faults=faults))
    assert decision.document is None
    assert decision.probe == ("green",)


def test_a_limit_doubles_each_time_in_a_row() -> None:
    record = ServerRecord(cool_down_until=START - 1, cool_down_cause=Cause.RATE_LIMIT, failures=2)
    shared = replace(document(), servers={"red": record})
    after = changed(decide(situation(shared, book(ALL_WELL), faults=refused(Cause.RATE_LIMIT))))
    assert after.record("red").cool_down_until == START + 120
    assert after.record("red").failures == 3


def test_a_foreign_rotation_waits_for_a_signed_probe_where_one_is_lacking() -> None:
    record = ServerRecord(cool_down_until=START - 0.5, cool_down_cause=Cause.RATE_LIMIT)
    shared = replace(document(), servers={"green": record}, active_server_index=1, index_written=0)
    here = situation(shared, book(ALL_WELL), foreign_from=START)
    assert decide(here) == Decision(signed=("green",))


def test_the_interval_delays_leaving_for_a_limit_but_not_for_a_quota() -> None:
    just_rotated, _ = rotated(
        document(), to="red", names=NAMES, cause=Cause.DOWN, reason="", actor="", now=START - 9
    )
    for kind in LIMITS:
        here = situation(just_rotated, book(ALL_WELL), faults=refused(kind))
        assert decide(here).document is None
        assert decide(replace(here, now=START + 1)).document is not None
    quota = situation(just_rotated, book(ALL_WELL), faults=refused(Cause.QUOTA))
    assert decide(quota).document is not None


def test_a_rotation_that_is_to_come_delays_nothing() -> None:
    """It was written by a clock that was days ahead, and is right again."""
    ahead, _ = rotated(
        document(), to="red", names=NAMES, cause=Cause.DOWN, reason="", actor="", now=START + 90_000
    )
    here = situation(ahead, book(ALL_WELL), faults=refused(Cause.RATE_LIMIT))
    assert decide(here).document is not None


@pytest.mark.parametrize("kind", [*LIMITS, Cause.QUOTA])
def test_a_pause_holds_what_a_refusal_wants(kind: Cause) -> None:
    held = replace(document(), paused=MARK)
    decision = decide(situation(held, book(ALL_WELL), faults=refused(kind)))
    assert decision.document is None
    assert notes(decision) == [NoteEvent.FAULT_WHILE_PAUSED]


@pytest.mark.parametrize("kind", [*LIMITS, Cause.QUOTA, Cause.CREDENTIALS])
def test_the_only_server_is_not_cooled_out_by_what_it_refuses(kind: Cause) -> None:
    only = ("red",)
    outcome = UNAUTHORIZED if kind is Cause.CREDENTIALS else PASSED
    here = situation(document(only), book({"red": outcome}, only), names=only, faults=refused(kind))
    decision = decide(here)
    assert decision.document is None
    assert NoteEvent.NO_SERVER in notes(decision)


@pytest.mark.parametrize("kind", [*LIMITS, Cause.QUOTA, Cause.CREDENTIALS])
def test_a_server_that_refused_comes_back_by_a_signed_probe_after_its_cool_down(
    kind: Cause,
) -> None:
    record = ServerRecord(cool_down_until=START - 0.5, cool_down_cause=kind)
    shared = replace(document(), servers={"green": record})
    health = book({"red": REFUSED, "green": PASSED})  # half a second before it ended
    health.probed(Probed(server="green", outcome=PASSED, signed=False), START)
    here = situation(shared, health)
    assert decide(here) == Decision(probe=("blue",), signed=("green",))
    health.probed(Probed(server="green", outcome=PASSED), START)
    assert changed(decide(here)).active_server == "green"


def test_the_silence_of_all_is_noted() -> None:
    decision = decide(situation(document(), book(dict.fromkeys(NAMES, SILENT))))
    assert notes(decision) == [NoteEvent.ALL_SILENT]


def test_lists_that_differ_are_noted() -> None:
    here = situation(document(), book(ALL_WELL))
    assert notes(decide(replace(here, lists=(NAMES, NAMES[:2])))) == [NoteEvent.LISTS_DIFFER]
    assert notes(decide(replace(here, lists=None))) == [], "they were not read yet"


def test_keys_that_differ_are_noted_though_the_names_are_alike() -> None:
    here = situation(document(), book(ALL_WELL), lists=(NAMES, NAMES))
    assert notes(decide(here)) == []
    assert notes(decide(replace(here, agreed=False))) == [NoteEvent.LISTS_DIFFER]
    assert notes(decide(replace(here, agreed=False, lists=None))) == []
