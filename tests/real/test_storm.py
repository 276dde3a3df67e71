"""Twenty participants in five rooms, joins all the time, rotations at the worst moments."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import aiohttp
import pytest
from livekit import api, rtc

from livekit_pool.local import LocalServer
from tests.real.call import Participant
from tests.real.pool_process import PoolProcess
from tests.real.until import until

ROOMS = 5
EACH = 4
SECONDS = 40.0
ENOUGH = 20  # guests that get in meanwhile
LONGEST = 150.0
JOIN_LIMIT = 20.0
"""What the SDK itself allows a connect() to take, ICE included: 15 s and its retries."""


async def identities_on(server: LocalServer) -> dict[str, set[str]]:
    """Room -> identities of the participants that ``server`` itself says it has."""
    url = server.url.replace("ws", "http", 1)
    async with api.LiveKitAPI(url, server.key, server.secret) as lk:
        rooms = (await lk.room.list_rooms(api.ListRoomsRequest())).rooms
        found = {}
        for room in rooms:
            listed = await lk.room.list_participants(api.ListParticipantsRequest(room=room.name))
            if identities := {p.identity for p in listed.participants}:
                found[room.name] = identities
        return found


class Storm:
    """Joins, and rotates, until told to stop."""

    def __init__(self, pool: PoolProcess, source: random.Random) -> None:
        self.pool = pool
        self.source = source
        self.failed: list[str] = []
        self.joins = 0
        self.over = False
        self.started = 0

    async def passers_by(self) -> None:
        """Somebody joins a room and leaves it again, until the storm is over."""
        while not self.over:
            # To be cancelled within connect() is more than the SDK can bear: it panics.
            self.started += 1
            identity = f"guest{self.started}"
            room = f"room{self.source.randrange(ROOMS)}"
            guest = Participant(identity)
            begun = time.monotonic()
            try:
                await guest.join(self.pool.url, self.pool.token(room, identity), hear=False)
                self.joins += 1
            except rtc.ConnectError as error:
                self.failed.append(f"{identity}: {error}")
            took = time.monotonic() - begun
            if took > JOIN_LIMIT:
                self.failed.append(f"{identity}: joining took {took:.1f} s")
            await asyncio.sleep(self.source.uniform(0.0, 0.6))
            await guest.leave()

    async def rotations(self) -> int:
        """Rotate at random moments: some 0.3 s after one another, some back; how many were done."""
        done, begun = 0, time.monotonic()
        deadline = begun + SECONDS
        killed = False
        # Until enough came in between, on a slow machine too.
        while time.monotonic() < (deadline if self.joins > ENOUGH else begun + LONGEST):
            await self._rotate(None)
            done += 1
            if self.source.random() < 0.5:
                await asyncio.sleep(0.3)
                back = (await self.pool.rotations())[0]["from"]
                await self._rotate(back if self.source.random() < 0.6 else None)
                done += 1
            if not killed and time.monotonic() > deadline - SECONDS / 2:
                killed = True
                await self.pool.kill_worker(self.source.choice(self.pool.workers()))
            await asyncio.sleep(self.source.uniform(0.5, 6.0))
        return done

    async def _rotate(self, to: str | None) -> None:
        # A request may meet the worker that is being killed.
        for _ in range(5):
            with contextlib.suppress(aiohttp.ClientError):
                await self.pool.rotate("storm", **({"to": to} if to else {}))
                return
            await asyncio.sleep(0.1)
        raise AssertionError("no worker rotates")


async def meets_again(who: Participant, members: list[Participant], pool: PoolProcess) -> None:
    """Wait until ``who`` sees exactly the others of its room, guests aside."""
    others = {other.identity for other in members} - {who.identity}
    await until(
        lambda: who.connected and {i for i in who.seen if i.startswith("p")} == others,
        seconds=40,
        what=lambda: (
            f"{who.identity} meets its room; it sees {who.seen}\n"
            f"{who.history()}\n{pool.log_end(60)}"
        ),
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
async def test_a_storm(pool: PoolProcess, livekit_servers: list[LocalServer], seed: int) -> None:
    source = random.Random(seed)
    storm = Storm(pool, source)
    async with contextlib.AsyncExitStack() as stack:
        people: dict[str, list[Participant]] = {}
        for number in range(ROOMS * EACH):
            who = await stack.enter_async_context(Participant(f"p{number}"))
            room = f"room{number % ROOMS}"
            people.setdefault(room, []).append(who)
            await who.join(pool.url, pool.token(room, who.identity), audio=number < ROOMS)
        guests = [asyncio.create_task(storm.passers_by()) for _ in range(2)]
        try:
            done = await storm.rotations()
        finally:
            storm.over = True
            await asyncio.gather(*guests)

        # Everybody of a room meets again; guests that were cut off in the middle may linger.
        for members in people.values():
            for who in members:
                await meets_again(who, members, pool)
        assert storm.failed == []
        assert storm.joins > ENOUGH
        for members in people.values():
            for who in members:
                assert who.count("disconnected") == 0, who.history()

        # No ghost stays on a server that was left, and no room is on two servers.
        active = await pool.active()

        async def one_place() -> bool:
            found = {server.name: await identities_on(server) for server in livekit_servers}
            here = {
                identity
                for room in found[active].values()
                for identity in room
                if identity.startswith("p")
            }
            elsewhere = [name for name, rooms in found.items() if name != active and rooms]
            return len(here) == ROOMS * EACH and not elsewhere

        await until(one_place, seconds=30, what="all are on the active server, nobody elsewhere")
        history = await pool.rotations()
        print(f"{done} rotations, {storm.joins} joins of guests")
        assert len(history) == min(done, 50)
        assert {rotation["cause"] for rotation in history} == {"manual"}
        assert not pool.leaks()
