"""Metering: writes the ledger, reads it, shortens it, and tells the machine what it says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from .. import observe
from ..core import minutes
from ..core.budget import NONE, Usage
from ..core.events import UsageSeen
from ..core.limits import Limits
from ..driver import Driver
from ..exceptions import StoreError
from ..stores.base import HEARTBEAT, Ledger, ProcessRow
from ..upstream.probe import Prober
from .clocks import ServerClocks
from .evidence import Evidence, sums_of
from .looking import Looking
from .seats import Seats

__all__ = ["Metering"]

FLUSH: Final = 30.0
"""Seconds between two writes of what was seen: what the death of a process may lose."""

READ: Final = 15.0
"""Seconds between two tellings of the machine, and readings of the ledger where those are free."""

AFTER_GAP: Final = 60.0
"""Seconds after the store's return in which nothing is folded: all bring what they saw first."""

LAST_FLUSH: Final = 2.0
"""Seconds that a planned stop gives the last write."""

LASTS: Final = 4
"""
Heartbeats for which a server must be full by the rows of others before it is left.

The row of a process that died counts for three, while those who were connected through it are back.
"""

READ_ROWS: Final = 2.0
"""Seconds after which rows are read again, and some more."""

FRESH: Final = 1.0
"""Seconds for which figures are not counted anew, whoever asks for them."""

_AT_ONCE: Final = 250
"""Stays written in one call, where calls cost nothing: others wait for it."""

_NOT_COUNTED: Final = frozenset({"EGRESS"})


class Metering:
    """
    The minutes and the participants of one process's pool.

    Attributes:
        seats: on servers that take a limited number.
    """

    def __init__(
        self,
        driver: Driver,
        prober: Prober,
        occupied: Callable[[str], dict[str, int]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``occupied`` says how many sessions are here on a server, in each of its rooms."""
        self._driver = driver
        self._clocks = ServerClocks(driver.now, monotonic)
        self._evidence = Evidence(self._clocks)
        self._looking = Looking(driver, prober, self, occupied, self._clocks)
        self._sessions: Counter[str] = Counter()
        self.seats: Final = Seats(driver, self.participants)
        self._ledger: dict[str, dict[str, int]] = {}
        self._on_its_way: Ledger = {}  # to the store, which has not answered yet
        self._figures: dict[str, Usage] = {}
        self._figured_at = -math.inf
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._folds_from = -math.inf  # monotonic
        self._told_of_loss = False
        self._unwritten = False  # the store did not take the last, though it answers
        self._full_from: dict[str, float] = {}
        driver.listen_store(self._store_changed)

    def start(self) -> None:
        """Begin; the driver must be running."""
        # The store may be back since a moment ago: see `AFTER_GAP`.
        self._folds_from = self._clocks.monotonic() + AFTER_GAP
        self._driver.keep(self._flush_again_and_again)
        self._driver.keep(self._read_again_and_again)
        if any(server.max_participants for server in self._driver.servers.values()):
            self._driver.keep(self._count_again_and_again)
        self._looking.start()

    async def aclose(self) -> None:
        """Write what is left, if the store takes it at once."""
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LAST_FLUSH):
                await self.flush()

    # -- witnesses --

    def entered(self, server: str) -> None:
        """A session on ``server`` is in this process from now on."""
        self._sessions[server] += 1
        if self.is_full(server):
            asyncio.get_running_loop().call_soon(self.count_again)

    def began(self, server: str, sid: str, joined: float = 0.0, *, now: bool = False) -> None:
        """
        It is that of participant ``sid``, whose minutes are counted.

        Args:
            joined: when the participant joined, seconds since the epoch by the server's clock; 0
                if it did not say.
            now: whether it has joined just now.
        """
        self._evidence.began(server, sid, joined, now=now)

    def ended(self, server: str, sid: str) -> None:
        """It is over; ``sid`` is empty if it has not begun to be counted."""
        self._sessions[server] -= 1
        if sid:
            self._evidence.ended(server, sid)

    def witness(
        self, server: str, *, sid: str, joined: float, at: float, kind: str = "STANDARD"
    ) -> None:
        """
        ``server`` says that participant ``sid`` was there.

        In any order, repeated, and as late as `livekit_pool.core.minutes.GRACE` after it.

        Args:
            joined: when the participant joined, seconds since the epoch by the server's clock;
                0 if it did not say.
            at: when the participant was there last, by the same clock.
            kind: LiveKit's name of the participant's kind. Recorders (EGRESS) are not counted.
        """
        if server in self._driver.servers and kind not in _NOT_COUNTED:
            self._evidence.saw(server, sid, joined or at, at)

    async def look(self) -> None:
        """Ask the servers who is on them, now."""
        await self._looking.look()

    async def ask_the_time(self) -> None:
        """Ask the servers what time it is, now."""
        await self._looking.ask_the_time()

    # -- figures --

    def usage(self, server: str, rows: Sequence[ProcessRow] | None = None) -> Usage:
        """What is used of ``server`` now; by these ``rows``, or those that were read last."""
        if self._clocks.monotonic() >= self._figured_at + FRESH:
            self._figure()
        figures = self._figures.get(server, NONE)
        return replace(figures, participants=self._present(server, self._others(rows)))

    def participants(self, server: str, rows: Sequence[ProcessRow] | None = None) -> int:
        """
        How many participants ``server`` has to have a place for now.

        Those who are there, through all living processes and direct, and those who have a seat.
        Seats in other processes, which may only be wanted, count while the store is well: nobody
        hears otherwise that they are not wanted any more.
        """
        others = self._others(rows)
        seats = self.seats.taken[server]
        if self._driver.store_ok:
            seats += sum(row.coming.get(server, 0) for row in others)
        return self._present(server, others) + seats

    def _others(self, rows: Sequence[ProcessRow] | None) -> Sequence[ProcessRow]:
        rows = self._driver.rows if rows is None else rows
        return [row for row in rows if row.process != self._driver.process]

    def _present(self, server: str, others: Sequence[ProcessRow]) -> int:
        """How many are on ``server`` now, through all living processes and direct."""
        through = self._sessions[server] + sum(row.sessions.get(server, 0) for row in others)
        direct = [row.direct.get(server, 0) for row in others]
        return through + max([*direct, self._looking.direct(server)])

    def is_full(self, server: str) -> bool:
        """Whether ``server`` has as many participants as it may."""
        known = self._driver.servers.get(server)
        most = None if known is None else known.max_participants
        return most is not None and self.participants(server) >= most

    def tell(self) -> None:
        """Tell the machine what is used of each server."""
        self._figure()
        usage = {name: self._sure(name, self.usage(name)) for name in self._driver.servers}
        self._driver.feed(UsageSeen(usage=usage))

    def count_again(self) -> None:
        """Tell it how many participants there are now; the minutes are those told before."""
        told = self._driver.machine.usage
        usage = {name: self._sure(name, known) for name, known in told.items()}
        if usage and usage != self._driver.machine.usage:
            self._driver.feed(UsageSeen(usage=usage))

    async def _count_again_and_again(self) -> None:
        while True:  # as often as other processes may say how many they have
            await asyncio.sleep(HEARTBEAT)
            self.count_again()

    def _sure(self, server: str, usage: Usage) -> Usage:
        """
        ``usage`` with all who have to have a place.

        Without those who may be counted twice, where they would fill ``server``.
        """
        usage = replace(usage, participants=self.participants(server))
        known = self._driver.servers.get(server)
        most = None if known is None else known.max_participants
        if most is None or usage.participants < most or self._sessions[server] >= most:
            self._full_from.pop(server, None)
            return usage
        now, lasts = self._clocks.monotonic(), LASTS * self._driver.store.heartbeat + READ_ROWS
        if server not in self._full_from:
            self._full_from[server] = now
            asyncio.get_running_loop().call_later(lasts + 0.1, self.count_again)
        if now >= self._full_from[server] + lasts:
            return usage
        return replace(usage, participants=most - 1)

    def _figure(self) -> None:
        """Count anew, with what this process has seen and not written yet."""
        self._figured_at = self._clocks.monotonic()
        mine = sums_of(self._evidence.spans())
        self._figures = {}
        for server in self._driver.servers:
            reset, writer = self._limits(server).reset, minutes.writer(server)
            now = self._clocks.now(server)
            kept = self._ledger.get(writer, {})
            for seen in (self._on_its_way, mine):
                kept = minutes.merged(kept, seen.get(writer, {}))
            account = minutes.read(kept)
            self._figures[server] = Usage(
                used=minutes.used(account, reset.begin(now), now),
                ends=reset.end(now),
                mean=minutes.mean(account, now),
            )

    def _limits(self, server: str) -> Limits:
        return self._driver.machine.limits.get(server, Limits())

    # -- writing --

    async def flush(self) -> None:
        """
        Write what was seen and is not in the store.

        A store that takes nothing, and answers otherwise, is logged: one that is full, for example.

        Raises:
            StoreError: the store does not take it; what was not written is kept.
        """
        async with self._flushing:
            try:
                await self._write()
            except StoreError as error:
                if self._driver.store_ok and not self._unwritten:
                    self._unwritten = True
                    observe.event(observe.MINUTES_UNWRITTEN, logging.ERROR, detail=str(error))
                raise
            if self._unwritten:
                self._unwritten = False
                observe.event(observe.MINUTES_WRITTEN)

    async def _write(self) -> None:
        spans = self._evidence.take()
        waiting = list(spans.items())
        self._on_its_way = sums_of(spans)
        at_once = len(waiting) if self._metered else _AT_ONCE
        try:
            while waiting:
                sums = sums_of(dict(waiting[:at_once]))
                await self._driver.store.count(sums)
                self._learn(sums)
                del waiting[:at_once]
        finally:
            self._on_its_way = {}
            self._evidence.put_back(dict(waiting))
            self._tell_of_loss()

    def _learn(self, sums: Ledger) -> None:
        for writer, totals in sums.items():
            self._ledger[writer] = minutes.merged(self._ledger.get(writer, {}), totals)

    def _tell_of_loss(self) -> None:
        if self._evidence.lost and not self._told_of_loss:
            self._told_of_loss = True
            observe.event(observe.MINUTES_LOST, logging.ERROR, stays=self._evidence.lost)

    @property
    def _metered(self) -> bool:
        """Whether each call of the store may cost money."""
        return self._driver.store.heartbeat > HEARTBEAT

    def _store_changed(self, ok: bool) -> None:
        if ok:
            self._folds_from = self._clocks.monotonic() + AFTER_GAP
            self._wake.set()

    async def _flush_again_and_again(self) -> None:
        while True:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(FLUSH, self._driver.store.heartbeat)):
                    await self._wake.wait()
            if self._driver.store_ok:
                with contextlib.suppress(StoreError):
                    await self.flush()

    # -- reading --

    async def _read_again_and_again(self) -> None:
        due = -math.inf
        while True:
            if (now := self._clocks.monotonic()) >= due:
                due = now + max(READ, self._driver.store.heartbeat)
                with contextlib.suppress(StoreError):
                    await self.read()
            self.tell()  # between two readings too: of its own sessions it knows more
            await asyncio.sleep(READ)

    async def read(self) -> None:
        """
        Read what the store holds; where this process leads its machine, shorten it.

        Raises:
            StoreError: the store does not answer.
        """
        async with self._flushing:  # what is counted meanwhile may not be in what the store says
            ledger = await self._driver.ledger()
            self._ledger = {writer: dict(sums) for writer, sums in ledger.items()}
        if self._driver.probing and self._clocks.monotonic() >= self._folds_from:
            for server in self._driver.servers:
                await self._fold(server)

    async def _fold(self, server: str) -> None:
        if not self._clocks.knows(server):
            return  # a watermark by a clock that is wrong would hide what comes, or count it twice
        writer, reset = minutes.writer(server), self._limits(server).reset
        account = minutes.read(self._ledger.get(writer, {}))
        # Where calls cost, they come seldom, and one drops all at once.
        most = len(account.stays) if self._metered else minutes.DROPPED_AT_ONCE
        fold = minutes.folded(account, reset, self._clocks.now(server), most)
        if fold is None:
            return
        done = await self._driver.store.fold(
            writer, minutes.WATERMARK, fold.expected, fold.totals, fold.drop
        )
        if done:
            kept = self._ledger[writer]
            for key in fold.drop:
                kept.pop(key, None)
            kept.update(fold.totals)
