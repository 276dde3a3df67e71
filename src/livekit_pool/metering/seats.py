"""
Seats: who is on the way to a server that takes a limited number of participants.

A process tells the others that somebody wants a seat before it reads what they say. So of two that
want the last one at the same moment at least one hears of the other, and no more are let in than
may be. Where both hear, both withdraw, and try again after pauses that differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from ..driver import Driver
from ..exceptions import StoreError
from ..stores.base import HEARTBEAT, ProcessRow

__all__ = ["Seats"]

_PAUSES: Final = (2, 4, 8, 16, 16)
"""
Longest pauses before it is tried again, one after the other, in the time that asking took.

Doubled, as for stations on one wire, so that of several that try at once soon one is alone.
"""

_LONGEST: Final = 0.3
"""Seconds of the longest of them."""

_PART: Final = 10
"""Of the free seats a process wants one in so many at once, that others may have some too."""

_Seat = asyncio.Future[bool]
"""Done when it is known whether there is one."""


class Counts(Protocol):
    """Who counts participants."""

    def __call__(self, server: str, rows: Sequence[ProcessRow] | None = None) -> int:
        """How many are on ``server``, or have a seat there, by these ``rows``."""


class Seats:
    """
    The seats of one process.

    Attributes:
        taken: server name -> how many are on their way to it with a seat.
    """

    def __init__(self, driver: Driver, participants: Counts) -> None:
        self._driver = driver
        self._participants = participants
        self.taken: Counter[str] = Counter()
        self._wanted: Counter[str] = Counter()  # as the others are told
        self._waiting: dict[str, deque[_Seat]] = {}  # by the servers for which somebody asks around
        self._took = 0.0  # seconds that the last asking around took
        driver.coming = self.coming

    def limited(self, server: str) -> bool:
        """Whether ``server`` takes a limited number of participants, so that one needs a seat."""
        return self._most(server) is not None

    def coming(self) -> Mapping[str, int]:
        """Server name -> how many have a seat on it or want one, and are not there yet."""
        return self.taken + self._wanted

    async def take(self, server: str) -> bool:
        """
        Take a seat on ``server``, if there is one: until `leave`.

        While the store is away, or where each heartbeat is a write that costs, this process goes by
        what it heard last.
        """
        if not self._can_ask:
            free = self._free(server) > 0
            self.taken[server] += free
            return free
        seat: _Seat = asyncio.get_running_loop().create_future()
        if server in self._waiting:
            self._waiting[server].append(seat)
        else:
            self._waiting[server] = deque([seat])
            self._driver.spawn(self._ask_around(server))
        try:
            return await seat
        except asyncio.CancelledError:
            if seat.done() and not seat.cancelled() and seat.result():
                self.leave(server)
            raise

    def leave(self, server: str) -> None:
        """Who had a seat is there now, and counted otherwise; or does not come any more."""
        self.taken[server] -= 1

    async def hear(self) -> None:
        """Hear from the other processes who is there now, if they can be asked."""
        if self._can_ask:
            await self._tell()

    async def _ask_around(self, server: str) -> None:
        """Find seats for all who wait for one, or find that there is none."""
        waiting = self._waiting[server]
        pauses = deque(_PAUSES)
        try:
            while waiting:
                wanted = min(len(waiting), max(1, self._free(server) // _PART))
                found = await self._found(server, wanted)
                for _ in range(found):
                    self._give(server, waiting.popleft())
                if found:
                    pauses = deque(_PAUSES)
                    continue
                await self._tell()  # that nobody wants one any more
                if not pauses or not self._can_ask:
                    break
                longest = min(_LONGEST, self._took * pauses.popleft())
                await asyncio.sleep(random.uniform(0, longest))
        finally:
            del self._waiting[server]
            for seat in waiting:
                if not seat.done():
                    seat.set_result(False)

    async def _found(self, server: str, wanted: int) -> int:
        """How many of the ``wanted`` seats there are, by what the others say then."""
        self._wanted[server] = wanted
        try:
            await self._tell()
        finally:
            del self._wanted[server]
        return max(0, min(wanted, self._free(server)))

    def _give(self, server: str, seat: _Seat) -> None:
        if not seat.done():  # who wanted it may have gone
            self.taken[server] += 1
            seat.set_result(True)

    async def _tell(self) -> None:
        """Tell the others who is coming, and hear what they say after that."""
        began = time.monotonic()
        with contextlib.suppress(StoreError):
            await self._driver.exchange()
        self._took = time.monotonic() - began

    @property
    def _can_ask(self) -> bool:
        return self._driver.store_ok and self._driver.store.heartbeat <= HEARTBEAT

    def _free(self, server: str) -> int:
        """How many seats there are that nobody has, or wants in another process."""
        most = self._most(server)
        return 0 if most is None else most - self._participants(server)

    def _most(self, server: str) -> int | None:
        known = self._driver.servers.get(server)
        return None if known is None else known.max_participants
