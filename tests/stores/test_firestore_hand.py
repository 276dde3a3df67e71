"""Nonsense that somebody writes into Firestore's document: written over, and nobody moved."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest

from livekit_pool.core.document import Cause, restored
from livekit_pool.core.stored import to_mapping
from livekit_pool.stores.base import SwapOutcome
from tests.real.until import until

from .test_firestore_driver import Site, active
from .values import rich_document

pytestmark = pytest.mark.needs("firestore")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        site = Site(stack)
        await site.start()
        yield site


@pytest.mark.parametrize("nonsense", [{"nonsense": 1}, None], ids=["nonsense", "null"])
async def test_in_each_field(
    site: Site,
    nonsense: object,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("livekit_pool.core.agreement._MENDING_PAUSE", 0.0)
    caplog.set_level("WARNING", "livekit_pool")
    async with site.pool() as one, site.pool("there") as two, site.console() as console:
        await one.rotate("because", actor="alice", to="green")
        await active(two, "green")
        since = one.document.active_since

        def both_above(revision: int) -> bool:
            return one.document.revision == two.document.revision > revision

        fields = set(to_mapping(rich_document()))
        if nonsense is None:
            fields -= {"lastError", "lastErrorTime", "paused"}  # where there is none
        for field in sorted(fields):
            caplog.clear()
            revision = one.document.revision
            await console.edit(**{field: nonsense})

            await until(partial(both_above, revision), seconds=15, what=f"{field} is mended")
            assert repairs(caplog, field), field
            document = (await one.store.load()).document
            assert document is not None
            assert not document.repaired, field
            assert (document.active_server, document.active_since) == ("green", since), field
        entries = (await one.store.history())[:-1]
        assert {(each.cause, each.from_, each.to) for each in entries} == {
            (Cause.RESTORED, "green", "green")
        }
        await two.rotate("because", actor="alice", to="blue")


async def test_an_index_that_is_none_is_not_there_for_long(site: Site) -> None:
    """The original's clients would write 0 over it, which is a rotation of theirs."""
    async with site.pool() as driver, site.console() as console:
        await driver.rotate("because", actor="alice", to="green")
        await console.edit(activeServerIndex=7)

        await until(lambda: driver.document.revision == 3, seconds=15, what="it is mended")
        assert (await console.fields())["activeServerIndex"] == 1


@pytest.mark.parametrize("revision", [2**52 + 1, 2**63 - 1])
async def test_a_revision_to_which_nobody_counts(site: Site, revision: int) -> None:
    async with site.pool() as one, site.pool("there") as two, site.console() as console:
        await one.rotate("because", actor="alice", to="green")
        await active(two, "green")
        await console.edit(revision=revision)

        await until(
            lambda: one.document.revision == two.document.revision == 3,
            seconds=15,
            what="it is mended",
        )
        site.down.add("green")
        await until(lambda: two.active_server == "blue", seconds=15, what="a dead server is left")
        assert [each.revision for each in await one.store.history()] == [4, 3, 2]


def repairs(log: pytest.LogCaptureFixture, field: str) -> list[logging.LogRecord]:
    """The lines that tell of a repair of ``field``."""
    return [
        each
        for each in log.records
        if each.message == "Document repaired"
        and each.__dict__["fields"]["repair"].startswith(field)
    ]


async def test_what_is_brought_back_writes_over_no_rotation_of_an_original_client(
    site: Site,
) -> None:
    async with site.pool() as driver:
        found = driver.document
    async with site.console() as console, site.store() as store:
        await store.load()
        await console.edit(activeServerIndex=1)
        again, note = restored(found, above=1, reason="", actor="us", now=found.created_at)
        answer = await store.restore(found, again, "ours", [note])
        assert answer.outcome is SwapOutcome.LOST
        assert answer.document is not None
        assert answer.document.foreign_index == 1

        answer = await store.restore(answer.document, again, "ours", [note])
        assert answer.outcome is SwapOutcome.WON, "who has seen it knows what it does"
