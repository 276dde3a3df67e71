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
from pathlib import Path

import pytest

from livekit_pool.local import LocalServer
from tests.real.call import Participant
from tests.real.machines import Machines, machines
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
    """Six participants of one room, two through each machine, all of whom see each other."""
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
        rows = (await pool.pools[0].status())["processes"]
        assert sorted(row["host"] for row in rows) == ["machine0", "machine1", "machine2"]
        assert [row["participants"] for row in rows] == [2, 2, 2]
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

        await pool.pools[0].kill_everything()

        await until(
            lambda: any(who.count("reconnecting", since=since) for who in people),
            seconds=10,
            what="somebody lost its signalling",
        )
        await all_meet(people)
        await pool.room_is_whole("red", PEOPLE)
        nobody_left(people)
        assert await pool.history() == []
        now = time.monotonic()
        gap = people[-1].audio[people[0].identity].longest_gap(since=since, until=now)
        print(f"a machine died: longest gap in audio {gap:.2f} s")
        assert gap < 0.3
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
        await pool.agree_on("green")
        await pool.room_is_whole("green", PEOPLE)
        states = [await one.status() for one in pool.pools]
        assert {state["revision"] for state in states} == {revision + 1}
        assert [(r["from"], r["to"]) for r in await pool.history()] == [("red", "green")]
        notes = [r for r in await pool.pools[0].rotations() if r["cause"] == "restored"]
        assert len(notes) == 1
        nobody_left(people)


async def test_a_machine_that_was_stopped_for_a_minute_acts_on_nothing_old(
    pool: Machines,
) -> None:
    """The servers that it remembers as active are well: nothing but its own doubt keeps it."""
    async with Participant("late") as late:
        pool.freeze(2)
        await pool.pools[0].rotate("one", to="green")
        await asyncio.sleep(60)  # the minute: no clock of another process can be turned
        await pool.pools[0].rotate("two", to="blue")

        pool.thaw(2)

        await late.join(pool.pools[2].url, pool.token("standup", "late"))
        await pool.agree_on("blue")
        await pool.room_is_whole("blue", 1)
        assert [(r["from"], r["to"]) for r in await pool.history()] == [
            ("green", "blue"),
            ("red", "green"),
        ]
