"""The store's time, as this process knows it between two readings, and when clocks are set."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ..stores.base import Loaded

__all__ = ["JUMP", "Jumps", "StoreClock"]

JUMP: Final = 1.0
"""Seconds from which on a clock was set, and did not only run a little fast."""

FARTHEST: Final = 86_400.0
"""Seconds by which a last rotation may lie ahead of the store's clock, and be believed."""


class StoreClock:
    """Runs on the monotonic clock; by this machine's time until the store has told its own."""

    def __init__(self) -> None:
        self._base = time.time() - time.monotonic()
        self._told = False

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.monotonic() + self._base

    def sync(self, loaded: Loaded) -> float:
        """
        Go by the store's time, but never backwards, and never before the last rotation.

        Returns:
            by how many seconds the store's clock was set on since the reading before; 0 for less
            than `JUMP`, which is the way of an answer.

        A clock that is set back would make all evidence older than the rotation before it: for
        as long as it was set back, no dead server would be left.
        """
        now = loaded.now
        ahead = now - self.now() if self._told else 0.0
        if (document := loaded.document) and 0 < document.last_rotation - now < FARTHEST:
            now = document.last_rotation
        base = now - time.monotonic()
        self._base = max(self._base, base) if self._told else base
        self._told = True
        return ahead if ahead > JUMP else 0.0


class Jumps:
    """
    Tells when this machine's clock was set.

    Tokens are signed by it, and a store on this machine tells its time. Durations are not: they run
    on the monotonic clock, which nobody can set.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Both in seconds."""
        self._wall = wall
        self._monotonic = monotonic
        self._apart = wall() - monotonic()

    def look(self) -> float:
        """By how many seconds it was set since the last look, back if negative; else 0."""
        before, self._apart = self._apart, self._wall() - self._monotonic()
        by = self._apart - before
        return by if abs(by) > JUMP else 0.0
