"""Allowance: how often each of many callers may ask for something that costs."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["Allowance"]

_MOST: Final = 10_000
_MINUTE: Final = 60.0


class Allowance:
    """
    A token bucket for each name: it holds what a minute brings, and is full at first.

    Kept is only when a bucket will be full again. Of more than 10,000 names the one that asked
    longest ago is forgotten.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds, from any moment on."""
        self._every = _MINUTE / per_minute
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, name: str) -> float:
        """Take one for ``name``: 0 if there was one, else the seconds until there is."""
        now = self._clock()
        full_at = max(self._full_at.get(name, now), now) + self._every
        # A bucket that had none left would be full later than a minute from now.
        wait = full_at - now - _MINUTE
        if wait > 1e-9:  # of a sum of floats
            return wait
        self._full_at[name] = full_at
        self._full_at.move_to_end(name)
        if len(self._full_at) > _MOST:
            self._full_at.popitem(last=False)
        return 0.0
