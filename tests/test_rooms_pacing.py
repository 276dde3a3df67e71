"""The moves of rooms are spread over a rotation's window, the same in every process."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from tests.rooms_setting import Setting, scene

WINDOW = 20.0


def offset(room: str, since: int) -> float:
    """When, in seconds after the news, design section 6 has a room move: blake2 of both."""
    digest = hashlib.blake2b(f"{since}:{room}".encode(), digest_size=8).digest()
    return WINDOW * int.from_bytes(digest, "big") / 2**64


@scene()
async def test_rooms_move_one_after_the_other_within_the_window(pool: Setting) -> None:
    names = [f"room{number}" for number in range(40)]
    sessions = {name: await pool.a.join_settled(name) for name in names}
    since = await pool.rotate("green", window=WINDOW)
    loop = asyncio.get_running_loop()
    begun, moved = loop.time(), dict[str, float]()
    while len(moved) < len(names):
        assert loop.time() - begun <= WINDOW + 0.1, "some never move"
        for name in names:
            if sessions[name].moves and name not in moved:
                moved[name] = loop.time() - begun
        await asyncio.sleep(0.01)

    assert moved == {name: pytest.approx(offset(name, since), abs=0.05) for name in names}
    # Spread, not bunched: the formula above is not all that keeps them apart.
    assert sum(at < WINDOW / 2 for at in moved.values()) in range(10, 31)


@scene()
async def test_a_join_moves_a_room_whose_moment_has_passed_and_no_other(pool: Setting) -> None:
    for name in ("one", "two"):
        (await pool.a.join_settled(name)).leave()
    since = await pool.rotate("green", window=WINDOW)
    await asyncio.sleep(0)
    early, late = sorted(("one", "two"), key=lambda name: offset(name, since))
    await asyncio.sleep((offset(early, since) + offset(late, since)) / 2)

    assert (await pool.b.join(early)).server == "green"
    assert (await pool.b.join(late)).server == "red"


@scene()
async def test_a_dead_server_is_left_without_pacing(pool: Setting) -> None:
    sessions = [await pool.a.join_settled(f"room{number}") for number in range(10)]
    pool.a.driver.goes_down("red")
    await pool.rotate("green", window=WINDOW)
    await asyncio.sleep(0.3)
    assert all(session.moves for session in sessions)
