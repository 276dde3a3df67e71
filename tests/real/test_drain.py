"""What an operator sets, by the command, on three real servers, with a call under way."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp

from livekit_pool.local import LocalServer
from tests.real.meeting import meeting
from tests.real.pool_process import COMMAND, PoolProcess
from tests.real.test_moves import by_name, check_moved
from tests.real.until import until

PROGRAM = Path(COMMAND[0])


async def command(pool: PoolProcess, *arguments: str) -> tuple[int, str]:
    """Run ``livekit-pool`` with ``arguments``; its exit code, and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *arguments,
        env=pool.environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            printed, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def does(pool: PoolProcess, *arguments: str) -> str:
    """The same, which must succeed; what it printed."""
    code, printed = await command(pool, *arguments)
    assert code == 0, printed
    return printed


async def joining(pool: PoolProcess, room: str) -> tuple[int, str | None]:
    """What a join of ``room`` would be answered: status and Retry-After."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"{pool.http_url}/rtc/validate",
            headers={"Authorization": f"Bearer {pool.token(room, 'carol')}"},
        ) as answer,
    ):
        return answer.status, answer.headers.get("Retry-After")


async def test_draining_the_active_server_moves_the_call_once(pool: PoolProcess) -> None:
    async with meeting(pool) as call:
        await call.settled()
        since = time.monotonic()

        printed = await does(pool, "drain", "red", "--reason", "kernel update", "--wait", "20")

        lines = printed.splitlines()
        assert lines[0] == "Drained red and rotated to green, revision 2."
        assert lines[-1] == "Nobody is left on red."
        await check_moved(call, since=since, to="green", rotations=1, cause="manual", bound=3.0)
        (rotation,) = await pool.rotations()
        assert (rotation["reason"], rotation["revision"]) == ("drained: kernel update", 2)

        async def nobody_on_red() -> dict[str, Any] | None:
            # Of what the other worker says, the answering one may know as late as a heartbeat.
            server: dict[str, Any] = (await pool.status())["servers"][0]
            return server if server["participants"] == 0 else None

        red = await until(nobody_on_red, seconds=5, what="nobody is counted on red")
        assert (red["role"], red["health"]) == ("drained", "up")
        assert red["drained"]["reason"] == "kernel update"
        assert "LiveKit server drained server=red by=" in pool.log_text()

        again = await does(pool, "drain", "red", "--reason", "another")
        assert "drained already" in again
        assert "(kernel update): nothing to do." in again
        assert (await pool.status())["revision"] == 2


async def test_a_drained_server_is_never_chosen_and_the_last_one_takes_force(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    async with meeting(pool) as call:
        await call.settled()
        await does(pool, "drain", "blue", "--reason", "too small")
        await does(pool, "drain", "red", "--reason", "kernel update", "--wait", "20")
        await call.is_on("green")
        await call.settled()

        # The others are well, and drained: nobody goes there, and it is said.
        killed = time.monotonic()
        await by_name(livekit_servers, "green").kill()
        await pool.logs("No LiveKit server available")
        status, retry_after = await joining(pool, "lobby")
        assert status == 503
        assert retry_after is not None
        assert len(await pool.rotations()) == 1

        await does(pool, "undrain", "blue")
        await check_moved(call, since=killed, to="blue", rotations=2, cause="down", bound=15.0)

        code, printed = await command(pool, "drain", "blue", "--reason", "too small")
        assert code == 1
        assert "No other server than blue is available" in printed
        await call.settled()
        printed = await does(pool, "drain", "blue", "--reason", "too small", "--force")
        assert "It stays the active server" in printed
        assert await pool.active() == "blue"
        assert (await joining(pool, "new"))[0] == 503
        assert (await joining(pool, call.room))[0] == 200, "their room is live there"
        await call.runs()

        undrained = time.monotonic()
        await does(pool, "undrain", "red")
        await check_moved(call, since=undrained, to="red", rotations=3, cause="manual", bound=3.0)
        assert (await pool.rotations())[0]["reason"] == "drained: too small"
        assert (await joining(pool, "new"))[0] == 200


async def test_while_paused_a_dead_server_is_left_by_hand_or_when_resumed(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    printed = await does(pool, "pause", "--reason", "maintenance", "--wait", "20")
    assert printed.splitlines()[-1] == "Every process of the pool has heard of it."
    async with meeting(pool) as call:
        await call.settled()
        await does(pool, "rotate", "--reason", "by hand, while paused")
        await call.is_on("green")
        await call.settled()

        killed = time.monotonic()
        await by_name(livekit_servers, "green").kill()
        await pool.logs("Fault while paused")
        assert len(await pool.rotations()) == 1
        assert "Automatic rotation is paused by" in await does(pool, "status")

        await does(pool, "resume")
        await check_moved(call, since=killed, to="blue", rotations=2, cause="down", bound=15.0)


async def test_what_was_set_outlives_the_pool(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    await does(pool, "drain", "green", "--reason", "kernel update")
    await does(pool, "pause", "--reason", "maintenance", "--wait", "20")
    before = await pool.status()
    await pool.stop()
    await by_name(livekit_servers, "red").kill()
    noted = pool.log_text().count("Fault while paused")

    await pool.start()

    for _ in range(20):  # whichever worker answers
        status = await pool.status()
        assert status["paused"] == before["paused"]
        assert status["servers"][1]["drained"] == before["servers"][1]["drained"]
    await until(
        lambda: pool.log_text().count("Fault while paused") > noted,
        seconds=10,
        what="the dead server is seen",
    )
    assert await pool.rotations() == []
    await does(pool, "resume")

    async def rotated() -> bool:
        return len(await pool.rotations()) == 1

    await until(rotated, seconds=10, what="the dead server is left")
    (rotation,) = await pool.rotations()
    assert rotation["to"] == "blue", "green is drained"
