"""What clients report: verified with real servers, one rotation of many, and none of a lie."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from livekit import api, rtc

from livekit_pool import Pool
from livekit_pool.config import Settings, load
from livekit_pool.local import LocalServer, environment
from tests.real.injector import Injector, calls, joins, signalling
from tests.real.pool_process import PoolProcess
from tests.real.roster import roster
from tests.real.until import until

CLIENTS = 500
WORKERS = 2
LOST = "could not establish signal connection: Encountered unknown websocket error"
ERRORS = (
    LOST,
    "quota exceeded",
    "engine: signal failure: failed to retrieve region info: 429 Too Many Requests",
    "could not establish pc connection",
    "room connection has timed out (signal)",
    "fetch failed",
)


@dataclass
class Setting:
    """A pool of red, green and blue, with an injector before red, which is active."""

    pool: PoolProcess
    servers: list[LocalServer]
    red: Injector
    session: aiohttp.ClientSession
    answers: Counter[str] = field(default_factory=Counter)

    async def report(self, identity: str, error: str = LOST, **changes: Any) -> dict[str, Any]:
        """One report of a participant; the answer, which is counted by what it says."""
        told = {"server": "red", "revision": 1, "error": error, **changes}
        token = self.pool.token("standup", identity)
        async with self.session.post(
            f"{self.pool.http_url}/pool/report",
            json=told,
            headers={"Authorization": f"Bearer {token}"},
        ) as answer:
            body: dict[str, Any] = await answer.json()
            said = str(body["status"] if answer.ok else body["error"]["code"])
            assert answer.status == {"verifying": 202, "too_many_reports": 429}.get(said, 200)
        self.answers[said] += 1
        return body

    async def all_report(self, *, over: float = 0.0) -> float:
        """
        All clients report, each once and with an error of its own, spread over ``over`` seconds.

        Returns how long it took.
        """
        began = time.monotonic()

        async def one(number: int) -> None:
            await asyncio.sleep(began + over * number / CLIENTS - time.monotonic())
            await self.report(f"p{number}", f"{ERRORS[number % len(ERRORS)]} ({number})")

        await asyncio.gather(*(one(number) for number in range(CLIENTS)))
        return time.monotonic() - began

    async def heard(self, revision: int) -> None:
        """Wait until every worker follows the document at ``revision``."""

        async def all_did() -> bool:
            rows = (await self.pool.status())["processes"]
            return len(rows) == WORKERS and {row["revision"] for row in rows} == {revision}

        await until(all_did, seconds=10, what=f"all workers are at revision {revision}")

    async def rotated(self, cause: str) -> dict[str, Any]:
        """The one rotation, once it is there."""
        rotations: list[dict[str, Any]] = await until(
            self.pool.rotations, seconds=20, what="the pool has rotated"
        )
        (rotation,) = rotations
        assert (rotation["from"], rotation["to"]) == ("red", "green")
        assert rotation["cause"] == cause
        return rotation


@pytest.fixture
async def pool_of_three(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> AsyncIterator[Setting]:
    async with Injector(livekit_servers[0].port) as red:
        # Red answers from this process, which may be busy with five hundred others.
        settings = {"LIVEKIT_SERVERS_0_URL": red.url, "LIVEKIT_POOL_PROBE_TIMEOUT": "3"}
        async with (
            PoolProcess(tmp_path, livekit_servers, workers=WORKERS, settings=settings) as pool,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):

            async def all_up() -> bool:
                return {each["health"] for each in (await pool.status())["servers"]} == {"up"}

            await until(all_up, seconds=5, what="all servers are up")
            yield Setting(pool, livekit_servers, red, session)
            assert not pool.leaks()


# ---- many -------------------------------------------------------------------------------------


async def test_five_hundred_reports_within_a_second_are_one_rotation(
    pool_of_three: Setting,
) -> None:
    """Defect 3 of the original."""
    pool_of_three.red.answers(signalling, 429, "quota exceeded")

    took = await pool_of_three.all_report()

    print(f"{CLIENTS} reports answered within {took:.2f} s: {dict(pool_of_three.answers)}")
    assert set(pool_of_three.answers) <= {"verifying", "already_handled"}
    assert pool_of_three.answers["verifying"] > 0
    rotation = await pool_of_three.rotated("quota")
    assert rotation["reason"] == "a join was refused with HTTP 429: quota"
    await pool_of_three.heard(rotation["revision"])

    assert await pool_of_three.report("q") == {
        "status": "already_handled",
        "revision": rotation["revision"],
        "active": "green",
    }
    assert await pool_of_three.pool.rotations() == [rotation]
    assert 1 <= pool_of_three.red.count(joins) <= WORKERS
    assert pool_of_three.pool.log_text().count("LiveKit server rotated") == 1


@pytest.mark.timeout(150)
async def test_five_hundred_that_fail_within_a_minute_are_one_rotation(
    pool_of_three: Setting,
) -> None:
    """Each with its own error, most of them long after it was dealt with (defect 4)."""
    pool_of_three.red.answers(signalling, 429, "quota exceeded")

    took = await pool_of_three.all_report(over=60.0)

    answers = pool_of_three.answers
    print(f"{CLIENTS} reports answered within {took:.0f} s: {dict(answers)}")
    assert took > 59
    assert set(answers) == {"verifying", "already_handled"}
    assert answers["already_handled"] > CLIENTS * 0.9
    rotation = await pool_of_three.rotated("quota")
    assert await pool_of_three.pool.active() == "green"
    assert await pool_of_three.pool.rotations() == [rotation]
    assert 1 <= pool_of_three.red.count(joins) <= WORKERS


async def test_five_hundred_reports_of_a_dead_server_are_one_rotation(
    pool_of_three: Setting,
) -> None:
    # Whoever leaves a dead server cannot wait, and passes by one that it has not seen yet.
    await pool_of_three.pool.all_told()
    await pool_of_three.servers[0].kill()

    await pool_of_three.all_report(over=1.0)

    print(dict(pool_of_three.answers))
    assert set(pool_of_three.answers) <= {"verifying", "already_handled"}
    rotation = await pool_of_three.rotated("down")
    assert await pool_of_three.pool.rotations() == [rotation]


async def test_late_reports_do_not_touch_a_server_that_is_active_again(
    pool_of_three: Setting,
) -> None:
    """Red, green, red: who speaks of the first red speaks of the past, also if red is dead now."""
    for name in ("green", "red"):
        await pool_of_three.pool.rotate(to=name)
    await pool_of_three.heard(3)
    pool_of_three.red.answers(signalling, 429, "quota exceeded")

    await pool_of_three.all_report()

    assert pool_of_three.answers == {"already_handled": CLIENTS}
    assert pool_of_three.red.count(joins) == 0
    assert len(await pool_of_three.pool.rotations()) == 2


# ---- lies -------------------------------------------------------------------------------------


async def test_who_reports_a_healthy_server_all_the_time_moves_nobody(
    pool_of_three: Setting,
) -> None:
    """One user's bad network (defect 11). An hour of it stands in tests/test_driver_reports.py."""
    for _ in range(80):
        await pool_of_three.report("liar", "timeout")
        await asyncio.sleep(0.1)

    print(f"{dict(pool_of_three.answers)}; {pool_of_three.red.count(joins)} joins")
    assert await pool_of_three.pool.rotations() == []
    assert pool_of_three.answers["too_many_reports"] >= 80 - WORKERS * (6 + 1)
    # One at once and one after 5 s, in each worker.
    assert 1 <= pool_of_three.red.count(joins) <= 2 * WORKERS

    async def nobody() -> bool:
        return not await roster(pool_of_three.servers[0])

    await until(nobody, seconds=5, what="no probe has left anybody behind")
    # Nobody else is doubted for it.
    pool_of_three.red.answers(signalling, 429, "quota exceeded")
    await until(lambda: believed(pool_of_three), seconds=15, what="somebody else is believed")
    await pool_of_three.rotated("quota")


async def believed(setting: Setting) -> bool:
    """Whether a report of somebody new is looked into."""
    identity = f"honest{time.monotonic()}"
    return bool((await setting.report(identity))["status"] == "verifying")


@pytest.mark.parametrize("code", ["DUPLICATE_IDENTITY", 4, "ROOM_DELETED", 401, 404])
async def test_what_is_no_servers_fault_is_not_even_looked_into(
    pool_of_three: Setting, code: str | int
) -> None:
    answer = await pool_of_three.report("alice", "disconnected", code=code)

    assert answer == {"status": "not_its_fault", "revision": 1, "active": "red"}
    assert pool_of_three.red.count(joins) == 0


# ---- what only a join meets -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "cause", "reason"),
    [
        (429, "slow down", "rate_limit", "a join was refused with HTTP 429: rate limit"),
        (
            503,
            "node has exceeded its configured limit",
            "connection_limit",
            "a join was refused with HTTP 503: node full",
        ),
        (502, "bad gateway", "down", "a join was refused with HTTP 502: unavailable"),
        (403, "region", "credentials", "a join was refused with HTTP 403: key refused"),
    ],
)
async def test_a_server_that_refuses_joins_and_answers_probes_is_left(
    pool_of_three: Setting, status: int, body: str, cause: str, reason: str
) -> None:
    pool_of_three.red.answers(joins, status, body)

    assert (await pool_of_three.report("alice"))["status"] == "verifying"

    assert (await pool_of_three.rotated(cause))["reason"] == reason
    verified = await pool_of_three.pool.logs("Clients' reports verified.*")
    assert f"cause={cause}" in verified[0]
    assert LOST not in pool_of_three.pool.log_text()


async def test_a_server_that_hangs_on_joins_and_answers_probes_is_left(
    pool_of_three: Setting,
) -> None:
    """The original never left one (defect 14)."""
    pool_of_three.red.swallows(joins)
    began = time.monotonic()

    async def is_left() -> bool:
        # A verification in which this machine stood still says nothing, and then somebody else
        # reports.
        await pool_of_three.report(f"p{time.monotonic()}", "room connection has timed out (signal)")
        await asyncio.sleep(1.0)
        return bool(await pool_of_three.pool.rotations())

    await until(is_left, seconds=40, what="red is left")
    rotation = await pool_of_three.rotated("timeout")
    print(f"left after {time.monotonic() - began:.1f} s")
    assert rotation["reason"] == "no answer to a join within 4.5 s"


async def test_a_server_that_refuses_calls_alone_is_left_for_its_limit(
    pool_of_three: Setting,
) -> None:
    body = '{"code": "resource_exhausted", "msg": "minutes exceeded"}'
    pool_of_three.red.answers(calls, 429, body, headers={"Content-Type": "application/json"})

    await pool_of_three.report("alice", "minutes exceeded", code="resource_exhausted")

    await pool_of_three.rotated("quota")


async def test_one_failed_join_of_our_own_is_no_rotation(pool_of_three: Setting) -> None:
    pool_of_three.red.answers(joins, 502, "starting", times=1)

    await pool_of_three.report("alice")

    await until(lambda: pool_of_three.red.count(joins) == 3, seconds=10, what="it has joined again")
    assert await pool_of_three.pool.rotations() == []


# ---- the library ------------------------------------------------------------------------------


def settings_of(folder: Path, servers: list[LocalServer], **more: str) -> Settings:
    """Settings of a pool in this process."""
    env = {
        "LIVEKIT_POOL_KEY": "poolkey",
        "LIVEKIT_POOL_SECRET": "poolsecret" * 4,
        "LIVEKIT_POOL_STORE": "memory://",
        **environment(servers),
        **more,
    }
    return load(env=env, cwd=folder)


async def test_a_program_reports_what_an_sdk_raised(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    async with Injector(livekit_servers[0].port) as red:
        settings = settings_of(tmp_path, livekit_servers, LIVEKIT_SERVERS_0_URL=red.url)
        red.answers(signalling, 429, "quota exceeded", headers={"Retry-After": "7"})
        async with Pool(settings) as pool:
            access = await pool.token(room="standup", identity="alice")
            where: dict[str, Any] = {"server": access.server, "revision": access.revision}
            kicked = rtc.ConnectError("engine: signal failure: client error: 401 Unauthorized - no")
            told = await pool.report(**where, error=kicked)
            assert (told.status, told.revision, told.active) == ("not_its_fault", 1, "red")

            limited = api.TwirpError("resource_exhausted", "quota exceeded", status=429)
            rotations = pool.rotations()
            heard = asyncio.ensure_future(anext(rotations))
            await asyncio.sleep(0)
            told = await pool.report(**where, error=limited, reporter="alice")
            assert told.status == "verifying"
            rotation = await asyncio.wait_for(heard, 10)
            assert (rotation.to, rotation.cause.value) == ("green", "quota")
            assert rotation.reports == 1

            told = await pool.report(**where, error="fetch failed", reporter="bob")
            assert (told.status, told.revision, told.active) == ("already_handled", 2, "green")


async def test_what_a_verification_costs_is_counted(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    async with Pool(settings_of(tmp_path, livekit_servers)) as pool:
        told = await pool.report(server="red", revision=1, error="fetch failed")
        assert told.status == "verifying"
        reports = pool.driver.reports
        await until(lambda: reports.verified, seconds=10, what="it is verified")
        assert reports.verified == {"false": 1}
        await pool.metering.flush()
        (stays,) = (await pool.driver.ledger()).values()
        assert {key.rpartition(":")[2] for key in stays if key.startswith("PA_")} == {"from", "to"}
