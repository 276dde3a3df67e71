"""
Placing: where rooms are.

The store's placements say, for all processes alike. Where there are none to be read, because the
store is away or keeps none, this process goes by its own sessions and by asking the servers: a
room that one of them has is there. What was found out so is checked against the store's
placements as soon as these can be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence
from typing import Final

from ..driver import Driver
from ..exceptions import StoreError
from ..stores.base import Placement, Prompt, Settling, Stale

__all__ = ["STALE_PAUSE", "Placing"]

ASKING: Final = 0.6
"""Seconds that servers have to say whether they have a room."""

STALE_PAUSE: Final = 0.05
"""Seconds before a room is placed again after the document was found to be another one."""

AFTER_ROTATION: Final = 60.0
"""Seconds after a rotation's window in which a room may still be where it was before."""


class Placing:
    """The placements as one process knows them."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._store = driver.store
        self._prompt = driver.store if isinstance(driver.store, Prompt) else None
        # Found out without the store, by room; and those that a step put where they are.
        self._own: dict[str, Placement] = {}
        self._stepped: set[str] = set()
        # While the store cannot be asked: rooms that this process made, found nowhere before, and
        # the servers from which it followed others away.
        self._made: set[str] = set()
        self._left: dict[str, set[str]] = {}

    @property
    def shared(self) -> bool:
        """Whether the store is asked: it answers, keeps placements, and no step contradicts it."""
        driver = self._driver
        return driver.store_ok and self._store.keeps_placements and driver.step is None

    @property
    def prompt(self) -> bool:
        """Whether the store is asked, and may answer at once (`place_now`, `confirm_now`)."""
        return self._prompt is not None and self.shared

    def place_now(self, room: str, server: str, revision: int) -> Placement | None:
        """As `place`; None if that is to be asked instead."""
        if self._prompt is None or not self.shared:
            return None
        return self._prompt.place_now(room, server, revision)

    def confirm_now(self, placement: Placement, process: str, settling_until: float) -> bool:
        """As `confirm` where it succeeds; False if that is to be asked instead."""
        if self._prompt is None or not self.shared:
            return False
        return self._prompt.confirm_now(placement, process, settling_until)

    async def find(self, room: str) -> Placement | None:
        """The placement of ``room``, if it has one."""
        if self.shared:
            try:
                return await self._store.placement(room)
            except StoreError as error:
                self._driver.store_failed(error)
        own = self._own.get(room)
        if own is not None:
            return own
        having = await self._asked(room)
        if not having:
            return None
        return Placement(room=room, server=having[0], revision=self._driver.document.revision)

    async def servers(self) -> set[str]:
        """Names of the servers on which rooms are placed; of all, where nobody can tell."""
        if self.shared:
            try:
                return {placement.server for placement in await self._store.placements()}
            except StoreError as error:
                self._driver.store_failed(error)
        return set(self._driver.servers)

    async def place(self, room: str, server: str, revision: int) -> Placement | Stale:
        """As `Store.place`; without the store, on the server that has the room."""
        if self.shared:
            try:
                return await self._store.place(room, server, revision)
            except StoreError as error:
                self._driver.store_failed(error)
        own = self._own.get(room)
        return own if own is not None else await self._search(room, server, revision)

    async def confirm(
        self, placement: Placement, process: str, settling_until: float
    ) -> Placement | None:
        """As `Store.confirm`."""
        if self.shared:
            try:
                return await self._store.confirm(placement, process, settling_until)
            except StoreError as error:
                self._driver.store_failed(error)
        return self._own.setdefault(placement.room, placement)

    async def move(
        self, room: str, server: str, revision: int, process: str, *, force: bool = False
    ) -> Placement | Settling:
        """As `Store.move`."""
        if self.shared:
            try:
                return await self._store.move(room, server, revision, process, force=force)
            except StoreError as error:
                self._driver.store_failed(error)
        moved = self._own[room] = Placement(room=room, server=server, revision=revision)
        if self._driver.step is not None:
            self._stepped.add(room)
        return moved

    async def settled(self, room: str, process: str) -> None:
        """As `Store.settled`."""
        if self.shared:
            await self._store.settled(room, process)

    async def release(self, room: str, process: str) -> None:
        """As `Store.release`; what this process found out by itself is forgotten."""
        self._own.pop(room, None)
        self._stepped.discard(room)
        if self.shared:
            await self._store.release(room, process)

    async def strays(self, held: Sequence[Placement]) -> Sequence[Placement]:
        """
        Look for rooms of ``held`` that are on two servers, while no store tells where they are.

        Others may have moved a room without this process hearing of it: the copy that was made
        last counts. But one that this process made itself, while it could not ask the store, gives
        way to any other, since others may reach the store. No room goes back to a server that it
        left so, lest two processes that are both cut off chase each other.

        Returns:
            where those rooms are that somebody else is in.
        """
        if self.shared or not held or not self._elsewhere_possible():
            return ()
        try:
            async with asyncio.timeout(10 * ASKING):
                rooms = [placement.room for placement in held]
                where = await self._driver.where(rooms, occupied=True)
        except TimeoutError:
            return ()
        found = []
        for placement in held:
            server = self._elsewhere(placement, where.get(placement.room, ()))
            if server is not None:
                moved = Placement(room=placement.room, server=server, revision=placement.revision)
                self._own[placement.room] = moved
                self._left.setdefault(placement.room, set()).add(placement.server)
                found.append(moved)
        return found

    def _elsewhere(self, placement: Placement, having: Sequence[str]) -> str | None:
        """The server to follow a room to, of those ``having`` it with somebody in it."""
        # Who is not on the server where it should be is on the way to it.
        if placement.server not in having:
            return None
        others = having if placement.room in self._made else having[:1]
        left = self._left.get(placement.room, ())
        return next((name for name in others if name not in {placement.server, *left}), None)

    def adopt(self, placement: Placement) -> None:
        """Go by ``placement``, which a client brought in a token of this pool's."""
        self._own[placement.room] = placement

    def remember(self, placement: Placement) -> None:
        """Go by ``placement``, which this process knows, while the store cannot be asked."""
        self._own.setdefault(placement.room, placement)

    async def agree(
        self, held: Sequence[Placement], process: str, *, joined: Container[str] = ()
    ) -> Sequence[Placement]:
        """
        Tell the store again where the rooms are that this process holds, as ``held`` has it.

        Args:
            joined: names of rooms with sessions or joins under way: what was found out about
                others is forgotten.

        Returns:
            the placements that the store has otherwise, and those of rooms that a step had put
            elsewhere: the document and the store win.

        Raises:
            StoreError: it does not answer.
        """
        if self._driver.store_ok:
            self._made.clear()
            self._left.clear()
        if not self.shared:
            self._own = {room: own for room, own in self._own.items() if room in joined}
            self._own.update({placement.room: placement for placement in held})
            return ()
        stepped, self._stepped = self._stepped, set()
        self._own.clear()
        try:
            return [
                *await self._store.renew([p for p in held if p.room not in stepped], process),
                *[await self._back(p, process) for p in held if p.room in stepped],
            ]
        except StoreError:
            self._stepped |= stepped
            raise

    async def _back(self, placement: Placement, process: str) -> Placement:
        """Where the room of ``placement`` belongs, to which a step had moved it."""
        room, document = placement.room, self._driver.document
        while True:
            there: Placement | Stale | Settling
            there = await self._store.place(room, document.active_server, document.revision)
            if isinstance(there, Placement):
                break
            await asyncio.sleep(STALE_PAUSE)
            document = await self._driver.reload()
        if placement.server != document.active_server:
            return there
        # The step was right, and its rotation written: nobody has to move twice.
        there = await self._store.move(
            room, document.active_server, document.active_since, process, force=True
        )
        return there.placement if isinstance(there, Settling) else there

    async def _search(self, room: str, server: str, revision: int) -> Placement:
        """Ask the servers which has ``room``; ``server`` if it does, or none of them."""
        having = await self._asked(room) if self._elsewhere_possible() else ()
        found = Placement(room=room, server=server, revision=revision)
        if not having and not self._driver.store_ok:
            self._made.add(room)
        elif having and not self._driver.store_ok:
            # Those who reach the store may have moved it there: it is not for this process, which
            # does not know of it, to take it back.
            found = Placement(room=room, server=having[0], revision=revision)
        elif having and server not in having:
            # At an older revision: it moves to the active server when its time comes.
            before = self._driver.document.active_since - 1
            found = Placement(room=room, server=having[0], revision=before)
        if self._driver.step is not None:
            self._stepped.add(room)
        return self._own.setdefault(room, found)

    async def _asked(self, room: str) -> Sequence[str]:
        """Names of the servers that say they have ``room``."""
        try:
            async with asyncio.timeout(ASKING):
                return (await self._driver.where([room])).get(room, ())
        except TimeoutError:
            return ()

    def _elsewhere_possible(self) -> bool:
        if not self._driver.store_ok:
            return True
        document = self._driver.document
        since = self._driver.now() - document.last_rotation - document.window
        return since < AFTER_ROTATION
