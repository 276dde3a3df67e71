"""
What many workers do to one store at once, each as a task or as a process of its own.

As a program (``python -m tests.stores.work URL NAME SETTINGS``) it opens the store, says
``ready``, waits for a line, does the work, and writes what it saw as lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from livekit_pool.core.document import Document
from livekit_pool.stores import store_from_url
from livekit_pool.stores.base import Changed, Moved, Placement, Resync, Stale, Store, SwapOutcome

from .outage_work import attempts, lives, watches_on
from .values import following, process_row, rotation_to

Record = dict[str, Any]
Work = Callable[[Store, Callable[[Record], None], dict[str, Any]], Awaitable[None]]


async def swaps(store: Store, record: Callable[[Record], None], settings: dict[str, Any]) -> None:
    """Win ``wins`` swaps against everybody else, each with a rotation and a text of its own."""
    for number in range(settings["wins"]):
        won = False
        while not won:
            begin = time.monotonic()
            document = await document_of(store)
            record({"read": document.revision, "begin": begin, "end": time.monotonic()})
            reason = f"{settings['me']}/{number}"
            proposal = following(document, reason)
            begin = time.monotonic()
            answer = await store.swap(
                document.revision, proposal, f"{reason}/{begin}", rotation_to(proposal)
            )
            won = answer.outcome is SwapOutcome.WON
            now = answer.document.revision if answer.document else None
            record(
                {
                    "expected": document.revision,
                    "won": won,
                    "now": now,
                    "reason": reason,
                    "begin": begin,
                    "end": time.monotonic(),
                }
            )


async def places(store: Store, record: Callable[[Record], None], settings: dict[str, Any]) -> None:
    """Place each room on a server of one's own and confirm what came of it."""
    me = settings["me"]
    for number in range(settings["rooms"]):
        room = f"room-{number}"
        answer = await store.place(room, f"server-of-{me}", settings["revision"])
        if isinstance(answer, Stale):
            record({"stale": answer.revision})
            continue
        confirmed = await store.confirm(answer, me, time.time() + 10)
        record({**as_record(answer), "confirmed": confirmed == answer})


async def moves(store: Store, record: Callable[[Record], None], settings: dict[str, Any]) -> None:
    """Move rooms to servers of one's own, at revisions drawn by chance."""
    me = settings["me"]
    chance = random.Random(me)
    for _ in range(settings["moves"]):
        room = f"room-{chance.randrange(settings['rooms'])}"
        revision = chance.randrange(2, settings["highest"])
        begin = time.monotonic()
        answer = await store.move(room, f"server-of-{me}", revision, me)
        assert isinstance(answer, Placement)
        times = {"begin": begin, "end": time.monotonic()}
        record({**as_record(answer), "asked": revision, **times})


async def watches(store: Store, record: Callable[[Record], None], settings: dict[str, Any]) -> None:
    """
    Follow the store by notices alone, until the room ``end`` has been moved.

    Where moves are not told, it is the revision ``last`` that ends it.
    """
    view: dict[str, list[Any]] = {}
    known = 0
    async for notice in store.watch():
        match notice:
            case Resync():
                document = await document_of(store)
                view = {p.room: [p.server, p.revision] for p in await store.placements()}
                known = document.revision
                record({"resync": known})
            case Changed(revision):
                known = revision
                record({"changed": revision})
            case Moved(placement):
                record({"moved": placement.room, "revision": placement.revision})
                view[placement.room] = [placement.server, placement.revision]
        if "end" in view if store.keeps_placements else known >= settings["last"]:
            break
    record({"view": view})


async def everything(
    store: Store, record: Callable[[Record], None], settings: dict[str, Any]
) -> None:
    """Write of every kind, without end: to be killed in the middle of it."""
    me = settings["me"]
    for number in range(settings["steps"]):
        room = f"room-{number % 7}"
        document = await document_of(store)
        proposal = following(document, f"{me}/{number}")
        await store.swap(document.revision, proposal, f"{me}/{number}", rotation_to(proposal))
        placed = await store.place(room, "red", document.revision)
        if isinstance(placed, Placement):
            await store.confirm(placed, me, time.time() + 1)
        moved = await store.move(room, f"server-{number}", document.revision + 1, me, force=True)
        assert isinstance(moved, Placement)
        await store.beat(replace(process_row(me), sessions={"red": number}))
        await store.renew([moved], me)
        await store.count({me: {room: number}})
        await store.release(room, me)
        if number % 10 == 0:
            record({"step": number})


async def folds(store: Store, record: Callable[[Record], None], settings: dict[str, Any]) -> None:
    """Count 1, 2, 3 ... under keys of one's own, and fold what everybody has counted so far."""
    me = settings["me"]
    for number in range(settings["steps"]):
        await store.count({"all": {f"{me}/{number}": number + 1}})
        sums = (await store.ledger())["all"]
        at = sums.get("at", 0)
        loose = [key for key in sums if "/" in key]
        total = sums.get("sum", 0) + sum(sums[key] for key in loose)
        # Long enough for others to fold what was read here: they would meet by chance only.
        await asyncio.sleep(0.01)
        done = await store.fold("all", "at", at, {"at": at + 1, "sum": total}, loose)
        record({"at": at, "folded": done})


async def document_of(store: Store) -> Document:
    document = (await store.load()).document
    assert document is not None
    return document


def as_record(placement: Placement) -> Record:
    return {
        "room": placement.room,
        "server": placement.server,
        "revision": placement.revision,
    }


WORK: dict[str, Work] = {
    work.__name__: work
    for work in (swaps, places, moves, watches, everything, folds, attempts, lives, watches_on)
}


async def main(url: str, name: str, settings: dict[str, Any]) -> None:
    def record(entry: Record) -> None:
        # Written at once: who is killed has said how far it was.
        sys.stdout.write(json.dumps(entry) + "\n")
        if settings.get("flush"):
            sys.stdout.flush()

    if skew := settings.get("skew"):
        # The clock of this process's machine is wrong by so many seconds.
        right = time.time
        time.time = lambda: right() + skew
    async with store_from_url(url) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        await WORK[name](store, record, settings)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
