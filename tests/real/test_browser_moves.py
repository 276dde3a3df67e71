"""Calls with livekit-client in Chromium, while the active server is rotated, killed and frozen."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from livekit_pool.local import LocalServer
from tests.real.arrivals import Arrivals
from tests.real.browser.tab import Browser, Tab
from tests.real.call import Participant
from tests.real.pool_process import PoolProcess
from tests.real.until import until

pytestmark = pytest.mark.needs("chromium")

Someone = Tab | Participant

RETURN_SECONDS = 20.0
"""For both to meet again; a move of two who just came may wait 10 s by itself."""


@dataclass(frozen=True, slots=True)
class Call:
    """
    Alice in a tab and Bob, in one room through the pool.

    Attributes:
        pool: the pool.
        alice: in Chromium; speaks and sends.
        bob: in Chromium or in Python; sends.
        speakers: who of them speaks.
        joined: when both were in.
    """

    pool: PoolProcess
    alice: Tab
    bob: Someone
    speakers: tuple[str, ...]
    joined: float = field(default_factory=time.monotonic)

    async def runs(self) -> None:
        """Wait until both see the other and no third, and all that is sent arrives at both."""
        for who, other in self._ways():
            await who.meets(other.identity, seconds=RETURN_SECONDS)
        begun = time.monotonic()
        for who, other in self._ways():
            await self._arrives(who, other, "data", begun)
            if other.identity in self.speakers:
                await self._arrives(who, other, "audio", begun)

    async def settled(self) -> None:
        """Wait until both can bear a move at once: one second after their joins."""
        await self.runs()
        await until(
            lambda: time.monotonic() > self.joined + 1.5, seconds=3, what="they joined a while ago"
        )

    async def moves(
        self, strike: Callable[[], Awaitable[object]], *, to: str, cause: str, gap: float
    ) -> None:
        """
        Let ``strike`` happen: both must meet again on ``to``, by exactly one new rotation.

        Args:
            strike: what makes the pool leave the active server.
            to: the server on which both must be afterwards, in one room.
            cause: of the rotation.
            gap: seconds of silence in messages that are bearable: what is promised, and as much
                again for a machine that does other things as well. Of these livekit-client itself
                takes more than 2: it waits so long before it looks whether it is connected.
        """
        await self.settled()
        before = await self.pool.rotations()
        since = time.monotonic()

        await strike()

        await until(
            lambda: self._on(to), seconds=RETURN_SECONDS, what=f"both are on {to}\n{self.history()}"
        )
        await self.runs()
        ended = time.monotonic()
        for kind in ("data", "audio"):
            print(f"{cause}: longest gap in {kind} {self._gap(kind, since, ended):.2f} s")
        history = await self.pool.rotations()
        assert history[1:] == before
        assert (history[0]["to"], history[0]["cause"]) == (to, cause)
        assert self._gap("data", since, ended) < gap, self.history()
        for who, _ in self._ways():
            assert who.count("reconnected", since=since) == 1, self.history()
            assert who.count("disconnected") == 0, self.history()
            # livekit-client keeps back some events about others, such as `track_subscribed`, after
            # it has reconnected; that tracks are back is shown by their packets, above.
            if who.identity in self.speakers:
                again = "published" if isinstance(who, Tab) else "republished"
                assert who.count(f"local_track_{again}", since=since) == 1, self.history()
        assert not self.pool.leaks()

    def history(self) -> str:
        """All that both saw, for the message of a failed test."""
        return f"{self.alice.history()}\n{self.bob.history()}\n{self.pool.log_end()}"

    def _ways(self) -> tuple[tuple[Someone, Someone], tuple[Someone, Someone]]:
        return (self.alice, self.bob), (self.bob, self.alice)

    async def _arrives(self, who: Someone, other: Someone, kind: str, begun: float) -> None:
        """Wait until something of ``kind`` arrives that is later than ``begun``."""

        async def arrived() -> bool:
            if isinstance(who, Tab):
                await who.look()
            return max(_of(who, kind, other).times, default=0.0) > begun

        await until(
            arrived,
            seconds=RETURN_SECONDS,
            what=lambda: f"{kind} of {other.identity} at {who.identity}\n{self.history()}",
        )

    async def _on(self, server: str) -> bool:
        status = await self.pool.status()
        found = {each["name"]: (each["participants"], each["rooms"]) for each in status["servers"]}
        return found == {**dict.fromkeys(found, (0, 0)), server: (2, 1)}

    def _gap(self, kind: str, since: float, ended: float) -> float:
        """The longest silence of ``kind`` at either of them."""
        return max(
            _of(who, kind, other).longest_gap(since=since, until=ended)
            for who, other in self._ways()
            if kind == "data" or other.identity in self.speakers
        )


def _of(who: Someone, kind: str, other: Someone) -> Arrivals:
    came: dict[str, Arrivals] = who.audio if kind == "audio" else who.data
    return came.get(other.identity) or Arrivals()


@asynccontextmanager
async def of_two_tabs(pool: PoolProcess, browser: Browser, *speakers: str) -> AsyncIterator[Call]:
    """A call of two tabs."""
    alice, bob = await browser.open_tab(), await browser.open_tab()
    for tab, identity in ((alice, "alice"), (bob, "bob")):
        token = pool.token("standup", identity)
        await tab.join(pool.url, token, identity=identity, audio=identity in speakers)
    for tab in (alice, bob):
        await tab.start_sending()
    yield Call(pool, alice, bob, speakers)


@asynccontextmanager
async def of_tab_and_python(pool: PoolProcess, browser: Browser) -> AsyncIterator[Call]:
    """A call of a tab and a participant with the Python SDK; both speak."""
    alice = await browser.open_tab()
    async with Participant("bob") as bob:
        await alice.join(pool.url, pool.token("standup", "alice"), identity="alice", audio=True)
        await bob.join(pool.url, pool.token("standup", "bob"), audio=True)
        await alice.start_sending()
        bob.start_sending()
        yield Call(pool, alice, bob, ("alice", "bob"))


async def test_a_planned_rotation_moves_two_tabs(pool: PoolProcess, browser: Browser) -> None:
    async with of_two_tabs(pool, browser, "alice", "bob") as call:
        await call.moves(lambda: pool.rotate("planned"), to="green", cause="manual", gap=5.4)


async def test_a_killed_server_is_left_by_two_tabs(
    pool: PoolProcess, browser: Browser, livekit_servers: list[LocalServer]
) -> None:
    async with of_two_tabs(pool, browser, "alice") as call:
        await call.moves(livekit_servers[0].kill, to="green", cause="down", gap=5.4)


async def test_a_server_that_hangs_is_left_by_two_tabs(
    pool: PoolProcess, browser: Browser, livekit_servers: list[LocalServer]
) -> None:
    async with of_two_tabs(pool, browser, "alice", "bob") as call:
        await call.moves(livekit_servers[0].freeze, to="green", cause="timeout", gap=13.0)


async def test_a_tab_and_python_are_moved_twice(
    pool: PoolProcess, browser: Browser, livekit_servers: list[LocalServer]
) -> None:
    async with of_tab_and_python(pool, browser) as call:
        await call.moves(lambda: pool.rotate("planned"), to="green", cause="manual", gap=5.4)
        await call.moves(livekit_servers[1].kill, to="blue", cause="down", gap=5.4)
