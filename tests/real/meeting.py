"""A call of two through the pool, and the checks that every move of it must pass."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.real.call import Participant
from tests.real.pool_process import PoolProcess
from tests.real.until import until

SETTLING_SECONDS = 12.0
"""How long a move may wait for participants that just came."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Alice, who speaks and sends, and Bob, who listens and sends, in one room."""

    pool: PoolProcess
    room: str
    alice: Participant
    bob: Participant

    async def runs(self, *, seconds: float = 15) -> None:
        """Wait until both see, hear and get each other as it should be."""
        await self.alice.meets(self.bob, seconds=seconds)
        await self.bob.meets(self.alice, seconds=seconds)
        await self.bob.hears(self.alice, seconds=seconds)
        await self.bob.gets(self.alice, seconds=seconds)
        await self.alice.gets(self.bob, seconds=seconds)

    async def is_on(self, server: str, *, seconds: float = SETTLING_SECONDS) -> None:
        """Wait until the pool says that both are connected to ``server``, in one room."""

        async def both() -> bool:
            status = await self.pool.status()
            counts = {each["name"]: each["participants"] for each in status["servers"]}
            rooms = {each["name"]: each["rooms"] for each in status["servers"]}
            return counts == {**dict.fromkeys(counts, 0), server: 2} and rooms[server] == 1

        await until(both, seconds=seconds, what=f"both participants are on {server}")

    async def settled(self) -> None:
        """Wait until both joined so long ago that they can bear a move at once."""
        await self.runs()
        last_join = max(who.events[0].at for who in (self.alice, self.bob))
        await until(
            lambda: time.monotonic() - last_join > 1.5, seconds=5, what="both joined a while ago"
        )

    def gap(self, since: float) -> float:
        """The longest silence in Alice's messages at Bob's and in his at hers, since then."""
        now = time.monotonic()
        return max(
            self.bob.data["alice"].longest_gap(since=since, until=now),
            self.alice.data["bob"].longest_gap(since=since, until=now),
        )

    def history(self) -> str:
        """All events of both, for the message of a failed test."""
        return f"{self.alice.history()}\n{self.bob.history()}\n{self.pool.log_end()}"


@asynccontextmanager
async def meeting(pool: PoolProcess, room: str = "standup") -> AsyncIterator[Meeting]:
    """A call of two in ``room``, under way."""
    async with Participant("alice") as alice, Participant("bob") as bob:
        await alice.join(pool.url, pool.token(room, "alice"), audio=True)
        await bob.join(pool.url, pool.token(room, "bob"))
        alice.start_sending()
        bob.start_sending()
        call = Meeting(pool, room, alice, bob)
        await call.runs()
        yield call
