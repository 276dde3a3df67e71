"""Rows that a store does not show for a moment: it was away, or lost them, and nobody died."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest

from livekit_pool.core.document import Cause
from livekit_pool.core.health import Settings
from livekit_pool.driver import Driver
from livekit_pool.servers import Server
from livekit_pool.stores import store_from_url
from livekit_pool.stores.base import LIVING, ProcessRow
from livekit_pool.upstream.probe import Prober
from tests.real.until import until
from tests.test_driver import FakeProber

from .redis_server import RedisServer

pytestmark = pytest.mark.needs("redis")


class Two:
    """
    Two processes of a pool whose list is being changed: they share no server.

    Attributes:
        old: has the active server. new: does not, and must not leave it while ``old`` lives.
    """

    def __init__(self, old: Driver, new: Driver) -> None:
        self.old = old
        self.new = new
        self.speaks = asyncio.Event()
        beat = old.store.beat

        async def in_time(row: ProcessRow) -> bool:
            await self.speaks.wait()
            return await beat(row)

        self.speaks.set()
        old.store.beat = in_time  # type: ignore[method-assign]

    async def neither_left(self) -> None:
        """Let ``old`` be the last to say that it lives; nobody has left the active server then."""
        rows = self.new.rows
        await until(
            lambda: self.new.store_ok and self.new.rows is not rows,
            seconds=20,
            what="the rows were read again",
        )
        await asyncio.sleep(1.0)  # nothing tells that it does not act on them
        self.speaks.set()
        await until(self.both_there, seconds=20, what="both say that they live")
        history = await self.new.store.history()
        assert {each.cause for each in history} <= {Cause.RESTORED}
        assert self.new.active_server == "red"

    async def both_there(self) -> bool:
        return len(await self.new.store.rows()) == 2


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", keeps=True)
    yield server
    server.kill()


@pytest.fixture
async def two(redis: RedisServer) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:

        async def pool(*names: str) -> Driver:
            servers = [
                Server(name=name, url=f"ws://{name}.test", key=name, secret="s" * 32)
                for name in names
            ]
            store = await stack.enter_async_context(store_from_url(redis.url, names=names))
            driver = Driver(servers, store, cast(Prober, FakeProber()), Settings(), host="here")
            return await stack.enter_async_context(driver)

        two = Two(await pool("red", "green"), await pool("blue", "yellow"))
        await until(lambda: len(two.new.rows) == 2, seconds=10, what="it knows the other")
        yield two
        two.speaks.set()


async def test_a_process_is_not_alone_because_the_store_lost_the_rows(
    redis: RedisServer, two: Two
) -> None:
    two.speaks.clear()
    redis.command("FLUSHALL")

    await two.neither_left()


async def test_a_process_is_not_alone_because_it_is_the_first_after_an_outage(
    redis: RedisServer, two: Two
) -> None:
    last = time.monotonic()
    two.speaks.clear()
    redis.kill()
    await until(
        lambda: not two.new.store_ok and time.monotonic() > last + LIVING + 1,
        seconds=30,
        what="all rows are too old",
    )
    await asyncio.to_thread(redis.start)

    await two.neither_left()
