"""
WebSocket frames (RFC 6455, section 5) as far as a splice must know them.

Bytes pass through unparsed; a `FrameStream` only keeps count of frame boundaries and looks at
the first bytes of each message, which tell the kind of LiveKit signal message: both
``SignalRequest`` and ``SignalResponse`` (livekit_rtc.proto) are a single ``oneof``, so the tag
of the first field names the message. Only the kinds asked for are taken out and handed over
whole. No I/O here.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = [
    "BINARY",
    "CLOSE",
    "EVERY_KIND",
    "HELD_LIMIT",
    "FrameError",
    "FrameStream",
    "Message",
    "accept_key",
    "close_frame",
    "encode",
]

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

_FINAL_BIT: Final = 0x80

# What `FrameStream.passes` compares with: a binary message in one frame, no reserved bit set; its
# second byte, masked or not, where the length follows in two bytes or in eight; and the size from
# which on all that it looks at is there.
_WHOLE: Final = _FINAL_BIT | BINARY
_IN_TWO: Final = 126
_IN_EIGHT: Final = 127
_MASKED_IN_TWO: Final = 128 | _IN_TWO
_MASKED_IN_EIGHT: Final = 128 | _IN_EIGHT
_LEAST: Final = 10

_RESERVED_BITS: Final = 0x70  # no extension is ever offered upstream, so none may be used
_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

HELD_LIMIT: Final = 4 * 2**20
"""Largest message, in bytes, that is held back to be looked at whole; larger ones pass unread."""

_CLIENTS_LIMIT: Final = 64 * 1024
"""The same for a client's message, and for all its frames if it comes in several, which no SDK
sends. What is looked for, a leave, is tiny; what is held is gone through with each piece of it."""


EVERY_KIND: Final = frozenset(range(2**12))
"""Every kind that is looked at: as many as the first two bytes of a message can name."""


class FrameError(Exception):
    """The peer broke RFC 6455; ``code`` is the close code that says so (section 7.4.1)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Message(NamedTuple):
    """A message taken out of the stream: ``kind`` is its field number, ``raw`` its frames."""

    opcode: int
    kind: int
    payload: bytes
    raw: bytes


@lru_cache(maxsize=64)  # the gateway knows a handful
def _unread(wanted: frozenset[int]) -> frozenset[int]:
    """The tags in one byte, as they begin a message, of the kinds that are not ``wanted``."""
    return frozenset(tag for tag in range(128) if tag >> 3 not in wanted)


class FrameStream:
    """
    One direction of a WebSocket connection: where its frames end, and which messages matter.

    Attributes:
        limit: largest message, in bytes, that is taken out; larger ones pass unread.
    """

    __slots__ = (
        "_between",
        "_fragmented",
        "_held",
        "_masked",
        "_rest",
        "_unread",
        "_wanted",
        "limit",
    )

    def __init__(self, *, masked: bool, wanted: frozenset[int] = frozenset()) -> None:
        """``masked`` is True for the client's direction (RFC 6455, section 5.3)."""
        self._masked = masked
        self._between = True  # no frame is under way and nothing is held: `passes` may answer
        self._rest = 0  # bytes of a frame that is passing through and has not ended yet
        self._held = b""  # the beginning of a frame that cannot be judged yet
        self._fragmented = False  # within a message of several frames that is passing through
        self.wanted = wanted
        self.limit = _CLIENTS_LIMIT if masked else HELD_LIMIT

    @property
    def wanted(self) -> frozenset[int]:
        """Kinds (field numbers) of messages to take out."""
        return self._wanted

    @wanted.setter
    def wanted(self, kinds: frozenset[int]) -> None:
        self._wanted = kinds
        self._unread = _unread(kinds)

    @property
    def at_boundary(self) -> bool:
        """Whether what was passed on so far ends with a whole message."""
        return not self._rest and not self._fragmented

    def passes(self, data: bytes) -> bool:
        """
        Whether the next bytes are one whole message that nobody wants, in one frame.

        Then they are to be passed on, and nothing else is to be done. True for nearly all that a
        session says, and found out in as few steps as there can be; for what it is not true of,
        which may be the same in another form, there is `feed`.
        """
        size = len(data)
        if not self._between or size < _LEAST or data[0] != _WHOLE:
            return False
        length = data[1]
        if self._masked:
            if length == _MASKED_IN_TWO:
                return (data[2] << 8 | data[3]) + 8 == size and data[8] ^ data[4] in self._unread
            # Of a frame without a mask the difference is smaller than any size looked at here.
            return (
                length - 128 + 6 == size
                and length != _MASKED_IN_EIGHT
                and data[6] ^ data[2] in self._unread
            )
        if length == _IN_TWO:
            return (data[2] << 8 | data[3]) + 4 == size and data[4] in self._unread
        return length + 2 == size and length < _IN_TWO and data[2] in self._unread

    # Each step as a method of its own would double what it costs.
    def feed(self, data: bytes) -> bytes | list[bytes | Message]:  # noqa: C901, PLR0912, PLR0915
        """
        Take the next bytes; answer what to do with them, in order.

        Plain bytes are to be passed on. A `Message` is a wanted message, or a close frame, and
        is up to the caller. Where nothing is wanted the very bytes are returned.

        Raises:
            FrameError: the peer broke the protocol, or sent text.
        """
        rest, size = self._rest, len(data)
        if rest >= size:
            self._rest = rest - size
            self._between = rest == size and not self._fragmented
            return data
        self._between = False
        if self._held:
            data = self._held + data
            self._held = b""
            size = len(data)
        masked, start, at = self._masked, 0, rest
        wanted, limit = self._wanted, self.limit
        pieces: list[bytes | Message] = []
        while at < size:
            if size - at < 2:
                break
            first, length = data[at], data[at + 1]
            if masked != (length >= 128):
                raise FrameError(1002, "wrong masking")
            length &= 127
            body = at + 2
            if length >= 126:
                body = at + (4 if length == 126 else 10)
                if size < body:
                    break
                length = int.from_bytes(data[at + 2 : body], "big")
                if length >> 63:  # section 5.2: the most significant bit must be 0
                    raise FrameError(1002, "a length that is negative")
            if masked:
                body += 4
            end = body + length
            opcode = first & 15
            if first & _RESERVED_BITS:
                raise FrameError(1002, "reserved bits are set")
            if opcode == BINARY:
                if self._fragmented:
                    raise FrameError(1002, "a message inside another")
                if length:
                    if size < body + (2 if length > 1 else 1):
                        break
                    kind = data[body] ^ data[body - 4] if masked else data[body]
                    if kind >= 128 and length > 1:
                        second = data[body + 1] ^ data[body - 3] if masked else data[body + 1]
                        kind = (kind & 127) | (second << 7)
                    kind >>= 3
                    if kind in wanted and length <= limit:
                        message, end = self._take(data, at, kind)
                        if message is None:
                            break
                        if start < at:
                            pieces.append(data[start:at])
                        pieces.append(message)
                        start = at = end
                        continue
                if not first & _FINAL_BIT:
                    self._fragmented = True
            elif opcode == CONTINUATION:
                if not self._fragmented:
                    raise FrameError(1002, "a continuation of nothing")
                if first & _FINAL_BIT:
                    self._fragmented = False
            elif opcode == CLOSE:
                if length > 125 or not first & _FINAL_BIT:
                    raise FrameError(1002, "a control frame that is too long")
                if size < end:
                    break
                if start < at:
                    pieces.append(data[start:at])
                raw = data[at:end]
                pieces.append(Message(CLOSE, 0, self._payload(data, body, end), raw))
                start = at = end
                continue
            elif opcode == TEXT:
                # A text frame would switch the server to JSON for this connection.
                raise FrameError(1003, "text is not LiveKit's signalling")
            elif opcode not in (PING, PONG) or length > 125 or not first & _FINAL_BIT:
                raise FrameError(1002, "an unknown or malformed frame")
            at = end
        if at > size:
            self._rest = at - size
            at = size
        else:
            self._rest = 0
            if at < size:
                self._held = data[at:]
            else:
                self._between = not self._fragmented
        if not pieces and start == 0 and at == len(data):
            return data
        if start < at:
            pieces.append(data[start:at])
        return pieces

    def _payload(self, data: bytes, body: int, end: int) -> bytes:
        payload = data[body:end]
        return _masked(payload, data[body - 4 : body]) if self._masked else payload

    def _take(self, data: bytes, at: int, kind: int) -> tuple[Message | None, int]:
        """Cut the whole message that begins at ``at``; None if it has not arrived whole."""
        parts: list[bytes] = []
        begin, size = at, len(data)
        limit = self.limit
        while True:
            if size - at < 2:
                return None, begin
            length, body = data[at + 1] & 127, at + 2
            if length >= 126:
                body = at + (4 if length == 126 else 10)
                if size < body:
                    return None, begin
                length = int.from_bytes(data[at + 2 : body], "big")
            if self._masked:
                body += 4
            end = body + length
            if at > begin and end - begin > limit:
                raise FrameError(1009, "a message in parts that is too long")
            if size < end:
                return None, begin
            if data[at] & 15 in (BINARY, CONTINUATION):
                parts.append(self._payload(data, body, end))
                if data[at] & _FINAL_BIT:
                    return Message(BINARY, kind, b"".join(parts), data[begin:end]), end
            at = end


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def encode(payload: bytes, opcode: int = BINARY, mask: bytes | None = None) -> bytes:
    """One whole frame; ``mask`` (4 random bytes) if it goes to a server (RFC 6455, section 5.2)."""
    size, bit = len(payload), 0x80 if mask is not None else 0
    head = bytes([_FINAL_BIT | opcode])
    if size < 126:
        head += bytes([bit | size])
    elif size < 2**16:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    return head + payload if mask is None else head + mask + _masked(payload, mask)


def close_frame(code: int, mask: bytes | None = None) -> bytes:
    """A close frame with ``code`` and no reason text."""
    return encode(code.to_bytes(2, "big"), CLOSE, mask)


def accept_key(key: bytes) -> bytes:
    """``Sec-WebSocket-Accept`` for ``Sec-WebSocket-Key`` (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())
