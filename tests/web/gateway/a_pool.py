"""A pool with its gateway, in the test's own event loop, between raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from livekit.protocol import models, rtc

from livekit_pool import tokens
from livekit_pool.config import Settings
from livekit_pool.pool import Pool
from livekit_pool.servers import Server
from livekit_pool.web.gateway.frames import encode
from livekit_pool.web.gateway.gateway import Gateway
from livekit_pool.web.http import HttpProtocol
from tests.web.served import Connection, Served, serving, until

SECRET = "s" * 32
MASK = b"\x01\x02\x03\x04"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
SID = "PA_alice"
JOIN = encode(
    rtc.SignalResponse(
        join=rtc.JoinResponse(participant=models.ParticipantInfo(sid=SID))
    ).SerializeToString()
)

PONG = b"\x90\x01\x00"  # one of the messages that the gateway does not look into

Script = Callable[["Line"], Awaitable[None]]


@dataclass(slots=True)
class Line:
    """A signal connection as its server sees it; the request has been read, and had ``head``."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes

    async def joins(self, more: bytes = b"", first: bytes = JOIN) -> None:
        self.writer.write(SWITCHED + first + more)
        await self.writer.drain()


@contextlib.contextmanager
def cutting(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    finally:
        writer.transport.abort()


@dataclass(slots=True)
class Fake:
    """A server that passes its probes, and does with signal connections what ``script`` says."""

    script: Script
    port: int = 0
    lines: list[Line] = field(default_factory=list)

    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def joins(self) -> list[Line]:
        """The lines of clients; not those of the pool's own joins, by which it looks for itself."""
        return [line for line in self.lines if b"auto_subscribe=0" not in line.head]

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.ensure_future(self.serve(reader, writer)))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError), cutting(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /rtc"):
                    line = Line(reader, writer, head)
                    self.lines.append(line)
                    await self.script(line)
                    await asyncio.Event().wait()
                body = b"OK"
                if head.startswith(b"POST"):  # it is asked for its rooms
                    await reader.readuntil(b"}")
                    body = b'{"rooms": []}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A pool of red, the active one, and green, and what serves it."""

    pool: Pool
    gateway: Gateway
    served: Served
    red: Fake
    green: Fake

    async def asks(self, token: str | None = None, more: bytes = b"") -> Connection:
        """
        An upgrade request on its way, with alice's first token if no other is given.

        ``more`` are further header lines.
        """
        token = token or self.token()
        connection = await self.served.connect()
        connection.writer.write(
            b"GET /rtc?protocol=16 HTTP/1.1\r\nHost: pool\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Authorization: Bearer " + token.encode() + b"\r\n" + more + b"\r\n"
        )
        return connection

    def token(self, identity: str = "alice") -> str:
        return tokens.participant_token(self.pool.pair, room="standup", identity=identity)

    async def session(self) -> Connection:
        """A client that has its join."""
        connection = await self.asks()
        await connection.until(b"\r\n\r\n")
        await connection.until(JOIN)
        return connection


@contextlib.asynccontextmanager
async def a_pool(
    script: Script,
    *,
    join_timeout: float = 60,
    most: Mapping[str, int] | None = None,
    minutes: Mapping[str, float] | None = None,
) -> AsyncIterator[Setting]:
    """
    A pool whose servers do what ``script`` says.

    Args:
        join_timeout: unless it is what the test is about, it is longer than any test.
        most: how many participants a server may have at most.
        minutes: a server's budget.
    """
    red, green = Fake(script), Fake(script)
    async with contextlib.AsyncExitStack() as stack:
        for fake in (red, green):
            listener = await asyncio.start_server(fake.accept, "127.0.0.1", 0)
            stack.push_async_callback(fake.stop)
            stack.callback(listener.close)
            fake.port = listener.sockets[0].getsockname()[1]
        settings = Settings(
            servers=tuple(
                Server(
                    name=name,
                    url=f"ws://127.0.0.1:{fake.port}",
                    key=name,
                    secret=SECRET,
                    max_participants=(most or {}).get(name),
                    minutes=(minutes or {}).get(name),
                )
                for name, fake in (("red", red), ("green", green))
            ),
            key="pool",
            secret=SECRET,
            store="memory://",
            join_timeout=join_timeout,
        )
        pool = await stack.enter_async_context(Pool(settings))
        await until(lambda: all(pool.driver.machine.available(n, pool.now()) for n in pool.servers))
        gateway = Gateway(pool)
        served = await stack.enter_async_context(
            serving(_nothing, http=HttpProtocol, ws=gateway.connection, lifespan="off")
        )
        yield Setting(pool=pool, gateway=gateway, served=served, red=red, green=green)


async def _nothing(scope: object, receive: object, send: object) -> None:
    raise AssertionError("no request comes here")
