"""Metering: what one process makes of what witnesses say; whole days are in test_ledger_day.py."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from livekit_pool import observe
from livekit_pool.core import minutes
from livekit_pool.core.budget import Usage
from livekit_pool.exceptions import StoreOutcomeUnknown, StoreUnavailable
from livekit_pool.metering import looking
from livekit_pool.metering.clocks import PATIENCE, ServerClocks
from livekit_pool.metering.evidence import Evidence
from livekit_pool.metering.metering import AFTER_GAP, LASTS, READ_ROWS
from livekit_pool.stores.base import Ledger
from livekit_pool.stores.memory import MemoryStore
from tests.web.served import until

from .ledger_day import BEGIN, MIDNIGHT, Day, Person, Process, used_by

HOUR = 3600.0


class Store(MemoryStore):
    """
    A store that fails as the test says.

    Attributes:
        errors: what the next counts raise, one each.
        unheard: what they raise after they have counted.
        counts: the stays of each call.
        holds: "count" or "ledger": such calls are answered when it ``answers``.
        asked: how many of those there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.unheard: list[Exception] = []
        self.counts: list[int] = []
        self.seconds = 2.0
        self.holds = ""
        self.asked = 0
        self.answers = asyncio.Event()

    @property
    def heartbeat(self) -> float:
        return self.seconds

    async def count(self, totals: Ledger) -> None:
        if self.errors:
            raise self.errors.pop()
        await self._held("count")
        await super().count(totals)
        self.counts.append(sum(len(sums) for sums in totals.values()) // 2)
        if self.unheard:
            raise self.unheard.pop()

    async def ledger(self) -> Ledger:
        found = await super().ledger()
        await self._held("ledger")
        return found

    async def _held(self, call: str) -> None:
        if call == self.holds:
            self.asked += 1
            await self.answers.wait()


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with Store() as store:
        yield store


@pytest.fixture
async def day(store: Store) -> Day:
    """Nobody is there, and nothing happens but what the test does."""
    day = Day(store, seed=0, people=0)
    day.store = store
    day.now = MIDNIGHT + 6 * HOUR
    for process in day.processes:
        process.driver.store = store
        await process.metering.ask_the_time()
    return day


@pytest.fixture
def one(day: Day) -> Process:
    """A process that probes for its machine."""
    for process in day.processes:
        for name in process.driver.servers:
            process.metering._clocks.heard(name, day.now)
    return day.processes[0]


def join(process: Process, sid: str, server: str = "red") -> None:
    process.metering.entered(server)
    process.metering.began(server, sid)


async def used(store: Store, server: str = "red") -> float:
    return await used_by(store, server, MIDNIGHT, MIDNIGHT + 30 * 86_400)


class TestEvidence:
    def evidence(self, limit: int = 10) -> Evidence:
        self.now = BEGIN
        clocks = ServerClocks(lambda: self.now, lambda: self.now)
        clocks.heard("red", self.now)
        return Evidence(clocks, limit)

    def test_of_a_session_lasts_as_long_as_it(self) -> None:
        evidence = self.evidence()
        evidence.began("red", "PA_1")
        self.now += 60
        assert evidence.spans() == {("red", "PA_1"): (BEGIN, BEGIN + 60)}
        evidence.ended("red", "PA_1")
        self.now += 60
        assert evidence.take() == {("red", "PA_1"): (BEGIN, BEGIN + 60)}
        assert evidence.take() == {}

    def test_the_end_of_the_old_session_is_not_that_of_its_resume(self) -> None:
        evidence = self.evidence()
        evidence.began("red", "PA_1")
        self.now += 60
        evidence.began("red", "PA_1")
        evidence.ended("red", "PA_1")
        self.now += 60
        assert evidence.spans() == {("red", "PA_1"): (BEGIN, BEGIN + 120)}
        evidence.ended("red", "PA_1")
        evidence.ended("red", "PA_1")
        self.now += 60
        assert evidence.spans() == {("red", "PA_1"): (BEGIN, BEGIN + 120)}

    def test_what_is_put_back_is_merged_with_what_came_since(self) -> None:
        evidence = self.evidence()
        self.now += 100
        evidence.saw("red", "PA_1", BEGIN + 10, BEGIN + 20)
        taken = evidence.take()
        evidence.saw("red", "PA_1", BEGIN + 15, BEGIN + 30)
        evidence.put_back(taken)
        assert evidence.spans() == {("red", "PA_1"): (BEGIN + 10, BEGIN + 30)}

    def test_of_too_many_the_oldest_is_lost_and_counted(self) -> None:
        evidence = self.evidence(limit=3)
        for number in range(5):
            evidence.saw("red", f"PA_{number}", BEGIN, BEGIN)
        assert [sid for _, sid in evidence.spans()] == ["PA_2", "PA_3", "PA_4"]
        assert evidence.lost == 2

    @pytest.mark.parametrize("sid", ["", "x" * 65, "PA_\n", "PA_ü"])
    def test_what_is_no_sid_is_nobody(self, sid: str) -> None:
        evidence = self.evidence()
        evidence.saw("red", sid, BEGIN, BEGIN)
        evidence.began("red", sid)
        assert evidence.spans() == {}

    @pytest.mark.parametrize(
        ("start", "end", "kept"),
        [
            (BEGIN - 10, BEGIN + 10, (BEGIN - 10, BEGIN)),  # it was not there in the future
            (BEGIN + 5, BEGIN + 10, (BEGIN, BEGIN)),
            (BEGIN - 5, BEGIN - 10, (BEGIN - 10, BEGIN - 10)),
            (0.0, BEGIN, (BEGIN - 31 * 86_400, BEGIN)),
            (-1e300, -1e299, (BEGIN - 31 * 86_400, BEGIN - 31 * 86_400)),
            (math.nan, BEGIN, None),
            (BEGIN, math.inf, None),
        ],
    )
    def test_what_cannot_be_is_bounded(
        self, start: float, end: float, kept: tuple[float, float] | None
    ) -> None:
        evidence = self.evidence()
        evidence.saw("red", "PA_1", start, end)
        assert evidence.spans() == ({} if kept is None else {("red", "PA_1"): kept})


class TestWriting:
    async def test_nothing_is_lost_while_the_store_is_away(
        self, day: Day, one: Process, store: Store
    ) -> None:
        join(one, "PA_1")
        day.now += 60
        store.errors = [StoreUnavailable("away")]
        with pytest.raises(StoreUnavailable):
            await one.metering.flush()
        one.metering.ended("red", "PA_1")
        day.now += 60
        assert await used(store) == 0.0

        await one.metering.flush()
        assert await used(store) == 1.0
        assert store.counts == [1]
        await one.metering.flush()
        assert store.counts == [1], "it has nothing more to say"

    async def test_what_may_be_written_is_written_again_and_counts_once(
        self, day: Day, one: Process, store: Store
    ) -> None:
        join(one, "PA_1")
        day.now += 60
        store.unheard = [StoreOutcomeUnknown("its answer was lost")]
        with pytest.raises(StoreOutcomeUnknown):
            await one.metering.flush()
        await one.metering.flush()
        assert await used(store) == 1.0

    @pytest.mark.parametrize(("seconds", "counts"), [(2.0, [250, 250, 100]), (300.0, [600])])
    async def test_many_are_written_in_parts_where_calls_are_free(
        self, day: Day, one: Process, store: Store, seconds: float, counts: list[int]
    ) -> None:
        store.seconds = seconds
        for number in range(600):
            join(one, f"PA_{number}")
        await one.metering.flush()
        assert store.counts == counts

    async def test_parts_that_were_written_are_not_kept(
        self, day: Day, one: Process, store: Store
    ) -> None:
        for number in range(300):
            one.metering.witness("red", sid=f"PA_{number}", joined=day.now, at=day.now)
        store.unheard = [StoreOutcomeUnknown("its answer was lost")]
        with pytest.raises(StoreOutcomeUnknown):
            await one.metering.flush()
        await one.metering.flush()
        assert store.counts == [250, 250, 50]

    async def test_a_planned_stop_writes_what_is_left(
        self, day: Day, one: Process, store: Store
    ) -> None:
        join(one, "PA_1")
        day.now += 60
        await one.metering.aclose()
        assert await used(store) == 1.0
        store.errors = [StoreUnavailable("away")]
        await one.metering.aclose()

    async def test_a_loss_is_told_once(
        self,
        day: Day,
        one: Process,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(one.metering._evidence, "_limit", 2)
        for _ in range(2):
            for number in range(5):
                one.metering.witness("red", sid=f"PA_{number}", joined=0, at=day.now)
            await one.metering.flush()
        assert [record.message for record in caplog.records] == [observe.MINUTES_LOST]

    async def test_what_a_store_that_answers_does_not_take_is_told_once_and_kept(
        self, day: Day, one: Process, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        join(one, "PA_1")
        day.now += 60
        for _ in range(3):
            store.errors = [StoreUnavailable("the document is full")]
            with pytest.raises(StoreUnavailable):
                await one.metering.flush()
        (told,) = caplog.records
        assert told.message == observe.MINUTES_UNWRITTEN
        assert told.fields == {"detail": "the document is full"}  # type: ignore[attr-defined]

        for _ in range(2):
            await one.metering.flush()
        assert [record.message for record in caplog.records[1:]] == [observe.MINUTES_WRITTEN]
        assert await used(store) == 1.0

    async def test_that_a_store_is_away_is_not_told_twice(
        self, one: Process, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        one.driver.store_ok = False
        join(one, "PA_1")
        store.errors = [StoreUnavailable("away")]
        with pytest.raises(StoreUnavailable):
            await one.metering.flush()
        assert not caplog.records


class TestFigures:
    async def test_of_own_sessions_wait_for_no_store(
        self, day: Day, one: Process, store: Store
    ) -> None:
        join(one, "PA_1")
        day.now += 90
        assert one.metering.usage("red").used == 1.5
        await one.metering.flush()
        one.metering.ended("red", "PA_1")
        await one.metering.flush()
        day.now += 60
        assert one.metering.usage("red").used == 1.5, "it has told the store, and has not read it"
        await one.metering.read()
        day.now += 600
        assert one.metering.usage("red").used == 1.5

    async def test_do_not_fall_while_the_store_counts(
        self, day: Day, one: Process, store: Store
    ) -> None:
        join(one, "PA_1")
        day.now += 90
        one.metering.ended("red", "PA_1")
        store.holds = "count"
        flush = asyncio.create_task(one.metering.flush())
        await until(lambda: store.asked)
        day.now += 60
        assert one.metering.usage("red").used == 1.5
        store.answers.set()
        await flush
        day.now += 60
        assert one.metering.usage("red").used == 1.5

    async def test_do_not_fall_for_what_is_counted_while_the_store_is_read(
        self, day: Day, one: Process, store: Store
    ) -> None:
        join(one, "PA_1")
        day.now += 90
        one.metering.ended("red", "PA_1")
        store.holds = "ledger"
        read = asyncio.create_task(one.metering.read())
        await until(lambda: store.asked)
        flush = asyncio.create_task(one.metering.flush())
        for _ in range(20):  # as far as it gets
            await asyncio.sleep(0)
        store.answers.set()
        await asyncio.gather(read, flush)
        day.now += 60
        assert one.metering.usage("red").used == 1.5

    async def test_of_other_processes_are_read(self, day: Day, one: Process, store: Store) -> None:
        other = day.processes[2]
        join(other, "PA_1")
        join(one, "PA_1")  # it resumes through another one
        join(other, "PA_2")
        other.people |= {Person("standup", until=0.0, server="red") for _ in range(2)}
        day.now += 60
        await other.metering.flush()
        await one.metering.read()
        figures = one.metering.usage("red")
        assert figures == Usage(
            used=2.0, ends=MIDNIGHT + 31 * 86_400, participants=3, mean=figures.mean
        )
        assert figures.mean == pytest.approx(2 / 60)

    async def test_the_machine_is_told_of_each_server(self, day: Day, one: Process) -> None:
        join(one, "PA_1", "green")
        day.now += 60
        one.metering.tell()
        assert {name: figures.used for name, figures in one.driver.usage.items()} == {
            "red": 0.0,
            "green": 1.0,
            "blue": 0.0,
        }

    async def test_begin_anew_at_the_reset(self, day: Day, one: Process) -> None:
        day.now = MIDNIGHT - 120
        join(one, "PA_1")
        day.now = MIDNIGHT - 1
        assert one.metering.usage("red").used == pytest.approx(119 / 60)
        assert one.metering.usage("red").ends == MIDNIGHT
        day.now = MIDNIGHT + 60
        assert one.metering.usage("red").used == 1.0

    @pytest.mark.parametrize(
        ("server", "kind", "counted"),
        [("red", "STANDARD", 1.0), ("red", "AGENT", 1.0), ("red", "EGRESS", 0.0), ("x", "SIP", 0)],
    )
    async def test_who_counts(
        self, day: Day, one: Process, store: Store, server: str, kind: str, counted: float
    ) -> None:
        one.metering.witness(server, sid="PA_1", joined=day.now - 60, at=day.now, kind=kind)
        await one.metering.flush()
        assert await used(store) == counted
        assert set(await store.ledger()) <= {"minutes:red"}

    async def test_a_full_server_is_told_of_at_once(self, day: Day, one: Process) -> None:
        red = replace(one.driver.servers["red"], max_participants=3)
        one.driver.servers = {**one.driver.servers, "red": red}
        one.metering.tell()
        join(day.processes[2], "PA_1")
        day.processes[2].people.add(Person("standup", until=0.0, server="red"))
        day.now += 2
        join(one, "PA_2")
        assert not one.metering.is_full("red")
        await asyncio.sleep(0)
        assert one.driver.usage["red"].participants == 0, "it can wait for the next reading"
        join(one, "PA_3")
        assert one.metering.is_full("red")
        await asyncio.sleep(0)
        one.metering.count_again()
        told = one.driver.usage["red"].participants
        assert told == 2, "the other's row may count somebody who has come here since"
        day.now += LASTS * one.driver.store.heartbeat + READ_ROWS
        one.metering.count_again()
        assert one.driver.usage["red"].participants == 3
        one.metering.ended("red", "PA_3")
        assert not one.metering.is_full("red")
        assert not one.metering.is_full("green")

    async def test_a_server_that_own_sessions_fill_is_told_of_at_once(
        self, day: Day, one: Process
    ) -> None:
        red = replace(one.driver.servers["red"], max_participants=2)
        one.driver.servers = {**one.driver.servers, "red": red}
        one.metering.tell()
        join(one, "PA_1")
        join(one, "PA_2")
        await asyncio.sleep(0)
        assert one.driver.usage["red"].participants == 2

    async def test_a_seat_of_another_process_is_taken_and_nobody_is_there(
        self, day: Day, one: Process
    ) -> None:
        red = replace(one.driver.servers["red"], max_participants=1)
        one.driver.servers = {**one.driver.servers, "red": red}
        day.processes[2].driver.coming = lambda: {"red": 1}
        assert one.metering.is_full("red")
        assert one.metering.usage("red").participants == 0

    async def test_seats_that_others_wanted_are_free_while_the_store_is_away(
        self, day: Day, one: Process
    ) -> None:
        """They cannot say that they do not want them any more."""
        red = replace(one.driver.servers["red"], max_participants=1)
        one.driver.servers = {**one.driver.servers, "red": red}
        day.processes[2].driver.coming = lambda: {"red": 1}
        one.driver.store_ok = False
        assert await one.metering.seats.take("red")
        assert one.metering.is_full("red"), "its own count"


class TestFolding:
    async def old(self, day: Day, process: Process) -> None:
        at = day.now - 3 * HOUR
        process.metering.witness("red", sid="PA_old", joined=at, at=at + 600)
        await process.metering.flush()

    async def test_the_one_that_leads_its_machine_shortens_the_ledger(
        self, day: Day, one: Process, store: Store
    ) -> None:
        await self.old(day, one)
        await day.processes[1].metering.read()
        assert "PA_old:to" in (await store.ledger())["minutes:red"]

        await one.metering.read()
        assert "PA_old:to" not in (await store.ledger())["minutes:red"]
        assert await used(store) == 10.0
        assert one.metering.usage("red").used == 10.0

    async def test_two_that_do_it_at_once_count_once(
        self, day: Day, one: Process, store: Store
    ) -> None:
        await self.old(day, one)
        other = day.processes[2]
        one.metering._ledger = other.metering._ledger = {
            writer: dict(sums) for writer, sums in (await store.ledger()).items()
        }
        await one.metering._fold("red")
        day.now += 1
        await other.metering._fold("red")
        assert await used(store) == 10.0
        await other.metering.read()
        assert other.metering.usage("red").used == 10.0

    async def test_not_before_all_could_bring_what_they_saw_while_it_was_away(
        self, day: Day, one: Process, store: Store
    ) -> None:
        await self.old(day, one)
        for listener in one.driver.store_listeners:
            listener(True)
        await one.metering.read()
        assert "PA_old:to" in (await store.ledger())["minutes:red"]
        day.now += AFTER_GAP
        await one.metering.read()
        assert "PA_old:to" not in (await store.ledger())["minutes:red"]

    async def test_not_before_so_long_after_its_own_start(
        self, day: Day, one: Process, store: Store
    ) -> None:
        """The store may be back since a moment ago, which a new process has not seen."""
        await self.old(day, one)
        new = Process(day, "one", leads=True)
        new.driver.store = store
        await new.metering.ask_the_time()
        new.metering.start()
        day.now += AFTER_GAP - 1
        await new.metering.read()
        assert "PA_old:to" in (await store.ledger())["minutes:red"]
        day.now += 1
        await new.metering.read()
        assert "PA_old:to" not in (await store.ledger())["minutes:red"]

    async def test_not_before_the_server_has_told_its_time(
        self, day: Day, one: Process, store: Store
    ) -> None:
        await self.old(day, one)
        new = Process(day, "one", leads=True)
        new.driver.store = store
        await new.metering.read()
        assert "PA_old:to" in (await store.ledger())["minutes:red"]
        await new.metering.ask_the_time()
        await new.metering.read()
        assert "PA_old:to" not in (await store.ledger())["minutes:red"]

    async def test_a_watermark_that_a_wrong_clock_set_is_put_back(
        self, day: Day, one: Process, store: Store
    ) -> None:
        await store.count({"minutes:red": {"until": int((day.now + 1e6) * 1000)}})
        await one.metering.read()
        join(one, "PA_1")
        day.now += 60
        assert one.metering.usage("red").used == 1.0
        await one.metering.flush()
        assert await used(store) == 1.0


class TestLooking:
    def there(self, day: Day, room: str, *sids: str, server: str = "red") -> None:
        for sid in sids:
            person = Person(room, until=0.0, direct=True, server=server, sid=sid, joined=day.now)
            day._here[server].add(person)

    async def test_those_who_came_past_the_pool_are_found(
        self, day: Day, one: Process, store: Store
    ) -> None:
        self.there(day, "standup", "PA_1", "PA_2")
        day.now += 60
        await one.metering.look()
        day.now += 60
        await one.metering.look()
        await one.metering.flush()
        assert await used(store) == pytest.approx(4.0)
        assert one.metering.participants("red") == 2
        assert one.metering.usage("red").participants == 2

    async def test_who_is_on_the_way_at_one_look_did_not_come_past_the_pool(
        self, day: Day, one: Process
    ) -> None:
        """The server still has those whose connection broke with a process that died."""
        self.there(day, "standup", "PA_1", "PA_2")
        await one.metering.look()
        assert one.metering.participants("red") == 0
        for sid in ("PA_1", "PA_2"):
            one.people.add(Person("standup", until=0.0, server="red", sid=sid))
            join(one, sid)
        assert one.metering.participants("red") == 2
        await one.metering.look()
        self.there(day, "standup", "PA_3")
        await one.metering.look()
        assert one.metering.participants("red") == 2
        await one.metering.look()
        assert one.metering.participants("red") == 3, "it stays, so it came past the pool"

    async def test_a_seat_is_nobody_on_the_server(self, day: Day, one: Process) -> None:
        """It explains none of those whom the server has."""
        self.there(day, "standup", "PA_1")
        day.processes[2].driver.coming = lambda: {"red": 1}
        await one.metering.look()
        await one.metering.look()
        assert one.metering.usage("red").participants == 1
        assert one.metering.participants("red") == 2

    async def test_rooms_that_explain_themselves_are_not_looked_into_each_time(
        self, day: Day, one: Process
    ) -> None:
        self.there(day, "standup", "PA_1")
        self.there(day, "retro", "PA_2")
        one.people.add(Person("standup", until=0.0, server="red", sid="PA_1"))
        await one.metering.look()
        assert day.counters["rooms looked into"] == 2, "the first time all are"
        day.now += 30
        await one.metering.look()
        assert day.counters["rooms looked into"] == 3, "who is in retro came past the pool"
        one.people.add(Person("other", until=0.0, server="red", sid="PA_2"))
        day.now += 30
        await one.metering.look()
        assert day.counters["rooms looked into"] == 3, "there are as many as the pool has"
        day.now += looking.AGAIN
        await one.metering.look()
        assert day.counters["rooms looked into"] == 5

    async def test_a_room_that_is_said_to_be_empty_is_looked_into_once(
        self, day: Day, one: Process, store: Store
    ) -> None:
        agent = Person("standup", until=0.0, kind="AGENT", server="red", sid="PA_1", joined=day.now)
        day._here["red"].add(agent)
        day.now += 60
        await one.metering.look()
        await one.metering.look()
        assert day.counters["rooms looked into"] == 1
        await one.metering.flush()
        assert await used(store) == pytest.approx(1.0)

    async def test_not_too_many_at_once_and_each_in_its_turn(
        self, day: Day, one: Process, store: Store
    ) -> None:
        for number in range(50):
            self.there(day, f"room-{number}", f"PA_{number}")
        for expected in (20, 40, 60):
            day.now += 30
            await one.metering.look()
            assert day.counters["rooms looked into"] == expected
        await one.metering.flush()
        assert len(minutes.read((await store.ledger())["minutes:red"]).stays) == 50

    async def test_a_server_that_is_down_is_not_asked_and_has_nobody(
        self, day: Day, one: Process
    ) -> None:
        self.there(day, "standup", "PA_1")
        await one.metering.look()
        await one.metering.look()
        assert one.metering.participants("red") == 1
        day.up.discard("red")
        await one.metering.look()
        assert one.metering.participants("red") == 0

    async def test_what_a_server_says_is_taken_by_its_own_clock(
        self, day: Day, one: Process, store: Store
    ) -> None:
        other = day.processes[1]
        skew = 90.0  # green's, in days that are played
        await other.metering.ask_the_time()
        join(other, "PA_1", "green")
        day.now += 60
        other.metering.witness("green", sid="PA_1", joined=day.now + skew - 61, at=day.now + skew)
        await other.metering.flush()
        assert await used(store, "green") == pytest.approx(61 / 60, abs=1 / 60)


class TestClocks:
    def clocks(self) -> ServerClocks:
        self.store, self.monotonic = BEGIN, 100.0
        return ServerClocks(lambda: self.store, lambda: self.monotonic)

    def pass_time(self, seconds: float) -> None:
        self.store += seconds
        self.monotonic += seconds

    def test_without_a_word_the_servers_go_by_the_stores(self) -> None:
        clocks = self.clocks()
        self.pass_time(10)
        assert clocks.now("red") == BEGIN + 10
        assert not clocks.knows("red")

    def test_small_differences_are_the_whole_seconds(self) -> None:
        clocks = self.clocks()
        clocks.heard("red", BEGIN - 2)
        assert clocks.now("red") == BEGIN
        assert clocks.knows("red")
        clocks.heard("red", BEGIN + 1)
        assert clocks.now("red") == BEGIN

    def test_greater_ones_are_believed(self) -> None:
        clocks = self.clocks()
        clocks.heard("red", BEGIN - 60)
        assert clocks.now("red") == BEGIN - 59.5
        clocks.heard("red", BEGIN + 60)
        assert clocks.now("red") == BEGIN + 60.5
        assert clocks.now("green") == BEGIN

    def test_a_clock_of_ours_that_is_set_changes_nothing(self) -> None:
        clocks = self.clocks()
        clocks.heard("red", BEGIN)
        self.pass_time(5)
        self.store += 7200
        assert clocks.now("red") == BEGIN + 5


class TestTimed:
    def evidence(self) -> tuple[Evidence, ServerClocks]:
        self.store, self.monotonic = BEGIN, 100.0
        clocks = ServerClocks(lambda: self.store, lambda: self.monotonic)
        return Evidence(clocks), clocks

    def test_a_session_on_a_server_that_has_not_told_its_time_waits_for_that(self) -> None:
        evidence, clocks = self.evidence()
        evidence.began("red", "PA_1")
        evidence.began("red", "PA_2")
        self.monotonic += 10
        evidence.ended("red", "PA_2")
        assert evidence.take() == {}
        assert evidence.spans().keys() == {("red", "PA_1"), ("red", "PA_2")}, "figures have it"
        clocks.heard("red", BEGIN - 3600)
        self.monotonic += 10
        told = BEGIN - 3609.5
        assert evidence.take() == {
            ("red", "PA_1"): (told, told + 20),
            ("red", "PA_2"): (told, told + 10),
        }

    def test_of_too_many_that_wait_the_oldest_is_lost_and_counted(self) -> None:
        _, clocks = self.evidence()
        evidence = Evidence(clocks, limit=3)
        for number in range(5):
            evidence.began("red", f"PA_{number}")
            evidence.ended("red", f"PA_{number}")
        assert [sid for _, sid in evidence.spans()] == ["PA_2", "PA_3", "PA_4"]
        assert evidence.lost == 2

    def test_but_not_for_ever(self) -> None:
        evidence, _ = self.evidence()
        evidence.began("red", "PA_1")
        evidence.began("red", "PA_2")
        evidence.ended("red", "PA_2")
        assert evidence.take() == {}
        self.monotonic += PATIENCE
        self.store += PATIENCE
        assert evidence.take() == {
            ("red", "PA_1"): (BEGIN, BEGIN + PATIENCE),
            ("red", "PA_2"): (BEGIN, BEGIN),
        }

    def test_who_joins_tells_what_time_it_is(self) -> None:
        evidence, clocks = self.evidence()
        evidence.began("red", "PA_1", BEGIN + 50, now=True)
        self.monotonic += 10
        assert clocks.now("red") == BEGIN + 60
        assert evidence.take() == {("red", "PA_1"): (BEGIN + 50, BEGIN + 60)}

    def test_who_resumes_says_since_when_it_is_there(self) -> None:
        evidence, clocks = self.evidence()
        evidence.began("red", "PA_1", BEGIN - 600)
        assert not clocks.knows("red"), "it says nothing of now"
        clocks.heard("red", BEGIN)
        self.monotonic += 10
        assert evidence.take() == {("red", "PA_1"): (BEGIN - 600, BEGIN + 10)}

    @pytest.mark.parametrize(
        ("joined", "since"), [(BEGIN + 60, BEGIN), (1.0, BEGIN - 31 * 86_400), (0.0, BEGIN)]
    )
    def test_a_time_of_joining_that_cannot_be_is_bounded(self, joined: float, since: float) -> None:
        evidence, clocks = self.evidence()
        clocks.heard("red", BEGIN)
        evidence.began("red", "PA_1", joined)
        assert evidence.take() == {("red", "PA_1"): (since, BEGIN)}

    def test_a_webhook_from_before_the_server_told_its_time(self) -> None:
        evidence, _ = self.evidence()
        evidence.saw("red", "PA_1", BEGIN + 3600, BEGIN + 3660)
        assert evidence.take() == {("red", "PA_1"): (BEGIN + 3600, BEGIN + 3660)}

    def test_a_session_is_no_longer_for_a_servers_clock_that_is_set(self) -> None:
        evidence, clocks = self.evidence()
        clocks.heard("red", BEGIN)
        evidence.began("red", "PA_1")
        self.monotonic += 10
        assert evidence.spans()["red", "PA_1"] == (BEGIN, BEGIN + 10)
        clocks.heard("red", BEGIN + 3600)
        self.monotonic += 10
        assert evidence.spans()["red", "PA_1"] == (BEGIN, BEGIN + 20)
