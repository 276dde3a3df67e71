"""
A pool that is a server of itself, where no setting shows it: the loop is answered with 508.

For a loop the pool must sign for its server with a key that it takes itself. Any other request that
comes round is refused before, as signed with a foreign key.
"""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from livekit_pool.local import reserve_port
from tests.real.forwarding import forwarded
from tests.real.pool_process import PoolProcess
from tests.real.until import until

SENTENCE = "this pool is configured as a server of itself"


def pool_of(folder: Path, url: str) -> PoolProcess:
    """A pool with one server at ``url``, whose settings are to be completed before it starts."""
    folder.mkdir(exist_ok=True)
    settings = {"LIVEKIT_SERVERS_0_NAME": "round", "LIVEKIT_SERVERS_0_URL": url}
    return PoolProcess(folder, [], settings=settings)


def key_of(pool: PoolProcess) -> dict[str, str]:
    """The settings that make another pool sign for this one."""
    return {"LIVEKIT_SERVERS_0_KEY": pool.key, "LIVEKIT_SERVERS_0_SECRET": pool.secret}


async def check_refused(pool: PoolProcess) -> None:
    """Whatever is sent to the pool's server is answered with 508, in each protocol's own way."""

    async def is_up() -> bool:
        return [each["health"] for each in (await pool.status())["servers"]] == ["up"]

    await until(is_up, seconds=15, what="its server, itself, looks well")
    bearer = {"Authorization": f"Bearer {pool.token('lobby', 'alice', room_list=True)}"}
    base = f"http://127.0.0.1:{pool.port}"
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{pool.url}/rtc?protocol=16", additional_headers=bearer, proxy=None)
    assert refused.value.response.status_code == 508
    assert refused.value.response.body.decode() == SENTENCE
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{base}/rtc/v1/validate?join_request=", headers=bearer) as answer:
            assert (answer.status, await answer.text()) == (508, SENTENCE)
        call = f"{base}/twirp/livekit.RoomService/ListRooms"
        async with http.post(call, headers=bearer, json={}) as answer:
            assert answer.status == 508
            assert await answer.json() == {"code": "failed_precondition", "msg": SENTENCE}
    assert not pool.leaks()


async def test_a_pool_behind_its_own_forwarded_port(tmp_path: Path) -> None:
    port, held = reserve_port()
    held.close()
    pool = pool_of(tmp_path, f"ws://127.0.0.1:{port}")
    pool.settings |= key_of(pool)
    async with forwarded(port, to=pool.port) as heads, pool:
        await check_refused(pool)
        # Once round, and not again and again until something gives in.
        assert sum(head.startswith(b"GET /rtc?") for head in heads) == 1
        assert sum(head.startswith(b"GET /rtc/v1/validate?") for head in heads) == 1


async def test_two_pools_that_are_servers_of_each_other(tmp_path: Path) -> None:
    one = pool_of(tmp_path / "one", "ws://to-be-replaced")
    other = pool_of(tmp_path / "other", one.url)
    one.settings |= key_of(other) | {"LIVEKIT_SERVERS_0_URL": other.url}
    other.settings |= key_of(one)
    async with one, other:
        await check_refused(one)
        await check_refused(other)
