"""The stored and the public form."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livekit_pool.core.document import Cause, Document, Mark, ServerRecord, rotated
from livekit_pool.core.stored import (
    from_mapping,
    rfc3339,
    rotation_from_mapping,
    rotation_to_json,
    rotation_to_mapping,
    to_mapping,
)
from tests.core.nonsense import GONE, NONSENSE, edited, is_legal, is_refused, is_told
from tests.core.samples import NAMES, START, document

MARK = Mark(by="ann", since=START, reason="disk")
FULL = replace(
    rotated(
        document(), to="blue", names=NAMES, cause=Cause.DOWN, reason="refused", actor="p", now=START
    )[0],
    paused=MARK,
    window=1.5,
    servers={
        "red": ServerRecord(cool_down_until=START + 5, cool_down_cause=Cause.DOWN, failures=2),
        "green": ServerRecord(drained=MARK, refuses_joins=True),
        "blue": ServerRecord(
            cool_down_until=START + 9, cool_down_cause=Cause.QUOTA, spent_minutes=95.0
        ),
    },
)
KEYS = tuple(to_mapping(FULL))
ORIGINAL = {
    "activeServerIndex": 1,
    "serverCount": 3,
    "lastRotation": START,
    "createdAt": START - 60,
    "lastError": "quota exceeded",
    "lastErrorTime": START,
}


def test_a_document_survives_being_stored() -> None:
    stored = json.loads(json.dumps(to_mapping(FULL)))
    assert from_mapping(stored, NAMES) == (FULL, ())


def test_a_document_can_be_read_by_who_does_not_know_the_list() -> None:
    assert from_mapping(to_mapping(FULL), ()) == (FULL, ())


def test_the_keys_of_the_original_system_are_kept() -> None:
    stored = to_mapping(FULL)
    assert stored["activeServerIndex"] == 2
    assert stored["serverCount"] == 3
    assert stored["lastError"] == "refused"
    assert {"lastRotation", "createdAt", "lastErrorTime"} <= stored.keys()
    servers = stored["servers"]
    assert isinstance(servers, dict)
    assert servers["red"] == {
        "coolDownUntil": START + 5,
        "coolDownCause": "down",
        "spentMinutes": None,
        "failures": 2,
        "drained": None,
    }


def test_a_blind_write_of_the_index_is_seen_as_foreign() -> None:
    stored = {**to_mapping(FULL), "activeServerIndex": 0}
    read, repairs = from_mapping(stored, NAMES)
    assert (read.foreign_index, read.active_server, repairs) == (0, "blue", ())
    assert from_mapping(to_mapping(read), NAMES)[0] == read, "and still is when stored again"


def test_an_index_of_another_list_is_not_foreign() -> None:
    read, repairs = from_mapping(to_mapping(FULL), ("blue", "red"))
    assert (read, repairs) == (FULL, ())


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, -1, 99, "x", True, 1.5, [], {}, {"red": 1}, "missing"])
def test_no_damage_to_one_field_rotates(key: str, value: object) -> None:
    stored = {**to_mapping(FULL), key: value}
    if value == "missing":
        del stored[key]
    if key == "schema" and value in (-1, 99, 1.5):
        with pytest.raises(ValueError, match="schema"):
            from_mapping(stored, NAMES)
        return
    read, _ = from_mapping(stored, NAMES)
    if not (key == "activeServer" and value == "x"):  # a name that may be another process's
        assert read.active_server == "blue"
    assert read.foreign_index is None or (key, value) == ("activeServerIndex", True)
    assert read.active_since <= read.revision
    # What it was repaired to, is sound.
    assert from_mapping(to_mapping(read), NAMES) == (read, ())


@pytest.mark.parametrize("kind", NONSENSE)
@pytest.mark.parametrize("key", KEYS)
def test_each_repair_is_told(key: str, kind: str) -> None:
    if is_refused(key, kind):
        return  # above
    stored = edited(to_mapping(FULL), key, kind)
    _, repairs = from_mapping(stored, NAMES)
    assert is_told(repairs, key) is not is_legal(key, kind), repairs
    how = "missing" if kind == GONE else "nonsense"
    within = kind == "map" and key in ("servers", "paused")
    assert within or all(repair.startswith(f"{key} is {how}") for repair in repairs), repairs


def test_an_index_out_of_range_is_that_of_the_name() -> None:
    stored = {**to_mapping(FULL), "activeServerIndex": 7, "indexWritten": 7}
    read, repairs = from_mapping(stored, NAMES)
    assert (read.active_server_index, read.active_server, len(repairs)) == (2, "blue", 2)


def test_a_lost_name_is_that_of_the_index_the_pool_wrote() -> None:
    stored = {**to_mapping(FULL), "activeServer": "", "activeServerIndex": 0}
    read, _ = from_mapping(stored, NAMES)
    assert (read.active_server, read.foreign_index) == ("blue", 0)


def test_without_active_since_every_earlier_fault_is_late() -> None:
    stored = {**to_mapping(FULL), "revision": 9}
    del stored["activeSince"]
    assert from_mapping(stored, NAMES)[0].active_since == 9


def test_a_lost_revision_does_not_fall_below_active_since() -> None:
    stored = {**to_mapping(FULL), "revision": "x"}
    assert from_mapping(stored, NAMES)[0].revision == 2


@pytest.mark.parametrize("value", [2**52 + 1, 2**63 - 1, 10**400])
@pytest.mark.parametrize("key", ["revision", "serverCount", "activeSince"])
def test_a_number_to_which_nobody_counts_is_nonsense(key: str, value: int) -> None:
    read, repairs = from_mapping({**to_mapping(FULL), key: value}, NAMES)
    assert read == FULL
    assert [repair for repair in repairs if repair.startswith(f"{key} is nonsense")]


def test_so_it_is_in_a_servers_record_and_in_the_history() -> None:
    stored = {**to_mapping(FULL), "servers": {"red": {"failures": 10**400}}}
    read, repairs = from_mapping(stored, NAMES)
    assert read.record("red").failures == 0
    assert "servers.red.failures is nonsense: 0 is taken" in repairs
    assert rotation_from_mapping({"from": "red", "to": "green", "revision": 2**53}).revision == 0


@pytest.mark.parametrize("value", [False, 0, ""])
def test_a_pause_that_says_it_is_none_is_told(value: object) -> None:
    stored = {**to_mapping(FULL), "paused": value}
    read, repairs = from_mapping(stored, NAMES)
    assert read.paused is None
    assert repairs == ("paused is nonsense: None is taken",)


def test_a_document_tells_whether_it_was_repaired() -> None:
    assert not from_mapping(to_mapping(FULL), NAMES)[0].repaired
    damaged = from_mapping({**to_mapping(FULL), "window": "x"}, NAMES)[0]
    assert damaged.repaired


@pytest.mark.parametrize("value", [True, "yes", ["x"], [], {}, {"by": 1}, {"reason": None, "x": 1}])
def test_a_damaged_pause_or_drain_stays_set(value: object) -> None:
    stored = {**to_mapping(FULL), "paused": value, "servers": {"green": {"drained": value}}}
    read, repairs = from_mapping(stored, NAMES)
    assert read.paused is not None
    assert read.record("green").drained is not None
    assert repairs


def test_damaged_records_lose_no_other() -> None:
    stored = to_mapping(FULL)
    stored["servers"] = {
        "red": "x",
        "green": {
            "spentMinutes": "all",
            "refusesJoins": "perhaps",
            "coolDownUntil": "soon",
            "coolDownCause": "bad",
            "failures": -1,
            "drained": None,
        },
        "blue": {"coolDownUntil": 5.0, "coolDownCause": "down", "failures": 1, "drained": None},
    }
    read, repairs = from_mapping(stored, NAMES)
    assert read.servers == {
        "green": ServerRecord(),
        "blue": ServerRecord(cool_down_until=5.0, cool_down_cause=Cause.DOWN, failures=1),
    }
    assert len(repairs) == 6


def test_a_document_of_the_original_system_is_taken_over() -> None:
    read, repairs = from_mapping(ORIGINAL, NAMES)
    assert (read.active_server, read.revision, read.active_since) == ("green", 0, 0)
    assert (read.last_error, read.cause, repairs) == ("quota exceeded", Cause.CREATED, ())
    assert read.lineage == from_mapping(ORIGINAL, ("red", "green"))[0].lineage


def test_the_original_system_repairs_its_index_to_the_first() -> None:
    read, repairs = from_mapping({**ORIGINAL, "activeServerIndex": 20}, NAMES)
    assert (read.active_server, len(repairs)) == ("red", 1)


@pytest.mark.parametrize("stored", [{}, {"hello": 1}, {"revision": 3}, {"activeServer": 5}])
def test_what_names_no_active_server_is_not_a_document(stored: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="names no active server"):
        from_mapping(stored, NAMES)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=5,
)


@settings(derandomize=True, database=None, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_damage_is_repaired_or_refused(damage: dict[str, object]) -> None:
    try:
        read, _ = from_mapping({**to_mapping(FULL), **damage}, NAMES)
    except ValueError:
        return
    assert isinstance(read, Document)
    json.dumps(to_mapping(read), allow_nan=False)
    assert from_mapping(to_mapping(read), NAMES)[0] == read


def test_an_entry_of_the_history_survives_being_stored() -> None:
    _, rotation = rotated(
        document(),
        to="blue",
        names=NAMES,
        cause=Cause.TIMEOUT,
        reason="r",
        actor="a",
        now=START,
        reports=3,
        window=2.0,
    )
    stored = json.loads(json.dumps(rotation_to_mapping(rotation)))
    assert rotation_from_mapping(stored) == rotation


def test_a_rotation_without_servers_is_none() -> None:
    with pytest.raises(ValueError, match="names no servers"):
        rotation_from_mapping({"revision": 3, "from": "red"})


def test_the_public_form_of_a_rotation() -> None:
    _, rotation = rotated(
        document(), to="blue", names=NAMES, cause=Cause.MANUAL, reason="r", actor="a", now=1.5
    )
    assert rotation_to_json(rotation) == {
        "revision": 2,
        "from": "red",
        "to": "blue",
        "cause": "manual",
        "reason": "r",
        "actor": "a",
        "at": "1970-01-01T00:00:01.500Z",
    }


def test_rfc_3339_has_milliseconds_and_a_zone() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(253402300799.0) == "9999-12-31T23:59:59.000Z"
