"""The ledger against what real servers say, and a pool whose minutes or places are out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from livekit import api, rtc

from livekit_pool.core import minutes
from livekit_pool.local import LocalServer
from livekit_pool.metering import looking
from livekit_pool.stores.sqlite import SqliteStore
from tests.real.call import Participant, make_token
from tests.real.pool_process import PoolProcess
from tests.real.roster import calls
from tests.real.until import until

LATE = 1.5
"""Seconds by which a stay may begin or end elsewhere in the ledger: those of a busy machine."""

LOOKS = 0.15
"""Seconds between two looks of the test's own at the servers."""


@dataclass(slots=True)
class Truth:
    """Who was on which server, by what the servers say: SID -> [joined, seen last]."""

    stays: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    async def follow(self, server: LocalServer) -> None:
        """Look at ``server`` again and again."""
        found = self.stays.setdefault(server.name, {})
        async with calls(server) as lk:
            while True:
                with contextlib.suppress(aiohttp.ClientError, api.TwirpError, TimeoutError):
                    at = time.time()
                    for room in (await lk.room.list_rooms(api.ListRoomsRequest())).rooms:
                        asked = api.ListParticipantsRequest(room=room.name)
                        for who in (await lk.room.list_participants(asked)).participants:
                            found.setdefault(who.sid, [who.joined_at_ms / 1000, at])[1] = at
                await asyncio.sleep(LOOKS)


@asynccontextmanager
async def observed(servers: list[LocalServer]) -> AsyncIterator[Truth]:
    truth = Truth()
    looking_on = [asyncio.create_task(truth.follow(server)) for server in servers]
    try:
        yield truth
    finally:
        for task in looking_on:
            task.cancel()
        await asyncio.gather(*looking_on, return_exceptions=True)


async def ledger_of(folder: Path) -> dict[str, dict[str, minutes.Stay]]:
    """Server -> SID -> stay, as the pool's database has it."""
    async with SqliteStore(f"sqlite:///{folder}/livekit-pool.db") as store:
        ledger = await store.ledger()
    return {
        server: dict(minutes.read(sums).stays)
        for writer, sums in ledger.items()
        if (server := minutes.server_of(writer))
    }


def by_name(servers: list[LocalServer], name: str) -> LocalServer:
    return next(server for server in servers if server.name == name)


async def all_on(pool: PoolProcess, name: str, count: int) -> None:
    """Wait until ``count`` participants of the pool are on that server, and none elsewhere."""

    async def so() -> bool:
        found = {each["name"]: each["participants"] for each in (await pool.status())["servers"]}
        return found == {**dict.fromkeys(found, 0), name: count}

    await until(so, seconds=30, what=lambda: f"{count} are on {name}\n{pool.log_end()}")


async def joined(
    stack: AsyncExitStack, pool: PoolProcess, *identities: str, room: str = "standup"
) -> list[Participant]:
    people = []
    for identity in identities:
        who = await stack.enter_async_context(Participant(identity))
        await who.join(pool.url, pool.token(room, identity), audio=True)
        people.append(who)
    return people


async def test_of_a_call_that_lives_through_everything(
    pool: PoolProcess, livekit_servers: list[LocalServer], tmp_path: Path
) -> None:
    """Its workers are killed, it is rotated, its server is killed; one came past the pool."""
    async with observed(livekit_servers) as truth, AsyncExitStack() as stack:
        red = by_name(livekit_servers, "red")
        dave = await stack.enter_async_context(Participant("dave"))
        token = make_token(red.key, red.secret, room="elsewhere", identity="dave")
        await dave.join(red.url, token)
        past = dave.room.local_participant.sid
        people = await joined(stack, pool, "alice", "bob", "carol")
        await all_on(pool, "red", 3)

        killed = []
        for pid in pool.workers():  # before any of them has written what it saw
            killed.append(time.time())
            await pool.kill_worker(pid)
            await until(lambda: len(pool.workers()) == 2, seconds=10, what="it is replaced")
            await all_on(pool, "red", 3)
            await asyncio.sleep(4)  # an SDK whose resume is cut short gives the session up

        await pool.rotate("a planned one", to="green")
        await all_on(pool, "green", 3)
        await asyncio.sleep(3)
        await by_name(livekit_servers, "green").kill()

        async def left() -> bool:
            return len(await pool.rotations()) == 2

        await until(left, seconds=10, what=lambda: f"green is left\n{pool.log_end()}")
        last = (await pool.rotations())[0]["to"]
        await all_on(pool, last, 3)
        await asyncio.sleep(3)
        for who in people:
            await who.leave()
        await asyncio.sleep(1)
        assert await pool.stop() == 0

    ledger = await ledger_of(tmp_path)
    assert set(ledger) == {"red", "green", last}
    for server, stays in truth.stays.items():
        counted = ledger.get(server, {})
        assert counted.keys() <= stays.keys()
        for sid, (start, end) in stays.items():
            if any(0 <= end - moment < 5 for moment in killed):
                continue  # given up with its worker, which had not written of it
            assert sid in counted, (server, sid, [round(each - start) for each in (end, *killed)])
            assert counted[sid].start / 1000 == pytest.approx(start, abs=LATE), (server, sid)
            # Nobody but the servers' lists tells of who came past the pool.
            early = looking.EVERY if sid == past else 0.0
            assert end - early - LATE < counted[sid].end / 1000 < end + LATE, (server, sid)
    total = sum(end - start for each in truth.stays.values() for start, end in each.values())
    told = sum(s.end - s.start for each in ledger.values() for s in each.values()) / 1000
    print(f"{told:.1f} of {total:.1f} participant seconds are in the ledger")
    assert not pool.leaks()


@pytest.mark.timeout(120)
async def test_a_server_whose_minutes_run_out_is_left_before(
    livekit_servers: list[LocalServer], tmp_path: Path
) -> None:
    settings = {"LIVEKIT_SERVERS_0_MINUTES": "0.5"}
    async with (
        PoolProcess(tmp_path, livekit_servers, settings=settings) as pool,
        AsyncExitStack() as stack,
    ):
        people = await joined(stack, pool, "alice", "bob")
        await all_on(pool, "red", 2)

        async def rotated() -> bool:
            return bool(await pool.rotations())

        await until(rotated, seconds=60, what=lambda: f"it is rotated\n{pool.log_end()}")
        (rotation,) = await pool.rotations()
        assert (rotation["cause"], rotation["from"], rotation["to"]) == ("quota", "red", "green")
        assert rotation["reason"].endswith(" minutes are used; they will soon be out")
        await all_on(pool, "green", 2)

        red = (await pool.status())["servers"][0]
        assert red["role"] == "exhausted"
        assert red["cause"] == "quota"
        assert red["health"] == "up"
        assert red["cool_down_until"][:19] == red["minutes_reset"][:19]
        assert red["minutes_budget"] == 0.5

        green = red

        # The worker that answers knows of another's sessions by what that one wrote last.
        async def counted() -> bool:
            nonlocal red, green
            red, green, _ = (await pool.status())["servers"]
            return bool(red["minutes_used"] >= 0.475 and green["burn_rate"] == 2.0)

        await until(counted, seconds=45, what=lambda: f"both are counted\n{red}\n{green}")
        assert (green["minutes_left"], green["runs_out"]) == (None, None)
        for who in people:
            assert who.count("disconnected") == 0
            await who.leave()

        assert await pool.stop() == 0
        pool.settings["LIVEKIT_SERVERS_0_MINUTES"] = "100"
        await pool.start()

        async def has_more() -> bool:
            red = (await pool.status())["servers"][0]
            return (red["role"], red["cool_down_until"]) == ("standby", None)

        await until(has_more, seconds=10, what=lambda: f"red is available\n{pool.log_end()}")
        await pool.rotate()
        assert (await pool.rotations())[0]["to"] == "blue"
        await pool.rotate()
        assert (await pool.rotations())[0]["to"] == "red"


async def test_a_server_that_is_full_is_left_by_all_for_one_with_room(
    livekit_servers: list[LocalServer], tmp_path: Path
) -> None:
    settings = {"LIVEKIT_SERVERS_0_MAX_PARTICIPANTS": "2"}
    async with (
        PoolProcess(tmp_path, livekit_servers, settings=settings) as pool,
        AsyncExitStack() as stack,
    ):
        alice, bob = await joined(stack, pool, "alice", "bob")
        await all_on(pool, "green", 2)
        (rotation,) = await pool.rotations()
        assert rotation["cause"] == "participant_limit"
        (carol,) = await joined(stack, pool, "carol")
        await carol.meets(alice, bob, seconds=15)
        assert len(await pool.rotations()) == 1


async def test_where_all_are_full_a_join_is_told_to_come_again(
    livekit_servers: list[LocalServer], tmp_path: Path
) -> None:
    settings = {f"LIVEKIT_SERVERS_{number}_MAX_PARTICIPANTS": "2" for number in range(3)}
    async with (
        PoolProcess(tmp_path, livekit_servers, settings=settings) as pool,
        AsyncExitStack() as stack,
    ):
        alice, bob = await joined(stack, pool, "alice", "bob")
        await all_on(pool, "red", 2)

        async def refused() -> bool:
            async with Participant("carol") as carol:
                try:
                    await carol.join(pool.url, pool.token("standup", "carol"))
                except rtc.ConnectError:
                    return True
            return False  # that worker has not heard yet how many the other one has

        await until(refused, seconds=20, what=lambda: f"it is full\n{pool.log_end()}")
        assert await pool.rotations() == []

        await bob.leave()
        await all_on(pool, "red", 1)
        dora = await stack.enter_async_context(Participant("dora"))
        await dora.join(pool.url, pool.token("standup", "dora"))
        await dora.meets(alice, seconds=15)
