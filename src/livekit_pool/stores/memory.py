"""The store for one process and for tests: nothing outlives the object."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from ..core.document import Document, Rotation
from ..exceptions import ConfigurationError, StoreUnavailable
from .base import (
    HEARTBEAT,
    LIVING,
    Changed,
    Ledger,
    Loaded,
    Moved,
    Placement,
    ProcessRow,
    Resync,
    Settling,
    Stale,
    SwapOutcome,
    Swapped,
    check_fold,
    check_restore,
    check_swap,
    check_totals,
)
from .notices import Notices
from .placements import Placements

__all__ = ["MemoryStore"]


class MemoryStore:
    """
    `Store` in this process's memory.

    Args:
        url: ``memory://``, nothing else.
        names: not needed: what is kept here was never stored.
        clock: the store's time, seconds since the epoch.

    Raises:
        ConfigurationError: the URL has more than its scheme.
    """

    def __init__(
        self,
        url: str = "memory://",
        *,
        names: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        if url.lower() != "memory://":
            raise ConfigurationError("LIVEKIT_POOL_STORE: memory:// takes nothing after it.")
        self._clock = clock
        self._open = False
        self._notices = Notices()
        # The document, and the operation that wrote it.
        self._document: Document | None = None
        self._operation = ""
        self._history: list[Rotation] = []
        self._rooms = Placements(LIVING, lambda placement: self._notices.moved(placement))
        self._rows: dict[str, ProcessRow] = {}
        # writer -> key -> sum
        self._ledger: dict[str, dict[str, int]] = {}

    def __repr__(self) -> str:
        return f"<MemoryStore {'open' if self._open else 'closed'}, {len(self._rooms)} rooms>"

    @property
    def url(self) -> str:
        """Always ``memory://``."""
        return "memory://"

    @property
    def shared(self) -> bool:
        """Always False: no other process sees this memory."""
        return False

    @property
    def remote(self) -> bool:
        """Always False."""
        return False

    @property
    def keeps_placements(self) -> bool:
        """Always True: there is one process, and it has them all."""
        return True

    @property
    def heartbeat(self) -> float:
        """Always `HEARTBEAT`."""
        return HEARTBEAT

    async def __aenter__(self) -> Self:
        if not self._open:
            self._open = True
            self._notices = Notices()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the store; what it holds is there again when the same object is entered again."""
        self._open = False
        self._notices.close()

    # -- the document --

    async def load(self) -> Loaded:
        now = await self._turn()
        return Loaded(document=self._document, now=now)

    async def create(self, document: Document, operation: str) -> Swapped:
        await self._turn()
        if self._document is not None:
            return self._not_written(operation)
        return self._write(document, operation)

    async def swap(
        self, expected: int, document: Document, operation: str, rotation: Rotation | None = None
    ) -> Swapped:
        check_swap(expected, document, rotation)
        await self._turn()
        current = self._document
        if current is None or current.revision != expected or current.lineage != document.lineage:
            return self._not_written(operation)
        if rotation is not None:
            self._history.append(rotation)
        return self._write(document, operation)

    async def restore(
        self,
        found: Document | None,
        document: Document,
        operation: str,
        history: Sequence[Rotation] = (),
    ) -> Swapped:
        check_restore(found, document, history)
        await self._turn()
        there = self._document
        if (there and there.identity) != (found and found.identity):
            return self._not_written(operation)
        had = {rotation.revision for rotation in self._history}
        self._history += [rotation for rotation in history if rotation.revision not in had]
        self._history.sort(key=lambda rotation: rotation.revision)
        if found is None or found.lineage != document.lineage:
            self._notices.resync()
        return self._write(document, operation)

    async def history(self, limit: int = 50, before: int | None = None) -> Sequence[Rotation]:
        await self._turn()
        newest_first = reversed(self._history)
        page = [r for r in newest_first if before is None or r.revision < before]
        return page[: max(limit, 0)]

    def watch(self) -> AsyncIterator[Changed | Moved | Resync]:
        return self._notices.watch()

    # -- placements --

    async def placement(self, room: str) -> Placement | None:
        await self._turn()
        return self._rooms.get(room)

    async def place(self, room: str, server: str, revision: int) -> Placement | Stale:
        await self._turn()
        current = self._document.revision if self._document else 0
        return self.place_now(room, server, revision) or Stale(revision=current)

    def place_now(self, room: str, server: str, revision: int) -> Placement | None:
        if not self._open:
            return None
        if existing := self._rooms.get(room):
            return existing
        current = self._document.revision if self._document else 0
        if current != revision:
            return None
        wanted = Placement(room=room, server=server, revision=revision)
        return self._rooms.put(wanted, self._clock())

    async def confirm(
        self, placement: Placement, process: str, settling_until: float
    ) -> Placement | None:
        now = await self._turn()
        return self._rooms.confirm(placement, process, settling_until, now)

    def confirm_now(self, placement: Placement, process: str, settling_until: float) -> bool:
        if not self._open:
            return False
        now_there = self._rooms.confirm(placement, process, settling_until, self._clock())
        return now_there == placement

    async def settled(self, room: str, process: str) -> None:
        await self._turn()
        self._rooms.settled(room, process)

    async def release(self, room: str, process: str) -> None:
        now = await self._turn()
        self._rooms.release(room, process, now)

    async def move(
        self, room: str, server: str, revision: int, process: str, *, force: bool = False
    ) -> Placement | Settling:
        now = await self._turn()
        wanted = Placement(room=room, server=server, revision=revision)
        return self._rooms.move(wanted, process, force, now)

    async def renew(self, placements: Iterable[Placement], process: str) -> Sequence[Placement]:
        now = await self._turn()
        return self._rooms.renew(placements, process, now)

    async def placements(self) -> Sequence[Placement]:
        await self._turn()
        return self._rooms.all()

    async def rooms(self) -> Mapping[str, int]:
        now = await self._turn()
        return self._rooms.held(now)

    async def lapsing(self, idle: float) -> Sequence[Placement]:
        now = await self._turn()
        return self._rooms.lapsing(idle, now)

    async def lapse(self, placement: Placement, idle: float) -> bool:
        now = await self._turn()
        return self._rooms.lapse(placement, idle, now)

    # -- the ledger --

    async def count(self, totals: Ledger) -> None:
        check_totals(totals)
        await self._turn()
        for writer, sums in totals.items():
            kept = self._ledger.setdefault(writer, {})
            for key, total in sums.items():
                kept[key] = max(total, kept.get(key, 0))

    async def ledger(self) -> Ledger:
        await self._turn()
        return {writer: dict(sums) for writer, sums in self._ledger.items()}

    async def fold(
        self,
        writer: str,
        key: str,
        expected: int,
        totals: Mapping[str, int],
        drop: Collection[str],
    ) -> bool:
        check_fold(writer, key, expected, totals)
        await self._turn()
        kept = self._ledger.get(writer, {})
        if kept.get(key, 0) != expected:
            return False
        for dropped in drop:
            kept.pop(dropped, None)
        self._ledger[writer] = kept | dict(totals)
        return True

    # -- processes --

    async def beat(self, row: ProcessRow) -> bool:
        now = await self._turn()
        known = row.process in self._rows
        self._rows[row.process] = replace(row, beat=now)
        self._rooms.beat(row.process, now)
        return known

    async def leave(self, process: str) -> None:
        now = await self._turn()
        self._rows.pop(process, None)
        self._rooms.leave(process, now)

    async def rows(self, within: float | None = None) -> Sequence[ProcessRow]:
        now = await self._turn()
        within = LIVING if within is None else within
        return [row for row in self._rows.values() if abs(now - row.beat) <= within]

    # -- steps of the above, none of which lets another task run --

    async def _turn(self) -> float:
        """Let other tasks run, as a store that does I/O would; return the store's time."""
        await asyncio.sleep(0)
        if not self._open:
            raise StoreUnavailable("The store memory:// is not open.")
        return self._clock()

    def _write(self, document: Document, operation: str) -> Swapped:
        self._document, self._operation = document, operation
        self._notices.changed(document.revision)
        return Swapped(outcome=SwapOutcome.WON, document=document)

    def _not_written(self, operation: str) -> Swapped:
        # The same operation again: its answer was lost, and it is still the newest.
        won = self._document is not None and self._operation == operation
        return Swapped(
            outcome=SwapOutcome.WON if won else SwapOutcome.LOST, document=self._document
        )
