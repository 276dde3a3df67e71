"""
What `livekit_pool.stores.base` promises when many use a store at once.

Each worker is a process of its own where the store can be shared, else a task. What they saw is
judged by `checking`, whose own tests are in ``test_checking.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal

import pytest

from livekit_pool.exceptions import StoreUnavailable
from livekit_pool.stores.base import Placement, Store

from .backends import Backend, SharedBackend, at_once
from .checking import check_moves, check_places, check_swaps, check_watch
from .values import first_document, following, rotation_to

TWO_AND_EIGHT = pytest.mark.parametrize("workers", [2, 8])


@TWO_AND_EIGHT
async def test_no_swap_is_lost(backend: Backend, workers: int) -> None:
    async with backend.open() as store:
        await store.create(first_document(), "create")

        seen = await at_once(backend, "swaps", workers, wins=backend.wins // workers)

        document = (await store.load()).document
        assert document is not None
        # The workers did meet, or nothing was tried here.
        assert any(record.get("won") is False for worker in seen for record in worker)
        last = 1 + backend.wins
        assert document.revision == last
        history = [(r.revision, r.reason) for r in reversed(await store.history(1000))]
        assert check_swaps(seen, 1, last, history) == []
        assert document.reason == history[-1][1]


@TWO_AND_EIGHT
async def test_a_room_gets_one_placement(placing_backend: Backend, workers: int) -> None:
    async with placing_backend.open() as store:
        await store.create(first_document(), "create")

        seen = await at_once(placing_backend, "places", workers, rooms=300, revision=1)

        assert check_places(seen, 300) == []
        assert len(await store.placements()) == 300


@TWO_AND_EIGHT
async def test_a_room_never_moves_back(placing_backend: Backend, workers: int) -> None:
    async with placing_backend.open() as store:
        seen = await at_once(
            placing_backend, "moves", workers, moves=400 // workers, rooms=3, highest=1000
        )

        final = {p.room: (p.server, p.revision) for p in await store.placements()}
        assert check_moves(seen, final) == []


@TWO_AND_EIGHT
async def test_what_is_folded_counts_once(backend: Backend, workers: int) -> None:
    async with backend.open() as store:
        steps = backend.wins // workers // 2

        seen = await at_once(backend, "folds", workers, steps=steps)

        folds = [record for worker in seen for record in worker]
        # Eight did meet, or nothing was tried here; two may miss each other where calls are slow.
        assert workers == 2 or not all(record["folded"] for record in folds)
        done = sorted(record["at"] for record in folds if record["folded"])
        sums = dict((await store.ledger())["all"])
        assert done == list(range(sums.pop("at")))
        assert sum(sums.values()) == workers * steps * (steps + 1) // 2


@TWO_AND_EIGHT
async def test_a_watch_misses_nothing(backend: Backend, workers: int) -> None:
    async with backend.open() as store:
        await store.create(first_document(), "create")
        wins = backend.wins // 16
        watching = [await backend.worker("watches", last=1 + 2 * wins) for _ in range(workers)]
        for watcher in watching:
            await watcher.ready()
            await watcher.go()

        await asyncio.gather(
            at_once(backend, "swaps", 2, wins=wins),
            at_once(backend, "moves", 2, moves=100, rooms=20, highest=1000),
        )
        assert isinstance(await store.move("end", "end", 1, "end"), Placement)

        views = [await watcher.records() for watcher in watching]
        placements: dict[str, list[object]] = {
            # Where each process has placements of its own, the watchers have none.
            p.room: [p.server, p.revision]
            for p in (await store.placements() if store.keeps_placements else ())
        }
        for seen in views:
            assert check_watch(seen, 1 + 2 * wins, placements) == []


async def test_a_killed_writer_leaves_nothing_half_done(shared_backend: SharedBackend) -> None:
    chance = random.Random(1)
    async with shared_backend.open() as store:
        await store.create(first_document(), "create")
        for death in range(8):
            writers = [
                await shared_backend.worker(
                    "everything", me=f"p{death}-{number}", steps=100_000, flush=True
                )
                for number in range(2)
            ]
            for writer in writers:
                await writer.ready()
                await writer.go()
            for writer in writers:
                for _ in range(chance.randrange(1, 4)):
                    await writer.next_record()
                await asyncio.sleep(chance.random() / 50)
                await writer.kill()

                await check_agreement(store)
                await swap_once(store, f"after {writer}")
        await check_agreement(store, limit=1_000_000)
    assert shared_backend.problems() == []


async def test_a_stopped_writer_holds_nobody_up_for_ever(shared_backend: SharedBackend) -> None:
    chance = random.Random(2)
    async with shared_backend.open() as store:
        await store.create(first_document(), "create")
        for number in range(5):
            writer = await shared_backend.worker(
                "everything", me=f"p{number}", steps=100_000, flush=True
            )
            await writer.ready()
            await writer.go()
            await writer.next_record()
            await asyncio.sleep(chance.random() / 50)
            writer.process.send_signal(signal.SIGSTOP)

            async with asyncio.timeout(5):
                # It may have the lock: then a write is refused, in bounded time.
                with contextlib.suppress(StoreUnavailable):
                    await swap_once(store, "while it is stopped")
                await check_agreement(store)
            await writer.kill()
            await swap_once(store, "after its death")
            await check_agreement(store)


async def check_agreement(store: Store, limit: int = 20) -> None:
    """The newest ``limit`` rotations are those of the document and of each revision before."""
    earlier = (await store.load()).document
    history = await store.history(limit)
    later = (await store.load()).document
    assert earlier is not None
    assert later is not None
    newest = history[0].revision if history else 1
    assert earlier.revision <= newest <= later.revision
    oldest = max(newest - limit, 1)
    assert [rotation.revision for rotation in history] == list(range(newest, oldest, -1))
    reasons = {rotation.revision: rotation.reason for rotation in history}
    for document in (earlier, later):
        expected = reasons.get(document.revision, document.reason)
        assert document.reason == expected


async def swap_once(store: Store, reason: str) -> None:
    """Try a swap; who else is at work may have won."""
    document = (await store.load()).document
    assert document is not None
    proposal = following(document, reason)
    await store.swap(document.revision, proposal, reason, rotation_to(proposal))
