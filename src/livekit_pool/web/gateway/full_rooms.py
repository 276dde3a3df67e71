"""FullRooms: which rooms are full, as their servers say when they are asked after a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

__all__ = ["PATIENCE", "REMEMBERED", "FullRooms"]

PATIENCE: Final = 1.0
"""Seconds that a refused client waits for the answer."""

REMEMBERED: Final = 10.0
"""Seconds for which a full room is taken for full without asking again."""

_Key = tuple[str, str]


class FullRooms:
    """
    What servers say of rooms that may be full; one question serves all who want to know.

    So a crowd before a full room costs its server no more than one question a second beside the
    joins that it refuses.
    """

    def __init__(
        self,
        ask: Callable[[str, str], Awaitable[bool | None]],
        spawn: Callable[[Coroutine[object, object, None]], object],
    ) -> None:
        """
        Know nothing yet.

        Args:
            ask: asks a server about a room; None where it cannot tell.
            spawn: runs a question, as long as the process runs.
        """
        self._ask = ask
        self._spawn = spawn
        self._full: dict[_Key, float] = {}  # -> loop time until which it is full
        self._asking: dict[_Key, tuple[float, asyncio.Future[bool]]] = {}  # -> since when, answer

    async def is_full(self, server: str, room: str) -> bool:
        """Whether ``room`` is full on ``server``; no, if that cannot be found out soon."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._find_out((server, room))
        except TimeoutError:
            return False

    async def _find_out(self, key: _Key) -> bool:
        clock = asyncio.get_running_loop().time
        came = clock()
        while self._full.get(key, 0.0) <= clock():
            if key not in self._asking:
                self._asking[key] = clock(), asyncio.get_running_loop().create_future()
                self._spawn(self._question(key))
            since, answer = self._asking[key]
            # An older one may have been answered just before the last place was taken.
            if not await asyncio.shield(answer) and since >= came:
                return False
        return True

    async def _question(self, key: _Key) -> None:
        _, answer = self._asking[key]
        full = False
        try:
            full = bool(await self._ask(*key))
        finally:
            now = asyncio.get_running_loop().time()
            self._full = {known: until for known, until in self._full.items() if until > now}
            if full:
                self._full[key] = now + REMEMBERED
            del self._asking[key]
            if not answer.done():
                answer.set_result(full)
