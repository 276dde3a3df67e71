"""
Three machines behind one balancer, sessions of one room spread over them, and each kind of death.

After each of them there is one active server and one rotation for one failure, and the room is
whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from livekit_pool.driver.loop import STALL
from livekit_pool.local import LocalServer
from livekit_pool.rooms.live import ON_THE_MOVE
from livekit_pool.upstream.stalls import Stalls
from tests.real.call import Participant
from tests.real.events import events_of
from tests.real.machines import Machines, machines
from tests.real.pool_process import PoolProcess
from tests.real.roster import Apart
from tests.real.until import until

pytestmark = [pytest.mark.needs("redis", "haproxy"), pytest.mark.timeout(150)]

PEOPLE = 6


@pytest.fixture
async def pool(tmp_path: Path, livekit_servers: list[LocalServer]) -> AsyncIterator[Machines]:
    """The three machines."""
    async with machines(tmp_path, livekit_servers) as pool:
        yield pool


@asynccontextmanager
async def room_of(pool: Machines) -> AsyncIterator[list[Participant]]:
    """
    Six participants of one room, two through each machine, all of whom see each other.

    Whatever happens in the block, the servers themselves must say that the room is on two of them
    for no longer than participants may be on their way at a move. One that does not answer has
    nobody, so that it is those that live which are compared.
    """
    apart = Apart(pool.pools[0].servers, "standup")
    looking_on = asyncio.create_task(apart.look_on())
    async with AsyncExitStack() as stack:
        people = [
            await stack.enter_async_context(Participant(f"p{number}")) for number in range(PEOPLE)
        ]
        for number, who in enumerate(people):
            await pool.join(who, audio=number == 0)
        for who in people[:2]:
            who.start_sending()
        await all_meet(people)
        yield people
        looking_on.cancel()
        await asyncio.gather(looking_on, return_exceptions=True)
        print(f"on two servers at once: at most {apart.longest:.2f} s, of {apart.looks} looks")
        assert apart.looks > 10
        assert (await pool.pools[-1].active()) in apart.seen
        assert apart.longest < ON_THE_MOVE


async def all_meet(people: Sequence[Participant], *, seconds: float = 30) -> None:
    """Wait until everybody sees everybody, and messages arrive."""
    for who in people:
        await who.meets(*(other for other in people if other is not who), seconds=seconds)
    await people[-1].gets(people[1], seconds=seconds)


async def settled(people: Sequence[Participant]) -> None:
    """Wait until everybody joined so long ago that they can bear a move at once."""
    last = max(who.events[0].at for who in people)
    await until(lambda: time.monotonic() - last > 1.5, seconds=5, what="all joined a while ago")


def nobody_left(people: Sequence[Participant]) -> None:
    for who in people:
        assert who.count("disconnected") == 0, who.history()


async def test_a_room_over_three_machines_moves_whole(
    pool: Machines, livekit_servers: list[LocalServer]
) -> None:
    async with room_of(pool) as people:
        await settled(people)

        async def two_each() -> bool:
            rows = (await pool.pools[0].status())["processes"]
            told = sorted((row["host"], row["participants"]) for row in rows)
            return told == [("machine0", 2), ("machine1", 2), ("machine2", 2)]

        await until(two_each, seconds=10, what="each machine has told of its two")
        since = time.monotonic()

        await pool.pools[1].rotate("planned", to="blue")
        await pool.agree_on("blue")

        await all_meet(people)
        await pool.room_is_whole("blue", PEOPLE)
        nobody_left(people)
        assert [(r["from"], r["to"], r["cause"]) for r in await pool.history()] == [
            ("red", "blue", "manual")
        ]
        now = time.monotonic()
        gap = people[-1].data[people[1].identity].longest_gap(since=since, until=now)
        print(f"planned, over three machines: longest gap in data {gap:.2f} s")
        assert pool.leaks() == []


async def test_the_death_of_a_server_is_one_rotation(
    pool: Machines, livekit_servers: list[LocalServer]
) -> None:
    async with room_of(pool) as people:
        await settled(people)

        await livekit_servers[0].kill()

        await pool.agree_on("green")
        await all_meet(people)
        await pool.room_is_whole("green", PEOPLE)
        nobody_left(people)
        assert [(r["from"], r["to"], r["cause"]) for r in await pool.history()] == [
            ("red", "green", "down")
        ]


async def test_a_server_that_hangs_is_seen_by_two_machines_and_left_once(
    pool: Machines, livekit_servers: list[LocalServer]
) -> None:
    async with room_of(pool) as people:
        await settled(people)
        since = time.monotonic()

        await livekit_servers[0].freeze()

        await pool.agree_on("green")
        assert time.monotonic() - since < 6
        await all_meet(people)
        await pool.room_is_whole("green", PEOPLE)
        assert [r["cause"] for r in await pool.history()] == ["timeout"]


async def test_the_death_of_a_machine_moves_nobody(pool: Machines) -> None:
    async with room_of(pool) as people:
        await settled(people)
        await people[-1].hears(people[0], seconds=30)
        since = time.monotonic()
        with Stalls() as stalls:
            await pool.pools[0].kill_everything()

            await until(
                lambda: any(who.count("reconnecting", since=since) for who in people),
                seconds=10,
                what="somebody lost its signalling",
            )
            await all_meet(people)
            now = time.monotonic()
            gap = people[-1].audio[people[0].identity].longest_gap(since=since, until=now)
            print(f"a machine died: longest gap in audio {gap:.2f} s, own {stalls.longest:.2f} s")
            assert gap < 0.3 + stalls.longest
        await pool.room_is_whole("red", PEOPLE)
        nobody_left(people)
        assert await pool.history() == []
        await pool.pools[0].start()
        await pool.agree_on("red")


async def test_the_death_of_redis_stops_nobody(
    pool: Machines, livekit_servers: list[LocalServer]
) -> None:
    async with room_of(pool) as people, Participant("late") as late:
        await settled(people)

        pool.redis.kill()
        for one in pool.pools:
            await one.logs("Store does not answer")
        await pool.join(late)
        await all_meet([*people, late])
        assert (await pool.pools[0].status())["store"]["ok"] is False

        await livekit_servers[0].kill()
        await pool.step_to("green")
        everybody = [*people, late]
        await all_meet(everybody)

        pool.redis.start()
        await pool.agree_on("green")
        await pool.room_is_whole("green", len(everybody))
        await all_meet(everybody)
        nobody_left(everybody)
        assert [(r["from"], r["to"], r["cause"]) for r in await pool.history()] == [
            ("red", "green", "down")
        ]


async def test_redis_back_without_its_data_is_no_rotation(
    pool: Machines, livekit_servers: list[LocalServer]
) -> None:
    async with room_of(pool) as people:
        await settled(people)
        await pool.pools[0].rotate("so that there is something to lose", to="green")
        await pool.agree_on("green")
        await all_meet(people)
        await settled(people)
        revision = (await pool.pools[0].status())["revision"]

        pool.redis.kill()
        pool.redis.forget()
        pool.redis.start()

        await until(
            lambda: any("Lost document restored" in one.log_text() for one in pool.pools),
            seconds=10,
            what="somebody brings the document back",
        )

        async def all_restored() -> bool:
            states = [await one.status() for one in pool.pools]
            return {state["revision"] for state in states} == {revision + 1}

        await until(all_restored, seconds=10, what="all have heard of it")
        await pool.agree_on("green")
        await pool.room_is_whole("green", PEOPLE)
        assert await all_restored()
        assert [(r["from"], r["to"]) for r in await pool.history()] == [("red", "green")]
        notes = [r for r in await pool.pools[0].rotations() if r["cause"] == "restored"]
        assert len(notes) == 1
        nobody_left(people)


@asynccontextmanager
async def stopped_with_evidence(pool: Machines, red: LocalServer) -> AsyncIterator[PoolProcess]:
    """
    A machine that is stopped when it has seen the active server die, its rotation on the way.

    The others have left that server, and it is well again. What was on the way has arrived then,
    and done nothing.
    """
    pool.stores[2].black_hole()
    await red.kill()
    await pool.pools[2].logs("LiveKit server changed health")
    pool.freeze(2)
    await until(partial(is_active, pool.pools[0], "green"), seconds=10, what="the others leave red")
    pool.stores[2].heal()
    await red.start()
    yield pool.pools[2]
    await pool.agree_on("red")
    await pool.room_is_whole("red", 1)
    assert [(r["from"], r["to"], r["cause"]) for r in await pool.history()] == [
        ("green", "red", "manual"),
        ("red", "green", "down"),
    ]


async def test_a_machine_that_was_stopped_for_some_seconds_acts_on_nothing_old(
    pool: Machines, livekit_servers: list[LocalServer]
) -> None:
    """
    Its process goes on. What it has seen is about the server that is active again, and is late.

    It cannot have heard of anything when somebody joins: the store's answers come half a second
    later. (Where it takes 6 s to come so far, its process ends, as after a minute.)
    """
    async with Participant("late") as late, stopped_with_evidence(pool, livekit_servers[0]) as one:
        pool.stores[2].mute()
        await asyncio.sleep(STALL)
        await pool.pools[0].rotate("it is well again", to="red", force=True)
        joining = asyncio.create_task(late.join(one.url, pool.token("standup", "late")))
        await asyncio.sleep(0.5)  # it is in its sockets

        status = asyncio.create_task(one.status())
        told = asyncio.create_task(first_event(pool, 2))
        await asyncio.sleep(0.5)  # so are they

        pool.thaw(2)
        await asyncio.sleep(0.5)
        pool.stores[2].heal()

        revision = (await pool.pools[0].status())["revision"]
        answer = await status
        assert (answer["active"], answer["revision"]) == ("red", revision)
        assert (await told)["revision"] == revision
        await joining
        await pool.room_is_whole("red", 1)
        assert late.count("reconnecting") == 0, late.history()


async def test_a_machine_that_was_stopped_for_a_minute_acts_on_nothing_old(
    pool: Machines, livekit_servers: list[LocalServer]
) -> None:
    """
    Its process ends as it goes on, before it does anything, and a new one remembers nothing.

    Who asked it before it went on is answered by that one, and told of nothing old.
    """
    async with Participant("late") as late, stopped_with_evidence(pool, livekit_servers[0]) as one:
        await asyncio.sleep(55)  # the minute: no clock of another process can be turned
        await pool.pools[0].rotate("it is well again", to="red")
        revision = (await pool.pools[0].status())["revision"]
        async with asyncio.TaskGroup() as group:
            group.create_task(late.join(one.url, pool.token("standup", "late")))
            answer = group.create_task(one.status())
            told = group.create_task(first_event(pool, 2))
            await asyncio.sleep(0.5)  # they are in its sockets

            pool.thaw(2)

        assert (answer.result()["active"], answer.result()["revision"]) == ("red", revision)
        assert told.result()["revision"] == revision
        await one.logs("Worker died and is replaced .*SIGALRM")


async def is_active(pool: PoolProcess, server: str) -> bool:
    return await pool.active() == server


async def first_event(pool: Machines, number: int) -> dict[str, object]:
    """What a new listener of that machine is told first."""
    async with events_of(pool, number) as told:
        return told[0][1]
