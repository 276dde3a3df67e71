"""LiveKit's token endpoint: its schema, what it fills in, and the address it names."""

from __future__ import annotations

from typing import Any

import pytest

from livekit_pool.tokens import verify
from tests.web.asking import client_of, error, settings
from tests.web.fake_pool import MAKER, PAIR, FakePool

FULL = {
    "room_name": "standup",
    "participant_identity": "alice",
    "participant_name": "Alice",
    "participant_metadata": "m",
    "participant_attributes": {"seat": "1"},
    "room_config": {"agents": [{"agent_name": "scribe", "metadata": "en"}]},
}


async def test_a_full_request_is_passed_on_and_answered_in_livekits_schema() -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        answer = await client.post("/pool/token", json=FULL, headers=MAKER)

    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    content = answer.json()
    claims = verify(content.pop("participant_token"), PAIR)
    assert (claims.identity, claims.room) == ("alice", "standup")
    assert content == {
        "server_url": "wss://pool.example",
        "room_name": "standup",
        "participant_name": "Alice",
        "server": "green",
        "revision": 7,
    }
    expected = {
        "url": None,
        "room": "standup",
        "identity": "alice",
        "name": "Alice",
        "metadata": "m",
        "attributes": {"seat": "1"},
        "room_config": FULL["room_config"],
    }
    assert pool.calls == [("token", expected)]


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {}},
        {"content": b""},
        {"json": {"room_name": None, "participant_identity": None, "room_config": None}},
        {"json": {"room_name": "", "participant_identity": "", "participant_name": ""}},
        {"json": {"room_config": {}, "participant_attributes": {}}},
        {"json": {"something_newer": {"a": 1}}},
    ],
)
async def test_nothing_is_required(request_: dict[str, Any]) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        answers = [await client.post("/pool/token", headers=MAKER, **request_) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 201]
    claims = [verify(answer.json()["participant_token"], PAIR) for answer in answers]
    assert all(c.identity and c.room for c in claims)
    assert claims[0].identity != claims[1].identity
    assert claims[0].room != claims[1].room
    assert [a.json()["room_name"] for a in answers] == [c.room for c in claims]
    assert "participant_name" not in answers[0].json()
    asked = pool.calls[0][1]
    assert {asked[name] for name in ("name", "metadata", "room_config")} == {None}
    assert asked["attributes"] is None


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"room_name": 7}, "room_name"),
        ({"participant_identity": ["alice"]}, "participant_identity"),
        ({"participant_metadata": {"a": 1}}, "participant_metadata"),
        ({"participant_attributes": {"seat": 1}}, "participant_attributes.seat"),
        ({"participant_attributes": "seat"}, "participant_attributes"),
        ({"room_config": "x"}, "room_config"),
        ({"room_config": {"agents": "SECRET"}}, "room_config"),
        ({"room_config": {"max_participants": -1}}, "room_config"),
        ([], "JSON object"),
    ],
)
async def test_a_wrong_type_is_refused_by_name(request_: Any, named: str) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        answer = await client.post("/pool/token", json=request_, headers=MAKER)

    assert error(answer) == (400, "bad_request")
    assert named in answer.json()["error"]["message"]
    assert "SECRET" not in answer.text
    assert pool.calls == []


async def url_named(host: str, pool_url: str | None, headers: dict[str, str]) -> Any:
    pool = FakePool(settings(host=host, pool_url=pool_url))
    async with client_of(pool, address="127.0.0.1", url="http://127.0.0.1:7870") as client:
        await client.post("/pool/token", json={}, headers={**MAKER, **headers})
    return pool.calls[0][1]["url"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:9000", "ws://localhost:9000"),
        ("127.0.0.1", "ws://127.0.0.1"),
        ("[::1]:9000", "ws://[::1]:9000"),
        ("me@localhost:9000", "ws://localhost:9000"),
        ("evil.example", None),
        ("localhost:99999", None),
        ("[::1", None),
        ("", None),
    ],
)
async def test_on_loopback_the_address_is_the_one_the_caller_used(
    host: str, expected: str | None
) -> None:
    assert await url_named("127.0.0.1", None, {"Host": host}) == expected


async def test_a_configured_address_is_named_whatever_the_caller_used() -> None:
    assert await url_named("127.0.0.1", "https://pool.example", {"Host": "localhost"}) is None


async def test_beyond_loopback_the_host_header_is_never_believed() -> None:
    assert await url_named("192.0.2.1", None, {"Host": "localhost"}) is None


async def test_who_listens_everywhere_must_know_its_address() -> None:
    pool = FakePool(settings(host="0.0.0.0", pool_url=None))
    async with client_of(pool) as client:
        answer = await client.post("/pool/token", json={}, headers=MAKER)

    assert error(answer) == (500, "configuration")
    assert "LIVEKIT_POOL_URL" in answer.json()["error"]["message"]


async def test_a_tls_caller_on_loopback_gets_a_tls_address() -> None:
    pool = FakePool(settings(host="127.0.0.1", pool_url=None))
    async with client_of(pool, address="127.0.0.1", url="https://localhost:7870") as client:
        answer = await client.post("/pool/token", json={})

    assert answer.json()["server_url"] == "wss://localhost:7870"
