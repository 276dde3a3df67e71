"""The store's time, as this process knows it between two readings."""

from __future__ import annotations

import time
from typing import Final

from ..stores.base import Loaded

__all__ = ["StoreClock"]

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

    def sync(self, loaded: Loaded) -> None:
        """
        Go by the store's time, but never backwards, and never before the last rotation.

        A clock that is set back would make all evidence older than the rotation before it: for
        as long as it was set back, no dead server would be left.
        """
        now = loaded.now
        if (document := loaded.document) and 0 < document.last_rotation - now < FARTHEST:
            now = document.last_rotation
        base = now - time.monotonic()
        self._base = max(self._base, base) if self._told else base
        self._told = True
