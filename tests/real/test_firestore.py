"""The pool as a user runs it, on Firestore, with a client of the original system beside it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from livekit_pool.local import LocalServer
from tests.real.machines import SECRET, Machines
from tests.real.meeting import meeting
from tests.real.pool_process import PoolProcess
from tests.real.roster import only_on
from tests.real.test_machines import is_active, settled
from tests.real.test_store_away import CUTS, heal, meet, people_of
from tests.real.until import until
from tests.stores.emulator import Emulator
from tests.stores.original import OriginalClient
from tests.stores.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.needs("firestore"), pytest.mark.timeout(150)]


@pytest.fixture
def project() -> str:
    return f"pool-{secrets.token_hex(8)}"


@pytest.fixture
async def pool(
    tmp_path: Path, livekit_servers: list[LocalServer], project: str
) -> AsyncIterator[PoolProcess]:
    """A pool with two workers on the emulator."""
    settings = {
        "LIVEKIT_POOL_STORE": f"firestore://{project}/system/livekitPool",
        "FIRESTORE_EMULATOR_HOST": Emulator.shared().address,
    }
    async with PoolProcess(tmp_path, livekit_servers, settings=settings) as pool:
        yield pool


@pytest.fixture
async def client(pool: PoolProcess, project: str) -> AsyncIterator[OriginalClient]:
    async with OriginalClient(Emulator.shared().address, project, count=3) as client:
        yield client


async def test_pool_and_client_follow_each_other(pool: PoolProcess, client: OriginalClient) -> None:
    await until(client.is_at(0), seconds=5, what="the client reads the new document")

    await pool.rotate("a planned one", to="blue")
    await until(client.is_at(2), seconds=5, what="the client follows")

    await client.rotate(1, "quota exceeded")

    async def followed() -> bool:
        return await pool.active() == "green"

    await until(followed, seconds=5, what="the pool follows")
    newest = (await pool.rotations())[0]
    assert (newest["cause"], newest["from"], newest["to"]) == ("foreign", "blue", "green")
    assert client.seen[-1] == 1
    assert (await pool.status())["store"]["ok"]
    assert not pool.leaks()
    # Nobody but the pool writes its log.
    assert all(line.startswith("20") for line in pool.log_text().splitlines()), pool.log_text()


async def test_a_clients_rotation_moves_a_call(pool: PoolProcess, client: OriginalClient) -> None:
    async with meeting(pool) as call:
        await call.settled()
        since = time.monotonic()

        await client.rotate(1, "quota exceeded")

        await until(
            lambda: (
                call.alice.count("reconnected", since=since)
                and call.bob.count("reconnected", since=since)
            ),
            seconds=15,
            what=lambda: f"both come back\n{call.history()}",
        )
        await call.runs()
        print(f"longest gap in data {call.gap(since):.2f} s")
        assert call.alice.count("disconnected") == call.bob.count("disconnected") == 0


@pytest.fixture
async def two(
    tmp_path: Path, livekit_servers: list[LocalServer], project: str
) -> AsyncIterator[Machines]:
    """Two machines, each of which reaches the emulator by a proxy of its own."""
    async with AsyncExitStack() as stack:
        pools, stores = [], []
        for number in range(2):
            store = await stack.enter_async_context(TcpProxy(Emulator.shared().port))
            own = tmp_path / f"machine{number}"
            own.mkdir()
            settings = {
                "LIVEKIT_POOL_STORE": f"firestore://{project}/system/livekitPool",
                "LIVEKIT_POOL_MACHINE": f"machine{number}",
                "FIRESTORE_EMULATOR_HOST": f"127.0.0.1:{store.port}",
            }
            pool = PoolProcess(own, livekit_servers, workers=1, settings=settings)
            pool.secret = SECRET
            pools.append(await stack.enter_async_context(pool))
            stores.append(store)
        yield Machines(pools, None, stores, pools[0].url)


@pytest.mark.parametrize("cut", CUTS)
async def test_a_machine_that_is_cut_off_when_a_server_dies_agrees_in_the_end(
    two: Machines, livekit_servers: list[LocalServer], cut: str
) -> None:
    async with people_of(two, 0, 1) as people:
        await meet(people)
        await settled(people)
        await CUTS[cut](two.stores[0])

        await livekit_servers[0].kill()

        await two.pools[0].logs("Store does not answer")
        await meet(people)
        room = {"standup": {who.identity for who in people}}
        await only_on(livekit_servers[1:], "green", room)
        await heal(two.stores[0])
        await two.agree_on("green", seconds=40)
        assert [(r["from"], r["to"], r["cause"]) for r in await two.history()] == [
            ("red", "green", "down")
        ]
        await meet(people)
        await only_on(livekit_servers[1:], "green", room)
        for who in people:
            assert who.count("disconnected") == 0, who.history()


async def test_all_are_cut_off_when_a_server_dies(
    two: Machines, livekit_servers: list[LocalServer]
) -> None:
    async with people_of(two, 0, 1) as people:
        await meet(people)
        await settled(people)
        await CUTS["black hole"](two.stores[0])
        await CUTS["answers lost"](two.stores[1])

        await livekit_servers[0].kill()

        await two.step_to("green", seconds=30)
        await meet(people)
        for store in two.stores:
            await heal(store)
        await two.agree_on("green", seconds=40)
        assert [(r["from"], r["to"], r["cause"]) for r in await two.history()] == [
            ("red", "green", "down")
        ]
        await meet(people)
        for who in people:
            assert who.count("disconnected") == 0, who.history()


async def test_a_machine_that_was_stopped_for_a_minute_acts_on_nothing_old(
    two: Machines, livekit_servers: list[LocalServer]
) -> None:
    """With a rotation on the way, which has done nothing when it goes on."""
    red = livekit_servers[0]
    two.stores[1].black_hole()
    await red.kill()
    await two.pools[1].logs("LiveKit server changed health")
    two.freeze(1)
    await until(partial(is_active, two.pools[0], "green"), seconds=10, what="the other leaves red")
    two.stores[1].heal()
    await red.start()
    await asyncio.sleep(60)  # no clock of another process can be turned
    await two.pools[0].rotate("it is well again", to="red")

    two.thaw(1)

    await two.pools[1].logs("Worker died and is replaced .*SIGALRM")
    await two.agree_on("red")
    assert [(r["from"], r["to"], r["cause"]) for r in await two.history()] == [
        ("green", "red", "manual"),
        ("red", "green", "down"),
    ]
