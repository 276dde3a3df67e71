"""Who is on a server, by what it answers; real servers are asked in tests/real/test_minutes.py."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from livekit_pool import tokens
from livekit_pool.exceptions import NoAnswer
from livekit_pool.upstream.occupancy import Present
from livekit_pool.upstream.probe import Prober

from .scripted import KEY, SECRET, always, never, response, scripted


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    async with Prober(signed_timeout=0.3) as prober:
        yield prober


def answer(content: object, *headers: str) -> bytes:
    return response("200 OK", json.dumps(content).encode(), *headers)


async def test_the_rooms_and_the_time(prober: Prober) -> None:
    rooms = [
        {"name": "standup", "numParticipants": 3},
        {"name": "empty"},
        {"name": "older", "num_participants": "2"},
        {"sid": "RM_without_a_name"},
    ]
    date = "Date: Wed, 25 Nov 2026 12:00:00 GMT"
    async with scripted(always(answer({"rooms": rooms}, date))) as running:
        found = await prober.occupancy(running.server)

        assert found.rooms == {"standup": 3, "empty": 0, "older": 2}
        assert found.clock == 1_795_608_000.0
        (asked,) = running.seen
        assert asked.head.startswith("POST /twirp/livekit.RoomService/ListRooms ")
        assert json.loads(asked.body) == {"names": []}
        assert granted(asked.head) == {"roomList": True}


@pytest.mark.parametrize("headers", [(), ("Date: yesterday",)])
async def test_a_server_that_says_no_time(prober: Prober, headers: tuple[str, ...]) -> None:
    async with scripted(always(answer({"rooms": []}, *headers))) as running:
        assert (await prober.occupancy(running.server)).clock is None


async def test_the_participants_of_a_room(prober: Prober) -> None:
    participants = [
        {"sid": "PA_1", "joinedAt": "1795608000", "joinedAtMs": "1795608000250", "state": "ACTIVE"},
        {"sid": "PA_2", "joined_at": "1795608001", "kind": "EGRESS"},
        {"sid": "PA_3", "state": "DISCONNECTED"},
        {"sid": "PA_4", "joinedAtMs": "soon", "kind": None},
    ]
    async with scripted(always(answer({"participants": participants}))) as running:
        found = await prober.present(running.server, "stand up")

        assert found == [
            Present(sid="PA_1", joined=1_795_608_000.25, kind="STANDARD"),
            Present(sid="PA_2", joined=1_795_608_001.0, kind="EGRESS"),
            Present(sid="PA_4", joined=0.0, kind="STANDARD"),
        ]
        (asked,) = running.seen
        assert json.loads(asked.body) == {"room": "stand up"}
        assert granted(asked.head) == {"roomAdmin": True, "room": "stand up"}


@pytest.mark.parametrize(
    "bad",
    [
        response("401 Unauthorized", b"your token was eyJ..."),
        response("500 Internal Server Error"),
        response("200 OK", b"not JSON"),
        response("200 OK", b"[]"),
        response("200 OK", b'{"rooms": {}, "participants": 3}'),
        response("200 OK", b'{"rooms": [1], "participants": [null]}'),
        response("200 OK", b"[" * 100_000),
        None,
    ],
)
async def test_what_is_no_answer(prober: Prober, bad: bytes | None) -> None:
    async with scripted(always(bad)) as running:
        for asking in (prober.occupancy(running.server), prober.present(running.server, "x")):
            with pytest.raises(NoAnswer) as raised:
                await asking
            assert "eyJ" not in str(raised.value)


async def test_silence_is_no_answer(prober: Prober) -> None:
    async with scripted(never) as running:
        with pytest.raises(NoAnswer):
            await prober.occupancy(running.server)


def granted(head: str) -> object:
    """The grants of the request's token, which is signed with the server's key."""
    (line,) = [line for line in head.splitlines() if line.lower().startswith("authorization:")]
    token = line.split()[-1]
    claims = tokens.verify(token, tokens.KeyPair(key=KEY, secret=SECRET))
    return claims.raw["video"] if isinstance(claims.raw, dict) else None


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        (response("200 OK", b"", "Date: Wed, 25 Nov 2026 12:00:00 GMT"), 1_795_608_000.0),
        (response("405 No", b"", "Date: Wed, 25 Nov 2026 12:00:00 GMT"), 1_795_608_000.0),
        (response("200 OK"), None),
        (None, None),
    ],
)
async def test_what_time_it_is(prober: Prober, said: bytes | None, moment: float | None) -> None:
    async with scripted(always(said)) as running:
        assert await prober.date(running.server) == moment
        assert running.seen[0].head.startswith("HEAD / ")
