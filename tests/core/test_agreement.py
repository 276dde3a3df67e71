"""Which document stands: the one that is held, or the one that the store has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.agreement import Finding, Losses, compare
from livekit_pool.core.document import Cause, Document, Mark, ServerRecord
from tests.core.samples import MARK, START, document, drained, moved

RECORD = ServerRecord(cool_down_until=START + 5, cool_down_cause=Cause.DOWN, failures=2)
HELD = replace(moved(document(), "blue"), paused=MARK, servers={"red": RECORD})
DRAINED = replace(RECORD, drained=MARK)
OLDER_LINEAGE = replace(HELD, lineage="A", created_at=START - 1)
YOUNGER_LINEAGE = replace(HELD, lineage="A", created_at=START + 1)
FOREIGN = replace(HELD, active_server_index=1, index_written=2)
DAMAGED = replace(HELD, repaired=True)


def at(base: Document, revision: int) -> Document:
    return replace(base, revision=revision)


# --- what a document is to who holds another -----------------------------------------------


@pytest.mark.parametrize(
    ("found", "finding"),
    [
        (HELD, Finding.SAME),
        (None, Finding.OLDER),
        (at(HELD, 3), Finding.NEWER),
        (at(HELD, 1), Finding.OLDER),
        (FOREIGN, Finding.FOREIGN),
        (DAMAGED, Finding.DAMAGED),
        (replace(FOREIGN, repaired=True), Finding.FOREIGN),
        (at(DAMAGED, 3), Finding.NEWER),
        (at(DAMAGED, 1), Finding.OLDER),
        (at(FOREIGN, 3), Finding.NEWER),
        (at(FOREIGN, 1), Finding.OLDER),
        # Of two lineages the older one stands, unless that would be a step back.
        (at(OLDER_LINEAGE, 3), Finding.NEWER),
        (at(OLDER_LINEAGE, 2), Finding.LOWER),
        (at(OLDER_LINEAGE, 1), Finding.LOWER),
        (at(YOUNGER_LINEAGE, 3), Finding.OLDER),
        (at(YOUNGER_LINEAGE, 2), Finding.OLDER),
        (at(YOUNGER_LINEAGE, 1), Finding.OLDER),
        # Created in one millisecond: the name decides, for everybody alike.
        (replace(HELD, lineage="K", revision=3), Finding.NEWER),
        (replace(HELD, lineage="K"), Finding.LOWER),
        (replace(HELD, lineage="M", revision=3), Finding.OLDER),
        (replace(HELD, lineage="M", created_at=START - 0.0004), Finding.OLDER),
        (replace(HELD, lineage="M", created_at=START - 0.001), Finding.LOWER),
        (replace(HELD, lineage="K", created_at=START + 0.0004), Finding.LOWER),
        (replace(HELD, lineage="K", created_at=START + 0.001), Finding.OLDER),
    ],
)
def test_what_a_document_is_to_who_holds_another(found: Document | None, finding: Finding) -> None:
    assert compare(found, HELD) is finding


@pytest.mark.parametrize("revisions", [(2, 3), (2, 2), (3, 2)])
@pytest.mark.parametrize("other", [OLDER_LINEAGE, YOUNGER_LINEAGE, replace(HELD, lineage="M")])
def test_of_two_lineages_the_same_one_stands_for_both_who_hold_them(
    other: Document, revisions: tuple[int, int]
) -> None:
    one, two = at(HELD, revisions[0]), at(other, revisions[1])
    gives_way = {Finding.NEWER, Finding.LOWER}
    assert (compare(one, two) in gives_way) != (compare(two, one) in gives_way)


EDITS = {
    "active_server": replace(HELD, active_server="red"),
    "active_since": replace(HELD, active_since=1),
    "both indexes": replace(HELD, active_server_index=1, index_written=1),
    "index_written": replace(HELD, index_written=1),
    "paused": replace(HELD, paused=None),
    "paused.by": replace(HELD, paused=replace(MARK, by="ben")),
    "paused.since": replace(HELD, paused=replace(MARK, since=START + 0.002)),
    "paused.reason": replace(HELD, paused=replace(MARK, reason="x")),
    "no servers": replace(HELD, servers={}),
    "another server": replace(HELD, servers={"red": RECORD, "green": RECORD}),
    "its name": replace(HELD, servers={"green": RECORD}),
    "until": replace(HELD, servers={"red": replace(RECORD, cool_down_until=START + 5.002)}),
    "no until": replace(HELD, servers={"red": replace(RECORD, cool_down_until=None)}),
    "cause": replace(HELD, servers={"red": replace(RECORD, cool_down_cause=Cause.TIMEOUT)}),
    "failures": replace(HELD, servers={"red": replace(RECORD, failures=3)}),
    "drained": replace(HELD, servers={"red": DRAINED}),
}


@pytest.mark.parametrize("edited", EDITS.values(), ids=EDITS.keys())
def test_what_somebody_edited_by_hand_is_noticed_where_it_decides_anything(
    edited: Document,
) -> None:
    assert compare(edited, HELD) is Finding.OVERWRITTEN
    assert compare(HELD, edited) is not Finding.SAME
    written_over = replace(edited, active_server_index=9, index_written=edited.own_index)
    assert compare(written_over, HELD) is Finding.OVERWRITTEN, "that a foreign client wrote too"


@pytest.mark.parametrize(
    "mark", [replace(MARK, by="ben"), replace(MARK, since=START + 0.002), replace(MARK, reason="x")]
)
def test_what_somebody_edited_in_a_drain_is_noticed(mark: Mark) -> None:
    held = drained(document(), "green")
    edited = replace(held, servers={"green": ServerRecord(drained=mark)})
    assert compare(edited, held) is Finding.OVERWRITTEN


@pytest.mark.parametrize(
    "edited",
    [
        replace(HELD, reason="x"),
        replace(HELD, cause=Cause.DOWN),
        replace(HELD, actor="x"),
        replace(HELD, last_rotation=START + 7),
        replace(HELD, last_error="x"),
        replace(HELD, last_error_time=START),
        replace(HELD, window=7.0),
        replace(HELD, server_count=9),
        replace(HELD, created_at=START + 7),
    ],
)
def test_what_decides_nothing_may_be_edited(edited: Document) -> None:
    assert compare(edited, HELD) is Finding.SAME


@pytest.mark.parametrize("moment", [1.0, 1.000499, 1.0005, 1.0015, 1764112345.6785])
def test_moments_are_the_same_to_the_millisecond(moment: float) -> None:
    def with_moments(moment: float) -> Document:
        mark = Mark(by="ann", since=moment, reason="")
        record = ServerRecord(cool_down_until=moment, drained=mark)
        return replace(HELD, paused=mark, servers={"red": record})

    held = with_moments(moment)
    # A microsecond is what the least precise store keeps, whatever millisecond lies in between.
    for kept in (moment - 1e-6, moment + 1e-6, moment - 0.0009):
        assert compare(with_moments(kept), held) is Finding.SAME
    assert compare(with_moments(moment + 0.0011), held) is Finding.OVERWRITTEN


def test_the_order_in_which_a_store_gives_the_servers_back_is_nothing() -> None:
    records = {"red": RECORD, "green": DRAINED}
    turned = dict(reversed(records.items()))
    assert compare(replace(HELD, servers=turned), replace(HELD, servers=records)) is Finding.SAME


# --- what is done about it -----------------------------------------------------------------


def remedy(
    losses: Losses, held: Document = HELD, now: float = START
) -> tuple[Document | None, Document] | None:
    found = losses.remedy(held, actor="pool p", now=now)
    return None if found is None else (found[0], found[1])


@pytest.mark.parametrize("found", [HELD, at(HELD, 3), at(OLDER_LINEAGE, 3), FOREIGN])
def test_where_nothing_was_lost_nothing_is_written(found: Document) -> None:
    losses = Losses()
    assert remedy(losses) is None
    losses.found(found, HELD)
    assert remedy(losses) is None


@pytest.mark.parametrize(
    ("found", "expected", "reason"),
    [
        (None, at(HELD, 3), "the store had lost the document"),
        (at(HELD, 1), at(HELD, 3), "the store held an older document, or an edited one"),
        (
            replace(HELD, active_server="red"),
            at(HELD, 3),
            "the store held an older document, or an edited one",
        ),
        (
            at(YOUNGER_LINEAGE, 9),
            at(HELD, 10),
            "the store held an older document, or an edited one",
        ),
        (DAMAGED, at(HELD, 3), "parts of the document in the store were missing or nonsense"),
        (
            at(OLDER_LINEAGE, 1),
            at(OLDER_LINEAGE, 3),
            "the store held an older lineage's document at a lower revision",
        ),
    ],
)
def test_what_stands_is_written_above_both(
    found: Document | None, expected: Document, reason: str
) -> None:
    losses = Losses()
    losses.found(found, HELD)
    written = losses.remedy(HELD, actor="pool p", now=START + 1)
    assert written is not None
    place, after, note = written
    assert (place, after) == (found, expected)
    assert not after.repaired
    assert (note.revision, note.from_, note.to) == (after.revision, "blue", "blue")
    assert (note.cause, note.reason) == (Cause.RESTORED, reason)
    assert (note.actor, note.at) == ("pool p", START + 1)
    assert remedy(losses) is None, "once, until the store says what it holds"


def test_who_finds_it_mended_writes_nothing() -> None:
    losses = Losses()
    assert losses.found(None, HELD) is Finding.OLDER
    assert losses.found(HELD, HELD) is Finding.SAME
    assert remedy(losses) is None


def test_what_is_mended_in_a_damaged_document_is_as_this_process_knows_it() -> None:
    losses = Losses()
    # Nothing of this decides anything by itself, and so it may differ.
    losses.found(replace(DAMAGED, cause=Cause.CREATED, last_rotation=0.0, reason=""), HELD)
    found = losses.remedy(HELD, actor="pool p", now=START)
    assert found is not None
    assert found[1] == at(HELD, 3)


def test_those_who_know_what_stood_there_mend_a_newer_document_first() -> None:
    losses = Losses()
    newer = at(DAMAGED, 5)
    assert losses.found(newer, HELD) is Finding.NEWER
    assert remedy(losses, newer) is None
    assert losses.found(newer, newer) is Finding.DAMAGED, "it is followed by now"
    assert remedy(losses, newer, now=START + 11.9) is None
    assert remedy(losses, newer, now=START + 12.0) == (newer, at(HELD, 6))

    losses.found(HELD, HELD)
    losses.found(newer, HELD)
    assert remedy(losses, newer) is None
    assert losses.wait_for_others(START + 11.9, alone=False)
    losses.set_clock(100.0)
    assert remedy(losses, newer, now=START + 100.0) is None, "only the clock was set"
    losses.found(at(HELD, 6), newer)
    assert remedy(losses, at(HELD, 6), now=START + 9.0) is None, "they did"


def test_of_a_damaged_document_that_is_edited_others_know_better_as_well() -> None:
    losses = Losses()
    newer = at(DAMAGED, 5)
    losses.found(newer, HELD)
    edited = replace(newer, active_server="green", repaired=False)
    assert losses.found(edited, newer) is Finding.OVERWRITTEN
    assert remedy(losses, newer) is None
    assert remedy(losses, newer, now=START + 12.0) == (edited, at(HELD, 6))


def test_who_is_alone_waits_for_nobody() -> None:
    losses = Losses()
    losses.found(at(DAMAGED, 5), HELD)
    assert not losses.wait_for_others(START, alone=True)
    assert losses.remedy(at(DAMAGED, 5), actor="pool p", now=START, alone=True) is not None


def test_they_are_waited_for_once_whatever_is_written_meanwhile() -> None:
    losses = Losses()
    for second in range(12):
        newer = at(DAMAGED, 5 + second)
        losses.found(newer, HELD)
        assert remedy(losses, newer, now=START + second) is None
    assert remedy(losses, newer, now=START + 12.0) is not None
    # What was to be written could not be.
    losses.found(newer, newer)
    assert remedy(losses, newer, now=START + 21.9) is None
    assert remedy(losses, newer, now=START + 22.0) is not None


def test_they_are_waited_for_before_a_foreign_client_is_answered() -> None:
    losses = Losses()
    newer = replace(FOREIGN, revision=5, repaired=True)
    losses.found(newer, HELD)
    assert remedy(losses, newer) is None
    assert losses.found(newer, newer) is Finding.FOREIGN
    assert losses.wait_for_others(START + 11.9, alone=False)
    assert remedy(losses, newer, now=START + 12.0) == (newer, replace(FOREIGN, revision=6))


def test_an_older_document_that_is_damaged_is_brought_back_patiently() -> None:
    losses = Losses()
    losses.found(at(DAMAGED, 1), HELD)
    assert remedy(losses) == (at(HELD, 1), at(HELD, 3))
    losses.found(at(DAMAGED, 1), HELD)
    assert remedy(losses, now=START + 9.9) is None
    assert remedy(losses, now=START + 10.0) is not None


def test_a_document_of_the_original_system_is_not_written_for_its_nonsense() -> None:
    losses = Losses()
    original = at(DAMAGED, 0)
    for held in (None, original):
        losses.found(original, held)
        assert remedy(losses, original) is None
        assert remedy(losses, original, now=START + 60.0) is None


def test_what_is_damaged_when_a_process_begins_is_mended() -> None:
    losses = Losses()
    assert losses.found(None, None) is Finding.NEWER
    assert remedy(losses) is None
    assert losses.found(DAMAGED, None) is Finding.NEWER
    assert remedy(losses, DAMAGED) == (DAMAGED, at(HELD, 3))


@pytest.mark.parametrize("edited", [replace(HELD, active_server="red"), DAMAGED])
def test_an_edited_document_is_not_mended_twice_at_once(edited: Document) -> None:
    losses = Losses()
    losses.found(edited, HELD)
    assert remedy(losses) is not None
    losses.found(edited, HELD)
    assert remedy(losses, now=START + 9.9) is None
    losses.found(edited, HELD)
    assert remedy(losses, now=START + 10.0) == (edited, at(HELD, 3))
    losses.found(edited, HELD)
    assert remedy(losses, now=START + 19.9) is None


def test_what_was_lost_is_brought_back_at_once_each_time() -> None:
    losses = Losses()
    for lost in (replace(HELD, active_server="red"), None, at(HELD, 1), None):
        losses.found(lost, HELD)
        assert remedy(losses) == (lost, at(HELD, 3))
