"""
What the contract's methods do to the tables, one function each.

All run on the database's thread: those that write inside a transaction, those that read without
one. None of them writes before everything that can be refused has been looked at.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from ..core.document import Document, Rotation
from .base import (
    LIVING,
    Ledger,
    Placement,
    ProcessRow,
    Settling,
    Stale,
    SwapOutcome,
    Swapped,
)
from .document_json import (
    document_from_json,
    document_to_json,
    rotation_from_json,
    rotation_to_json,
)

__all__ = [
    "beat",
    "confirm",
    "count",
    "create",
    "fold",
    "history",
    "holds",
    "lapse",
    "lapsing",
    "leave",
    "ledger",
    "load",
    "move",
    "place",
    "placement",
    "placements",
    "release",
    "renew",
    "restore",
    "rooms",
    "rows",
    "settled",
    "swap",
]

# Seconds after which a process that does not beat is forgotten, with what it held.
_FORGOTTEN = 3600.0

# Seconds for which a holder need not write itself down again: far fewer than any placement or
# process is idle before it is given up.
_FRESH = 2.0

# A holder whose process lives; a process that has not beaten yet is given the time to do so.
_LIVING_HOLDER = f"""
    abs(:now - coalesce(
        (SELECT beat FROM processes WHERE processes.process = holders.process), holders.renewed
    )) <= {LIVING}
"""

_Database = sqlite3.Connection


# -- the document --


def load(db: _Database, names: Sequence[str]) -> tuple[Document, tuple[str, ...]] | None:
    """The document, and a sentence for each repair it needed."""
    row = db.execute("SELECT content, lineage, revision FROM document").fetchone()
    return document_from_json(row[0], names, _beside(row[1], row[2])) if row else None


def create(
    db: _Database, document: Document, operation: str, *, names: Sequence[str] = ()
) -> Swapped:
    if found := _stored(db, names):
        return _not_written(*found, operation)
    db.execute(
        "INSERT INTO document (only, lineage, revision, operation, content) VALUES (1, ?, ?, ?, ?)",
        (document.lineage, document.revision, operation, document_to_json(document)),
    )
    return Swapped(outcome=SwapOutcome.WON, document=document)


def swap(
    db: _Database,
    expected: int,
    document: Document,
    operation: str,
    rotation: Rotation | None,
    *,
    names: Sequence[str] = (),
) -> Swapped:
    update = "UPDATE document SET revision = ?, operation = ?, content = ?, lineage = ?"
    new = document.revision, operation, document_to_json(document), document.lineage
    written = db.execute(
        f"{update} WHERE revision = ? AND lineage = ?", (*new, expected, document.lineage)
    )
    if written.rowcount != 1:
        found = _stored(db, names)
        if found is None:
            return Swapped(outcome=SwapOutcome.LOST, document=None)
        if found[0].identity != (document.lineage, expected):
            return _not_written(*found, operation)
        db.execute(update, new)  # somebody edited the columns, which are read as that
    if rotation is not None:
        _record(db, [rotation], "INSERT")
    return Swapped(outcome=SwapOutcome.WON, document=document)


def restore(
    db: _Database,
    found: Document | None,
    document: Document,
    operation: str,
    history: Sequence[Rotation],
    *,
    names: Sequence[str] = (),
) -> Swapped:
    there = _stored(db, names)
    if (None if there is None else there[0].identity) != (found and found.identity):
        if there is None:
            return Swapped(outcome=SwapOutcome.LOST, document=None)
        return _not_written(*there, operation)
    db.execute(
        "INSERT OR REPLACE INTO document (only, lineage, revision, operation, content)"
        " VALUES (1, ?, ?, ?, ?)",
        (document.lineage, document.revision, operation, document_to_json(document)),
    )
    _record(db, history, "INSERT OR IGNORE")
    return Swapped(outcome=SwapOutcome.WON, document=document)


def _record(db: _Database, rotations: Iterable[Rotation], insert: str) -> None:
    db.executemany(
        f"{insert} INTO history (revision, content) VALUES (?, ?)",
        [(rotation.revision, rotation_to_json(rotation)) for rotation in rotations],
    )


def history(db: _Database, limit: int, before: int | None) -> Sequence[Rotation]:
    found = db.execute(
        "SELECT content FROM history WHERE :before IS NULL OR revision < :before"
        " ORDER BY revision DESC LIMIT :limit",
        {"before": before, "limit": max(limit, 0)},
    )
    return [rotation_from_json(content) for (content,) in found]


def _stored(db: _Database, names: Sequence[str]) -> tuple[Document, str] | None:
    row = db.execute("SELECT content, operation, lineage, revision FROM document").fetchone()
    return (document_from_json(row[0], names, _beside(row[2], row[3]))[0], row[1]) if row else None


def _beside(lineage: str, revision: int) -> dict[str, object]:
    """What the table has in columns too, and goes by."""
    return {"lineage": lineage, "revision": revision}


def _not_written(document: Document, written_by: str, operation: str) -> Swapped:
    # The same operation again: its answer was lost, and it is still the newest.
    won = written_by == operation
    return Swapped(outcome=SwapOutcome.WON if won else SwapOutcome.LOST, document=document)


# -- placements --


def placement(db: _Database, room: str) -> Placement | None:
    row = db.execute("SELECT server, revision FROM placements WHERE room = ?", (room,)).fetchone()
    return Placement(room=room, server=row[0], revision=row[1]) if row else None


def place(db: _Database, now: float, room: str, server: str, revision: int) -> Placement | Stale:
    if existing := placement(db, room):
        return existing
    row = db.execute("SELECT revision FROM document").fetchone()
    current = row[0] if row else 0
    if current != revision:
        return Stale(revision=current if isinstance(current, int) else 0)
    db.execute(
        "INSERT INTO placements (room, server, revision, touched) VALUES (?, ?, ?, ?)",
        (room, server, revision, now),
    )
    return Placement(room=room, server=server, revision=revision)


def confirm(
    db: _Database, now: float, wanted: Placement, process: str, settling_until: float
) -> Placement | None:
    current = placement(db, wanted.room)
    if current is None or current != wanted:
        return current
    _hold(db, now, [wanted.room], process, settling_until)
    return wanted


def holds(
    db: _Database, now: float, wanted: Placement, process: str, settling_until: float
) -> bool:
    """Whether `confirm` would write nothing new: it was said so, less than `_FRESH` ago."""
    row = db.execute(
        "SELECT 1 FROM placements JOIN holders USING (room)"
        " WHERE room = ? AND server = ? AND placements.revision = ? AND process = ?"
        " AND settling_until >= ? AND abs(? - renewed) < ?",
        (wanted.room, wanted.server, wanted.revision, process, settling_until, now, _FRESH),
    ).fetchone()
    return row is not None


def settled(db: _Database, room: str, process: str) -> None:
    db.execute(
        "UPDATE holders SET settling_until = 0 WHERE room = ? AND process = ?", (room, process)
    )


def release(db: _Database, now: float, room: str, process: str) -> None:
    gone = db.execute("DELETE FROM holders WHERE room = ? AND process = ?", (room, process))
    if gone.rowcount:
        db.execute("UPDATE placements SET touched = ? WHERE room = ?", (now, room))


def move(
    db: _Database, now: float, wanted: Placement, process: str, force: bool
) -> Placement | Settling:
    existing = placement(db, wanted.room)
    if existing is not None:
        if existing.revision >= wanted.revision:
            return existing
        until = None if force else _unsettled_until(db, now, wanted.room, process)
        if until is not None:
            return Settling(placement=existing, until=until)
    _put(db, now, wanted)
    return wanted


def renew(db: _Database, now: float, given: Sequence[Placement], process: str) -> list[Placement]:
    others = []
    for wanted in given:
        there = placement(db, wanted.room)
        if there is None or there.revision < wanted.revision:
            _put(db, now, wanted)
        elif there != wanted:
            others.append(there)
    _hold(db, now, [wanted.room for wanted in given], process, 0.0)
    return others


def placements(db: _Database) -> Sequence[Placement]:
    found = db.execute("SELECT room, server, revision FROM placements")
    return [_placement(*row) for row in found]


def rooms(db: _Database, now: float) -> Mapping[str, int]:
    found = db.execute(
        "SELECT server, count(DISTINCT room) FROM placements JOIN holders USING (room)"
        f" WHERE {_LIVING_HOLDER} GROUP BY server",
        {"now": now},
    )
    return dict(found.fetchall())


def lapsing(db: _Database, now: float, idle: float) -> Sequence[Placement]:
    found = db.execute(
        "SELECT room, server, revision FROM placements WHERE ? - touched >= ?", (now, idle)
    )
    return [_placement(*row) for row in found]


def lapse(db: _Database, now: float, unchanged: Placement, idle: float) -> bool:
    gone = db.execute(
        "DELETE FROM placements"
        " WHERE room = ? AND server = ? AND revision = ? AND ? - touched >= ?",
        (unchanged.room, unchanged.server, unchanged.revision, now, idle),
    )
    if gone.rowcount != 1:
        return False
    db.execute("DELETE FROM holders WHERE room = ?", (unchanged.room,))
    return True


def _put(db: _Database, now: float, wanted: Placement) -> None:
    db.execute("UPDATE moves SET seq = seq + 1")
    db.execute(
        "INSERT INTO placements (room, server, revision, touched, seq)"
        " VALUES (?, ?, ?, ?, (SELECT seq FROM moves))"
        " ON CONFLICT (room) DO UPDATE SET server = excluded.server,"
        " revision = excluded.revision, touched = excluded.touched, seq = excluded.seq",
        (wanted.room, wanted.server, wanted.revision, now),
    )


def _placement(room: str, server: str, revision: int) -> Placement:
    return Placement(room=room, server=server, revision=revision)


def _hold(
    db: _Database, now: float, room_names: Iterable[str], process: str, settling_until: float
) -> None:
    names = list(room_names)
    db.executemany(
        "INSERT INTO holders (room, process, renewed, settling_until) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (room, process) DO UPDATE SET renewed = excluded.renewed,"
        " settling_until = max(settling_until, excluded.settling_until)",
        [(room, process, now, settling_until) for room in names],
    )
    db.executemany(
        "UPDATE placements SET touched = ? WHERE room = ?", [(now, room) for room in names]
    )


def _unsettled_until(db: _Database, now: float, room: str, process: str) -> float | None:
    row = db.execute(
        "SELECT max(settling_until) FROM holders WHERE room = :room AND process <> :process"
        f" AND settling_until > :now AND {_LIVING_HOLDER}",
        {"room": room, "process": process, "now": now},
    ).fetchone()
    until: float | None = row[0]
    return until


# -- the ledger --


def count(db: _Database, totals: Ledger) -> None:
    db.executemany(
        "INSERT INTO ledger (writer, key, total) VALUES (?, ?, ?)"
        " ON CONFLICT (writer, key) DO UPDATE SET total = max(total, excluded.total)",
        [(writer, key, total) for writer, sums in totals.items() for key, total in sums.items()],
    )


def ledger(db: _Database) -> Ledger:
    found: dict[str, dict[str, int]] = {}
    for writer, key, total in db.execute("SELECT writer, key, total FROM ledger"):
        found.setdefault(writer, {})[key] = total
    return found


def fold(
    db: _Database,
    writer: str,
    key: str,
    expected: int,
    *,
    totals: Mapping[str, int],
    drop: Collection[str],
) -> bool:
    row = db.execute(
        "SELECT total FROM ledger WHERE writer = ? AND key = ?", (writer, key)
    ).fetchone()
    if (row[0] if row else 0) != expected:
        return False
    db.executemany(
        "DELETE FROM ledger WHERE writer = ? AND key = ?", [(writer, dropped) for dropped in drop]
    )
    db.executemany(
        "INSERT OR REPLACE INTO ledger (writer, key, total) VALUES (?, ?, ?)",
        [(writer, each, total) for each, total in totals.items()],
    )
    return True


# -- processes --


def beat(db: _Database, now: float, row: ProcessRow) -> bool:
    content = json.dumps(asdict(replace(row, beat=now)))
    known = db.execute(
        "UPDATE processes SET beat = ?, content = ? WHERE process = ?", (now, content, row.process)
    ).rowcount
    if not known:
        db.execute(
            "INSERT INTO processes (process, beat, content) VALUES (?, ?, ?)",
            (row.process, now, content),
        )
    dead = db.execute("SELECT process FROM processes WHERE ? - beat > ?", (now, _FORGOTTEN))
    for (process,) in dead.fetchall():
        db.execute("DELETE FROM holders WHERE process = ?", (process,))
        db.execute("DELETE FROM processes WHERE process = ?", (process,))
    return bool(known)


def leave(db: _Database, now: float, process: str) -> None:
    db.execute("DELETE FROM processes WHERE process = ?", (process,))
    db.execute(
        "UPDATE placements SET touched = :now"
        " WHERE room IN (SELECT room FROM holders WHERE process = :process)",
        {"now": now, "process": process},
    )
    db.execute("DELETE FROM holders WHERE process = ?", (process,))


def rows(db: _Database, now: float, within: float) -> Sequence[ProcessRow]:
    # A beat to come was written before the clock was set back: who lives writes another.
    found = db.execute("SELECT content FROM processes WHERE abs(? - beat) <= ?", (now, within))
    return [_row(json.loads(content)) for (content,) in found]


def _row(content: dict[str, Any]) -> ProcessRow:
    # A newer version of the program, that runs beside this one, may write more.
    known = {each.name: content[each.name] for each in fields(ProcessRow) if each.name in content}
    return ProcessRow(**{**known, "names": tuple(content["names"])})
