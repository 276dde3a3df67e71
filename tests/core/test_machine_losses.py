"""The machine: what the store lost, and what somebody wrote over the document."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.actions import Announce, Note, NoteEvent, Probe, Refused, Restore
from livekit_pool.core.document import Cause
from livekit_pool.core.events import (
    Change,
    ClockSet,
    Event,
    FaultSeen,
    FaultSource,
    Loaded,
    MarkAsked,
    Probed,
    RotateAsked,
    RowsSeen,
    SwapFailed,
    Tick,
)
from livekit_pool.core.health import Health, Settings
from livekit_pool.core.machine import PoolMachine
from tests.core.samples import (
    BACK,
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
    stepped,
    swap_of,
    swaps_of,
)

# --- lost data -----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
def test_what_the_store_lost_is_brought_back(kept: bool) -> None:
    pool = Pool()
    old = pool.document if kept else None
    newer = moved(pool.document, "blue")
    pool.feed(Loaded(document=newer))
    restore = restore_of(pool.feed(Loaded(document=old)))
    assert (restore.found, restore.document) == (old, replace(newer, revision=3))
    assert (restore.note.cause, restore.note.revision) == (Cause.RESTORED, 3)
    assert pool.feed(Loaded(document=old), Tick()) == [], "one at a time"
    assert pool.won(restore) == [Announce(document=restore.document, rotation=None)]
    assert pool.feed(Tick()) == []


def test_what_is_lost_again_is_brought_back_again() -> None:
    pool = Pool()
    first = restore_of(pool.feed(Loaded(document=None)))
    second = restore_of(pool.lost(first, None))
    assert second.operation != first.operation
    pool.feed(SwapFailed(operation=second.operation))
    assert pool.feed(Tick()) == [], "it may have been done"
    restore_of(pool.feed(Loaded(document=None)))
    assert pool.document == document()


def test_a_store_that_takes_nothing_and_does_not_say_why_is_asked_again_after_a_pause() -> None:
    pool = Pool()
    old = pool.document
    pool.feed(Loaded(document=moved(old, "blue")))
    first = restore_of(pool.feed(Loaded(document=old)))
    assert not any(isinstance(action, Restore) for action in pool.lost(first, old))
    pool.now += 1.0
    restore_of(pool.feed(Tick()))


def test_nothing_is_written_from_a_damaged_document_before_those_who_know_it_mended_it() -> None:
    pool = Pool(lists=(NAMES,))
    damaged = replace(moved(pool.document, "green"), repaired=True)
    pool.feed(Loaded(document=damaged))
    assert swaps_of(pool.feed(RotateAsked(request="r", reason="", actor="ann", to="blue"))) == []
    pool.now += 100.0
    assert not [each for each in pool.feed(ClockSet(by=100.0)) if isinstance(each, Restore)]
    pool.now += 12.0
    assert restore_of(pool.feed(Tick())).document == replace(damaged, revision=3)


def test_a_request_is_not_kept_waiting_for_them() -> None:
    pool = Pool(lists=(NAMES,))
    pool.feed(Loaded(document=replace(moved(pool.document, "green"), repaired=True)))
    pool.feed(RotateAsked(request="r", reason="", actor="ann", to="blue"))
    assert pool.feed(Tick()) == []
    pool.now += 5.0
    (refused,) = pool.feed(Tick())
    assert isinstance(refused, Refused)
    assert (refused.request, refused.code) == ("r", "store_unavailable")
    assert "Parts of the document in the store" in refused.message


@pytest.mark.parametrize(
    "fault",
    [
        Probed(server="green", outcome=REFUSED),
        Probed(server="green", outcome=UNAUTHORIZED, signed=True),
        FaultSeen(server="green", revision=2, kind=Cause.QUOTA, source=FaultSource.JOIN),
    ],
)
def test_a_server_that_serves_nobody_is_left_all_the_same(fault: Event) -> None:
    pool = Pool(lists=(NAMES,))
    pool.feed(*[Probed(server=name, outcome=PASSED, signed=True) for name in NAMES])
    pool.feed(Loaded(document=replace(moved(pool.document, "green"), repaired=True)))
    pool.now += 1.0
    pool.feed(Probed(server="red", outcome=PASSED, signed=True))
    actions = pool.feed(fault)
    if not swaps_of(actions):
        assert Probe(server="blue", signed=True) in actions
        actions = pool.feed(Probed(server="blue", outcome=PASSED, signed=True), fault)
    assert swap_of(actions).document.active_server == "blue"


def test_a_server_that_verifiably_lets_nobody_in_is_left_all_the_same() -> None:
    pool = Pool(lists=(NAMES,))
    damaged = replace(moved(pool.document, "green"), last_rotation=START - 60, repaired=True)
    pool.feed(Loaded(document=damaged))
    fault = FaultSeen(server="green", revision=2, kind=Cause.DOWN, source=FaultSource.VERIFIED)
    pool.probed("green", PASSED)
    swap = swap_of(pool.feed(fault, Probed(server="green", outcome=PASSED)))
    assert swap.document.active_server == "blue"


def test_meanwhile_nothing_is_written_but_the_rotation_away_from_it() -> None:
    """All refuse our key: it is our clock, and no reason to make what is damaged stand."""
    pool = Pool(lists=(NAMES,))
    pool.feed(
        Loaded(document=replace(moved(pool.document, "green"), server_count=9, repaired=True))
    )
    refused = [Probed(server=name, outcome=UNAUTHORIZED, signed=True) for name in NAMES]
    asked = RotateAsked(request="r", reason="", actor="ann", to="blue", force=True)
    events: list[Event] = [*refused, asked, Tick()]
    for event in events:
        assert swaps_of(pool.feed(event)) == []


def test_meanwhile_an_operator_may_leave_a_dead_server_of_a_paused_pool() -> None:
    pool = Pool(lists=(NAMES,))
    pool.feed(
        Loaded(document=replace(moved(pool.document, "green"), paused=MARK, repaired=True)),
        Probed(server="green", outcome=REFUSED),
    )
    swap = swap_of(pool.feed(RotateAsked(request="r", reason="", actor="ann", to="blue")))
    assert swap.document.active_server == "blue"


def test_meanwhile_nobodys_mark_is_written_or_answered() -> None:
    """Who has read the document whole may know of others."""
    pool = Pool(lists=(NAMES,))
    pool.feed(
        Loaded(document=replace(moved(pool.document, "green"), paused=MARK, repaired=True)),
        Probed(server="green", outcome=REFUSED),
    )
    for change, server in ((Change.DRAIN, "red"), (Change.UNDRAIN, "blue")):
        asked = MarkAsked(request=server, reason="", actor="ann", change=change, server=server)
        assert [each for each in pool.feed(asked) if not isinstance(each, Note)] == []
    pool.now += 5.0
    refused = [each for each in pool.feed(Tick()) if isinstance(each, Refused)]
    assert [each.code for each in refused] == ["store_unavailable"] * 2


def test_meanwhile_a_server_that_is_up_elsewhere_is_not_dead() -> None:
    pool = Pool(lists=(NAMES,))
    pool.feed(
        RowsSeen(lists=(NAMES, NAMES), elsewhere=({"red": True},)),
        Loaded(document=replace(drained(pool.document, "blue"), repaired=True)),
    )
    for _ in range(4):
        pool.probed("red", SILENT)
        pool.probed("green", PASSED)
    assert pool.machine.health("red") is Health.DOWN
    asked = RotateAsked(request="r", reason="", actor="ann", to="green")
    assert swaps_of(pool.feed(asked)) == []
    seen_elsewhere = RowsSeen(lists=(NAMES, NAMES), elsewhere=({"red": False},))
    assert swap_of(pool.feed(seen_elsewhere)).document.active_server == "green"


def test_meanwhile_a_foreign_rotation_comes_before_any_other() -> None:
    pool = Pool(lists=(NAMES,))
    foreign = replace(drained(pool.document, "red"), active_server_index=2, index_written=0)
    asked = RotateAsked(request="r", reason="", actor="ann", to="green")
    pool.feed(Loaded(document=replace(foreign, repaired=True)), asked)
    rotation = swap_of(pool.probed("red", REFUSED)).rotation
    assert rotation is not None
    assert (rotation.to, rotation.cause) == ("blue", Cause.FOREIGN)


@pytest.mark.parametrize("index", [0, 7])
def test_meanwhile_a_foreign_write_that_leads_nowhere_keeps_nobody(index: int) -> None:
    pool = Pool(lists=(NAMES,))
    foreign = replace(drained(pool.document, "blue"), active_server_index=index, index_written=1)
    pool.feed(Loaded(document=replace(foreign, repaired=True)))
    assert swap_of(pool.probed("red", REFUSED)).document.active_server == "green"


def test_meanwhile_a_foreign_write_is_not_written_back() -> None:
    pool = Pool(lists=(NAMES,))
    foreign = replace(drained(pool.document, "blue"), active_server_index=1, index_written=0)
    pool.feed(Loaded(document=replace(foreign, paused=MARK, repaired=True)))
    assert swaps_of(pool.probed("red", REFUSED)) == []


def test_meanwhile_a_foreign_rotation_waits_as_well_if_nobody_is_known_to_be_dead() -> None:
    pool = stepped()
    foreign = replace(drained(pool.document, "blue"), active_server_index=1, index_written=0)
    pool.probed("red", PASSED)
    damaged = Loaded(document=replace(foreign, servers={}, repaired=True))
    assert swaps_of(pool.feed(damaged, RowsSeen(lists=(NAMES, NAMES)), BACK)) == []


@pytest.mark.parametrize("before", [1, 2])
def test_the_patience_with_a_foreign_rotation_is_counted_from_when_it_is_looked_at(
    before: int,
) -> None:
    pool = Pool(outcomes={"red": PASSED}, lists=(NAMES,))
    foreign = replace(pool.document, active_server_index=2, index_written=0)
    pool.feed(Loaded(document=replace(foreign, active_server_index=before)))
    damaged = replace(pool.document, revision=5, index_written=None, repaired=True)
    pool.feed(Loaded(document=replace(damaged, active_server_index=0)))
    pool.now += 11.0
    pool.feed(Loaded(document=replace(foreign, revision=5, repaired=True)))
    pool.now += 2.0
    mend = restore_of(pool.feed(Tick()))
    assert Probe(server="blue") in pool.won(mend)


def test_a_foreign_rotation_that_follows_another_has_its_own_patience() -> None:
    pool = Pool(outcomes={"red": PASSED}, lists=(NAMES,))
    foreign = replace(pool.document, active_server_index=1, index_written=0)
    pool.feed(Loaded(document=foreign))
    pool.now += Settings().patience - 0.1
    pool.feed(Loaded(document=replace(foreign, active_server_index=2)))
    pool.now += 1.0
    assert swaps_of(pool.feed(Tick())) == []
    swap = swap_of(pool.probed("blue", PASSED))
    assert swap.document.active_server == "blue"


def test_a_foreign_rotation_is_looked_at_after_the_wait() -> None:
    pool = Pool(outcomes={"red": PASSED}, lists=(NAMES,))
    foreign = replace(pool.document, revision=5, active_server_index=2, index_written=0)
    pool.feed(Loaded(document=replace(foreign, repaired=True)))
    pool.now += 12.0
    mend = restore_of(pool.feed(Tick()))
    assert Probe(server="blue") in pool.won(mend)


def test_each_damaged_document_is_waited_for() -> None:
    pool = Pool(lists=(NAMES,))
    damaged = replace(moved(pool.document, "green"), repaired=True)
    pool.feed(Loaded(document=damaged))
    pool.now += 12.0
    mend = restore_of(pool.feed(Tick()))
    pool.lost(mend, replace(damaged, revision=5))
    asked = RotateAsked(request="r", reason="", actor="ann", to="blue")
    assert pool.feed(asked) == []


def test_so_may_one_whose_foreign_client_wrote_what_leads_nowhere() -> None:
    pool = Pool(lists=(NAMES,))
    foreign = replace(moved(pool.document, "green"), active_server_index=2, index_written=1)
    pool.feed(
        Loaded(document=replace(foreign, paused=MARK, repaired=True)),
        Probed(server="green", outcome=REFUSED),
    )
    swap = swap_of(pool.feed(RotateAsked(request="r", reason="", actor="ann", to="red")))
    assert swap.document.active_server == "red"


def test_meanwhile_a_step_is_not_made_a_rotation_before_the_server_is_asked_again() -> None:
    pool = stepped()
    damaged = replace(pool.document, revision=2, active_since=1, repaired=True)
    actions = pool.feed(
        Loaded(document=damaged),
        RowsSeen(lists=(NAMES, NAMES), elsewhere=({"red": True},)),
        BACK,
    )
    assert swaps_of(actions) == []


def test_meanwhile_a_step_whose_server_is_well_again_ends() -> None:
    pool = stepped()
    damaged = replace(pool.document, revision=2, active_since=1, repaired=True)
    pool.feed(Loaded(document=damaged), RowsSeen(lists=(NAMES, NAMES)), BACK)
    assert pool.machine.active_server == "green"
    actions = pool.probed("red", PASSED, times=2)
    assert (swaps_of(actions), notes_of(actions)) == ([], [NoteEvent.STEP_UNDONE])
    assert pool.machine.active_server == "red"


def test_a_foreign_write_into_what_was_known_whole_is_answered_though_it_is_damaged() -> None:
    pool = Pool()
    foreign = replace(pool.document, active_server_index=2, index_written=0, repaired=True)
    pool = Pool(outcomes={"red": PASSED}, lists=(NAMES,))
    pool.feed(Loaded(document=foreign), Loaded(document=foreign))
    swap = swap_of(pool.probed("blue", PASSED))
    assert swap.document.active_server == "blue"


def test_nonsense_in_a_document_of_the_original_system_moves_nobody() -> None:
    original = replace(document(), revision=0, active_since=0)
    blue = replace(original, active_server="blue", active_server_index=2)
    pool = Pool(shared=blue, lists=(NAMES[:2],))
    pool.feed(Loaded(document=replace(original, repaired=True)))
    assert pool.document == blue
    assert swap_of(pool.feed(RowsSeen(lists=(NAMES,)))).document.active_server == "blue"


def test_who_is_alone_waits_for_nobody_to_put_a_damaged_document_right() -> None:
    pool = Pool()
    damaged = replace(moved(pool.document, "green"), repaired=True)
    restore = restore_of(pool.feed(Loaded(document=damaged)))
    assert restore.document == replace(damaged, revision=3)


def test_bringing_back_makes_no_fault_late() -> None:
    pool = Pool()
    fault = FaultSeen(server="red", revision=1, kind=Cause.DOWN, source=FaultSource.JOIN)
    pool.feed(fault, fault)
    pool.won(restore_of(pool.feed(Loaded(document=None))))
    pool.feed(fault)
    assert swap_of(pool.probed("red", PASSED)).document.active_server == "green"


def test_what_the_store_lost_is_brought_back_before_anything_else() -> None:
    pool = Pool()
    restore = restore_of(pool.feed(Loaded(document=None)))
    asked = RotateAsked(request="r", reason="because", actor="ann")
    assert swaps_of(pool.feed(asked, Probed(server="red", outcome=REFUSED))) == []
    swap = swap_of(pool.won(restore))
    assert (swap.expected, swap.rotation and swap.rotation.cause) == (2, Cause.MANUAL)


def test_a_machine_that_holds_nothing_brings_nothing_back() -> None:
    assert PoolMachine(NAMES, Settings(), "p").receive(Loaded(document=None), START) == []


# --- another lineage -----------------------------------------------------------------------

OLDER = replace(document(), lineage="K", created_at=START - 60)
YOUNGER = replace(document(), lineage="M", created_at=START + 60)


def test_an_older_lineage_is_followed() -> None:
    pool = Pool()
    other = replace(moved(moved(OLDER, "green"), "blue"), servers={})
    assert pool.feed(Loaded(document=other)) == [
        Probe(server="blue"),
        Announce(document=other, rotation=other.rotation("red")),
    ]


@pytest.mark.parametrize("revision", [1, 2])
def test_an_older_lineage_that_would_be_a_step_back_is_first_raised(revision: int) -> None:
    pool = Pool()
    pool.feed(Loaded(document=moved(pool.document, "blue")))
    other = replace(OLDER, revision=revision)
    restore = restore_of(pool.feed(Loaded(document=other)))
    assert pool.document.active_server == "blue"
    assert (restore.found, restore.document) == (other, replace(other, revision=3))
    (announce,) = [a for a in pool.won(restore) if isinstance(a, Announce)]
    assert announce.document == restore.document
    assert announce.rotation is not None
    assert (announce.rotation.from_, announce.rotation.to) == ("blue", "red")
    assert announce.rotation.revision == 3, "nobody is told an older revision after a newer one"


def test_a_rotation_that_is_followed_is_told_above_what_was_told_before() -> None:
    pool = Pool()
    pool.feed(Loaded(document=replace(moved(pool.document, "blue"), revision=5, active_since=5)))
    forked = replace(document(), revision=6)  # by who had not read revision 5 before it was lost
    announce = pool.feed(Loaded(document=forked))[-1]
    assert isinstance(announce, Announce)
    assert announce.rotation is not None
    assert (announce.rotation.to, announce.rotation.revision) == ("red", 6)


def test_a_younger_lineage_is_replaced_whatever_its_revision() -> None:
    pool = Pool()
    theirs = replace(YOUNGER, revision=40)
    restore = restore_of(pool.feed(Loaded(document=theirs)))
    assert (restore.found, restore.document) == (theirs, replace(document(), revision=41))
    assert pool.won(restore) == [Announce(document=restore.document, rotation=None)]


# --- a document that somebody wrote over ---------------------------------------------------


def test_a_document_that_somebody_edited_is_mended_without_a_hurry() -> None:
    pool = Pool()
    before = pool.document
    edited = replace(before, active_server="blue")
    restore = restore_of(pool.feed(Loaded(document=edited)))
    assert (restore.found, restore.document) == (edited, replace(before, revision=2))
    pool.won(restore)
    edited = replace(restore.document, active_server="blue")
    assert pool.feed(Loaded(document=edited), Tick()) == []
    assert pool.document.active_server == "red"
    pool.now += 10
    assert restore_of(pool.feed(Tick())).document == replace(before, revision=3)


def test_what_clients_write_in_a_document_of_the_original_system_is_followed() -> None:
    original = replace(document(), revision=0, active_since=0)
    pool = Pool(shared=original, lists=(NAMES[:2],))
    rotated = replace(original, active_server="blue", active_server_index=2)
    assert swaps_of(pool.feed(Probed(server="red", outcome=FAILED))) == []
    announce = pool.feed(Loaded(document=rotated))[-1]
    assert isinstance(announce, Announce)
    assert announce.rotation is not None
    assert (announce.rotation.from_, announce.rotation.to) == ("red", "blue")
    assert pool.document == rotated
    swap = swap_of(pool.feed(RowsSeen(lists=(NAMES,))))
    assert (swap.expected, swap.document) == (0, replace(rotated, revision=1, active_since=1))


def test_a_fault_of_the_server_that_an_original_client_left_is_not_held_against_the_next() -> None:
    original = replace(document(), revision=0, active_since=0)
    pool = Pool(shared=original, lists=(NAMES[:2],))
    fault = FaultSeen(server="red", revision=0, kind=Cause.DOWN, source=FaultSource.JOIN)
    pool.feed(fault, fault)
    pool.feed(Loaded(document=replace(original, active_server="green", active_server_index=1)))
    fault = replace(fault, server="green")
    assert swaps_of(pool.feed(fault, Probed(server="green", outcome=PASSED))) == []


def test_a_foreign_write_of_an_older_document_is_old_news() -> None:
    pool = Pool()
    foreign = replace(pool.document, active_server_index=2, index_written=0)
    newer = drained(pool.document, "green")
    pool.feed(Loaded(document=newer))
    restore = restore_of(pool.feed(Loaded(document=foreign)))
    assert (restore.found, restore.document) == (foreign, replace(newer, revision=3))
    assert pool.document == newer


def test_a_foreign_write_into_an_edited_document_rotates_nothing() -> None:
    pool = Pool()
    before = pool.document
    edited = replace(before, active_server="blue", active_server_index=2, index_written=0)
    restore = restore_of(pool.feed(Loaded(document=edited)))
    assert (pool.document, restore.document) == (before, replace(before, revision=2))
