"""The room list of one server, asked for with a token signed with that server's own key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from ..core.events import ProbeOutcome
from ..servers import Server
from .room_call import Refused, called

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
    body = await called(session, server, "ListRooms", {"names": list(names)}, {"roomList": True})
    rooms = _rooms(body)
    if rooms is None:
        raise Refused(ProbeOutcome.FAILED, "it answers, but not as a LiveKit server does")
    return rooms


def _rooms(body: bytes) -> dict[str, ListedRoom] | None:
    """The rooms of a ListRoomsResponse in JSON by name, None if it is none."""
    try:
        rooms = json.loads(body)["rooms"]
        return {str(r["name"]): _room(r) for r in rooms} if isinstance(rooms, list) else None
    except (ValueError, RecursionError, TypeError, KeyError):
        return None


def _room(room: Mapping[str, object]) -> ListedRoom:
    # 64-bit numbers are strings in JSON, and zeroes are left out: protobuf's JSON mapping. Some
    # servers write the fields' original names.
    def number(*keys: str) -> float:
        return float(str(next((room[key] for key in keys if room.get(key)), 0)))

    milliseconds = number("creationTimeMs", "creation_time_ms")
    return ListedRoom(
        created=milliseconds / 1000 or number("creationTime", "creation_time"),
        participants=int(number("numParticipants", "num_participants")),
        most=int(number("maxParticipants", "max_participants")),
    )
