"""
The store behind real wires that lose packets, in both directions or in one.

As `test_store_away` has it for what a proxy can do; here nothing closes a connection and nothing
answers, as when a cable is pulled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from livekit_pool.local import LocalServer
from tests.real.machines import SECRET, Machines
from tests.real.namespace import Namespace
from tests.real.pool_process import PoolProcess
from tests.real.test_machines import settled
from tests.real.test_store_away import meet, people_of, store_is

pytestmark = [pytest.mark.needs("redis", "namespaces"), pytest.mark.timeout(150)]

Cut = Callable[[Namespace, int], None]
CUTS: dict[str, Cut] = {
    "both ways": Namespace.cut,
    "questions lost": Namespace.lose_questions,
    "answers lost": Namespace.lose_answers,
}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A namespace with a wire for each of two pools."""
    with Namespace(wires=2) as namespace:
        yield namespace


@pytest.fixture
async def pool(
    tmp_path: Path, livekit_servers: list[LocalServer], namespace: Namespace
) -> AsyncIterator[Machines]:
    """Two machines, each of which reaches Redis by a wire of its own."""
    redis = namespace.redis(tmp_path / "redis")
    async with AsyncExitStack() as stack:
        stack.callback(redis.kill)
        pools = []
        for number, address in enumerate(namespace.addresses):
            own = tmp_path / f"machine{number}"
            own.mkdir()
            pool = PoolProcess(
                own,
                livekit_servers,
                workers=1,
                settings={
                    "LIVEKIT_POOL_MACHINE": f"machine{number}",
                    "LIVEKIT_POOL_STORE": f"redis://{address}:{redis.port}?prefix=wires",
                },
            )
            pool.secret = SECRET
            stack.push_async_callback(pool.aclose)
            pools.append(pool)
        await asyncio.gather(*(pool.start() for pool in pools))
        yield Machines(pools, redis, [], pools[0].url)


@pytest.mark.parametrize("cut", CUTS)
async def test_one_wire_is_cut_and_mended(pool: Machines, namespace: Namespace, cut: str) -> None:
    async with people_of(pool, 0, 1) as people:
        await meet(people)
        await settled(people)

        CUTS[cut](namespace, 0)
        await store_is(pool, 0, False)
        assert (await pool.pools[1].status())["store"]["ok"] is True
        async with people_of(pool, 0, names="late") as late:
            await meet([*people, *late])

        namespace.mend(0)
        await store_is(pool, 0, True, seconds=40)
        await meet(people)
        await pool.room_is_whole("red", 2)
        assert await pool.history() == []
        for who in people:
            assert who.count("disconnected") == 0, who.history()


async def test_all_wires_are_cut_and_the_server_dies(
    pool: Machines, namespace: Namespace, livekit_servers: list[LocalServer]
) -> None:
    async with people_of(pool, 0, 1) as people:
        await meet(people)
        await settled(people)
        CUTS["both ways"](namespace, 0)
        CUTS["answers lost"](namespace, 1)
        for number in range(2):
            await store_is(pool, number, False)

        await livekit_servers[0].kill()
        await pool.step_to("green")
        await meet(people)
        for wire in range(2):
            namespace.mend(wire)

        await pool.agree_on("green", seconds=40)
        await pool.room_is_whole("green", 2)
        await meet(people)
        assert [(r["from"], r["to"], r["cause"]) for r in await pool.history()] == [
            ("red", "green", "down")
        ]
