"""How soon other processes see a change in an SQLite file, and what it costs them to look."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from bench.exceptions import BenchError
from bench.options import Options
from bench.table import Bound, Row
from livekit_pool.core.document import new_document
from livekit_pool.stores.base import Store, SwapOutcome
from livekit_pool.stores.sqlite import SqliteStore

__all__ = ["watching"]

_ROOT: Final = Path(__file__).parent.parent
_WATCHERS: Final = 4
_CHANGES: Final = 200
# At most so many seconds from one change to the next: at any moment of a watcher's round.
_DISTANCE: Final = 0.2
_IDLE_SECONDS: Final = 20.0
_PATIENCE: Final = 10.0


class _Watcher:
    """A process of its own that watches; see `bench.watcher`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._facts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        # Read at once, so that its pipe is never full.
        self._reading = asyncio.create_task(self._read())
        # Revisions in the order of their notices, each with the moment.
        self.seen: list[tuple[int, float]] = []

    @classmethod
    async def start(cls, url: str) -> _Watcher:
        command = [sys.executable, "-m", "bench.watcher", url]
        watcher = cls(
            await asyncio.create_subprocess_exec(*command, cwd=_ROOT, stdin=PIPE, stdout=PIPE)
        )
        await watcher._fact()
        return watcher

    async def cpu(self) -> float:
        """The processor time it has used so far, in seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"cpu\n")
        return float((await self._fact())["cpu"])

    async def saw(self, revision: int) -> None:
        """Wait until it has seen a change."""
        async with asyncio.timeout(_PATIENCE):
            while not self.seen or self.seen[-1][0] < revision:  # noqa: ASYNC110  # not timed
                await asyncio.sleep(0.05)

    def when(self, revision: int) -> float:
        """When it noticed that revision; changes in one round of it are one notice."""
        return next(at for seen, at in self.seen if seen >= revision)

    async def aclose(self) -> None:
        self._reading.cancel()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _fact(self) -> dict[str, Any]:
        try:
            return await asyncio.wait_for(self._facts.get(), _PATIENCE)
        except TimeoutError:
            raise BenchError("a watcher does not answer; what it said stands above") from None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            fact = json.loads(line)
            if "revision" in fact:
                self.seen.append((fact["revision"], fact["at"]))
            else:
                self._facts.put_nowait(fact)


async def watching(options: Options) -> list[Row]:
    """Changes by one process, seen by four others; and four that see none."""
    url = f"sqlite:///{options.new_folder()}/pool.db"
    async with SqliteStore(url) as store, _watchers(url) as watchers:
        seconds = 2.0 if options.quick else _IDLE_SECONDS
        shares = await _idle(watchers, seconds)
        options.say(
            f"idle watchers, of a core each: {', '.join(f'{share:.2%}' for share in shares)}"
        )
        latencies = await _latencies(store, watchers, options.rounds(_CHANGES, quick=20))
    ranked = quantiles(latencies, n=100)
    options.say(
        f"a change seen by another process: median {ranked[49] * 1000:.0f} ms, "
        f"p99 {ranked[98] * 1000:.0f} ms, at most {max(latencies) * 1000:.0f} ms"
    )
    return [
        Row(
            what="SQLite: change seen by another process, p99",
            unit="ms",
            pool=ranked[98] * 1000,
            target=100,
        ),
        Row(
            what="SQLite: an idle watcher's share of a core",
            unit="%",
            digits=2,
            pool=max(shares) * 100,
            target=1,
            bound=Bound.AT_MOST,
        ),
    ]


async def _idle(watchers: Sequence[_Watcher], seconds: float) -> list[float]:
    """What each watcher uses of a core while nothing changes."""
    before = [await watcher.cpu() for watcher in watchers]
    start = time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - start
    after = [await watcher.cpu() for watcher in watchers]
    return [(late - early) / passed for early, late in zip(before, after, strict=True)]


async def _latencies(store: Store, watchers: Sequence[_Watcher], changes: int) -> list[float]:
    """For each change and watcher the seconds from when the change was asked for."""
    document = new_document(lineage="bench", names=["red"], actor="bench", now=time.time())
    await store.create(document, secrets.token_hex(8))
    chance = random.Random(7)
    began: dict[int, float] = {}
    for _ in range(changes):
        await asyncio.sleep(chance.uniform(0, _DISTANCE))
        document = replace(document, revision=document.revision + 1)
        # Just before: the moment of the commit itself cannot be seen from outside.
        began[document.revision] = time.monotonic()
        swapped = await store.swap(document.revision - 1, document, secrets.token_hex(8))
        if swapped.outcome is not SwapOutcome.WON:
            raise BenchError("a change was lost, and nobody else writes")
    for watcher in watchers:
        await watcher.saw(document.revision)
    return [watcher.when(revision) - at for watcher in watchers for revision, at in began.items()]


@asynccontextmanager
async def _watchers(url: str) -> AsyncIterator[list[_Watcher]]:
    started: list[_Watcher] = []
    try:
        for _ in range(_WATCHERS):
            started.append(await _Watcher.start(url))  # noqa: PERF401  # each is to be ended
        yield started
    finally:
        for watcher in started:
            await watcher.aclose()
