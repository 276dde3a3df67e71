"""
Moments of the document in the time of a clock that was set on.

What the document says of the past and of the near future, in seconds since the epoch, was written
by a clock of before. After a jump of hours every cool-down in it would be over at once, and so
would the rest between two rotations. So they keep their distance from now; only the reset of a
quota is a date of the calendar, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .document import Cause, Document, ServerRecord

__all__ = ["Moments"]


class Moments:
    """Those that were written before the clock was set on, and what they are now."""

    def __init__(self) -> None:
        self._moved: dict[float, float] = {}

    def set_on(self, by: float, document: Document) -> None:
        """The clock was set on by so many seconds; ``document`` was written before."""
        self._moved = {each: self._now(each) + by for each in _moments(document)}

    def seen(self, document: Document) -> Document:
        """``document`` as it is to be understood now."""
        if self._moved.keys().isdisjoint(_moments(document)):
            return document
        return replace(
            document,
            last_rotation=self._now(document.last_rotation),
            servers={name: self._record(record) for name, record in document.servers.items()},
        )

    def _now(self, moment: float) -> float:
        return self._moved.get(moment, moment)

    def _record(self, record: ServerRecord) -> ServerRecord:
        until = record.cool_down_until
        return record if until is None else replace(record, cool_down_until=self._now(until))


def _moments(document: Document) -> Iterator[float]:
    yield document.last_rotation
    for record in document.servers.values():
        if record.cool_down_until is not None and record.cool_down_cause is not Cause.QUOTA:
            yield record.cool_down_until
