"""
Listening to one document of Firestore on an event loop.

Google's asynchronous client cannot, and its other one burns a core while the server is away:
https://github.com/googleapis/python-firestore/issues/131.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

from google.cloud.firestore_v1.types import TargetChange

from ..exceptions import StoreCorrupt, StoreUnavailable
from .firestore_values import read_document
from .notices import Notices

__all__ = ["SILENCE", "DocumentWatch", "Listening"]

SILENCE: Final = 120.0
"""Seconds without a word after which a stream is given up for a new one: it may be dead."""

# Seconds to wait for the first word, and before the next try, at first and at most.
_FIRST_WORD: Final = 5.0
_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0

_State = TargetChange.TargetChangeType
# Lineage, revision and update time of a document; None where there is none.
_Seen = tuple[str, int, tuple[int, int]] | None


class Listening(Protocol):
    """The part of the client that is needed here."""

    def listen(self, document: str) -> AsyncGenerator[Any, None]:
        """Yield raw ``ListenResponse`` messages about ``document``."""


class DocumentWatch:
    """
    Tells ``notices`` of each change of ``document``, and of each gap in what it sees.

    A stream always begins with the present state, so that no token must be kept, and none can be
    wrong. A gap is told when it begins, so that who reads then learns that the store is away, and
    when it ends.

    Attributes:
        begun: set once the first attempt to listen has ended, well or not.
    """

    def __init__(
        self,
        client: Listening,
        document: str,
        names: Sequence[str],
        notices: Notices,
    ) -> None:
        self.begun: Final = asyncio.Event()
        self._client = client
        self._document = document
        self._names = names
        self._notices = notices
        self._last: _Seen = None
        self._following = False
        self._failures = 0
        # Whether watchers know of the gap that there is while no stream is followed.
        self._gap_told = True
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End it."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.begun.set()

    async def _run(self) -> None:
        while True:
            silent = await self._follow_to_the_end()
            self._following = False
            # After a silence nothing need be wrong: the next stream will show.
            if not silent and not self._gap_told:
                self._gap_told = True
                self._notices.resync()
            self.begun.set()
            pause = min(_LONGEST_PAUSE, _PAUSE * 2 ** min(self._failures, 10))
            self._failures += 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _follow_to_the_end(self) -> bool:
        """Follow one stream; whether it ended because nothing came for long."""
        try:
            await self._follow()
        except TimeoutError:
            return self._following
        except StoreUnavailable:
            pass
        return False

    async def _follow(self) -> None:
        """Read one stream: a document, or that there is none, then word that this is all."""
        pending: Any = None
        complete = False  # whether `pending` is the state after all that was told
        async with aclosing(self._responses()) as responses:
            async for response in responses:
                match response.WhichOneof("response_type"):
                    case "document_change":
                        pending = response.document_change.document
                    case "document_delete" | "document_remove":
                        pending = None
                    case "filter" if response.filter.count != (pending is not None):
                        raise StoreUnavailable("Firestore's stream missed a change.")
                    case "target_change":
                        change = response.target_change.target_change_type
                        if change == _State.REMOVE:
                            raise StoreUnavailable("Firestore ended the stream.")
                        if change == _State.RESET:
                            pending, complete = None, False
                        elif change == _State.CURRENT:
                            complete = True
                        if complete and change in (_State.CURRENT, _State.NO_CHANGE):
                            self._tell(pending)

    def _tell(self, raw: Any) -> None:
        seen, last = self._read(raw), self._last
        self._last = seen
        if not self._following:
            self._following, self._gap_told, self._failures = True, False, 0
            self._notices.resync()
            self.begun.set()
        elif seen != last:
            if seen and last and seen[0] == last[0] and seen[1] > last[1]:
                self._notices.changed(seen[1])
            else:
                self._notices.resync()

    def _read(self, raw: Any) -> _Seen:
        if raw is None:
            return None
        update_time = (raw.update_time.seconds, raw.update_time.nanos)
        try:
            document, _, _ = read_document(raw.fields, self._names)
        except StoreCorrupt:
            return "", -1, update_time  # who reads it is told what is wrong
        return document.lineage, document.revision, update_time

    async def _responses(self) -> AsyncGenerator[Any, None]:
        async with aclosing(self._client.listen(self._document)) as stream:
            while True:
                limit = SILENCE if self._following else _FIRST_WORD
                try:
                    async with asyncio.timeout(limit):
                        response = await anext(stream)
                except StopAsyncIteration:
                    return
                yield response
