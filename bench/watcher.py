"""
``python -m bench.watcher URL``: a process that does nothing but watch a store.

Prints a line of JSON for each notice of the document, and on a line of standard input how much
processor time it has used so far. Moments are of the monotonic clock, which all processes of a
machine share (clock_gettime(2)).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from livekit_pool.stores import store_from_url
from livekit_pool.stores.base import Changed

__all__: list[str] = []


async def _watch(url: str) -> None:
    async with store_from_url(url) as store:
        asking = asyncio.create_task(_answer())
        notices = aiter(store.watch())
        await anext(notices)  # the first is always a resync: from here on nothing is missed
        _say(watching=True)
        async for notice in notices:
            if isinstance(notice, Changed):
                _say(revision=notice.revision, at=time.monotonic())
        asking.cancel()


async def _answer() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        _say(cpu=time.process_time())


def _say(**fact: Any) -> None:
    print(json.dumps(fact), flush=True)


if __name__ == "__main__":
    asyncio.run(_watch(sys.argv[1]))
