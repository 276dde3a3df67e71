"""Joins while the active server is drained, by force, because there was no other."""

from __future__ import annotations

from livekit_pool import tokens
from tests.web.gateway.a_pool import JOIN, Line, Setting, a_pool
from tests.web.served import until


async def joins(line: Line) -> None:
    await line.joins()


async def drained(setting: Setting) -> None:
    """Both servers are drained, red, the active one, by force."""
    await setting.pool.drain("green", "update")
    marked = await setting.pool.drain("red", "update as well", force=True)
    assert marked.rotation is None
    assert setting.pool.active_server == "red"
    assert not setting.pool.takes_rooms


def token(setting: Setting, room: str) -> str:
    return tokens.participant_token(setting.pool.pair, room=room, identity="bob")


async def test_live_rooms_are_joined_and_new_ones_refused() -> None:
    async with a_pool(joins, join_timeout=1) as setting:
        alice = await setting.session()
        await drained(setting)

        bob = await setting.asks(token(setting, "standup"))
        await bob.until(JOIN)
        late = await setting.asks(token(setting, "retro"))
        refusal = await late.until(b"\r\n\r\n")

        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: " in refusal.lower()
        assert [len(server.lines) for server in (setting.red, setting.green)] == [2, 0]
        for connection in (alice, bob, late):
            connection.close()


async def test_a_new_room_is_held_until_a_server_may_be_sent_to() -> None:
    async with a_pool(joins) as setting:
        await drained(setting)
        late = await setting.asks(token(setting, "retro"))
        await until(lambda: len(setting.gateway.waiting) == 1)
        assert setting.red.lines == setting.green.lines == []

        marked = await setting.pool.undrain("green")

        await late.until(JOIN)
        assert [len(server.lines) for server in (setting.red, setting.green)] == [0, 1]
        (rotation,) = await setting.pool.history()
        assert (rotation.from_, rotation.to, rotation.reason) == (
            "red",
            "green",
            "drained: update as well",
        )
        assert rotation.revision == marked.revision + 1
        late.close()
