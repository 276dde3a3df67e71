"""
The embedded store: one SQLite file, shared by the processes of one machine.

Writes are ``BEGIN IMMEDIATE`` transactions in WAL mode with ``synchronous=NORMAL``: they survive
the death of any process; a loss of power may take the last of them. Changes by other processes
are found by ``PRAGMA data_version``, https://www.sqlite.org/pragma.html#pragma_data_version,
asked every 50 ms. It is not for network file systems.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ..core.document import Document, Rotation
from ..exceptions import ConfigurationError, StoreUnavailable
from . import sqlite_tables as tables
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
    Swapped,
    check_fold,
    check_restore,
    check_swap,
    check_totals,
)
from .notices import Notices
from .sqlite_direct import Direct, NotNow
from .sqlite_thread import DatabaseThread
from .sqlite_watch import Another, WatchedDatabase

__all__ = ["SqliteStore"]

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)

# Seconds a call waits for the locks of others.
_PATIENCE = 2.0
# Rooms renewed in one transaction: joins wait for it.
_RENEWED_AT_ONCE = 500


class SqliteStore:
    """
    `Store` in an SQLite file.

    Nothing is opened before the store is entered, so that it may be made before a fork.

    Args:
        url: ``sqlite:///path``, relative to the working directory of now, or ``sqlite:////path``.
        names: the pool's servers in order: what an index means in a document that somebody edited.
        clock: the store's time, seconds since the epoch: that of the machine, which all who share
            the file are on.

    Raises:
        ConfigurationError: the URL names no file.
    """

    def __init__(
        self, url: str, *, names: Sequence[str] = (), clock: Callable[[], float] = time.time
    ) -> None:
        self._url = url
        self._names = tuple(names)
        self._path = _path(url)
        self._clock = clock
        self._notices = Notices()
        self._thread: DatabaseThread | None = None
        self._direct: Direct | None = None
        # What was last said of the document.
        self._repairs: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<SqliteStore {self._url} {'open' if self._thread else 'closed'}>"

    @property
    def url(self) -> str:
        """The URL as it was given: it has no place for a secret."""
        return self._url

    @property
    def shared(self) -> bool:
        """Always True."""
        return True

    @property
    def remote(self) -> bool:
        """Always False."""
        return False

    @property
    def keeps_placements(self) -> bool:
        """Always True."""
        return True

    @property
    def heartbeat(self) -> float:
        """Always `HEARTBEAT`."""
        return HEARTBEAT

    async def __aenter__(self) -> Self:
        if self._thread is None:
            loop = asyncio.get_running_loop()
            notices = self._notices = Notices()

            def tell(became: int | Another | None, moved: Sequence[Placement]) -> None:
                # Called on the thread; a closed loop has nobody left to tell.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_publish, notices, became, moved)

            thread = DatabaseThread(str(self._path), patience=_PATIENCE)
            await thread.start(lambda: WatchedDatabase(self._path, _PATIENCE, tell))
            self._thread = thread
            with contextlib.suppress(sqlite3.Error):  # without it the thread does it all
                self._direct = Direct(self._path)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish what was asked for before, and close the file."""
        self._notices.close()
        direct, self._direct = self._direct, None
        if direct is not None:
            direct.close()
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.stop()

    # -- the document --

    async def load(self) -> Loaded:
        found = await self._database.read(lambda db: tables.load(db, self._names))
        document, repairs = found or (None, ())
        if repairs != self._repairs:
            # Once, not at each load until the next swap writes a whole document again.
            self._repairs = repairs
            for repair in repairs:
                _LOG.warning("Document repaired", extra={"fields": {"repair": repair}})
        return Loaded(document=document, now=self._clock())

    async def create(self, document: Document, operation: str) -> Swapped:
        return await self._database.write(
            lambda db: tables.create(db, document, operation, names=self._names), look=True
        )

    async def swap(
        self, expected: int, document: Document, operation: str, rotation: Rotation | None = None
    ) -> Swapped:
        check_swap(expected, document, rotation)
        return await self._database.write(
            lambda db: tables.swap(db, expected, document, operation, rotation, names=self._names),
            look=True,
        )

    async def restore(
        self,
        found: Document | None,
        document: Document,
        operation: str,
        history: Sequence[Rotation] = (),
    ) -> Swapped:
        check_restore(found, document, history)
        return await self._database.write(
            lambda db: tables.restore(db, found, document, operation, history, names=self._names),
            look=True,
        )

    async def history(self, limit: int = 50, before: int | None = None) -> Sequence[Rotation]:
        return await self._database.read(lambda db: tables.history(db, limit, before))

    def watch(self) -> AsyncIterator[Changed | Moved | Resync]:
        return self._notices.watch()

    # -- placements --

    async def placement(self, room: str) -> Placement | None:
        return await self._database.read(lambda db: tables.placement(db, room))

    async def place(self, room: str, server: str, revision: int) -> Placement | Stale:
        if placed := self.place_now(room, server, revision):
            return placed
        return await self._database.write(
            lambda db: tables.place(db, self._clock(), room, server, revision)
        )

    def place_now(self, room: str, server: str, revision: int) -> Placement | None:
        direct = self._direct
        if direct is None:
            return None
        try:
            # Most joins are of rooms that have a placement, and to read takes a third of a write.
            if existing := direct.read(lambda db: tables.placement(db, room)):
                return existing
            answer = direct.write(
                lambda db: tables.place(db, self._clock(), room, server, revision)
            )
        except NotNow:
            return None
        return None if isinstance(answer, Stale) else answer

    async def confirm(
        self, placement: Placement, process: str, settling_until: float
    ) -> Placement | None:
        if self.confirm_now(placement, process, settling_until):
            return placement
        return await self._database.write(
            lambda db: tables.confirm(db, self._clock(), placement, process, settling_until)
        )

    def confirm_now(self, placement: Placement, process: str, settling_until: float) -> bool:
        direct = self._direct
        if direct is None:
            return False
        arguments = self._clock(), placement, process, settling_until
        try:
            # Of joins that come together the first one has written what all have to say.
            return direct.read(lambda db: tables.holds(db, *arguments)) or (
                direct.write(lambda db: tables.confirm(db, *arguments)) == placement
            )
        except NotNow:
            return False

    async def settled(self, room: str, process: str) -> None:
        await self._write_soon(lambda db: tables.settled(db, room, process))

    async def release(self, room: str, process: str) -> None:
        await self._write_soon(lambda db: tables.release(db, self._clock(), room, process))

    async def move(
        self, room: str, server: str, revision: int, process: str, *, force: bool = False
    ) -> Placement | Settling:
        wanted = Placement(room=room, server=server, revision=revision)
        return await self._database.write(
            lambda db: tables.move(db, self._clock(), wanted, process, force), look=True
        )

    async def renew(self, placements: Iterable[Placement], process: str) -> Sequence[Placement]:
        given, others = list(placements), []
        for start in range(0, len(given), _RENEWED_AT_ONCE):
            others += await self._renew(given[start : start + _RENEWED_AT_ONCE], process)
        return others

    async def placements(self) -> Sequence[Placement]:
        return await self._database.read(tables.placements)

    async def rooms(self) -> Mapping[str, int]:
        return await self._database.read(lambda db: tables.rooms(db, self._clock()))

    async def lapsing(self, idle: float) -> Sequence[Placement]:
        return await self._database.read(lambda db: tables.lapsing(db, self._clock(), idle))

    async def lapse(self, placement: Placement, idle: float) -> bool:
        return await self._database.write(
            lambda db: tables.lapse(db, self._clock(), placement, idle)
        )

    # -- the ledger --

    async def count(self, totals: Ledger) -> None:
        check_totals(totals)
        await self._database.write(lambda db: tables.count(db, totals))

    async def ledger(self) -> Ledger:
        return await self._database.read(tables.ledger)

    async def fold(
        self,
        writer: str,
        key: str,
        expected: int,
        totals: Mapping[str, int],
        drop: Collection[str],
    ) -> bool:
        check_fold(writer, key, expected, totals)
        return await self._database.write(
            lambda db: tables.fold(db, writer, key, expected, totals=totals, drop=drop)
        )

    # -- processes --

    async def beat(self, row: ProcessRow) -> bool:
        return await self._database.write(lambda db: tables.beat(db, self._clock(), row))

    async def leave(self, process: str) -> None:
        await self._database.write(lambda db: tables.leave(db, self._clock(), process))

    async def rows(self, within: float | None = None) -> Sequence[ProcessRow]:
        age = LIVING if within is None else within
        return await self._database.read(lambda db: tables.rows(db, self._clock(), age))

    async def _renew(self, given: Sequence[Placement], process: str) -> list[Placement]:
        return await self._database.write(
            lambda db: tables.renew(db, self._clock(), given, process), look=True
        )

    async def _write_soon(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Write at once if nobody else does, else on the thread."""
        if self._direct is not None:
            with contextlib.suppress(NotNow):
                return self._direct.write(work)
        return await self._database.write(work)

    @property
    def _database(self) -> DatabaseThread:
        if self._thread is None:
            raise StoreUnavailable(f"The database {self._path} is not open.")
        return self._thread


def _path(url: str) -> Path:
    """The file that ``url`` names, as SQLAlchemy reads such URLs."""
    scheme, _, rest = url.partition("://")
    name = rest[1:]
    if scheme.lower() != "sqlite" or not rest.startswith("/") or not name or name.endswith("/"):
        raise ConfigurationError(
            "LIVEKIT_POOL_STORE: an SQLite store is sqlite:///path, or sqlite:////path for an"
            " absolute path."
        )
    if name == ":memory:":
        raise ConfigurationError("LIVEKIT_POOL_STORE: use memory:// for a store in memory.")
    if any(character in name for character in "?#\0"):
        raise ConfigurationError(
            "LIVEKIT_POOL_STORE: sqlite:///path takes no options; '?', '#' and NUL cannot be in it."
        )
    # Fixed now: a later change of the working directory must not name another file.
    return Path(name).absolute()


def _publish(notices: Notices, became: int | Another | None, moved: Sequence[Placement]) -> None:
    if became is Another.DOCUMENT:
        notices.resync()
    elif became is not None:
        notices.changed(became)
    for placement in moved:
        notices.moved(placement)
