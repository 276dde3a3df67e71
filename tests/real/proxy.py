"""A TCP proxy on loopback that looks at signal connections, and can keep back their answers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from livekit_pool.web.gateway.frames import EVERY_KIND, FrameStream, Message
from tests.real.signal_client import Told

_SIGNAL = (b"GET /rtc?", b"GET /rtc/v1?")
_CHUNK = 2**16


class Conversation:
    """
    One signal connection.

    Attributes:
        told: what the server's side said, each message as it came by.
        answered: whether the server's side has said anything yet.
        over: whether either side has closed it.
    """

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.answered = False
        self.over = False
        self._head = b""
        self._stream: FrameStream | None = None
        self._heard = asyncio.Event()

    def hear(self, data: bytes) -> None:
        """Take in what the server's side says."""
        self.answered = True
        if self._stream is None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            # A refusal is plain HTTP: nothing of it is a message.
            self._stream = FrameStream(masked=False, wanted=EVERY_KIND)
            if not head.startswith(b"HTTP/1.1 101"):
                data = b""
        if data:
            pieces = self._stream.feed(data)
            messages = () if isinstance(pieces, bytes) else pieces
            self.told += [Told.of(p.payload) for p in messages if isinstance(p, Message) and p.kind]
            self._heard.set()

    async def hears(self, kind: str, *, seconds: float = 10) -> Told:
        """Wait for the first message of that kind, and return in the moment it comes by."""
        async with asyncio.timeout(seconds):
            while (found := self.first(kind)) is None:
                self._heard.clear()
                await self._heard.wait()
            return found

    def first(self, kind: str) -> Told | None:
        """The first message of that kind."""
        return next((told for told in self.told if told.kind == kind), None)


class Proxy:
    """
    Stands in front of one port; an asynchronous context manager.

    Attributes:
        port: where it listens.
        conversations: the signal connections through it, oldest first.
    """

    def __init__(self, behind: int) -> None:
        """``behind`` is the port of who stands behind it."""
        self.port = 0
        self.conversations: list[Conversation] = []
        self._behind = behind
        self._passing = asyncio.Event()
        self._passing.set()
        self._came = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._served: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """Its ``ws://`` URL."""
        return f"ws://127.0.0.1:{self.port}"

    def hold(self) -> None:
        """From now on keep back what is said on signal connections; all else passes."""
        self._passing.clear()

    def release(self) -> None:
        """Let it pass again, what was kept back first."""
        self._passing.set()

    async def conversation(self, number: int = 0, *, seconds: float = 10) -> Conversation:
        """Wait for the signal connection of that number, counted from 0."""
        async with asyncio.timeout(seconds):
            while len(self.conversations) <= number:
                self._came.clear()
                await self._came.wait()
        return self.conversations[number]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._served.values():
            writer.transport.abort()
        await asyncio.gather(*self._served)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served[task] = writer
        task.add_done_callback(self._served.pop)
        with contextlib.suppress(OSError):
            try:
                first = await reader.read(_CHUNK)
                conversation = None
                if first.startswith(_SIGNAL):
                    conversation = Conversation()
                    self.conversations.append(conversation)
                    self._came.set()
                await self._relay(first, conversation, reader, writer)
            finally:
                await _cut(writer)

    async def _relay(
        self,
        first: bytes,
        conversation: Conversation | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Pass on until either side ends; then cut the other as well."""
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        behind_writer.write(first)
        directions = [
            asyncio.create_task(_pass(reader, behind_writer)),
            asyncio.create_task(self._answer(behind_reader, writer, conversation)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            await _cut(behind_writer)
            if conversation is not None:
                conversation.over = True

    async def _answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        conversation: Conversation | None,
    ) -> None:
        while data := await reader.read(_CHUNK):
            if conversation is not None:
                conversation.answered = True
                await self._passing.wait()
                conversation.hear(data)
            writer.write(data)
            await writer.drain()
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def _cut(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    # Who waited for the same end, and was cancelled, has cancelled it for everybody.
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
