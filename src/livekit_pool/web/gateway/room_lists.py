"""RoomLists: the room lists of several servers, made into one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from livekit.protocol.room import ListRoomsResponse

from ...stores.base import Placement
from .twirp_answer import TwirpAnswer

__all__ = ["RoomLists"]


class RoomLists:
    """
    Good answers to one ListRooms call by server name, all of them JSON or all protobuf.

    Rooms are passed on as they came, also with fields that this package does not know.
    """

    def __init__(self, answers: Mapping[str, TwirpAnswer], *, is_json: bool) -> None:
        self._answers = answers
        self._is_json = is_json

    async def merged(self, placement: Callable[[str], Awaitable[Placement | None]]) -> TwirpAnswer:
        """Make them one answer; of a room that several have, the one of its placement's server."""
        if len(self._answers) == 1:
            return next(iter(self._answers.values()))
        found: dict[str, dict[str, Any]] = {}
        for server, answer in self._answers.items():
            for room in self._rooms(answer.body):
                name = room["name"] if self._is_json else room.name
                found.setdefault(name, {})[server] = room
        rooms = []
        for name, by_server in found.items():
            placed = await placement(name) if len(by_server) > 1 else None
            first = next(iter(by_server.values()))
            rooms.append(by_server.get(placed.server, first) if placed else first)
        headers = next(iter(self._answers.values())).headers
        return TwirpAnswer(status=200, headers=headers, body=self._body(rooms))

    def _rooms(self, body: bytes) -> list[Any]:
        try:
            if self._is_json:
                return [room for room in json.loads(body)["rooms"] if isinstance(room["name"], str)]
            return list(ListRoomsResponse.FromString(body).rooms)
        except (ValueError, RecursionError, TypeError, KeyError, DecodeError):
            return []

    def _body(self, rooms: list[Any]) -> bytes:
        if self._is_json:
            return json.dumps({"rooms": rooms}, separators=(",", ":")).encode()
        return ListRoomsResponse(rooms=rooms).SerializeToString()
