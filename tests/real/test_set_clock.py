"""The clock of the pool's machine is set in a call: nobody is condemned, and the log says it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from livekit import rtc

from livekit_pool.local import LocalServer
from tests.real.call import Participant
from tests.real.meeting import meeting
from tests.real.pool_process import PoolProcess
from tests.real.set_clock import SetClock
from tests.real.until import until

pytestmark = pytest.mark.timeout(120)

HOUR = 3600
WORKERS = 2
SIGNED = "LIVEKIT_POOL_PROBE_ROOMS_INTERVAL"
SET = "Clock of this machine was set"


@pytest.fixture
def clock(tmp_path: Path) -> SetClock:
    return SetClock(tmp_path)


@pytest.fixture
async def pool(
    tmp_path: Path, livekit_servers: list[LocalServer], clock: SetClock
) -> AsyncIterator[PoolProcess]:
    async with PoolProcess(
        tmp_path, livekit_servers, workers=WORKERS, settings={**clock.settings, SIGNED: "1"}
    ) as pool:
        yield pool
        assert not pool.leaks()


async def told(pool: PoolProcess, times: int) -> None:
    """Wait until every worker has told ``times`` that the clock was set."""

    async def all_have() -> bool:
        return pool.log_text().count(SET) == times * WORKERS

    await until(all_have, seconds=10, what=f"all workers have told {times} times of the clock")


@pytest.mark.parametrize("hours", [2, -2])
async def test_a_clock_that_is_wrong_for_a_while_condemns_nobody(
    pool: PoolProcess, clock: SetClock, hours: int
) -> None:
    """By hours: set back, all servers refuse what it signs; set on, it refuses its clients."""
    async with meeting(pool) as call:
        clock.set(hours * HOUR)
        await told(pool, 1)
        if hours < 0:
            await until(lambda: all_refuse(pool), seconds=30, what="all servers refuse our keys")
        async with Participant("carol") as carol:
            why = "has expired" if hours > 0 else "not valid yet"
            with pytest.raises(rtc.ConnectError, match=why):
                await carol.join(pool.url, pool.token(call.room, "carol"))
        await call.runs()
        await call.is_on("red")

        clock.set(0)
        await told(pool, 2)
        async with Participant("carol") as carol:
            await carol.join(pool.url, pool.token(call.room, "carol"))
            await carol.meets(call.alice, call.bob)
        assert await pool.rotations() == []
        status = await pool.status()
        assert [each["cool_down_until"] for each in status["servers"]] == [None, None, None]
        assert call.alice.count("disconnected") == call.bob.count("disconnected") == 0


async def all_refuse(pool: PoolProcess) -> bool:
    """Whether no server but the active one, which shows as that, takes what the pool signs."""
    roles = [each["role"] for each in (await pool.status())["servers"]]
    return roles == ["active", "misconfigured", "misconfigured"]
