"""
Events: ``GET /pool/events``, the stream that tells of rotations (server-sent events, HTML 9.2).

- ``rotation``: the active server changed; data is the rotation, ``id`` its revision.
- ``state``: where the pool is; data is ``{"revision", "active"}``, ``id`` the revision. Comes first
  in every stream, for every other change of the document, and instead of rotations where some
  cannot be told one by one. With ``"provisional": true`` it tells of a step, which has no revision:
  the store is away, and ``active`` stands in for the document's active server, which is down.

Nobody is told an older revision after a newer one. A listener that returns with ``Last-Event-ID``
first gets the rotations since then, from the history.
"""

import asyncio
import json
import math
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Depends, Header
from starlette.responses import StreamingResponse

from .. import observe
from ..core.actions import Step
from ..core.document import Document, Rotation
from ..exceptions import NoAnswer, StoreError
from .access import Access
from .answers import REFUSALS, RotationAnswer

if TYPE_CHECKING:
    from ..pool import Pool

__all__ = ["Events", "Listener", "router"]

PING_INTERVAL: Final = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy takes the stream for dead."""

QUEUE: Final = 64
"""News that wait for a slow listener; one more, and it gets a ``state`` for them all."""

MOST_MISSED: Final = 100
"""Rotations that are told to a listener which returns; of more, the newest."""

_NO_DOCUMENT_PAUSE: Final = 0.5

_PING: Final = ": ping\n\n"
# Sooner than a browser's own 3 s: the rotations of the meantime are kept, but told late.
_RETRY: Final = "retry: 1000\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """The document is now ``document``, after ``rotations`` (oldest first), if any."""

    document: Document
    rotations: tuple[Rotation, ...] = ()
    step: Step | None = None


class Listener:
    """One stream's queue of news, of bounded length."""

    def __init__(self) -> None:
        self._waiting: deque[News] = deque()
        self._woken = asyncio.Event()
        self._closed = False

    def put(self, news: News) -> None:
        """Queue ``news``; if the queue is full, its document stands for all that waited."""
        if len(self._waiting) >= QUEUE:
            self._waiting.clear()
            news = News(document=news.document, step=news.step)
        self._waiting.append(news)
        self._woken.set()

    def close(self) -> None:
        """Let `next` end, once everything queued was taken."""
        self._closed = True
        self._woken.set()

    async def next(self) -> News | None:
        """The next news, None after `close`."""
        while not self._waiting:
            if self._closed:
                return None
            self._woken.clear()
            await self._woken.wait()
        return self._waiting.popleft()


class Events:
    """
    Spreads the pool's news over the listeners of this process.

    One task follows the pool, from the first listener on, and never waits for any listener.
    """

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @contextmanager
    def listener(self) -> Iterator[Listener]:
        """A listener that gets what is announced while the block runs."""
        listener = Listener()
        self._listeners.add(listener)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._spread(), name="events")
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def close(self) -> None:
        """End every stream, now and from now on; idempotent."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._end()

    def _end(self) -> None:
        for listener in self._listeners:
            listener.close()

    async def _spread(self) -> None:
        try:
            while not self._closed:
                # Without a document there is nothing to follow. The streams wait: a browser's
                # EventSource would not come back after a 503.
                if self._document() is None:
                    await asyncio.sleep(_NO_DOCUMENT_PAUSE)
                    continue
                await self._follow()
                break
        except Exception as error:  # the outermost frame of this task
            observe.failure(observe.TASK_FAILED, error, task="events")
        # Whatever the reason: the listeners come back, and learn from the history.
        self._end()

    async def _follow(self) -> None:
        last: Document | None = None
        async for announce in self._pool.announcements():
            document = announce.document
            news = News(
                document=document,
                rotations=() if announce.rotation is None else (announce.rotation,),
                step=announce.step,
            )
            if last and last.lineage == document.lineage and document.revision > last.revision + 1:
                # Changes in between reached this process as one; the history has each.
                missed = await self._missed(last.revision, document.revision)
                news = replace(news, rotations=missed or news.rotations)
            last = document
            for listener in self._listeners:
                listener.put(news)

    async def stream(self, after: int | None) -> AsyncGenerator[str, None]:
        """
        The text of one stream.

        Args:
            after: the newest revision that the listener knows, None if it knows none.
        """
        with self.listener() as listener:
            told = _Told()
            yield _RETRY
            for rotation in await self._missed(after):
                yield told.rotation(rotation)
            # Read now, not before: the history may have told newer things meanwhile.
            if (document := self._document()) and (text := told.state(document, self._pool.step)):
                yield text
            while True:
                try:
                    async with asyncio.timeout(PING_INTERVAL):
                        news = await listener.next()
                except TimeoutError:
                    yield _PING
                    continue
                if news is None:
                    return
                if text := told.news(news):
                    yield text

    def _document(self) -> Document | None:
        try:
            return self._pool.document
        except NoAnswer:
            return None

    async def _missed(self, after: int | None, until: float = math.inf) -> tuple[Rotation, ...]:
        """The rotations of revisions above ``after`` and up to ``until``, oldest first."""
        if after is None:
            return ()
        try:
            newest = await self._pool.history(MOST_MISSED)
        except StoreError:
            return ()  # the state still comes, and says where the pool is
        return tuple(r for r in reversed(newest) if after < r.revision <= until)


class _Told:
    """What one listener was told, so that it is told nothing twice and nothing older."""

    def __init__(self) -> None:
        self._lineage: str | None = None
        self._revision = -1
        self._active: str | None = None

    def news(self, news: News) -> str:
        """The events for ``news``: rotations, then the state; those of it that are new."""
        self._follow(news.document.lineage)
        return "".join(map(self.rotation, news.rotations)) + self.state(news.document, news.step)

    def rotation(self, rotation: Rotation) -> str:
        """The event for ``rotation``; empty if it is not newer than what was told."""
        if rotation.revision <= self._revision:
            return ""
        self._revision, self._active = rotation.revision, rotation.to
        return _event("rotation", rotation.revision, RotationAnswer.of(rotation).json_line())

    def state(self, document: Document, step: Step | None = None) -> str:
        """
        The event for ``document``; empty if that is older than what was told, or the same.

        While the store is away, the active server may change without a revision: by a ``step``.
        """
        self._follow(document.lineage)
        state = (document.revision, document.active_server if step is None else step.server)
        if document.revision < self._revision or state == (self._revision, self._active):
            return ""
        self._revision, self._active = state
        data: dict[str, object] = {"revision": state[0], "active": state[1]}
        if step is not None:
            data["provisional"] = True
        return _event("state", document.revision, json.dumps(data))

    def _follow(self, lineage: str) -> None:
        """Forget what was told of another lineage: its revisions say nothing about this one's."""
        if self._lineage not in (None, lineage):
            self._revision, self._active = -1, None
        self._lineage = lineage


def _event(name: str, revision: int, data: str) -> str:
    return f"event: {name}\nid: {revision}\ndata: {data}\n\n"


def router(events: Events, access: Access) -> APIRouter:
    """The route of this module."""
    routes = APIRouter(prefix="/pool", tags=["joining"], responses=REFUSALS)

    @routes.get(
        "/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
        dependencies=[Depends(access.anybody)],
    )
    async def stream(
        last_event_id: Annotated[
            str, Header(description="Newest revision known: rotations since then come first.")
        ] = "",
    ) -> StreamingResponse:
        """
        Rotations as they happen, as server-sent events. For any valid token, also a participant's.

        `rotation` events have the rotation as data, `state` events `{"revision", "active"}`. The
        token is checked when the stream begins.
        """
        known = (
            int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 19 else None
        )
        return StreamingResponse(
            events.stream(known),
            media_type="text/event-stream",
            # The last one keeps nginx from collecting events.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return routes
