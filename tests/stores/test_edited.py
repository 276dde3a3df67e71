"""A document that somebody edits by hand while the pool runs: noticed, mended, nobody moved."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import cast

import pytest

from livekit_pool.core.document import Cause, Document
from livekit_pool.core.events import Change
from livekit_pool.core.health import Settings
from livekit_pool.core.stored import to_mapping
from livekit_pool.driver import Driver, following
from livekit_pool.driver.following import Following
from livekit_pool.stores import store_from_url
from livekit_pool.stores.base import Resync
from livekit_pool.upstream.probe import Prober
from tests.real.until import until
from tests.test_driver import SERVERS, FakeProber

from .redis_server import RedisServer
from .values import rich_document

DOCUMENT = "{livekit-pool}:document"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "NEWBORN_WAIT", 0.1)


Edit = Callable[[Callable[[str], str]], None]
"""Puts in the place of a document's content what a function makes of it, and nothing else."""

NOTICED = 10.0
"""Seconds within which it must be noticed; Redis is looked at anyway each few seconds."""


class Kept:
    """A store on this machine, and the hand that edits in it."""

    def __init__(self, url: str, edit: Edit, set_revision: Callable[[float | str], object]) -> None:
        self.url = url
        self.edit = edit
        self.set_revision = set_revision

    @asynccontextmanager
    async def pool(self) -> AsyncIterator[Driver]:
        """One more process of the pool."""
        async with (
            store_from_url(self.url, names=[server.name for server in SERVERS]) as store,
            Driver(SERVERS, store, cast(Prober, FakeProber()), Settings(), host="here") as driver,
        ):
            yield driver


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.needs("redis"))])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    if request.param == "sqlite":
        path = tmp_path / "pool.db"

        def edit_file(change: Callable[[str], str]) -> None:
            with closing(sqlite3.connect(path, timeout=10)) as db, db:
                (content,) = db.execute("SELECT content FROM document").fetchone()
                db.execute("UPDATE document SET content = ?", (change(content),))

        def set_column(revision: float | str) -> None:
            with closing(sqlite3.connect(path, timeout=10)) as db, db:
                db.execute("UPDATE document SET revision = ?", (revision,))

        yield Kept(f"sqlite:///{path}", edit_file, set_column)
        return
    server = RedisServer(tmp_path / "redis")

    def edit_key(change: Callable[[str], str]) -> None:
        # It comes behind its length.
        content = server.command("HGET", DOCUMENT, "content").partition("\n")[2].strip()
        server.command("HSET", DOCUMENT, "content", change(content))

    try:
        yield Kept(
            server.url,
            edit_key,
            lambda revision: server.command("HSET", DOCUMENT, "revision", str(revision)),
        )
    finally:
        server.kill()


def setting(**fields: object) -> Callable[[str], str]:
    return lambda content: json.dumps({**json.loads(content), **fields})


async def heard(one: Driver, other: Driver) -> None:
    """``other`` follows what ``one`` does: what it reads at its start is behind it."""
    to = "green" if one.document.active_server == "red" else "red"
    await one.rotate("to be followed", actor="ann", to=to)
    await until(
        lambda: other.document.active_server == to, seconds=NOTICED, what="the other follows"
    )


async def test_who_has_been_told_nothing_yet_is_told_to_read_again(kept: Kept) -> None:
    async with kept.pool():
        pass  # it makes the document
    async with store_from_url(kept.url) as store, asyncio.timeout(NOTICED):
        notices = store.watch()
        assert await anext(notices) == Resync()
        kept.edit(setting(activeServer="nonsense"))
        assert await anext(notices) == Resync()


@pytest.mark.parametrize("server", ["nonsense", "green"])
async def test_the_active_server_is_put_back(kept: Kept, server: str) -> None:
    async with kept.pool() as one, kept.pool() as two:
        await heard(one, two)
        await heard(two, one)
        kept.edit(setting(activeServer=server))

        await until(
            lambda: one.document.revision == two.document.revision == 4,
            seconds=NOTICED,
            what="it is mended",
        )
        async with kept.pool() as new:
            for driver in (one, two, new):
                assert driver.document.active_server == "red"
                assert driver.document.active_since == 3
            newest = (await new.store.history())[0]
        assert (newest.cause, newest.from_, newest.to) == (Cause.RESTORED, "red", "red")


@pytest.mark.parametrize("field", to_mapping(rich_document()))
async def test_nonsense_in_a_field_is_written_over_and_moves_nobody(
    kept: Kept, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "livekit_pool")
    async with kept.pool() as one, kept.pool() as two:
        await heard(one, two)
        kept.edit(setting(**{field: {"nonsense": 1}}))

        await until(
            lambda: one.document.revision == two.document.revision == 3,
            seconds=NOTICED,
            what="it is mended",
        )
        told = [each.__dict__["fields"]["repair"] for each in caplog.records if is_repair(each)]
        assert any(repair.startswith(field) for repair in told)
        assert not (await one.store.load()).document.repaired  # type: ignore[union-attr]
        assert one.document == two.document
        assert (one.document.active_server, one.document.active_since) == ("green", 2)
        newest, rotation = await one.store.history()
        assert (newest.cause, newest.from_, newest.to) == (Cause.RESTORED, "green", "green")
        assert rotation.revision == 2
        await heard(two, one)


def is_repair(record: logging.LogRecord) -> bool:
    return record.message == "Document repaired"


@pytest.mark.parametrize("revision", [2**52 + 1, 2**63 - 1, "abc", 1e20])
async def test_a_revision_to_which_nobody_counts_is_written_over(
    kept: Kept, revision: float | str
) -> None:
    async with kept.pool() as one, kept.pool() as two:
        await heard(one, two)
        kept.set_revision(revision)

        await until(
            lambda: one.document.revision == two.document.revision == 3,
            seconds=NOTICED,
            what="it is mended",
        )
        await heard(two, one)
        assert [each.revision for each in await one.store.history()] == [4, 3, 2]


@pytest.mark.parametrize("revision", [2**63 - 1, "abc"])
async def test_such_a_revision_is_written_over_by_who_starts_then(
    kept: Kept, revision: float | str
) -> None:
    async with kept.pool() as one:
        await one.rotate("an update", actor="ann", to="green")
        await one.mark(Change.DRAIN, actor="ann", server="red")  # no entry of the history
    kept.set_revision(revision)
    async with kept.pool() as one:
        await until(lambda: one.document.revision == 4, seconds=NOTICED, what="it is mended")
        assert one.document.active_server == "green"
        assert one.document.record("red").drained is not None
        await one.rotate("an update", actor="ann", to="red", force=True)
        assert [each.revision for each in await one.store.history()] == [5, 4, 2]


async def test_a_revision_of_which_nothing_is_left_is_begun_anew(kept: Kept) -> None:
    async with kept.pool() as one:
        assert one.document.revision == 1
    kept.edit(setting(revision="many", activeSince=None))
    kept.set_revision("abc")
    async with kept.pool() as one:
        await until(lambda: one.document.revision == 1, seconds=NOTICED, what="it is mended")
        assert (await one.store.load()).document == one.document
        await one.rotate("an update", actor="ann", to="green")
        assert one.document.revision == 2


async def test_nonsense_that_stood_there_before_is_written_over(kept: Kept) -> None:
    async with kept.pool() as one:
        await one.rotate("an update", actor="ann", to="green")
    kept.edit(setting(serverCount="many", lastError=[]))
    async with kept.pool() as one:
        await until(lambda: one.document.revision == 3, seconds=NOTICED, what="it is mended")
        document = (await one.store.load()).document
        assert document == one.document
        assert not document.repaired
        assert document.active_server == "green"


@pytest.mark.parametrize(
    "change", [setting(schema=7), lambda _: "no document"], ids=["schema", "text"]
)
async def test_what_nobody_can_read_is_told_and_the_last_good_state_kept(
    kept: Kept, change: Callable[[str], str]
) -> None:
    async with kept.pool() as driver, kept.pool() as other:
        await heard(other, driver)
        held, good = driver.document, ""

        def spoil(content: str) -> str:
            nonlocal good
            good = content
            return change(content)

        kept.edit(spoil)

        await until(lambda: not driver.store_ok, seconds=NOTICED, what="it is noticed")
        assert driver.store_detail
        assert driver.document == held

        kept.edit(lambda _: good)
        await until(lambda: driver.store_ok, seconds=NOTICED, what="it is well again")
        assert driver.document == held


async def test_a_revision_that_was_set_back_while_no_process_ran_is_not_given_twice(
    kept: Kept,
) -> None:
    async with kept.pool() as driver:
        for to in ("green", "red", "green"):
            await driver.rotate("an update", actor="ann", to=to)
    kept.set_revision(2)

    async with kept.pool() as driver:
        assert (driver.document.active_server, driver.document.revision) == ("green", 5)
        rotation = await driver.rotate("an update", actor="ann", to="red")
        assert rotation is not None
        assert rotation.revision == 6
        history = await driver.store.history()
    assert [each.revision for each in history] == [6, 5, 4, 3, 2]
    assert [each.cause for each in history][:2] == [Cause.MANUAL, Cause.RESTORED]


async def test_a_revision_that_was_set_back_is_noticed_by_who_heard_of_no_change_yet(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Following] = []

    async def reload(self: Following) -> Document:
        document = await reload_of(self)
        read.append(self)
        return document

    reload_of = Following.reload
    monkeypatch.setattr(Following, "reload", reload)
    async with kept.pool() as driver:
        await driver.rotate("an update", actor="ann", to="green")
    async with kept.pool() as driver:
        await until(
            lambda: driver._following in read,
            seconds=NOTICED,
            what="what it reads at its start is behind it",
        )
        kept.set_revision(1)
        await until(lambda: driver.document.revision == 3, seconds=NOTICED, what="it goes on above")
        assert driver.document.active_server == "green"
