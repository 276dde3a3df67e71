"""What clients are pointed at: the pool, HAProxy to compare it with, or a server itself."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.options import Options
from bench.processes import (
    RELAY_CORES,
    family,
    free_port,
    parent,
    pinned,
    running,
    tool,
    wait_until,
)
from livekit_pool.local import LocalServer
from livekit_pool.servers import Server
from tests.real.pool_process import PoolProcess

__all__ = ["Relay", "haproxy", "one_worker", "straight_to", "through"]

_START_SECONDS: Final = 10.0

# One thread; everything else as the package comes, apart from what relaying WebSocket needs.
_HAPROXY: Final = """\
global
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout tunnel 1h
frontend pool
    bind 127.0.0.1:{port}
    default_backend servers
backend servers
    server stand-in {address}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """
    Something that passes signalling on, or a server itself.

    Attributes:
        name: what the table calls it.
        address: where clients connect, ``host:port``.
        key: with which it wants tokens signed.
        secret: to that key.
        pids: its processes; none where its use of the machine is not asked for.
    """

    name: str
    address: str
    key: str
    secret: str = field(repr=False)
    pids: Sequence[int] = ()


@contextlib.contextmanager
def haproxy(address: str, folder: Path) -> Iterator[Relay]:
    """
    Run HAProxy before one server, on the relay's core.

    Raises:
        Missing: it is not installed.
    """
    program = tool("haproxy")
    port = free_port()
    configuration, log = folder / "haproxy.cfg", folder / "haproxy.log"
    configuration.write_text(_HAPROXY.format(port=port, address=address))
    with running([program, "-db", "-f", configuration], log=log, cores=RELAY_CORES) as process:
        wait_until(
            lambda: _listens(port), seconds=_START_SECONDS, what=f"HAProxy listens (see {log})"
        )
        yield Relay(
            name="HAProxy",
            address=f"127.0.0.1:{port}",
            # It passes on whatever token there is.
            key="key",
            secret=secrets.token_hex(32),
            pids=family(process.pid),
        )


@contextlib.asynccontextmanager
async def one_worker(options: Options, server: Server) -> AsyncIterator[Relay]:
    """Run the pool before one server: one worker, on the relay's core."""
    settings = {
        f"LIVEKIT_SERVERS_0_{field.upper()}": getattr(server, field)
        for field in ("name", "url", "key", "secret")
    }
    pool = options.pool(options.new_folder(), [], workers=1, settings=settings)
    try:
        with pinned(RELAY_CORES):
            await pool.start()
        yield through(pool)
    finally:
        await pool.aclose()


def through(pool: PoolProcess) -> Relay:
    """A pool that runs, as something to point the load at."""
    supervisor = parent(pool.workers()[0])
    return Relay(
        name="pool",
        address=f"127.0.0.1:{pool.port}",
        key=pool.key,
        secret=pool.secret,
        pids=family(supervisor),
    )


def straight_to(server: LocalServer) -> Relay:
    """A LiveKit server that runs, as something to point the load at."""
    return Relay(
        name="direct", address=f"127.0.0.1:{server.port}", key=server.key, secret=server.secret
    )


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
