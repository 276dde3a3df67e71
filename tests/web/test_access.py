"""Who may call what under /pool."""

from __future__ import annotations

import time
from typing import Any

import pytest
from starlette.requests import Request

from livekit_pool.exceptions import ConfigurationError
from livekit_pool.tokens import KeyPair, Kind, participant_token, pool_token, sign
from livekit_pool.web.access import Access, is_loopback
from tests.web.asking import client_of, error, settings
from tests.web.fake_pool import ADMIN, MAKER, PAIR, PARTICIPANT, VIEWER, FakePool

SERVERS_PAIR = KeyPair(key="APIred", secret="red-secret-red-secret-red-secret-")
GOOD = {"sub": "olga", "pool": "admin", "exp": time.time() + 172_800}

REFUSED = {
    "no token": {},
    "another scheme": {"Authorization": "Basic b2xnYTpzZWNyZXQ="},
    "a good token, another scheme": {
        "Authorization": ADMIN["Authorization"].replace("Bearer", "Token")
    },
    "an empty token": {"Authorization": "Bearer "},
    "no JWT": {"Authorization": "Bearer nonsense"},
    "a token of a server's key": {
        "Authorization": f"Bearer {pool_token(SERVERS_PAIR, Kind.ADMIN)}"
    },
    "our key's name, another secret": {
        "Authorization": "Bearer "
        + pool_token(KeyPair(key=PAIR.key, secret=SERVERS_PAIR.secret), Kind.ADMIN)
    },
    "expired": {"Authorization": f"Bearer {sign({**GOOD, 'exp': time.time() - 86_400}, PAIR)}"},
    "not yet valid": {
        "Authorization": f"Bearer {sign({**GOOD, 'nbf': time.time() + 86_400}, PAIR)}"
    },
    "without expiry": {"Authorization": f"Bearer {sign({'pool': 'admin'}, PAIR)}"},
    "over-long": {"Authorization": f"Bearer {sign({**GOOD, 'metadata': 'm' * 200_000}, PAIR)}"},
}

ROUTES = [
    ("GET", "/pool/status"),
    ("GET", "/pool/history"),
    ("POST", "/pool/rotate"),
    ("GET", "/pool/events"),
    ("POST", "/pool/token"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
async def test_a_bad_token_opens_nothing(method: str, path: str, headers: dict[str, str]) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        answer = await client.request(method, path, headers=headers, json={"reason": "r"})

    assert error(answer)[0] == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert pool.calls == []
    assert not set(headers.get("Authorization", "").split()[1:]) & set(answer.text.split())


@pytest.mark.parametrize(
    ("path", "opened_by"),
    [
        ("/pool/status", ["admin", "viewer"]),
        ("/pool/history", ["admin", "viewer"]),
        ("/pool/rotate", ["admin"]),
        ("/pool/token", ["admin", "maker"]),
    ],
)
async def test_a_good_token_opens_what_it_is_for(path: str, opened_by: list[str]) -> None:
    tokens = {"admin": ADMIN, "viewer": VIEWER, "maker": MAKER, "participant": PARTICIPANT}
    post = path in ("/pool/rotate", "/pool/token")
    async with client_of(FakePool()) as client:
        answers = {
            name: await client.request(
                "POST" if post else "GET", path, headers=headers, json={"reason": "r"}
            )
            for name, headers in tokens.items()
        }

    assert [name for name, answer in answers.items() if answer.is_success] == opened_by
    for answer in answers.values():
        assert answer.is_success or error(answer) == (403, "forbidden")


async def test_only_events_take_a_token_from_the_query() -> None:
    token = ADMIN["Authorization"].removeprefix("Bearer ")
    async with client_of(FakePool()) as client:
        answer = await client.get("/pool/status", params={"access_token": token})

    assert error(answer) == (401, "token_missing")


async def test_a_wrong_header_is_not_saved_by_a_good_query() -> None:
    token = ADMIN["Authorization"].removeprefix("Bearer ")
    async with client_of(FakePool()) as client:
        answer = await client.get(
            "/pool/events",
            params={"access_token": token},
            headers={"Authorization": "Bearer nonsense"},
        )

    assert error(answer)[0] == 401


def test_without_a_key_pair_there_is_no_access_at_all() -> None:
    with pytest.raises(ConfigurationError, match="LIVEKIT_POOL_KEY"):
        Access(settings(key="", secret=""))


LOCAL = "http://127.0.0.1:7870"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost:5173"},
        {"Origin": "https://[::1]"},
        {"Host": "localhost:7870"},
        {"Host": "pool.localhost"},
    ],
)
async def test_on_loopback_this_machine_needs_no_token(headers: dict[str, str]) -> None:
    pool = FakePool(settings(host="127.0.0.1"))
    async with client_of(pool, address="127.0.0.1", url=LOCAL) as client:
        answer = await client.post("/pool/token", json={}, headers=headers)

    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("host", "address", "headers"),
    [
        ("0.0.0.0", "127.0.0.1", {}),
        ("192.0.2.1", "127.0.0.1", {}),
        ("127.0.0.1", "203.0.113.9", {}),
        ("127.0.0.1", "127.0.0.1", {"Origin": "https://evil.example"}),
        ("127.0.0.1", "127.0.0.1", {"Origin": "http://127.0.0.1.evil.example"}),
        ("127.0.0.1", "127.0.0.1", {"Origin": "null"}),
        ("127.0.0.1", "127.0.0.1", {"Origin": "http://[::1"}),
        ("127.0.0.1", "127.0.0.1", {"Forwarded": "for=203.0.113.9"}),
        ("127.0.0.1", "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}),
        ("127.0.0.1", "127.0.0.1", {"X-Forwarded-Proto": "https"}),
        ("127.0.0.1", "127.0.0.1", {"Host": "pool.example"}),
        ("127.0.0.1", "127.0.0.1", {"Host": "localhost.evil.example:7870"}),
    ],
)
async def test_others_need_a_token_everywhere(
    host: str, address: str, headers: dict[str, str]
) -> None:
    pool = FakePool(settings(host=host))
    async with client_of(pool, address=address, url=LOCAL) as client:
        answer = await client.post("/pool/token", json={}, headers=headers)

    assert error(answer) == (401, "token_missing")
    assert pool.calls == []


async def test_who_comes_by_a_unix_socket_may_come_from_anywhere() -> None:
    pool = FakePool(settings(host="127.0.0.1"))
    scope: dict[str, Any] = {"type": "http", "client": None, "headers": []}

    assert not Access(pool.settings).is_open_to(Request(scope))


async def test_being_local_opens_nothing_else() -> None:
    pool = FakePool(settings(host="127.0.0.1"))
    async with client_of(pool, address="127.0.0.1", url=LOCAL) as client:
        assert (await client.get("/pool/status")).status_code == 401
        assert (await client.post("/pool/rotate", json={"reason": "r"})).status_code == 401


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("LOCALHOST", True),
        ("pool.localhost", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("notlocalhost", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback_is_this_machine_only(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


async def test_a_participants_token_tells_nothing_about_the_pool() -> None:
    alice = participant_token(PAIR, identity="alice", room="standup")
    async with client_of(FakePool()) as client:
        answer = await client.get("/pool/status", headers={"Authorization": f"Bearer {alice}"})

    assert error(answer) == (403, "forbidden")
    assert "alice" not in answer.text
