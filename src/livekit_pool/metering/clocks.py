"""
Clocks: what time it is by each server's own clock.

A stay is timed by the clock of its server, which is the one that webhooks and lists of participants
go by, and whoever sends the bill. This process's part of it runs on the monotonic clock from the
moment at which the server told its time: so it does not matter whether the clock of this machine,
or the store's, is right, nor when somebody sets it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["ServerClocks"]

UNEQUAL: Final = 2.0
"""Seconds by which a clock must differ to be believed: a server tells whole seconds, some late."""

PATIENCE: Final = 120.0
"""Seconds after which a server that tells no time goes by the store's."""


class ServerClocks:
    """The servers' clocks, as one process knows them."""

    def __init__(
        self, now: Callable[[], float], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """``now`` is the store's time, by which servers go that have not told theirs."""
        self._now = now
        self.monotonic: Final = monotonic
        self._bases: dict[str, float] = {}
        self._waited_from: dict[str, float] = {}

    def heard(self, server: str, moment: float) -> None:
        """``server`` says that it is ``moment``, in whole seconds since the epoch."""
        base = moment + 0.5 - self.monotonic()
        known = self._bases.get(server)
        if known is None:
            known = self._bases[server] = self.base(server)
        if abs(base - known) >= UNEQUAL:
            self._bases[server] = base

    def said(self, server: str, moment: float) -> None:
        """``server`` says that it is ``moment``, to the millisecond."""
        self.heard(server, moment - 0.5)

    def knows(self, server: str) -> bool:
        """Whether ``server`` has told its time."""
        return server in self._bases

    def settled(self, server: str) -> bool:
        """Whether it has, or `PATIENCE` has passed since this was asked first."""
        first = self._waited_from.setdefault(server, self.monotonic())
        return self.knows(server) or self.monotonic() >= first + PATIENCE

    def base(self, server: str) -> float:
        """What the clock of ``server`` says minus what the monotonic one does, in seconds."""
        base = self._bases.get(server)
        return self._now() - self.monotonic() if base is None else base

    def now(self, server: str) -> float:
        """What the clock of ``server`` says, in seconds since the epoch."""
        return self.base(server) + self.monotonic()
