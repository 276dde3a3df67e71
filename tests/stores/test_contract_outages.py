"""
What `livekit_pool.stores.base` promises while a service dies, freezes, or is cut off.

What workers saw is judged by `checking`, whose own tests are in ``test_checking.py``.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from livekit_pool.core.document import Document
from livekit_pool.exceptions import StoreError, StoreOutcomeUnknown, StoreUnavailable
from livekit_pool.stores.base import Changed, Placement, Resync, Store, SwapOutcome, Swapped
from tests.real.until import until

from .backends import parameters
from .outages import (
    BACK,
    BOUND,
    ail,
    begin,
    check_holding,
    document_of,
    end,
    following_by_notices,
    judge,
    judge_watchers,
    losing,
    lost_once,
    recover,
    timed,
    told,
    until_won,
    works_again,
)
from .services import SERVICES, ServiceBackend
from .tcp_proxy import TcpProxy
from .values import first_document, following, process_row, rotation_to

KEEPING = [name for name, kind in SERVICES.items() if kind.keeps_data]
PLACING = [name for name, kind in SERVICES.items() if kind.keeps_placements]

KILLS = 3
"""How often a service dies while processes write; a random number of milliseconds apart."""

Call = Callable[[Store, Document], Coroutine[Any, Any, object]]
STANDUP = Placement(room="standup", server="red", revision=1)

READS: dict[str, Call] = {
    "load": lambda store, document: store.load(),
    "history": lambda store, document: store.history(),
    "ledger": lambda store, document: store.ledger(),
    "rows": lambda store, document: store.rows(),
}
WRITES: dict[str, Call] = {
    "create": lambda store, document: store.create(document, "again"),
    "swap": lambda store, document: store.swap(document.revision, following(document), "s"),
    "restore": lambda store, document: store.restore(document, following(document), "r"),
    "count": lambda store, document: store.count({"p1": {"red": 1}}),
    "fold": lambda store, document: store.fold("p2", "at", 0, {"at": 1}, []),
    "beat": lambda store, document: store.beat(process_row("p1")),
    "leave": lambda store, document: store.leave("p1"),
}
PLACEMENT_READS: dict[str, Call] = {
    "placement": lambda store, document: store.placement("standup"),
    "placements": lambda store, document: store.placements(),
    "rooms": lambda store, document: store.rooms(),
    "lapsing": lambda store, document: store.lapsing(60),
}
PLACEMENT_WRITES: dict[str, Call] = {
    "place": lambda store, document: store.place("retro", "red", 1),
    "confirm": lambda store, document: store.confirm(STANDUP, "p1", 0.0),
    "settled": lambda store, document: store.settled("standup", "p1"),
    "release": lambda store, document: store.release("standup", "p1"),
    "move": lambda store, document: store.move("standup", "green", 2, "p1"),
    "renew": lambda store, document: store.renew([STANDUP], "p1"),
    "lapse": lambda store, document: store.lapse(STANDUP, 60),
}


async def running(kind: type[ServiceBackend], folder: Path) -> AsyncIterator[ServiceBackend]:
    service = kind(folder)
    try:
        await service.start()
        yield service
    finally:
        await service.aclose()


@pytest.fixture(params=parameters(SERVICES))
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ServiceBackend]:
    """Each kind of service, running, with nothing in it."""
    async for service in running(SERVICES[request.param], tmp_path):
        yield service


@pytest.fixture(params=parameters(KEEPING))
async def keeping(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ServiceBackend]:
    """Those that have their data again after their death."""
    async for service in running(SERVICES[request.param], tmp_path):
        yield service


@pytest.fixture(params=parameters(PLACING))
async def placing(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ServiceBackend]:
    """Those that keep placements."""
    async for service in running(SERVICES[request.param], tmp_path):
        yield service


class TestDeath:
    async def test_before_it_is_opened(self, service: ServiceBackend) -> None:
        await service.kill()
        store = service.open()
        async with asyncio.timeout(60), store:
            with pytest.raises(StoreUnavailable):
                await store.load()
            watch = store.watch()
            assert await anext(watch) == Resync()

            await service.start()
            await works_again(store)

            async with service.open() as other:
                await other.create(first_document(), "a")
                assert await told(watch, lambda notice: isinstance(notice, Resync | Changed))
            assert (await store.load()).document == first_document()

    async def test_between_load_and_swap(self, keeping: ServiceBackend) -> None:
        async with keeping.open() as store:
            await store.create(first_document(), "a")
            document = await document_of(store)
            proposal = following(document)

            await keeping.kill()
            with pytest.raises(StoreError):
                await timed(store.swap(1, proposal, "b", rotation_to(proposal)))
            await keeping.start()
            await works_again(store)

            answer = await store.swap(1, proposal, "b", rotation_to(proposal))
            assert answer == Swapped(outcome=SwapOutcome.WON, document=proposal)
            assert [entry.revision for entry in await store.history()] == [2]

    async def test_with_loss_of_its_data(self, service: ServiceBackend) -> None:
        """Nobody makes a document of his own accord; who has one brings it back."""
        async with service.open() as store, service.open() as other:
            await store.create(first_document(7), "a")
            ours = await document_of(store)
            watch = other.watch()
            await anext(watch)

            await service.kill()
            await service.forget()
            await service.start()
            await works_again(store)
            await works_again(other)

            assert await told(watch, lambda notice: notice == Resync())
            assert (await store.load()).document is None
            proposal = following(ours)
            lost = await store.swap(7, proposal, "b", rotation_to(proposal))
            assert lost == Swapped(outcome=SwapOutcome.LOST, document=None)
            answer = await store.restore(None, proposal, "c", [rotation_to(ours)])
            assert answer.outcome is SwapOutcome.WON
            assert await told(watch, lambda notice: notice in (Resync(), Changed(8)))
            assert (await other.load()).document == proposal
            assert [entry.revision for entry in await other.history()] == [7]

    async def test_while_processes_write(self, keeping: ServiceBackend) -> None:
        chance = random.Random(4)
        async with keeping.open() as store:
            await store.create(first_document(), "a")
            watchers = await begin(keeping, "watches_on", 2)
            workers = await begin(keeping, "attempts", 3)
            for _ in range(KILLS):
                await asyncio.gather(*(worker.steps(12) for worker in workers))
                await asyncio.sleep(chance.random() / 5)
                await keeping.kill()
                await asyncio.sleep(chance.random() / 5)
                await keeping.start()
                await works_again(store)
            await until_won(store)

            await judge(store, workers)
            await judge_watchers(store, watchers)

    async def test_while_watching(self, keeping: ServiceBackend) -> None:
        async with keeping.open() as store, keeping.open() as other:
            await store.create(first_document(), "a")
            async with following_by_notices(store) as view:
                for revision in range(2, 5):
                    await keeping.kill()
                    await keeping.start()
                    await works_again(other)
                    proposal = following(await document_of(other))
                    await other.swap(revision - 1, proposal, f"{revision}")
                    if store.keeps_placements:
                        await other.move("standup", f"server-{revision}", revision, "p1")

                    await view.reaches(revision, placed=store.keeps_placements)


class TestLostAnswer:
    """The service does what it is asked; the connection is cut before its answer is there."""

    async def test_of_a_creation(self, service: ServiceBackend) -> None:
        async with losing(service) as (store, other, proxy):
            document = first_document()

            async def applied() -> bool:
                return (await other.load()).document is not None

            answer = await lost_once(proxy, lambda: store.create(document, "a"), applied)

            assert answer == Swapped(outcome=SwapOutcome.WON, document=document)

    async def test_of_a_swap(self, service: ServiceBackend) -> None:
        async with losing(service) as (store, other, proxy):
            await other.create(first_document(), "a")
            proposal = following(first_document())

            async def applied() -> bool:
                return (await document_of(other)).revision == 2

            answer = await lost_once(
                proxy, lambda: store.swap(1, proposal, "b", rotation_to(proposal)), applied
            )

            assert answer == Swapped(outcome=SwapOutcome.WON, document=proposal)
            assert await other.history() == [rotation_to(proposal)]

    async def test_of_a_swap_that_others_followed(self, service: ServiceBackend) -> None:
        """It may be told that it is not known, or that it won; never that it lost."""
        async with losing(service) as (store, other, proxy):
            await other.create(first_document(), "a")
            mine = following(first_document(), "mine")

            async def followed() -> bool:
                there = await document_of(other)
                if there.revision != 2:
                    return False
                next_ = following(there, "theirs")
                await other.swap(2, next_, "c", rotation_to(next_))
                return True

            proxy.mute_from_the_next_write()
            swapping = asyncio.create_task(store.swap(1, mine, "b", rotation_to(mine)))
            await until(followed, seconds=BOUND, what="the swap is followed by another")
            await proxy.cut()
            proxy.heal()
            try:
                outcome = (await swapping).outcome
            except StoreOutcomeUnknown:
                outcome = SwapOutcome.WON

            assert outcome is SwapOutcome.WON
            assert [entry.reason for entry in await other.history()] == ["theirs", "mine"]

    async def test_of_a_restoration(self, service: ServiceBackend) -> None:
        async with losing(service) as (store, other, proxy):
            document = first_document(7)

            async def applied() -> bool:
                return (await other.load()).document is not None

            answer = await lost_once(
                proxy, lambda: store.restore(None, document, "a", [rotation_to(document)]), applied
            )

            assert answer == Swapped(outcome=SwapOutcome.WON, document=document)
            assert await other.history() == [rotation_to(document)]

    async def test_of_a_count(self, service: ServiceBackend) -> None:
        async with losing(service) as (store, other, proxy):

            async def applied() -> bool:
                return bool(await other.ledger())

            await lost_once(proxy, lambda: store.count({"p1": {"red": 3}}), applied)

            assert await other.ledger() == {"p1": {"red": 3}}

    async def test_of_a_fold(self, service: ServiceBackend) -> None:
        """It may be told that this is not known, or was done; it is not done a second time."""
        async with losing(service) as (store, other, proxy):
            await other.count({"p1": {"red": 3}})

            async def applied() -> bool:
                return "red" not in (await other.ledger())["p1"]

            async def fold() -> bool:
                try:
                    return await store.fold("p1", "at", 0, {"at": 1, "sum": 3}, ["red"])
                except StoreOutcomeUnknown:
                    return True

            assert await lost_once(proxy, fold, applied)
            assert not await other.fold("p1", "at", 0, {"at": 1, "sum": 3}, ["red"])
            assert await other.ledger() == {"p1": {"at": 1, "sum": 3}}

    async def test_of_a_beat(self, service: ServiceBackend) -> None:
        async with losing(service) as (store, other, proxy):

            async def applied() -> bool:
                return bool(await other.rows())

            await lost_once(proxy, lambda: store.beat(process_row("p1")), applied)

            assert [row.process for row in await other.rows()] == ["p1"]

    async def test_of_a_placement(self, placing: ServiceBackend) -> None:
        async with losing(placing) as (store, other, proxy):
            await other.create(first_document(), "a")

            async def applied() -> bool:
                return bool(await other.placement("standup"))

            answer = await lost_once(proxy, lambda: store.place("standup", "red", 1), applied)

            assert answer == STANDUP
            assert await other.place("standup", "green", 1) == STANDUP

    async def test_of_a_confirmation(self, placing: ServiceBackend) -> None:
        async with losing(placing) as (store, other, proxy):
            await other.create(first_document(), "a")
            await other.place("standup", "red", 1)

            async def applied() -> bool:
                return bool(await other.rooms())

            answer = await lost_once(proxy, lambda: store.confirm(STANDUP, "p1", 0.0), applied)

            assert answer == STANDUP
            assert await other.rooms() == {"red": 1}

    async def test_of_a_move(self, placing: ServiceBackend) -> None:
        async with losing(placing) as (store, other, proxy):
            moved = Placement(room="standup", server="green", revision=2)

            async def applied() -> bool:
                return await other.placement("standup") == moved

            answer = await lost_once(
                proxy, lambda: store.move("standup", "green", 2, "p1"), applied
            )

            assert answer == moved
            assert await other.placements() == [moved]

    async def test_of_a_lapse(self, placing: ServiceBackend) -> None:
        """Asked again it would find nothing: it may be told that this is not known, or was so."""
        async with losing(placing) as (store, other, proxy):
            await other.create(first_document(), "a")
            await other.place("standup", "red", 1)

            async def applied() -> bool:
                return await other.placement("standup") is None

            proxy.mute()
            lapsing = asyncio.create_task(timed(store.lapse(STANDUP, 0)))
            await until(applied, seconds=BOUND, what="the placement is gone")
            await proxy.cut()
            proxy.heal()
            try:
                lapsed = await lapsing
            except StoreOutcomeUnknown:
                lapsed = True

            assert lapsed

    @pytest.mark.parametrize("name", ["create", "count"])
    async def test_that_nobody_can_be_asked_for(self, service: ServiceBackend, name: str) -> None:
        """What was written must not be said not to be."""
        async with losing(service) as (store, other, proxy):

            async def applied() -> bool:
                return bool((await other.load()).document or await other.ledger())

            proxy.mute_from_the_next_write()
            writing = asyncio.create_task(timed(WRITES[name](store, first_document())))
            await until(applied, seconds=BOUND, what="the write is applied")
            await proxy.refuse()

            with pytest.raises(StoreOutcomeUnknown):
                await writing
            await proxy.accept()


class TestBounds:
    """Every call ends in time, whatever is down, and says that it did not work."""

    @pytest.mark.parametrize("ailment", ["refused", "frozen", "black hole", "mute", "deaf"])
    async def test_of_calls(self, service: ServiceBackend, ailment: str) -> None:
        calls = READS | WRITES
        if service.keeps_placements:
            calls = calls | PLACEMENT_READS | PLACEMENT_WRITES
        async with TcpProxy(service.port) as proxy, service.open(proxy) as store:
            await store.create(first_document(), "a")
            await ail(service, proxy, ailment)

            answers = await asyncio.gather(
                *(timed(call(store, first_document())) for call in calls.values()),
                return_exceptions=True,
            )
            for name, answer in zip(calls, answers, strict=True):
                assert isinstance(answer, StoreError), f"{name}: {answer!r}"
                if name in READS | PLACEMENT_READS:
                    assert isinstance(answer, StoreUnavailable), name

            await recover(service, proxy, ailment)
            await works_again(store)
            ledger = await store.ledger()
            for name, writer in (("count", "p1"), ("fold", "p2")):
                if writer in ledger:
                    # It was written: whoever is told that it was not would count it again.
                    assert isinstance(answers[list(calls).index(name)], StoreOutcomeUnknown)

    @pytest.mark.parametrize("ailment", ["refused", "frozen", "black hole", "mute", "deaf"])
    async def test_of_opening_and_closing(self, service: ServiceBackend, ailment: str) -> None:
        async with TcpProxy(service.port) as proxy:
            await ail(service, proxy, ailment)
            store = service.open(proxy)

            await timed(store.__aenter__())
            await timed(store.aclose())

            await recover(service, proxy, ailment)

    @pytest.mark.parametrize("cut", [True, False])
    async def test_of_noticing_what_was_kept_back(self, service: ServiceBackend, cut: bool) -> None:
        async with (
            TcpProxy(service.port) as proxy,
            service.open(proxy) as store,
            service.open() as other,
        ):
            await other.create(first_document(), "a")
            async with following_by_notices(store) as view:
                await view.reaches(1, placed=False)
                proxy.black_hole()
                await other.swap(1, following(first_document()), "b")
                if cut:
                    await proxy.cut()
                proxy.heal()

                await view.reaches(2, placed=False)


class TestProcesses:
    async def test_one_that_was_stopped_writes_nothing_over(self, service: ServiceBackend) -> None:
        chance = random.Random(5)
        async with service.open() as store:
            await store.create(first_document(), "a")
            workers = await begin(service, "attempts", 3)
            for _ in range(4):
                stopped = chance.choice(workers)
                await stopped.steps(1)
                await asyncio.sleep(chance.random() / 20)
                stopped.process.send_signal(signal.SIGSTOP)
                await until_won(store, wins=10)
                stopped.process.send_signal(signal.SIGCONT)
            await until_won(store)

            await judge(store, workers)

    async def test_clocks_that_are_wrong_change_no_outcome(self, service: ServiceBackend) -> None:
        async with service.open() as store:
            await store.create(first_document(), "a")
            workers = await begin(service, "attempts", 3, skews=(-60.0, 0.0, 60.0))
            await until_won(store)

            await judge(store, workers)

    async def test_clocks_that_are_wrong_kill_nobody(self, service: ServiceBackend) -> None:
        async with service.open() as store:
            await store.create(first_document(), "a")
            workers = await begin(service, "lives", 3, skews=(-60.0, 0.0, 60.0))
            everybody = ["p0", "p1", "p2"]

            async def all_live() -> bool:
                return sorted(row.process for row in await store.rows()) == everybody

            await until(all_live, seconds=BACK, what="all rows are living")
            if service.keeps_placements:
                await check_holding(store, everybody)
            await end(store)
            for worker, skew in zip(workers, (-60.0, 0.0, 60.0), strict=True):
                records = await worker.records()
                assert records[-1]["living"] == everybody
                assert records[-1]["own"] - records[-1]["now"] == pytest.approx(skew, abs=BOUND)
