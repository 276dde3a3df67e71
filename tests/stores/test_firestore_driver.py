"""A pool's processes on Firestore, beside clients of the original system and an operator's hand."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import groupby, pairwise

import pytest

from livekit_pool.core.document import Cause, Rotation
from livekit_pool.core.health import Health, Settings
from livekit_pool.driver import Driver
from livekit_pool.servers import Server
from livekit_pool.stores.firestore import FirestoreStore
from livekit_pool.upstream.probe import Prober
from tests.core.nonsense import is_told
from tests.real.until import until
from tests.upstream.scripted import OK, Exchange, Script, response, scripted

from .emulator import Emulator
from .original import Console, OriginalClient
from .values import repairs

pytestmark = pytest.mark.needs("firestore")

NAMES = ("red", "green", "blue")
NO_ROOMS = response("200 OK", b'{"rooms": []}', "Content-Type: application/json")
FOLLOWED = 5.0
"""Seconds in which whoever follows the document must have followed."""


class Site:
    """
    Three LiveKit servers, a project with a document, and pools of these.

    Attributes:
        down: names of the servers that answer nothing well.
        servers: all, in order.
        client: a client of the original system.
    """

    def __init__(self, stack: AsyncExitStack) -> None:
        self.down: set[str] = set()
        self.servers: list[Server] = []
        self.project = f"pool-{secrets.token_hex(8)}"
        self._stack = stack

    async def start(self) -> None:
        for name in NAMES:
            running = await self._stack.enter_async_context(scripted(self._script(name), name=name))
            self.servers.append(running.server)

    @asynccontextmanager
    async def pool(self, host: str = "here") -> AsyncIterator[Driver]:
        """One more process of the pool, which has seen all its servers."""
        async with (
            self.store() as store,
            Prober() as prober,
            Driver(
                self.servers,
                store,
                prober,
                Settings(rotation_interval=0.0),
                host=host,
                probe_interval=0.5,
            ) as driver,
        ):
            await until(
                lambda: all(driver.machine.health(n) is not Health.UNKNOWN for n in NAMES),
                seconds=10,
                what="all servers were probed",
            )
            yield driver

    def store(self) -> FirestoreStore:
        return FirestoreStore(
            f"firestore://{self.project}/system/livekitPool",
            names=[server.name for server in self.servers],
            emulator=Emulator.shared().address,
        )

    def client(self) -> OriginalClient:
        return OriginalClient(Emulator.shared().address, self.project, count=len(NAMES))

    def console(self) -> Console:
        return Console(Emulator.shared().address, self.project)

    def _script(self, name: str) -> Script:
        async def script(exchange: Exchange) -> bytes | None:
            if name in self.down:
                return None
            return NO_ROOMS if "/twirp/" in exchange.head else OK

        return script


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        site = Site(stack)
        await site.start()
        yield site


async def active(driver: Driver, name: str) -> None:
    await until(
        lambda: driver.document.active_server == name,
        seconds=FOLLOWED,
        what=f"{name} is active",
    )


async def history(driver: Driver) -> Sequence[Rotation]:
    return await driver.store.history()


class TestOriginalClients:
    async def test_follow_the_pool(self, site: Site) -> None:
        async with site.pool() as driver, site.client() as client:
            await until(client.is_at(0), seconds=FOLLOWED, what="it reads the new document")

            await driver.rotate("because", actor="alice", to="blue")
            await until(client.is_at(2), seconds=FOLLOWED, what="it follows by hand")

            site.down.add("blue")
            await until(client.is_at(0), seconds=15, what="it follows when a server dies")

            fields = await site_fields(site)
            assert fields["lastError"]
            # A listener that begins anew hears first what there is.
            assert [index for index, _ in groupby(client.seen)] == [0, 2, 0]

    async def test_are_followed_by_the_pool(self, site: Site) -> None:
        async with site.pool() as driver, site.pool("there") as other, site.client() as client:
            await client.rotate(1, "quota exceeded")

            await active(driver, "green")
            await active(other, "green")
            (rotation,) = await history(driver)
            assert rotation.cause is Cause.FOREIGN
            assert (rotation.from_, rotation.to) == ("red", "green")
            assert rotation.reason == "quota exceeded"
            await until(client.is_at(1), seconds=FOLLOWED, what="it hears of it itself")
            assert driver.document.foreign_index is None

    async def test_are_written_back_once_where_they_cannot_be_followed(self, site: Site) -> None:
        site.down.add("green")
        async with site.pool() as driver, site.client() as client:
            await until(
                lambda: driver.machine.health("green") is Health.DOWN,
                seconds=10,
                what="green is seen down",
            )
            since = driver.document.active_since
            await client.rotate(1, "websocket error")

            await until(client.is_at(0), seconds=15, what="it is written back")
            await until(
                lambda: driver.document.revision == 2, seconds=FOLLOWED, what="the pool knows"
            )
            (note,) = await history(driver)
            assert (note.cause, note.from_, note.to) == (Cause.FOREIGN, "red", "red")
            assert "not followed" in note.reason
            assert driver.document.active_since == since

    async def test_rotate_at_the_same_time_as_an_operator(self, site: Site) -> None:
        """They all end at one server, and the operator's rotation was done."""
        async with site.pool() as driver, site.client() as client:
            for number in range(6):
                target = NAMES[(number + 1) % 3]
                foreign = (number + 2) % 3
                await asyncio.gather(
                    driver.rotate(f"ours {number}", actor="alice", to=target),
                    client.rotate(foreign, f"theirs {number}"),
                )

                await until(
                    partial(agreed, driver, client), seconds=FOLLOWED, what="they are at one server"
                )
            entries = list(reversed(await history(driver)))
            assert [e.reason for e in entries if e.actor == "alice"] == [
                f"ours {number}" for number in range(6)
            ]
            assert [e.revision for e in entries] == list(range(2, driver.document.revision + 1))
            for earlier, later in pairwise(entries):
                assert later.from_ == earlier.to

    async def test_rotate_in_the_document_that_they_made(self, site: Site) -> None:
        async with site.client() as client:
            await client.make()
            async with site.pool() as driver, site.pool("there") as other:
                await client.rotate(1, "quota exceeded")

                await active(driver, "green")
                await active(other, "green")
                await until(
                    lambda: driver.document.revision > 0, seconds=FOLLOWED, what="it is the pool's"
                )
                await until(client.is_at(1), seconds=FOLLOWED, what="it hears of it itself")
                assert 0 not in client.seen[client.seen.index(1) :]

    async def test_rotate_in_a_document_that_is_the_pools_by_now(self, site: Site) -> None:
        async with site.client() as client:
            await client.make()
            async with site.pool() as driver:
                await until(
                    lambda: driver.document.revision == 1, seconds=FOLLOWED, what="it is the pool's"
                )
                fields = await site_fields(site)
                assert (fields["revision"], fields["indexWritten"]) == (1, 0)

                await client.rotate(1, "quota exceeded")

                await active(driver, "green")
                (rotation,) = await history(driver)
                assert (rotation.cause, rotation.to) == (Cause.FOREIGN, "green")

    async def test_left_nonsense_in_the_document(self, site: Site) -> None:
        async with site.client() as client, site.console() as console:
            await client.make()
            await console.edit(activeServerIndex=7, createdAt="nonsense")
            async with site.pool() as driver:
                await until(
                    lambda: driver.document.revision == 1, seconds=FOLLOWED, what="it is the pool's"
                )
                fields = await site_fields(site)
                assert (fields["activeServer"], fields["activeServerIndex"]) == ("red", 0)
                assert fields["createdAt"] != "nonsense"

    async def test_made_the_document(self, site: Site) -> None:
        async with site.client() as client:
            await client.make()
            await client.rotate(2, "quota exceeded")
            async with site.pool() as driver:
                assert driver.document.active_server == "blue"

                await driver.rotate("because", actor="alice", to="green")

                await until(client.is_at(1), seconds=FOLLOWED, what="it follows")
                assert driver.document.revision >= 1
                assert client.seen == [0, 2, 1] or client.seen[-2:] == [2, 1]


async def agreed(driver: Driver, client: OriginalClient) -> bool:
    """Whether pool, document and client are at one server, with no foreign write unanswered."""
    document = (await driver.store.load()).document
    assert document is not None
    index = NAMES.index(driver.document.active_server)
    return document == driver.document and document.foreign_index is None and client.index == index


async def site_fields(site: Site) -> dict[str, object]:
    async with site.console() as console:
        return await console.fields()


class TestHand:
    """What a person does to the document by mistake rotates nothing, and is mended."""

    async def test_nonsense_in_each_field(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with site.pool() as driver, site.console() as console:
            await driver.rotate("because", actor="alice", to="green")
            good = await console.fields()
            for field in sorted(good):
                before = driver.document
                caplog.clear()
                for nonsense in ({"nonsense": 1}, None, "nonsense"):
                    if field == "activeServer" and nonsense == "nonsense":
                        continue  # it may be a server of others: see the next test
                    await console.edit(**{field: nonsense})
                    loaded = (await driver.store.load()).document
                    assert loaded is not None
                    assert loaded.active_server == "green", field
                # For each value alone: tests of the store. These are no fields of a document's.
                assert is_told(repairs(caplog), field) or field in ("operation", "seconds"), field
                await console.edit(**{field: good[field]})
                await driver.reload()

                assert driver.document.active_server == "green", field
                assert driver.document.active_since == before.active_since, field
            assert all(entry.from_ == entry.to for entry in (await history(driver))[:-1])

    @pytest.mark.parametrize("server", ["nonsense", "blue"])
    async def test_another_active_server(self, site: Site, server: str) -> None:
        async with site.pool() as driver, site.pool("there") as other, site.console() as console:
            await driver.rotate("because", actor="alice", to="green")
            await active(other, "green")
            held = driver.document

            await console.edit(activeServer=server)

            await until(
                lambda: (
                    driver.document.revision > held.revision and other.document == driver.document
                ),
                seconds=15,
                what="it is put back",
            )
            assert driver.document.active_server == "green"
            assert driver.document.active_since == held.active_since
            async with site.pool("new") as new:
                assert new.document == driver.document
            (newest, *_) = await history(driver)
            assert (newest.cause, newest.from_, newest.to) == (Cause.RESTORED, "green", "green")

    async def test_another_schema_version(self, site: Site) -> None:
        async with site.pool() as driver, site.console() as console:
            held = driver.document
            await console.edit(schema=2)

            await until(lambda: not driver.store_ok, seconds=FOLLOWED, what="it is noticed")
            assert "is of schema 2" in driver.store_detail
            assert driver.document == held
            assert (await console.fields())["schema"] == 2

            await console.edit(schema=1)
            await until(lambda: driver.store_ok, seconds=FOLLOWED, what="it is well again")

    async def test_deleted(self, site: Site) -> None:
        async with site.pool() as driver, site.pool("there") as other, site.console() as console:
            await driver.rotate("because", actor="alice", to="blue")
            await active(other, "blue")
            held = driver.document

            await console.delete()

            await until(
                lambda: (
                    driver.document.revision > held.revision and other.document == driver.document
                ),
                seconds=15,
                what="it is brought back",
            )
            fields = await console.fields()
            assert fields["activeServer"] == "blue"
            assert fields["activeServerIndex"] == 2
            assert driver.document.lineage == held.lineage
            rotations = [entry for entry in await history(driver) if entry.from_ != entry.to]
            assert [entry.to for entry in rotations] == ["blue"]


async def test_two_processes_that_begin_together_agree(site: Site) -> None:
    async with site.pool() as driver, site.pool("there") as other:
        assert driver.document == other.document
        assert driver.document.revision == 1
