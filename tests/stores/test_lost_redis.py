"""
A Redis that is emptied, or comes back as it was a rotation ago, under two processes with rooms.

They bring back what they know, as `livekit_pool.stores.base` has it: nobody is moved, and
nothing that somebody living knows of stays lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from livekit_pool.core.document import Cause, Rotation
from livekit_pool.core.health import Settings
from livekit_pool.driver import Driver
from livekit_pool.rooms import Room, Rooms
from livekit_pool.servers import Server
from livekit_pool.stores.base import Ledger, Placement
from livekit_pool.stores.redis import RedisStore
from livekit_pool.upstream.probe import Prober
from livekit_pool.upstream.room_list import ListedRoom
from tests.real.until import until
from tests.test_driver import SERVERS, FakeProber

from .redis_server import RedisServer

pytestmark = pytest.mark.needs("redis")

NAMES = [server.name for server in SERVERS]
FOLLOWED = 10.0
"""Seconds within which everybody follows; a look at Redis without a hint is each few seconds."""
MENDED = 12.0
"""Seconds within which all that was lost is there again."""


class RoomlessProber(FakeProber):
    """Its servers are well, and say that they have no room: only placements tell where one is."""

    async def list_rooms(self, server: Server, names: list[str]) -> Mapping[str, ListedRoom]:
        return {}


class Session:
    """A settled participant, who is where it is sent; ``moves`` is where that was."""

    settled = True

    def __init__(self, server: str) -> None:
        self.server = server
        self.moves: list[Placement] = []

    def move(self, placement: Placement) -> None:
        self.moves.append(placement)
        self.server = placement.server


class Process:
    """
    One process of the pool, with one room of its own.

    Attributes:
        room: its name.
        session: who is in it.
    """

    def __init__(self, driver: Driver, room: str) -> None:
        self.driver = driver
        self.room = room
        self._rooms = Rooms(driver)
        self.session = Session("")

    async def join(self) -> None:
        """Admit the session, as the gateway does it."""
        self._rooms.start()
        with self._rooms.joining(self.room) as room:
            placement = await self._rooms.resolve(self.room)
            assert await self._rooms.confirm(room, placement, 0.0)
            self.session = Session(placement.server)
            self._rooms.add(room, self.session, unsettled=False)

    async def count(self, steps: int) -> None:
        """Count so far, and keep a copy of what all have counted, as is done each minute."""
        await self.driver.store.count({self.driver.process: {"steps": steps}})
        await self.driver.ledger()

    @property
    def placed(self) -> Placement | None:
        """Where this process has its room."""
        rooms: list[Room] = list(self._rooms)
        return rooms[0].placement


class Pool:
    """Two processes that share a Redis."""

    def __init__(self, redis: RedisServer, one: Process, two: Process) -> None:
        self.redis = redis
        self.processes = (one, two)
        self.one, self.two = one.driver, two.driver

    async def rotate(self, to: str) -> None:
        """Rotate, and wait until both follow and their rooms have moved."""
        await self.one.rotate("because", actor="ann", to=to)

        def followed() -> bool:
            return all(
                each.driver.document.active_server == to and each.session.server == to
                for each in self.processes
            )

        await until(followed, seconds=FOLLOWED, what=f"all are on {to}")

    async def is_whole(self, wanted: State) -> None:
        """Wait until both follow one document, and the store has all that was there."""

        async def whole() -> bool:
            if not (self.one.store_ok and self.two.store_ok):
                return False
            found = (await self.one.store.load()).document
            return found == self.one.document == self.two.document and wanted.is_in(
                await State.of(self)
            )

        await until(whole, seconds=MENDED, what="all is there again")


class State:
    """What a store has beside the document."""

    def __init__(
        self,
        history: list[Rotation],
        placements: set[Placement],
        rooms: Mapping[str, int],
        ledger: Ledger,
    ) -> None:
        self.history = history
        self.placements = placements
        self.rooms = rooms
        self.ledger = ledger

    @classmethod
    async def of(cls, pool: Pool) -> State:
        store = pool.one.store
        return cls(
            list(await store.history()),
            set(await store.placements()),
            await store.rooms(),
            await store.ledger(),
        )

    def is_in(self, later: State) -> bool:
        """Whether nothing of it is lost in ``later``, whose history may be longer."""
        return (
            all(rotation in later.history for rotation in self.history)
            and self.placements == later.placements
            and self.rooms == later.rooms
            and self.ledger == later.ledger
        )


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", keeps=True)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
async def pool(redis: RedisServer) -> AsyncIterator[Pool]:
    """Both follow each other, and each has a room with somebody in it."""
    async with AsyncExitStack() as stack:
        one, two = [
            Process(await stack.enter_async_context(_driving(redis)), room)
            for room in ("standup", "retro")
        ]
        for process in (one, two):
            await process.join()
        pool = Pool(redis, one, two)
        await pool.rotate("green")
        yield pool


@asynccontextmanager
async def _driving(redis: RedisServer) -> AsyncIterator[Driver]:
    async with (
        RedisStore(redis.url, names=NAMES) as store,
        Driver(SERVERS, store, cast(Prober, RoomlessProber()), Settings(), host="here") as driver,
    ):
        yield driver


def flush(redis: RedisServer) -> None:
    redis.command("FLUSHALL")


def bring_back_older(redis: RedisServer) -> None:
    redis.kill()
    redis.put_back()
    redis.start()


@pytest.mark.parametrize("lose", [flush, bring_back_older])
async def test_what_was_lost_is_brought_back_and_nobody_moves(
    pool: Pool, lose: Callable[[RedisServer], None]
) -> None:
    for process in pool.processes:
        await process.count(3)
    pool.redis.keep_copy()
    await pool.rotate("red")
    for process in pool.processes:
        await process.count(5)
    for process in pool.processes:
        await process.driver.ledger()  # each knows what the other has counted, too
    before, held = await State.of(pool), pool.one.document
    assert [rotation.to for rotation in before.history] == ["red", "green"]
    assert before.rooms == {"red": 2}
    moves = [list(process.session.moves) for process in pool.processes]

    await asyncio.to_thread(lose, pool.redis)
    await pool.is_whole(before)

    found = pool.one.document
    assert found.revision > held.revision
    assert found.lineage == held.lineage
    assert (found.active_server, found.active_since) == ("red", held.active_since)
    after = await State.of(pool)
    notes = [rotation for rotation in after.history if rotation not in before.history]
    assert notes
    for note in notes:
        assert (note.cause, note.from_, note.to) == (Cause.RESTORED, "red", "red")
        assert note.revision > held.revision
    assert after.history == [*notes, *before.history]
    assert [process.session.moves for process in pool.processes] == moves
    assert {process.placed for process in pool.processes} == before.placements

    # What is brought back works: the next rotation is above all, and rooms follow it.
    await pool.rotate("green")
    assert pool.one.document.revision == found.revision + 1
