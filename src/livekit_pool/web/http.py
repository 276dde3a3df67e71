"""
The HTTP protocol of one connection: uvicorn's, with limits.

uvicorn waits for ever for the rest of a request, and collects a head of any size. Here a request
head has a time limit and a size limit, a body a time limit; what breaks them, or is not HTTP, is
answered with one line and closed (the size of bodies: `app`, where they are read). An idle
connection between two requests is uvicorn's own business (``timeout_keep_alive``).

A connection that is upgraded leaves this protocol for an `Upgraded` (what uvicorn was given as
``ws``). Until then the limits hold; afterwards nothing of it stays in memory. uvicorn's part of
the protocol is made only where it is needed: a plain upgrade at the beginning of a connection,
which is how all SDKs join, does without it (see `upgrade`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from enum import Enum
from typing import Any, Final, Protocol, Self, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from .upgrade import Head, plain_head

__all__ = ["AT_SHUTDOWN", "BodyWriter", "HttpProtocol", "Upgraded"]

AT_SHUTDOWN: Final = "livekit_pool.at_shutdown"
"""
Key in the lifespan's state: a callable without arguments, called (at least once, if there is a
connection) when uvicorn starts a planned stop. uvicorn itself tells the application only after all
responses ended, which one that streams for ever would never do.
"""

_TRANSPORT: Final = "livekit_pool.transport"
"""Key in a request's scope: the connection's transport."""

# httptools' limit for parse_url: http_parser_url counts in 16 bits.
_LONGEST_PARSED_URL: Final = 0xFFFF


class BodyWriter:
    """
    Writes pieces of a streamed response's body at once, past all layers of the application.

    For what is told to thousands at the same moment: through the layers each piece costs a task's
    turn and several coroutines. To be used only while every piece that was sent through the layers
    has gone, and the response goes on; `AT_SHUTDOWN` comes before its end.
    """

    most_waiting: Final = 2**16
    """Bytes that may wait in this process for the client to read; as asyncio's own limit."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> Self | None:
        """The writer of a request's connection; None if another protocol than ours serves it."""
        transport = scope.get(_TRANSPORT)
        return None if transport is None else cls(transport)

    @staticmethod
    def piece(body: bytes) -> bytes:
        """A piece of a body as `write` takes it: as a chunk, RFC 9112 section 7.1."""
        # uvicorn sends whatever comes without Content-Length in chunks.
        return b"%x\r\n%s\r\n" % (len(body), body)

    def write(self, piece: bytes) -> bool:
        """Write a piece; False, and nothing is written, if the client does not read fast enough."""
        transport = self._transport
        if transport.is_closing() or transport.get_write_buffer_size() > self.most_waiting:
            return False
        transport.write(piece)
        return True


class _Phase(Enum):
    """What this protocol waits for."""

    IDLE = "idle"  # the first byte of another request
    HEAD = "head"  # the end of a request's head, of a new connection also its first byte
    BODY = "body"  # the end of a request's body
    DEAF = "deaf"  # nothing: what still arrives is thrown away


class Upgraded(Protocol):
    """
    What takes over an upgraded connection: an `asyncio.Protocol` that is told what was asked.

    Made by what uvicorn was given as ``ws``, with the arguments ``config``, ``server_state`` and
    ``app_state``.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The connection; ``transport`` has another protocol until `upgraded` is over."""

    def upgraded(self, head: Head) -> None:
        """The request that asked for the upgrade; nothing has been answered yet."""


class _Refused(Exception):
    """Stops the parser, which hands it back as `httptools.HttpParserCallbackError`."""


class HttpProtocol(HttpToolsProtocol):
    """
    One HTTP connection.

    Attributes:
        head_time: seconds for a request's head, from the moment the connection was made or from
            the head's first byte.
        body_time: seconds for a request's body.
        head_size: bytes of a request's head; LiveKit's joins carry an offer in their URL, so it
            must be large (LiveKit: 1 MiB, Go's DefaultMaxHeaderBytes).
        head_lines: header lines of a request; each takes far more memory than it has bytes.
        linger: seconds for a refused client to read why before the connection is cut.
    """

    head_time = 10.0
    body_time = 60.0
    head_size = 1_000_000
    head_lines = 1_000
    linger = 1.0

    # As they are at first: most connections are upgraded and gone before one of them changes.
    cycle: RequestResponseCycle = None  # type: ignore[assignment]  # as uvicorn has it
    _uvicorns = False  # whether its part of this protocol has been made
    _upgraded = False
    _phase = _Phase.HEAD
    _timed: _Phase | None = None  # the phase that the timer is for; None: set it anew
    _timer: asyncio.TimerHandle | None = None
    _chunk = 0  # bytes of the data being parsed
    _head = 0  # bytes of the head so far, and of what else was in its first chunk

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = asyncio.get_running_loop() if _loop is None else _loop

    # -- asyncio's side --

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start the clock for the first head."""
        self.transport = transport
        self.server_state.connections.add(self)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._cancel_timer()
        if self._uvicorns:
            super().connection_lost(exc)
        else:
            self.server_state.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Parse ``data``, unless the client was refused."""
        if not self._uvicorns:
            head = plain_head(data) if len(data) <= self.head_size else None
            if head is not None and len(head.fields) <= self.head_lines and self._upgrades:
                self._hand_over(head)
                return
            self._make_uvicorns()
        if self._phase is _Phase.DEAF:
            return
        self._chunk = len(data)
        self._head = self._head + self._chunk if self._phase is _Phase.HEAD else self._chunk
        super().data_received(data)
        if self._upgraded:
            return
        if self._phase is _Phase.IDLE and self._owed is None:
            # Blank lines between two requests (RFC 9112, 2.2). uvicorn has stopped its own clock
            # because of them, so they count as the beginning of a head.
            self._phase = _Phase.HEAD
        elif self._phase is _Phase.HEAD and self._is_too_large():
            self._refuse(431, "The request head is too large.")
        if self._phase is not self._timed and self._phase is not _Phase.DEAF:
            self._set_timer()

    def _make_uvicorns(self) -> None:
        """Make uvicorn's part of this protocol, and tell it what it has missed."""
        transport = self.transport
        super().__init__(self.config, self.server_state, self.app_state, self.loop)
        # Tokens travel in URLs: no access log, whatever uvicorn was told.
        self.access_log = False
        self.headers = []
        self._uvicorns = True
        super().connection_made(transport)

    def shutdown(self) -> None:
        """Begin a planned stop: tell the application, and end when nothing is owed any more."""
        at_shutdown = self.app_state.get(AT_SHUTDOWN)
        if at_shutdown is not None:
            at_shutdown()
        super().shutdown()

    # -- the parser's side --

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self.scope[_TRANSPORT] = self.transport  # type: ignore[typeddict-unknown-key]  # ours
        # Grows in place, where bytes would be copied whole for each piece that arrives.
        self.url = bytearray()  # type: ignore[assignment]  # bytes again when it is complete
        self._phase = _Phase.HEAD
        self._timed = None
        self._head = self._chunk

    def on_headers_complete(self) -> None:
        """A head is complete: hand the request to the application."""
        if self._is_too_large(complete=True):
            self._refuse(431, "The request head is too large.")
            raise _Refused
        self._phase = _Phase.BODY
        url = self.url = bytes(self.url)
        if len(url) <= _LONGEST_PARSED_URL:
            super().on_headers_complete()
            return
        # A long query is usual here (an offer is in it), and needs no parsing.
        self.url, _, query = url.partition(b"?")
        super().on_headers_complete()
        self.url = url
        self.scope["query_string"] = query

    def on_message_complete(self) -> None:
        """A request is complete; its answer may not be."""
        self._phase = _Phase.IDLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is complete: go on with the next request, unless that never will be."""
        half = self._phase is _Phase.DEAF and len(self.pipeline) == 1 and self.cycle.more_body
        if half:
            self.pipeline.clear()
        super().on_response_complete()
        if half:
            self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the class for WebSockets, and let go of it."""
        if self._owed is not None:  # its answer would be written between the frames
            self._refuse(400, "An upgrade must wait for the answers to earlier requests.")
            return
        head = Head(self.scope["method"].encode(), self.url, list(self.scope["headers"]))
        # The parser holds on to this object and this object to it: without this, both would
        # stay until the garbage collector comes by, for every connection.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does in connection_lost
        self._hand_over(head)

    @property
    def _upgrades(self) -> bool:
        """Whether there is something to upgrade to."""
        return self.config.ws_protocol_class is not None

    def _hand_over(self, head: Head) -> None:
        """Let go of the connection."""
        self._cancel_timer()
        self._upgraded = True
        self.server_state.connections.discard(self)
        make: Callable[..., Upgraded] = self.config.ws_protocol_class  # type: ignore[assignment]
        protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(self.transport)
        protocol.upgraded(head)
        self.transport.set_protocol(protocol)  # type: ignore[arg-type]  # an `Upgraded` is one

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(400, msg)

    # -- limits --

    @property
    def _owed(self) -> RequestResponseCycle | None:
        """The newest request, if its answer is not complete."""
        cycle = cast(RequestResponseCycle | None, self.cycle)  # uvicorn's type says too little
        return None if cycle is None or cycle.response_complete else cycle

    def _is_too_large(self, *, complete: bool = False) -> bool:
        """Whether the head is. What arrived beside a complete head in the same data is not it."""
        if len(self.headers) > self.head_lines:
            return True
        if self._head <= self.head_size or not complete:
            return self._head > self.head_size
        lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return len(self.url) + lines > self.head_size

    def _set_timer(self) -> None:
        """Start the clock of the present phase, and stop any other."""
        self._cancel_timer()
        self._timed = self._phase
        if self._phase is _Phase.HEAD:
            self._timer = self.loop.call_later(self.head_time, self._expire)
        elif self._phase is _Phase.BODY:
            self._timer = self.loop.call_later(self.body_time, self._expire)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        """Time is up."""
        self._timer = None
        if self._phase is _Phase.DEAF:
            self.transport.abort()
        elif self._head == 0:
            self.transport.close()  # nobody waits for an answer
        elif self.flow.read_paused:
            self._set_timer()  # it is this side that reads no further
        elif self._phase is _Phase.BODY and self._owed is None:
            self.transport.close()
        else:
            self._refuse(408, "The request did not arrive in time.")

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer ``status`` if the client can be told, and close; hear nothing more."""
        if self._phase is _Phase.DEAF:
            return
        self._phase = _Phase.DEAF
        self._cancel_timer()
        cycle = self._owed
        if cycle is not None and not cycle.more_body:
            cycle.keep_alive = False  # earlier requests get their answers; then uvicorn closes
            return
        if self.pipeline:
            return  # so do they here; see on_response_complete
        if cycle is not None:  # it will not be complete
            cycle.disconnected = True
            cycle.message_event.set()
        if cycle is None or not cycle.response_started:
            self.transport.write(self._line(status, sentence))
        if self.transport.is_closing():
            return
        # Closing at once, with data of the client's unread, would reset the connection, and the
        # client would lose the answer.
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(self.linger, self._expire)

    def _line(self, status: int, sentence: str) -> bytes:
        """A whole response, the last on this connection."""
        body = f"{sentence}\n".encode("ascii")
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"connection", b"close"),
        ]
        lines = [b": ".join(header) + b"\r\n" for header in headers]
        return b"".join([STATUS_LINE[status], *lines, b"\r\n", body])
