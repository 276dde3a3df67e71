"""Who is on one server: its rooms and their participants, asked for with the server's own key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from ..exceptions import NoAnswer
from ..servers import Server
from .attempt import Seen
from .retry_after import http_date
from .room_call import Refused, called, number, objects

__all__ = ["Occupancy", "Present", "date", "occupancy", "present"]

_GONE: Final = "DISCONNECTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """
    A server's rooms.

    Attributes:
        rooms: name -> how many participants it says are in it (protocol: Room.num_participants).
        clock: what time it was by the server's clock, seconds since the epoch; None if unsaid.
    """

    rooms: Mapping[str, int]
    clock: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """
    A participant who is on a server (protocol: livekit_models.proto, ParticipantInfo).

    Attributes:
        joined: when, in seconds since the epoch by the server's clock; 0 if unsaid.
        kind: name of its kind, such as ``STANDARD`` or ``EGRESS``.
    """

    sid: str
    joined: float
    kind: str


async def occupancy(session: aiohttp.ClientSession, server: Server) -> Occupancy:
    """
    All rooms of ``server``. Needs the grant ``roomList``.

    Raises:
        NoAnswer: it did not answer, or not as it should.
    """
    listed, clock = await _ask(session, server, "ListRooms", {"names": []}, {"roomList": True})
    rooms = {
        str(room["name"]): int(number(room, "numParticipants", "num_participants"))
        for room in listed
        if room.get("name")
    }
    return Occupancy(rooms=rooms, clock=clock)


async def present(session: aiohttp.ClientSession, server: Server, room: str) -> Sequence[Present]:
    """
    The participants of ``room`` on ``server``, who joined and are not gone. Raises as `occupancy`.
    """
    grants = {"roomAdmin": True, "room": room}
    listed, _ = await _ask(session, server, "ListParticipants", {"room": room}, grants)
    return [
        Present(
            sid=str(each.get("sid", "")),
            joined=number(each, "joinedAtMs", "joined_at_ms") / 1000
            or number(each, "joinedAt", "joined_at"),
            kind=str(each.get("kind") or "STANDARD"),
        )
        for each in listed
        if each.get("state") != _GONE
    ]


async def date(session: aiohttp.ClientSession, server: Server) -> float | None:
    """What time ``server`` says it is, whatever else it says; None if it says nothing."""
    try:
        async with session.head(f"{server.http_url}/", allow_redirects=False) as answer:
            return http_date(answer.headers.get("Date"))
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


async def _ask(
    session: aiohttp.ClientSession,
    server: Server,
    method: str,
    message: Mapping[str, object],
    grants: Mapping[str, object],
) -> tuple[Sequence[Mapping[str, Any]], float | None]:
    """What a List method answers, and when, by the server's clock."""
    try:
        body, clock = await called(session, server, method, message, grants)
        return objects(body, method.removeprefix("List").lower()), clock
    except Refused as refused:
        detail = refused.seen.detail
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        detail = Seen.after(error).detail
    raise NoAnswer(f"{server.name} did not answer {method}: {detail}")
