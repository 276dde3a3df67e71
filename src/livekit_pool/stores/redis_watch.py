"""What makes a process of a pool hear of the changes that others made in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import StoreCorrupt, StoreError
from .base import Placement
from .notices import Notices
from .redis_calls import LIMIT
from .redis_scripts import TOLD_AT_ONCE

__all__ = ["LOOKS", "Seen", "Watcher", "placement_from", "seen_from"]

LOOKS = 2.0
"""Seconds after which a message that was lost is made up for."""

_LOG = logging.getLogger(__name__)

# Seconds in which hints are taken for one: a storm of moves is read in few looks.
_GATHERS = 0.01
# Seconds between two tries, the first and the longest.
_PAUSES = (0.05, 1.0)
# More than there will ever be: where all is read anew, none of them is needed.
_NO_MOVES = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """
    What a look has found.

    Attributes:
        revision: of the document; None where there is none, or where it is no number.
        document: lineage, revision and operation as they are stored, and a digest of the content.
        born: which life of the placements it was; None before the first move.
        moves: number of the last move.
        moved: those moved since the look before, in the order of their moves.
    """

    revision: int | None = None
    document: tuple[str | None, ...] = (None, None, None, None)
    born: str | None = None
    moves: int = 0
    moved: Sequence[Placement] = field(default=())


class Watcher:
    """
    Looks for changes when it is told that there may be some, and now and then anyway.

    Args:
        look: reads what changed since the move of that number.
        notices: where to tell it.
    """

    def __init__(self, look: Callable[[int], Awaitable[Seen]], notices: Notices) -> None:
        self._look = look
        self._notices = notices
        self._known = Seen()
        self._hint = asyncio.Event()
        # Whether something may have been missed that a look does not show.
        self._gap = True
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Watcher at revision {self._known.revision}, move {self._known.moves}>"

    def hint(self) -> None:
        """Something may have changed."""
        self._hint.set()

    def gap(self) -> None:
        """Hints may have been lost; from now on they come."""
        self._gap = True
        self._hint.set()

    async def start(self, *, wait: bool) -> None:
        """
        Begin; return when what happens from now on will be told.

        Args:
            wait: whether to wait for that, within bounds.
        """
        self._task = asyncio.create_task(self._look_for_ever())
        if wait:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LIMIT):
                    await self._ready.wait()

    async def aclose(self) -> None:
        """Stop; idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look_for_ever(self) -> None:
        pauses = _pauses()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOKS):
                    await self._hint.wait()
            gap, self._gap = self._gap, False
            self._hint.clear()
            try:
                seen = await self._look(_NO_MOVES if gap else self._known.moves)
            except Exception as error:  # the outermost frame: nobody would begin it again
                # Whoever calls hears of it too. Until a look succeeds anything may happen.
                if not isinstance(error, StoreError):
                    _LOG.exception("Redis not looked at")
                self.gap()
                await asyncio.sleep(next(pauses))
                continue
            pauses = _pauses()
            self._tell(seen, gap)
            self._ready.set()
            await asyncio.sleep(_GATHERS)

    def _tell(self, seen: Seen, gap: bool) -> None:
        known, self._known = self._known, seen
        if gap or _another_life(known, seen):
            self._notices.resync()
        if seen.document != known.document and seen.revision is not None:
            self._notices.changed(seen.revision)
        for placement in seen.moved:
            self._notices.moved(placement)


def _another_life(known: Seen, seen: Seen) -> bool:
    """Whether ``seen`` is not what ``known`` became by changes, and moves that are all told."""
    return (
        (known.document[0] is not None and seen.document[0] != known.document[0])
        or (seen.revision is None and seen.document != known.document)
        or (seen.revision == known.revision and seen.document != known.document)  # edited
        or (seen.revision or 0) < (known.revision or 0)
        or (known.born is not None and seen.born != known.born)
        or seen.moves < known.moves
        or len(seen.moved) > TOLD_AT_ONCE
    )


def _pauses() -> Iterator[float]:
    """Seconds between tries: growing, and not the same in all processes."""
    pause, most = _PAUSES
    while True:
        yield pause * random.uniform(0.5, 1)
        pause = min(2 * pause, most)


def seen_from(answer: Sequence[Any]) -> Seen:
    """
    Read the answer of the script `LOOK`.

    Raises:
        StoreCorrupt: there are damaged placements in it.
    """
    document, (born, last), moved = tuple(answer[:4]), answer[4:6], answer[6:]
    revision = document[1]
    if last is not None and not last.isdecimal():
        raise damaged_placements()
    rooms = zip(moved[::2], moved[1::2], strict=True)
    return Seen(
        revision=int(revision) if revision and revision.isdecimal() else None,
        document=document,
        born=born,
        moves=int(last or 0),
        moved=[placement_from(room, stored) for room, stored in rooms if stored],
    )


def placement_from(room: str, stored: str) -> Placement:
    """
    Read a placement as it is stored.

    Raises:
        StoreCorrupt: it is not one.
    """
    revision, space, server = stored.partition(" ")
    if not space or not revision.isdecimal():
        raise damaged_placements()
    return Placement(room=room, server=server, revision=int(revision))


def damaged_placements() -> StoreCorrupt:
    """What to say of them."""
    return StoreCorrupt("The placements in LIVEKIT_POOL_STORE are damaged.")
