"""What workers do to a store that may fail under them at any moment; `checking` judges it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from livekit_pool.core.document import Document
from livekit_pool.exceptions import StoreError, StoreOutcomeUnknown
from livekit_pool.stores.base import Changed, Moved, Placement, Resync, Store, SwapOutcome

from .values import following, process_row, rotation_to

Record = dict[str, Any]
Recorder = Callable[[Record], None]

END = "end"
"""The reason of the document with which a test ends the work."""

MOVED = ("standup", "end")
"""Rooms whose placements are moved: only moves are told."""


async def attempts(store: Store, record: Recorder, settings: dict[str, Any]) -> None:
    """
    Do all that writes, again and again, until the document says that it is the end.

    Each swap has a reason of its own, by which the history tells whose it was. The room
    ``standup`` is moved by everybody, and ``planning`` placed once; a room of one's own passes.
    """
    me, number = settings["me"], 0
    while True:
        number += 1
        begin = time.monotonic()
        try:
            document = (await store.load()).document
            assert document is not None
        except StoreError:
            await asyncio.sleep(0.01)
            continue
        record({"read": document.revision, "begin": begin, "end": time.monotonic()})
        if document.reason == END:
            return
        await _swap(store, record, document, f"{me}/{number}")
        await _move(store, record, document.revision, me)
        await _count(store, record, number, me)
        await _place(store, record, document.revision, me)
        await _pass(store, record, me)
        await _beat(store, record, number, me)
        await _fold(store, record, number, f"{me}-folded")


async def _swap(store: Store, record: Recorder, document: Document, reason: str) -> None:
    proposal = following(document, reason)
    begin = time.monotonic()
    try:
        answer = await store.swap(document.revision, proposal, reason, rotation_to(proposal))
        outcome = "won" if answer.outcome is SwapOutcome.WON else "lost"
    except StoreOutcomeUnknown:
        outcome = "unknown"
    except StoreError:
        outcome = "refused"
    record(
        {
            "attempt": reason,
            "expected": document.revision,
            "outcome": outcome,
            "begin": begin,
            "end": time.monotonic(),
        }
    )


async def _move(store: Store, record: Recorder, revision: int, me: str) -> None:
    """Move the room, confirm what came of it, and renew it, as who has a session in it does."""
    begin = time.monotonic()
    try:
        moved = await store.move("standup", f"server-of-{me}", revision, me, force=True)
    except StoreError:
        return
    assert isinstance(moved, Placement)
    record(_seen(moved, begin, asked=revision))
    begin = time.monotonic()
    try:
        there = await store.confirm(moved, me, time.time() + 1)
        record({"lost": "standup"} if there is None else _seen(there, begin))
        begin = time.monotonic()
        elsewhere = await store.renew([moved], me)
        record(_seen(elsewhere[0] if elsewhere else moved, begin))
    except StoreError:
        return


async def _place(store: Store, record: Recorder, revision: int, me: str) -> None:
    begin = time.monotonic()
    try:
        answer = await store.place("planning", f"server-of-{me}", revision)
    except StoreError:
        return
    if isinstance(answer, Placement):
        record(_seen(answer, begin))


def _seen(placement: Placement, begin: float, asked: int = 1) -> Record:
    return {
        "room": placement.room,
        "server": placement.server,
        "revision": placement.revision,
        "asked": asked,
        "begin": begin,
        "end": time.monotonic(),
    }


async def _pass(store: Store, record: Recorder, me: str) -> None:
    """Look for a room that nobody else knows, place it, and let it lapse."""
    room = f"passing-{me}"
    try:
        there = await store.placement(room)
        record({"passing": "found", "revision": there.revision if there else None})
        document = (await store.load()).document
    except StoreError:
        return
    assert document is not None
    asked = document.revision
    try:
        placed = await store.place(room, "red", asked)
    except StoreError as error:
        record({"passing": _failed(error), "to": asked})
        return
    if not isinstance(placed, Placement):
        return  # somebody swapped meanwhile
    record({"passing": "placed", "revision": placed.revision, "to": asked})
    try:
        record({"passing": "lapsed" if await store.lapse(placed, 0) else "kept"})
    except StoreError as error:
        record({"passing": _failed(error), "to": None})


def _failed(error: StoreError) -> str:
    """Whether it was written may not be known; else it was not."""
    return "unknown" if isinstance(error, StoreOutcomeUnknown) else "refused"


async def _beat(store: Store, record: Recorder, number: int, me: str) -> None:
    certain = True
    try:
        await store.beat(replace(process_row(me), sessions={"red": number}))
    except StoreError:
        certain = False
    record({"beat": number, "process": me, "certain": certain})


async def _fold(store: Store, record: Recorder, number: int, writer: str) -> None:
    """Count ``number`` under a key of its own, and fold what is there."""
    certain = True
    try:
        await store.count({writer: {f"step/{number}": number}})
    except StoreError:
        certain = False
    record({"loose": number, "writer": writer, "certain": certain})
    with contextlib.suppress(StoreError):
        sums = (await store.ledger()).get(writer, {})
        loose = [key for key in sums if "/" in key]
        at, total = sums.get("at", 0), sums.get("sum", 0) + sum(sums[key] for key in loose)
        done = await store.fold(writer, "at", at, {"at": at + 1, "sum": total}, loose)
        record({"folded": done, "at": at})


async def _count(store: Store, record: Recorder, total: int, me: str) -> None:
    certain = True
    try:
        await store.count({me: {"steps": total}})
    except StoreError:
        certain = False
    record({"counted": total, "writer": me, "certain": certain})


async def lives(store: Store, record: Recorder, settings: dict[str, Any]) -> None:
    """Hold a room that settles in a minute of the store's time, and beat, until it is the end."""
    me = settings["me"]
    loaded = await store.load()
    assert loaded.document is not None
    placement = await store.place(f"room-of-{me}", "red", loaded.document.revision)
    assert isinstance(placement, Placement)
    assert await store.confirm(placement, me, loaded.now + 60) == placement
    while True:
        await store.beat(process_row(me))
        now = await store.load()
        rows = await store.rows()
        record({"now": now.now, "own": time.time(), "living": sorted(row.process for row in rows)})
        if now.document is not None and now.document.reason == END:
            return
        await asyncio.sleep(0.1)


async def watches_on(store: Store, record: Recorder, settings: dict[str, Any]) -> None:
    """
    Follow the document and the rooms that are moved by notices alone, whatever befalls the store.

    After a Resync it reads until it can. It is over when the room ``end`` has been moved, or, where
    moves are not told, when the document says so.
    """
    view: dict[str, list[Any]] = {}
    known = 0
    async for notice in store.watch():
        match notice:
            case Resync():
                known, placements = await _read(store)
                view = {p.room: [p.server, p.revision] for p in placements if p.room in MOVED}
                record({"resync": known})
            case Changed(revision):
                known = revision
                record({"changed": revision})
            case Moved(placement) if placement.room in MOVED:
                record({"moved": placement.room, "revision": placement.revision})
                view[placement.room] = [placement.server, placement.revision]
        if "end" in view or (not store.keeps_placements and await _is_over(store, known)):
            break
    record({"view": view})


async def _read(store: Store) -> tuple[int, Sequence[Placement]]:
    while True:
        with contextlib.suppress(StoreError):
            document = (await store.load()).document
            assert document is not None
            return document.revision, await store.placements()
        await asyncio.sleep(0.01)


async def _is_over(store: Store, known: int) -> bool:
    """Whether ``known``, of which this process was told, is the last revision."""
    with contextlib.suppress(StoreError):
        document = (await store.load()).document
        return document is not None and document.reason == END and document.revision <= known
    return False  # what brings it back is told as well
