"""
The one thread that talks to the database.

Calls queue up for it and are answered on the event loop, which never waits for a disk or a lock.
Writes that have queued up share a transaction: under load that is what makes them fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

from ..exceptions import (
    StoreCorrupt,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from .sqlite_file import is_busy, primary_code

__all__ = ["DatabaseThread", "Session"]

_LOG = logging.getLogger(__name__)

# Writes in one transaction, at most: others wait for the lock meanwhile.
_BATCH = 256

_T = TypeVar("_T")
_Work = Callable[[sqlite3.Connection], Any]


class Session(Protocol):
    """What the thread works on; every method is called on the thread, and only there."""

    @property
    def db(self) -> sqlite3.Connection:
        """The connection that calls are given."""

    def look(self) -> None:
        """
        Look for changes to tell of: called at an interval, and after writes that make some.

        As long as it raises a `StoreError`, calls are answered with that.
        """

    def close(self) -> None:
        """Close what is open."""


@dataclass(slots=True, eq=False)
class _Call:
    """One call on its way; ``started`` and ``given_up`` exclude each other, under the lock."""

    work: _Work
    writes: bool
    look: bool
    answer: asyncio.Future[Any]
    deadline: float
    started: bool = False
    given_up: bool = False


@dataclass(slots=True)
class _Pending:
    """The thread's own list of what it has taken from the queue and not done yet."""

    reads: list[_Call] = field(default_factory=list)
    writes: list[_Call] = field(default_factory=list)
    closing: bool = False

    def add(self, call: _Call | None) -> None:
        if call is None:
            self.closing = True
        elif call.writes:
            self.writes.append(call)
        else:
            self.reads.append(call)

    def take(self) -> list[_Call]:
        calls, self.reads, self.writes = self.reads + self.writes, [], []
        return calls

    def __bool__(self) -> bool:
        return bool(self.reads or self.writes)


class DatabaseThread:
    """
    Runs calls on a `Session` in a thread of its own.

    Args:
        name: what errors call the database; fit to be shown.
        patience: seconds a call waits for locks of others, before it fails unstarted.
        limit: seconds after which a call is answered even if the disk does not.
        interval: seconds between two looks at the session.
    """

    def __init__(
        self, name: str, *, patience: float = 2.0, limit: float = 3.5, interval: float = 0.05
    ) -> None:
        self._name = name
        self._patience = patience
        self._limit = limit
        self._interval = interval
        # None is the last thing that comes: close.
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._accepting = False

    # -- on the event loop --

    async def start(self, make_session: Callable[[], Session]) -> None:
        """Start the thread, once; it makes the session. Raises what ``make_session`` raised."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._accepting = True
        opened: asyncio.Future[None] = self._loop.create_future()
        # A daemon: a disk that hangs for ever must not keep the process from ending.
        threading.Thread(
            target=self._run, args=(make_session, opened), name="livekit-pool-sqlite", daemon=True
        ).start()
        try:
            async with asyncio.timeout(self._limit):
                await opened
        except BaseException as error:
            # Should it open after all, it is closed at once.
            self._accepting = False
            self._calls.put(None)
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(f"The database {self._name} does not answer.") from None
            raise

    async def stop(self) -> None:
        """Finish the calls that wait, close the session and end the thread; idempotent."""
        if self._ended is None:
            return
        if self._accepting:
            self._accepting = False
            self._calls.put(None)
        try:
            async with asyncio.timeout(self._limit):
                await asyncio.shield(self._ended)
        except TimeoutError:
            _LOG.warning("Database does not close", extra={"fields": {"database": self._name}})

    async def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run ``work``, which only reads, outside of any transaction."""
        return cast(_T, await self._answer(work, writes=False))

    async def write(self, work: Callable[[sqlite3.Connection], _T], *, look: bool = False) -> _T:
        """
        Run ``work`` in a transaction, which it may share with others.

        It may be run again from the start if the transaction was undone for another's sake. With
        ``look`` the session looks for changes as soon as it is done.
        """
        return cast(_T, await self._answer(work, writes=True, look=look))

    async def _answer(self, work: _Work, *, writes: bool, look: bool = False) -> object:
        loop = self._loop
        if loop is None or not self._accepting:
            raise StoreUnavailable(f"The database {self._name} is not open.")
        call = _Call(work, writes, look, loop.create_future(), time.monotonic() + self._patience)
        self._calls.put(call)
        try:
            async with asyncio.timeout(self._limit):
                return await call.answer
        except TimeoutError:
            if self._give_up(call) or not writes:
                raise StoreUnavailable(f"The database {self._name} does not answer.") from None
            raise StoreOutcomeUnknown(
                f"The database {self._name} has not said whether it wrote."
            ) from None
        except asyncio.CancelledError:
            self._give_up(call)
            raise

    def _give_up(self, call: _Call) -> bool:
        """Withdraw ``call``; False if it is too late for that."""
        with self._lock:
            call.given_up = not call.started
            return call.given_up

    def _end(self) -> None:
        # Also when the thread ended by itself: nobody shall wait for it.
        self._accepting = False
        if self._ended is not None:
            _resolve(self._ended)

    # -- on the thread --

    def _run(self, make_session: Callable[[], Session], opened: asyncio.Future[None]) -> None:
        try:
            session = make_session()
        except Exception as error:  # whatever it is, who waits must hear of it
            self._post(_fail, opened, error)
            self._post(self._end)
            return
        self._post(_resolve, opened)
        try:
            self._serve(session)
        except Exception:
            # Those that wait now are answered by their time limit.
            _LOG.exception("Task failed", extra={"fields": {"task": "database"}})
        finally:
            with contextlib.suppress(sqlite3.Error):
                session.close()
            self._post(self._end)

    def _serve(self, session: Session) -> None:
        pending = _Pending()
        next_look = 0.0
        refusal: StoreError | None = None
        while pending or not pending.closing:
            self._collect(pending, until=next_look)
            if refusal is not None:
                self._fail_all(pending.take(), refusal)
            self._expire(pending)
            self._do_reads(session.db, pending)
            telling = self._do_writes(session.db, pending)
            now = time.monotonic()
            if telling or now >= next_look:
                refusal = self._look(session)
                next_look = now + self._interval

    def _collect(self, pending: _Pending, until: float) -> None:
        """Take what has come, and wait for it until then if there is nothing else to do."""
        with contextlib.suppress(queue.Empty):
            if not pending and not pending.closing:
                wait = until - time.monotonic()
                if wait > 0:
                    pending.add(self._calls.get(timeout=wait))
            while True:
                pending.add(self._calls.get_nowait())

    def _expire(self, pending: _Pending) -> None:
        now = time.monotonic()
        late = [call for call in pending.reads + pending.writes if call.deadline <= now]
        if not late:
            return
        pending.reads = [call for call in pending.reads if call.deadline > now]
        pending.writes = [call for call in pending.writes if call.deadline > now]
        self._fail_all(late, StoreUnavailable(f"The database {self._name} is locked by others."))

    def _do_reads(self, db: sqlite3.Connection, pending: _Pending) -> None:
        calls, pending.reads = self._claim(pending.reads), []
        done: list[tuple[_Call, object, Exception | None]] = []
        for call in calls:
            try:
                done.append((call, call.work(db), None))
            except Exception as error:  # whatever it is, it is the caller's and goes there
                if isinstance(error, sqlite3.Error) and is_busy(error):
                    # Another process mends the log after a crash: again, until the deadline.
                    pending.reads.append(call)
                else:
                    done.append((call, None, self._error(error)))
        self._deliver(done)

    def _do_writes(self, db: sqlite3.Connection, pending: _Pending) -> bool:
        """Do a batch of writes; whether it is worth a look at once."""
        if not pending.writes:
            return False
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if not is_busy(error):
                calls, pending.writes = pending.writes, []
                self._fail_all(calls, self._error(error))
            return False
        batch = self._claim(pending.writes[:_BATCH])
        del pending.writes[:_BATCH]
        done: list[tuple[_Call, object, Exception | None]] = []
        for call in batch:
            try:
                done.append((call, call.work(db), None))
            except Exception as error:  # whatever it is, it is the caller's and goes there
                self._undo(db)
                self._deliver([(call, None, self._error(error))])
                # The others had no part in it: they go again, from the start.
                self._unclaim(batch, pending, but=call)
                return False
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo(db)
            message = f"The database {self._name} failed at the end of a write: {error}."
            self._fail_all(batch, StoreOutcomeUnknown(message))
        else:
            self._deliver(done)
        return any(call.look for call in batch)

    def _claim(self, calls: list[_Call]) -> list[_Call]:
        """Those of ``calls`` that are still wanted; from now on they cannot be withdrawn."""
        with self._lock:
            wanted = [call for call in calls if not call.given_up]
            for call in wanted:
                call.started = True
        return wanted

    def _unclaim(self, batch: list[_Call], pending: _Pending, *, but: _Call) -> None:
        again = [call for call in batch if call is not but]
        with self._lock:
            for call in again:
                call.started = False
        pending.writes[:0] = again

    def _undo(self, db: sqlite3.Connection) -> None:
        # SQLite has already undone it after some errors, and then refuses to do so again.
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")

    def _look(self, session: Session) -> StoreError | None:
        """Let the session look; what it refuses calls with."""
        try:
            session.look()
        except StoreError as refusal:
            return refusal
        except sqlite3.Error as error:
            # Whoever calls hears of it too; the next look sees what this one missed.
            _LOG.debug("Database not looked at", extra={"fields": {"error": str(error)}})
        return None

    def _error(self, error: Exception) -> Exception:
        """What a caller is told of ``error``, after which nothing is written."""
        if not isinstance(error, sqlite3.Error) or not hasattr(error, "sqlite_errorcode"):
            return error
        failed: type[StoreError] = StoreUnavailable
        if primary_code(error) in _DAMAGE:
            failed = StoreCorrupt
        return failed(f"The database {self._name} (LIVEKIT_POOL_STORE) failed: {error}.")

    def _fail_all(self, calls: list[_Call], error: Exception) -> None:
        # An error of its own for each: raising it writes a traceback into it.
        self._deliver([(call, None, type(error)(*error.args)) for call in calls])

    def _deliver(self, done: list[tuple[_Call, object, Exception | None]]) -> None:
        if done:
            self._post(_deliver, done)

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        # The loop may be closed already: then nobody waits for it.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *arguments)


_DAMAGE = frozenset(
    (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CONSTRAINT,
        # "no such table": it is a database, but not ours any more.
        sqlite3.SQLITE_ERROR,
    )
)


def _deliver(done: list[tuple[_Call, object, Exception | None]]) -> None:
    for call, result, error in done:
        if call.answer.done():
            continue
        if error is None:
            call.answer.set_result(result)
        else:
            call.answer.set_exception(error)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
