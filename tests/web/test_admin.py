"""Status, history, rotate, drain and pause."""

from __future__ import annotations

from typing import Any

import pytest

from livekit_pool.core.document import Mark
from livekit_pool.exceptions import (
    NoServer,
    RevisionConflict,
    ServerNotEligible,
    StoreCorrupt,
    StoreOutcomeUnknown,
    StoreUnavailable,
    UnknownServer,
)
from livekit_pool.pool import Marked
from tests.web.asking import client_of, error
from tests.web.fake_pool import ADMIN, MAKER, PARTICIPANT, VIEWER, FakePool, rotation

ROTATION = {
    "revision": 8,
    "from": "green",
    "to": "blue",
    "cause": "manual",
    "reason": "maintenance",
    "actor": "olga",
    "at": "2027-01-15T08:00:00.250Z",
}


async def test_status_is_the_pools() -> None:
    async with client_of(FakePool()) as client:
        answer = await client.get("/pool/status", headers=VIEWER)

    assert (answer.status_code, answer.json()) == (200, {"revision": 7, "active": "green"})


async def test_history_is_a_list_of_rotations() -> None:
    pool = FakePool()
    pool.past = [rotation(8, "green", "blue")]
    async with client_of(pool) as client:
        answer = await client.get("/pool/history", headers=VIEWER)

    assert (answer.status_code, answer.json()) == (200, {"rotations": [ROTATION]})


async def test_history_has_pages() -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        await client.get("/pool/history?limit=3&before=9", headers=VIEWER)

    assert pool.calls == [("history", {"limit": 3, "before": 9})]


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=501", "limit"), ("limit=x", "limit"), ("before=x", "before")],
)
async def test_wrong_pages_are_refused(query: str, field: str) -> None:
    async with client_of(FakePool()) as client:
        answer = await client.get(f"/pool/history?{query}", headers=VIEWER)

    assert error(answer) == (400, "bad_request")
    assert field in answer.json()["error"]["message"]


async def test_rotate_answers_the_rotation() -> None:
    pool = FakePool()
    pool.answer = rotation(8, "green", "blue")
    async with client_of(pool) as client:
        order = {"reason": " maintenance ", "to": "blue", "expected_revision": 7, "force": True}
        answer = await client.post("/pool/rotate", json=order, headers=ADMIN)

    assert (answer.status_code, answer.json()) == (200, ROTATION)
    asked = {"reason": "maintenance", "to": "blue", "expected_revision": 7, "force": True}
    assert pool.calls == [("rotate", {**asked, "actor": "olga"})]


async def test_rotate_needs_a_reason_only() -> None:
    pool = FakePool()
    pool.answer = rotation(8, "green", "blue")
    async with client_of(pool) as client:
        answer = await client.post("/pool/rotate", json={"reason": "r"}, headers=ADMIN)

    assert answer.status_code == 200
    asked = {"reason": "r", "to": None, "expected_revision": None, "force": False}
    assert pool.calls == [("rotate", {**asked, "actor": "olga"})]


async def test_rotating_to_the_active_server_changes_nothing() -> None:
    async with client_of(FakePool()) as client:
        answer = await client.post(
            "/pool/rotate", json={"reason": "r", "to": "green"}, headers=ADMIN
        )

    assert (answer.status_code, answer.json()) == (200, {"revision": 7, "rotation": None})


@pytest.mark.parametrize(
    ("raised", "status", "code", "revision"),
    [
        (RevisionConflict("It is at 9.", revision=9), 409, "revision_conflict", 9),
        (NoServer("There is none.", revision=7), 409, "no_server", 7),
        (ServerNotEligible("It is down.", revision=7), 409, "server_not_eligible", 7),
        (UnknownServer("There is none of that name."), 404, "unknown_server", None),
        (StoreUnavailable("It does not answer."), 503, "store_unavailable", None),
        (StoreOutcomeUnknown("Its answer was lost."), 503, "store_outcome_unknown", None),
        (StoreCorrupt("It is no document."), 500, "store_corrupt", None),
    ],
)
async def test_a_rotation_that_is_not_done_says_why(
    raised: Exception, status: int, code: str, revision: int | None
) -> None:
    pool = FakePool()
    pool.answer = raised
    async with client_of(pool) as client:
        answer = await client.post("/pool/rotate", json={"reason": "r"}, headers=ADMIN)

    assert error(answer) == (status, code)
    assert answer.json()["error"].get("revision") == revision
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize(
    ("order", "named"),
    [
        ({}, "reason"),
        ({"reason": ""}, "reason"),
        ({"reason": "   "}, "reason"),
        ({"reason": "r" * 501}, "reason"),
        ({"reason": "one\nLiveKit server rotated"}, "reason"),
        ({"reason": 7}, "reason"),
        ({"reason": None}, "reason"),
        ({"reason": "r", "to": 1}, "to"),
        ({"reason": "r", "expected_revision": "7"}, "expected_revision"),
        ({"reason": "r", "expected_revision": True}, "expected_revision"),
        ({"reason": "r", "force": "yes"}, "force"),
        ({"reason": "r", "too": "blue"}, "too"),
        ([], "JSON object"),
        ("r", "JSON object"),
        (None, "JSON object"),
    ],
)
async def test_a_wrong_order_is_refused_in_one_sentence(order: Any, named: str) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        answer = await client.post("/pool/rotate", json=order, headers=ADMIN)

    assert error(answer) == (400, "bad_request")
    message = answer.json()["error"]["message"]
    assert named in message
    assert message.count(".") == 1
    assert "LiveKit server rotated" not in message
    assert pool.calls == []


# ---- drain and pause ----------------------------------------------------------------------------

DRAIN, UNDRAIN = "/pool/servers/green/drain", "/pool/servers/green/undrain"
PAUSE, RESUME = "/pool/pause", "/pool/resume"
MARK = Mark(by="olga", since=1_800_000_000.25, reason="update")
MARKED = {"by": "olga", "since": "2027-01-15T08:00:00.250Z", "reason": "update"}


@pytest.mark.parametrize("rotated", [True, False])
async def test_drain_answers_the_mark_and_the_rotation(rotated: bool) -> None:
    pool = FakePool()
    made = rotation(8, "green", "blue") if rotated else None
    pool.marked = Marked(revision=8, changed=True, mark=MARK, rotation=made)
    async with client_of(pool) as client:
        order = {"reason": " update ", "expected_revision": 7, "force": True}
        answer = await client.post(DRAIN, json=order, headers=ADMIN)

    assert (answer.status_code, answer.json()) == (
        200,
        {
            "revision": 8,
            "changed": True,
            "rotation": ROTATION if rotated else None,
            "server": {"name": "green", "drained": MARKED},
        },
    )
    asked = {"reason": "update", "expected_revision": 7, "force": True, "actor": "olga"}
    assert pool.calls == [("drain", {"server": "green", **asked})]


@pytest.mark.parametrize("body", [None, {}, {"expected_revision": 7}])
@pytest.mark.parametrize(
    ("path", "call", "about", "named"),
    [
        (UNDRAIN, "undrain", {"server": {"name": "green", "drained": None}}, {"server": "green"}),
        (RESUME, "resume", {"paused": None}, {}),
    ],
)
async def test_what_was_set_is_undone(
    path: str, call: str, about: Any, named: Any, body: Any
) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        answer = await client.post(path, json=body, headers=ADMIN)

    assert (answer.status_code, answer.json()) == (
        200,
        {"revision": 8, "changed": True, "rotation": None, **about},
    )
    expected = (body or {}).get("expected_revision")
    assert pool.calls == [(call, {**named, "actor": "olga", "expected_revision": expected})]


async def test_pause_answers_the_mark_that_is_there() -> None:
    pool = FakePool()
    pool.marked = Marked(revision=7, changed=False, mark=MARK, rotation=None)
    async with client_of(pool) as client:
        answer = await client.post(PAUSE, json={"reason": "mine"}, headers=ADMIN)

    assert (answer.status_code, answer.json()) == (
        200,
        {"revision": 7, "changed": False, "rotation": None, "paused": MARKED},
    )
    asked = {"reason": "mine", "actor": "olga", "expected_revision": None}
    assert pool.calls == [("pause", asked)]


@pytest.mark.parametrize("path", [DRAIN, UNDRAIN, PAUSE, RESUME])
async def test_only_admins_drain_and_pause(path: str) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        for headers, status in ((VIEWER, 403), (MAKER, 403), (PARTICIPANT, 403), ({}, 401)):
            answer = await client.post(path, json={"reason": "r"}, headers=headers)
            assert answer.status_code == status
    assert pool.calls == []


@pytest.mark.parametrize("path", [DRAIN, PAUSE])
@pytest.mark.parametrize(
    ("order", "named"),
    [
        ({}, "reason"),
        ({"reason": "  "}, "reason"),
        ({"reason": "r" * 501}, "reason"),
        ({"reason": "one\nLiveKit server rotated"}, "reason"),
        ({"reason": None}, "reason"),
        ({"reason": "r", "expected_revision": "7"}, "expected_revision"),
        ({"reason": "r", "too": "blue"}, "too"),
        (None, "JSON object"),
    ],
)
async def test_a_drain_or_pause_needs_a_reason_in_one_line(
    path: str, order: Any, named: str
) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        answer = await client.post(path, json=order, headers=ADMIN)

    assert error(answer) == (400, "bad_request")
    message = answer.json()["error"]["message"]
    assert named in message
    assert message.count(".") == 1
    assert "LiveKit server rotated" not in message
    assert pool.calls == []


@pytest.mark.parametrize("path", [UNDRAIN, RESUME])
@pytest.mark.parametrize(
    ("order", "named"),
    [({"reason": "r"}, "reason"), ({"expected_revision": "7"}, "expected_revision")],
)
async def test_to_undo_takes_no_reason(path: str, order: Any, named: str) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        answer = await client.post(path, json=order, headers=ADMIN)

    assert error(answer) == (400, "bad_request")
    assert named in answer.json()["error"]["message"]
    assert pool.calls == []


@pytest.mark.parametrize("path", [DRAIN, UNDRAIN, PAUSE, RESUME])
@pytest.mark.parametrize(
    ("raised", "status", "code", "revision"),
    [
        (RevisionConflict("It is at 9.", revision=9), 409, "revision_conflict", 9),
        (NoServer("There is none.", revision=7), 409, "no_server", 7),
        (UnknownServer("There is none of that name."), 404, "unknown_server", None),
        (StoreOutcomeUnknown("Its answer was lost."), 503, "store_outcome_unknown", None),
    ],
)
async def test_a_mark_that_is_not_set_says_why(
    path: str, raised: Exception, status: int, code: str, revision: int | None
) -> None:
    pool = FakePool()
    pool.marked = raised
    async with client_of(pool) as client:
        order = {"reason": "r"} if path in (DRAIN, PAUSE) else {}
        answer = await client.post(path, json=order, headers=ADMIN)

    assert error(answer) == (status, code)
    assert answer.json()["error"].get("revision") == revision


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", "application/json"),
        (b"\xff", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"reason": "r"}', "text/plain"),
    ],
)
async def test_what_is_not_json_is_refused(body: bytes, content_type: str) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        headers = {**ADMIN, "Content-Type": content_type}
        answer = await client.post("/pool/rotate", content=body, headers=headers)

    assert error(answer) == (400, "bad_request")
    assert "JSON" in answer.json()["error"]["message"]
    assert pool.calls == []
