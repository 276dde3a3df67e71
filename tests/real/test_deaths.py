"""The pool's own processes die in a call: media goes on, signalling comes back, nobody moves."""

from __future__ import annotations

import asyncio
import time

from livekit_pool.upstream.stalls import Stalls
from tests.real.meeting import Meeting, meeting
from tests.real.pool_process import PoolProcess
from tests.real.until import until

AUDIO_GAP = 0.3
"""Seconds of silence that the issue promises not to exceed."""


async def check_undisturbed(call: Meeting, since: float, stalls: Stalls) -> None:
    """Media never stopped and nobody made a full reconnect: tracks were not published again."""
    await asyncio.gather(call.alice.meets(call.bob), call.bob.meets(call.alice))
    now = time.monotonic()
    gap = call.bob.audio["alice"].longest_gap(since=since, until=now)
    print(
        f"longest gap in audio {gap:.2f} s, in data {call.gap(since):.2f} s;"
        f" this process was late by {stalls.longest:.2f} s"
    )
    assert gap < AUDIO_GAP + stalls.longest, call.history()
    for who in (call.alice, call.bob):
        assert who.count("local_track_republished", since=since) == 0, call.history()
        assert who.count("participant_disconnected", since=since) == 0, call.history()
        assert who.count("disconnected") == 0
    assert await call.pool.rotations() == []


async def signalling_is_back(call: Meeting, since: float, *, seconds: float) -> None:
    """
    Whoever lost its signal connection has it again within ``seconds`` of ``since``.

    A server sends a fresh token first thing after each accepted resume, so that is the sign. The
    SDK says `reconnected` only when it has finished its own checks, some 3 s later.
    """

    def back() -> bool:
        return all(
            who.count("token_refreshed", since=since) > 0
            for who in (call.alice, call.bob)
            if who.count("reconnecting", since=since)
        )

    def noticed() -> bool:
        return bool(sum(who.count("reconnecting", since=since) for who in (call.alice, call.bob)))

    await until(noticed, seconds=seconds, what="the loss is noticed")
    await until(back, seconds=seconds, what=lambda: f"signalling is back\n{call.history()}")
    times = [
        event.at - since
        for who in (call.alice, call.bob)
        for event in who.events
        if event.name == "token_refreshed" and event.at >= since
    ]
    print(f"signalling back after {max(times):.2f} s")
    assert max(times) < seconds
    await until(
        lambda: call.alice.connected and call.bob.connected, seconds=10, what="the SDK agrees"
    )


async def test_each_worker_killed_in_turn(pool: PoolProcess) -> None:
    async with meeting(pool) as call:
        await call.settled()
        since = time.monotonic()
        with Stalls() as stalls:
            for pid in pool.workers():
                killed = time.monotonic()
                await pool.kill_worker(pid)
                if await lost_somebody(call, killed):
                    await signalling_is_back(call, killed, seconds=1.5)
                await until(
                    lambda: len(pool.workers()) == 2, seconds=5, what="the worker is replaced"
                )

            await call.runs()
            await check_undisturbed(call, since, stalls)
        assert not pool.leaks()


async def lost_somebody(call: Meeting, since: float) -> bool:
    """Whether the worker that was killed just now had one of both: its socket breaks at once."""
    for _ in range(100):
        if any(who.count("reconnecting", since=since) for who in (call.alice, call.bob)):
            return True
        await asyncio.sleep(0.02)
    return False


async def test_all_workers_killed_at_once(pool: PoolProcess) -> None:
    async with meeting(pool) as call:
        await call.settled()
        since = time.monotonic()
        with Stalls() as stalls:
            await pool.kill_workers()
            await signalling_is_back(call, since, seconds=5)

            await call.runs()
            await check_undisturbed(call, since, stalls)


async def test_everything_killed_and_started_again_after_three_seconds(pool: PoolProcess) -> None:
    async with meeting(pool) as call:
        await call.settled()
        await pool.rotate("away from the first server", to="green")
        await call.is_on("green")
        await call.runs()

        await pool.kill_everything()
        await asyncio.sleep(3)
        await pool.start()

        await call.is_on("green", seconds=30)
        await call.runs(seconds=30)
        assert call.alice.count("disconnected") == call.bob.count("disconnected") == 0
        assert len(await pool.rotations()) == 1


async def test_a_planned_stop_and_start_is_a_resume(pool: PoolProcess) -> None:
    async with meeting(pool) as call:
        await call.settled()
        since = time.monotonic()

        assert await pool.stop() == 0
        await pool.start()

        await call.runs(seconds=30)
        assert call.alice.count("disconnected") == call.bob.count("disconnected") == 0
        print(f"stopped and started: longest gap in data {call.gap(since):.2f} s")
