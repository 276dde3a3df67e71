"""Who is where, by what the LiveKit servers themselves say."""

from __future__ import annotations

from collections.abc import Iterable

from livekit import api

from livekit_pool.local import LocalServer
from tests.real.until import until


def calls(server: LocalServer) -> api.LiveKitAPI:
    """LiveKit's server API of ``server``, past the pool; an asynchronous context manager."""
    return api.LiveKitAPI(server.url.replace("ws", "http", 1), server.key, server.secret)


async def roster(server: LocalServer) -> dict[str, dict[str, str]]:
    """Room -> identity -> session id, of all that ``server`` has; without empty rooms."""
    found: dict[str, dict[str, str]] = {}
    async with calls(server) as lk:
        for room in (await lk.room.list_rooms(api.ListRoomsRequest())).rooms:
            listed = await lk.room.list_participants(api.ListParticipantsRequest(room=room.name))
            if listed.participants:
                found[room.name] = {who.identity: who.sid for who in listed.participants}
    return found


async def only_on(
    servers: Iterable[LocalServer],
    name: str,
    rooms: dict[str, set[str]],
    *,
    seconds: float = 5,
) -> None:
    """Wait until the server of that name has exactly these people, and no other server anybody."""
    wanted = {server.name: rooms if server.name == name else {} for server in servers}
    last: dict[str, dict[str, set[str]]] = {}

    async def so() -> bool:
        for server in servers:
            last[server.name] = {room: set(who) for room, who in (await roster(server)).items()}
        return last == wanted

    await until(so, seconds=seconds, what=lambda: f"{wanted}, but the servers have {last}")
