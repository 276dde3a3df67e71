"""What workers do to a store that may fail under them at any moment; `checking` judges it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from livekit_pool.core.document import Document
from livekit_pool.exceptions import StoreError, StoreOutcomeUnknown
from livekit_pool.stores.base import Placement, Store, SwapOutcome

from .values import following, process_row, rotation_to

Record = dict[str, Any]
Recorder = Callable[[Record], None]

END = "end"
"""The reason of the document with which a test ends the work."""


async def attempts(store: Store, record: Recorder, settings: dict[str, Any]) -> None:
    """
    Swap, move and count again and again, until the document says that it is the end.

    Each swap has a reason of its own, by which the history tells whose it was.
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
    begin = time.monotonic()
    try:
        answer = await store.move("standup", f"server-of-{me}", revision, me, force=True)
    except StoreError:
        return
    assert isinstance(answer, Placement)
    record(
        {
            "room": answer.room,
            "server": answer.server,
            "revision": answer.revision,
            "asked": revision,
            "begin": begin,
            "end": time.monotonic(),
        }
    )


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
