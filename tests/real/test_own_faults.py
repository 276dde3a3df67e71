"""
Faults of our own, with a call under way: nobody is condemned, and the log says what happened.

The pool is in a network namespace, with a wire to each server and one to its clients; media goes
from the clients straight to the server.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from livekit_pool.local import LocalServer
from tests.real.call import Participant
from tests.real.dns import DnsServer
from tests.real.meeting import Meeting, meeting
from tests.real.namespace import Namespace
from tests.real.pool_process import COMMAND, PoolProcess
from tests.real.until import until

pytestmark = [pytest.mark.needs("namespaces"), pytest.mark.timeout(150)]

CLIENTS, RED, GREEN = range(3)
NAMES = {"red": RED, "green": GREEN}

OUTAGE = 10.0

Fail = Callable[[Namespace, int], None]
FAILURES: dict[str, Fail] = {
    "packets are lost": Namespace.lose_answers,
    "the cable is out": Namespace.cut,
    "the interface is down": Namespace.take_down,
}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace(wires=3) as namespace:
        yield namespace


@pytest.fixture
async def servers(tmp_path: Path, livekit_program: Path) -> AsyncIterator[list[LocalServer]]:
    """Two, which listen at every address."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                LocalServer(
                    name,
                    program=livekit_program,
                    log=tmp_path / f"{name}.log",
                    settings={"bind_addresses": ["0.0.0.0"]},
                )
            )
            for name in NAMES
        ]


def inside(
    namespace: Namespace, folder: Path, servers: list[LocalServer], hosts: dict[str, str]
) -> PoolProcess:
    """A pool in the namespace, whose servers are at ``hosts``."""
    urls = {
        f"LIVEKIT_SERVERS_{number}_URL": f"ws://{hosts[server.name]}:{server.port}"
        for number, server in enumerate(servers)
    }
    return PoolProcess(
        folder,
        servers,
        workers=1,
        command=(*namespace.command, *COMMAND),
        host=namespace.addresses[CLIENTS],
        settings=urls,
    )


@pytest.fixture
async def pool(
    tmp_path: Path, servers: list[LocalServer], namespace: Namespace
) -> AsyncIterator[PoolProcess]:
    """A pool that reaches each server by a wire of its own."""
    hosts = {name: namespace.near[wire] for name, wire in NAMES.items()}
    async with inside(namespace, tmp_path, servers, hosts) as pool:
        yield pool


async def nothing_happened(call: Meeting) -> None:
    """The call goes on where it was, nobody was condemned, and others can come."""
    await call.runs()
    await call.is_on("red")
    assert await call.pool.rotations() == []
    status = await call.pool.status()
    assert status["active"] == "red"
    assert [each["cool_down_until"] for each in status["servers"]] == [None, None]
    assert call.alice.count("disconnected") == call.bob.count("disconnected") == 0
    async with Participant("carol") as carol:
        await carol.join(call.pool.url, call.pool.token(call.room, "carol"))
        await carol.meets(call.alice, call.bob)
    assert not call.pool.leaks()


async def validated(pool: PoolProcess, identity: str) -> int:
    """With which status a join would be answered."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"{pool.http_url}/rtc/validate",
            params={"access_token": pool.token("standup", identity)},
        ) as answer,
    ):
        return answer.status


@pytest.mark.parametrize("failure", FAILURES)
async def test_the_own_network_is_gone(
    pool: PoolProcess, namespace: Namespace, failure: str
) -> None:
    async with meeting(pool) as call:
        await call.settled()
        for wire in NAMES.values():
            FAILURES[failure](namespace, wire)
        await pool.logs("All LiveKit servers silent")
        # Joins are held, refused for now, and no evidence.
        answers = [asyncio.create_task(validated(pool, f"early{number}")) for number in range(5)]
        assert set(await asyncio.gather(*answers)) == {503}
        await asyncio.sleep(OUTAGE - 4.5)
        for wire in NAMES.values():
            namespace.mend(wire)
        await nothing_happened(call)


@pytest.mark.parametrize("failure", FAILURES)
async def test_the_way_to_one_server_is_gone(
    pool: PoolProcess, namespace: Namespace, failure: str
) -> None:
    async with meeting(pool) as call:
        await call.settled()
        FAILURES[failure](namespace, RED)
        await call.is_on("green", seconds=20)
        await call.runs()
        assert [(each["from"], each["to"], each["cause"]) for each in await pool.rotations()] == [
            ("red", "green", "timeout")
        ]


def _slow(dns: DnsServer) -> None:
    dns.delay = 5.0


def _dead(dns: DnsServer) -> None:
    dns.delay = None


def _fail(dns: DnsServer) -> None:
    dns.failing = True


def _confuse(dns: DnsServer) -> None:
    dns.confused = True


TROUBLES: dict[str, Callable[[DnsServer], None]] = {
    "slow": _slow,
    "dead": _dead,
    "failing": _fail,
    "confused": _confuse,
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_the_resolver_is(
    tmp_path: Path, servers: list[LocalServer], namespace: Namespace, trouble: str
) -> None:
    hosts = {name: f"{name}.pool.test" for name in NAMES}
    known = {hosts[name]: namespace.near[wire] for name, wire in NAMES.items()}
    namespace.resolves_by(CLIENTS, "timeout:5", "attempts:2")
    async with (
        DnsServer(namespace.near[CLIENTS], known) as dns,
        inside(namespace, tmp_path, servers, hosts) as pool,
        meeting(pool) as call,
    ):
        await call.settled()
        TROUBLES[trouble](dns)
        # A new connection to each is made each 15 s, for the signed probe.
        await pool.logs("Host names not resolved names=", seconds=30)
        await asyncio.sleep(2 * OUTAGE)
        await nothing_happened(call)
        assert "changed health" not in pool.log_text()

        dns.delay, dns.failing, dns.confused = 0.0, False, False
        await pool.logs("Host names resolved again", seconds=45)


async def test_one_name_is_gone_and_others_are_found(
    tmp_path: Path, servers: list[LocalServer], namespace: Namespace
) -> None:
    """Its probes pass, over the connection that is open; but nobody new can come."""
    hosts = {name: f"{name}.pool.test" for name in NAMES}
    known = {hosts[name]: namespace.near[wire] for name, wire in NAMES.items()}
    namespace.resolves_by(CLIENTS, "timeout:5", "attempts:2")
    async with (
        DnsServer(namespace.near[CLIENTS], known) as dns,
        inside(namespace, tmp_path, servers, hosts) as pool,
        meeting(pool) as call,
    ):
        await call.settled()
        del dns.names[hosts["red"]]
        await pool.logs("Host names not resolved names=red.pool.test", seconds=30)

        async def left() -> bool:
            await validated(pool, "carol")
            return await pool.active() == "green"

        await until(left, seconds=45, what=lambda: f"red is left\n{pool.log_end()}")
        await call.is_on("green")
        await call.runs()
        # By what joins met last: carol's connections fail, and the pool's own find no name in time.
        (rotation,) = await pool.rotations()
        assert rotation["cause"] in ("down", "timeout")


async def test_a_pool_starts_with_a_slow_resolver(
    tmp_path: Path, servers: list[LocalServer], namespace: Namespace
) -> None:
    hosts = {name: f"{name}.pool.test" for name in NAMES}
    known = {hosts[name]: namespace.near[wire] for name, wire in NAMES.items()}
    namespace.resolves_by(CLIENTS, "timeout:5", "attempts:2")
    async with DnsServer(namespace.near[CLIENTS], known) as dns:
        dns.delay = 3.0
        async with inside(namespace, tmp_path, servers, hosts) as pool:
            await pool.logs("Own fault: no server is blamed what=.*host name")
            async with meeting(pool) as call:
                await nothing_happened(call)
            assert "health=down" not in pool.log_text()


async def test_the_pool_was_stopped_with_joins_under_way(pool: PoolProcess) -> None:
    async with meeting(pool) as call:
        await call.settled()
        joins = [asyncio.create_task(validated(pool, f"late{number}")) for number in range(20)]
        await asyncio.sleep(0.02)  # somewhere in the middle of them
        pids = pool.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(5)  # the fault itself
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        await pool.logs("Own event loop stalled")
        assert set(await asyncio.gather(*joins)) <= {200, 503}
        await nothing_happened(call)
        assert "health=down" not in pool.log_text()
