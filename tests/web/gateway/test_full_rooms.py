"""Full rooms: one question for a crowd, and no answer that is older than what it is asked about."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from livekit_pool.web.gateway import full_rooms
from livekit_pool.web.gateway.full_rooms import FullRooms
from tests.web.served import until


class Asked:
    """A server that answers when the test says so."""

    def __init__(self) -> None:
        self.questions: list[asyncio.Future[bool | None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, server: str, room: str) -> bool | None:
        assert (server, room) == ("red", "pair")
        self.questions.append(asyncio.get_running_loop().create_future())
        return await self.questions[-1]

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    async def asked(self, times: int) -> None:
        await until(lambda: len(self.questions) >= times)


@pytest.fixture
def server() -> Asked:
    return Asked()


@pytest.fixture
def rooms(server: Asked) -> FullRooms:
    return FullRooms(server.ask, server.spawn)


async def test_a_crowd_is_one_question(rooms: FullRooms, server: Asked) -> None:
    crowd = [asyncio.ensure_future(rooms.is_full("red", "pair")) for _ in range(100)]
    await server.asked(1)
    server.questions[0].set_result(True)

    assert await asyncio.gather(*crowd) == [True] * 100
    assert await rooms.is_full("red", "pair")
    assert len(server.questions) == 1


async def test_a_full_room_is_remembered_for_a_moment_only(
    rooms: FullRooms, server: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_rooms, "REMEMBERED", 0.05)
    first = asyncio.ensure_future(rooms.is_full("red", "pair"))
    await server.asked(1)
    server.questions[0].set_result(True)
    assert await first
    await asyncio.sleep(0.06)

    again = asyncio.ensure_future(rooms.is_full("red", "pair"))
    await server.asked(2)
    server.questions[1].set_result(False)
    assert not await again


async def test_no_by_an_older_question_is_asked_again(rooms: FullRooms, server: Asked) -> None:
    before = asyncio.ensure_future(rooms.is_full("red", "pair"))
    await server.asked(1)
    await asyncio.sleep(0.01)
    later = asyncio.ensure_future(rooms.is_full("red", "pair"))
    await asyncio.sleep(0.01)
    server.questions[0].set_result(False)
    assert not await before
    await server.asked(2)
    server.questions[1].set_result(True)

    assert await later


@pytest.mark.parametrize("answer", [None, OSError("boom")])
async def test_who_cannot_tell_says_no(rooms: FullRooms, server: Asked, answer: object) -> None:
    asking = asyncio.ensure_future(rooms.is_full("red", "pair"))
    await server.asked(1)
    if isinstance(answer, Exception):
        server.questions[0].set_exception(answer)
    else:
        server.questions[0].set_result(None)

    assert not await asking
    # A failure is for the log of whoever runs the question.
    assert await asyncio.gather(*server._tasks, return_exceptions=True) == [answer]


async def test_nobody_waits_for_long(
    rooms: FullRooms, server: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_rooms, "PATIENCE", 0.05)

    assert not await rooms.is_full("red", "pair")

    # The answer still counts for who comes next.
    server.questions[0].set_result(True)
    await server._tasks[0]
    assert await rooms.is_full("red", "pair")
