"""Whether a room is full: what a real server says of it at once, and answers that are none."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from livekit.api import CreateRoomRequest, ListRoomsRequest, LiveKitAPI
from websockets.exceptions import InvalidStatus

from livekit_pool.local import LocalServer
from livekit_pool.upstream.probe import Prober
from tests.real.call import make_token
from tests.real.signal_client import SignalClients
from tests.upstream.scripted import Exchange, always, never, response, scripted


def token(server: LocalServer, room: str, identity: str, **claims: Any) -> str:
    made = make_token(server.key, server.secret, room=room, identity=identity)
    if not claims:
        return made
    body = jwt.decode(made, options={"verify_signature": False}) | claims
    return jwt.encode(body, server.secret, algorithm="HS256")


@pytest.mark.real
async def test_a_room_is_full_from_the_moment_at_which_its_server_refuses(
    prober: Prober, livekit: LocalServer
) -> None:
    async with LiveKitAPI(livekit.url, livekit.key, livekit.secret) as api, SignalClients() as make:
        await api.room.create_room(CreateRoomRequest(name="pair", max_participants=2))
        await api.room.create_room(CreateRoomRequest(name="open"))
        agent = make(livekit.url, token(livekit, "pair", "agent", kind="agent"))
        await agent.join()
        await make(livekit.url, token(livekit, "pair", "alice")).join()
        # The agent does not count.
        assert await prober.is_full(livekit.server, "pair") is False
        await make(livekit.url, token(livekit, "pair", "bob")).join()
        joined = time.monotonic()
        with pytest.raises(InvalidStatus) as refused:
            await make(livekit.url, token(livekit, "pair", "carol")).join()
        assert refused.value.response.status_code == 500
        assert refused.value.response.body == b"connection closed by media"

        assert await prober.is_full(livekit.server, "pair") is True

        listed = await api.room.list_rooms(ListRoomsRequest(names=["pair"]))
        if time.monotonic() - joined < 2:  # the reason for asking who is there
            assert listed.rooms[0].num_participants < 2
        await make(livekit.url, token(livekit, "open", "alice")).join()
        assert await prober.is_full(livekit.server, "open") is False
        assert await prober.is_full(livekit.server, "nowhere") is False


@pytest.mark.parametrize(
    "people",
    [
        b"",
        b"[]",
        b'{"participants": 3}',
        b'{"participants": [3]}',
        b"[" * 100_000,
    ],
)
async def test_an_answer_that_is_none_says_nothing(prober: Prober, people: bytes) -> None:
    async def script(exchange: Exchange) -> bytes:
        if "ListRooms" in exchange.head:
            return response("200 OK", b'{"rooms": [{"name": "r", "max_participants": 2}]}')
        return response("200 OK", people)

    async with scripted(script) as server:
        assert await prober.is_full(server.server, "r") is None


async def test_a_server_that_does_not_answer_says_nothing() -> None:
    async with Prober(signed_timeout=0.2) as prober:
        async with scripted(never) as server:
            assert await prober.is_full(server.server, "r") is None
        assert await prober.is_full(server.server, "r") is None
        async with scripted(always(response("429 No", b"{}"))) as server:
            assert await prober.is_full(server.server, "r") is None
