"""
Short reads and writes on the event loop itself, where they cannot keep it waiting.

A join asks the store twice. On the thread each of these costs two changes of thread, several
times what SQLite needs, so it is tried at once, with no patience for locks; whoever finds one goes
to the thread. To read takes a third of a write, and waits for no lock. In WAL mode with
``synchronous=NORMAL`` a commit appends to a file without waiting for the disk, except when the log
begins anew (12 times in 6,000 joins). Copying the log back, which waits longer, is left to the
thread's connection (``wal_autocheckpoint``).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .sqlite_watch import identity

__all__ = ["Direct", "NotNow"]

_T = TypeVar("_T")


class NotNow(Exception):
    """The database is locked, or does not answer as it should: nothing was done."""


class Direct:
    """A connection for what either succeeds at once or is not done at all."""

    def __init__(self, path: Path) -> None:
        """Open ``path``, which must be a store's database. Raises `sqlite3.Error`."""
        self._path = str(path)  # asked for each time: a `Path` would make one of itself
        self._identity = identity(path)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0, cached_statements=32)
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA wal_autocheckpoint=0")

    def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """
        Run ``work``, a single statement that reads.

        Raises:
            NotNow: as `write`.
        """
        if identity(self._path) != self._identity:
            raise NotNow
        try:
            return work(self._db)
        except sqlite3.Error:
            raise NotNow from None

    def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """
        Run ``work`` in a transaction of its own.

        Raises:
            NotNow: another process is writing, the file was replaced, or SQLite failed. The
                thread finds out which, and says so.
        """
        if identity(self._path) != self._identity:
            raise NotNow
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            answer = work(db)
            db.execute("COMMIT")
        except sqlite3.Error:
            self._undo()
            raise NotNow from None
        except BaseException:
            self._undo()
            raise
        return answer

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._db.close()

    def _undo(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
