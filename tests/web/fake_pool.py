"""A pool without servers, store or network, which does what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

from livekit_pool.config import Settings
from livekit_pool.core.actions import Announce, Step
from livekit_pool.core.document import Cause, Document, Rotation
from livekit_pool.driver.reports import Reported, Standing
from livekit_pool.exceptions import NoAnswer
from livekit_pool.pool import Access, Marked, Pool
from livekit_pool.stores.base import Placement
from livekit_pool.tokens import KeyPair, Kind, participant_token, pool_token

PAIR = KeyPair(key="APIpool", secret="pool-secret-pool-secret-pool-secret")
SETTINGS = Settings(key=PAIR.key, secret=PAIR.secret, pool_url="https://pool.example")

ADMIN = {"Authorization": f"Bearer {pool_token(PAIR, Kind.ADMIN, subject='olga')}"}
VIEWER = {"Authorization": f"Bearer {pool_token(PAIR, Kind.VIEWER)}"}
MAKER = {"Authorization": f"Bearer {pool_token(PAIR, Kind.TOKEN)}"}
PARTICIPANT = {
    "Authorization": f"Bearer {participant_token(PAIR, identity='alice', room='standup')}"
}


def document(revision: int, active: str, lineage: str = "one") -> Document:
    """A document in which only that matters."""
    return Document(
        lineage=lineage,
        revision=revision,
        active_server=active,
        active_since=revision,
        active_server_index=0,
        server_count=2,
        created_at=0.0,
        last_rotation=0.0,
        cause=Cause.CREATED,
        reason="",
        actor="pool",
    )


def rotation(revision: int, from_: str, to: str) -> Rotation:
    """A rotation by hand."""
    return Rotation(
        revision=revision,
        from_=from_,
        to=to,
        cause=Cause.MANUAL,
        reason="maintenance",
        actor="olga",
        at=1_800_000_000.25,
    )


class FakePool:
    """
    What the web application uses of a pool.

    Attributes:
        calls: what was asked of it: (name of the method, its arguments).
        answer: what `rotate` answers, or raises.
        marked: what `drain`, `undrain`, `pause` and `resume` answer, or raise.
        past: the history, newest first.
        placed: where rooms are, by name.
        reported: what `report` answers, or raises.
    """

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.ready = True
        self.step: Step | None = None
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.answer: Rotation | Exception | None = None
        self.marked: Marked | Exception = Marked(revision=8, changed=True, mark=None, rotation=None)
        self.past: list[Rotation] = []
        self.placed: dict[str, str] = {}
        self.error: Exception | None = None
        self.reported: Reported | Exception = Reported(
            status=Standing.VERIFYING, revision=7, active="green"
        )
        self._document: Document | None = document(7, "green")
        self._queues: list[asyncio.Queue[Announce | None]] = []

    @property
    def pool(self) -> Pool:
        """Itself, for who expects a pool."""
        return cast(Pool, self)

    @property
    def document(self) -> Document:
        if self._document is None:
            raise NoAnswer("there is no document yet")
        return self._document

    @property
    def revision(self) -> int:
        return 0 if self._document is None else self._document.revision

    def witness(self, server: str, event: str, **told: object) -> None:
        self.calls.append(("witness", {"server": server, "event": event, **told}))

    async def placement(self, room: str) -> Placement | None:
        self.calls.append(("placement", {"room": room}))
        if self.error is not None:
            raise self.error
        server = self.placed.get(room)
        return Placement(room=room, server=server, revision=self.revision) if server else None

    async def fresh(self, revision: int = 0) -> Document:
        self.calls.append(("fresh", {"revision": revision}))
        return self.document

    def announce(self, document: Document | None, rotation: Rotation | None = None) -> None:
        """Follow ``document`` from now on, and say so; None: have none, and say nothing."""
        self._document = document
        if rotation is not None:
            self.past.insert(0, rotation)
        if document is not None:
            for queue in self._queues:
                queue.put_nowait(Announce(document=document, rotation=rotation))

    def stop(self) -> None:
        """End `announcements`, as a closed pool does."""
        for queue in self._queues:
            queue.put_nowait(None)

    async def announcements(self) -> AsyncIterator[Announce]:
        queue: asyncio.Queue[Announce | None] = asyncio.Queue()
        self._queues.append(queue)
        yield Announce(document=self.document, rotation=None)
        while (announce := await queue.get()) is not None:
            yield announce

    async def status(self) -> dict[str, object]:
        if self.error is not None:
            raise self.error
        return {"revision": self.document.revision, "active": self.document.active_server}

    async def history(self, limit: int = 50, before: int | None = None) -> Sequence[Rotation]:
        self.calls.append(("history", {"limit": limit, "before": before}))
        if self.error is not None:
            raise self.error
        return [r for r in self.past if before is None or r.revision < before][:limit]

    async def rotate(self, reason: str, **asked: object) -> Rotation | None:
        self.calls.append(("rotate", {"reason": reason, **asked}))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def report(self, **told: Any) -> Reported:
        self.calls.append(("report", told))
        if isinstance(self.reported, Exception):
            raise self.reported
        return self.reported

    async def drain(self, server: str, reason: str, **asked: object) -> Marked:
        return self._mark("drain", server=server, reason=reason, **asked)

    async def undrain(self, server: str, **asked: object) -> Marked:
        return self._mark("undrain", server=server, **asked)

    async def pause(self, reason: str, **asked: object) -> Marked:
        return self._mark("pause", reason=reason, **asked)

    async def resume(self, **asked: object) -> Marked:
        return self._mark("resume", **asked)

    def _mark(self, call: str, **asked: object) -> Marked:
        self.calls.append((call, asked))
        if isinstance(self.marked, Exception):
            raise self.marked
        return self.marked

    async def token(self, *, url: str | None = None, **asked: Any) -> Access:
        self.calls.append(("token", {"url": url, **asked}))
        return Access(
            url=url or "wss://pool.example",
            token=participant_token(PAIR, identity=asked["identity"], room=asked["room"]),
            server=self.document.active_server,
            revision=self.document.revision,
        )
