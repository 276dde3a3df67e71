"""A clock that only tests turn: no test waits for it, and none depends on a busy machine."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Selector(selectors.DefaultSelector):
    """Instead of waiting it turns the clock on to the next thing that is due."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "all wait for what will never come"
            self.now += max(timeout, 0.0)
        return ready


class TurnedLoop(asyncio.SelectorEventLoop):
    """An event loop on such a clock: its time stands still while anybody has something to do."""

    def __init__(self) -> None:
        """Start at zero."""
        self._turned = _Selector()
        super().__init__(self._turned)

    def time(self) -> float:
        """Seconds since the loop was made, by its own clock."""
        return self._turned.now


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` in a `TurnedLoop`."""
    with asyncio.Runner(loop_factory=TurnedLoop) as runner:
        runner.run(main)
