"""Listening to the document: whatever the stream says, and however it ends, no change is missed."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.cloud.firestore_v1 import types

from livekit_pool.core.document import Document
from livekit_pool.exceptions import StoreUnavailable
from livekit_pool.stores import firestore_watch
from livekit_pool.stores.base import Changed, Moved, Resync
from livekit_pool.stores.firestore import FirestoreStore
from livekit_pool.stores.firestore_values import document_fields
from livekit_pool.stores.firestore_watch import DocumentWatch
from livekit_pool.stores.notices import Notices
from tests.real.until import until

from .emulator import Emulator
from .original import Console
from .outages import told
from .tcp_proxy import TcpProxy
from .values import first_document, following

State = types.TargetChange.TargetChangeType
Notice = Changed | Moved | Resync


def state(kind: Any) -> types.ListenResponse:
    return types.ListenResponse(target_change=types.TargetChange(target_change_type=kind))


def changed(revision: int, moment: int, lineage: str = "lineage-1") -> types.ListenResponse:
    fields, _ = document_fields(first_document(revision), "operation")
    fields["lineage"] = types.Value(string_value=lineage)
    document = types.Document(name="d", fields=fields, update_time={"seconds": moment})
    return types.ListenResponse(document_change=types.DocumentChange(document=document))


DELETED = types.ListenResponse(document_delete=types.DocumentDelete(document="d"))
REMOVED = types.ListenResponse(document_remove=types.DocumentRemove(document="d"))
ADD, CURRENT = state(State.ADD), state(State.CURRENT)
RESET, UNCHANGED = state(State.RESET), state(State.NO_CHANGE)
ENDED = state(State.REMOVE)


def counted(count: int) -> types.ListenResponse:
    return types.ListenResponse(filter=types.ExistenceFilter(count=count))


class Streams:
    """
    What the test says.

    Attributes:
        opened: how many streams there were.
    """

    def __init__(self) -> None:
        self.opened = 0
        self._said: asyncio.Queue[types.ListenResponse | None] = asyncio.Queue()

    def say(self, *responses: types.ListenResponse | None) -> None:
        """Say it on the stream that is open, or on the next one; None ends it."""
        for response in responses:
            self._said.put_nowait(response)

    async def listen(self, document: str) -> AsyncGenerator[Any, None]:
        self.opened += 1
        while (response := await self._said.get()) is not None:
            yield types.ListenResponse.pb(response)
        raise StoreUnavailable("the stream ended")


class Heard:
    """All notices of a watch that goes by ``streams``."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.notices: list[Notice] = []

    async def is_told(self, *expected: Notice) -> None:
        """Wait for what is told next, and that it is nothing else."""
        await until(
            lambda: len(self.notices) >= len(expected), seconds=5, what=f"{expected} is told"
        )
        await asyncio.sleep(0)
        assert self.notices == list(expected)
        self.notices.clear()

    async def is_told_nothing(self) -> None:
        """All that was said has been read, and nothing came of it."""
        self.streams.say(changed(1000, 1000), UNCHANGED)
        await self.is_told(Changed(1000))


@asynccontextmanager
async def watching(*first: types.ListenResponse) -> AsyncIterator[Heard]:
    streams, notices = Streams(), Notices()
    heard = Heard(streams)
    watch = DocumentWatch(streams, "d", (), notices)
    streams.say(ADD, *first, CURRENT, UNCHANGED)
    await watch.begun.wait()

    async def hear() -> None:
        async for notice in notices.watch():
            heard.notices.append(notice)

    hearing = asyncio.create_task(hear())
    await heard.is_told(Resync())
    try:
        yield heard
    finally:
        notices.close()
        await hearing
        await watch.stop()


class TestStream:
    async def test_a_higher_revision_is_a_change(self) -> None:
        async with watching(changed(1, 1)) as heard:
            heard.streams.say(changed(2, 2), UNCHANGED)
            await heard.is_told(Changed(2))

    async def test_nothing_is_told_before_the_state_is_whole(self) -> None:
        async with watching(changed(1, 1)) as heard:
            heard.streams.say(changed(2, 2), changed(3, 3), UNCHANGED)
            await heard.is_told(Changed(3))

    async def test_what_is_told_again_is_no_change(self) -> None:
        async with watching(changed(1, 1)) as heard:
            heard.streams.say(RESET, changed(1, 1), CURRENT, UNCHANGED, UNCHANGED, counted(1))
            await heard.is_told_nothing()

    async def test_while_it_begins_anew_nothing_is_missing(self) -> None:
        async with watching(changed(1, 1)) as heard:
            heard.streams.say(RESET, UNCHANGED, changed(2, 2), CURRENT)
            await heard.is_told(Changed(2))

    @pytest.mark.parametrize(
        "said",
        [
            [DELETED, UNCHANGED],
            [REMOVED, UNCHANGED],
            [RESET, CURRENT],  # gone by not being there
            [changed(1, 2), UNCHANGED],  # a foreign write
            [changed(2, 2, "lineage-2"), UNCHANGED],
        ],
        ids=["deleted", "removed", "absent", "written over", "another lineage"],
    )
    async def test_all_else_is_read_again(self, said: Sequence[types.ListenResponse]) -> None:
        async with watching(changed(1, 1)) as heard:
            heard.streams.say(*said)
            await heard.is_told(Resync())

    async def test_a_document_that_is_none_is_read_again(self) -> None:
        async with watching(changed(1, 1)) as heard:
            nonsense = changed(2, 2)
            nonsense.document_change.document.fields["schema"] = types.Value(integer_value=9)
            heard.streams.say(nonsense, UNCHANGED)
            await heard.is_told(Resync())

    async def test_the_first_document_is_read(self) -> None:
        async with watching(DELETED) as heard:
            heard.streams.say(changed(1, 1), UNCHANGED)
            await heard.is_told(Resync())

    @pytest.mark.parametrize("end", [None, ENDED, counted(0), counted(2)])
    async def test_an_end_is_a_gap_that_is_told_when_it_begins_and_ends(
        self, end: types.ListenResponse | None
    ) -> None:
        async with watching(changed(1, 1)) as heard:
            heard.streams.say(end)
            await heard.is_told(Resync())
            heard.streams.say(None, None)  # tries that fail tell nothing more
            await until(lambda: heard.streams.opened == 4, seconds=5, what="it tries again")
            assert heard.notices == []
            heard.streams.say(changed(1, 1), CURRENT)
            await heard.is_told(Resync())

    async def test_a_stream_that_is_silent_for_long_is_given_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(firestore_watch, "SILENCE", 0.05)
        async with watching(changed(1, 1)) as heard:
            await until(lambda: heard.streams.opened > 1, seconds=5, what="another stream")
            assert heard.notices == []
            heard.streams.say(changed(2, 2), CURRENT)
            await until(lambda: heard.notices, seconds=5, what="it is read again")
            assert heard.notices[0] == Resync()


@pytest.fixture
async def own_emulator() -> AsyncIterator[Emulator]:
    """One that may be killed."""
    emulator = Emulator.borrowed()
    await asyncio.to_thread(emulator.start)
    yield emulator
    emulator.bring_back()


def store_of(emulator: Emulator, project: str) -> FirestoreStore:
    return FirestoreStore(f"firestore://{project}/system/livekitPool", emulator=emulator.address)


@pytest.mark.needs("firestore")
class TestOutage:
    async def test_costs_next_to_no_work(self, own_emulator: Emulator) -> None:
        """Google's own watch takes a whole core meanwhile."""
        seconds = 6.0
        project = f"pool-{secrets.token_hex(8)}"
        async with store_of(own_emulator, project) as store:
            await store.create(first_document(), "a")
            watch = store.watch()
            assert await anext(watch) == Resync()
            await asyncio.to_thread(own_emulator.kill)
            await told(watch, lambda notice: notice == Resync())
            before = time.process_time()
            await asyncio.sleep(seconds)
            used = time.process_time() - before
            print(f"{used:.3f} s of work in {seconds} s")
            assert used < 0.1 * seconds

            await asyncio.to_thread(own_emulator.start)
            begin = time.monotonic()
            await told(watch, lambda notice: notice == Resync())
            print(f"seen {time.monotonic() - begin:.3f} s after it was back")
            assert (await store.load()).document is None
            async with store_of(own_emulator, project) as other:
                await other.create(first_document(7), "b")
            await told(watch, lambda notice: notice == Resync())
            assert (await store.load()).document == first_document(7)

    async def test_a_document_that_is_deleted_and_made_again_is_seen(
        self, own_emulator: Emulator
    ) -> None:
        project = f"pool-{secrets.token_hex(8)}"
        async with (
            store_of(own_emulator, project) as store,
            Console(own_emulator.address, project) as console,
        ):
            await store.create(first_document(5), "a")
            watch = store.watch()
            assert await anext(watch) == Resync()

            await console.delete()
            await told(watch, lambda notice: notice == Resync())
            assert (await store.load()).document is None
            again = await again_at(store, 3)
            await told(watch, lambda notice: notice == Resync())
            assert (await store.load()).document == again
            await store.swap(3, following(again), "c")
            await told(watch, lambda notice: notice in (Changed(4), Resync()))


@pytest.mark.needs("firestore")
async def test_closing_ends_calls_under_way_in_an_error_of_the_store() -> None:
    emulator = Emulator.shared()
    async with TcpProxy(emulator.port) as proxy:
        url = f"firestore://pool-{secrets.token_hex(8)}/system/livekitPool"
        store = FirestoreStore(url, emulator=f"127.0.0.1:{proxy.port}")
        async with store:
            proxy.black_hole()
            calls = [asyncio.create_task(call) for call in (store.load(), store.rows())]
            await asyncio.sleep(0.05)

        for call in calls:
            with pytest.raises(StoreUnavailable, match="not open any more"):
                await call


async def again_at(store: FirestoreStore, revision: int) -> Document:
    document = first_document(revision)
    await store.create(document, "again")
    return document
