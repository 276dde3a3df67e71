"""How much of what Firestore charges for a pool uses; docs/firestore.md has the sums."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from livekit_pool.core import minutes
from livekit_pool.metering import Metering, looking
from livekit_pool.stores import firestore, firestore_watch
from livekit_pool.stores.firestore import FirestoreStore
from livekit_pool.upstream.probe import Prober
from tests.real.until import until

from .metering import Meter
from .test_firestore_driver import Site, active

pytestmark = pytest.mark.needs("firestore")

DAY = 86_400
DOCUMENT = Path(__file__).parents[2] / "docs" / "firestore.md"
BEAT = 1.5
"""Seconds between heartbeats here; 300 in a pool."""


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    return Meter(monkeypatch)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        site = Site(stack)
        await site.start()
        yield site


async def quiet(meter: Meter, seconds: float = 1.0) -> None:
    """Wait until nothing has been called, and no answer has come, for so long."""
    while True:
        before = (dict(meter.calls), dict(meter.counted))
        await asyncio.sleep(seconds)
        if (meter.calls, meter.counted) == before:
            return


async def test_a_heartbeat_is_one_write_and_a_row_read_for_each_process(
    site: Site, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firestore, "_HEARTBEAT", BEAT)
    async with site.pool(), site.pool():
        await asyncio.sleep(BEAT)  # what there is to say at the start is said
        await quiet(meter, 0.3)
        meter.reset()

        def four_each() -> bool:
            # Between two heartbeats; what is counted while one is under way is only a part of it.
            beats = meter.calls["commit"]
            return beats >= 8 and meter.counted == {"writes": beats, "reads": 2 * beats}

        await until(four_each, seconds=30, what=lambda: f"it costs that: {meter.counted}")


def test_an_idle_day_is_reckoned_from_what_a_pool_does() -> None:
    """Of two workers; what a heartbeat, a stream and a look cost, the others here say."""
    processes = 2
    beats = round(processes * DAY / FirestoreStore("firestore://project/system/pool").heartbeat)
    looks = round(processes * DAY / looking.AGAIN)
    streams = round(processes * 2 * DAY / firestore_watch.SILENCE)
    reads = processes * beats + looks + streams
    written, read = f"{beats} ({beats / 200:.0f} % of what is free)", f"{reads:,}"
    assert f"| together | {written} | {read} ({reads / 500:.0f} %) |" in DOCUMENT.read_text()


async def test_between_heartbeats_nothing_is_called(site: Site, meter: Meter) -> None:
    async with site.pool(), site.pool():
        await quiet(meter)
        meter.reset()

        await asyncio.sleep(5)

        assert meter.calls == {}


async def test_a_new_stream_is_a_document_heard_and_one_read(
    site: Site, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.pool():
        await quiet(meter)
        meter.reset()
    monkeypatch.setattr(firestore_watch, "SILENCE", 0.5)
    async with site.pool():
        await quiet(meter, 0.4)
        meter.reset()
        await until(lambda: meter.calls["listen"] >= 5, seconds=30, what="five streams")
        streams = meter.calls["listen"]

        assert meter.calls.keys() == {"listen", "batch_get_documents"}
        # The newest may not have said all yet.
        assert 2 * (streams - 1) <= meter.counted["reads"] <= 2 * streams


async def test_a_rotation_is_two_writes(site: Site, meter: Meter) -> None:
    async with site.pool() as driver, site.pool() as other:
        await quiet(meter)
        meter.reset()

        await driver.rotate("because", actor="alice", to="blue")
        await active(other, "blue")
        await quiet(meter)

        assert meter.counted["writes"] == 2
        # The document and two rows before the choice; the new document, told to two listeners
        # and read by the one that has not written it; by the other as well, if it hears of it
        # before its own write is answered.
        assert 6 <= meter.counted["reads"] <= 7


async def test_a_server_that_dies_is_a_heartbeat_more_of_each(site: Site, meter: Meter) -> None:
    async with site.pool() as driver, site.pool() as other:
        await quiet(meter)
        meter.reset()

        site.down.add("red")
        await active(driver, "green")
        await active(other, "green")
        await quiet(meter)

        # The rotation, and what each process has seen, written and read once or twice.
        assert 4 <= meter.counted["writes"] <= 6
        assert meter.counted["reads"] <= 12


async def test_a_document_that_cannot_be_read_costs_some_reads_and_no_write(
    site: Site, meter: Meter
) -> None:
    async with site.pool() as driver, site.console() as console:
        await quiet(meter)
        await console.edit(schema=2)
        await until(lambda: not driver.store_ok, seconds=5, what="it is noticed")
        await quiet(meter, 0.3)  # it looks once more at once
        meter.reset()

        times: list[float] = []
        for looks in (1, 2, 3):
            await until(
                partial(meter.called, "batch_get_documents", looks),
                seconds=30,
                what="it is looked at again",
            )
            times.append(time.monotonic())

        assert meter.counted.keys() == {"reads"}
        assert meter.counted["reads"] <= 3
        assert times[2] - times[1] > 1.5 * (times[1] - times[0]), "after growing pauses"
        await console.edit(schema=1)
        await until(lambda: driver.store_ok, seconds=5, what="it is well again")


async def test_minutes_are_a_write_and_a_read_for_each_server_and_one_read_to_know_them(
    site: Site, meter: Meter
) -> None:
    async with site.pool() as driver, Prober() as prober:
        metering = Metering(driver, prober, lambda _: {})
        await quiet(meter)
        meter.reset()

        await metering.flush()
        assert meter.counted == {}, "nobody was there"

        for number in range(600):
            metering.entered("red")
            metering.began("red", f"PA_{number}", driver.now(), now=True)
        await metering.flush()
        assert meter.counted == {"writes": 1, "reads": 1}

        meter.reset()
        await metering.read()
        assert meter.counted == {"reads": 1}

        old = driver.now() - 3 * minutes.GRACE
        metering.witness("red", sid="PA_old", joined=old, at=old + 60)
        await metering.flush()
        meter.reset()
        await metering.read()
        assert meter.counted == {"reads": 2, "writes": 1}, "what was long ago is folded"
