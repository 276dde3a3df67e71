"""What a listener of ``GET /pool/events`` is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.real.machines import Machines


@asynccontextmanager
async def events_of(
    pool: Machines, number: int
) -> AsyncIterator[list[tuple[str, dict[str, object]]]]:
    """The events that a listener of that machine is told, from now on."""
    told: list[tuple[str, dict[str, object]]] = []
    connected = asyncio.Event()

    async def listen() -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        headers = {"Authorization": f"Bearer {pool.token('standup', 'listener')}"}
        url = f"{pool.pools[number].http_url}/pool/events"
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(url) as stream,
        ):
            name = ""
            async for line in stream.content:
                text = line.decode().rstrip("\n")
                if text.startswith("event: "):
                    name = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    told.append((name, json.loads(text.removeprefix("data: "))))
                    connected.set()

    task = asyncio.create_task(listen())
    async with asyncio.timeout(10):
        await connected.wait()
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
