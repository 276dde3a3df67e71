"""The document and its transitions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from livekit_pool.core.document import (
    Cause,
    Mark,
    Rotation,
    ServerRecord,
    drained,
    listed,
    new_document,
    paused,
    restored,
    resumed,
    rotated,
    trusted,
    undrained,
    written_back,
)
from tests.core.samples import MARK, NAMES, START, document, moved


def test_what_is_written_next_needs_no_repair() -> None:
    damaged = replace(drained(document(), server="blue", mark=MARK), repaired=True)
    by: dict[str, Any] = {"reason": "", "actor": "", "now": START}
    for after in (
        rotated(damaged, to="green", names=NAMES, cause=Cause.MANUAL, **by)[0],
        written_back(damaged, names=NAMES, **by)[0],
        restored(damaged, above=0, **by)[0],
        listed(damaged, NAMES[::-1]),
        drained(damaged, server="green", mark=MARK),
        undrained(damaged, server="blue"),
        trusted(damaged, server="blue"),
        paused(damaged, mark=MARK),
        resumed(damaged),
    ):
        assert after is not None
        assert not after.repaired


def test_a_new_document_makes_the_first_server_active() -> None:
    made = document()
    assert (made.revision, made.active_server, made.active_since) == (1, "red", 1)
    assert (made.active_server_index, made.server_count) == (0, 3)
    assert made.cause is Cause.CREATED
    assert made.created_at == made.last_rotation == START


def test_a_new_document_takes_the_active_server_it_is_told() -> None:
    made = new_document(lineage="L", names=NAMES, actor="p0", now=START, active="blue")
    assert (made.active_server, made.active_server_index) == ("blue", 2)


def test_a_new_document_starts_above_the_revisions_of_an_old_history() -> None:
    made = new_document(lineage="L", names=NAMES, actor="p0", now=START, revision=41)
    assert (made.revision, made.active_since) == (41, 41)


def test_a_rotation_moves_the_active_server_and_its_revision() -> None:
    after, rotation = rotated(
        document(),
        to="blue",
        names=NAMES,
        cause=Cause.MANUAL,
        reason="because",
        actor="ann",
        now=START + 1,
        reports=4,
        window=2.5,
    )
    assert (after.revision, after.active_server, after.active_since) == (2, "blue", 2)
    assert after.active_server_index == 2
    assert (after.cause, after.reason, after.actor) == (Cause.MANUAL, "because", "ann")
    assert (after.last_rotation, after.window) == (START + 1, 2.5)
    assert (rotation.revision, rotation.from_, rotation.to) == (2, "red", "blue")
    assert (rotation.reports, rotation.at) == (4, START + 1)
    assert (after.last_error, after.last_error_time) == (None, None)


def test_a_rotation_told_from_the_document_lacks_only_the_reports() -> None:
    after, rotation = rotated(
        document(), to="blue", names=NAMES, cause=Cause.DOWN, reason="r", actor="a", now=START
    )
    assert after.rotation("red") == rotation


def test_a_failure_is_the_last_error_of_the_original_system() -> None:
    after, _ = rotated(
        document(),
        to="green",
        names=NAMES,
        cause=Cause.DOWN,
        reason="connection refused",
        actor="pool p",
        now=START + 1,
        left=ServerRecord(failures=1),
    )
    assert (after.last_error, after.last_error_time) == ("connection refused", START + 1)
    assert after.record("red").failures == 1


def test_a_rotation_ends_the_cool_down_of_its_target_but_remembers_its_failures() -> None:
    cooling = ServerRecord(cool_down_until=START + 60, cool_down_cause=Cause.DOWN, failures=3)
    before = replace(document(), servers={"green": cooling})
    after, _ = rotated(
        before, to="green", names=NAMES, cause=Cause.MANUAL, reason="", actor="", now=START + 1
    )
    assert not after.record("green").cooling(START + 1)
    assert after.record("green").failures == 3


def test_a_rotation_keeps_what_people_set() -> None:
    mark = Mark(by="ann", since=START, reason="disk")
    before = replace(document(), paused=mark, servers={"blue": ServerRecord(drained=mark)})
    after, _ = rotated(
        before, to="green", names=NAMES, cause=Cause.MANUAL, reason="", actor="", now=START
    )
    assert after.paused == mark
    assert after.record("blue").drained == mark


def test_writing_back_makes_no_fault_late() -> None:
    foreign = replace(document(), active_server_index=2, index_written=0)
    assert foreign.foreign_index == 2
    after, note = written_back(foreign, names=NAMES, reason="r", actor="a", now=START + 1)
    assert (after.revision, after.active_server, after.active_since) == (2, "red", 1)
    assert (after.active_server_index, after.foreign_index) == (0, None)
    assert (note.revision, note.from_, note.to, note.cause) == (2, "red", "red", Cause.FOREIGN)
    assert after.last_rotation == foreign.last_rotation


def test_writing_back_a_server_that_this_process_lacks_keeps_its_written_index() -> None:
    foreign = replace(document(), active_server_index=2, index_written=0)
    after, _ = written_back(foreign, names=("blue",), reason="r", actor="a", now=START)
    assert (after.active_server, after.active_server_index, after.server_count) == ("red", 0, 3)


@pytest.mark.parametrize(("above", "revision"), [(0, 3), (1, 3), (2, 3), (3, 4), (40, 41)])
def test_what_is_brought_back_is_above_all_and_otherwise_as_it_was(
    above: int, revision: int
) -> None:
    held = moved(document(), "blue")
    after, note = restored(held, above=above, reason="r", actor="a", now=START + 1)
    assert after == replace(held, revision=revision), "no fault becomes late by it"
    assert note == Rotation(
        revision=revision,
        from_="blue",
        to="blue",
        cause=Cause.RESTORED,
        reason="r",
        actor="a",
        at=START + 1,
    )


def test_a_foreign_rotation_that_waits_for_an_answer_is_brought_back_too() -> None:
    foreign = replace(document(), active_server_index=2, index_written=0)
    after, _ = restored(foreign, above=0, reason="", actor="", now=START)
    assert after.foreign_index == 2


def test_a_changed_list_moves_positions_only() -> None:
    after = listed(document(), ("blue", "red"))
    assert after is not None
    assert (after.active_server, after.active_since) == ("red", 1)
    assert (after.active_server_index, after.server_count, after.revision) == (1, 2, 2)


def test_an_unchanged_list_changes_nothing() -> None:
    assert listed(document(), NAMES) is None


def test_a_list_without_the_active_server_changes_nothing() -> None:
    assert listed(document(), ("green", "blue")) is None


def test_an_index_that_the_pool_wrote_itself_is_not_foreign() -> None:
    assert document().foreign_index is None
    assert replace(document(), index_written=0).foreign_index is None


def test_a_cool_down_ends_at_its_moment() -> None:
    record = ServerRecord(cool_down_until=START)
    assert record.cooling(START - 0.001)
    assert not record.cooling(START)
    assert not ServerRecord().cooling(START)
