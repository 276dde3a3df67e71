"""The room list of one server, asked for with a token signed with that server's own key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from ..servers import Server
from .room_call import Refused, called, number, objects

__all__ = ["ListedRoom", "Refused", "listed_rooms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRoom:
    """
    A room as a server lists it (protocol: livekit_models.proto, Room).

    Attributes:
        created: when it was made, in seconds since the epoch by the server's clock; 0 if unsaid.
        participants: how many are in it; 5 s old at times (tried with LiveKit 1.13.5).
        most: how many may be in it at once; 0 for any number.
    """

    created: float = 0.0
    participants: int = 0
    most: int = 0


async def listed_rooms(
    session: aiohttp.ClientSession, server: Server, names: Sequence[str]
) -> Mapping[str, ListedRoom]:
    """
    Ask ``server`` for its rooms of those ``names``; an empty list would mean all of its rooms.

    protocol: livekit_room.proto, RoomService.ListRooms; the grant is ``roomList``.

    Raises:
        Refused: it answered something else.
        aiohttp.ClientError, TimeoutError, OSError: it did not answer.
    """
    answer = await called(session, server, "ListRooms", {"names": list(names)}, {"roomList": True})
    return {
        str(room["name"]): _room(room) for room in objects(answer.body, "rooms") if "name" in room
    }


def _room(room: Mapping[str, Any]) -> ListedRoom:
    milliseconds = number(room, "creationTimeMs", "creation_time_ms")
    return ListedRoom(
        created=milliseconds / 1000 or number(room, "creationTime", "creation_time"),
        participants=int(number(room, "numParticipants", "num_participants")),
        most=int(number(room, "maxParticipants", "max_participants")),
    )
