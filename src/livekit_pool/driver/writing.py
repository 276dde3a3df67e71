"""
Writing: changes of the document, and what is brought back with a document that a store lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from .. import observe
from ..core import minutes
from ..core.actions import Restore, Swap
from ..core.document import Rotation
from ..core.events import SwapAnswered
from ..exceptions import StoreError
from ..stores.base import Ledger, Store, SwapOutcome, Swapped

__all__ = ["Writing"]

_AGAIN: Final = 1.0

COPY: Final = 60.0
"""Seconds between two readings of the ledger, which this process keeps in case it is lost."""

REMEMBERED: Final = 50
"""Rotations of the history that this process keeps in case they are lost."""


class Writing:
    """What one process writes to the store, and keeps of it."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        """``now`` is the store's time."""
        self._store = store
        self._now = now
        self._rotations: deque[Rotation] = deque(maxlen=REMEMBERED)
        self._ledger: Ledger = {}
        self._read_at = -math.inf
        self._ledger_lost = asyncio.Event()

    def remember(self, rotations: Iterable[Rotation]) -> None:
        """Keep these, in the order of their revisions."""
        self._rotations.extend(rotations)

    async def write(self, action: Swap | Restore) -> SwapAnswered:
        """
        Do what the machine asks for; returns the store's answer.

        Raises:
            StoreError: the store did not answer; whether it is done may not be known.
        """
        swapped = await self._ask(action)
        won = swapped.outcome is SwapOutcome.WON
        if won:
            _say(action)
        if won and isinstance(action, Restore):
            self._rotations.append(action.note)
            self._ledger_lost.set()
        return SwapAnswered(operation=action.operation, won=won, document=swapped.document)

    async def _ask(self, action: Swap | Restore) -> Swapped:
        if isinstance(action, Swap):
            return await self._store.swap(
                action.expected, action.document, action.operation, action.rotation
            )
        known = [r for r in self._rotations if r.revision < action.document.revision]
        return await self._store.restore(
            action.found, action.document, action.operation, (*known, action.note)
        )

    async def ledger(self) -> Ledger:
        """
        All that was counted; kept, in case the store loses it.

        Raises:
            StoreError: the store does not answer.
        """
        found = await self._store.ledger()
        kept = {
            writer: sums
            for writer, sums in self._ledger.items()
            # One that is ahead is put back: that is no loss.
            if sums.get(minutes.WATERMARK, 0) <= 1000 * self._now()
        }
        self._ledger = _merged(kept, found)
        if any(_lacks(found.get(writer, {}), sums) for writer, sums in self._ledger.items()):
            self._ledger_lost.set()  # it came back with older data, and the same document
        self._read_at = time.monotonic()
        return found

    async def keep_copies(self) -> None:
        """Read the ledger if nobody else does, and bring it back with a document that was lost."""
        while True:
            every = max(COPY, self._store.heartbeat)
            if time.monotonic() >= self._read_at + every:
                with contextlib.suppress(StoreError):
                    await self.ledger()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._ledger_lost.wait()
            while self._ledger_lost.is_set():
                try:
                    await self._store.count(self._ledger)
                    self._ledger_lost.clear()
                except StoreError:
                    await asyncio.sleep(_AGAIN)


def _say(action: Swap | Restore) -> None:
    rotation = action.rotation if isinstance(action, Swap) else action.note
    if rotation is not None:
        observe.event(
            observe.ROTATED if isinstance(action, Swap) else observe.RESTORED,
            logging.INFO if isinstance(action, Swap) else logging.WARNING,
            from_=rotation.from_,
            to=rotation.to,
            cause=rotation.cause.value,
            reason=rotation.reason,
            actor=rotation.actor,
            revision=rotation.revision,
            reports=rotation.reports,
        )


def _lacks(found: Mapping[str, int], kept: Mapping[str, int]) -> bool:
    """Whether the store lost something of what was ``kept``. Sums follow the watermark."""
    return any(
        total > found.get(key, -1) for key, total in kept.items() if not key.startswith("at:")
    )


def _merged(one: Ledger, other: Ledger) -> Ledger:
    """The higher one of each two sums, without those that say nothing any more."""
    return {
        writer: minutes.pruned(minutes.merged(one.get(writer, {}), other.get(writer, {})))
        for writer in one.keys() | other.keys()
    }
