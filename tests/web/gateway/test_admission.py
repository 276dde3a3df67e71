"""From a client's request to its `join`: the two calls it is mostly, and what may come between."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest

from livekit_pool.core.document import Cause
from livekit_pool.pool import Pool
from livekit_pool.rooms import Rooms
from livekit_pool.stores.base import Placement
from livekit_pool.web.gateway import inquiry, signal
from livekit_pool.web.gateway.frames import FrameStream, Message, encode
from livekit_pool.web.gateway.upstream import Upstream
from tests.web.gateway.a_pool import JOIN, PONG, SWITCHED, Line, Setting, a_pool
from tests.web.served import Connection, until

pytestmark = pytest.mark.usefixtures("_nothing_failed")


@pytest.fixture
def _nothing_failed(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [r for r in caplog.get_records("call") if r.levelno >= logging.ERROR] == []


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tasks that admissions begin."""
    begun: list[Any] = []
    inquire = inquiry.Inquiry._inquire

    def counted(self: Any, *args: Any) -> Any:
        begun.append(self)
        return inquire(self, *args)

    monkeypatch.setattr(inquiry.Inquiry, "_inquire", counted)
    return begun


async def joins(line: Line) -> None:
    await line.joins()


async def says_nothing(line: Line) -> None:
    pass


async def enters(setting: Setting) -> Connection:
    """A client that has its join."""
    connection = await setting.asks()
    await connection.until(JOIN)
    return connection


async def empty(setting: Setting) -> None:
    """Nobody waits any more, and no room is kept for anybody."""
    await until(lambda: not setting.gateway.waiting and not len(setting.pool.rooms))


async def goodbye(line: Line) -> None:
    """Wait until the server is told that the client it has let in is gone."""
    stream = FrameStream(masked=True, wanted=frozenset({signal.REQUEST_LEAVE}))
    async with asyncio.timeout(10):
        while True:
            pieces = stream.feed(await line.reader.read(1000))
            if isinstance(pieces, list) and isinstance(pieces[0], Message):
                assert pieces[0].payload == signal.GOODBYE
                return


# -- two calls --


async def test_a_join_takes_no_task_where_it_has_only_the_server_to_wait_for(
    tasks: list[Any],
) -> None:
    async with a_pool(joins) as setting:
        (await enters(setting)).close()
        assert len(tasks) == 1  # the first one looked up the server's address
        await empty(setting)
        connection = await enters(setting)

        assert len(tasks) == 1
        assert not setting.gateway.waiting
        (room,) = setting.pool.rooms
        assert (room.joining, len(room.sessions), room.held) == (0, 1, True)
        connection.close()
        await empty(setting)


async def test_a_store_that_answers_later_is_waited_for(
    tasks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_pool(joins) as setting:
        (await enters(setting)).close()
        await empty(setting)
        monkeypatch.setattr(setting.pool.rooms._placing, "_prompt", None)
        (await enters(setting)).close()

        assert len(tasks) == 2
        await empty(setting)


@pytest.mark.parametrize("more", [b"", encode(PONG)], ids=["nothing", "a message"])
async def test_what_comes_behind_the_join_comes_after_it(more: bytes) -> None:
    """Also what comes before the loop has turned once more."""

    async def goes_on(line: Line) -> None:
        line.writer.write(SWITCHED)
        await asyncio.sleep(0)
        line.writer.write(JOIN + more)
        for number in range(20):
            line.writer.write(b"\x82\x0b\x1a" + bytes([number] * 10))
            await asyncio.sleep(0)

    async with a_pool(goes_on) as setting:
        (await enters(setting)).close()
        await empty(setting)
        connection = await enters(setting)
        wanted = more + b"".join(b"\x82\x0b\x1a" + bytes([number] * 10) for number in range(20))

        assert await connection.reader.readexactly(len(wanted)) == wanted
        connection.close()


async def test_who_is_let_in_is_let_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def goes_on(line: Line) -> None:
        await line.joins(encode(PONG))

    async with a_pool(goes_on) as setting:
        (await enters(setting)).close()
        await empty(setting)
        # A good join may change what is thought of its server, and then all look again.
        monkeypatch.setattr(Pool, "join_answered", lambda *_: setting.gateway._poke())
        connection = await enters(setting)

        assert await connection.reader.readexactly(len(encode(PONG))) == encode(PONG)
        connection.writer.write_eof()
        assert await connection.rest() == b""
        await empty(setting)


# -- clients that go --


@pytest.mark.parametrize("first", [True, False], ids=["in a task", "in two calls"])
async def test_a_client_that_goes_leaves_nobody_behind(first: bool) -> None:
    let_in = asyncio.Event()

    async def joins_late(line: Line) -> None:
        if len(setting.red.lines) > (0 if first else 1):
            await let_in.wait()
        await line.joins()

    async with a_pool(joins_late) as setting:
        if not first:
            (await enters(setting)).close()
            await empty(setting)
        connection = await setting.asks()
        await until(lambda: len(setting.red.lines) == (1 if first else 2))
        connection.close()
        await empty(setting)
        let_in.set()

        await goodbye(setting.red.lines[-1])


async def test_a_client_that_goes_before_its_task_has_begun_leaves_nobody_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_in = asyncio.Event()

    async def joins_late(line: Line) -> None:
        if len(setting.red.lines) > 1:
            await let_in.wait()
        await line.joins()

    async with a_pool(joins_late) as setting:
        (await enters(setting)).close()
        await empty(setting)
        connection = await setting.asks()
        await until(lambda: len(setting.red.lines) == 2)
        (admission,) = setting.gateway.waiting
        admission.poke()  # begins the task
        admission.cancel()  # type: ignore[attr-defined]  # it is an admission
        await empty(setting)
        let_in.set()

        await goodbye(setting.red.lines[-1])
        connection.close()


# -- what may happen meanwhile --


async def test_a_room_that_moves_meanwhile_is_joined_where_it_went() -> None:
    async def only_green(line: Line) -> None:
        if line in setting.green.lines or len(setting.red.lines) == 1:
            await line.joins()

    async with a_pool(only_green) as setting:
        (await enters(setting)).close()
        await empty(setting)
        connection = await setting.asks()
        await until(lambda: len(setting.red.lines) == 2)
        await setting.pool.rotate("away from red")

        await connection.until(JOIN)
        placement = await setting.pool.placement("standup")
        assert placement is not None
        assert placement.server == "green"
        connection.close()


async def test_an_answer_counts_only_if_the_room_has_not_moved_unheard() -> None:
    async def moves(line: Line) -> None:
        if line is setting.red.lines[-1] and len(setting.red.lines) == 2:
            # As another process does it whose notice has not come yet.
            there = Placement(room="standup", server="green", revision=2)
            store = setting.pool.driver.store
            store._rooms.put(there, setting.pool.now())  # type: ignore[attr-defined]  # in memory
        await line.joins()

    async with a_pool(moves) as setting:
        (await enters(setting)).close()
        await empty(setting)
        connection = await enters(setting)
        (room,) = setting.pool.rooms
        await until(lambda: room.sessions)

        assert {session.server for session in room.sessions} == {"green"}
        await goodbye(setting.red.lines[-1])
        connection.close()


async def test_a_refusal_is_passed_on() -> None:
    async def refuses(line: Line) -> None:
        if len(setting.red.lines) == 1:
            await line.joins()
        else:
            line.writer.write(b"HTTP/1.1 400 No\r\nContent-Length: 7\r\n\r\nno room")

    async with a_pool(refuses) as setting:
        (await enters(setting)).close()
        await empty(setting)
        connection = await setting.asks()

        assert b" 400 " in await connection.until(b"\r\n\r\n")
        assert await connection.rest() == b"no room"
        await empty(setting)


# -- time --


@pytest.mark.parametrize(
    ("first", "seconds"),
    [(True, 0.3), (False, 0.3), (False, 1.2)],
    ids=["in a task", "in two calls", "first in two calls"],
)
async def test_a_join_is_held_no_longer_than_it_may_be(
    first: bool, seconds: float, tasks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def then_nothing(line: Line) -> None:
        if not first and len(setting.red.lines) == 1:
            await line.joins()

    faults: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Pool, "fault", lambda self, *fault, **_: faults.append(fault))
    async with a_pool(then_nothing, join_timeout=seconds) as setting:
        if not first:
            (await enters(setting)).close()
            await empty(setting)
        connection = await setting.asks()

        head = await connection.until(b"\r\n\r\n")
        assert b" 503 " in head.splitlines()[0]
        assert b"Retry-After: " in head
        assert b"in time" in await connection.rest()
        await empty(setting)
        # A limit that is shorter than it takes to look whether there should be one is set at once.
        assert len(tasks) == (2 if seconds > 1 else 1)
    assert [(fault[0], fault[1], fault[3]) for fault in faults] == [
        ("red", Cause.TIMEOUT, "no first message in time")
    ]


async def test_a_server_that_is_not_connected_in_time_is_at_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inquiry, "CONNECT", 0.2)
    monkeypatch.setattr(Upstream, "connected", False)
    faults: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Pool, "fault", lambda self, *fault, **_: faults.append(fault))
    async with a_pool(says_nothing, join_timeout=2) as setting:
        connection = await setting.asks()
        await until(lambda: faults)

        assert (faults[0][0], faults[0][1], faults[0][3]) == (
            "red",
            Cause.TIMEOUT,
            "no connection in time",
        )
        with contextlib.suppress(ConnectionError):
            connection.close()


# -- rooms that are asked at once --


async def test_nothing_is_answered_at_once_where_something_is_to_be_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_pool(joins) as setting:
        pool = setting.pool
        rooms = pool.rooms
        assert isinstance(rooms, Rooms)
        placed = rooms.resolved_now("standup")
        assert placed == await pool.placement("standup")

        monkeypatch.setattr(pool.driver, "stale", True)
        assert rooms.resolved_now("standup") is None
        monkeypatch.setattr(pool.driver, "stale", False)
        assert rooms.resolved_now("standup") == placed

        await pool.rotate("away from red")
        assert rooms.resolved_now("standup") is None  # it is to move first
        assert placed is not None
        with rooms.joining("standup") as room:
            room.placement = placed
            assert not rooms.confirm_now(room, placed, 10.0)


async def test_a_server_that_goes_on_while_the_store_is_asked_is_held_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answers = asyncio.Event(), asyncio.Event()
    confirm = Rooms.confirm
    piece = encode(b"\x1a" + bytes(2**16))
    sent = 0

    async def later(self: Rooms, *args: Any) -> bool:
        asked.set()
        await answers.wait()
        return await confirm(self, *args)

    async def floods(line: Line) -> None:
        nonlocal sent
        await line.joins()
        with contextlib.suppress(ConnectionError):
            while sent < 1000:
                line.writer.write(piece)
                await line.writer.drain()
                sent += 1

    class Seen(Upstream):
        def __init__(self, answered: Callable[[], None]) -> None:
            super().__init__(answered)
            made.append(self)

    made: list[Upstream] = []
    monkeypatch.setattr(inquiry, "Upstream", Seen)
    monkeypatch.setattr(Rooms, "confirm", later)
    monkeypatch.setattr(Rooms, "confirm_now", lambda *_: False)
    async with a_pool(floods) as setting:
        connection = await setting.asks()
        await asked.wait()
        (upstream,) = made
        await until(lambda: not upstream.transport.is_reading())
        assert sent < 1000
        answers.set()

        await connection.until(JOIN)
        for _ in range(1000):
            assert await connection.reader.readexactly(len(piece)) == piece
        connection.close()
