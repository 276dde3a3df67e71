"""
Notices on their way to the consumers of `Store.watch`.

Each consumer has a mailbox of its own in which notices merge, so that a slow one costs no more
memory than there are rooms, and delays nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

from ..core.fields import LARGEST
from .base import Changed, Moved, Placement, Resync

__all__ = ["Notices"]


class _Mailbox:
    """What one consumer has not been told yet."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.event.set()
        self._resync = True
        self._revision: int | None = None
        self._moved: dict[str, Placement] = {}
        # The highest revision this consumer was told, or will be with what is waiting here.
        self._told = -1

    def resync(self) -> None:
        # What waits is covered by the reading that a Resync asks for.
        self._resync = True
        self._revision = None
        self._moved.clear()
        self.event.set()

    def changed(self, revision: int) -> None:
        if revision <= self._told or revision > LARGEST:
            # Another document took the place of the one we knew: not to be told as a step back.
            # Or somebody edited it into nonsense, to which everything after it would be one.
            self.resync()
            return
        self._revision = self._told = revision
        self.event.set()

    def moved(self, placement: Placement) -> None:
        self._moved[placement.room] = placement
        self.event.set()

    def take(self) -> Iterator[Changed | Moved | Resync]:
        resync, revision, moved = self._resync, self._revision, self._moved
        self._resync, self._revision, self._moved = False, None, {}
        self.event.clear()
        if resync:
            yield Resync()
        if revision is not None:
            yield Changed(revision)
        for placement in moved.values():
            yield Moved(placement)


class Notices:
    """
    Hands every notice to every consumer; to be used on the event loop only.

    Publishers tell changes in the order in which they happened.
    """

    def __init__(self) -> None:
        self._mailboxes: set[_Mailbox] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Notices {'closed' if self._closed else 'open'}, {len(self._mailboxes)} watching>"

    def changed(self, revision: int) -> None:
        """Tell that the document is another one now, at ``revision``."""
        for mailbox in self._mailboxes:
            mailbox.changed(revision)

    def moved(self, placement: Placement) -> None:
        """Tell that a room was moved."""
        for mailbox in self._mailboxes:
            mailbox.moved(placement)

    def resync(self) -> None:
        """Tell that changes may have been missed."""
        for mailbox in self._mailboxes:
            mailbox.resync()

    def close(self) -> None:
        """End every `watch`, those begun later as well; idempotent."""
        self._closed = True
        for mailbox in self._mailboxes:
            mailbox.event.set()

    async def watch(self) -> AsyncGenerator[Changed | Moved | Resync, None]:
        """Yield notices as `Store.watch` promises, from the first step of the iterator on."""
        mailbox = _Mailbox()
        self._mailboxes.add(mailbox)
        try:
            while not self._closed:
                for notice in mailbox.take():
                    yield notice
                await mailbox.event.wait()
        finally:
            self._mailboxes.discard(mailbox)
