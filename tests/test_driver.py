"""Driver: what keeps running whatever goes wrong around it, and which time it goes by."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from livekit_pool import observe
from livekit_pool.core.actions import Announce
from livekit_pool.core.document import (
    Cause,
    Document,
    Mark,
    Rotation,
    new_document,
    restored,
    rotated,
)
from livekit_pool.core.events import FaultSource, ProbeOutcome
from livekit_pool.core.health import Health, Settings
from livekit_pool.core.machine import Role
from livekit_pool.driver import Driver, following, loop, tasks
from livekit_pool.driver.clock import Jumps
from livekit_pool.exceptions import PoolError, StoreCorrupt, StoreUnavailable
from livekit_pool.servers import Server
from livekit_pool.stores.base import Loaded, Placement, ProcessRow, Swapped
from livekit_pool.stores.memory import MemoryStore
from livekit_pool.upstream.connection import Stage
from livekit_pool.upstream.probe import Prober, ProbeResult
from tests.web.served import until

NOON = 1_800_000_000.0
HOUR = 3600.0
SERVERS = tuple(
    Server(name=name, url=f"ws://{name}.test", key=f"key-{name}", secret="s" * 32)
    for name in ("red", "green")
)


class FakeProber:
    """
    Probes what the test says.

    Attributes:
        refusing: servers that refuse.
        errors: what the next probes raise, one each.
        own: why none can be made.
    """

    def __init__(self) -> None:
        self.refusing: set[str] = set()
        self.errors: list[Exception] = []
        self.own = ""

    async def probe(self, server: Server) -> ProbeResult:
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop()
        refused = server.name in self.refusing
        if self.own:
            return ProbeResult(
                server=server.name,
                outcome=ProbeOutcome.SILENT,
                stage=Stage.TCP,
                detail=self.own,
                duration=0.0,
                stalled=True,
                own=self.own,
            )
        return ProbeResult(
            server=server.name,
            outcome=ProbeOutcome.REFUSED if refused else ProbeOutcome.PASSED,
            stage=Stage.HTTP,
            detail="",
            duration=0.0,
            stalled=False,
        )

    probe_signed = probe


class Store(MemoryStore):
    """
    A store with a clock to set, that fails as the test says.

    Attributes:
        clock: its time.
        errors: method -> what its next calls raise, one each.
        silent: it is asked for the document, and does not answer.
    """

    def __init__(self) -> None:
        self.clock = NOON
        self.silent = False
        self.errors: dict[str, list[Exception]] = {}
        super().__init__("memory://", clock=lambda: self.clock)

    @property
    def heartbeat(self) -> float:
        return 0.02

    def _fail(self, method: str) -> None:
        if errors := self.errors.get(method):
            raise errors.pop()

    async def load(self) -> Loaded:
        if self.silent:
            await asyncio.Event().wait()
        return await super().load()

    async def rows(self, within: float | None = None) -> Sequence[ProcessRow]:
        self._fail("rows")
        return await super().rows(within)

    async def swap(
        self, expected: int, document: Document, operation: str, rotation: Rotation | None = None
    ) -> Swapped:
        self._fail("swap")
        return await super().swap(expected, document, operation, rotation)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN", 0.01)
    monkeypatch.setattr(following, "HEARTBEAT", 0.02)


@contextlib.asynccontextmanager
async def driving(store: Store, prober: FakeProber) -> AsyncIterator[Driver]:
    """A driver whose servers were all seen to be well."""
    async with (
        store,
        Driver(
            SERVERS, store, cast(Prober, prober), Settings(), host="here", probe_interval=0.02
        ) as driver,
    ):
        await until(lambda: len(driver.last_probe) == len(SERVERS))
        yield driver


def told(log: pytest.LogCaptureFixture, event: str) -> list[Mapping[str, Any]]:
    return [each.__dict__["fields"] for each in log.records if each.message == event]


def failures(log: pytest.LogCaptureFixture) -> list[Mapping[str, Any]]:
    return told(log, observe.TASK_FAILED)


async def test_a_heartbeat_that_fails_unexpectedly_is_logged_and_not_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store()
    async with driving(store, FakeProber()) as driver:
        store.errors["rows"] = [ZeroDivisionError("a-room-name")]
        await until(lambda: not store.errors["rows"])
        await until(lambda: failures(caplog))
        store.clock = NOON + 2
        async with asyncio.timeout(10):
            while (await store.rows())[0].beat != NOON + 2:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)

    assert failures(caplog) == [{"task": "beats", "error": "ZeroDivisionError"}]
    assert "a-room-name" not in caplog.text
    assert driver.document.active_server == "red"


def begun(store: Store) -> Driver:
    """A process that begins, beside those whose rows are there."""
    return Driver(SERVERS, store, cast(Prober, FakeProber()), Settings(), host="here")


async def slipped(store: Store) -> Document:
    """A document in which somebody's hand wrote a server that nobody has, and who runs by it."""
    names = [server.name for server in SERVERS]
    good = new_document(lineage="L", names=names, actor="other", now=NOON)
    await store.create(good, "made")
    slip = replace(good, revision=2, active_server="reed", active_since=1)
    assert (await store.swap(1, slip, "slip")).document == slip
    await store.beat(others_row(tuple(names), revision=1))
    return good


def others_row(names: tuple[str, ...], revision: int) -> ProcessRow:
    return ProcessRow(
        process="other",
        host="there",
        started=NOON,
        names=names,
        fingerprint="f",
        revision=revision,
    )


async def test_who_begins_waits_for_those_that_run_to_mend_a_slip_of_the_hand() -> None:
    async with Store() as store:
        good = await slipped(store)
        async with begun(store) as driver:
            assert not driver.store_ok
            assert "'reed'" in driver.store_detail
            with pytest.raises(PoolError):
                await driver.reload()
            assert driver.machine.document is None

            mended = replace(good, revision=3)
            assert (await store.swap(2, mended, "mended")).document == mended
            await until(lambda: driver.store_ok)

            assert driver.document.active_server == "red"
            assert await store.history() == []


async def test_those_that_begin_together_do_not_wait_for_each_other() -> None:
    """A server was taken out of the list while no process ran: nobody is there to mend anything."""
    async with Store() as store:
        good = await slipped(store)
        await store.beat(others_row(tuple(good.servers), revision=0))
        async with begun(store) as driver:
            assert driver.store_ok
            await until(lambda: driver.document.active_server == "red")


async def test_who_begins_does_not_wait_for_ever_however_long_the_store_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: now))
    async with Store() as store:
        await slipped(store)
        away: list[Exception] = [StoreUnavailable("away")] * 10_000
        store.errors["rows"] = away
        async with begun(store) as driver:
            assert driver.store_detail == "away"
            now += 2 * following.MENDING
            away.clear()
            await until(lambda: "'reed'" in driver.store_detail)
            assert driver.machine.document is None, "those that run have a little longer"

            now += following.MENDING
            await until(lambda: driver.store_ok and driver.document.active_server == "red")
            assert [rotation.cause for rotation in await store.history()] == [Cause.REMOVED]


async def two_revisions(store: Store) -> tuple[Document, Document, Rotation]:
    """The document that the store has, and what a rotation would make of it."""
    names = [server.name for server in SERVERS]
    old = new_document(lineage="L", names=names, actor="other", now=NOON)
    await store.create(old, "made")
    newer, rotation = rotated(
        old, to="green", names=names, cause=Cause.MANUAL, reason="", actor="ann", now=NOON
    )
    return old, newer, rotation


async def test_who_begins_lets_those_that_run_write_over_nonsense() -> None:
    async with Store() as store:
        old, *_ = await two_revisions(store)
        await store.beat(others_row(tuple(old.servers), revision=1))
        store._document = replace(old, repaired=True)
        async with begun(store) as driver:
            assert "nonsense" in driver.store_detail
            assert driver.machine.document is None

            again, note = restored(old, above=1, reason="", actor="other", now=NOON)
            assert (await store.restore(old, again, "restored", [note])).document == again
            await until(lambda: driver.store_ok)
            assert driver.document == again


async def test_an_outage_takes_nothing_from_the_time_of_those_who_mend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: now))
    async with Store() as store:
        await slipped(store)
        async with begun(store) as driver:
            assert "'reed'" in driver.store_detail
            away: list[Exception] = [StoreUnavailable("away")] * 10_000
            store.errors["rows"] = away
            await until(lambda: driver.store_detail == "away")
            now += 2 * following.MENDING
            away.clear()
            await until(lambda: "'reed'" in driver.store_detail)
            assert driver.machine.document is None


async def test_who_begins_does_not_wait_where_a_pause_keeps_those_that_run_from_it() -> None:
    async with Store() as store:
        good = await slipped(store)
        mark = Mark(by="ann", since=NOON, reason="")
        held = replace(good, revision=3, active_server="reed", paused=mark)
        assert (await store.swap(2, held, "paused")).document == held
        async with begun(store) as driver:
            assert driver.store_ok
            assert driver.document == held


async def test_a_document_made_anew_is_above_the_rows_of_those_that_died() -> None:
    async with Store() as store:
        await store.beat(others_row(tuple(server.name for server in SERVERS), revision=11))
        async with begun(store) as driver:
            assert driver.store_ok
            assert driver.document.revision == 12


@pytest.mark.parametrize("remembers", [True, False], ids=["history", "no history"])
async def test_who_begins_waits_for_those_that_run_to_bring_back_what_was_set_back(
    remembers: bool,
) -> None:
    async with Store() as store:
        old, newer, rotation = await two_revisions(store)
        assert (await store.swap(1, newer, "rotated", rotation)).document == newer
        # Where heartbeats are rare, the row may be older than the rotation.
        await store.beat(others_row(tuple(old.servers), revision=1 if remembers else 2))
        store._document = old
        if not remembers:
            store._history.clear()
        async with begun(store) as driver:
            assert not driver.store_ok
            assert "at revision 1, and was at 2" in driver.store_detail
            assert (await store.load()).document == old, "it is not for this one to bring it back"

            again, note = restored(newer, above=2, reason="", actor="other", now=NOON)
            assert (await store.restore(old, again, "restored", [note])).document == again
            await until(lambda: driver.store_ok)
            assert driver.document == again


async def test_what_went_on_while_it_was_read_is_no_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Store() as store:
        old, newer, rotation = await two_revisions(store)
        history = store.history

        async def late(limit: int) -> Sequence[Rotation]:
            await store.swap(1, newer, "rotated", rotation)
            await store.beat(others_row(tuple(old.servers), revision=2))
            return await history(limit)

        monkeypatch.setattr(store, "history", late)
        async with begun(store) as driver:
            assert driver.store_ok
            assert driver.document == newer


async def test_a_probe_that_fails_unexpectedly_is_not_the_last_of_its_server() -> None:
    prober = FakeProber()
    async with driving(Store(), prober) as driver:
        prober.errors = [ZeroDivisionError(), ZeroDivisionError()]
        await until(lambda: not prober.errors)
        prober.refusing = {"red", "green"}

        await until(lambda: not driver.joinable("red") and not driver.joinable("green"))


async def test_a_swap_that_fails_unexpectedly_is_not_the_last() -> None:
    store = Store()
    async with driving(store, FakeProber()) as driver:
        store.errors["swap"] = [ZeroDivisionError()]

        async with asyncio.timeout(10):
            rotation = await driver.rotate("because", actor="ann")

    assert rotation is not None
    assert rotation.to == "green"


async def test_who_hears_of_it_cannot_keep_others_from_hearing() -> None:
    heard: list[int] = []

    def deaf(_: Announce) -> None:
        raise ZeroDivisionError

    async with driving(Store(), FakeProber()) as driver:
        driver.listen(deaf)
        driver.listen(lambda announce: heard.append(announce.document.revision))
        await driver.rotate("because", actor="ann")

    assert heard == [2]


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_dead_server_is_left_although_the_clock_was_set(hours: int) -> None:
    store, prober = Store(), FakeProber()
    async with driving(store, prober) as driver:
        await driver.rotate("there", actor="ann", to="green")
        store.clock += hours * HOUR
        await driver.reload()

        prober.refusing = {"green"}
        await until(lambda: driver.document.active_server == "red")

        assert not driver.joinable("green")


async def test_a_cool_down_is_not_over_because_the_clock_was_set_on() -> None:
    store, prober = Store(), FakeProber()
    async with driving(store, prober) as driver:
        prober.refusing = {"red"}
        await until(lambda: driver.document.active_server == "green")
        prober.refusing = set()
        await until(lambda: driver.machine.health("red") is Health.UP)
        store.clock += 3 * HOUR
        await driver.reload()

        assert driver.now() == pytest.approx(NOON + 3 * HOUR, abs=60)
        assert driver.machine.role("red", driver.now()) is Role.COOLING
        until_then = driver.machine.record("red").cool_down_until
        assert until_then is not None
        assert 0 < until_then - driver.now() < 300
        assert [rotation.to for rotation in await store.history()] == ["green"]


@pytest.mark.parametrize("hours", [-3, 3])
async def test_a_clock_that_was_set_is_told_once_and_rotates_nothing(
    caplog: pytest.LogCaptureFixture, hours: int
) -> None:
    store = Store()
    async with driving(store, FakeProber()) as driver:
        ahead = 0.0
        driver._jumps = Jumps(wall=lambda: time.time() + ahead)
        ahead = hours * HOUR
        store.clock += ahead  # a store on this machine goes by the same clock
        await until(lambda: told(caplog, observe.CLOCK_JUMPED))
        for _ in range(3):
            await asyncio.sleep(loop.TICK)

        assert [round(each["seconds"]) for each in told(caplog, observe.CLOCK_JUMPED)] == [ahead]
        assert driver.now() == pytest.approx(NOON + max(ahead, 0), abs=60)
        assert await store.history() == []
        assert driver.document.active_server == "red"


async def test_what_another_machine_sees_counts_although_the_stores_clock_was_set_back() -> None:
    store = Store()
    async with driving(store, FakeProber()) as driver:
        await driver.reload()
        store.clock -= HOUR
        other = others_row(tuple(driver.servers), revision=1)
        await store.beat(replace(other, probing=True, health={"red": {"health": "up"}}))

        def heard() -> bool:
            rows = driver.machine._rows
            return rows is not None and rows.elsewhere == ({"red": True},)

        await until(heard)


async def test_who_was_forgotten_with_its_rooms_tells_of_them_again() -> None:
    """A store forgets the rooms of who was silent for an hour by its clock, which may be set on."""
    store = Store()
    async with driving(store, FakeProber()) as driver:
        heard: list[Placement | None] = []
        driver.listen_moves(heard.append)
        await until(lambda: driver.rows)
        assert heard == []
        await store.leave(driver.process)
        await until(lambda: heard)
        assert heard == [None], "any placement may be lost"


async def test_joins_that_ran_out_of_time_while_this_process_stood_still_blame_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store()
    async with driving(store, FakeProber()) as driver:
        await forgets_stalls(driver)
        for stall in (0.0, loop.TICK + 0.5):
            time.sleep(stall)  # noqa: ASYNC251  # so it does
            for _ in range(3):
                driver.fault("red", Cause.TIMEOUT, FaultSource.JOIN, "no connection in time")
            assert driver.machine._faults.reports == 3
        assert told(caplog, observe.OWN_FAULT) == [
            {"what": "the event loop stood still", "server": "red"}
        ]
        # What the other side said was said, however late it is heard.
        driver.fault("red", Cause.DOWN, FaultSource.JOIN, "refused a join")
        assert driver.machine._faults.reports == 4


async def forgets_stalls(driver: Driver) -> None:
    """Let all stalls so far, also such of a busy machine, be over for longer than a join waits."""

    def forgotten() -> bool:
        driver._stood_until -= loop.LONGEST_WAIT
        return not driver._stood_still()

    await until(forgotten)


async def test_a_stall_that_is_over_is_remembered_as_long_as_joins_wait() -> None:
    async with driving(Store(), FakeProber()) as driver:
        time.sleep(loop.TICK + 0.5)  # noqa: ASYNC251  # so it does
        await until(lambda: driver._stood_until > 0)
        driver.fault("red", Cause.TIMEOUT, FaultSource.JOIN, "no connection in time")
        assert driver.machine._faults.reports == 0
        await forgets_stalls(driver)
        driver.fault("red", Cause.TIMEOUT, FaultSource.JOIN, "no connection in time")
        assert driver.machine._faults.reports == 1


async def test_a_probe_that_was_silent_for_our_fault_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prober = FakeProber()
    async with driving(Store(), prober) as driver:
        prober.own = "this process could not connect: EMFILE"
        await until(lambda: told(caplog, observe.OWN_FAULT))
        assert driver.machine.health("red") is Health.UP
        assert driver.document.active_server == "red"


async def test_a_process_that_starts_after_the_clock_was_set_back_sees_a_dead_server() -> None:
    store, prober = Store(), FakeProber()
    async with driving(store, prober) as first:
        await first.rotate("there", actor="ann", to="green")
        store.clock -= HOUR

        async with Driver(
            SERVERS, store, cast(Prober, prober), Settings(), host="here", probe_interval=0.02
        ) as second:
            assert second.now() >= NOON


async def test_a_last_rotation_in_another_age_is_no_time_to_go_by() -> None:
    store = Store()
    async with driving(store, FakeProber()) as driver:
        store.clock = NOON + 100 * 24 * HOUR
        await driver.reload()
        await driver.rotate("there", actor="ann", to="green")
        store.clock = NOON

        async with Driver(
            SERVERS, store, cast(Prober, FakeProber()), Settings(), host="here"
        ) as second:
            assert second.now() < NOON + HOUR


class DamagedStore(Store):
    """One whose history nobody can read."""

    async def history(self, limit: int = 50, before: int | None = None) -> Sequence[Rotation]:
        raise StoreCorrupt("The history is damaged.")


async def test_a_damaged_history_keeps_nobody_from_starting() -> None:
    async with driving(DamagedStore(), FakeProber()) as driver:
        assert driver.document.active_server == "red"
        assert driver.store_ok


async def rotated_by_another(store: Store) -> None:
    """Another process has written revision 2, without a notice to this one."""
    document = (await MemoryStore.load(store)).document
    assert document is not None
    after, rotation = rotated(
        document,
        to="green",
        names=("red", "green"),
        cause=Cause.MANUAL,
        reason="",
        actor="another",
        now=store.clock,
    )
    await MemoryStore.swap(store, document.revision, after, "another", rotation)


class SlowStore(Store):
    """One whose loads were read a while before they are answered."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()
        self.answers.set()
        self.loads = 0

    async def load(self) -> Loaded:
        loaded = await super().load()
        self.loads += 1
        await self.answers.wait()
        return loaded


async def test_who_asks_for_a_reading_gets_one_that_begins_after() -> None:
    store = SlowStore()
    async with driving(store, FakeProber()) as driver:
        store.answers.clear()
        before = store.loads
        early = asyncio.ensure_future(driver.reload())
        await until(lambda: store.loads == before + 1)
        await rotated_by_another(store)

        late = [asyncio.ensure_future(driver.reload()) for _ in range(5)]
        await asyncio.sleep(0)
        store.answers.set()

        assert {document.revision for document in await asyncio.gather(*late)} == {2}
        assert (await early).revision in (1, 2)
        assert store.loads == before + 2, "shared"


async def test_nothing_is_left_running_at_the_end() -> None:
    before = asyncio.all_tasks()
    store = Store()
    async with driving(store, FakeProber()) as driver:
        store.silent = True
        asking = asyncio.ensure_future(driver.reload())
        await asyncio.sleep(0)

    assert asking.cancelled()
    assert asyncio.all_tasks() == before
