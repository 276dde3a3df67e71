"""Own faults: what this process says in the log of what is wrong with itself or its machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from .. import observe

__all__ = ["QUIET", "OwnFaults"]

QUIET: Final = 60.0
"""Seconds without a fault of one kind after which the next one is news."""


class OwnFaults:
    """
    Tells each kind of fault when it begins, and not for each probe and join that it spoils.

    Args:
        failing: the host names that the resolver does not find now.
        clock: monotonic time, for tests.
    """

    def __init__(
        self, failing: Callable[[], tuple[str, ...]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failing = failing
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._names_fail = False

    def seen(self, what: str, **fields: object) -> None:
        """``what``, a few constant words, kept this process from seeing how a server is."""
        now = self._clock()
        last = self._seen.get(what)
        self._seen[what] = now
        if last is None or now - last > QUIET:
            observe.event(observe.OWN_FAULT, logging.WARNING, what=what, **fields)

    def look(self) -> None:
        """Tell whether names are found, when that changes."""
        failing, now = self._failing(), self._clock()
        if failing:
            self._seen["names"] = now
            if not self._names_fail:
                self._names_fail = True
                observe.event(observe.NAMES_FAIL, logging.WARNING, names=", ".join(failing))
        elif self._names_fail and now - self._seen["names"] > QUIET / 4:
            # Not between two tries of a resolver that is only slow.
            self._names_fail = False
            observe.event(observe.NAMES_BACK, logging.WARNING)
