"""Who is on one server: its rooms and their participants, asked for with the server's own key."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp

from .. import tokens
from ..exceptions import NoAnswer
from ..servers import Server
from .attempt import Seen

__all__ = ["Occupancy", "Present", "date", "occupancy", "present"]

_TOKEN_LIFE: Final = 300
"""Seconds. The token has neither ``nbf`` nor ``iat``, so that clocks may differ by 5 minutes."""

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
    content, date = await _ask(session, server, "ListRooms", {"roomList": True}, {"names": []})
    rooms: dict[str, int] = {}
    for room in _objects(content, "rooms", server):
        if name := str(room.get("name", "")):
            rooms[name] = int(_number(room, "numParticipants", "num_participants"))
    return Occupancy(rooms=rooms, clock=_clock(date))


async def present(session: aiohttp.ClientSession, server: Server, room: str) -> Sequence[Present]:
    """
    The participants of ``room`` on ``server``, who joined and are not gone. Raises as `occupancy`.
    """
    grants = {"roomAdmin": True, "room": room}
    content, _ = await _ask(session, server, "ListParticipants", grants, {"room": room})
    return [
        Present(
            sid=str(each.get("sid", "")),
            joined=_number(each, "joinedAtMs", "joined_at_ms") / 1000
            or _number(each, "joinedAt", "joined_at"),
            kind=str(each.get("kind") or "STANDARD"),
        )
        for each in _objects(content, "participants", server)
        if each.get("state") != _GONE
    ]


async def date(session: aiohttp.ClientSession, server: Server) -> float | None:
    """What time ``server`` says it is, whatever else it says; None if it says nothing."""
    try:
        async with session.head(f"{server.http_url}/", allow_redirects=False) as answer:
            return _clock(answer.headers.get("Date"))
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


async def _ask(
    session: aiohttp.ClientSession,
    server: Server,
    method: str,
    grants: Mapping[str, object],
    body: Mapping[str, object],
) -> tuple[object, str | None]:
    """Call ``method`` of the room service; what it answered, and the date it gave."""
    token = tokens.sign(
        {"exp": int(time.time()) + _TOKEN_LIFE, "video": dict(grants)},
        tokens.KeyPair(key=server.key, secret=server.secret),
    )
    try:
        async with session.post(
            f"{server.http_url}/twirp/livekit.RoomService/{method}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            allow_redirects=False,
        ) as answer:
            # The body of a refusal stays unread: old servers put the whole token into it.
            detail = f"HTTP {answer.status}"
            if answer.status == 200:
                return json.loads(await answer.read()), answer.headers.get("Date")
    except (ValueError, RecursionError):
        detail = "it answers, but not as a LiveKit server does"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        detail = Seen.after(error).detail
    raise NoAnswer(f"{server.name} did not answer {method}: {detail}")


def _objects(content: object, key: str, server: Server) -> Sequence[Mapping[str, Any]]:
    found = content.get(key, []) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise NoAnswer(f"{server.name} answers, but not as a LiveKit server does")
    return found


def _number(message: Mapping[str, Any], *keys: str) -> float:
    # 64-bit numbers are strings in JSON, and zeroes are left out: protobuf's JSON mapping. Some
    # servers write the fields' original names.
    try:
        return float(next((message[key] for key in keys if message.get(key)), 0))
    except (TypeError, ValueError):
        return 0.0


def _clock(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, OverflowError):
        return None
