"""Fifty sessions over four processes lose one server at once: one rotation, and all are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from livekit_pool.local import LocalServer
from tests.real.pool_process import PoolProcess
from tests.real.roster import only_on
from tests.real.signal_client import SignalClient, SignalClients, server_of

WORKERS = 4
SESSIONS = 50
ROOMS = 10


@pytest.fixture
async def pool(tmp_path: Path, livekit_servers: list[LocalServer]) -> AsyncIterator[PoolProcess]:
    """A pool of the three with four workers."""
    async with PoolProcess(tmp_path, livekit_servers, workers=WORKERS) as pool:
        yield pool


@pytest.fixture
async def people(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> AsyncIterator[list[SignalClient]]:
    """Fifty clients in ten rooms on the first server, through all workers."""
    # Whoever is stopped as it begins may keep the store from all others.
    await pool.all_told()
    workers = pool.workers()
    before = [sockets(worker) for worker in workers]
    async with SignalClients() as signals:
        people = [
            signals(pool.url, pool.token(f"room{number % ROOMS}", f"p{number}"), version=number % 2)
            for number in range(SESSIONS)
        ]
        for number, worker in enumerate(workers):
            with others_frozen(worker, workers):
                for who in people[number::WORKERS]:
                    assert server_of(await who.join(), livekit_servers) == "red"
        # One socket to the client and one to the server for each session; probes come and go.
        for worker, had in zip(workers, before, strict=True):
            assert sockets(worker) - had >= 2 * (SESSIONS // WORKERS - 2)
        yield people


@contextlib.contextmanager
def others_frozen(worker: int, workers: list[int]) -> Iterator[None]:
    """SIGSTOP all workers but one, so that it gets every new connection."""
    others = [other for other in workers if other != worker]
    for other in others:
        os.kill(other, signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


def sockets(pid: int) -> int:
    """How many sockets a process has open (proc_pid_fd(5))."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # Closed since it was listed.
            found += os.readlink(descriptor).startswith("socket:")
    return found


async def check_one_rotation(
    pool: PoolProcess, livekit_servers: list[LocalServer], people: list[SignalClient], cause: str
) -> None:
    """Everybody is told of one and the same rotation, and comes back to one server."""
    joined = await asyncio.gather(*(who.comes_back(seconds=30) for who in people))

    (rotation,) = await pool.rotations()
    assert (rotation["from"], rotation["cause"]) == ("red", cause)
    assert pool.log_text().count("LiveKit server rotated") == 1
    target = rotation["to"]
    assert {server_of(each, livekit_servers) for each in joined} == {target}
    for who in people:
        assert len(who.leaves) == 1
        assert who.location == {"revision": rotation["revision"], "server": target}
        # Each was sent the news, before it was told to come back.
        assert [told.kind for told in who.before[-1]][-2:] == ["refresh_token", "leave"]
    rooms = {
        f"room{room}": {f"p{number}" for number in range(room, SESSIONS, ROOMS)}
        for room in range(ROOMS)
    }
    alive = [server for server in livekit_servers if server.name != "red"]
    await only_on(alive, target, rooms, seconds=10)
    assert len(await pool.rotations()) == 1
    assert pool.log_text().count("LiveKit server rotated") == 1
    assert not pool.leaks()


async def test_a_killed_server_is_one_rotation(
    pool: PoolProcess, livekit_servers: list[LocalServer], people: list[SignalClient]
) -> None:
    await livekit_servers[0].kill()
    await check_one_rotation(pool, livekit_servers, people, "down")


async def test_a_frozen_server_is_one_rotation(
    pool: PoolProcess, livekit_servers: list[LocalServer], people: list[SignalClient]
) -> None:
    await livekit_servers[0].freeze()
    await check_one_rotation(pool, livekit_servers, people, "timeout")
