"""Driver and store: starting without one, its going and coming, what it lost, and what it hears."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import pytest

from livekit_pool import observe
from livekit_pool.core import minutes
from livekit_pool.core.document import Cause, Document, Rotation, rotated
from livekit_pool.core.health import Settings
from livekit_pool.driver import Driver, following, writing
from livekit_pool.exceptions import NoAnswer, StoreCorrupt, StoreUnavailable
from livekit_pool.resets import MONTHLY
from livekit_pool.servers import Server
from livekit_pool.stores.base import Ledger, Loaded, ProcessRow, Swapped
from livekit_pool.upstream.probe import Prober, ProbeResult
from tests import test_driver
from tests.test_driver import NOON, SERVERS, FakeProber
from tests.web.served import until


class CountingProber(FakeProber):
    """Counts the probes."""

    probes = 0

    async def probe(self, server: Server) -> ProbeResult:
        self.probes += 1
        return await super().probe(server)

    probe_signed = probe


class Store(test_driver.Store):
    """
    A store that goes away, loses what it has, and answers late.

    Attributes:
        away: nothing is answered.
        corrupt: what is wrong with the document, if it cannot be read.
        beat_each: seconds between two heartbeats.
        beats: when a heartbeat was written, by the monotonic clock.
        late: what a reading waits for before it answers, if it does.
        ledgers: how often the ledger was read.
        restores: how often somebody wanted to bring something back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.corrupt = ""
        self.beat_each = 0.02
        self.late: asyncio.Event | None = None
        self.loads = self.ledgers = self.restores = self.turns = 0
        self.beats: list[float] = []

    @property
    def heartbeat(self) -> float:
        return self.beat_each

    async def _turn(self) -> float:
        self.turns += 1
        if self.away:
            raise StoreUnavailable("The store is away.")
        return await super()._turn()

    async def load(self) -> Loaded:
        loaded = await super().load()
        self.loads += 1
        if self.corrupt:
            raise StoreCorrupt(self.corrupt)
        if (late := self.late) is not None:
            await late.wait()
        return loaded

    async def beat(self, row: ProcessRow) -> bool:
        self.beats.append(time.monotonic())
        return await super().beat(row)

    async def ledger(self) -> Ledger:
        self.ledgers += 1
        return await super().ledger()

    async def restore(
        self,
        found: Document | None,
        document: Document,
        operation: str,
        history: Sequence[Rotation] = (),
    ) -> Swapped:
        self.restores += 1
        return await super().restore(found, document, operation, history)

    def lose_all(self) -> None:
        """As a Redis does that keeps nothing on its disk and is killed."""
        self._document, self._operation = None, ""
        self._history.clear()
        self._ledger.clear()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "HEARTBEAT", 0.02)
    monkeypatch.setattr(writing, "COPY", 0.02)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    """An open store."""
    async with Store() as store:
        yield store


def driver_of(
    store: Store, prober: FakeProber | None = None, *, leads: Callable[[], bool] = lambda: True
) -> Driver:
    return Driver(
        SERVERS,
        store,
        cast(Prober, prober or FakeProber()),
        Settings(),
        host="here",
        probe_interval=0.02,
        may_probe=leads,
    )


@contextlib.asynccontextmanager
async def well(driver: Driver) -> AsyncIterator[Driver]:
    """It, once it has seen all servers to be well."""
    async with driver:
        await until(lambda: all(driver.machine.available(s.name, driver.now()) for s in SERVERS))
        yield driver


def logged(log: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The fields of each time that ``event`` was logged."""
    return [record.__dict__["fields"] for record in log.records if record.message == event]


async def passes(store: Store, turns: int = 20) -> None:
    """Wait until so many calls of the store were made: time enough for whoever would act."""
    goal = store.turns + turns
    await until(lambda: store.turns >= goal)


# ---- away and back ------------------------------------------------------------------------------


async def test_it_starts_without_a_store_and_reads_the_document_when_it_is_back(
    store: Store,
) -> None:
    async with well(driver_of(store)) as other:
        await other.rotate("there", actor="ann", to="green")
    store.away = True
    seen: list[bool] = []
    driver = driver_of(store)
    driver.listen_store(seen.append)
    async with driver:
        assert not driver.store_ok
        assert driver.store_detail == "The store is away."
        with pytest.raises(NoAnswer):
            _ = driver.document
        with pytest.raises(StoreUnavailable):
            await driver.fresh()
        await passes(store)

        store.away = False
        await until(lambda: driver.store_ok)
        assert driver.document.revision == 2
        assert driver.active_server == "green"
        assert driver.store_detail == ""
        assert seen == [False, True]
        await driver.rotate("back", actor="ann", to="red")


async def test_while_it_is_away_nobody_waits_to_exchange_a_word(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "HEARTBEAT", 60.0)
    store.beat_each = 60.0
    driver = driver_of(store)
    async with well(driver):
        store.away = True
        turns = store.turns
        with pytest.raises(StoreUnavailable):
            await driver.exchange()
        await until(lambda: store.turns == turns + 2)  # its own, and a look whether it is back
        with pytest.raises(StoreUnavailable, match="away"):
            await driver.exchange()
        assert store.turns == turns + 2


async def test_its_going_and_coming_are_told_and_logged_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "livekit_pool")
    seen: list[bool] = []
    driver = driver_of(store)
    driver.listen_store(seen.append)
    async with well(driver):
        document = driver.document
        store.away = True
        await until(lambda: not driver.store_ok)
        await passes(store)
        assert await driver.fresh(9) is document
        assert seen == [False]
        store.away = False
        await until(lambda: driver.store_ok)
        await passes(store)
    assert seen == [False, True]
    assert logged(caplog, observe.STORE_AWAY) == [
        {"store": "memory://", "detail": "The store is away."}
    ]
    assert logged(caplog, observe.STORE_BACK) == [{"store": "memory://"}]


async def test_a_rotation_that_was_missed_is_read_before_the_store_counts_as_back(
    store: Store,
) -> None:
    async with well(driver_of(store)) as driver:
        store.away = True
        await until(lambda: not driver.store_ok)
        store._document, _ = rotated(
            driver.document,
            to="green",
            names=("red", "green"),
            cause=Cause.MANUAL,
            reason="by somebody who reaches it",
            actor="ann",
            now=NOON,
        )
        active: list[str] = []
        driver.listen_store(lambda _: active.append(driver.active_server))
        store.away = False
        await until(lambda: driver.store_ok)
    assert active == ["green"]


async def test_nonsense_in_the_store_is_logged_with_its_sentence_and_not_followed(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "livekit_pool")
    async with well(driver_of(store)) as driver:
        document = driver.document
        store.corrupt = "What LIVEKIT_POOL_STORE holds is nonsense."
        with pytest.raises(StoreCorrupt):
            await driver.reload()
        await passes(store)
        assert driver.document is document
        assert (driver.store_ok, driver.store_detail) == (False, store.corrupt)
        store.corrupt = ""
        await until(lambda: driver.store_ok)
    told = {"store": "memory://", "detail": "What LIVEKIT_POOL_STORE holds is nonsense."}
    assert logged(caplog, observe.STORE_CORRUPT) == [told]
    assert logged(caplog, observe.STORE_AWAY) == []
    assert store.restores == 0


async def test_it_does_not_start_on_nonsense(store: Store) -> None:
    store.corrupt = "What LIVEKIT_POOL_STORE holds is nonsense."
    with pytest.raises(StoreCorrupt, match="nonsense"):
        async with driver_of(store):
            pass


# ---- what the store lost ------------------------------------------------------------------------


async def test_what_it_lost_is_brought_back_by_one_of_two(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "livekit_pool")
    async with well(driver_of(store)) as one, well(driver_of(store)) as other:
        rotation = await one.rotate("there", actor="ann", to="green")
        await other.reload()
        await store.count({"one": {"minutes": 5}})
        goal = store.ledgers + 4
        await until(lambda: store.ledgers >= goal)
        lineage = one.document.lineage

        store.lose_all()
        await asyncio.gather(one.reload(), other.reload())
        await until(lambda: one.document.revision == other.document.revision == 3)
        await until(lambda: store._ledger)

        assert (one.document.lineage, one.active_server) == (lineage, "green")
        note, kept = await store.history()
        assert kept == rotation
        assert (note.cause, note.from_, note.to) == (Cause.RESTORED, "green", "green")
        assert await store.ledger() == {"one": {"minutes": 5}}
        await passes(store)
        assert one.document.revision == 3
    assert len(logged(caplog, observe.RESTORED)) == 1


async def test_minutes_that_were_folded_before_are_brought_back_once(store: Store) -> None:
    old = NOON - 2 * minutes.GRACE
    stay, writer = minutes.seen("PA_1", old, old + 600), minutes.writer("red")
    async with well(driver_of(store)) as driver:
        await store.count({writer: stay})
        goal = store.ledgers + 2
        await until(lambda: store.ledgers >= goal)  # it has a copy of the stay
        fold = minutes.folded(minutes.read(stay), MONTHLY, NOON)
        assert fold is not None
        await store.fold(writer, minutes.WATERMARK, fold.expected, fold.totals, fold.drop)
        goal = store.ledgers + 2
        await until(lambda: store.ledgers >= goal)  # and of the sum
        kept = await store.ledger()

        store.lose_all()
        await driver.reload()
        await until(lambda: store._ledger)

        assert await store.ledger() == kept
        account = minutes.read(kept[writer])
        assert minutes.used(account, 0.0, NOON) == 10.0


async def test_an_older_ledger_beside_the_same_document_gets_back_what_it_lost(
    store: Store,
) -> None:
    """As with a Redis that was killed and has read its last snapshot, since when nobody rotated."""
    async with well(driver_of(store)) as driver:
        writer = minutes.writer("red")
        await store.count({writer: minutes.seen("PA_1", NOON - 600, NOON - 300)})
        snapshot = {writer: dict(sums) for writer, sums in (await store.ledger()).items()}
        await store.count({writer: minutes.seen("PA_1", NOON - 600, NOON - 60)})
        await store.count({writer: minutes.seen("PA_2", NOON - 300, NOON - 60)})
        goal = store.ledgers + 2
        await until(lambda: store.ledgers >= goal)  # it has a copy
        kept = await store.ledger()

        store._ledger = snapshot
        await until(lambda: writer in store._ledger and "PA_2:to" in store._ledger[writer])

        assert await store.ledger() == kept
        assert store.restores == 0
        assert driver.document.revision == 1


async def test_a_watermark_that_was_put_back_is_not_taken_for_a_loss(store: Store) -> None:
    async with well(driver_of(store)) as driver:
        writer = minutes.writer("red")
        ahead = int((driver.now() + 3600.0) * 1000)
        await store.count({writer: {minutes.WATERMARK: ahead}})
        goal = store.ledgers + 2
        await until(lambda: store.ledgers >= goal)  # it has a copy
        back = int((NOON - 1200) * 1000)
        assert await store.fold(writer, minutes.WATERMARK, ahead, {minutes.WATERMARK: back}, ())
        goal = store.ledgers + 4
        await until(lambda: store.ledgers >= goal)
        assert (await store.ledger())[writer] == {minutes.WATERMARK: back}


async def test_a_reading_that_was_outrun_by_a_rotation_brings_nothing_back(store: Store) -> None:
    prober = FakeProber()
    async with well(driver_of(store, prober)) as driver:
        store.late = asyncio.Event()
        loads = store.loads
        reading = asyncio.ensure_future(driver.reload())
        await until(lambda: store.loads > loads)
        late, store.late = store.late, None

        prober.refusing = {"red"}
        await until(lambda: driver.document.active_server == "green")
        late.set()
        assert (await reading).revision == driver.document.revision == 2
        await passes(store)
        assert store.restores == 0
        assert driver.document.revision == 2


async def test_a_first_document_is_above_the_history_of_one_that_is_gone(store: Store) -> None:
    async with well(driver_of(store)) as driver:
        for to in ("green", "red", "green"):
            await driver.rotate("on", actor="ann", to=to)
    store._document = None
    async with driver_of(store) as driver:
        assert driver.document.revision == 5


# ---- probes and heartbeats ----------------------------------------------------------------------


async def test_while_the_store_is_away_every_process_probes(store: Store) -> None:
    prober = CountingProber()
    async with driver_of(store, prober, leads=lambda: False) as driver:
        await until(lambda: driver.rows)
        await passes(store)
        before = prober.probes  # of the server that it found active
        await passes(store, 60)
        assert prober.probes == before

        store.away = True
        await until(lambda: prober.probes > before + 6)
        store.away = False
        await until(lambda: driver.store_ok)


async def test_where_heartbeats_are_rare_every_process_probes(store: Store) -> None:
    store.beat_each = 1000.0
    prober = CountingProber()
    async with driver_of(store, prober, leads=lambda: False):
        await until(lambda: prober.probes > 6)


async def test_where_calls_cost_what_cannot_be_read_is_looked_at_seldom(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.beat_each = 0.3
    monkeypatch.setattr(following, "LONGEST_LOOK", 0.3)
    async with well(driver_of(store)) as driver:
        store.corrupt = "What LIVEKIT_POOL_STORE holds is nonsense."
        with pytest.raises(StoreCorrupt):
            await driver.reload()
        store.loads = 0
        first = len(store.beats)
        await until(lambda: len(store.beats) >= first + 5)

        beats = store.beats[first:]
        assert min(b - a for a, b in pairwise(beats)) >= 0.3
        # The pauses between looks grow once, not anew after each heartbeat.
        assert store.loads <= 2 * 5 + 5
        store.corrupt = ""
        await until(lambda: driver.store_ok)


async def test_news_of_a_servers_health_do_not_wait_for_the_next_heartbeat(store: Store) -> None:
    store.beat_each = 1000.0
    prober = FakeProber()
    async with well(driver_of(store, prober)) as driver:

        async def told() -> object:
            (row,) = await store.rows()
            return row.health.get("green", {}).get("health")

        async with asyncio.timeout(10):
            while await told() != "up":  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
            prober.refusing = {"green"}
            while await told() != "down":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not driver.joinable("green")
    assert store.clock == NOON
