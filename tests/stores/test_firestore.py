"""The Firestore store: the original's document, and what others write into it."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from google.api_core.exceptions import Aborted
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient

from livekit_pool.core.document import Cause, Document, Mark, adopted, new_document, rotated
from livekit_pool.exceptions import ConfigurationError, StoreCorrupt, StoreUnavailable
from livekit_pool.stores.base import SwapOutcome
from livekit_pool.stores.firestore import FirestoreStore
from tests.core.nonsense import GONE, NONSENSE, is_legal, is_refused, is_told
from tests.real.until import until

from .emulator import Emulator
from .original import Console, OriginalClient
from .values import (
    first_document,
    following,
    process_row,
    repairs,
    rich_document,
    rotation_to,
)

pytestmark = pytest.mark.needs("firestore")

NAMES = ("red", "green", "blue")
# No whole number of microseconds, as no moment of a pool is.
ODD = 1_800_000_000.1234567
ORIGINALS = {
    "activeServerIndex": int,
    "serverCount": int,
    "lastRotation": datetime,
    "createdAt": datetime,
}


@pytest.fixture
def project() -> str:
    """A project in which nothing is."""
    return f"pool-{secrets.token_hex(8)}"


@pytest.fixture
async def store(project: str) -> AsyncIterator[FirestoreStore]:
    async with opened(project) as store:
        yield store


@pytest.fixture
async def console(project: str) -> AsyncIterator[Console]:
    async with Console(Emulator.shared().address, project) as console:
        yield console


def opened(project: str, **settings: Any) -> FirestoreStore:
    settings = {"names": NAMES, "emulator": Emulator.shared().address} | settings
    return FirestoreStore(f"firestore://{project}/system/livekitPool", **settings)


def first() -> Document:
    return new_document(lineage="lineage-1", names=NAMES, actor="p1", now=ODD)


async def document_of(store: FirestoreStore) -> Document:
    document = (await store.load()).document
    assert document is not None
    return document


class TestTypes:
    """The original's clients find what they always found."""

    async def test_of_a_new_document(self, store: FirestoreStore, console: Console) -> None:
        await store.create(first(), "a")

        fields = await console.fields()

        for name, kind in ORIGINALS.items():
            assert isinstance(fields[name], kind), name
        assert fields["activeServerIndex"] == 0
        assert fields["serverCount"] == 3
        assert fields["lastRotation"].timestamp() == pytest.approx(ODD, abs=1e-6)
        # They test whether there was an error by whether there is one.
        assert "lastError" not in fields
        assert "lastErrorTime" not in fields

    async def test_after_a_failure(self, store: FirestoreStore, console: Console) -> None:
        document = first()
        await store.create(document, "a")
        after, rotation = rotated(
            document,
            to="blue",
            names=NAMES,
            cause=Cause.DOWN,
            reason="refused",
            actor="p1",
            now=ODD + 60,
        )
        await store.swap(1, after, "b", rotation)

        fields = await console.fields()

        for name, kind in ORIGINALS.items():
            assert isinstance(fields[name], kind), name
        assert fields["activeServerIndex"] == 2
        assert fields["lastError"] == "refused"
        assert isinstance(fields["lastErrorTime"], datetime)
        assert fields["lastErrorTime"] > fields["createdAt"]

    @pytest.mark.parametrize("moment", [ODD, 0.1, 1e9 / 3, 1_795_710_921.845504])
    async def test_keep_the_pools_moments_exact(
        self, store: FirestoreStore, project: str, moment: float
    ) -> None:
        """A rotation is recognised by its moment, which a timestamp would round."""
        document = replace(rich_document(), last_rotation=moment, created_at=moment + 1)
        document = replace(
            document, last_error_time=moment, paused=Mark(by="a", since=moment, reason="b")
        )
        await store.create(document, "a")

        async with opened(project) as other:
            assert await document_of(other) == document

    @pytest.mark.parametrize("name", ["__red__", "a.b", "`x`", "%41", "..", "é☎"])
    async def test_take_any_servers_name(
        self, store: FirestoreStore, project: str, name: str
    ) -> None:
        document = rich_document()
        document = replace(document, servers={name: document.servers["red"]})
        await store.create(document, "a")

        async with opened(project) as other:
            assert await document_of(other) == document

    @pytest.mark.parametrize("writer", ["", ".", "..", "__x__", "a/b", "%", "%00", "\0", "é"])
    async def test_take_any_writers_name(self, store: FirestoreStore, writer: str) -> None:
        await store.count({writer: {writer: 3}})
        await store.beat(process_row(f"p{writer}"))

        assert await store.ledger() == {writer: {writer: 3}}
        assert [row.process for row in await store.rows()] == [f"p{writer}"]

    async def test_leave_what_others_have_added(
        self, store: FirestoreStore, console: Console
    ) -> None:
        await store.create(first(), "a")
        await console.edit(repairAction="index reset")

        answer = await store.swap(1, following(first()), "b")
        assert answer.outcome is SwapOutcome.LOST  # it was written since it was read
        answer = await store.swap(1, following(first()), "c")

        assert answer.outcome is SwapOutcome.WON
        assert (await console.fields())["repairAction"] == "index reset"


class TestOriginalDocument:
    """One that the original system made is taken over as it is."""

    async def test_is_adopted(self, store: FirestoreStore, console: Console, project: str) -> None:
        async with OriginalClient(Emulator.shared().address, project, count=3) as client:
            await client.make()
            await client.rotate(1, "quota exceeded")
            before = await console.fields()

            document = await document_of(store)
            assert (document.revision, document.active_server) == (0, "green")
            assert document.last_error == "quota exceeded"
            assert document.last_rotation == pytest.approx(before["lastRotation"].timestamp())
            assert document.foreign_index is None

            after, rotation = rotated(
                document,
                to="blue",
                names=NAMES,
                cause=Cause.MANUAL,
                reason="because",
                actor="alice",
                now=ODD,
            )
            answer = await store.swap(0, after, "a", rotation)

            assert answer.outcome is SwapOutcome.WON
            await until(client.is_at(2), seconds=5, what="the client follows")
            fields = await console.fields()
            assert {name: type(fields[name]) for name in before} == {
                name: type(value) for name, value in before.items()
            }
            assert fields["createdAt"] == before["createdAt"]
            assert await document_of(store) == after

    @pytest.mark.parametrize("writes", ["adopts it", "rotates", "restores it"])
    async def test_in_which_a_client_rotates_just_before_a_swap_made_without_it(
        self, store: FirestoreStore, console: Console, writes: str
    ) -> None:
        await console.write({"activeServerIndex": 0, "serverCount": 3})
        found = await document_of(store)
        proposal, rotation = adopted(found, NAMES), None
        if writes == "rotates":
            proposal, rotation = rotated(
                found, to="blue", names=NAMES, cause=Cause.DOWN, reason="x", actor="a", now=ODD
            )
        await console.edit(activeServerIndex=1)
        await store.load()

        for outcome in (SwapOutcome.LOST, SwapOutcome.WON):
            if writes == "restores it":
                answer = await store.restore(found, proposal, secrets.token_hex(4))
            else:
                answer = await store.swap(0, proposal, secrets.token_hex(4), rotation)
            assert answer.outcome is outcome
            assert answer.document is not None
            if outcome is SwapOutcome.LOST:
                assert answer.document.active_server == "green"
                assert (await console.fields())["activeServerIndex"] == 1
                found = answer.document

    async def test_needs_the_servers_names(self, project: str, console: Console) -> None:
        await console.write({"activeServerIndex": 1, "serverCount": 3})

        async with opened(project, names=()) as store:
            with pytest.raises(StoreCorrupt, match="names no active server"):
                await store.load()

    async def test_whose_index_is_out_of_range_is_repaired_as_the_original_does(
        self, store: FirestoreStore, console: Console
    ) -> None:
        await console.write({"activeServerIndex": 7, "serverCount": 3})

        assert (await document_of(store)).active_server == "red"


class TestForeignWrites:
    """A client of the original writes blindly: whoever does not know of it must not win."""

    async def test_between_load_and_swap(
        self, store: FirestoreStore, console: Console, project: str
    ) -> None:
        await store.create(first(), "a")
        async with OriginalClient(Emulator.shared().address, project, count=3) as client:
            await client.rotate(2, "websocket error")

        answer = await store.swap(1, following(first()), "b", rotation_to(following(first())))

        assert answer.outcome is SwapOutcome.LOST
        assert answer.document is not None
        assert answer.document.foreign_index == 2
        assert answer.document.revision == 1
        assert (await console.fields())["activeServerIndex"] == 2
        assert await store.history() == []

    async def test_read_just_before_a_swap_that_was_made_without_it(
        self, store: FirestoreStore, console: Console
    ) -> None:
        """It is refused once; made again, it is made by who knows."""
        await store.create(first(), "a")
        proposal = following(first())
        await console.edit(activeServerIndex=2)
        await store.load()

        assert (await store.swap(1, proposal, "b")).outcome is SwapOutcome.LOST
        assert (await document_of(store)).foreign_index == 2
        assert (await store.swap(1, proposal, "c")).outcome is SwapOutcome.WON

    async def test_that_follow_another_one_which_is_still_being_answered(
        self, store: FirestoreStore, console: Console
    ) -> None:
        await store.create(first(), "a")
        await console.edit(activeServerIndex=1)
        answer = replace(
            following(await document_of(store)), active_server="green", index_written=None
        )
        rotation = replace(rotation_to(answer), cause=Cause.FOREIGN)
        await console.edit(activeServerIndex=2)
        await store.load()

        assert (await store.swap(1, answer, "b", rotation)).outcome is SwapOutcome.LOST
        assert (await document_of(store)).foreign_index == 2

    async def test_are_written_back_by_who_looked_again(
        self, store: FirestoreStore, console: Console
    ) -> None:
        """What it was made for may have been another one."""
        await store.create(first(), "a")
        await console.edit(activeServerIndex=2)
        back = replace(
            following(await document_of(store)), active_server_index=0, index_written=None
        )
        rotation = replace(rotation_to(back), cause=Cause.FOREIGN)

        assert (await store.swap(1, back, "b", rotation)).outcome is SwapOutcome.LOST
        assert (await store.swap(1, back, "c", rotation)).outcome is SwapOutcome.WON
        assert (await console.fields())["activeServerIndex"] == 0

    @pytest.mark.parametrize("answer", ["adopted", "a rotation of it"])
    async def test_that_are_answered(
        self, store: FirestoreStore, console: Console, answer: str
    ) -> None:
        await store.create(first(), "a")
        await console.edit(activeServerIndex=2)
        document = await document_of(store)
        proposal = replace(following(document), index_written=None)
        rotation = None
        if answer == "a rotation of it":
            proposal = replace(proposal, active_server="blue")
            rotation = replace(rotation_to(proposal), cause=Cause.FOREIGN)

        swapped = await store.swap(1, proposal, "b", rotation)

        assert swapped.outcome is SwapOutcome.WON
        assert (await document_of(store)).foreign_index is None


FIELDS = [
    *("activeServerIndex", "serverCount", "lastRotation", "createdAt", "lastError"),
    *("lastErrorTime", "schema", "lineage", "revision", "activeServer", "activeSince"),
    *("indexWritten", "cause", "reason", "actor", "window", "servers", "paused", "seconds"),
]
# What is no part of JSON too.
ANY_NONSENSE: dict[str, Any] = {
    **NONSENSE,
    "not a number": float("nan"),
    "map": {"nonsense": {"deep": b"\0"}},
    "bytes": b"nonsense",
}


class TestEditedDocument:
    """What a person writes into it by mistake moves nobody."""

    @pytest.mark.parametrize("field", FIELDS)
    async def test_nonsense_in_a_field(
        self,
        store: FirestoreStore,
        console: Console,
        field: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        document = replace(rich_document(), active_server="green", active_server_index=1)
        document = replace(document, revision=5, active_since=3, server_count=3)
        await store.create(document, "a")
        good = await console.fields()

        for kind, nonsense in ANY_NONSENSE.items():
            without = {key: value for key, value in good.items() if key != field}
            await console.write(without if kind == GONE else good | {field: nonsense})
            if is_refused(field, kind):
                with pytest.raises(StoreCorrupt, match="is of schema"):
                    await store.load()
                continue
            caplog.clear()
            read = await document_of(store)
            # What is beside the timestamps counts where it says the same, and else says nothing.
            expected = field != "seconds" and not is_legal(field, kind)
            assert is_told(repairs(caplog), field) is expected, kind
            named = (field, kind) == ("activeServer", "text")
            assert read.active_server == ("nonsense" if named else "green"), kind
            unset = field == "paused" and kind in ("nothing", GONE)
            assert (read.paused is None) is unset, kind
            await console.write(good)
            assert await document_of(store) == document

    async def test_a_repair_is_logged_once(
        self, store: FirestoreStore, console: Console, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.create(first(), "a")
        await console.edit(serverCount="three")

        for _ in range(3):
            await store.load()

        assert repairs(caplog) == ["serverCount is nonsense: 3 is taken"]

    async def test_another_schema_version(self, store: FirestoreStore, console: Console) -> None:
        await store.create(first(), "a")
        await console.edit(schema=2)

        with pytest.raises(StoreCorrupt) as error:
            await store.load()

        assert str(error.value) == (
            "The document that LIVEKIT_POOL_STORE names is not usable: the document is of schema 2,"
            " this version reads 1."
        )
        with pytest.raises(StoreCorrupt):
            await store.swap(1, following(first()), "b")
        assert (await console.fields())["schema"] == 2

    async def test_something_else(self, store: FirestoreStore, console: Console) -> None:
        await console.write({"title": "Groceries", "items": ["bread"]})

        with pytest.raises(StoreCorrupt, match="not the document of a pool"):
            await store.load()

    async def test_rows_and_sums_that_are_none(
        self, store: FirestoreStore, console: Console
    ) -> None:
        await store.beat(process_row("p1"))
        await store.count({"p1": {"red": 1}})
        below = console.document.collection
        now = datetime.now().astimezone()
        await asyncio.to_thread(below("processes").document("x").set, {"beat": now})
        await asyncio.to_thread(below("ledger").document("x").set, {"sums": {"red": "1"}})
        await asyncio.to_thread(below("ledger").document("y").set, {"red": 1})

        assert [row.process for row in await store.rows()] == ["p1"]
        assert await store.ledger() == {"p1": {"red": 1}, "x": {}, "y": {}}

    async def test_deleted(self, store: FirestoreStore, console: Console) -> None:
        """Its history stays, and is in nobody's way."""
        await store.create(first(), "a")
        document = following(first())
        await store.swap(1, document, "b", rotation_to(document))
        await console.delete()

        assert (await store.load()).document is None
        lost = await store.swap(2, following(document), "c", rotation_to(following(document)))
        assert (lost.outcome, lost.document) == (SwapOutcome.LOST, None)
        assert [entry.revision for entry in await store.history()] == [2]
        again = replace(first(), lineage="lineage-2")
        assert (await store.create(again, "d")).outcome is SwapOutcome.WON
        next_ = following(again, "another")
        assert (await store.swap(1, next_, "e", rotation_to(next_))).outcome is SwapOutcome.WON
        assert [entry.reason for entry in await store.history()] == ["another"]

    async def test_deleted_and_brought_back(self, store: FirestoreStore, console: Console) -> None:
        await store.create(first(), "a")
        document = following(first(), "kept")
        await store.swap(1, document, "b", rotation_to(document))
        await console.delete()

        restored = following(document, "restored")
        entries = [rotation_to(document), rotation_to(restored)]
        answer = await store.restore(None, restored, "c", entries)

        assert answer.outcome is SwapOutcome.WON
        assert [entry.reason for entry in await store.history()] == ["restored", "kept"]


@pytest.mark.parametrize("times", [2, 1000])
async def test_a_lock_that_others_hold_is_waited_for(
    store: FirestoreStore, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    await store.create(first(), "a")
    commit, calls = FirestoreAsyncClient.commit, itertools.count(1)

    async def locked(*arguments: Any, **settings: Any) -> Any:
        if next(calls) <= times:
            raise Aborted("Transaction lock timeout.")  # type: ignore[no-untyped-call]
        return await commit(*arguments, **settings)

    monkeypatch.setattr(FirestoreAsyncClient, "commit", locked)
    begin = time.monotonic()
    if times == 2:
        assert (await store.swap(1, following(first()), "b")).outcome is SwapOutcome.WON
    else:
        with pytest.raises(StoreUnavailable, match="too many writes"):
            await store.swap(1, following(first()), "b")
        assert time.monotonic() - begin < 8


async def test_a_restoration_takes_a_long_history_with_it(store: FirestoreStore) -> None:
    document = replace(first_document(), revision=1200)
    entries = [rotation_to(replace(document, revision=number)) for number in range(1, 1201)]

    answer = await store.restore(None, document, "a", entries)

    assert answer.outcome is SwapOutcome.WON
    assert [entry.revision for entry in await store.history(2000)] == list(range(1200, 0, -1))


async def test_rows_of_processes_that_ended_without_a_word_are_forgotten(project: str) -> None:
    now = [ODD]
    async with opened(project, clock=lambda: now[0]) as store:
        await store.beat(process_row("dead"))
        now[0] += 86_401
        await store.beat(process_row("living"))
        await store.leave("another")

        assert [row.process for row in await store.rows(within=200_000)] == ["living"]


async def test_its_time_is_firestores(
    store: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time()
    monkeypatch.setattr(time, "time", lambda: 5.0)

    loaded = await store.load()
    await store.beat(process_row("p1"))

    assert loaded.now == pytest.approx(right, abs=10)
    assert (await store.rows())[0].beat == pytest.approx(right, abs=10)


@pytest.mark.parametrize(
    "url",
    [
        "firestore://",
        "firestore:///system/livekitPool",
        "firestore://*/system/livekitPool",
        "firestore://user:s3cret@project/system/livekitPool",
        "firestore://project",
        "firestore://project/system",
        "firestore://project/system/",
        "firestore://project/system/livekitPool/history",
        "firestore://project//system/livekitPool",
        "firestore://project/__system__/livekitPool",
        "firestore://project/system/..",
        "firestore://project/system/a%2Fb",
        "firestore://project/system/livekitPool?database=",
        "firestore://project/system/livekitPool?database=s3cret/",
        "firestore://project/system/livekitPool?password=s3cret",
    ],
)
def test_a_url_that_is_none_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        FirestoreStore(url)

    assert str(refusal.value).startswith("LIVEKIT_POOL_STORE: ")
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "firestore://project/system/livekitPool",
        "firestore://example.com:project/a/b/c/d",
        "firestore://project/system/livekitPool?database=other",
        "firestore://project/sy%20stem/%C3%A9",
    ],
)
def test_a_url_is_shown_as_it_was_given(url: str) -> None:
    assert FirestoreStore(url).url == url


async def test_databases_are_apart(project: str) -> None:
    url = f"firestore://{project}/system/livekitPool?database=other"
    async with (
        FirestoreStore(url, emulator=Emulator.shared().address) as other,
        opened(project) as store,
    ):
        await other.create(first(), "a")

        assert (await store.load()).document is None
        assert await document_of(other) == first()
