"""
Following: one process's link to the store.

It finds the document or makes the first one, reads it again whenever it may have changed, says that
this process lives and reads what the others say, and knows whether the store is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Final, Protocol

from .. import observe
from ..core.actions import Restore
from ..core.agreement import Finding, compare
from ..core.document import Document, Rotation, new_document, restored
from ..core.events import ClockSet, Event, Loaded, StoreSeen
from ..core.fields import LARGEST
from ..core.machine import PoolMachine
from ..exceptions import (
    PoolError,
    StoreCorrupt,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from ..stores.base import HEARTBEAT, Changed, Moved, Placement, ProcessRow, Store
from .clock import StoreClock
from .listeners import Listeners
from .neighbours import Neighbours, seen_in
from .shared import Shared
from .tasks import Tasks
from .writing import REMEMBERED, Writing

__all__ = ["PATIENCE", "Following"]

NEWBORN_WAIT: Final = 3.0
"""Seconds to wait, after finding no document where one may be lost, before making one."""

MENDING: Final = 15.0
"""Seconds that running processes have to mend what somebody wrote over the document."""

LONGEST_LOOK: Final = 60.0
"""Longest pause in seconds between two looks at what could not be read."""

PATIENCE: Final = 8.0
"""Seconds after which a call of the store is given up, whatever the store says of itself."""


class _Unmended(StoreUnavailable):
    """The running processes have to put the document right before this one follows it."""


class Host(Protocol):
    """Who follows the store."""

    def feed(self, event: Event) -> None:
        """Take in what was read."""

    def row(self) -> ProcessRow:
        """What this process tells the others of itself now."""

    def is_fresh(self) -> None:
        """The document has just been read."""


class Following:
    """
    The link of one process.

    Attributes:
        ok: whether the store answers, and what it holds has been read since it does.
        clock: the store's time. writing: changes of the document.
        news: set when there is something that the other processes want to hear at once.
        changed: told with False when the store goes away, with True when it is back.
        moved: told of each placement that moved; of None where any may have, or may be lost.
    """

    def __init__(
        self,
        store: Store,
        machine: PoolMachine,
        host: Host,
        tasks: Tasks,
        *,
        process: str,
        started: float,
    ) -> None:
        """
        Read nothing yet.

        Args:
            process: this process's identity in the store.
            started: when it started, by this machine's clock, in seconds since the epoch.
        """
        self.ok = True
        self.clock: Final = StoreClock()
        self.writing: Final = Writing(store, self.clock.now)
        self.news: Final = asyncio.Event()
        self.changed: Final = Listeners[bool]()
        self.moved: Final = Listeners[Placement | None]()
        self._store = store
        self._machine = machine
        self._host = host
        self._tasks = tasks
        self._process = process
        self._neighbours: Final = Neighbours(store, process)
        self._started = started
        self._detail = ""
        self._slip_since: float | None = None  # the running processes mend it, monotonic
        self._beat_due = 0.0  # when the row must be written again, by the monotonic clock
        self._return: asyncio.Task[None] | None = None
        self._loading: Final = Shared(self._load)
        self._exchanging: Final = Shared(self._exchange)

    @property
    def detail(self) -> str:
        """One sentence about what is wrong with the store; empty while nothing is."""
        return "" if self.ok else self._detail

    @property
    def rows(self) -> Sequence[ProcessRow]:
        """The living processes' rows, as they were read last."""
        return self._neighbours.rows

    async def living(self) -> Sequence[ProcessRow]:
        """
        The living processes' rows, read now for somebody to look at.

        Raises:
            StoreError: the store did not answer.
        """
        return self._neighbours.living(await self._store.rows())

    def start(self) -> None:
        """Follow what changes, and say that this process lives."""
        for work in (self._watch, self._beats, self.writing.keep_copies):
            self._tasks.keep(work)

    async def end(self) -> None:
        """End what is under way, and say goodbye to the others, if the store takes it at once."""
        await self._loading.end()
        await self._exchanging.end()
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(2):
                await self._store.leave(self._process)

    async def reload(self) -> Document:
        """
        Read the document again; several callers share one reading.

        Raises:
            StoreError: the store did not answer.
        """
        return await self._loading.run()

    # -- the first document --

    async def enter(self) -> None:
        """
        Begin; where the store does not answer, it is read as soon as it does.

        Raises:
            StoreCorrupt: what the store holds is not a pool's document.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._begin()
        except (StoreUnavailable, StoreOutcomeUnknown, TimeoutError) as error:
            self.failed(error)

    async def _begin(self) -> None:
        """Find the document, or make the first one."""
        loaded = await self._store.load()
        self.clock.sync(loaded)
        await self._beat()
        document = loaded.document
        if document is None and (self._store.remote or await self._others_are_older()):
            # Who holds a document that the store lost comes first.
            await asyncio.sleep(NEWBORN_WAIT)
            document = (await self._store.load()).document
        if document is None:
            document = await self._make_document()
        past = await self._past(REMEMBERED)
        self.writing.remember(reversed(past))
        newest = past[0].revision if past else 0
        await self.read_rows()
        document = await self._mended(document, newest)
        if newest > document.revision:
            document = await self._raise(document, newest)
        self._host.feed(Loaded(document=document))

    async def _mended(self, document: Document, newest: int) -> Document:
        """
        ``document``, if there is no slip of somebody's hand in it that running processes mend.

        They would have left a server that all of them had lost from their lists, unless the pool
        is paused, and they know what stood in a document whose revision was set back, or parts of
        which are nonsense.

        Args:
            newest: revision at the top of the history.

        Raises:
            StoreUnavailable: there is one, and they have not had `MENDING` seconds for it yet.
        """
        # Who follows no document yet mends nothing: those that begin together would wait in vain.
        others = [row for row in self.rows if row.process != self._process and row.revision]
        if not others:
            return document
        known = {name for row in others for name in row.names} | set(self._machine.names)
        newest = max(newest, *(row.revision for row in others))
        if newest > document.revision:  # it may have gone on since it was read
            document = (await self._store.load()).document or document
        if newest > document.revision:
            slip = f"the document is at revision {document.revision}, and was at {newest}"
        elif document.active_server not in known and document.paused is None:
            slip = (
                f"the document names {document.active_server!r} as active, a server that no process"
                " has"
            )
        elif document.repaired:
            slip = "parts of the document are missing or nonsense"
        else:
            return document
        if self._slip_since is None:
            self._slip_since = time.monotonic()
        if time.monotonic() < self._slip_since + MENDING:
            raise _Unmended(f"{slip}; the processes that run will put it right")
        return document

    async def _others_are_older(self) -> bool:
        return any(row.started < self._started - NEWBORN_WAIT for row in await self._store.rows())

    async def _make_document(self) -> Document:
        # Of a document that is gone for good. Not every revision is in the history, and the row of
        # a process that died may be there still.
        known = [rotation.revision for rotation in await self._past(1)]
        rows = await self._store.rows()
        known += [row.revision for row in rows if row.revision <= LARGEST // 2]
        first = new_document(
            lineage=secrets.token_hex(8),
            names=self._machine.names,
            actor=self._process,
            now=self.clock.now(),
            revision=max(known, default=0) + 1,
        )
        swapped = await self._store.create(first, f"{self._process}-create")
        return swapped.document or first

    async def _raise(self, document: Document, newest: int) -> Document:
        """Where somebody set the document's revision back, it goes on above its history's."""
        found = (await self._store.load()).document  # it may have gone on since it was read
        if found is None or found.revision >= newest:
            return found or document
        again, note = restored(
            found,
            above=newest,
            reason="the document was at a lower revision than its history",
            actor=self._process,
            now=self.clock.now(),
        )
        operation = f"{self._process}-raise"
        answer = await self.writing.write(
            Restore(operation=operation, found=found, document=again, note=note)
        )
        return answer.document or again

    async def _past(self, limit: int) -> Sequence[Rotation]:
        """The newest rotations; none where the history is damaged, which is no reason to stop."""
        try:
            return await self._store.history(limit)
        except StoreCorrupt:
            return ()

    # -- reading it again --

    async def _load(self) -> Document:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._take_in()
        except TimeoutError as error:
            self.failed(error)
            raise StoreUnavailable("the store did not answer in time") from None
        except StoreError as error:
            self.failed(error)
            raise
        self.answered()
        self._host.is_fresh()
        assert self._machine.document is not None
        return self._machine.document

    async def _take_in(self) -> None:
        """Read what the store holds, and follow it."""
        before = self._machine.document
        if before is None:
            await self._begin()
            return
        loaded = await self._store.load()
        if (by := self.clock.sync(loaded)) > 0:
            self._host.feed(ClockSet(by=by))
        if not self._outrun(loaded.document, before):
            self._host.feed(Loaded(document=loaded.document))

    def _outrun(self, found: Document | None, before: Document) -> bool:
        """Whether news came while ``found`` was read, to which it only seems a step back."""
        held = self._machine.document
        if held is None or held is before or compare(found, held) is not Finding.OLDER:
            return False
        return compare(found, before) is not Finding.OLDER

    def answered(self) -> None:
        """The store answered: if it was away, it is read again before it counts as back."""
        if not self.ok and (self._return is None or self._return.done()):
            self._return = self._tasks.spawn(self._come_back())

    def failed(self, error: Exception) -> None:
        """The store did not answer: from now on this process goes by what it knows."""
        if not isinstance(error, _Unmended):
            self._slip_since = None  # while it is away for us, it may be for those who mend
        self._detail = str(error) if isinstance(error, StoreError) else "no answer in time"
        if not self.ok:
            return
        self.ok = False
        self.news.set()  # look soon whether it is back
        event = observe.STORE_CORRUPT if isinstance(error, StoreCorrupt) else observe.STORE_AWAY
        observe.event(event, logging.WARNING, store=self._store.url, detail=self._detail)
        self._host.feed(StoreSeen(ok=False))
        self.changed.tell(False)

    async def _come_back(self) -> None:
        try:
            async with asyncio.timeout(2 * PATIENCE):
                await self._read_again()
        except (StoreError, TimeoutError) as error:
            self.failed(error)
            return
        self.ok = True
        observe.event(observe.STORE_BACK, logging.WARNING, store=self._store.url)
        self._host.feed(StoreSeen(ok=True))
        self.changed.tell(True)

    async def _read_again(self) -> None:
        if self._machine.document is None:
            await self._begin()
            return
        await self._beat()
        await self.read_rows()
        # Last, with nothing to wait for after it: a swap that fails meanwhile waits for this.
        await self._take_in()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                async for notice in self._store.watch():
                    try:
                        match notice:
                            case Changed(revision=revision):
                                held = self._machine.document
                                if held is None or revision > held.revision:
                                    await self.reload()
                            case Moved(placement=placement):
                                self.moved.tell(placement)
                            case _:
                                await self.reload()
                                self.moved.tell(None)
                    except PoolError:
                        continue
            await asyncio.sleep(0.5)

    # -- rows --

    async def _beats(self) -> None:
        unreadable = 0  # how often in a row what the store holds could not be read
        while True:
            self.news.clear()  # what is news from now on is told in the next one
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._beat_or_look()
                self.answered()
                unreadable = 0
            except (StoreError, TimeoutError) as error:
                self.failed(error)
                unreadable = unreadable + 1 if isinstance(error, StoreCorrupt) else 0
            urgent = not self.ok or self._machine.wants_witness
            pause = min(HEARTBEAT * 2 ** min(unreadable, 8), LONGEST_LOOK)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if urgent else self._store.heartbeat):
                    await self.news.wait()

    async def _beat_or_look(self) -> None:
        """
        Say that this process lives, and read what the others say.

        While the store is away, or holds what cannot be read, and each call costs: only look
        whether it is back, with no more heartbeats than ever.
        """
        looks = not self.ok and self._store.heartbeat > HEARTBEAT
        if not looks or time.monotonic() >= self._beat_due:
            await self._beat()
            await self.read_rows()
        if looks:
            await self._store.load()

    async def exchange(self) -> Sequence[ProcessRow]:
        """
        Tell the other processes what is so now, and read what they say after that.

        Raises:
            StoreError: the store did not answer; or it is away, and then it is not asked.
        """
        return await self._exchanging.run()

    async def _exchange(self) -> Sequence[ProcessRow]:
        if not self.ok:
            # Somebody waits, perhaps for the second time, as long as a store may take to answer.
            raise StoreUnavailable(self._detail)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._beat()
                await self.read_rows()
        except TimeoutError as error:
            self.failed(error)
            raise StoreUnavailable("the store did not answer in time") from None
        except StoreError as error:
            self.failed(error)
            raise
        return self.rows

    async def _beat(self) -> None:
        heartbeat = self._neighbours.begin()
        known = await self._store.beat(self._host.row())
        if self._neighbours.told(heartbeat, known=known):
            self.moved.tell(None)  # the rooms that this process holds were forgotten with its row
        self._beat_due = time.monotonic() + self._store.heartbeat

    async def read_rows(self) -> int:
        """
        Read what the others say; how many participants there are in all.

        Raises:
            StoreError: the store did not answer.
        """
        rows = self._neighbours.read(await self._store.rows())
        now = self._neighbours.now(otherwise=self.clock.now())
        seen = seen_in(rows, self._host.row(), now)
        self._host.feed(seen)
        return seen.participants
