"""
What servers may answer, and what follows: real servers behind an injector of faults.

For each: the client is in its room on the next server within the same `connect()`, the server that
was left is in the right cool-down, and history, status and log say why.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from livekit import api
from livekit.api.twirp_client import TwirpError

from livekit_pool.local import LocalServer
from tests.real.call import Participant
from tests.real.injector import (
    Injector,
    calls,
    everything,
    joins,
    method,
    signalling,
)
from tests.real.pool_process import PoolProcess
from tests.real.proxy import Proxy
from tests.real.roster import only_on
from tests.real.until import until

ROOM = "standup"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Setting:
    """
    A pool of red, green and blue, with an injector before red, which is active.

    Attributes:
        tap: a proxy before the pool: what SDKs ask it.
    """

    pool: PoolProcess
    servers: list[LocalServer]
    red: Injector
    tap: Proxy

    async def joins(self, identity: str = "alice") -> Participant:
        """A participant that has joined through the pool."""
        who = Participant(identity)
        await who.join(self.tap.url, self.pool.token(ROOM, identity))
        return who

    async def server(self, name: str) -> dict[str, Any]:
        """What status says of a server."""
        servers = (await self.pool.status())["servers"]
        return dict(next(each for each in servers if each["name"] == name))

    async def left(self, *, cause: str, reason: str, cool: tuple[float, float] | None) -> None:
        """
        Check that red was left for green, once, and how: in the history, status, CLI and log.

        Args:
            reason: a regular expression for the whole of it.
            cool: bounds of the cool-down that is left, in seconds; None if it lasts until the
                quota's reset.
        """
        (rotation,) = await self.pool.rotations()
        assert (rotation["from"], rotation["to"], rotation["cause"]) == ("red", "green", cause)
        assert re.fullmatch(reason, rotation["reason"]), rotation["reason"]
        red = await self.server("red")
        assert (red["cause"], red["health"]) == (cause, "up")
        until_then = datetime.datetime.fromisoformat(red["cool_down_until"])
        left = (until_then - datetime.datetime.now(datetime.UTC)).total_seconds()
        if cool is None:
            assert red["role"] == "exhausted"
            assert (until_then.day, until_then.time()) == (1, datetime.time(0))
            assert 0 < left < 31 * 86_400
        else:
            assert red["role"] == ("misconfigured" if cause == "credentials" else "cooling")
            assert cool[0] - 10 < left <= cool[1], left
        line = next(line for line in (await self.shown()).splitlines() if line.startswith("red "))
        assert f" {red['role']} " in line
        assert f" {cause} " in line
        logged = await self.pool.logs("LiveKit server rotated .*")
        assert f"from=red to=green cause={cause}" in logged[0]
        assert not self.pool.leaks()

    async def shown(self) -> str:
        """What ``livekit-pool status`` prints."""
        command = Path(sys.executable).with_name("livekit-pool")
        ran = await asyncio.to_thread(
            subprocess.run,
            [command, "status"],
            env=self.pool.environment | {"COLUMNS": "250"},
            cwd=self.pool.log.parent,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return ran.stdout


@asynccontextmanager
async def setting(
    folder: Path, servers: list[LocalServer], **settings: str
) -> AsyncIterator[Setting]:
    async with AsyncExitStack() as stack:
        red = await stack.enter_async_context(Injector(servers[0].port))
        pool = PoolProcess(
            folder, servers, settings={"LIVEKIT_SERVERS_0_URL": red.url, **settings}
        )
        await stack.enter_async_context(pool)
        tap = await stack.enter_async_context(Proxy(pool.port))
        made = Setting(pool, servers, red, tap)

        async def all_up() -> bool:
            return {each["health"] for each in (await pool.status())["servers"]} == {"up"}

        await until(all_up, seconds=5, what="all servers are up")
        yield made


@pytest.fixture
async def pool_of_three(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> AsyncIterator[Setting]:
    async with setting(tmp_path, livekit_servers) as made:
        yield made


# ---- joins --------------------------------------------------------------------------------------

COOL_LIMIT = (30.0, 30.0)
COOL_DOWN = (5.0, 5.0)
LONGEST = (300.0, 300.0)


@pytest.mark.parametrize(
    ("status", "body", "headers", "cause", "row", "cool"),
    [
        (429, "slow down", {}, "rate_limit", "rate limit", COOL_LIMIT),
        (429, "", {"Retry-After": "120"}, "rate_limit", "rate limit", (120, 120)),
        (429, "quota exceeded", {"Retry-After": "7"}, "quota", "quota", None),
        (429, "connection limit reached for project", {}, "quota", "quota", None),
        (429, "connection limit", {}, "connection_limit", "connection limit", COOL_LIMIT),
        (429, "participant limit", {}, "participant_limit", "participant limit", COOL_LIMIT),
        (
            503,
            "node has exceeded its configured limit",
            {},
            "connection_limit",
            "node full",
            COOL_LIMIT,
        ),
        (403, "minutes exceeded", {}, "quota", "quota, forbidden", None),
        (500, "minutes exceeded", {}, "quota", "quota in words", None),
    ],
)
async def test_a_refusal_of_joins_is_not_heard_by_the_client(
    pool_of_three: Setting,
    status: int,
    body: str,
    headers: dict[str, str],
    cause: str,
    row: str,
    cool: tuple[float, float] | None,
) -> None:
    pool_of_three.red.answers(signalling, status, body, headers=headers)
    began = time.monotonic()

    alice = await pool_of_three.joins()

    print(f"{status} {body!r}: connected after {time.monotonic() - began:.2f} s")
    await only_on(pool_of_three.servers, "green", {ROOM: {"alice"}})
    assert len(pool_of_three.tap.conversations) == 1
    assert pool_of_three.red.count(joins) == 1
    await pool_of_three.left(
        cause=cause, reason=f"a join was refused with HTTP {status}: {row}", cool=cool
    )
    await alice.leave()
