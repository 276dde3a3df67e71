"""The desk of one process, and what its neighbours put into the spool."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from livekit_pool.web.webhooks import desk as module
from livekit_pool.web.webhooks.desk import Desk, Outcome, Signed
from livekit_pool.web.webhooks.event import NotAnEvent
from livekit_pool.web.webhooks.spool import Spool
from tests.web.asking import settings
from tests.web.fake_pool import FakePool
from tests.web.served import until
from tests.web.webhooks.children import child, kill
from tests.web.webhooks.livekits import SERVERS, body_of, event
from tests.web.webhooks.receiver import Receiver, receiving


@pytest.fixture
def spool() -> Iterator[Spool]:
    spool = Spool()
    yield spool
    spool.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@asynccontextmanager
async def desk(receiver: Receiver, spool: Spool | None) -> AsyncIterator[Desk]:
    """An open desk."""
    pool = FakePool(settings(servers=SERVERS, webhook_urls=(receiver.url,)))
    desk = Desk(pool.pool, pool.settings, spool)
    desk.open()
    try:
        yield desk
    finally:
        await desk.aclose()


def size(spool: Spool) -> int:
    return os.fstat(spool._fd).st_size


def signed(id: str, *names: str, expires: float | None = None) -> Signed:
    expires = time.time() + 300 if expires is None else expires
    return Signed(names=names or ("red",), expires=expires, body=body_of(event(id=id)))


def test_what_goes_through_the_spool_comes_out_as_it_was() -> None:
    before = Signed(names=("blue", "cyan"), expires=1.5, body=b'{\n"event":\n"x"}\n')
    assert Signed.read(before.record()) == before
    assert "event" not in repr(before)


async def test_what_neighbours_were_sent_is_passed_on_in_order(
    receiver: Receiver, spool: Spool
) -> None:
    async with desk(receiver, spool) as holder:
        for number in range(0, 40, 2):
            await holder.accept(signed(f"EV_{number}"))
            record = signed(f"EV_{number + 1}").record()
            with child(partial(spool.put, record)):
                pass
        await receiver.has(40)
        assert holder.outcomes == {Outcome.COUNTED: 40}
    assert receiver.ids == [f"EV_{number}" for number in range(40)]


async def test_an_event_that_comes_to_two_processes_is_one(
    receiver: Receiver, spool: Spool
) -> None:
    async with desk(receiver, spool) as holder:
        with child(lambda: spool.put(signed("EV_1").record())):
            await holder.accept(signed("EV_1"))
            await holder.accept(signed("EV_2"))
            await receiver.has(2)
            assert holder.outcomes == {Outcome.COUNTED: 2, Outcome.REPLAYED: 1}


async def test_who_is_not_the_holder_passes_on_nothing_until_the_holder_dies(
    receiver: Receiver, spool: Spool
) -> None:
    with child(lambda: None if spool.try_hold() else os._exit(1)) as holder:
        async with desk(receiver, spool) as successor:
            await successor.accept(signed("EV_1"))
            await asyncio.sleep(2 * module._LOOK_AGAIN)  # a wait for what must not happen
            assert (receiver.got, successor.outcomes) == ([], {})
            kill(holder)
            await receiver.has(1)


async def test_what_the_holder_had_not_passed_on_is_not_lost_with_it(
    receiver: Receiver, spool: Spool
) -> None:
    await receiver.stop()

    def hold() -> None:
        # As a worker: it takes events in, and cannot pass them on.
        assert spool.try_hold()
        for number in range(10):
            spool.put(signed(f"EV_{number}").record())
        assert len(spool.take() or ()) == 10

    with child(hold) as holder:
        async with desk(receiver, spool) as successor:
            kill(holder)
            await successor.accept(signed("EV_10"))
            await until(lambda: successor.stream.retries)
            await receiver.start()
            await receiver.has(11)
    assert receiver.ids == [f"EV_{number}" for number in range(11)]
    assert spool.take() == []


async def test_only_what_is_over_leaves_the_spool(receiver: Receiver, spool: Spool) -> None:
    receiver.gate = asyncio.Event()
    async with desk(receiver, spool) as holder:
        for each in ("EV_1", "EV_2", "EV_1"):
            await holder.accept(signed(each))
        await until(lambda: receiver.together and holder.outcomes.total() == 3)
        assert size(spool) > 200
        receiver.gate.set()
        await until(lambda: size(spool) < 50)
        assert holder.outcomes == {Outcome.COUNTED: 2, Outcome.REPLAYED: 1}


async def test_the_last_to_stop_leaves_nothing_behind(receiver: Receiver, spool: Spool) -> None:
    with child(lambda: None if spool.try_hold() else os._exit(1)) as holder:
        async with desk(receiver, spool) as last:
            await asyncio.sleep(0)
            await last.accept(signed("EV_1"))
            kill(holder)
        assert receiver.ids == ["EV_1"]
    assert spool.try_hold()
    assert spool.take() == []


async def test_a_stop_does_not_wait_for_a_living_holder(receiver: Receiver, spool: Spool) -> None:
    with child(lambda: None if spool.try_hold() else os._exit(1)):
        async with desk(receiver, spool) as other:
            await other.accept(signed("EV_1"))
            begun = time.monotonic()
        assert time.monotonic() - begun < 6
        assert receiver.got == []
    assert len(spool.take() or ()) == 1


async def test_without_room_in_the_spool_this_process_passes_it_on(
    receiver: Receiver, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "put", lambda record: False)
    async with desk(receiver, spool) as own:
        await own.accept(signed("EV_1"))
        await receiver.has(1)


async def test_one_bad_record_holds_up_no_other(
    receiver: Receiver, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    async with desk(receiver, spool) as holder:
        spool.put(b"nonsense")
        await holder.accept(signed("EV_1"))
        await receiver.has(1)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == ["Task failed"]


async def test_what_is_no_event_does_not_get_into_the_spool(
    receiver: Receiver, spool: Spool
) -> None:
    async with desk(receiver, spool) as holder:
        with pytest.raises(NotAnEvent):
            await holder.accept(Signed(names=("red",), expires=0.0, body=b"[]"))
        assert spool.take() == []
        assert holder.outcomes == {}


async def test_ids_are_remembered_in_bounds(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    async with desk(receiver, None) as own:
        for number in range(10):
            await own.accept(signed(f"EV_{number}"))
        await own.accept(signed("EV_9"))
        assert own.outcomes == {Outcome.COUNTED: 10, Outcome.REPLAYED: 1}
        assert len(own._seen) <= 4
        await until(lambda: len(receiver.got) == 10)


async def test_what_a_dead_holder_left_does_not_hold_up_the_loop(
    receiver: Receiver, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1000):
        spool.put(signed(f"EV_{number}").record())
    turns, at = 0, set()
    process = Desk._process

    async def noted(self: Desk, *given: Any) -> None:
        at.add(turns)
        await process(self, *given)

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Desk, "_process", noted)
    turning = asyncio.create_task(turn())
    async with desk(receiver, spool) as holder:
        await until(lambda: holder.outcomes == {Outcome.COUNTED: 1000})
        await receiver.has(1000)
    turning.cancel()
    assert len(at) >= 1000 / module._AT_ONCE
