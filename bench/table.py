"""Rows of the printed table: a figure, what it is compared with, and the promise it must keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Bound", "Row", "as_json", "render"]

HEADS = ("What", "Compared with", "Pool", "Ratio", "Promise", "")


class Bound(StrEnum):
    """On which side of the target a figure must be."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One promise and what was measured for it.

    Attributes:
        what: the promise, in words.
        unit: of both figures; empty for plain numbers.
        digits: decimals to show.
        pool: the pool's figure, None where it was not measured.
        reference: the figure of what it is compared with, None where it is held against seconds.
        reference_name: what that is.
        target: for the ratio where there is a reference, else for the figure itself; None where
            nothing is promised and the figures only stand beside each other.
        bound: on which side of the target it must be.
        left_out: why there are no figures, in one sentence; only `what` and `wrong` count then.
        wrong: whether they are missing because the measurement went wrong.
    """

    what: str
    target: float | None = 0.0
    bound: Bound = Bound.AT_MOST
    unit: str = ""
    digits: int = 0
    pool: float | None = None
    reference: float | None = None
    reference_name: str = ""
    left_out: str | None = None
    wrong: bool = False

    @property
    def ratio(self) -> float | None:
        """The pool's figure as a multiple of the reference."""
        if self.pool is None or not self.reference:
            return None
        return self.pool / self.reference

    @property
    def kept(self) -> bool | None:
        """Whether the promise is kept; None where that was not measured."""
        figure = self.ratio if self.reference_name else self.pool
        if figure is None or self.target is None:
            return None
        if self.bound is Bound.AT_LEAST:
            return figure >= self.target
        return figure <= self.target

    def cells(self) -> tuple[str, ...]:
        """What stands in the columns of the table."""
        if self.left_out is not None:
            why = "went wrong" if self.wrong else "left out"
            return (self.what, "", "", "", "", f"{why}: {self.left_out}")
        unit = "x" if self.reference_name else self.unit
        promise = "" if self.target is None else f"{self.bound} {self.target:g} {unit}"
        reference = f"{self.reference_name} {self._show(self.reference)}".strip()
        ratio = "" if self.ratio is None else f"{self.ratio:.2f} x"
        verdict = {True: "pass", False: "FAIL", None: promise and "not measured"}[self.kept]
        return (self.what, reference, self._show(self.pool), ratio, promise, verdict)

    def _show(self, figure: float | None) -> str:
        return "" if figure is None else f"{figure:,.{self.digits}f} {self.unit}".rstrip()


def render(rows: Iterable[Row]) -> str:
    """The rows as a table in Markdown that also reads well in a terminal."""
    lines = [HEADS, *(row.cells() for row in rows)]
    # The last column is free text; padding it would only make long lines.
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    shown = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    shown.insert(1, "|" + "|".join("-" * (max(width, 1) + 2) for width in widths) + "|")
    return "\n".join(shown)


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows for machines, with the ratio and whether the promise is kept."""
    return [asdict(row) | {"ratio": row.ratio, "kept": row.kept} for row in rows]
