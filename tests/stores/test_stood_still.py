"""
A process whose loop stands still while others rotate: what it remembers counts for nothing then.

``tests/real/test_machines.py`` stops whole machines; here the moment is exact, and it is seen that
the process would have acted on what it held, had nobody rotated.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast
from unittest.mock import AsyncMock

import pytest

from livekit_pool.core.document import Cause, Document, new_document, rotated
from livekit_pool.core.events import FaultSource
from livekit_pool.core.health import Settings
from livekit_pool.driver import Driver
from livekit_pool.driver.loop import STALL
from livekit_pool.metering import Metering
from livekit_pool.status import status
from livekit_pool.stores.base import ProcessRow, Store, SwapOutcome
from livekit_pool.stores.redis import RedisStore
from livekit_pool.upstream.probe import Prober
from tests.real.until import until
from tests.test_driver import SERVERS, FakeProber

from .redis_server import RedisServer

pytestmark = pytest.mark.needs("redis")

NAMES = [server.name for server in SERVERS]
INTERVAL = 2.0
"""Seconds for which the evidence is held, since a rotation has just been."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    try:
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def holding_evidence(redis: RedisServer) -> AsyncIterator[Driver]:
    """A process that will leave green, at revision 2, as soon as the interval is over."""
    settings = Settings(rotation_interval=INTERVAL)
    first = new_document(lineage="one", names=NAMES, actor="ann", now=time.time())
    async with (
        _holding(redis, first) as store,
        Driver(SERVERS, store, cast(Prober, FakeProber()), settings, host="here") as driver,
    ):
        await driver.rotate("one", actor="ann", to="green")
        driver.fault("green", Cause.QUOTA, FaultSource.JOIN, "quota exceeded")
        yield driver


@asynccontextmanager
async def _holding(redis: RedisServer, document: Document) -> AsyncIterator[Store]:
    """The store, which has that document: who finds none waits for others that may have one."""
    async with RedisStore(redis.url, names=NAMES) as store:
        await store.create(document, "made")
        yield store


async def there_and_back(redis: RedisServer) -> None:
    """What other processes do: leave green, and enter it again."""
    async with RedisStore(redis.url) as store:
        for to in ("red", "green"):
            document = (await store.load()).document
            assert document is not None
            changed, rotation = rotated(
                document,
                to=to,
                names=NAMES,
                cause=Cause.MANUAL,
                reason="by others",
                actor="bob",
                now=time.time(),
            )
            answer = await store.swap(document.revision, changed, to, rotation)
            assert answer.outcome is SwapOutcome.WON


def stand_still(redis: RedisServer) -> None:
    """Keep this thread's loop from everything, while others rotate."""
    others = threading.Thread(target=lambda: asyncio.run(there_and_back(redis)))
    others.start()
    time.sleep(STALL + 0.3)
    others.join()


async def test_the_first_answer_after_it_is_what_the_others_made(redis: RedisServer) -> None:
    async with holding_evidence(redis) as driver:
        stand_still(redis)

        # Nothing could be heard yet: whoever asks now must make it read.
        assert driver.document.revision == 2
        assert (await driver.fresh()).revision == 4


async def test_so_is_its_first_status(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding_evidence(redis) as driver:
        metering = Metering(driver, cast(Prober, FakeProber()), lambda _: {})
        # What else it asks the store for is there at once: nothing is heard meanwhile.
        monkeypatch.setattr(driver.store, "rows", AsyncMock(return_value=[]))
        monkeypatch.setattr(driver.store, "rooms", AsyncMock(return_value={}))
        stand_still(redis)

        shown = await status(driver, metering)
        assert (shown["revision"], shown["active"]) == (4, "green")


async def test_a_status_is_all_of_one_document(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with holding_evidence(redis) as driver:
        metering = Metering(driver, cast(Prober, FakeProber()), lambda _: {})
        rows, asked, rotated_meanwhile = driver.store.rows, asyncio.Event(), asyncio.Event()

        async def held(within: float | None = None) -> Sequence[ProcessRow]:
            if asyncio.current_task() is asking:
                asked.set()
                await rotated_meanwhile.wait()
            return await rows(within)

        monkeypatch.setattr(driver.store, "rows", held)
        asking = asyncio.create_task(status(driver, metering))
        await asked.wait()
        await driver.rotate("meanwhile", actor="ann", to="red")
        rotated_meanwhile.set()
        shown = await asking
        assert (shown["revision"], shown["active"]) == (3, "red")


async def test_what_it_held_rotates_nothing_after_the_others_did(redis: RedisServer) -> None:
    async with holding_evidence(redis) as driver:
        stand_still(redis)

        assert driver.document.revision == 2
        # A join that began before, and is told before anything was read.
        driver.fault("green", Cause.QUOTA, FaultSource.JOIN, "quota exceeded", revision=2)
        await asyncio.sleep(INTERVAL + 1)  # it waits for nothing: there is nothing to wait for
        history = await driver.store.history()
        assert [(each.to, each.cause) for each in history] == [
            ("green", Cause.MANUAL),
            ("red", Cause.MANUAL),
            ("green", Cause.MANUAL),
        ]
        assert driver.document.revision == 4


async def test_what_it_held_rotates_where_nobody_else_did(redis: RedisServer) -> None:
    """So it was evidence."""
    async with holding_evidence(redis) as driver:
        time.sleep(STALL + 0.3)  # noqa: ASYNC251  # so it stands still

        await until(lambda: driver.document.revision == 3, seconds=5, what="it leaves green")
        newest = (await driver.store.history())[0]
        assert (newest.to, newest.cause) == ("red", Cause.QUOTA)
