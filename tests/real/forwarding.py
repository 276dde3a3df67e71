"""A forwarded port on loopback, with or without TLS in front."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK = 2**16


@asynccontextmanager
async def forwarded(
    port: int, *, to: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[list[bytes]]:
    """
    Forward every connection to ``port``, and end TLS there if given its ``tls``.

    Yields:
        the first bytes that each connection's client said.
    """
    heads: list[bytes] = []
    tasks: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            back, on = await asyncio.open_connection("127.0.0.1", to)
        except OSError:
            writer.transport.abort()
            return
        try:
            heads.append(await reader.read(_CHUNK))
            on.write(heads[-1])
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, on))
                group.create_task(_copy(back, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # a side has gone, or the test is over
        finally:
            on.transport.abort()
            writer.transport.abort()

    listener = await asyncio.start_server(forward, "127.0.0.1", port, ssl=tls)
    try:
        yield heads
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and end there as well."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.close()
