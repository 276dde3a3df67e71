"""Who is where, by what the LiveKit servers themselves say."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack

import aiohttp
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


class Apart:
    """
    For how long at a time one room has had participants on more than one server.

    Attributes:
        longest: in seconds, over all that was seen so far.
        looks: how often that was looked at.
        seen: names of the servers on which somebody was seen.
    """

    def __init__(self, servers: Sequence[LocalServer], room: str) -> None:
        self.longest = 0.0
        self.looks = 0
        self.seen: set[str] = set()
        self._servers = servers
        self._room = room

    async def look_on(self) -> None:
        """Ask all servers again and again; one that does not answer at once has nobody."""
        async with AsyncExitStack() as stack:
            asked = [await stack.enter_async_context(calls(server)) for server in self._servers]
            since: float | None = None
            while True:
                begin = time.monotonic()
                there = await asyncio.gather(*(self._has_somebody(lk) for lk in asked))
                self.looks += 1
                self.seen |= {
                    server.name for server, has in zip(self._servers, there, strict=True) if has
                }
                if sum(there) > 1:
                    since = begin if since is None else since
                    self.longest = max(self.longest, time.monotonic() - since)
                else:
                    since = None
                await asyncio.sleep(0.1)

    async def _has_somebody(self, lk: api.LiveKitAPI) -> bool:
        with contextlib.suppress(aiohttp.ClientError, api.TwirpError, TimeoutError):
            async with asyncio.timeout(0.5):
                asked = api.ListParticipantsRequest(room=self._room)
                return bool((await lk.room.list_participants(asked)).participants)
        return False


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
