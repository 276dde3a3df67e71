"""Looking: asks the servers who is on them, so that nobody is missed whom no other witness saw."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from ..core.health import Health
from ..driver import Driver
from ..exceptions import NoAnswer
from ..upstream.probe import Prober
from .clocks import ServerClocks

__all__ = ["Looking"]

EVERY: Final = 30.0
"""Seconds between two looks at a server."""

AT_ONCE: Final = 20
"""Rooms of one server whose participants are asked for in one look."""

AGAIN: Final = 300.0
"""Seconds after which a room is looked into although its number of participants explains itself."""


class _Witnesses(Protocol):
    """Whoever wants to know."""

    def witness(self, server: str, *, sid: str, joined: float, at: float, kind: str) -> None:
        """A server says that a participant was there."""


class Looking:
    """What the process that probes for its machine asks the servers about their participants."""

    def __init__(
        self,
        driver: Driver,
        prober: Prober,
        told: _Witnesses,
        occupied: Callable[[str], Mapping[str, int]],
        clocks: ServerClocks,
    ) -> None:
        """``occupied`` says how many sessions are here on a server, in each of its rooms."""
        self._driver = driver
        self._prober = prober
        self._told = told
        self._occupied = occupied
        self._clocks = clocks
        self._direct: dict[str, int] = {}
        self._unexplained: dict[str, int] = {}
        self._looked: dict[tuple[str, str], float] = {}  # server, room -> monotonic time
        driver.direct = lambda: self._direct

    def start(self) -> None:
        """Begin; the driver must be running."""
        self._driver.keep(self._look_again_and_again)

    def direct(self, server: str) -> int:
        """How many participants were on ``server`` past the pool, at the last two looks."""
        return self._direct.get(server, 0)

    async def look(self) -> None:
        """Look at all servers that are not down."""
        up = self._up()
        self._direct = {name: count for name, count in self._direct.items() if name in up}
        self._unexplained = {name: n for name, n in self._unexplained.items() if name in up}
        await asyncio.gather(*(self._look_at(name) for name in up))

    async def ask_the_time(self) -> None:
        """Ask all servers that are not down what time it is."""
        await asyncio.gather(*(self._ask_the_time(name) for name in self._up()))

    def _up(self) -> list[str]:
        driver = self._driver
        return [n for n in driver.servers if driver.machine.health(n) is not Health.DOWN]

    async def _look_again_and_again(self) -> None:
        due = -math.inf
        while True:
            if self._driver.probing:
                await self.look()
                await asyncio.sleep(EVERY)
                continue
            self._direct.clear()
            self._unexplained.clear()
            if (now := self._clocks.monotonic()) >= due:
                due = now + EVERY
                await self.ask_the_time()
            await asyncio.sleep(1.0)

    async def _ask_the_time(self, name: str) -> None:
        moment = await self._prober.date(self._driver.servers[name])
        if moment is not None:
            self._clocks.heard(name, moment)

    async def _look_at(self, name: str) -> None:
        server = self._driver.servers[name]
        try:
            occupancy = await self._prober.occupancy(server)
        except NoAnswer:
            return
        if occupancy.clock is not None:
            self._clocks.heard(name, occupancy.clock)
        # One that is said to be empty is looked into once: the number is some seconds behind.
        rooms = occupancy.rooms
        through = self._through(name)
        # Who was on the way at a look (the server still has who is about to resume, another
        # process's row does not have who has just joined) is not so at the next.
        unexplained = max(0, sum(rooms.values()) - through)
        self._direct[name] = min(unexplained, self._unexplained.get(name, 0))
        self._unexplained[name] = unexplained
        for room in self._worth_a_look(name, rooms, through):
            try:
                present = await self._prober.present(server, room)
            except NoAnswer:
                return
            self._looked[name, room] = self._clocks.monotonic()
            at = self._clocks.now(name)
            for each in present:
                self._told.witness(name, sid=each.sid, joined=each.joined, at=at, kind=each.kind)

    def _worth_a_look(self, name: str, rooms: Mapping[str, int], through: int) -> Iterable[str]:
        """The rooms to be looked into, those that were looked into longest ago first."""
        now = self._clocks.monotonic()
        self._looked = {
            (server, room): at
            for (server, room), at in self._looked.items()
            if server != name or room in rooms
        }
        looked = {room: self._looked.get((name, room), -math.inf) for room in rooms}
        own = self._occupied(name)
        explained = sum(rooms.values()) == through
        wanted = [
            room
            for room, count in rooms.items()
            if now >= looked[room] + AGAIN or not (explained or own.get(room, 0) == count)
        ]
        return sorted(wanted, key=lambda room: looked[room])[:AT_ONCE]

    def _through(self, name: str) -> int:
        """How many participants are on the server through all living processes."""
        others = [row for row in self._driver.rows if row.process != self._driver.process]
        own = self._driver.sessions().get(name, 0)
        return own + sum(row.sessions.get(name, 0) for row in others)
