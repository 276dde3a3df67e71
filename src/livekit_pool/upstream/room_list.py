"""The room list of one server, asked for with a token signed with that server's own key."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Final

import aiohttp

from .. import tokens
from ..core.events import ProbeOutcome
from ..servers import Server
from .attempt import Seen
from .connection import Stage

__all__ = ["Refused", "room_names"]

_TOKEN_LIFE: Final = 300
"""Seconds. The token has neither ``nbf`` nor ``iat``, so that clocks may differ by 5 minutes."""


class Refused(Exception):
    """A server answered, but not with a list of rooms. Holds nothing of what it said."""

    def __init__(self, outcome: ProbeOutcome, detail: str) -> None:
        super().__init__(detail)
        self.seen = Seen(outcome=outcome, stage=Stage.SIGNED, detail=detail)


async def room_names(
    session: aiohttp.ClientSession, server: Server, names: Sequence[str]
) -> set[str]:
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
        if answer.status in (401, 403):
            # The body stays unread: old servers put the whole token into it.
            raise Refused(
                ProbeOutcome.UNAUTHORIZED,
                f"it refuses its API key or secret (HTTP {answer.status}); clocks that differ"
                " by minutes have the same effect",
            )
        if answer.status != 200:
            raise Refused(
                ProbeOutcome.FAILED, f"it answered HTTP {answer.status} when asked for its rooms"
            )
        rooms = _rooms(await answer.read())
    if rooms is None:
        raise Refused(ProbeOutcome.FAILED, "it answers, but not as a LiveKit server does")
    return rooms


def _rooms(body: bytes) -> set[str] | None:
    """Names of a ListRoomsResponse in JSON, None if it is none."""
    try:
        rooms = json.loads(body)["rooms"]
        return {str(room["name"]) for room in rooms} if isinstance(rooms, list) else None
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
