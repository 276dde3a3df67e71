"""
What calls of the server API may meet while joins and plain probes pass, and what follows.

Real servers behind an injector that spoils ``/twirp/`` alone. Such a server lets people in, so that
it is not left, unless it refuses our key; who calls is answered within a bound, and log and status
say what calls meet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from livekit import api
from livekit.api.twirp_client import TwirpError

from livekit_pool.local import LocalServer
from tests.real.injector import Injector, calls, everything, method
from tests.real.roster import only_on
from tests.real.test_faults import LONGEST, ROOM, Setting, setting
from tests.real.until import until

PROBES = method("ListRooms")
"""The pool's own calls, and no test's."""

CREATE = method("CreateRoom")


def quick(folder: Path, servers: list[LocalServer]) -> AbstractAsyncContextManager[Setting]:
    """A pool that calls its servers all the time."""
    return setting(folder, servers, LIVEKIT_POOL_PROBE_ROOMS_INTERVAL="0.2")


PAGE = {"Content-Type": "text/html"}


def balancer(status: int) -> Callable[[Injector], None]:
    """A balancer's page, for each call."""
    page = f"<html><body><h1>{status}</h1><p>rate limit, quota exceeded</p></body></html>"
    return lambda red: red.answers(calls, status, page, headers=PAGE)


def resets(red: Injector) -> None:
    red.resets(calls)


def swallows(red: Injector) -> None:
    red.swallows(calls)


async def create(made: Setting) -> TwirpError | None:
    """What Python's client raises when it asks the pool for a room, if it does."""
    async with api.LiveKitAPI(made.pool.url, made.pool.key, made.pool.secret) as lk:
        try:
            room = await lk.room.create_room(api.CreateRoomRequest(name=ROOM))
        except TwirpError as error:
            return error
    assert room.name == ROOM
    return None


async def is_kept(made: Setting, why: str) -> None:
    """Check that red is what it was, in all words; ``why`` calls fail stands beside them."""
    fails = f"answered, but calls fail: {why}"

    async def shows_why() -> dict[str, Any] | None:
        red = await made.server("red")
        return red if red["last_probe"]["detail"] == fails else None

    red = await until(shows_why, seconds=5, what=f"status says {fails!r}")
    assert (red["role"], red["health"]) == ("active", "up")
    assert (red["cool_down_until"], red["cause"]) == (None, None)
    probe = red["last_probe"]
    assert (probe["outcome"], probe["stage"]) == ("passed", "http")

    async def line_shows_why() -> str | None:
        # For a moment after each signed probe, that is the last one.
        line = next(each for each in (await made.shown()).splitlines() if each.startswith("red "))
        return line if f", but calls fail: {why}" in line else None

    line = await until(line_shows_why, seconds=15, what="the command says why")
    assert " active " in line
    assert " up " in line
    assert await made.pool.rotations() == []
    assert "LiveKit server changed health" not in made.pool.log_text()


UNKNOWN = "the LiveKit server did not answer: whether the call was carried out is not known"
LATE = "the LiveKit server did not answer in time"
ANSWERED = "it answered HTTP {} when asked for its rooms"


@pytest.mark.parametrize(
    ("spoil", "why", "answer", "within"),
    [
        (balancer(502), ANSWERED.format(502), (503, "unavailable", UNKNOWN), (0.0, 2.0)),
        (balancer(503), ANSWERED.format(503), (503, "unavailable", UNKNOWN), (0.0, 2.0)),
        (resets, "connection reset", (503, "unavailable", UNKNOWN), (0.0, 2.0)),
        (swallows, "no answer in time", (408, "deadline_exceeded", LATE), (9.0, 13.0)),
    ],
    ids=["502", "503", "reset", "black hole"],
)
async def test_a_server_that_fails_calls_alone_is_kept_and_named(
    tmp_path: Path,
    livekit_servers: list[LocalServer],
    spoil: Callable[[Injector], None],
    why: str,
    answer: tuple[int, str, str],
    within: tuple[float, float],
) -> None:
    async with quick(tmp_path, livekit_servers) as made:
        red, pool = made.red, made.pool
        spoil(red)
        failed = red.count(PROBES)
        began = time.monotonic()

        error = await create(made)

        took = time.monotonic() - began
        print(f"{why}: answered after {took:.2f} s")
        assert error is not None
        assert (error.status, error.code, error.message) == answer
        assert within[0] <= took < within[1]
        assert red.count(CREATE) == 1, "it may have been carried out"
        # Twice as many as a plain probe would need to show it down.
        await until(lambda: red.count(PROBES) >= failed + 6, seconds=30, what="six calls failed")
        await is_kept(made, why)
        told = await pool.logs("WARNING LiveKit server fails calls .*")
        assert "server=red" in told[0]
        assert why in told[0]
        alice = await made.joins()
        await only_on(made.servers, "red", {ROOM: {"alice"}})
        assert len(made.tap.conversations) == 1

        red.passes()
        await pool.logs("WARNING LiveKit server takes calls again server=red")
        assert await create(made) is None
        assert pool.log_text().count("LiveKit server fails calls") == 1
        assert await pool.rotations() == []
        assert not pool.leaks()
        await alice.leave()


async def test_a_call_that_changes_nothing_is_tried_again(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    async with setting(tmp_path, livekit_servers) as made:
        listed = method("ListParticipants")
        made.red.answers(listed, 502, "<h1>bad gateway</h1>", headers=PAGE, times=1)
        pool = made.pool
        alice = await made.joins()

        async with api.LiveKitAPI(pool.url, pool.key, pool.secret) as lk:
            found = await lk.room.list_participants(api.ListParticipantsRequest(room=ROOM))

        assert [each.identity for each in found.participants] == ["alice"]
        assert made.red.count(listed) == 2
        assert await pool.rotations() == []
        await alice.leave()


async def test_slow_calls_are_waited_for(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    """By callers. The pool's own, for which 2 s are too long, move nobody either."""
    async with quick(tmp_path, livekit_servers) as made:
        made.red.delays(calls, 2.0)
        failed = made.red.count(PROBES)
        began = time.monotonic()

        assert await create(made) is None

        took = time.monotonic() - began
        assert 2.0 <= took < 5.0
        await until(lambda: made.red.count(PROBES) >= failed + 4, seconds=30, what="four calls")
        red = await made.server("red")
        assert (red["role"], red["health"], red["cause"]) == ("active", "up", None)
        assert await made.pool.rotations() == []


async def test_a_key_that_calls_alone_refuse_is_left(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    async with setting(tmp_path, livekit_servers) as made:
        made.red.answers(calls, 403, "<h1>forbidden</h1>", headers=PAGE)
        began = time.monotonic()

        assert await create(made) is None

        took = time.monotonic() - began
        assert took < 5.0
        reason = r"it refuses its API key or secret \(HTTP 403\).*"
        await made.left(cause="credentials", reason=reason, cool=LONGEST)
        assert "LiveKit server fails calls" not in made.pool.log_text()
        alice = await made.joins()
        await only_on(made.servers, "green", {ROOM: {"alice"}})
        await alice.leave()


async def test_who_fails_calls_is_left_as_soon_as_it_is_down(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    """What calls met before is no excuse for what plain probes meet."""
    async with quick(tmp_path, livekit_servers) as made:
        resets(made.red)
        await made.pool.logs("LiveKit server fails calls server=red")

        began = time.monotonic()
        made.red.resets(everything)

        await made.pool.logs("LiveKit server rotated .*", seconds=5)
        print(f"left after {time.monotonic() - began:.2f} s")
        await made.left(cause="down", reason="connection reset", cool=(5.0, 5.0), health="down")
