"""What happens to a call in the benchmarks: its active server is left, dies, or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bench.exceptions import BenchError
from bench.options import Options
from livekit_pool.local import LocalServer, find_server
from tests.real.pool_process import PoolProcess

__all__ = ["ROOM", "Incident", "Stage", "standing"]

ROOM: Final = "bench"
_NAMES: Final = ("red", "green", "blue")
# A session may be moved without harm from 1 s after its `join`, and when its server has called
# its participant active, which it does in batches, up to 3 s late (docs: the failure model).
_SETTLED_SECONDS: Final = 4.0


class Incident(StrEnum):
    """What happens to the active server."""

    PLANNED = "planned rotation"
    KILLED = "SIGKILL of the active server"
    FROZEN = "SIGSTOP of the active server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Three LiveKit servers, and a pool in front of them that has not rotated yet."""

    servers: dict[str, LocalServer]
    pool: PoolProcess

    async def strike(self, incident: Incident) -> float:
        """Let it happen; the time just before, in seconds of the monotonic clock."""
        active = self.servers[await self.pool.active()]
        at = time.monotonic()
        match incident:
            case Incident.PLANNED:
                await self.pool.rotate(reason="a benchmark")
            case Incident.KILLED:
                await active.kill()
            case Incident.FROZEN:
                await active.freeze()
        return at

    async def settle(self) -> None:
        """Let a call that has just begun become one that can be moved."""
        await asyncio.sleep(_SETTLED_SECONDS)

    async def check(self) -> None:
        """
        See that there was one rotation.

        Raises:
            BenchError: there was none, or there were several.
        """
        rotations = await self.pool.rotations()
        if len(rotations) != 1:
            raise BenchError(f"one rotation was expected, the history has {len(rotations)}")


@contextlib.asynccontextmanager
async def standing(options: Options) -> AsyncIterator[Stage]:
    """Start everything anew: a cool-down from one trial would show in the next."""
    folder = options.new_folder()
    program = find_server(options.say)
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            LocalServer(name, program=program, log=folder / f"{name}.log") for name in _NAMES
        ]
        for server in servers:
            stack.push_async_callback(server.aclose)
        await asyncio.gather(*(server.start() for server in servers))
        pool = await stack.enter_async_context(options.pool(folder, servers))
        yield Stage(servers={server.name: server for server in servers}, pool=pool)
