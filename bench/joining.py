"""How long a join takes: through the pool, and straight to the same server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from statistics import median
from typing import Final

from livekit import rtc

from bench.exceptions import BenchError
from bench.load import PATH_V0, Load, build, loading
from bench.options import Options
from bench.relays import Relay, straight_to, through
from bench.table import Bound, Row
from livekit_pool.local import LocalServer, find_server

__all__ = ["joining"]

_JOINS: Final = 400
_WARMUP: Final = 20
# Two rooms full. A participant without media is thrown out by the server after a while.
_STAY: Final = 20
_CLEANING_UP_SECONDS: Final = 0.2


async def joining(options: Options) -> list[Row]:
    """Seconds from connect until `join` has arrived, on a real LiveKit server."""
    folder = options.new_folder()
    sdk_path = await _sdk_path()
    # Two workers, as everybody has them; and no pinning, as the server needs its cores too.
    async with (
        LocalServer("real", program=find_server(options.say), log=folder / "livekit.log") as server,
        options.pool(folder, [server]) as pool,
    ):
        with loading(build(folder)) as load:
            ways = straight_to(server), through(pool)
            return [
                await _row(options, load, ways, "as the Python SDK joins", sdk_path),
                await _row(options, load, ways, "/rtc without an offer", PATH_V0),
            ]


async def _row(options: Options, load: Load, ways: tuple[Relay, Relay], how: str, path: str) -> Row:
    await _alternate(load, ways, path, _WARMUP)
    straight, through_pool = await _alternate(load, ways, path, options.rounds(_JOINS, quick=40))
    for relay, found in zip(ways, (straight, through_pool), strict=True):
        options.say(f"join, {how}, {relay.name}: {_quartiles(found)}")
    return Row(
        what=f"join until `join` arrives, median, real server: {how}",
        unit="ms",
        digits=2,
        reference_name=ways[0].name,
        reference=median(straight) * 1000,
        pool=median(through_pool) * 1000,
        target=1.1,
        bound=Bound.AT_MOST,
    )


async def _alternate(
    load: Load, ways: tuple[Relay, Relay], path: str, joins: int
) -> tuple[list[float], list[float]]:
    """
    Join both ways in turn, each into the rooms of the other, and stay until two rooms are full.

    Who goes first changes with each pair, so that both make as many of the rooms: the load puts
    ten participants after one another into each.
    """
    found: tuple[list[float], list[float]] = ([], [])
    order = itertools.islice(itertools.cycle((0, 1, 1, 0)), 2 * joins)
    for number, way in enumerate(order, start=1):
        found[way].append(load.join(ways[way], path=path))
        if number % _STAY == 0 or number == 2 * joins:
            load.close()
            # What the server does to clean up is not part of the next ones' joins.
            await asyncio.sleep(_CLEANING_UP_SECONDS)
    return found


async def _sdk_path() -> str:
    """Let the Python SDK try to join here, to learn what it asks for, its offer included."""
    asked: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode().split(" ")[1])
        writer.close()

    listener = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        # It is hung up on; the token is not looked at by anybody.
        with contextlib.suppress(rtc.ConnectError):
            await rtc.Room().connect(f"ws://127.0.0.1:{port}", "token")
    if not asked or not asked[0].startswith("/rtc/v1?"):
        raise BenchError(f"the Python SDK asked not for /rtc/v1, but for {asked[:1]}")
    return asked[0]


def _quartiles(seconds: list[float]) -> str:
    ranked = sorted(seconds)
    shown = (ranked[len(ranked) * part // 4] * 1000 for part in (1, 2, 3))
    return "quartiles " + ", ".join(f"{value:.2f} ms" for value in shown)
