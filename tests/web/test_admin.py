"""Status, history and rotate."""

from __future__ import annotations

from typing import Any

import pytest

from livekit_pool.exceptions import (
    NoServer,
    RevisionConflict,
    ServerNotEligible,
    StoreCorrupt,
    StoreOutcomeUnknown,
    StoreUnavailable,
    UnknownServer,
)
from tests.web.asking import client_of, error
from tests.web.fake_pool import ADMIN, VIEWER, FakePool, rotation

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
