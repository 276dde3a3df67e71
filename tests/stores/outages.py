"""How the tests of outages bring them about, and judge what was seen in them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from livekit_pool.core.document import Document
from livekit_pool.exceptions import StoreOutcomeUnknown, StoreUnavailable
from livekit_pool.stores.base import Changed, Moved, Placement, Resync, Settling, Store, SwapOutcome
from tests.real.until import until

from .backends import ProcessWorker
from .checking import (
    check_attempts,
    check_beats,
    check_folds,
    check_ledger,
    check_moves,
    check_passing,
    check_watch,
)
from .outage_work import END, MOVED
from .services import ServiceBackend
from .tcp_proxy import TcpProxy
from .values import following, rotation_to
from .work import Record, as_record

BOUND = 10.0
"""Seconds within which every call ends, whatever is down."""
BACK = 15.0
"""Seconds within which a store works again when its service does."""


async def timed(call: Awaitable[Any]) -> Any:
    """What ``call`` answers; it must do so within the `BOUND`."""
    begin = time.monotonic()
    try:
        return await call
    finally:
        assert time.monotonic() - begin < BOUND


async def works_again(store: Store) -> None:
    async def loads() -> bool:
        try:
            await store.load()
        except StoreUnavailable:
            return False
        return True

    await until(loads, seconds=BACK, what="the store works again")


async def document_of(store: Store) -> Document:
    document = (await store.load()).document
    assert document is not None
    return document


async def told(
    watch: AsyncIterator[Changed | Moved | Resync],
    wanted: Callable[[Changed | Moved | Resync], bool],
) -> list[Changed | Moved | Resync]:
    """The notices up to one that is wanted."""
    notices: list[Changed | Moved | Resync] = []
    async with asyncio.timeout(BACK):
        while not notices or not wanted(notices[-1]):
            notices.append(await anext(watch))
    return notices


class View:
    """Revisions of the document and of the room ``standup``, for who goes by notices alone."""

    def __init__(self) -> None:
        self.document = 0
        self.standup = 0

    async def follow(self, store: Store) -> None:
        """Keep it up to date, without end."""
        async for notice in store.watch():
            match notice:
                case Resync():
                    with contextlib.suppress(StoreUnavailable):
                        self.document = (await document_of(store)).revision
                        placed = await store.placement("standup")
                        self.standup = placed.revision if placed else 0
                case Changed(revision):
                    self.document = revision
                case Moved(placement):
                    self.standup = placement.revision

    async def reaches(self, revision: int, *, placed: bool) -> None:
        """Wait until the document is seen at ``revision``, and the room too if it is placed."""
        wanted = revision, revision if placed else 0
        await until(
            lambda: (self.document, self.standup) == wanted,
            seconds=BACK,
            what=lambda: f"{wanted} is seen, not {self.document}, {self.standup}",
        )


@asynccontextmanager
async def following_by_notices(store: Store) -> AsyncIterator[View]:
    """What ``store`` tells, until the end of the block."""
    view = View()
    task = asyncio.create_task(view.follow(store))
    try:
        yield view
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def losing(service: ServiceBackend) -> AsyncIterator[tuple[Store, Store, TcpProxy]]:
    """A store behind a proxy, another one that is not, and the proxy."""
    async with (
        TcpProxy(service.port, service.writes) as proxy,
        service.open(proxy) as store,
        service.open() as other,
    ):
        yield store, other, proxy


async def lost_once(
    proxy: TcpProxy,
    write: Callable[[], Coroutine[Any, Any, Any]],
    applied: Callable[[], Awaitable[bool]],
) -> Any:
    """What ``write`` answers in the end, when its first answer is lost after it was applied."""
    proxy.mute_from_the_next_write()
    writing = asyncio.create_task(timed(write()))
    await until(applied, seconds=BOUND, what="the write is applied")
    assert not writing.done()
    await proxy.cut()
    proxy.heal()
    try:
        return await writing
    except StoreOutcomeUnknown:
        # A store may leave it to the caller to ask again, in the same words.
        return await timed(write())


async def ail(service: ServiceBackend, proxy: TcpProxy, ailment: str) -> None:
    match ailment:
        case "refused":
            await proxy.refuse()
        case "frozen":
            service.freeze()
        case "black hole":
            proxy.black_hole()
        case "mute":
            proxy.mute()
        case "deaf":
            proxy.deafen()


async def recover(service: ServiceBackend, proxy: TcpProxy, ailment: str) -> None:
    match ailment:
        case "refused":
            await proxy.accept()
        case "frozen":
            service.thaw()
        case _:
            proxy.heal()


class Working:
    """A worker at work, which is listened to all the time: a full pipe would hold it up."""

    def __init__(self, worker: ProcessWorker) -> None:
        self.process = worker.process
        self._seen: list[Record] = []
        self._listening = asyncio.create_task(self._listen())

    async def steps(self, count: int) -> None:
        """Wait until it has seen that many more things."""
        aim = len(self._seen) + count
        await until(lambda: len(self._seen) >= aim, seconds=BACK, what="a worker goes on")

    async def records(self) -> list[Record]:
        """Wait for the end; what it saw."""
        async with asyncio.timeout(BACK):
            await self._listening
            assert await self.process.wait() == 0
        return self._seen

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self._seen.append(json.loads(line))


async def begin(
    service: ServiceBackend, work: str, count: int, skews: tuple[float, ...] = ()
) -> list[Working]:
    """``count`` workers at work, each with its clock wrong by one of ``skews``."""
    wrong = skews or (0.0,) * count
    workers = [
        await service.worker(work, me=f"p{number}", flush=True, skew=wrong[number])
        for number in range(count)
    ]
    for worker in workers:
        await worker.ready()
    for worker in workers:
        await worker.go()
    return [Working(worker) for worker in workers]


async def until_won(store: Store, wins: int = 30) -> None:
    """Wait until that many more swaps were won by somebody."""
    aim = (await document_of(store)).revision + wins

    async def there() -> bool:
        return (await document_of(store)).revision >= aim

    await until(there, seconds=30, what=f"revision {aim}")


async def end(store: Store) -> list[Record]:
    """Tell the workers that it is the end; what this did, as they would record it."""
    while True:
        document = await document_of(store)
        proposal = following(document, END)
        answer = await store.swap(document.revision, proposal, END, rotation_to(proposal))
        if answer.outcome is SwapOutcome.WON:
            return [
                {
                    "attempt": END,
                    "expected": document.revision,
                    "outcome": "won",
                    "begin": 0.0,
                    "end": time.monotonic(),
                }
            ]


async def judge(store: Store, workers: list[Working]) -> None:
    """End the work, and see that all of it was as it should be."""
    own = await end(store)
    seen = [await worker.records() for worker in workers]
    end_ = time.monotonic()
    history = [(entry.revision, entry.reason) for entry in reversed(await store.history(100_000))]
    # Something did happen.
    assert len(history) > len(workers)
    assert check_attempts([*seen, own], 1, history) == []
    ledger = await store.ledger()
    assert check_ledger(seen, ledger) == []
    assert check_folds(seen, ledger) == []
    # Some may be dead by now, as a store sees it that was away for long.
    rows = {row.process: row.sessions for row in await store.rows(within=3600)}
    assert check_beats(seen, rows) == []
    if store.keeps_placements:
        assert check_passing(seen) == []
        left = await store.placements()
        # What is there at last may be a move whose answer was lost.
        last = [{**as_record(p), "asked": 1, "begin": end_, "end": end_} for p in left]
        assert check_moves([*seen, last], {p.room: (p.server, p.revision) for p in left}) == []


async def judge_watchers(store: Store, watchers: list[Working]) -> None:
    """After the end of the work: end theirs too, and see that none of them missed anything."""
    if store.keeps_placements:
        assert isinstance(await store.move("end", "end", 1, "end"), Placement)
    final = (await document_of(store)).revision
    placements: dict[str, list[object]] = {
        p.room: [p.server, p.revision] for p in await store.placements() if p.room in MOVED
    }
    for watcher in watchers:
        seen = await watcher.records()
        assert check_watch(seen, final, placements) == []
        # Something did happen: news came, and there were gaps.
        assert sum("changed" in record for record in seen) > 1
        assert sum("resync" in record for record in seen) > 1


async def check_holding(store: Store, processes: list[str]) -> None:
    """All rooms are held by living processes, unsettled, and none of them is idle."""
    assert await store.rooms() == {"red": len(processes)}
    assert await store.lapsing(30) == []
    now = (await store.load()).now
    for process in processes:
        answer = await store.move(f"room-of-{process}", "green", 2, "somebody")
        assert isinstance(answer, Settling)
        assert 0 < answer.until - now < 61
