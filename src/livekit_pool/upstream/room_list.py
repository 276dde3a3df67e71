"""The room list of one server, asked for with a token signed with that server's own key."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from .. import tokens
from ..core.document import Cause
from ..core.events import ProbeOutcome
from ..core.faults import REFUSALS, Surface, classify
from ..servers import Server
from .attempt import Seen
from .connection import Stage
from .retry_after import retry_after

__all__ = ["ListedRoom", "Refused", "listed_rooms"]

_TOKEN_LIFE: Final = 300
"""Seconds. The token has neither ``nbf`` nor ``iat``, so that clocks may differ by 5 minutes."""

_BODY_LIMIT: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRoom:
    """
    A room as a server lists it (protocol: livekit_models.proto, Room).

    Attributes:
        created: when it was made, in seconds since the epoch by the server's clock; 0 if unsaid.
        participants: how many are in it.
    """

    created: float = 0.0
    participants: int = 0


class Refused(Exception):
    """A server answered, but not with a list of rooms. Holds nothing of what it said."""

    def __init__(
        self,
        outcome: ProbeOutcome,
        detail: str,
        *,
        kind: Cause | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.seen = Seen(
            outcome=outcome,
            stage=Stage.SIGNED,
            detail=detail,
            kind=kind,
            retry_after=retry_after,
        )


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
    token = tokens.sign(
        {"exp": int(time.time()) + _TOKEN_LIFE, "video": {"roomList": True}},
        tokens.KeyPair(key=server.key, secret=server.secret),
    )
    async with session.post(
        f"{server.http_url}/twirp/livekit.RoomService/ListRooms",
        json={"names": list(names)},
        headers={"Authorization": f"Bearer {token}"},
        allow_redirects=False,
    ) as answer:
        if answer.status != 200:
            raise _refused(
                answer.status,
                await answer.content.read(_BODY_LIMIT),
                retry_after(answer.headers.get("Retry-After")),
            )
        rooms = _rooms(await answer.read())
    if rooms is None:
        raise Refused(ProbeOutcome.FAILED, "it answers, but not as a LiveKit server does")
    return rooms


def _refused(status: int, body: bytes, retry_after: float | None) -> Refused:
    """What an answer other than 200 says. Of the body, where old servers put the token, no word."""
    if (kind := _limit(status, body)) is not None:
        return Refused(
            ProbeOutcome.LIMITED,
            f"it refuses for a limit ({kind.value}, HTTP {status})",
            kind=kind,
            retry_after=retry_after,
        )
    if status in (401, 403):
        return Refused(
            ProbeOutcome.UNAUTHORIZED,
            f"it refuses its API key or secret (HTTP {status}); clocks that differ by minutes"
            " have the same effect",
        )
    return Refused(ProbeOutcome.FAILED, f"it answered HTTP {status} when asked for its rooms")


def _limit(status: int, body: bytes) -> Cause | None:
    """The limit that an answer to a call tells of, if it does."""
    try:
        error = json.loads(body)
        code, text = str(error["code"]), str(error["msg"])
    except (ValueError, RecursionError, TypeError, KeyError):
        code, text = "", body.decode("utf-8", "replace")
    cause = classify(Surface.TWIRP, status=status, code=code, text=text).cause
    return cause if cause in REFUSALS else None


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
    )
