"""The pool as a user runs it, on Firestore, with a client of the original system beside it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from livekit_pool.local import LocalServer
from tests.real.meeting import meeting
from tests.real.pool_process import PoolProcess
from tests.real.until import until
from tests.stores.emulator import Emulator
from tests.stores.original import OriginalClient

pytestmark = pytest.mark.needs("firestore")


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
