"""
Upstream: the LiveKit server's side of a relayed signal connection.

Until the server has answered well (101 and its first message) nothing of it reaches the client;
from then on bytes go straight through.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from . import signal
from .frames import (
    EVERY_KIND,
    HELD_LIMIT,
    FrameError,
    FrameStream,
    Message,
    close_frame,
    encode,
)
from .relay import OPEN

if TYPE_CHECKING:
    from .relay import SignalRelay

__all__ = ["Answer", "Upstream"]

_HEAD_LIMIT: Final = 64 * 1024
_BODY_LIMIT: Final = 64 * 1024
_FIRST_LIMIT: Final = 16 * 2**20
"""Bytes of a server's first message, which names everybody in the room: thousands, perhaps, each
with as much metadata as it likes."""
_BEHIND_LIMIT: Final = 64 * 1024
_NO_BODY: Final = frozenset({204, 304})

_LAST_WORD: Final = 10.0
"""Seconds that a server may take to answer a join which was given up."""


@dataclass(slots=True)
class Answer:
    """
    What a server answered to an upgrade request.

    ``status`` 101: ``head`` is its response head and ``first`` what its first bytes hold, the
    first `Message` at the front. Otherwise ``body`` is the refusal's text, which old servers
    fill with whole tokens: it is passed on for a caller's own fault only, and never logged;
    ``retry_after`` and ``date`` are the headers of those names.
    ``status`` 0: the connection was lost before there was an answer; or, if ``unread``, there was
    one of which too much came to be read.
    """

    status: int
    head: bytes = b""
    first: tuple[bytes | Message, ...] = ()
    body: bytes = b""
    retry_after: str = ""
    date: str = ""
    unread: bool = False


class Upstream(asyncio.Protocol):
    """
    One connection to a LiveKit server; first it waits for the answer, then it relays.

    Attributes:
        answer: what the server answered, once it has.
        asked: whether the server may have got the request, or will.
        since: loop time at which it was begun, where it was not waited until it is connected.
        request: what is still to be sent when it is connected.
        error: why the connection was lost, if it was lost for a reason.
        stream: its direction of the connection, from the answer on.
        lost: whether the connection is gone.
    """

    __slots__ = (
        "_answered",
        "_buffer",
        "_made",
        "answer",
        "asked",
        "error",
        "lost",
        "relay",
        "request",
        "since",
        "stream",
        "transport",
    )

    def __init__(self, answered: Callable[[], None]) -> None:
        """``answered`` is called when `answer` is there."""
        self.relay: SignalRelay | None = None
        self.stream: FrameStream | None = None
        self.lost = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connected
        self.answer: Answer | None = None
        self.asked = False
        self.since = math.inf
        self._made = False  # whether there is a transport
        self.request = b""
        self.error: Exception | None = None
        self._answered: Callable[[], None] | None = answered
        self._buffer: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport
        self._made = True
        if self.lost:  # given up in the meantime
            self.transport.abort()
        elif self.request:
            self.transport.write(self.request)
            self.request = b""

    @property
    def connected(self) -> bool:
        """Whether the other side has accepted the connection."""
        if not self._made or self.lost:
            return False
        try:
            self.transport.get_extra_info("socket").getpeername()
        except OSError:
            return False
        return True

    def abort(self) -> None:
        """Cut the connection, at once or as soon as there is one."""
        if self._made:
            self.transport.abort()
        else:
            self.lost = True

    def data_received(self, data: bytes) -> None:
        relay = self.relay
        if relay is not None:
            # The relay's hot path: a call of its own for this is half a per cent of all it costs.
            if relay.phase is OPEN and self.stream.passes(data):  # type: ignore[union-attr]
                relay.transport.write(data)
            else:
                relay.from_server(data)
        elif self._buffer is not None:
            self._buffer += data
            if self.answer is None:
                self._judge(ended=False)
            elif len(self._buffer) > _BEHIND_LIMIT:
                self.transport.pause_reading()

    def attach(self, relay: SignalRelay) -> bytes:
        """From now on everything goes to ``relay``; returns what came since the answer."""
        behind = self._buffer or b""
        self.relay = relay
        self._answered = self._buffer = self.answer = None
        self.since = math.inf  # a number of its own is memory for as long as the session lasts
        return behind

    def let_go(self) -> None:
        """
        Give up a join: the participant that the server is making goes as soon as it is made.

        If the connection were cut in the meantime the participant would sometimes stay for 20 s:
        after 1 of 40 cuts, tried with LiveKit 1.13.5. So the server's answer is waited for. But a
        request that is not out yet never goes out: it would throw out whoever came back meanwhile.
        """
        if not self.connected if self._made else self.request:
            self.abort()
            return
        self._answered = self._say_goodbye
        asyncio.get_running_loop().call_later(_LAST_WORD, self.abort)
        if self.answer is not None:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        if self.lost or self.answer is None or self.answer.status != 101:
            self.abort()
            return
        self._buffer = None
        self.transport.write(encode(signal.GOODBYE, mask=secrets.token_bytes(4)))
        self.transport.write(close_frame(1000, secrets.token_bytes(4)))
        self.transport.resume_reading()  # what still comes is dropped

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.error = error
        if self.relay is not None:
            self.relay.server_lost()
        elif self._buffer is not None and self.answer is None:
            self._judge(ended=True)

    def pause_writing(self) -> None:
        if self.relay is not None:
            self.relay.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.relay is not None:
            self.relay.transport.resume_reading()

    def _set(self, answer: Answer) -> None:
        if self._answered is not None and self.answer is None:
            self.answer = answer
            self._answered()

    def _judge(self, *, ended: bool) -> None:
        """Look whether the answer has arrived whole."""
        buffer = self._buffer or b""
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if ended or len(buffer) > _HEAD_LIMIT:
                self._set(Answer(0))
            return
        head, body = buffer[: end + 4], buffer[end + 4 :]
        try:
            status = int(head.split(b" ", 2)[1])
        except (IndexError, ValueError):
            status = 0
        if status == 101:
            self._judge_first(head, body, ended)
        elif 100 <= status < 200:  # only the answer before the answer (RFC 9110, section 15.2)
            self._buffer = body
            self._judge(ended=ended)
        elif not 200 <= status < 600:
            self._set(Answer(0))
        else:
            self._judge_refusal(status, head, body, ended)

    def _judge_refusal(self, status: int, head: bytes, body: bytes, ended: bool) -> None:
        """Whether it is whole: by its length, its last chunk, or its end (RFC 9112, 6.3)."""
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        length = fields.get(b"content-length", b"")
        if fields.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
            body, whole = _unchunked(body)
        else:
            whole = status in _NO_BODY or (length.isdigit() and len(body) >= int(length))
        if whole or ended or len(self._buffer or b"") > _BODY_LIMIT:
            self._set(
                Answer(
                    status,
                    body=body,
                    retry_after=fields.get(b"retry-after", b"").decode("latin-1"),
                    date=fields.get(b"date", b"").decode("latin-1"),
                )
            )

    def _judge_first(self, head: bytes, body: bytes, ended: bool) -> None:
        if not body and not ended:
            return
        stream = FrameStream(masked=False, wanted=EVERY_KIND)
        stream.limit = _FIRST_LIMIT
        try:
            pieces = stream.feed(body) if body else []
        except FrameError:
            self._set(Answer(0))
            return
        if isinstance(pieces, bytes) or not any(isinstance(p, Message) for p in pieces):
            # A whole message is not there yet; control frames alone are not an answer.
            if ended or len(body) > _FIRST_LIMIT:
                self._set(Answer(0, unread=not ended))
            return
        stream.limit = HELD_LIMIT
        self.stream = stream
        self._buffer = b""  # for what comes before the relay takes over
        self._set(Answer(101, head=head, first=tuple(pieces)))


def _unchunked(data: bytes) -> tuple[bytes, bool]:
    """The body in as many chunks as are there whole, and whether it is (RFC 9112, section 7.1)."""
    parts: list[bytes] = []
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        digits = data[at:end].partition(b";")[0].strip()
        if not digits.isalnum() or len(digits) > 8:
            return b"".join(parts), True
        try:
            size = int(digits, 16)
        except ValueError:
            return b"".join(parts), True
        at = end + 2 + size + 2
        if not size or at > len(data):
            return b"".join(parts), not size
        parts.append(data[end + 2 : at - 2])
    return b"".join(parts), False
