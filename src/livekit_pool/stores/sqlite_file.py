"""
The database file: made, checked and opened.

Whatever is wrong with it is said before anything of it is changed, so that a file that is not
ours stays as it was.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

from ..exceptions import ConfigurationError, StoreUnavailable

__all__ = ["BUSY_WAIT", "is_busy", "open_database", "open_reader", "primary_code", "unusable"]

BUSY_WAIT = 0.02
"""Seconds SQLite itself waits for a lock; longer waiting is the caller's, who can do more."""

# "LKPO": marks the file as ours, https://www.sqlite.org/pragma.html#pragma_application_id
_APPLICATION = 0x4C4B504F
_SCHEMA = 2
# What was added to the tables of older schemas: schema -> what makes the next one of it.
_UPGRADES = {
    1: """
CREATE TABLE ledger (
    writer TEXT NOT NULL,
    key TEXT NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (writer, key)
) WITHOUT ROWID
""",
}

_TABLES = """
CREATE TABLE document (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    lineage TEXT NOT NULL,
    revision INTEGER NOT NULL,
    operation TEXT NOT NULL,
    content TEXT NOT NULL
);
CREATE TABLE history (
    revision INTEGER PRIMARY KEY,
    content TEXT NOT NULL
);
-- The number of moves so far. It stands apart from the rows it is given to: these lapse, and a
-- number that came twice would hide a move from those who watch.
CREATE TABLE moves (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    seq INTEGER NOT NULL
);
INSERT INTO moves (only, seq) VALUES (1, 0);
CREATE TABLE placements (
    room TEXT PRIMARY KEY,
    server TEXT NOT NULL,
    revision INTEGER NOT NULL,
    seq INTEGER NOT NULL DEFAULT 0,
    touched REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX placements_moved ON placements (seq) WHERE seq > 0;
CREATE TABLE holders (
    room TEXT NOT NULL,
    process TEXT NOT NULL,
    renewed REAL NOT NULL,
    settling_until REAL NOT NULL,
    PRIMARY KEY (room, process)
) WITHOUT ROWID;
CREATE TABLE processes (
    process TEXT PRIMARY KEY,
    beat REAL NOT NULL,
    content TEXT NOT NULL
) WITHOUT ROWID;
"""


def is_busy(error: sqlite3.Error) -> bool:
    """Whether ``error`` says that another connection holds a lock: the same call may succeed."""
    return primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def open_database(path: Path, patience: float) -> sqlite3.Connection:
    """
    Open the database at ``path`` for writing, and make it if there is none.

    A new file has mode 0600, and so have the two that SQLite keeps beside it. To be called on the
    thread that will use the connection; it may block for ``patience`` seconds.

    Raises:
        ConfigurationError: there cannot be a database of ours; one sentence says why.
        StoreUnavailable: others kept it locked for ``patience`` seconds.
    """
    _make_file(path)
    deadline = time.monotonic() + patience
    while True:
        try:
            return _connect(path)
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise unusable(path, error) from error
            # SQLite does not always wait where the journal's mode is changed.
            time.sleep(BUSY_WAIT)


def open_reader(path: Path) -> sqlite3.Connection:
    """
    Open an existing database of ours for reading only.

    Raises:
        sqlite3.Error: it is not there, or cannot be read.
    """
    quoted = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(
        f"file:{quoted}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_WAIT
    )


def unusable(path: Path, error: sqlite3.Error) -> ConfigurationError | StoreUnavailable:
    """What to raise for an ``error`` while the database is opened."""
    if is_busy(error):
        return StoreUnavailable(f"The database {path} is locked by others.")
    return ConfigurationError(_sentence(path, error))


def _make_file(path: Path) -> None:
    wal = path.with_name(path.name + "-wal")
    try:
        # The log first: in the life of a database it is there only while the file is.
        if wal.exists() and not path.exists():
            raise ConfigurationError(
                f"LIVEKIT_POOL_STORE: {path} is gone but {wal.name} beside it is not; stop every"
                " process of the pool, then restore the one or remove the other."
            )
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"LIVEKIT_POOL_STORE: {path} is not a file; name one.")
        # Only ever a file that this call makes: to open and close one that SQLite has open in
        # this process would drop its locks (https://www.sqlite.org/howtocorrupt.html, 2.2).
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(
            f"LIVEKIT_POOL_STORE: the directory {path.parent} does not exist; make it first."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"LIVEKIT_POOL_STORE: {path} cannot be made: {error.strerror}."
        ) from error


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_WAIT)
    try:
        # Before anything else: what follows writes.
        db.execute("BEGIN")
        _is_fresh(db, path)
        db.execute("COMMIT")
        (mode,) = db.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(
                f"LIVEKIT_POOL_STORE: the file system of {path} has no shared memory, so that"
                " several processes cannot use it; name a file on a local disk."
            )
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("BEGIN IMMEDIATE")
        # Asked again under the lock: another process may have made the tables meanwhile.
        if _is_fresh(db, path):
            for statement in _TABLES.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id={_APPLICATION}")
            db.execute("PRAGMA user_version=1")
        for schema in range(db.execute("PRAGMA user_version").fetchone()[0], _SCHEMA):
            db.execute(_UPGRADES[schema])
        # In any case: a database that can be read but not written is found here, not later.
        db.execute(f"PRAGMA user_version={_SCHEMA}")
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.close()
        raise
    return db


def _is_fresh(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the database is empty; raises `ConfigurationError` if it is not and not ours."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application, version, tables) == (0, 0, 0):
        return True
    if application != _APPLICATION:
        raise ConfigurationError(
            f"LIVEKIT_POOL_STORE: {path} is a database of another program; name another file."
        )
    if not 1 <= version <= _SCHEMA:
        raise ConfigurationError(
            f"LIVEKIT_POOL_STORE: {path} has schema {version}, this livekit-pool needs"
            f" {_SCHEMA}; use the version that wrote it, or name another file."
        )
    return False


def _sentence(path: Path, error: sqlite3.Error) -> str:
    begin = f"LIVEKIT_POOL_STORE: {path}"
    match primary_code(error):
        case sqlite3.SQLITE_NOTADB:
            return f"{begin} is not an SQLite database; name another file."
        case sqlite3.SQLITE_CORRUPT:
            return f"{begin} is a damaged database; restore it, or name another file."
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_READONLY:
            return f"{begin} and its directory must be readable and writable; they are not."
    return f"{begin} cannot be used: {error}."


def primary_code(error: sqlite3.Error) -> int:
    """The primary result code of ``error``."""
    # Extended codes carry the primary one in their low byte, https://www.sqlite.org/rescode.html
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
