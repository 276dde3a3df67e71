"""A TCP proxy on loopback that can be told to fail as networks do; it knows no protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

_CHUNK = 2**16


class _Passing:
    """What passes on one connection."""

    def __init__(self, asks: bool, answers: bool) -> None:
        self.asks, self.answers, self.cut = asyncio.Event(), asyncio.Event(), asyncio.Event()
        if asks:
            self.asks.set()
        if answers:
            self.answers.set()


class TcpProxy:
    """
    Stands in front of one port; an asynchronous context manager.

    What it keeps back is neither lost nor out of order, as with TCP: it arrives when all passes
    again, or never if the connection is cut.

    Attributes:
        port: where it listens, on 127.0.0.1.
        connections: how many it has accepted so far.
    """

    def __init__(self, behind: int, writes: bytes = b"") -> None:
        """``behind`` is the port of who stands behind it; ``writes`` are in what a writer says."""
        self.port = 0
        self.connections = 0
        self._behind = behind
        self._writes = writes
        self._awaiting_a_write = False
        # Whether what clients say passes, and what the service says, on connections to come.
        self._asks = self._answers = True
        self._passing: dict[int, _Passing] = {}
        self._server: asyncio.Server | None = None
        self._served: set[asyncio.Task[None]] = set()

    def mute(self, only: int | None = None) -> None:
        """
        From now on keep back what the service says: it hears, and does what it is asked.

        ``only`` is the number of the one connection to mute, counted from 1.
        """
        if only is None:
            self._answers = False
        for number, passing in self._passing.items():
            if only in (None, number):
                passing.answers.clear()

    def mute_from_the_next_write(self) -> None:
        """The same, but not before somebody writes."""
        self._awaiting_a_write = True

    def deafen(self) -> None:
        """From now on keep back what clients say."""
        self._asks = False
        for passing in self._passing.values():
            passing.asks.clear()

    def black_hole(self) -> None:
        """Keep back everything; connections are still accepted, as by a kernel."""
        self.mute()
        self.deafen()

    def heal(self) -> None:
        """Let all pass again, what was kept back first."""
        self._awaiting_a_write = False
        self._asks = self._answers = True
        for passing in self._passing.values():
            passing.asks.set()
            passing.answers.set()

    async def cut(self) -> None:
        """End all connections; what was kept back on them is lost."""
        for passing in self._passing.values():
            passing.cut.set()
        await asyncio.gather(*self._served)

    async def refuse(self) -> None:
        """Cut all connections, and let nobody connect."""
        assert self._server is not None
        self._server.close()
        self._server = None
        await self.cut()

    async def accept(self) -> None:
        """Let clients connect again, at the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(0)  # who was accepted in the last moment is served now
        await self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        number = self.connections
        passing = self._passing[number] = _Passing(self._asks, self._answers)
        self._served.add(task)
        task.add_done_callback(self._served.discard)
        # Who is cut has nobody to tell.
        with contextlib.suppress(OSError):
            try:
                await self._relay(reader, writer, passing)
            finally:
                del self._passing[number]
                await _abort(writer)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: _Passing
    ) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        directions = [
            asyncio.create_task(_pass(reader, behind_writer, passing.asks, self._overhear)),
            asyncio.create_task(_pass(behind_reader, writer, passing.answers)),
            asyncio.create_task(passing.cut.wait()),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            await _abort(behind_writer)

    def _overhear(self, asked: bytes) -> None:
        if self._awaiting_a_write and self._writes in asked:
            self._awaiting_a_write = False
            self.mute()


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _pass(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    passing: asyncio.Event,
    overhear: Callable[[bytes], None] = lambda data: None,
) -> None:
    while data := await reader.read(_CHUNK):
        await passing.wait()
        overhear(data)
        writer.write(data)
        await writer.drain()
