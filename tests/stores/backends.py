"""
The stores that the contract is tried on, and how to work on one from several sides.

A further store is a further class here, and a name in `BACKENDS`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
from _pytest.mark import ParameterSet

from livekit_pool.stores.base import Store
from livekit_pool.stores.firestore import FirestoreStore
from livekit_pool.stores.memory import MemoryStore
from livekit_pool.stores.redis import RedisStore
from livekit_pool.stores.sqlite import SqliteStore

from .emulator import Emulator
from .redis_server import RedisServer
from .work import WORK, Record

ROOT = Path(__file__).parents[2]


class Worker(Protocol):
    """One of several who work on a store at once; see `work`."""

    async def ready(self) -> None:
        """Wait until it could begin."""

    async def go(self) -> None:
        """Begin."""

    async def records(self) -> list[Record]:
        """Wait for the end; what it saw."""


class Backend(Protocol):
    """
    One kind of store, empty at the beginning of a test.

    Attributes:
        wins: how many swaps it can do in a few seconds, whoever else is at it.
    """

    shared: bool
    wins: int

    def open(self) -> Store:
        """The store as a further process would see it, by the test's clock."""

    async def worker(self, work: str, **settings: Any) -> Worker:
        """A worker on its way to be ready; a process has the machine's clock, not the test's."""

    async def aclose(self) -> None:
        """End all workers."""


class SharedBackend(Backend, Protocol):
    """One that several processes can share."""

    async def worker(self, work: str, **settings: Any) -> ProcessWorker:
        """The same, a process in any case."""

    def problems(self) -> list[str]:
        """What the store's own check finds wrong with its data."""


class TaskWorker:
    """A worker in a task of this process."""

    def __init__(self, store: Store, work: str, settings: dict[str, Any]) -> None:
        self._seen: list[Record] = []
        self._begin = partial(WORK[work], store, self._seen.append, settings)
        self._task: asyncio.Future[None] | None = None

    async def ready(self) -> None:
        pass

    async def go(self) -> None:
        self._task = asyncio.ensure_future(self._begin())

    async def records(self) -> list[Record]:
        assert self._task is not None
        await self._task
        return self._seen


class ProcessWorker:
    """A worker in a process of its own."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, url: str, work: str, settings: dict[str, Any]) -> ProcessWorker:
        arguments = [url, work, json.dumps(settings)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.stores.work", *arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE
        )
        return cls(process)

    async def ready(self) -> None:
        assert self.process.stdout is not None
        assert await self.process.stdout.readline() == b"ready\n"

    async def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        await self.process.stdin.drain()

    async def next_record(self) -> Record:
        """The next thing it saw, which it must have been told to ``flush``."""
        assert self.process.stdout is not None
        record: Record = json.loads(await self.process.stdout.readline())
        return record

    async def records(self) -> list[Record]:
        output, _ = await self.process.communicate()
        assert self.process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]

    async def kill(self) -> None:
        """End it without a chance to clean up, also if it is stopped."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        try:
            await self.process.communicate()
        except RuntimeError:  # somebody listens to it, and hears the end
            await self.process.wait()


class MemoryBackend:
    """``memory://``: everybody has the same object."""

    shared = False
    wins = 800

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._store = MemoryStore(clock=clock)

    def open(self) -> Store:
        return self._store

    async def worker(self, work: str, **settings: Any) -> Worker:
        return TaskWorker(self._store, work, settings)

    async def aclose(self) -> None:
        await self._store.aclose()


class SqliteBackend:
    """``sqlite://``: everybody has a connection of their own."""

    shared = True
    wins = 800

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self.path = directory / "pool.db"
        self.url = f"sqlite:///{self.path}"
        self._clock = clock
        self._workers: list[ProcessWorker] = []

    def open(self) -> Store:
        return SqliteStore(self.url, clock=self._clock)

    async def worker(self, work: str, **settings: Any) -> ProcessWorker:
        worker = await ProcessWorker.start(self.url, work, settings)
        self._workers.append(worker)
        return worker

    async def aclose(self) -> None:
        for worker in self._workers:
            await worker.kill()

    def problems(self) -> list[str]:
        with closing(sqlite3.connect(self.path)) as db:
            found = db.execute("PRAGMA integrity_check").fetchall()
        return [sentence for (sentence,) in found if sentence != "ok"]


class FirestoreBackend:
    """``firestore://``: everybody has a connection of their own, to a project of this test."""

    shared = True
    wins = 160

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self.emulator = Emulator.shared()
        self.url = f"firestore://pool-{secrets.token_hex(8)}/system/livekitPool"
        self._clock = clock
        self._workers: list[ProcessWorker] = []

    def open(self) -> Store:
        return FirestoreStore(self.url, clock=self._clock, emulator=self.emulator.address)

    async def worker(self, work: str, **settings: Any) -> ProcessWorker:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("FIRESTORE_EMULATOR_HOST", self.emulator.address)
            worker = await ProcessWorker.start(self.url, work, settings)
        self._workers.append(worker)
        return worker

    async def aclose(self) -> None:
        for worker in self._workers:
            await worker.kill()

    def problems(self) -> list[str]:
        return []


class RedisBackend:
    """``redis://``: a Redis of its own, without persistence."""

    shared = True
    wins = 800

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self.server = RedisServer(directory / "redis")
        self.url = self.server.url
        self._clock = clock
        self._workers: list[ProcessWorker] = []

    def open(self) -> Store:
        return RedisStore(self.url, clock=self._clock)

    async def worker(self, work: str, **settings: Any) -> ProcessWorker:
        worker = await ProcessWorker.start(self.url, work, settings)
        self._workers.append(worker)
        return worker

    async def aclose(self) -> None:
        for worker in self._workers:
            await worker.kill()
        self.server.kill()

    def problems(self) -> list[str]:
        return []


SHARED_BACKENDS: dict[str, Callable[[Path, Callable[[], float]], SharedBackend]] = {
    "firestore": FirestoreBackend,
    "sqlite": SqliteBackend,
    "redis": RedisBackend,
}
BACKENDS: dict[str, Callable[[Path, Callable[[], float]], Backend]] = {
    "memory": MemoryBackend,
    **SHARED_BACKENDS,
}
# Those whose processes know one another's placements.
PLACING_BACKENDS = {name: make for name, make in BACKENDS.items() if name != "firestore"}
# Those that need a program which not everybody has.
NEEDS = {"firestore": "firestore", "redis": "redis"}


def parameters(backends: Iterable[str]) -> list[ParameterSet]:
    """The names of ``backends`` for a fixture, each with what it needs."""
    return [
        pytest.param(name, marks=pytest.mark.needs(NEEDS[name]) if name in NEEDS else ())
        for name in sorted(backends)
    ]


async def at_once(backend: Backend, work: str, count: int, **settings: Any) -> list[list[Record]]:
    """Let ``count`` workers begin together; what each of them saw."""
    starting = [backend.worker(work, me=f"p{number}", **settings) for number in range(count)]
    workers = await asyncio.gather(*starting)
    for worker in workers:
        await worker.ready()
    for worker in workers:
        await worker.go()
    return list(await asyncio.gather(*(worker.records() for worker in workers)))
