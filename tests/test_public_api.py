"""What a Python program uses: the public names, and a pool without any web server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import livekit_pool
from livekit_pool import tokens
from livekit_pool.config import load
from livekit_pool.exceptions import RevisionConflict, UnknownServer
from livekit_pool.local import LocalServer, find_server

ENVIRONMENT = {
    "LIVEKIT_POOL_KEY": "poolkey",
    "LIVEKIT_POOL_SECRET": "poolsecret" * 4,
    "LIVEKIT_POOL_STORE": "memory://",
}


def test_every_public_name_is_there_and_no_other() -> None:
    assert {name: getattr(livekit_pool, name) for name in livekit_pool.__all__}
    assert "Pool" in livekit_pool.__all__
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        livekit_pool.Nonsense  # noqa: B018  # the access is the test


async def test_a_program_makes_tokens_rotates_and_hears_of_it(tmp_path: Path) -> None:
    program = find_server()
    async with (
        LocalServer("red", program=program, log=tmp_path / "red.log") as red,
        LocalServer("green", program=program, log=tmp_path / "green.log") as green,
    ):
        environment = dict(ENVIRONMENT)
        for index, server in enumerate((red, green)):
            environment |= {
                f"LIVEKIT_SERVERS_{index}_NAME": server.name,
                f"LIVEKIT_SERVERS_{index}_URL": server.url,
                f"LIVEKIT_SERVERS_{index}_KEY": server.key,
                f"LIVEKIT_SERVERS_{index}_SECRET": server.secret,
            }
        settings = load(env=environment, cwd=tmp_path)

        async with livekit_pool.Pool(settings) as pool:
            access = await pool.token(room="standup", identity="alice")

            assert access.url == "ws://127.0.0.1:7870"
            assert (access.server, access.revision) == ("red", 1)
            claims = tokens.verify(access.token, pool.pair)
            assert (claims.room, claims.identity) == ("standup", "alice")
            assert access.token not in repr(access)

            heard = asyncio.ensure_future(anext(pool.rotations()))
            await asyncio.sleep(0)  # it listens from its first step on
            rotation = await pool.rotate("manual rotation")

            assert rotation is not None
            assert (rotation.from_, rotation.to) == ("red", "green")
            assert await asyncio.wait_for(heard, 5) == rotation
            assert await pool.history() == [rotation]
            assert await pool.rotate("again", to="green") is None
            with pytest.raises(RevisionConflict) as conflict:
                await pool.rotate("too late", expected_revision=1)
            assert conflict.value.revision == 2
            with pytest.raises(UnknownServer):
                await pool.rotate("no such server", to="blue")
