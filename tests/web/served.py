"""A real uvicorn server in the test's own event loop, and raw connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from typing import Any

import uvicorn

from livekit_pool.web.http import HttpProtocol

PATIENCE = 10.0
"""Seconds after which a test that waits gives up; no promise is measured with it."""


async def until(condition: Callable[[], object]) -> None:
    """Wait for ``condition``, of which nobody else gives notice."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.002)


class Server(uvicorn.Server):
    """uvicorn's server, which leaves the signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Where it listens, and the server itself."""

    host: str
    port: int
    server: Server

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def connect(self) -> Connection:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        return Connection(reader=reader, writer=writer)

    async def ask(self, request: bytes) -> bytes:
        """All that comes back for ``request`` until the server closes."""
        connection = await self.connect()
        connection.writer.write(request)
        return await connection.rest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(end)

    async def rest(self) -> bytes:
        """What comes until the server closes; then close too."""
        async with asyncio.timeout(PATIENCE):
            data = await self.reader.read()
        self.close()
        return data

    def close(self) -> None:
        self.writer.close()


@contextlib.asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[Served]:
    """Serve ``app`` on a free port of loopback; ``options`` are uvicorn's."""
    sock = socket.create_server(("127.0.0.1", 0))
    options = {"http": HttpProtocol, "ws": "none", "access_log": False, **options}
    server = Server(uvicorn.Config(app, log_config=None, **options))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    await until(lambda: server.started)
    host, port = sock.getsockname()
    try:
        yield Served(host=host, port=port, server=server)
    finally:
        server.should_exit = True
        await task
