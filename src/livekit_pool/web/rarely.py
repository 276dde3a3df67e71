"""
Rarely: log lines that anybody outside can cause, at a bounded rate.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from .. import observe

__all__ = ["PERIOD", "Rarely"]

PERIOD: Final = 10.0
"""Seconds between two lines of one kind."""


class Rarely:
    """
    Logs an event's first occurrence at once, and the next ones as one line each `PERIOD`.

    Each line has ``count``, the number that it stands for. Lines are of one kind if all their
    fields are the same; these must come from a small set, not from outside.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[object, ...], int] = {}
        self._timers: dict[tuple[object, ...], asyncio.TimerHandle] = {}

    def event(
        self, name: str, level: int = logging.WARNING, *, times: int = 1, **fields: object
    ) -> None:
        """Log ``name`` with ``fields``, now or as part of a later line."""
        kind = (name, level, *fields.items())
        if kind in self._timers:
            self._waiting[kind] = self._waiting.get(kind, 0) + times
            return
        self._log(kind, times)

    def close(self) -> None:
        """Log what waits, at once."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for kind, count in self._waiting.items():
            _write(kind, count)
        self._waiting.clear()

    def _log(self, kind: tuple[object, ...], count: int) -> None:
        _write(kind, count)
        loop = asyncio.get_running_loop()
        self._timers[kind] = loop.call_later(PERIOD, self._due, kind)

    def _due(self, kind: tuple[object, ...]) -> None:
        del self._timers[kind]
        if count := self._waiting.pop(kind, 0):
            self._log(kind, count)


def _write(kind: tuple[Any, ...], count: int) -> None:
    name, level, *fields = kind
    observe.event(name, level, **dict(fields), count=count)
