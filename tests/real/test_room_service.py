"""LiveKit's server SDKs, for Python and for Node, with the pool's URL and key and nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import aiohttp
import pytest
from livekit.api import CreateRoomRequest, DeleteRoomRequest, ListRoomsRequest, LiveKitAPI
from livekit.api.twirp_client import TwirpError

from livekit_pool.local import LocalServer
from tests.real.meeting import meeting
from tests.real.node import rooms as node
from tests.real.pool_process import PoolProcess
from tests.real.until import until

Rooms = Callable[..., Awaitable[dict[str, Any]]]
"""List, create or delete with one of the SDKs; arguments and answers are those of `node.rooms`."""


async def python(url: str, key: str, secret: str, action: str, room: str = "") -> dict[str, Any]:
    """The same as `node.rooms`, with livekit-api."""
    async with LiveKitAPI(url, key, secret) as lk:
        try:
            if action == "list":
                listed = await lk.room.list_rooms(ListRoomsRequest())
                return {"rooms": [each.name for each in listed.rooms]}
            if action == "create":
                return {"room": (await lk.room.create_room(CreateRoomRequest(name=room))).name}
            await lk.room.delete_room(DeleteRoomRequest(room=room))
            return {"deleted": room}
        except TwirpError as error:
            return {"error": {"message": error.message, "status": error.status, "code": error.code}}


@pytest.fixture(
    params=[
        pytest.param(python, id="livekit-api"),
        pytest.param(node.rooms, id="livekit-server-sdk", marks=pytest.mark.needs("node")),
    ]
)
def rooms(request: pytest.FixtureRequest) -> Rooms:
    """One of the SDKs."""
    sdk: Rooms = request.param
    return sdk


async def on(server: LocalServer) -> list[str]:
    """The rooms that a server itself says it has."""
    return list((await python(server.url, server.key, server.secret, "list"))["rooms"])


async def test_rooms_before_and_after_a_rotation(
    pool: PoolProcess, livekit_servers: list[LocalServer], rooms: Rooms
) -> None:
    red, green, blue = livekit_servers
    ours = (pool.url, pool.key, pool.secret)

    assert await rooms(*ours, "list") == {"rooms": []}
    assert await rooms(*ours, "create", "one") == {"room": "one"}
    assert await rooms(*ours, "create", "two") == {"room": "two"}
    assert sorted((await rooms(*ours, "list"))["rooms"]) == ["one", "two"]
    assert [await on(server) for server in (green, blue)] == [[], []]
    assert await rooms(*ours, "delete", "one") == {"deleted": "one"}
    assert await rooms(*ours, "list") == {"rooms": ["two"]}
    assert await on(red) == ["two"]
    assert await rooms(*ours, "delete", "two") == {"deleted": "two"}

    await pool.rotate("away from red", to="green")

    assert await rooms(*ours, "create", "three") == {"room": "three"}
    assert await on(green) == ["three"]
    assert await rooms(*ours, "list") == {"rooms": ["three"]}
    assert await rooms(*ours, "delete", "three") == {"deleted": "three"}
    assert await on(green) == []
    # An error of the server's own, as it came.
    missing = (await rooms(*ours, "delete", "three"))["error"]
    assert (missing["status"], missing["code"]) == (404, "not_found")
    assert "requested room does not exist" in missing["message"]
    assert not pool.leaks()


async def test_the_room_of_a_call_that_was_moved(
    pool: PoolProcess, livekit_servers: list[LocalServer], rooms: Rooms
) -> None:
    _, green, _ = livekit_servers
    ours = (pool.url, pool.key, pool.secret)
    async with meeting(pool) as call:
        assert await rooms(*ours, "list") == {"rooms": [call.room]}
        await call.settled()
        await pool.rotate("planned", to="green")
        await call.is_on("green")
        await call.runs()

        assert await rooms(*ours, "list") == {"rooms": [call.room]}
        assert await rooms(*ours, "create", call.room) == {"room": call.room}
        assert await on(green) == [call.room]

        # Deleting it is meant: it throws out who is there, for good.
        assert await rooms(*ours, "delete", call.room) == {"deleted": call.room}
        for who in (call.alice, call.bob):
            await until(partial(who.count, "disconnected"), seconds=5, what="both are thrown out")
            assert [e.detail for e in who.events if e.name == "disconnected"] == ["ROOM_DELETED"]
        assert not pool.leaks()


async def test_with_the_active_server_dead(
    pool: PoolProcess, livekit_servers: list[LocalServer], rooms: Rooms
) -> None:
    red, green, blue = livekit_servers
    ours = (pool.url, pool.key, pool.secret)
    assert await rooms(*ours, "create", "one") == {"room": "one"}

    await red.kill()

    # The call waits for the rotation, and goes to the next server.
    assert await rooms(*ours, "create", "two") == {"room": "two"}
    assert sorted([await on(green), await on(blue)]) == [[], ["two"]]
    assert await rooms(*ours, "list") == {"rooms": ["two"]}

    await green.kill()
    await blue.kill()

    for action in ("list", "create"):
        error = (await rooms(*ours, action, "three"))["error"]
        assert (error["status"], error["code"]) == (503, "unavailable")
        # Which of the two depends on whether the last death is confirmed already.
        assert error["message"] in (
            "no LiveKit server is available, try again",
            "no LiveKit server answers, try again",
        )
    assert not pool.leaks()


async def test_with_a_wrong_key(
    pool: PoolProcess, livekit_servers: list[LocalServer], rooms: Rooms
) -> None:
    red = livekit_servers[0]
    for pair, actions in (
        ((pool.key, red.secret), ["list"]),
        ((red.key, pool.secret), ["list"]),
        (("nobody", secrets.token_urlsafe(32)), ["list"]),
        # What opens the server does not open the pool.
        ((red.key, red.secret), ["list", "create", "delete"]),
    ):
        for action in actions:
            error = (await rooms(pool.url, *pair, action, "one"))["error"]
            assert (error["status"], error["code"]) == (401, "unauthenticated")
            assert error["message"] == "The token is signed with a key that is not the pool's."
    assert await on(red) == []
    assert not pool.leaks()


async def test_refusals_are_twirps_json(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    for server in livekit_servers:
        await server.kill()
    url = f"http://127.0.0.1:{pool.port}/twirp/livekit.RoomService/ListRooms"
    good = pool.token("lobby", "alice", room_list=True)
    for token, status, code in (("", 401, "unauthenticated"), (good, 503, "unavailable")):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/protobuf"}
        async with aiohttp.ClientSession() as http, http.post(url, headers=headers) as answer:
            assert answer.status == status
            # Node's SDK reads the body under exactly this content type.
            assert answer.headers["Content-Type"] == "application/json"
            body = await answer.json()
            assert body.keys() == {"code", "msg"}
            assert body["code"] == code
            if status == 503:
                assert int(answer.headers["Retry-After"]) >= 1
