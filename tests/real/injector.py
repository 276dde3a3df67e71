"""
The test suite's fault injector: a proxy in front of a real LiveKit server, on loopback.

It looks at each request's line and does what a test told it to: answers in the server's place,
waits, cuts the connection, or says nothing. What nobody told it about passes. A signal connection
that was let pass is copied both ways from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Self

__all__ = [
    "Injector",
    "Request",
    "calls",
    "everything",
    "joins",
    "method",
    "signalling",
    "validations",
]

Where = Callable[[str], bool]
"""Which requests, by their path without the query."""

_CHUNK: Final = 2**16
_REASONS: Final = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


def joins(path: str) -> bool:
    """Upgrade requests of signal connections."""
    return path in ("/rtc", "/rtc/v1")


def validations(path: str) -> bool:
    """The plain requests by which SDKs ask why an upgrade was refused."""
    return path in ("/rtc/validate", "/rtc/v1/validate")


def signalling(path: str) -> bool:
    """Both."""
    return joins(path) or validations(path)


def calls(path: str) -> bool:
    """Calls of the server API, the pool's own signed probes among them."""
    return path.startswith("/twirp/")


def everything(path: str) -> bool:
    """Everything, probes too."""
    return True


def method(name: str) -> Where:
    """The calls of one method of RoomService."""
    return f"/twirp/livekit.RoomService/{name}".__eq__


class _Fate(Enum):
    ANSWERED = "answered"
    RESET = "reset"
    SILENCE = "silence"
    DELAYED = "delayed"


@dataclass(slots=True)
class _Order:
    """What is to be done with the requests ``where`` says, ``left`` times (None: always)."""

    where: Where
    fate: _Fate
    left: int | None
    answer: bytes = b""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    A request that came.

    Attributes:
        at: seconds of the monotonic clock.
        path: without the query.
        fate: what became of it, "passed" if nothing special did.
    """

    at: float
    path: str
    fate: str


@dataclass(slots=True)
class Injector:
    """
    Stands in front of one port; an asynchronous context manager.

    Attributes:
        behind: the port of the server.
        port: where it listens.
        seen: the requests that came, oldest first.
    """

    behind: int
    port: int = 0
    seen: list[Request] = field(default_factory=list)
    _orders: list[_Order] = field(default_factory=list)
    _listener: asyncio.Server | None = None
    _served: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its ``ws://`` URL."""
        return f"ws://127.0.0.1:{self.port}"

    # ---- what it is told ----

    def answers(
        self,
        where: Where,
        status: int,
        body: str | bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
        after: float = 0.0,
    ) -> None:
        """
        Answer in the server's place.

        Orders add up, and of those that fit a request the newest counts.

        Args:
            where: which requests.
            status: of HTTP.
            body: with its length; of type text/plain unless ``headers`` says otherwise.
            headers: more of them, such as Retry-After.
            times: only so many, then the older orders count again; None for ever.
            after: seconds to wait before it.
        """
        content = body.encode() if isinstance(body, str) else body
        fields = {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}
        fields |= {"Content-Length": str(len(content)), "Connection": "close"}
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        answer = "\r\n".join([*lines, "", ""]).encode() + content
        self._orders.insert(0, _Order(where, _Fate.ANSWERED, times, answer, after))

    def resets(self, where: Where, *, times: int | None = None) -> None:
        """Cut the connection, by RST, as soon as the request is there."""
        self._orders.insert(0, _Order(where, _Fate.RESET, times))

    def swallows(self, where: Where, *, times: int | None = None) -> None:
        """Say nothing, for ever: a black hole behind an open port."""
        self._orders.insert(0, _Order(where, _Fate.SILENCE, times))

    def delays(self, where: Where, seconds: float, *, times: int | None = None) -> None:
        """Let the request pass ``seconds`` later."""
        self._orders.insert(0, _Order(where, _Fate.DELAYED, times, seconds=seconds))

    def passes(self) -> None:
        """Forget all orders: from now on everything passes."""
        self._orders.clear()

    # ---- what it saw ----

    def count(self, where: Where, fate: str | None = None) -> int:
        """How many of those requests came, and met that fate."""
        return sum(where(r.path) and fate in (None, r.fate) for r in self.seen)

    # ---- how ----

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for task, writer in list(self._served.items()):
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*self._served, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served[task] = writer
        task.add_done_callback(self._served.pop)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                await self._meet(head, reader, writer)
            finally:
                writer.transport.abort()

    async def _meet(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        path = head.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
        order = self._order(path)
        fate = "passed" if order is None else order.fate.value
        self.seen.append(Request(at=time.monotonic(), path=path, fate=fate))
        if order is None:
            await self._pass(head, reader, writer)
        elif order.fate is _Fate.ANSWERED:
            await asyncio.sleep(order.seconds)
            writer.write(order.answer)
            await writer.drain()
            writer.write_eof()
            # Whoever is still sending its body would otherwise read a reset in place of the answer.
            while await reader.read(_CHUNK):
                pass
        elif order.fate is _Fate.RESET:
            # Closed with nothing to wait for, a socket sends RST: socket(7), SO_LINGER.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif order.fate is _Fate.SILENCE:
            await asyncio.Event().wait()
        elif order.fate is _Fate.DELAYED:
            await asyncio.sleep(order.seconds)
            await self._pass(head, reader, writer)

    def _order(self, path: str) -> _Order | None:
        order = next((order for order in self._orders if order.where(path)), None)
        if order is not None and order.left is not None:
            order.left -= 1
            if not order.left:
                self._orders.remove(order)
        return order

    async def _pass(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One request to the server and its answer, or a signal connection till its end."""
        back, on = await asyncio.open_connection("127.0.0.1", self.behind)
        lines = head[:-4].split(b"\r\n")
        if not any(line.lower().startswith(b"upgrade:") for line in lines):
            # So that the next request comes on a connection of its own, and can be looked at.
            lines = [line for line in lines if not line.lower().startswith(b"connection:")]
            lines.append(b"Connection: close")
        on.write(b"\r\n".join([*lines, b"", b""]))
        copies = [asyncio.create_task(_copy(reader, on)), asyncio.create_task(_copy(back, writer))]
        try:
            # The server's side ends an answer by closing; a client's side only with its interest.
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            if copies[1].done() and not copies[1].exception():
                writer.close()
                await writer.wait_closed()
        finally:
            on.transport.abort()
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
