"""
The stores that are services of their own: they die, freeze and are cut off from their users.

A further one is a further class here, and a name in `SERVICES`.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any, Protocol

import pytest

from livekit_pool.stores.base import Store
from livekit_pool.stores.firestore import FirestoreStore
from livekit_pool.stores.redis import RedisStore

from .backends import ProcessWorker
from .emulator import Emulator
from .redis_server import RedisServer
from .tcp_proxy import TcpProxy


class ServiceBackend(Protocol):
    """
    One kind of service with nothing in it, which runs by its own time.

    Attributes:
        port: where it listens, on 127.0.0.1, once it was started; also after it was so again.
        keeps_placements: as its stores say.
        keeps_data: whether it has its data again after it was killed.
        writes: what is in the bytes of the first write on a connection; empty if none reads before.
    """

    port: int
    keeps_placements: bool
    keeps_data: bool
    writes: bytes

    def __init__(self, directory: Path) -> None:
        """``directory`` is for its files; it does not run yet."""

    def open(self, through: TcpProxy | None = None) -> Store:
        """A store that uses it, as a further process would; through that proxy, if one is given."""

    async def worker(
        self, work: str, *, through: TcpProxy | None = None, **settings: Any
    ) -> ProcessWorker:
        """A process on its way to be ready for `work`."""

    async def start(self) -> None:
        """Start it, with the data it kept, and wait until it answers."""

    async def kill(self) -> None:
        """End it at once, also if it is frozen; idempotent."""

    async def forget(self) -> None:
        """Throw its data away, while it does not run."""

    def freeze(self) -> None:
        """Stop it where it is (SIGSTOP)."""

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""

    async def aclose(self) -> None:
        """End it and all workers."""


class RedisService:
    """``redis://``, which has written what it answers to disk."""

    keeps_placements = True
    keeps_data = True
    writes = b""

    def __init__(self, directory: Path) -> None:
        self.server = RedisServer(directory / "redis", keeps=True, running=False)
        self.port = self.server.port
        self._workers: list[ProcessWorker] = []

    def open(self, through: TcpProxy | None = None) -> Store:
        return RedisStore(self._url(through))

    async def worker(
        self, work: str, *, through: TcpProxy | None = None, **settings: Any
    ) -> ProcessWorker:
        worker = await ProcessWorker.start(self._url(through), work, settings)
        self._workers.append(worker)
        return worker

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def forget(self) -> None:
        self.server.forget()

    def freeze(self) -> None:
        self.server.freeze()

    def thaw(self) -> None:
        self.server.thaw()

    async def aclose(self) -> None:
        for worker in self._workers:
            await worker.kill()
        await self.kill()

    def _url(self, through: TcpProxy | None) -> str:
        return f"redis://127.0.0.1:{through.port if through else self.port}"


class FirestoreService:
    """
    ``firestore://``, as an emulator that has what others left in it.

    It keeps nothing by itself. So it stands behind a door, which is shut before its death: nobody
    is told then of what is written after the export that it is started with again.
    """

    keeps_placements = False
    keeps_data = True
    writes = b"Firestore/Commit"

    def __init__(self, directory: Path) -> None:
        self._emulator = Emulator.borrowed()
        self._door = TcpProxy(self._emulator.port)
        self._project = f"pool-{secrets.token_hex(8)}"
        self._url = f"firestore://{self._project}/system/livekitPool"
        self._exports = directory / "exports"
        self._export: Path | None = None
        self._open = False
        self._workers: list[ProcessWorker] = []
        self.port = 0

    def open(self, through: TcpProxy | None = None) -> Store:
        return FirestoreStore(self._url, emulator=self._address(through))

    async def worker(
        self, work: str, *, through: TcpProxy | None = None, **settings: Any
    ) -> ProcessWorker:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("FIRESTORE_EMULATOR_HOST", self._address(through))
            worker = await ProcessWorker.start(self._url, work, settings)
        self._workers.append(worker)
        return worker

    async def start(self) -> None:
        await asyncio.to_thread(self._emulator.start, self._export)
        await self._door.accept()
        self.port = self._door.port
        self._open = True

    async def kill(self) -> None:
        if not self._open:
            return
        await self._shut()
        self.thaw()
        self._export = await asyncio.to_thread(self._emulator.export, self._project, self._exports)
        await asyncio.to_thread(self._emulator.kill)

    async def forget(self) -> None:
        self._export = None

    def freeze(self) -> None:
        self._emulator.freeze()

    def thaw(self) -> None:
        self._emulator.thaw()

    async def aclose(self) -> None:
        for worker in self._workers:
            await worker.kill()
        if self._open:
            await self._shut()
        if self._export is not None:
            await asyncio.to_thread(self._emulator.kill)  # what it was given, all projects have
        self._emulator.bring_back()

    async def _shut(self) -> None:
        self._open = False
        await self._door.refuse()

    def _address(self, through: TcpProxy | None) -> str:
        return f"127.0.0.1:{through.port if through else self.port}"


SERVICES: dict[str, type[ServiceBackend]] = {
    "firestore": FirestoreService,
    "redis": RedisService,
}
