"""A call of two, unchanged Python SDK, while the active server is rotated, killed and frozen."""

from __future__ import annotations

import contextlib
import time

import pytest

from livekit_pool.local import LocalServer
from tests.real.meeting import Meeting, meeting
from tests.real.pool_process import PoolProcess
from tests.real.until import until


def by_name(servers: list[LocalServer], name: str) -> LocalServer:
    return next(server for server in servers if server.name == name)


async def chosen(pool: PoolProcess, rotations: int) -> str:
    """The server that the last of so many rotations chose: any whose probe had passed by then."""

    async def done() -> bool:
        return len(await pool.rotations()) == rotations

    await until(done, seconds=10, what=f"{rotations} rotations")
    return str((await pool.rotations())[0]["to"])


async def check_moved(
    call: Meeting,
    *,
    since: float,
    to: str,
    rotations: int,
    cause: str,
    bound: float,
    report: pytest.TestReport | None = None,
) -> None:
    """
    Both met again on ``to``, by exactly one new rotation, and the silence was bearable.

    ``bound`` is the promised longest gap in seconds, taken generously.
    """
    await call.is_on(to)
    await call.runs()
    gap = call.gap(since)
    print(f"{cause}: longest gap in data {gap:.2f} s")
    history = await call.pool.rotations()
    assert len(history) == rotations, history
    assert history[0]["to"] == to
    assert history[0]["cause"] == cause
    assert call.alice.count("disconnected") == call.bob.count("disconnected") == 0
    assert call.alice.count("local_track_republished", since=since) >= 1, call.history()
    assert gap < bound, call.history()
    assert not call.pool.leaks()


async def test_a_planned_rotation_moves_the_call(pool: PoolProcess) -> None:
    async with meeting(pool) as call:
        await call.settled()
        since = time.monotonic()

        answer = await pool.rotate("a planned one", to="green")

        assert answer["from"] == "red"
        assert answer["to"] == "green"
        await check_moved(call, since=since, to="green", rotations=1, cause="manual", bound=3.0)
        assert "LiveKit server rotated from=red to=green cause=manual" in pool.log_text()


async def test_a_killed_server_is_left_at_once(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    async with meeting(pool) as call:
        await call.settled()
        since = time.monotonic()

        await by_name(livekit_servers, "red").kill()

        to = await chosen(pool, 1)
        await check_moved(call, since=since, to=to, rotations=1, cause="down", bound=3.0)


async def test_a_server_that_hangs_is_left_within_four_seconds(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    async with meeting(pool) as call:
        await call.settled()
        since = time.monotonic()

        await by_name(livekit_servers, "red").freeze()
        await until(
            lambda: "LiveKit server rotated" in pool.log_text(), seconds=10, what="a rotation"
        )
        noticed = time.monotonic() - since

        assert noticed < 4.5
        to = await chosen(pool, 1)
        await check_moved(call, since=since, to=to, rotations=1, cause="timeout", bound=8.0)


async def test_twice_in_one_call(pool: PoolProcess, livekit_servers: list[LocalServer]) -> None:
    async with meeting(pool) as call:
        await call.settled()
        since = time.monotonic()
        await pool.rotate("first", to="green")
        await check_moved(call, since=since, to="green", rotations=1, cause="manual", bound=3.0)

        since = time.monotonic()
        await by_name(livekit_servers, "green").kill()

        to = await chosen(pool, 2)
        await check_moved(call, since=since, to=to, rotations=2, cause="down", bound=8.0)


async def test_rotations_close_together_are_merged(pool: PoolProcess) -> None:
    async with meeting(pool) as call:
        await call.settled()
        since = time.monotonic()

        await pool.rotate("one", to="green")
        await pool.rotate("two", to="blue")
        await pool.rotate("and back", to="red")

        history = await pool.rotations()
        assert [rotation["to"] for rotation in history] == ["red", "blue", "green"]
        await call.is_on("red", seconds=20)
        await call.runs(seconds=20)
        assert call.alice.count("disconnected") == call.bob.count("disconnected") == 0
        print(f"three rotations at once: longest gap in data {call.gap(since):.2f} s")
        assert call.gap(since) < 10, call.history()


async def test_all_servers_dead_then_one_back(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    import aiohttp

    for server in livekit_servers:
        await server.kill()

    async def joining() -> tuple[int, str | None]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                f"http://127.0.0.1:{pool.port}/rtc/validate",
                headers={"Authorization": f"Bearer {pool.token('lobby', 'carol')}"},
            ) as answer,
        ):
            return answer.status, answer.headers.get("Retry-After")

    async def refused() -> bool:
        status, retry_after = await joining()
        return status == 503 and retry_after is not None and int(retry_after) >= 1

    await until(refused, seconds=20, what="503 with Retry-After")
    before = cpu_seconds(pool.workers())
    begun = time.monotonic()
    await until(lambda: time.monotonic() - begun > 3, seconds=5, what="three seconds of nothing")
    spent = cpu_seconds(pool.workers()) - before
    assert spent < 1.5, f"{spent} s of CPU in 3 s with all servers dead"

    await by_name(livekit_servers, "blue").start()

    async def admitted() -> bool:
        return (await joining())[0] == 200

    await until(admitted, seconds=25, what="joins are served again")
    async with meeting(pool) as call:
        await call.is_on("blue")
        assert await pool.active() == "blue"


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of the processes, in seconds (proc_pid_stat(5))."""
    from os import sysconf
    from pathlib import Path

    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / sysconf("SC_CLK_TCK")


async def test_back_to_a_server_that_was_killed(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    """Both workers saw red die; the one that does not probe must not go by that for ever."""
    async with meeting(pool) as call:
        await call.settled()
        await by_name(livekit_servers, "red").kill()
        await call.is_on(await chosen(pool, 1))
        await by_name(livekit_servers, "red").start()
        await call.settled()

        async def rotated() -> bool:
            with contextlib.suppress(AssertionError):  # refused while red is not known to be up
                await pool.rotate("back", to="red")
                return True
            return False

        await until(rotated, seconds=15, what="red may be rotated to again")
        since = time.monotonic()

        await check_moved(call, since=since, to="red", rotations=2, cause="manual", bound=3.0)
