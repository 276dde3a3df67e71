"""The machine: what it follows, the one swap under way, requests, and what it answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from livekit_pool.core.actions import Announce, NoteEvent, Probe, Swap
from livekit_pool.core.document import Cause, ServerRecord
from livekit_pool.core.events import (
    FaultSeen,
    FaultSource,
    JoinAnswered,
    Loaded,
    Probed,
    ProbeOutcome,
    RotateAsked,
    RowsSeen,
    SwapAnswered,
    SwapFailed,
    Tick,
)
from livekit_pool.core.health import Health, Settings
from livekit_pool.core.machine import PoolMachine, Role
from tests.core.samples import (
    FAILED,
    MARK,
    NAMES,
    PASSED,
    REFUSED,
    SILENT,
    START,
    UNAUTHORIZED,
    Pool,
    document,
    drained,
    moved,
    notes_of,
    restore_of,
    swap_of,
    swaps_of,
)


def fault(
    server: str = "red", revision: int = 1, source: FaultSource = FaultSource.JOIN
) -> FaultSeen:
    return FaultSeen(server=server, revision=revision, kind=Cause.DOWN, source=source)


def ask(request: str = "r1", to: str | None = None, expected: int | None = None) -> RotateAsked:
    return RotateAsked(
        request=request, reason="because", actor="ann", to=to, expected_revision=expected
    )


# --- following the document ----------------------------------------------------------------


def test_before_there_is_a_document_nothing_is_decided() -> None:
    machine = PoolMachine(NAMES, Settings(), "p")
    assert machine.receive(Probed(server="red", outcome=REFUSED), START) == []
    assert machine.receive(Tick(), START) == []
    assert machine.receive(fault(), START) == [Probe(server="red")]
    assert machine.document is None
    assert not machine.available("red", START)
    assert machine.role("red", START) is Role.STANDBY
    assert machine.retry_after(START) == 1


def test_the_first_document_is_announced_and_its_active_server_probed() -> None:
    machine = PoolMachine(NAMES, Settings(), "p")
    assert machine.receive(Loaded(document=document()), START) == [
        Probe(server="red"),
        Announce(document=document(), rotation=None),
    ]


def test_a_newer_document_is_announced_with_its_rotation() -> None:
    pool = Pool()
    newer = moved(pool.document, "blue")
    announce = pool.feed(Loaded(document=newer))[-1]
    assert announce == Announce(document=newer, rotation=newer.rotation("red"))
    assert pool.feed(Loaded(document=newer)) == [], "once"


def test_a_drain_is_announced_without_a_rotation() -> None:
    pool = Pool()
    newer = drained(pool.document, "blue")
    assert pool.feed(Loaded(document=newer)) == [Announce(document=newer, rotation=None)]


def test_away_and_back_unseen_is_announced_without_a_rotation() -> None:
    pool = Pool()
    back = moved(moved(pool.document, "blue"), "red")
    assert pool.feed(Loaded(document=back)) == [
        Probe(server="red"),
        Announce(document=back, rotation=None),
    ]


def test_old_news_is_not_followed() -> None:
    pool = Pool()
    old = pool.document
    newer = moved(old, "blue")
    pool.feed(Loaded(document=newer))
    restore = restore_of(pool.feed(Loaded(document=old)))
    assert pool.document == newer
    assert pool.lost(restore, newer) == [], "it was but late: the store holds the newer one"


def test_one_revision_is_one_document() -> None:
    pool = Pool()
    before = pool.document
    assert pool.feed(Loaded(document=replace(before, reason="another"))) == []
    assert pool.document == before


def test_an_active_server_that_is_not_ours_is_not_probed() -> None:
    pool = Pool()
    foreign = replace(pool.document, revision=2, active_since=2, active_server="purple")
    assert Probe(server="purple") not in pool.feed(Loaded(document=foreign))


def test_a_foreign_write_is_seen_though_it_has_no_revision() -> None:
    pool = Pool()
    foreign = replace(pool.document, active_server_index=2, index_written=0)
    swap = swap_of(pool.feed(Loaded(document=foreign)))
    assert swap.rotation is not None
    assert (swap.rotation.to, swap.rotation.cause) == ("blue", Cause.FOREIGN)
    assert pool.won(swap)[-1] == Announce(document=swap.document, rotation=swap.rotation)


def test_each_foreign_rotation_waits_for_a_probe_as_long_as_a_request_does() -> None:
    pool = Pool(outcomes={"red": PASSED})
    for _ in range(2):
        foreign = replace(pool.document, active_server_index=2, index_written=0)
        assert pool.feed(Loaded(document=foreign)) == [Probe(server="blue")]
        pool.now += 4
        assert pool.feed(Tick()) == [Probe(server="blue")]
        pool.now += 4
        swap = swap_of(pool.feed(Tick()))
        assert swap.document.active_server == "red"
        pool.won(swap)


def test_a_foreign_rotation_to_a_dead_server_is_undone_once() -> None:
    pool = Pool()
    pool.probed("blue", REFUSED)
    foreign = replace(pool.document, active_server_index=2, index_written=0)
    actions = pool.feed(Loaded(document=foreign))
    swap = swap_of(actions)
    assert notes_of(actions) == [NoteEvent.FOREIGN_WRITTEN_BACK]
    assert swap.document.active_server_index == 0
    assert pool.won(swap) == [Announce(document=swap.document, rotation=None)]
    assert pool.feed(Tick()) == []


# --- one swap under way --------------------------------------------------------------------


def test_while_a_swap_is_under_way_there_is_no_other() -> None:
    pool = Pool()
    swap = swap_of(pool.probed("red", REFUSED))
    assert (swap.expected, swap.operation) == (1, "p-1")
    assert swaps_of(pool.feed(Tick())) == []
    assert swaps_of(pool.probed("red", REFUSED)) == []
    assert swaps_of(pool.feed(ask(to="blue"))) == []


def test_a_swap_that_won_is_announced_with_its_reports() -> None:
    pool = Pool()
    pool.feed(*[fault(source=FaultSource.SOCKET)] * 7)
    swap = swap_of(pool.probed("red", REFUSED))
    assert pool.won(swap) == [
        Probe(server="green"),
        Announce(document=swap.document, rotation=swap.rotation),
    ]
    assert swap.rotation is not None
    assert swap.rotation.reports == 7


def test_the_notice_of_an_own_swap_may_come_first() -> None:
    pool = Pool()
    pool.feed(*[fault(source=FaultSource.SOCKET)] * 7)
    swap = swap_of(pool.probed("red", REFUSED))
    actions = pool.feed(Loaded(document=swap.document))
    assert actions[-1] == Announce(document=swap.document, rotation=swap.rotation)
    assert pool.won(swap) == []


def test_a_fault_that_somebody_else_answered_is_not_answered_again() -> None:
    pool = Pool()
    swap = swap_of(pool.probed("red", REFUSED))
    theirs = moved(pool.document, "blue")
    actions = pool.lost(swap, theirs)
    assert swaps_of(actions) == []
    assert Announce(document=theirs, rotation=theirs.rotation("red")) in actions
    assert swaps_of(pool.feed(Tick())) == []
    assert pool.document == theirs


def test_a_true_fault_outlives_a_drain_of_another_server() -> None:
    pool = Pool()
    swap = swap_of(pool.probed("red", REFUSED))
    again = swap_of(pool.lost(swap, drained(pool.document, "green")))
    assert (again.expected, again.operation) == (2, "p-2")
    assert again.rotation is not None
    assert again.rotation.to == "blue"


def test_red_green_red_needs_new_evidence() -> None:
    pool = Pool()
    swap = swap_of(pool.probed("red", REFUSED))
    actions = pool.lost(swap, moved(moved(pool.document, "green"), "red"))
    assert swaps_of(actions) == []
    assert Probe(server="red") in actions
    assert swaps_of(pool.probed("red", PASSED)) == []
    assert swap_of(pool.probed("red", REFUSED)).expected == 3


def test_a_probe_that_began_before_the_rotation_back_is_repeated() -> None:
    pool = Pool()
    began = pool.now
    pool.feed(Loaded(document=moved(moved(pool.document, "green"), "red")))
    assert pool.feed(Probed(server="red", outcome=REFUSED, began=began)) == [Probe(server="red")]


def test_after_a_lost_answer_it_waits_for_the_document() -> None:
    pool = Pool()
    swap = swap_of(pool.probed("red", REFUSED))
    assert pool.feed(SwapFailed(operation=swap.operation)) == []
    assert pool.feed(Tick()) == []
    again = swap_of(pool.feed(Loaded(document=pool.document)))
    assert again.operation != swap.operation


def test_after_a_lost_answer_the_document_may_show_that_it_won() -> None:
    pool = Pool()
    swap = swap_of(pool.probed("red", REFUSED))
    pool.feed(SwapFailed(operation=swap.operation))
    actions = pool.feed(Loaded(document=swap.document))
    assert actions == [
        Probe(server="green"),
        Announce(document=swap.document, rotation=swap.rotation),
    ]


def test_a_store_that_answers_and_takes_nothing_is_not_asked_without_end() -> None:
    pool = Pool()
    actions = pool.probed("red", REFUSED)
    asked, begin = [], pool.now
    while pool.now < begin + 60:
        if not (swaps := swaps_of(actions)):
            actions = pool.probed("green", PASSED) + pool.probed("red", REFUSED)
            continue
        asked.append(pool.now - begin)
        pool.feed(SwapFailed(operation=swaps[0].operation))
        actions = pool.feed(Loaded(document=pool.document))
    waited = [later - before for before, later in pairwise(asked)]
    assert waited[0] < 0.1, "the first failure may be an outage that is over"
    assert waited[1:7] == pytest.approx([0.25, 0.5, 1, 2, 4, 5], abs=0.1)
    assert max(waited) == pytest.approx(5, abs=0.1)

    pool.now += 5
    assert pool.won(swap_of(pool.probed("green", PASSED) + pool.probed("red", REFUSED)))
    pool.now += 60
    pool.probed("blue", PASSED)
    swap = swap_of(pool.probed(pool.document.active_server, REFUSED))
    pool.feed(SwapFailed(operation=swap.operation))
    assert swaps_of(pool.feed(Loaded(document=pool.document))), "after a success it is forgiven"


def test_the_failure_of_another_operation_changes_nothing() -> None:
    pool = Pool()
    swap = swap_of(pool.probed("red", REFUSED))
    pool.feed(SwapFailed(operation="p-99"))
    assert swaps_of(pool.feed(Loaded(document=pool.document))) == []
    other = SwapAnswered(operation="p-99", won=True, document=pool.document)
    assert swaps_of(pool.feed(other)) == []
    assert pool.won(swap)


def test_after_the_store_was_away_a_failure_is_looked_at_again() -> None:
    pool = Pool()
    swap = swap_of(pool.probed("red", REFUSED))
    pool.feed(SwapFailed(operation=swap.operation))
    pool.now += 30
    assert pool.feed(Loaded(document=pool.document)) == [Probe(server="red")]
    assert swap_of(pool.probed("red", REFUSED)).expected == 1


# --- faults --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [FaultSource.SOCKET, FaultSource.SHUTDOWN, FaultSource.JOIN])
def test_a_fault_is_probed_at_once_and_forgiven_if_that_passes(source: FaultSource) -> None:
    pool = Pool()
    assert pool.feed(fault(source=source)) == [Probe(server="red")]
    assert pool.probed("red", PASSED) == []


def test_a_probe_that_began_before_the_fault_forgives_nothing() -> None:
    pool = Pool()
    began = pool.now
    pool.feed(fault())
    assert pool.feed(Probed(server="red", outcome=PASSED, began=began)) == [Probe(server="red")]


def test_a_probe_that_stalled_says_nothing_of_a_fault() -> None:
    pool = Pool()
    stalled = Probed(server="red", outcome=SILENT, stalled=True)
    assert pool.feed(stalled) == []
    pool.feed(fault())
    assert pool.feed(stalled) == [Probe(server="red")]
    assert pool.probed("red", SILENT) == [], "it was told: the next round goes on"
    actions = pool.feed(Probed(server="red", outcome=REFUSED, stalled=True))
    assert [type(action) for action in actions] == [Swap], "a refusal is one all the same"


@pytest.mark.parametrize("server", ["red", "green"])
@pytest.mark.parametrize("outcome", [REFUSED, FAILED, SILENT])
def test_a_call_that_fails_makes_it_look_again_at_once(outcome: ProbeOutcome, server: str) -> None:
    pool = Pool()
    failed = Probed(server=server, outcome=outcome, call=True)
    assert pool.feed(failed) == [Probe(server=server)]
    assert pool.feed(replace(failed, outcome=PASSED)) == []
    assert pool.machine.health(server) is Health.UP


def test_a_call_that_an_own_stall_silenced_makes_it_look_at_nobody() -> None:
    pool = Pool()
    silenced = Probed(server="green", outcome=SILENT, call=True, stalled=True)
    assert pool.feed(silenced) == []


def test_three_failed_joins_rotate_if_the_probes_pass() -> None:
    pool = Pool()
    pool.feed(fault(), fault(), fault())
    swap = swap_of(pool.probed("red", PASSED))
    assert swap.rotation is not None
    assert swap.rotation.reports == 3


def test_joins_that_fail_while_the_server_is_silent_do_not_count() -> None:
    pool = Pool()
    pool.probed("red", SILENT)
    pool.feed(fault(), fault(), fault())
    assert pool.probed("red", PASSED) == []


def test_failed_joins_count_where_only_another_process_probes() -> None:
    pool = Pool(outcomes={"green": PASSED})
    pool.feed(fault(), fault(), fault())
    assert swaps_of(pool.probed("red", PASSED))


def test_an_answered_join_starts_the_count_anew() -> None:
    pool = Pool()
    pool.feed(fault(), fault(), JoinAnswered(server="red"), fault())
    assert pool.probed("red", PASSED) == []


def test_a_join_answered_by_another_server_does_not() -> None:
    pool = Pool()
    pool.feed(fault(), fault(), JoinAnswered(server="green"), fault())
    assert swaps_of(pool.probed("red", PASSED))


def test_failed_joins_outlive_a_drain_of_another_server() -> None:
    pool = Pool()
    pool.feed(fault(), fault(), Loaded(document=drained(pool.document, "green")), fault())
    assert swap_of(pool.probed("red", PASSED)).document.active_server == "blue"


def test_late_faults_do_not_count() -> None:
    pool = Pool()
    pool.feed(Loaded(document=moved(moved(pool.document, "green"), "red")), *[fault()] * 5)
    pool.now += 20
    assert pool.probed("red", PASSED) == []
    pool.feed(*[fault(revision=3)] * 3)
    assert swaps_of(pool.probed("red", PASSED))


def test_what_another_server_answers_proves_nothing() -> None:
    pool = Pool()
    pool.feed(fault(), fault(), fault())
    assert pool.probed("green", PASSED) == []
    assert swaps_of(pool.probed("red", PASSED))


def test_a_fault_of_a_newer_document_counts_when_that_is_followed() -> None:
    pool = Pool()
    newer = moved(pool.document, "green")
    pool.feed(*[fault("green", revision=2)] * 3)
    pool.feed(Loaded(document=newer))
    pool.now += 20
    assert swap_of(pool.probed("green", PASSED)).document.active_server == "blue"


def test_a_fault_of_another_lineage_never_counts() -> None:
    pool = Pool()
    pool.feed(*[fault("green", revision=2)] * 3)
    pool.feed(Loaded(document=replace(moved(pool.document, "green"), lineage="M")))
    pool.now += 20
    assert pool.probed("green", PASSED) == []


def test_a_fault_of_a_server_that_is_not_ours_is_not_probed() -> None:
    assert Pool().feed(fault("purple")) == []


def test_the_silence_of_the_active_server_is_checked_with_the_others() -> None:
    pool = Pool()
    assert pool.probed("red", SILENT, times=2) == []
    assert pool.probed("red", SILENT) == [Probe(server="green"), Probe(server="blue")]
    assert swap_of(pool.probed("green", PASSED)).document.active_server == "green"


def test_the_silence_of_a_standby_is_checked_with_the_others() -> None:
    pool = Pool()
    assert pool.probed("blue", SILENT, times=3) == [Probe(server="red"), Probe(server="green")]
    pool.probed("red", PASSED)
    assert pool.machine.health("blue") is Health.DOWN


def test_the_active_server_is_checked_with_the_others_also_when_it_was_down_before() -> None:
    pool = Pool(shared=replace(document(), paused=MARK))
    pool.probed("red", REFUSED)
    assert pool.probed("red", SILENT, times=3) == [Probe(server="green"), Probe(server="blue")]


def test_the_silence_of_a_server_that_is_down_bothers_nobody() -> None:
    pool = Pool()
    pool.probed("blue", REFUSED)
    assert pool.probed("blue", SILENT, times=5) == []


# --- what it answers -----------------------------------------------------------------------


def test_roles() -> None:
    shared = replace(
        document(("red", "green", "blue", "black", "white")),
        servers={
            "green": ServerRecord(cool_down_until=START + 60),
            "blue": ServerRecord(drained=MARK, cool_down_until=START + 60),
        },
    )
    names = ("red", "green", "blue", "black", "white")
    pool = Pool(names, shared, {**dict.fromkeys(names, PASSED), "black": UNAUTHORIZED})
    assert [pool.machine.role(name, pool.now) for name in names] == [
        Role.ACTIVE,
        Role.COOLING,
        Role.DRAINED,
        Role.MISCONFIGURED,
        Role.STANDBY,
    ]
    assert [name for name in names if pool.machine.available(name, pool.now)] == ["red", "white"]
    assert pool.machine.role("green", START + 60) is Role.STANDBY
    assert not pool.machine.available("purple", pool.now)


def test_health_knows_nothing_of_cool_down() -> None:
    shared = replace(document(), servers={"green": ServerRecord(cool_down_until=START + 60)})
    pool = Pool(shared=shared)
    assert pool.machine.health("green") is Health.UP
    assert pool.machine.role("green", pool.now) is Role.COOLING


def test_a_server_is_joinable_until_it_is_down() -> None:
    pool = Pool(outcomes={"green": REFUSED})
    assert pool.machine.joinable("red", pool.now)
    assert not pool.machine.joinable("green", pool.now)
    assert not pool.machine.joinable("purple", pool.now)


def test_health_is_heard_from_the_process_that_probes() -> None:
    pool = Pool(outcomes={})
    pool.feed(RowsSeen(lists=(NAMES,), health={"green": True, "blue": False}))
    assert pool.machine.health("green") is Health.UP
    assert not pool.machine.joinable("blue", pool.now)
    assert swap_of(pool.probed("red", REFUSED)).document.active_server == "green"


def test_refused_clients_are_told_to_come_back_later_and_later() -> None:
    pool = Pool(outcomes=dict.fromkeys(NAMES, REFUSED))
    waits = []
    for _ in range(6):
        pool.feed(Tick())
        waits.append(pool.machine.retry_after(pool.now))
        pool.now += 12
    assert waits == [1, 4, 7, 10, 10, 10]
    pool.probed("red", PASSED, times=2)
    assert pool.machine.retry_after(pool.now) == 1


def test_a_note_is_told_once_until_it_has_ended() -> None:
    pool = Pool()
    pool.probed("green", REFUSED)
    pool.probed("blue", REFUSED)
    assert notes_of(pool.probed("red", REFUSED)) == [NoteEvent.NO_SERVER]
    assert pool.feed(Tick(), Tick()) == []
    pool.probed("red", PASSED)
    assert notes_of(pool.probed("red", REFUSED)) == [NoteEvent.NO_SERVER]


def test_silence_without_a_second_witness_waits_for_one() -> None:
    pool = Pool()
    pool.feed(RowsSeen(lists=(NAMES,), elsewhere=({"red": True},)))
    pool.probed("red", SILENT, times=3)
    assert notes_of(pool.probed("green", PASSED)) == [NoteEvent.UNWITNESSED]
    assert pool.machine.wants_witness
    down = RowsSeen(lists=(NAMES,), elsewhere=({"red": False},))
    assert swap_of(pool.feed(down)).document.active_server == "green"


def test_nobody_wants_a_witness_against_a_server_that_answers_again() -> None:
    pool = Pool()
    pool.feed(RowsSeen(lists=(NAMES,), elsewhere=({},)))
    pool.probed("red", SILENT, times=3)
    wanted = [pool.machine.wants_witness]
    pool.probed("green", PASSED)
    wanted.append(pool.machine.wants_witness)
    pool.probed("red", PASSED)
    wanted.append(pool.machine.wants_witness)
    assert wanted == [False, True, False]


def test_keys_that_differ_are_told() -> None:
    pool = Pool()
    rows = RowsSeen(lists=(NAMES, NAMES), agreed=False)
    assert notes_of(pool.feed(rows)) == [NoteEvent.LISTS_DIFFER]
    assert pool.feed(rows) == [], "once"
    assert pool.feed(replace(rows, agreed=True)) == []


def test_everybody_is_sent_to_the_active_server_once_there_is_one() -> None:
    machine = PoolMachine(NAMES, Settings(), "p")
    assert (machine.active_server, machine.step) == ("", None)
    machine.receive(Loaded(document=moved(document(), "blue")), START)
    assert (machine.active_server, machine.step) == ("blue", None)


def test_the_silence_of_all_suspends_judgement() -> None:
    pool = Pool()
    pool.probed("red", SILENT)
    pool.probed("green", SILENT)
    before = pool.machine.suspended
    assert notes_of(pool.probed("blue", SILENT)) == [NoteEvent.ALL_SILENT]
    assert (before, pool.machine.suspended) == (False, True)


def test_participants_of_all_processes_set_the_pace() -> None:
    pool = Pool()
    pool.feed(RowsSeen(lists=(NAMES,), participants=1000))
    swap = swap_of(pool.probed("red", REFUSED))
    assert swap.rotation is not None
    assert swap.rotation.window == swap.document.window == 5.0


def test_a_foreign_rotation_is_answered_before_an_operators() -> None:
    pool = Pool()
    foreign = replace(pool.document, active_server_index=2, index_written=0)
    first = swap_of(pool.feed(ask(to="green")))
    theirs = swap_of(pool.lost(first, foreign))
    assert theirs.rotation is not None
    assert (theirs.rotation.cause, theirs.rotation.to) == (Cause.FOREIGN, "blue")
    ours = swap_of(pool.won(theirs))
    assert ours.rotation is not None
    assert (ours.rotation.cause, ours.rotation.to) == (Cause.MANUAL, "green")


def test_a_refusal_that_nothing_explains_is_not_answered_at_once() -> None:
    """As when somebody edited a database so that what is read is not what is compared."""
    pool = Pool()
    asked = swap_of(pool.feed(ask(to="green")))
    assert swaps_of(pool.lost(asked, pool.document)) == []
    assert swaps_of(pool.feed(Tick())) == []
    pool.now += 0.3
    assert swap_of(pool.feed(Tick())).document.active_server == "green"
