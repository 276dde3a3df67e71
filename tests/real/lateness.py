"""How late this process was: what it did not see in time is no one else's gap."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

__all__ = ["Lateness", "lateness"]

EVERY = 0.02


class Lateness:
    """The longest time in seconds by which this process's event loop was late."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        """Take note, until cancelled."""
        while True:
            asked = time.monotonic()
            await asyncio.sleep(EVERY)
            self.longest = max(self.longest, time.monotonic() - asked - EVERY)


@contextlib.asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Watch this process's loop meanwhile."""
    own = Lateness()
    watching = asyncio.create_task(own.watch())
    try:
        yield own
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
