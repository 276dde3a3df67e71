"""Stalls: whether the own event loop stood still, so that silence may be our own deafness."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Self

__all__ = ["STALL", "Stalls"]

STALL: Final = 0.25
"""Seconds from which on a standing loop makes another's silence worthless as evidence."""

_TICK: Final = 0.05


class Stalls:
    """
    Measures, while it is open, for how long the running loop stood still at a time.

    A short tick is due all the time; how late it comes is how long nothing else could run either.
    """

    __slots__ = ("_due", "_handle", "_longest", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._longest = 0.0

    def __enter__(self) -> Self:
        self._schedule()
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.cancel()

    @property
    def longest(self) -> float:
        """Seconds of the longest stall so far, the one that has just ended included."""
        return max(self._longest, time.monotonic() - self._due)

    @property
    def stalled(self) -> bool:
        """Whether one of them was longer than `STALL`."""
        return self.longest > STALL

    def _schedule(self) -> None:
        # Not the loop's clock: uvloop's stands still while a callback runs.
        self._due = time.monotonic() + _TICK
        self._handle = self._loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._longest = self.longest
        self._schedule()
