"""A database and, on a connection of its own, the eye that sees it change."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from ..exceptions import StoreUnavailable
from .base import Placement
from .sqlite_file import open_database, open_reader, unusable

__all__ = ["Another", "WatchedDatabase"]


class Another(Enum):
    """What a document has become that is gone, or edited, or of another lineage."""

    DOCUMENT = "another document"


_Kept = tuple[object, str, str, str]  # revision, lineage, operation, content


class WatchedDatabase:
    """
    The session of a `DatabaseThread`: to be made and used on that thread only.

    Args:
        path: the file; made if there is none.
        patience: seconds to wait for others who keep it locked while it is opened.
        tell: called with what the document became, if it changed: its revision, or
            `Another.DOCUMENT` where it has nothing to do with the one before; and with the
            placements moved since the last call, in the order of their moves.

    Raises:
        ConfigurationError, StoreUnavailable: as `open_database` does.
    """

    def __init__(
        self,
        path: Path,
        patience: float,
        tell: Callable[[int | Another | None, Sequence[Placement]], None],
    ) -> None:
        self.db = open_database(path, patience)
        self._path = path
        self._identity = identity(path)
        self._tell = tell
        try:
            self._reader = open_reader(path)
            # PRAGMA data_version changes with every commit of any *other* connection, and costs
            # next to nothing: the tables are read only when it has.
            self._version = self._data_version()
            self._document = self._read_document()
            (self._moves,) = self._reader.execute("SELECT seq FROM moves").fetchone()
        except sqlite3.Error as error:
            self.close()
            raise unusable(path, error) from error

    def look(self) -> None:
        """
        Tell what changed since the last look.

        Raises:
            StoreUnavailable: the file is not at its path any more. SQLite would go on with it,
                and a process that starts now would begin another.
            sqlite3.Error: it could not be read; the next look tells what this one missed.
        """
        if identity(self._path) != self._identity:
            raise StoreUnavailable(
                f"The database {self._path} was removed or replaced while in use: put it back, or"
                " restart every process of the pool."
            )
        version = self._data_version()
        if version == self._version:
            return
        document = self._read_document()
        moved = self._reader.execute(
            # "seq > 0" lets SQLite use the index, which has the moved ones only.
            "SELECT room, server, revision, seq FROM placements"
            " WHERE seq > 0 AND seq > ? ORDER BY seq",
            (self._moves,),
        ).fetchall()
        became = _became(self._document, document)
        # All is read: what failed before this line is read again by the next look.
        self._version, self._document = version, document
        if moved:
            self._moves = moved[-1][3]
        if became is not None or moved:
            self._tell(
                became, [Placement(room=row[0], server=row[1], revision=row[2]) for row in moved]
            )

    def close(self) -> None:
        """Close both connections."""
        for connection in (getattr(self, "_reader", None), self.db):
            with contextlib.suppress(sqlite3.Error):
                if connection is not None:
                    connection.close()

    def _data_version(self) -> int:
        version: int = self._reader.execute("PRAGMA data_version").fetchone()[0]
        return version

    def _read_document(self) -> _Kept | None:
        row: _Kept | None = self._reader.execute(
            # Who edits the content by hand changes nothing else.
            "SELECT revision, lineage, operation, content FROM document"
        ).fetchone()
        return row


def _became(before: _Kept | None, after: _Kept | None) -> int | Another | None:
    if before == after:
        return None
    if after is None:
        return Another.DOCUMENT
    if not isinstance(after[0], int):  # somebody edited it: a column takes anything
        return Another.DOCUMENT
    if before is None:
        return after[0]
    was = before[0] if isinstance(before[0], int) else after[0]
    return Another.DOCUMENT if before[1] != after[1] or after[0] <= was else after[0]


def identity(path: Path | str) -> tuple[int, int] | None:
    """What tells a file from any other that took its place; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
