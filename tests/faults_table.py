"""
The tables of ``docs/faults.md``, made from those in ``core/faults.py``.

    python -m tests.faults_table    # writes them into the document
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from livekit_pool.core.faults import FOLLOWS, TABLE, Blame, Row, Surface

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "faults.md"

_WHERE: Final = {
    Surface.JOIN: "join",
    Surface.LEAVE: "Leave",
    Surface.TWIRP: "call",
    Surface.CLIENT: "report",
}


def written(document: str) -> str:
    """``document`` with its two tables as the code has them now."""
    for name, table in (("seen", seen()), ("follows", follows())):
        begin, end = f"<!-- {name} -->\n", "\n<!-- end -->"
        before, begun, rest = document.partition(begin)
        _, ended, after = rest.partition(end)
        assert begun, f"the document has no place for the table {name!r}"
        assert ended, f"the table {name!r} has no end"
        document = f"{before}{begin}{table}{end}{after}"
    return document


def seen() -> str:
    """What was seen -> whose affair it is."""
    head = "| | Where | Status | Code | One of these words | Cause | As seen in |"
    return _table(head, (_row(row) for row in TABLE))


def follows() -> str:
    """Cause -> what follows."""
    head = "| Cause | Rotates | Cool-down of the server that is left |"
    return _table(
        head,
        (
            (f"`{cause.value}`", follow.confirmed.value, follow.cool_down.value)
            for cause, follow in FOLLOWS.items()
        ),
    )


def _row(row: Row) -> tuple[str, ...]:
    everywhere = row.surfaces == frozenset(Surface)
    where = [word for surface, word in _WHERE.items() if surface in row.surfaces]
    affair = {Blame.ROOM: "the room's", Blame.CALLER: "the caller's", Blame.NOBODY: "nobody's"}
    return (
        row.name,
        "anywhere" if everywhere else ", ".join(where),
        _statuses(row.statuses),
        ", ".join(f"`{code}`" for code in sorted(row.codes)),
        " and one of ".join(
            ", ".join(f"`{phrase}`" for phrase in phrases)
            for phrases in (row.phrases, row.words)
            if phrases
        )
        + (f", and none of {', '.join(f'`{each}`' for each in row.unless)}" if row.unless else ""),
        f"**`{row.cause.value}`**" if row.cause else affair[row.blame],
        row.source,
    )


def _statuses(statuses: frozenset[int]) -> str:
    if len(statuses) >= 100:
        assert statuses == set(range(min(statuses), max(statuses) + 1))
        return f"{min(statuses)} to {max(statuses)}"
    return ", ".join(str(status) for status in sorted(statuses))


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    rule = "|---" * (head.count("|") - 1) + "|"
    return "\n".join([head, rule, *(f"| {' | '.join(row)} |" for row in rows)])


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
