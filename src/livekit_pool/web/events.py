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
import contextlib
import json
import math
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, Self

from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import StreamingResponse

from .. import observe
from ..core.actions import Step
from ..core.document import Document, Rotation
from ..exceptions import NoAnswer, StoreError
from .access import Access
from .answers import REFUSALS, RotationAnswer
from .http import BodyWriter

if TYPE_CHECKING:
    from ..pool import Pool

__all__ = ["Events", "Listener", "router"]

PING_INTERVAL: Final = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy takes the stream for dead."""

QUEUE: Final = 64
"""News that wait for a slow listener; one more, and it gets a ``state`` for them all."""

MOST_MISSED: Final = 100
"""Rotations that are told to a listener which returns; of more, the newest."""

AHEAD: Final = 1000
"""Revisions by which a listener may be ahead; of more, they are those of a lost document."""

_NO_DOCUMENT_PAUSE: Final = 0.5
# Listeners that are told before others get their turn: some ms.
_AT_ONCE: Final = 500

_PING: Final = ": ping\n\n"
_PING_PIECE: Final = BodyWriter.piece(_PING.encode())
# Sooner than a browser's own 3 s: the rotations of the meantime are kept, but told late.
_RETRY: Final = "retry: 1000\n\n"


class Told(NamedTuple):
    """What a listener was told last, so that it is told nothing twice and nothing older."""

    lineage: str | None = None
    revision: int = -1
    active: str | None = None

    def rotation(self, rotation: Rotation) -> tuple[Self, str]:
        """The event for ``rotation``; empty if it is not newer than what was told."""
        if rotation.revision <= self.revision:
            return self, ""
        text = _event("rotation", rotation.revision, RotationAnswer.of(rotation).json_line())
        return self._replace(revision=rotation.revision, active=rotation.to), text

    def state(self, document: Document, step: Step | None = None) -> tuple[Self, str]:
        """
        The event for ``document``; empty if that is older than what was told, or the same.

        While the store is away, the active server may change without a revision: by a ``step``.
        """
        told = self.follow(document.lineage)
        revision, active = (
            document.revision,
            document.active_server if step is None else step.server,
        )
        if revision < told.revision or (revision, active) == (told.revision, told.active):
            return told, ""
        data: dict[str, object] = {"revision": revision, "active": active}
        if step is not None:
            data["provisional"] = True
        now = told._replace(revision=revision, active=active)
        return now, _event("state", document.revision, json.dumps(data))

    def follow(self, lineage: str) -> Self:
        """Forget what was told of another lineage: its revisions say nothing about this one's."""
        if self.lineage in (None, lineage):
            return self._replace(lineage=lineage)
        return type(self)(lineage=lineage)


class News:
    """The document is now ``document``, after ``rotations`` (oldest first), if any."""

    def __init__(
        self,
        document: Document,
        rotations: tuple[Rotation, ...] = (),
        step: Step | None = None,
    ) -> None:
        self.document = document
        self.rotations = rotations
        self.step = step
        # Thousands of listeners were told the same before: their text is made once.
        self._made: dict[Told, tuple[Told, str, bytes]] = {}

    def after(self, told: Told) -> tuple[Told, str, bytes]:
        """
        What is news to who was ``told`` that.

        Returns:
            what they have been told then, the events as text, rotations first (empty if there is
            nothing new), and as `BodyWriter.write` takes them.
        """
        made = self._made.get(told)
        if made is None:
            now, texts = told.follow(self.document.lineage), []
            for rotation in self.rotations:
                now, text = now.rotation(rotation)
                texts.append(text)
            now, text = now.state(self.document, self.step)
            text = "".join([*texts, text])
            made = self._made[told] = now, text, BodyWriter.piece(text.encode())
        return made


class Listener:
    """
    One stream: what it was told, and its queue of news, of bounded length.

    Args:
        writer: writes to its client at once, while nothing waits; None if there is no such way.
    """

    def __init__(self, writer: BodyWriter | None = None) -> None:
        self.told = Told()
        self.writer = writer
        self._idle = False
        self._waiting: deque[News] = deque()
        self._woken = asyncio.Event()
        self._closed = False

    def put(self, news: News) -> None:
        """Tell ``news``, or queue it; in a full queue its document stands for all that waited."""
        if self._idle and self.writer is not None and not self._waiting:
            told, text, piece = news.after(self.told)
            if not text or self.writer.write(piece):
                self.told = told
                return
        if len(self._waiting) >= QUEUE:
            self._waiting.clear()
            news = News(document=news.document, step=news.step)
        self._waiting.append(news)
        self._woken.set()

    def ping(self) -> None:
        """Write a comment, if nothing else is on its way."""
        if self._idle and self.writer is not None and not self._waiting:
            self.writer.write(_PING_PIECE)

    def close(self) -> None:
        """Let `next` end, once everything queued was taken."""
        self._closed = True
        self._woken.set()

    async def next(self) -> News | None:
        """The next news that was queued, None after `close`. All before it must be on its way."""
        self._idle = True
        try:
            while not self._waiting:
                if self._closed:
                    return None
                self._woken.clear()
                await self._woken.wait()
            return self._waiting.popleft()
        finally:
            self._idle = False


class Events:
    """
    Spreads the pool's news over the listeners of this process.

    One task follows the pool, from the first listener on, and never waits for any listener.
    """

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._pings: asyncio.Task[None] | None = None
        self._closed = False

    @contextmanager
    def listener(self, writer: BodyWriter | None = None) -> Iterator[Listener]:
        """A listener that gets what is announced while the block runs."""
        listener = Listener(writer)
        self._listeners.add(listener)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._spread(), name="events")
        if self._pings is None:
            self._pings = asyncio.create_task(self._ping(), name="pings")
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
        for task in (self._task, self._pings):
            if task is not None:
                task.cancel()
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
                news = News(document, missed or news.rotations, news.step)
            last = document
            await self._tell(news)

    async def _tell(self, news: News) -> None:
        async for listener in self._each():
            listener.put(news)

    async def _ping(self) -> None:
        """Write comments to all who can be written to at once; the others' streams do so."""
        while True:
            await asyncio.sleep(PING_INTERVAL)
            async for listener in self._each():
                listener.ping()

    async def _each(self) -> AsyncGenerator[Listener, None]:
        """All who listen now. Who comes meanwhile reads the document by itself."""
        for number, listener in enumerate(tuple(self._listeners), start=1):
            yield listener
            if number % _AT_ONCE == 0:
                # What was written goes out now, and calls get their turn in between.
                await asyncio.sleep(0)

    async def stream(
        self, after: int | None, writer: BodyWriter | None = None
    ) -> AsyncGenerator[str, None]:
        """
        The text of one stream, but for what ``writer`` has written.

        Args:
            after: the newest revision that the listener knows, None if it knows none.
            writer: writes to the same client.
        """
        with self.listener(writer) as listener:
            yield _RETRY
            for rotation in await self._missed(after):
                listener.told, text = listener.told.rotation(rotation)
                if text:
                    yield text
            # Read now, not before: the history may have told newer things meanwhile.
            if document := await self._newest(after):
                if after is not None and document.revision < after <= document.revision + AHEAD:
                    # Another process has told it of what this one has not heard of yet.
                    listener.told = Told(document.lineage, after)
                listener.told, text = listener.told.state(document, self._pool.step)
                if text:
                    yield text
            while True:
                try:
                    # A timer for each of thousands costs more than all that they are told.
                    async with asyncio.timeout(None if writer else PING_INTERVAL):
                        news = await listener.next()
                except TimeoutError:
                    yield _PING
                    continue
                if news is None:
                    return
                listener.told, text, _ = news.after(listener.told)
                if text:
                    yield text

    def _document(self) -> Document | None:
        try:
            return self._pool.document
        except NoAnswer:
            return None

    async def _newest(self, known: int | None) -> Document | None:
        """The document; read again if it may be old, or the listener knows of a newer one."""
        document = self._document()
        if document is None:
            return None
        ahead = known is not None and document.revision < known <= document.revision + AHEAD
        with contextlib.suppress(StoreError, NoAnswer):
            return await self._pool.fresh(known if ahead and known is not None else 0)
        return document

    async def _missed(self, after: int | None, until: float = math.inf) -> tuple[Rotation, ...]:
        """The rotations of revisions above ``after`` and up to ``until``, oldest first."""
        if after is None:
            return ()
        try:
            newest = await self._pool.history(MOST_MISSED)
        except StoreError:
            return ()  # the state still comes, and says where the pool is
        return tuple(r for r in reversed(newest) if after < r.revision <= until)


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
        request: Request,
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
            events.stream(known, BodyWriter.of(request.scope)),
            media_type="text/event-stream",
            # The last one keeps nginx from collecting events.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return routes
