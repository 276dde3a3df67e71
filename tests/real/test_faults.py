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
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from livekit import api, rtc
from livekit.api.twirp_client import TwirpError
from livekit.protocol import rtc as rtc_messages

from livekit_pool.local import LocalServer
from tests.real.browser.tab import Browser
from tests.real.call import Participant, make_token
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
from tests.real.signal_client import (
    SignalClient,
    SignalClients,
    Told,
    claims_of,
    server_of,
)
from tests.real.test_one_rotation import others_frozen
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

    async def shows(self, name: str, role: str) -> dict[str, Any]:
        """Wait until every process that may answer shows a server in ``role``."""

        async def all_do() -> dict[str, Any] | None:
            seen = [await self.server(name) for _ in range(6)]
            return seen[0] if {each["role"] for each in seen} == {role} else None

        return dict(await until(all_do, seconds=5, what=f"{name} is {role}"))

    async def left(
        self,
        *,
        cause: str,
        reason: str,
        cool: float | tuple[float, float] | None,
        health: str = "up",
    ) -> datetime.datetime:
        """
        Check that red was left for green, once, and how: in the history, status, CLI and log.

        Args:
            reason: a regular expression for the whole of it.
            cool: seconds of its cool-down, from the rotation on; or bounds of them, where the
                server asked before; None if it lasts until the quota's reset.
            health: what its probes say.

        Returns:
            the end of its cool-down.
        """
        (rotation,) = await self.pool.rotations()
        assert (rotation["from"], rotation["to"], rotation["cause"]) == ("red", "green", cause)
        assert re.fullmatch(reason, rotation["reason"]), rotation["reason"]
        role = {"credentials": "misconfigured", "quota": "exhausted"}.get(cause, "cooling")
        red = await self.shows("red", role)
        assert (red["cause"], red["health"]) == (cause, health)
        until_then = datetime.datetime.fromisoformat(red["cool_down_until"])
        rotated = datetime.datetime.fromisoformat(rotation["at"])
        cools = (until_then - rotated).total_seconds()
        if cool is None:
            assert (until_then.day, until_then.time()) == (1, datetime.time(0))
            assert 0 < cools < 31 * 86_400
        else:
            least, most = cool if isinstance(cool, tuple) else (cool, cool)
            # Each moment is told to the millisecond.
            assert least - 0.0011 < cools < most + 0.0011, cools
        line = next(line for line in (await self.shown()).splitlines() if line.startswith("red "))
        assert f" {role} " in line
        assert f" {cause} " in line
        logged = await self.pool.logs("LiveKit server rotated .*")
        assert f"from=red to=green cause={cause}" in logged[0]
        assert not self.pool.leaks()
        return until_then

    async def shown(self) -> str:
        """What ``livekit-pool status`` prints."""
        running = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("livekit-pool"),
            "status",
            env=self.pool.environment | {"COLUMNS": "250"},
            cwd=self.pool.log.parent,
            stdout=subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(running.communicate(), 20)
        assert running.returncode == 0
        return out.decode()


@asynccontextmanager
async def setting(
    folder: Path, servers: list[LocalServer], *, workers: int = 1, **settings: str
) -> AsyncIterator[Setting]:
    """
    The pool, when it has seen all servers.

    Its probes are patient, because the injector shares this process with SDKs: that this machine is
    busy with other things must not look like a silent server. And it has one worker, which has seen
    green when status says so: whoever cannot wait passes by a server that it knows nothing of.
    """
    async with AsyncExitStack() as stack:
        red = await stack.enter_async_context(Injector(servers[0].port))
        settings = {"LIVEKIT_POOL_PROBE_TIMEOUT": "3", **settings}
        settings = {"LIVEKIT_SERVERS_0_URL": red.url, **settings}
        pool = PoolProcess(folder, servers, workers=workers, settings=settings)
        await stack.enter_async_context(pool)
        tap = await stack.enter_async_context(Proxy(pool.port))
        made = Setting(pool, servers, red, tap)

        await until(lambda: all_up(pool), seconds=5, what="all servers are up")
        yield made


async def all_up(pool: PoolProcess) -> bool:
    """Whether all servers are up by what one process sees."""
    return {each["health"] for each in (await pool.status())["servers"]} == {"up"}


async def is_active(pool: PoolProcess, name: str) -> bool:
    """Whether a server is the active one, by what one process knows."""
    return await pool.active() == name


@pytest.fixture
async def pool_of_three(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> AsyncIterator[Setting]:
    async with setting(tmp_path, livekit_servers) as made:
        yield made


# ---- joins --------------------------------------------------------------------------------------

COOL_LIMIT = 30.0
COOL_DOWN = 5.0
LONGEST = 300.0


@pytest.mark.parametrize(
    ("status", "body", "headers", "cause", "row", "cool"),
    [
        (429, "slow down", {}, "rate_limit", "rate limit", COOL_LIMIT),
        (429, "", {"Retry-After": "120"}, "rate_limit", "rate limit", 120),
        (429, "quota exceeded", {}, "quota", "quota", None),
        (429, "quota exceeded", {"Retry-After": "3600"}, "quota", "quota", 3600),
        (429, "connection limit reached", {}, "connection_limit", "connection limit", COOL_LIMIT),
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
    cool: float | None,
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


# An old server's, up to 1.13.5 (pkg/service/auth.go); this token opens nothing.
ECHO = "invalid token: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl, error: no"


async def test_a_refused_key_is_left_as_soon_as_a_signed_probe_confirms_it(
    pool_of_three: Setting,
) -> None:
    for where in (signalling, calls):
        pool_of_three.red.answers(where, 401, ECHO)

    alice = await pool_of_three.joins()

    await only_on(pool_of_three.servers, "green", {ROOM: {"alice"}})
    assert len(pool_of_three.tap.conversations) == 1
    await pool_of_three.left(
        cause="credentials", reason=r"it refuses its API key or secret \(HTTP 401\).*", cool=LONGEST
    )
    await alice.leave()


@pytest.mark.parametrize("status", [401, 403])
async def test_joins_that_are_refused_though_calls_are_not_are_tried_first(
    tmp_path: Path, livekit_servers: list[LocalServer], status: int
) -> None:
    """
    As of a project that is pinned to another region.

    Such a server is misconfigured until a join of the pool's own passes, whatever it says to calls.
    """
    async with setting(tmp_path, livekit_servers, LIVEKIT_POOL_PROBE_ROOMS_INTERVAL="1") as made:
        made.red.answers(signalling, status, ECHO)

        alice = await made.joins()

        await only_on(made.servers, "green", {ROOM: {"alice"}})
        assert len(made.tap.conversations) == 1
        reason = f"a join was refused with HTTP {status}: key refused"
        await made.left(cause="credentials", reason=reason, cool=LONGEST)
        await made.pool.logs("LiveKit server refuses our key .*")
        asked = made.red.count(calls)
        await until(
            lambda: made.red.count(calls) >= asked + 2, seconds=10, what="red answers calls"
        )
        await made.shows("red", "misconfigured")
        made.red.passes()
        await made.shows("red", "cooling")
        await alice.leave()


async def test_a_token_that_a_server_dislikes_rotates_nothing(pool_of_three: Setting) -> None:
    """A real server's 401 for what stands in a token that is signed as it should be."""
    pool, direct = pool_of_three.pool, pool_of_three.servers[0]
    for server in (direct, pool):
        claims = {
            "iss": server.key,
            "sub": "mallory",
            "exp": 4_000_000_000,
            "video": {"roomJoin": True, "room": ROOM},
            "roomConfig": {"maxParticipants": "many"},
        }
        token = jwt.encode(claims, server.secret, algorithm="HS256")
        began = time.monotonic()
        with pytest.raises(rtc.ConnectError) as refused:
            await Participant("mallory").join(server.url, token)
        took = time.monotonic() - began
        print(f"refused after {took:.2f} s: {str(refused.value)[:60]}")
        if server is direct:
            assert "401" in str(refused.value)
            continue
        assert "503" in str(refused.value)
        assert "eyJ" not in str(refused.value)
        # Four tries, and each time the SDK asks why; held to the end they would take 28 s.
        assert took < 15
    assert await pool.rotations() == []
    assert (await pool_of_three.server("red"))["role"] == "active"
    assert not pool.leaks()


@pytest.mark.parametrize(
    ("status", "asked", "cool"),
    [(502, "", COOL_DOWN), (503, "", COOL_DOWN), (503, "90", 90), (504, "", COOL_DOWN)],
)
async def test_a_balancer_with_nobody_behind_is_asked_again_and_left(
    pool_of_three: Setting, status: int, asked: str, cool: float
) -> None:
    headers = {"Retry-After": asked} if asked else {}
    red = pool_of_three.red
    red.answers(signalling, status, "<h1>bad gateway</h1>", headers=headers)
    epoch = time.time() - time.monotonic()

    alice = await pool_of_three.joins()

    await only_on(pool_of_three.servers, "green", {ROOM: {"alice"}})
    assert len(pool_of_three.tap.conversations) == 1
    cause, row = ("timeout", "gateway timeout") if status == 504 else ("down", "unavailable")
    ends = await pool_of_three.left(
        cause=cause,
        reason=f"a join was refused with HTTP {status}: {row}",
        # What it asks for runs from an answer of its, of which the first alone rotates nothing.
        cool=(0, cool) if asked else cool,
    )
    if asked:
        first = next(each.at for each in red.seen if each.fate == "answered")
        assert ends.timestamp() > epoch + first + cool - 0.0011
    await alice.leave()


@pytest.mark.parametrize(
    ("status", "row"),
    [
        (302, "not an answer of LiveKit's"),
        (421, "not let through"),
        (426, "not let through"),
        (500, "server error"),
    ],
)
async def test_what_may_be_one_callers_affair_is_looked_into_and_left(
    pool_of_three: Setting, status: int, row: str
) -> None:
    pool_of_three.red.answers(signalling, status, "cannot look the quota up")

    alice = await pool_of_three.joins()

    await only_on(pool_of_three.servers, "green", {ROOM: {"alice"}})
    reason = f"a join was refused with HTTP {status}: {row}"
    await pool_of_three.left(cause="down", reason=reason, cool=COOL_DOWN)
    await alice.leave()


async def test_a_moment_of_trouble_is_waited_out(pool_of_three: Setting) -> None:
    pool_of_three.red.answers(joins, 503, "starting", times=1)
    pool_of_three.red.resets(joins, times=1)

    alice = await pool_of_three.joins()

    await only_on(pool_of_three.servers, "red", {ROOM: {"alice"}})
    assert len(pool_of_three.tap.conversations) == 1
    assert pool_of_three.red.count(joins) in (3, 4)  # the pool may have looked for itself
    assert await pool_of_three.pool.rotations() == []
    await alice.leave()


async def test_resets_of_joins_are_left(pool_of_three: Setting) -> None:
    pool_of_three.red.resets(signalling)

    alice = await pool_of_three.joins()

    await only_on(pool_of_three.servers, "green", {ROOM: {"alice"}})
    assert len(pool_of_three.tap.conversations) == 1
    await pool_of_three.left(cause="down", reason="connection reset", cool=COOL_DOWN)
    await alice.leave()


async def test_a_slow_server_is_waited_for(pool_of_three: Setting) -> None:
    pool_of_three.red.delays(everything, 0.5)

    alice = await pool_of_three.joins()

    await only_on(pool_of_three.servers, "red", {ROOM: {"alice"}})
    assert await pool_of_three.pool.rotations() == []
    await alice.leave()


async def test_a_server_that_hangs_on_joins_alone_is_left(pool_of_three: Setting) -> None:
    pool_of_three.red.swallows(signalling)
    began = time.monotonic()

    alice = await pool_of_three.joins()

    print(f"joins hang: connected after {time.monotonic() - began:.2f} s")
    await only_on(pool_of_three.servers, "green", {ROOM: {"alice"}})
    await pool_of_three.left(
        cause="timeout", reason=r"no answer to a join within 4\.5 s", cool=COOL_DOWN
    )
    await alice.leave()


NO_ANSWER = r"connected, but no answer within 0\.8 s"


async def test_a_black_hole_is_left(tmp_path: Path, livekit_servers: list[LocalServer]) -> None:
    async with setting(tmp_path, livekit_servers, LIVEKIT_POOL_PROBE_TIMEOUT="0.8") as made:
        made.red.swallows(everything)
        began = time.monotonic()

        alice = await made.joins()

        print(f"black hole: connected after {time.monotonic() - began:.2f} s")
        await only_on(livekit_servers, "green", {ROOM: {"alice"}})
        await made.left(cause="timeout", reason=NO_ANSWER, cool=COOL_DOWN, health="down")
        await alice.leave()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, "room name length exceeds limits: max length 256"),
        (404, "requested room does not exist"),
    ],
)
async def test_what_is_the_callers_own_affair_is_answered_as_the_server_does(
    pool_of_three: Setting, status: int, body: str
) -> None:
    pool_of_three.red.answers(signalling, status, body)

    with pytest.raises(rtc.ConnectError) as refused:
        await pool_of_three.joins()

    assert f"{status} " in str(refused.value)
    assert body in str(refused.value)
    pool_of_three.red.passes()
    alice = await pool_of_three.joins()
    await only_on(pool_of_three.servers, "red", {ROOM: {"alice"}})
    assert await pool_of_three.pool.rotations() == []
    await alice.leave()


# ---- calls --------------------------------------------------------------------------------------


def twirp(code: str, text: str) -> str:
    """A Twirp error, as servers write it."""
    return json.dumps({"code": code, "msg": text})


@pytest.mark.parametrize(
    ("status", "body", "headers", "cause", "row", "cool"),
    [
        (429, twirp("resource_exhausted", "slow down"), {}, "rate_limit", "rate limit", COOL_LIMIT),
        (
            429,
            twirp("resource_exhausted", "too many requests"),
            {"Retry-After": "60"},
            "rate_limit",
            "rate limit",
            60,
        ),
        (
            429,
            twirp("resource_exhausted", "participant minutes: quota exceeded"),
            {},
            "quota",
            "quota",
            None,
        ),
        (
            429,
            "a balancer's own words",
            {"Content-Type": "text/html"},
            "rate_limit",
            "rate limit",
            COOL_LIMIT,
        ),
        (
            500,
            twirp("unknown", "reached configured limit for node"),
            {},
            "connection_limit",
            "node full",
            COOL_LIMIT,
        ),
    ],
)
async def test_a_refusal_of_calls_is_not_heard_by_the_caller(
    pool_of_three: Setting,
    status: int,
    body: str,
    headers: dict[str, str],
    cause: str,
    row: str,
    cool: float | None,
) -> None:
    create = method("CreateRoom")
    pool_of_three.red.answers(create, status, body, headers=JSON | headers)
    pool = pool_of_three.pool

    async with api.LiveKitAPI(pool.url, pool.key, pool.secret) as lk:
        made = await lk.room.create_room(api.CreateRoomRequest(name=ROOM))
        listed = await lk.room.list_rooms(api.ListRoomsRequest())

    assert [made.name] == [room.name for room in listed.rooms] == [ROOM]
    assert pool_of_three.red.count(create) == 1
    await pool_of_three.left(
        cause=cause, reason=f"a call was refused with HTTP {status}: {row}", cool=cool
    )
    alice = await pool_of_three.joins()
    await only_on(pool_of_three.servers, "green", {ROOM: {"alice"}})
    await alice.leave()


async def test_calls_to_a_server_that_refuses_our_key_go_to_the_next(
    pool_of_three: Setting,
) -> None:
    pool_of_three.red.answers(calls, 401, ECHO)
    pool = pool_of_three.pool

    async with api.LiveKitAPI(pool.url, pool.key, pool.secret) as lk:
        assert (await lk.room.create_room(api.CreateRoomRequest(name=ROOM))).name == ROOM

    await pool_of_three.left(
        cause="credentials", reason=r"it refuses its API key or secret \(HTTP 401\).*", cool=LONGEST
    )


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (404, "not_found", "participant does not exist"),
        (400, "invalid_argument", "metadata size exceeds limits of quota exceeded"),
        (503, "unavailable", "no response from servers"),
        (500, "internal", "not connected (redis required)"),
        (429, "resource_exhausted", "concurrent ingress sessions limit exceeded."),
    ],
)
async def test_an_error_of_one_call_is_the_callers(
    pool_of_three: Setting, status: int, code: str, text: str
) -> None:
    pool_of_three.red.answers(method("UpdateParticipant"), status, twirp(code, text), headers=JSON)
    pool = pool_of_three.pool

    async with api.LiveKitAPI(pool.url, pool.key, pool.secret) as lk:
        with pytest.raises(TwirpError) as refused:
            await lk.room.update_participant(
                api.UpdateParticipantRequest(room=ROOM, identity="alice")
            )

    found = refused.value
    assert (found.status, found.code, found.message) == (status, code, text)
    assert await pool.rotations() == []
    assert (await pool_of_three.server("red"))["role"] == "active"


async def test_a_call_that_may_have_been_carried_out_is_not_repeated(
    pool_of_three: Setting,
) -> None:
    sent = method("SendData")
    pool_of_three.red.resets(sent)
    pool = pool_of_three.pool

    async with api.LiveKitAPI(pool.url, pool.key, pool.secret) as lk:
        with pytest.raises(TwirpError) as refused:
            await lk.room.send_data(api.SendDataRequest(room=ROOM, data=b"once"))

    assert (refused.value.status, refused.value.code) == (503, "unavailable")
    assert pool_of_three.red.count(sent) == 1


# ---- livekit-client -----------------------------------------------------------------------------


@pytest.mark.needs("chromium")
@pytest.mark.parametrize(
    ("status", "body", "cause", "row", "cool"),
    [
        (429, "slow down", "rate_limit", "rate limit", COOL_LIMIT),
        (429, "minutes exceeded", "quota", "quota", None),
        (429, "participant limit", "participant_limit", "participant limit", COOL_LIMIT),
        (
            503,
            "node has exceeded its configured limit",
            "connection_limit",
            "node full",
            COOL_LIMIT,
        ),
        (503, "", "down", "unavailable", COOL_DOWN),
    ],
)
async def test_a_tab_does_not_hear_of_a_refusal(
    pool_of_three: Setting,
    browser: Browser,
    status: int,
    body: str,
    cause: str,
    row: str,
    cool: float | None,
) -> None:
    pool_of_three.red.answers(signalling, status, body)
    tab = await browser.open_tab()

    await tab.join(pool_of_three.tap.url, pool_of_three.pool.token(ROOM, "tab"), identity="tab")

    await only_on(pool_of_three.servers, "green", {ROOM: {"tab"}})
    assert len(pool_of_three.tap.conversations) == 1
    await pool_of_three.left(
        cause=cause, reason=f"a join was refused with HTTP {status}: {row}", cool=cool
    )


@pytest.mark.needs("chromium")
@pytest.mark.parametrize(
    ("what", "cause", "reason", "cool"),
    [
        ("key", "credentials", r"it refuses its API key or secret \(HTTP 401\).*", LONGEST),
        ("errors", "down", "a join was refused with HTTP 500: server error", COOL_DOWN),
        ("resets", "down", "connection reset", COOL_DOWN),
        ("nothing", "timeout", NO_ANSWER, COOL_DOWN),
    ],
)
async def test_a_tab_does_not_hear_of_a_server_that_serves_nobody(
    tmp_path: Path,
    livekit_servers: list[LocalServer],
    browser: Browser,
    what: str,
    cause: str,
    reason: str,
    cool: float,
) -> None:
    more = {"LIVEKIT_POOL_PROBE_TIMEOUT": "0.8"} if what == "nothing" else {}
    async with setting(tmp_path, livekit_servers, workers=1, **more) as made:
        match what:
            case "key":
                for where in (signalling, calls):
                    made.red.answers(where, 401, ECHO)
            case "errors":
                made.red.answers(signalling, 500, "internal error")
            case "resets":
                made.red.resets(signalling)
            case _:
                made.red.swallows(everything)
        tab = await browser.open_tab()

        await tab.join(made.tap.url, made.pool.token(ROOM, "tab"), identity="tab")

        await only_on(livekit_servers, "green", {ROOM: {"tab"}})
        health = "down" if what == "nothing" else "up"
        await made.left(cause=cause, reason=reason, cool=cool, health=health)


@pytest.mark.needs("chromium")
async def test_a_tab_waits_for_a_slow_server(pool_of_three: Setting, browser: Browser) -> None:
    pool_of_three.red.delays(everything, 0.5)
    tab = await browser.open_tab()

    await tab.join(pool_of_three.tap.url, pool_of_three.pool.token(ROOM, "tab"), identity="tab")

    await only_on(pool_of_three.servers, "red", {ROOM: {"tab"}})
    assert await pool_of_three.pool.rotations() == []


@pytest.mark.needs("chromium")
async def test_a_tab_in_a_call_is_moved_by_another_ones_refusal(
    pool_of_three: Setting, browser: Browser
) -> None:
    """The room moves whole: who is in it hears a Leave, and is back."""
    tab = await browser.open_tab()
    token = pool_of_three.pool.token(ROOM, "tab")
    await tab.join(pool_of_three.tap.url, token, identity="tab", audio=True)
    pool_of_three.red.answers(signalling, 429, "connection limit")

    bob = await pool_of_three.joins("bob")

    await tab.meets("bob", seconds=20)
    await only_on(pool_of_three.servers, "green", {ROOM: {"tab", "bob"}})
    assert tab.count("disconnected") == bob.count("disconnected") == 0
    await pool_of_three.left(
        cause="connection_limit",
        reason="a join was refused with HTTP 429: connection limit",
        cool=COOL_LIMIT,
    )
    await bob.leave()


@pytest.mark.needs("chromium")
async def test_a_tab_is_told_of_a_full_room_as_without_a_pool(
    pool_of_three: Setting, browser: Browser
) -> None:
    pool, direct = pool_of_three.pool, pool_of_three.servers[0]
    async with api.LiveKitAPI(pool.url, pool.key, pool.secret) as lk:
        await lk.room.create_room(api.CreateRoomRequest(name=ROOM, max_participants=1))
    alice = await pool_of_three.joins()
    told = []
    for url, key, secret in (
        (direct.url, direct.key, direct.secret),
        (pool.url, pool.key, pool.secret),
    ):
        tab = await browser.open_tab()
        with pytest.raises(Exception, match="ConnectionError") as refused:
            await tab.join(url, make_token(key, secret, room=ROOM, identity="tab"), identity="tab")
        told.append(str(refused.value).replace(url, "URL").partition("\n")[0])

    assert told[0] == told[1]
    assert await pool.rotations() == []
    await alice.leave()


# ---- what may be one client's own ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "cause", "row"),
    [
        ("internal error", "down", "server error"),
        ("connection closed by media", "down", "room full, perhaps"),
        ("timed out while waiting for signal response", "timeout", "slow to answer"),
    ],
)
async def test_a_server_that_fails_everybodys_joins_is_left_after_a_look(
    pool_of_three: Setting, body: str, cause: str, row: str
) -> None:
    pool_of_three.red.answers(joins, 500, body)
    began = time.monotonic()

    alice = await pool_of_three.joins()

    print(f"500 {body!r}: connected after {time.monotonic() - began:.2f} s")
    await only_on(pool_of_three.servers, "green", {ROOM: {"alice"}})
    assert len(pool_of_three.tap.conversations) == 1
    await pool_of_three.left(
        cause=cause, reason=f"a join was refused with HTTP 500: {row}", cool=COOL_DOWN
    )
    await alice.leave()


# ---- several at once, and again -----------------------------------------------------------------


CROWD = 500
CROWDED_ROOMS = 100


@pytest.mark.timeout(180)
async def test_five_hundred_refused_at_once_are_one_rotation(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    """
    Red answers late, so that all have asked it before the first is refused.

    The interval between rotations is so short that it protects nobody.
    """
    # A join may take as long as these clients wait: all are through the pool within one second or
    # within five, as the machine goes.
    settings = {"LIVEKIT_POOL_ROTATION_INTERVAL": "0.1", "LIVEKIT_POOL_JOIN_TIMEOUT": "15"}
    async with (
        setting(tmp_path, livekit_servers, workers=2, **settings) as made,
        SignalClients() as make,
    ):
        made.red.answers(signalling, 429, "connection limit", after=3.0)
        crowd = crowd_of(made.pool, make)
        began = time.monotonic()

        joined = await asyncio.gather(*(who.join() for who in crowd))

        asked = [each.at for each in made.red.seen if joins(each.path)]
        spread = max(asked) - min(asked)
        print(
            f"{len(asked)} refused within {spread:.2f} s, {CROWD} connected after"
            f" {time.monotonic() - began:.2f} s"
        )
        # A second, on a machine that does nothing else.
        assert spread < 3.0
        assert len(asked) > CROWD * 0.9
        assert Counter(server_of(each, livekit_servers) for each in joined) == {"green": CROWD}
        await made.left(
            cause="connection_limit",
            reason="a join was refused with HTTP 429: connection limit",
            cool=COOL_LIMIT,
        )


@pytest.mark.timeout(180)
async def test_five_hundred_who_come_late_with_an_old_revision_are_one_rotation(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    """
    All lost their session on red, and each finds out at a moment of its own, and reports it.

    Within twelve seconds: for a minute of real time see tests/real/test_reports.py. Instead the
    interval between rotations is so short that it protects nobody.
    """
    async with (
        setting(tmp_path, livekit_servers, workers=2, LIVEKIT_POOL_ROTATION_INTERVAL="0.1") as made,
        SignalClients() as make,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        crowd = crowd_of(made.pool, make)
        for some in range(0, CROWD, 50):
            await asyncio.gather(*(who.join() for who in crowd[some : some + 50]))
        for who in crowd:
            await who.gets("refresh_token")
        assert Counter(str(who.location) for who in crowd) == {
            "{'revision': 1, 'server': 'red'}": CROWD
        }
        for who in crowd:
            who.cut()
        made.red.answers(signalling, 503, "node has exceeded its configured limit")
        began = time.monotonic()
        answers: Counter[str] = Counter()

        async def comes(number: int, who: SignalClient) -> Told:
            await asyncio.sleep(began + 12 * number / CROWD - time.monotonic())
            told = await who.resume(token=old[number])
            assert told.kind == "leave"
            assert told.message.leave.action == rtc_messages.LeaveRequest.RECONNECT
            async with session.post(
                f"{made.pool.http_url}/pool/report",
                json=claims_of(old[number])["livekitPool"] | {"error": f"websocket error {number}"},
                headers={"Authorization": f"Bearer {old[number]}"},
            ) as answer:
                answers[(await answer.json()).get("status", str(answer.status))] += 1
            return await who.join()

        old = [who.token for who in crowd]
        joined = await asyncio.gather(*(comes(*each) for each in enumerate(crowd)))

        print(f"{CROWD} came back within {time.monotonic() - began:.1f} s; reports: {answers}")
        assert Counter(server_of(each, livekit_servers) for each in joined) == {"green": CROWD}
        # Who is the first may report to a process that has not heard of the rotation yet.
        assert answers["already_handled"] > CROWD * 0.98
        assert answers.total() == answers["already_handled"] + answers["verifying"]
        await made.left(
            cause="connection_limit",
            reason="a join was refused with HTTP 503: node full",
            cool=COOL_LIMIT,
        )


@pytest.mark.timeout(120)
async def test_five_hundred_calls_that_are_refused_late_are_one_rotation(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    """
    Each was sent to red before the first was refused, and is refused at a moment of its own.

    Within five seconds, nearly all of them after the rotation; the interval protects nobody.
    """
    async with (
        setting(tmp_path, livekit_servers, workers=2, LIVEKIT_POOL_ROTATION_INTERVAL="0.1") as made,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        api.LiveKitAPI(made.pool.url, made.pool.key, made.pool.secret, session=session) as lk,
    ):
        listing = method("ListParticipants")
        refused = twirp("resource_exhausted", "slow down")
        for number in range(CROWD):
            late = 2 + 5 * number / CROWD
            made.red.answers(listing, 429, refused, headers=JSON, times=1, after=late)

        async def asks(number: int) -> None:
            await lk.room.list_participants(api.ListParticipantsRequest(room=f"room-{number}"))

        await asyncio.gather(*(asks(number) for number in range(CROWD)))

        (rotation,) = await made.pool.rotations()
        assert rotation["reason"] == "a call was refused with HTTP 429: rate limit"
        assert made.red.count(listing, "answered") > CROWD * 0.9
        rotated = datetime.datetime.fromisoformat(rotation["at"]).timestamp()
        print(f"{CROWD} answered {time.time() - rotated:.1f} s after the rotation")
        assert await made.pool.active() == "green"


def crowd_of(pool: PoolProcess, make: SignalClients) -> list[SignalClient]:
    """The crowd, which has joined nothing."""
    return [
        make(pool.url, pool.token(f"room-{number % CROWDED_ROOMS}", f"who-{number}"))
        for number in range(CROWD)
    ]


@pytest.mark.parametrize(
    ("status", "body", "cause", "least"),
    [
        (429, "quota exceeded", "quota", 0.0),
        (429, "slow down", "rate_limit", 1.0),
        (500, "internal error", "down", 1.0),
    ],
    ids=["quota", "rate limit", "trouble"],
)
async def test_the_next_server_refuses_as_well(
    tmp_path: Path,
    livekit_servers: list[LocalServer],
    status: int,
    body: str,
    cause: str,
    least: float,
) -> None:
    """A spent quota is left at once; a limit not sooner than the interval after a rotation."""
    async with AsyncExitStack() as stack:
        green = await stack.enter_async_context(Injector(livekit_servers[1].port))
        made = await stack.enter_async_context(
            setting(
                tmp_path,
                livekit_servers,
                LIVEKIT_SERVERS_1_URL=green.url,
                LIVEKIT_POOL_ROTATION_INTERVAL="1.5",
            )
        )
        for injector in (made.red, green):
            injector.answers(signalling, status, body)
        began = time.monotonic()

        alice = await made.joins()

        took = time.monotonic() - began
        print(f"{body!r} twice: connected after {took:.2f} s")
        await only_on(livekit_servers, "blue", {ROOM: {"alice"}})
        # Two looks, one after the other, may take longer than one request may be held.
        assert len(made.tap.conversations) <= (1 if status == 429 else 2)
        assert least <= took < (4.5 if status == 429 else 9)
        rotations = await made.pool.rotations()
        assert [(each["from"], each["to"], each["cause"]) for each in rotations] == [
            ("green", "blue", cause),
            ("red", "green", cause),
        ], made.pool.log_end()
        await alice.leave()


async def test_a_date_to_retry_after_is_obeyed(pool_of_three: Setting) -> None:
    asked = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    asked = asked.replace(microsecond=0)  # a date has none
    headers = {"Retry-After": format_datetime(asked, usegmt=True)}
    pool_of_three.red.answers(signalling, 429, headers=headers)

    alice = await pool_of_three.joins()

    ends = await pool_of_three.left(
        cause="rate_limit", reason="a join was refused with HTTP 429: rate limit", cool=(0, 90)
    )
    # By the seconds that were left when the answer was read, some moments before the rotation.
    late = (ends - asked).total_seconds()
    assert -0.0011 < late < 1, late
    await alice.leave()


@pytest.mark.timeout(120)
async def test_a_cool_down_is_remembered_across_restarts_and_processes(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    """By both workers, after a planned stop and after a crash of everything."""
    async with setting(tmp_path, livekit_servers, workers=2) as made:
        pool = made.pool
        made.red.answers(signalling, 429, headers={"Retry-After": "120"})
        alice = await made.joins()
        ends = await made.left(
            cause="rate_limit", reason="a join was refused with HTTP 429: rate limit", cool=120
        )
        await alice.leave()
        made.red.passes()

        for restarted in (pool.stop, pool.kill_everything):
            await restarted()
            await pool.start()

            await until(lambda: len(pool.workers()) == 2, seconds=5, what="both workers run")
            await pool.all_told()  # whoever is stopped as it begins may keep the store from others
            cooling = {"role": "cooling", "cause": "rate_limit", "until": ends}
            for worker in pool.workers():
                with others_frozen(worker, pool.workers()):
                    red = await made.server("red")
                told = datetime.datetime.fromisoformat(red["cool_down_until"])
                assert {"role": red["role"], "cause": red["cause"], "until": told} == cooling
            assert [each["to"] for each in await pool.rotations()] == ["green"]

        # Green, blue, and then it would be red's turn: for who asks, and for the pool itself.
        await until(lambda: all_up(pool), seconds=10, what="all servers are up")
        for there in ("blue", "green", "blue"):
            assert (await pool.rotate())["to"] == there
        await livekit_servers[2].kill()

        async def rotated_once_more() -> bool:
            # What is active, the other worker may not have heard yet.
            return len(await pool.rotations()) == 5

        await until(rotated_once_more, seconds=15, what="blue is left")
        await until(lambda: is_active(pool, "green"), seconds=5, what="for green")
        red = await made.server("red")
        assert datetime.datetime.fromisoformat(red["cool_down_until"]) == ends


async def test_the_only_server_is_never_cooled_out_of_use(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    async with setting(tmp_path, livekit_servers[:1]) as made:
        made.red.answers(signalling, 429, "quota exceeded")
        began = time.monotonic()

        with pytest.raises(rtc.ConnectError) as refused:
            await made.joins()

        took = time.monotonic() - began
        print(f"a pool of one: refused after {took:.2f} s")
        assert "503" in str(refused.value)
        assert took < 3  # there is nothing to be held for, in any of the SDK's four tries
        assert await made.pool.rotations() == []
        made.red.passes()
        alice = await made.joins()
        red = await made.server("red")
        assert (red["role"], red["cool_down_until"]) == ("active", None)
        await alice.leave()


async def test_who_resumes_and_is_refused_comes_back_on_the_next_server(
    pool_of_three: Setting,
) -> None:
    pool, servers = pool_of_three.pool, pool_of_three.servers
    async with SignalClients() as make:
        alice = make(pool.url, pool.token(ROOM, "alice"))
        await alice.join()
        await alice.gets("refresh_token")
        alice.cut()
        pool_of_three.red.answers(signalling, 503, "node has exceeded its configured limit")

        told = await alice.resume()

        assert told.kind == "leave"
        assert told.message.leave.action == rtc_messages.LeaveRequest.RECONNECT
        assert server_of(await alice.join(), servers) == "green"
    assert [each["cause"] for each in await pool.rotations()] == ["connection_limit"]
