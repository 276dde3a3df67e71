"""What the watcher of a Redis tells of what its looks find; what they find is made up here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from livekit_pool.exceptions import StoreError, StoreUnavailable
from livekit_pool.stores.base import Changed, Moved, Resync
from livekit_pool.stores.notices import Notices
from livekit_pool.stores.redis_watch import Seen, Watcher
from tests.real.until import until


class Looking:
    """Answers looks with what was put there last."""

    def __init__(self) -> None:
        self.finds: Seen | StoreError = found(1)
        self.asked: list[int] = []
        self.answering = asyncio.Event()
        self.answering.set()

    async def __call__(self, moves: int) -> Seen:
        self.asked.append(moves)
        await self.answering.wait()
        if isinstance(self.finds, StoreError):
            raise self.finds
        return self.finds


def found(revision: int) -> Seen:
    return Seen(
        revision=revision, document=("lineage", f"{revision}", f"operation {revision}", "digest")
    )


@pytest.fixture
def looking() -> Looking:
    return Looking()


@pytest.fixture
def notices() -> Notices:
    return Notices()


@pytest.fixture
async def watcher(looking: Looking, notices: Notices) -> AsyncIterator[Watcher]:
    watcher = Watcher(looking, notices)
    yield watcher
    await watcher.aclose()


async def next_of(watch: AsyncIterator[Changed | Moved | Resync]) -> Changed | Moved | Resync:
    async with asyncio.timeout(10):
        return await anext(watch)


async def test_it_has_begun_when_it_has_looked(
    watcher: Watcher, looking: Looking, notices: Notices
) -> None:
    looking.answering.clear()
    starting = asyncio.create_task(watcher.start(wait=True))
    watcher.gap()
    await until(lambda: looking.asked, seconds=10, what="the first look")
    assert not starting.done()
    looking.answering.set()
    await starting

    watch = notices.watch()
    assert await next_of(watch) == Resync()
    looking.finds = found(2)
    watcher.hint()
    # No second Resync: the gap was before.
    assert await next_of(watch) == Changed(2)


async def test_it_does_not_wait_where_nobody_answers(watcher: Watcher, looking: Looking) -> None:
    looking.answering.clear()

    async with asyncio.timeout(1):
        await watcher.start(wait=False)


@pytest.mark.parametrize("gap_before", [True, False])
async def test_a_look_that_failed_leaves_a_gap(
    watcher: Watcher, looking: Looking, notices: Notices, gap_before: bool
) -> None:
    await watcher.start(wait=False)
    watcher.hint()
    await until(lambda: looking.asked, seconds=10, what="the first look")
    watch = notices.watch()
    assert await next_of(watch) == Resync()

    looking.finds = StoreUnavailable("away")
    looks = len(looking.asked)
    if gap_before:
        watcher.gap()
    else:
        watcher.hint()
    # It tries again by itself, soon.
    await until(lambda: len(looking.asked) > looks + 2, seconds=10, what="three more looks")
    looking.finds = found(1)

    assert await next_of(watch) == Resync()
