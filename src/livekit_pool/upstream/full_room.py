"""
Whether a room is full, asked of its server: a join that it refuses for that looks like any other.

LiveKit answers such a join with 500 "connection closed by media", and ``/validate`` with 200; that
the room is full stands only in its log (server: pkg/rtc/room.go, Join).
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

from ..servers import Server
from .room_call import called, objects
from .room_list import listed_rooms

__all__ = ["is_full"]

_DEPENDENT: Final = frozenset({"AGENT", "EGRESS"})
"""Kinds of participants that a room's maximum does not count (protocol: auth/grants.go)."""


async def is_full(session: aiohttp.ClientSession, server: Server, room: str) -> bool:
    """
    Whether ``room`` on ``server`` has as many participants as it may have.

    Their number in the list of rooms is up to 5 s old, so they themselves are listed too.

    Raises:
        Refused: it answered something else.
        aiohttp.ClientError, TimeoutError, OSError: it did not answer.
    """
    rooms, there = await asyncio.gather(
        listed_rooms(session, server, [room]), _participants(session, server, room)
    )
    listed = rooms.get(room)
    return listed is not None and 0 < listed.most <= max(listed.participants, there)


async def _participants(session: aiohttp.ClientSession, server: Server, room: str) -> int:
    """How many are in ``room``; the grants are ``roomAdmin`` and the room (livekit_room.proto)."""
    grants = {"roomAdmin": True, "room": room}
    answer = await called(session, server, "ListParticipants", {"room": room}, grants)
    there = objects(answer.body, "participants")
    return sum(each.get("kind") not in _DEPENDENT for each in there)
