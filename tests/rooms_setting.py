"""Two processes of a pool with a store in memory, as far as `Rooms` needs them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

import livekit_pool.rooms.live
from livekit_pool.core.actions import Announce, Step
from livekit_pool.core.document import Cause, Document, new_document, rotated
from livekit_pool.driver import Driver
from livekit_pool.exceptions import NoAnswer, StoreError
from livekit_pool.rooms import Room, Rooms
from livekit_pool.stores.base import Changed, Moved, Placement, ProcessRow
from livekit_pool.stores.memory import MemoryStore
from tests.turned_clock import run

NAMES = ("red", "green", "blue")


class FakeMachine:
    """What it has of a machine."""

    document: Document | None = None


class FakeDriver:
    """
    What `Rooms` uses of a driver.

    Attributes:
        down: servers that are confirmed down, as far as this process knows.
        step: where everybody is sent while the store is away, if it is.
        having: servers that say they have a room -> those rooms.
        answers_in: seconds that the servers take to say so.
        asked: how often they were asked.
        stalled: this process was silent: what it remembers may be old.
        takes_rooms: False while the active server is drained.
    """

    def __init__(self, store: MemoryStore, process: str) -> None:
        self.store = store
        self.process = process
        self.down: set[str] = set()
        self.servers = dict.fromkeys(NAMES)
        self.step: Step | None = None
        self.store_ok = True
        self.made_last: list[str] = []  # in the order in which they made a room, newest first
        self.having: dict[str, set[str]] = {}
        self.answers_in = 0.0
        self.asked = 0
        self.stalled = False
        self.takes_rooms = True
        self.machine = FakeMachine()
        self.sessions: Callable[[], Mapping[str, int]] = dict
        self.rooms: Callable[[], Mapping[str, int]] = dict
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[Announce], None]] = []
        self._health: list[Callable[[str], None]] = []
        self._moves: list[Callable[[Placement | None], None]] = []
        self._store_listeners: list[Callable[[bool], None]] = []

    def listen(self, listener: Callable[[Announce], None]) -> None:
        self._listeners.append(listener)

    def listen_health(self, listener: Callable[[str], None]) -> None:
        self._health.append(listener)

    def listen_moves(self, listener: Callable[[Placement | None], None]) -> None:
        self._moves.append(listener)

    def listen_store(self, listener: Callable[[bool], None]) -> None:
        self._store_listeners.append(listener)

    @property
    def document(self) -> Document:
        if self.machine.document is None:
            raise NoAnswer("the pool has no document yet")
        return self.machine.document

    @property
    def active_server(self) -> str:
        return self.document.active_server if self.step is None else self.step.server

    async def where(
        self, rooms: Sequence[str], *, occupied: bool = False
    ) -> Mapping[str, Sequence[str]]:
        self.asked += 1
        await asyncio.sleep(self.answers_in)
        order = self.made_last or NAMES
        found = {room: [n for n in order if room in self.having.get(n, ())] for room in rooms}
        return {room: servers for room, servers in found.items() if servers}

    def store_failed(self, error: StoreError) -> None:
        self.store_changes(False)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        return task

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.spawn(work())

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def joinable(self, server: str) -> bool:
        return server in NAMES and server not in self.down

    async def fresh(self, revision: int = 0) -> Document:
        if self.machine.document is None or (self.stalled and self.store_ok):
            try:
                return await self.reload()
            except StoreError:
                if self.machine.document is None:
                    raise
        return self.document

    async def reload(self) -> Document:
        try:
            document = (await self.store.load()).document
        except StoreError as error:
            self.store_failed(error)
            raise
        assert document is not None
        held = self.machine.document
        if held is None or document.revision > held.revision:
            self.machine.document = document
            if self.step is not None and self.step.active_since != document.active_since:
                self.step = None
            for listener in self._listeners:
                listener(Announce(document=document, rotation=None, step=self.step))
        return document

    # -- what the tests do with it --

    def store_changes(self, ok: bool) -> None:
        """The store is away for this process, or back."""
        if ok is not self.store_ok:
            self.store_ok = ok
            for listener in self._store_listeners:
                listener(ok)

    def steps(self, to: str | None) -> None:
        """This process sends everybody to another server, provisionally; None: not any more."""
        since = self.document.active_since
        self.step = None
        if to is not None:
            self.step = Step(server=to, since=self.now(), lineage="one", active_since=since)
        for listener in self._listeners:
            listener(Announce(document=self.document, rotation=None, step=self.step))

    def hear(self) -> None:
        """Follow the store from now on; without this the process hears late of everything."""
        self.spawn(self._watch())

    async def _watch(self) -> None:
        async for notice in self.store.watch():
            match notice:
                case Changed():
                    with contextlib.suppress(StoreError):
                        await self.reload()
                case Moved(placement=placement):
                    self.tell_moved(placement)

    def tell_moved(self, placement: Placement | None) -> None:
        for listener in self._moves:
            listener(placement)

    def goes_down(self, server: str) -> None:
        self.down.add(server)
        for listener in self._health:
            listener(server)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert [error for error in ended if isinstance(error, Exception)] == []


class FakeSession:
    """A session; ``moves`` is where it was told to go."""

    def __init__(self, process: Process, room: Room, server: str) -> None:
        self.server = server
        self.settled = False
        self.moves: list[Placement] = []
        self._rooms = process.rooms
        self._room = room
        self._there = True

    def move(self, placement: Placement) -> None:
        self.moves.append(placement)
        self.leave()

    def becomes_settled(self) -> None:
        self.settled = True
        if self._there:
            self._rooms.settled(self._room, self)

    def leave(self) -> None:
        assert self._there, "told twice"
        self._there = False
        self._rooms.remove(self._room, self, unsettled=not self.settled)


class Process:
    """One process of the pool."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self.name = name
        self.driver = FakeDriver(store, name)
        self.rooms = Rooms(cast(Driver, self.driver))

    async def start(self) -> None:
        await self.driver.reload()
        await self.beat()
        self.driver.hear()
        self.rooms.start()
        self.driver.spawn(self._beats())

    async def join(self, name: str) -> FakeSession:
        """A session in room ``name``, admitted as the gateway does it."""
        with self.rooms.joining(name) as room:
            while True:
                placement = await self.rooms.resolve(name)
                if await self.rooms.confirm(room, placement, 10.0):
                    break
            session = FakeSession(self, room, placement.server)
            self.rooms.add(room, session, unsettled=True)
            return session

    async def join_settled(self, name: str) -> FakeSession:
        """The same, and it is settled."""
        session = await self.join(name)
        session.becomes_settled()
        await asyncio.sleep(0.1)
        return session

    async def beat(self) -> None:
        row = ProcessRow(process=self.name, host="here", started=0, names=NAMES, fingerprint="")
        await self.driver.store.beat(row)

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(2)
            with contextlib.suppress(StoreError):
                await self.beat()


class Setting:
    """A store, and processes a and b, which follow it."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.a = Process(store, "a")
        self.b = Process(store, "b")

    async def rotate(self, to: str, *, window: float = 0.0, now: float = 0.0) -> int:
        """Make another server the active one; the new revision."""
        document = (await self.store.load()).document
        assert document is not None
        changed, rotation = rotated(
            document,
            to=to,
            names=NAMES,
            cause=Cause.MANUAL,
            reason="",
            actor="",
            now=now,
            window=window,
        )
        await self.store.swap(document.revision, changed, f"to-{changed.revision}", rotation)
        return changed.revision

    async def server(self, room: str = "standup") -> str | None:
        """Where the store has ``room``."""
        placement = await self.store.placement(room)
        return placement.server if placement else None


@contextlib.asynccontextmanager
async def setting(
    monkeypatch: pytest.MonkeyPatch, store: type[MemoryStore] = MemoryStore
) -> AsyncIterator[Setting]:
    """Two processes of a pool whose active server is red, at revision 1."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(livekit_pool.rooms.live, "time", SimpleNamespace(monotonic=loop.time))
    async with store(clock=loop.time) as opened:
        document = new_document(lineage="one", names=NAMES, actor="", now=0.0)
        await opened.create(document, "create")
        pool = Setting(opened)
        await pool.a.start()
        await pool.b.start()
        await asyncio.sleep(0.1)
        try:
            yield pool
        finally:
            await pool.a.driver.stop()
            await pool.b.driver.stop()


def scene(
    store: type[MemoryStore] = MemoryStore,
) -> Callable[[Callable[[Setting], Awaitable[None]]], Callable[[pytest.MonkeyPatch], None]]:
    """Play a test in a `setting`, on a clock of its own."""

    def plays(
        test: Callable[[Setting], Awaitable[None]],
    ) -> Callable[[pytest.MonkeyPatch], None]:
        def played(monkeypatch: pytest.MonkeyPatch) -> None:
            async def play() -> None:
                async with setting(monkeypatch, store) as pool:
                    await test(pool)

            run(play())

        played.__name__, played.__doc__ = getattr(test, "__name__", ""), test.__doc__
        return played

    return plays
