"""
What commands print: tables, boxed on a terminal and aligned text elsewhere, and JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import click
from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.table import Table as BoxedTable
from rich.text import Text

__all__ = ["Table", "duration", "is_terminal", "local_time", "moment", "print_json"]

#: Words of our tables that are worth a colour.
_STYLES = {
    "active": "bold green",
    "up": "green",
    "down": "bold red",
    "unknown": "yellow",
    "cooling": "yellow",
    "exhausted": "yellow",
    "drained": "magenta",
    "misconfigured": "bold red",
}


@dataclass(slots=True, kw_only=True)
class Table:
    """
    A table with a line above and lines below it.

    Attributes:
        columns: headings, in order.
        rows: for each row a text for each column.
        optional: columns that are left out while all their texts are empty.
        header: the line above.
        below: another table, between this one and the footer.
        footer: the lines below: warnings.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    optional: frozenset[str] = frozenset()
    header: str = ""
    below: Table | None = None
    footer: Sequence[str] = field(default_factory=tuple)

    def show(self) -> None:
        """Print it, as standard output takes it."""
        if is_terminal():
            Console(highlight=False).print(self.boxed())
        else:
            click.echo(self.plain())

    def boxed(self) -> RenderableType:
        """It for a terminal: one line for each row, cut where the terminal is too narrow."""
        columns, rows = self._filled()
        table = BoxedTable(box=ROUNDED, header_style="bold")
        for column in columns:
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in row))
        above = [Text(self.header)] if self.header else []
        below = [self.below.boxed()] if self.below else []
        return Group(*above, table, *below, *(Text(line, style="yellow") for line in self.footer))

    def plain(self) -> str:
        """It as aligned text: one line for each row, however long; two spaces between columns."""
        columns, rows = self._filled()
        lines = [columns, *([text or "-" for text in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        above = [self.header] if self.header else []
        below = ["", self.below.plain(), ""] if self.below else []
        return "\n".join([*above, *aligned, *below, *self.footer]).rstrip("\n")

    def _filled(self) -> tuple[list[str], list[list[str]]]:
        """The columns and rows that are shown."""
        shown = [
            position
            for position, column in enumerate(self.columns)
            if column not in self.optional or any(row[position] for row in self.rows)
        ]
        return [self.columns[position] for position in shown], [
            [row[position] for position in shown] for row in self.rows
        ]


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def print_json(value: object, *, one_line: bool = False) -> None:
    """Print ``value`` as JSON, on one line or indented for people."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=None if one_line else 2))


def moment(rfc3339: str) -> datetime:
    """The time that an RFC 3339 text says. Raises `ValueError`."""
    return datetime.fromisoformat(rfc3339)


def local_time(rfc3339: str) -> str:
    """An RFC 3339 time as this machine's users tell it, to the second."""
    return moment(rfc3339).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """A duration in its two largest units: ``45 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    for large, small, large_unit, small_unit in (
        (86_400, 3600, "d", "h"),
        (3600, 60, "h", "min"),
        (60, 1, "min", "s"),
    ):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {large_unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def seconds_until(rfc3339: str) -> float:
    """Seconds from now, by this machine's clock, until an RFC 3339 time."""
    return (moment(rfc3339) - datetime.now(UTC)).total_seconds()
