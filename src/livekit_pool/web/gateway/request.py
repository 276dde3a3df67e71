"""
The upgrade request of a signal connection: what it asks for, and as it goes upstream.

Paths, parameters and the order in which a token is looked for are LiveKit's
(server: pkg/service/rtcservice.go, auth.go). No I/O here.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from google.protobuf.message import DecodeError
from livekit.protocol import rtc

from ..upgrade import Head

__all__ = [
    "NOT_FORWARDED",
    "SIGNAL_PATHS",
    "VIA",
    "BadRequest",
    "SignalQuery",
    "UpgradeRequest",
    "bearer",
    "came_through",
    "sent_through",
]

SIGNAL_PATHS: Final = frozenset({b"/rtc", b"/rtc/v1"})

VIA: Final = b"livekit-pool-via"
"""
Header that carries upstream the lineages of all pools that a request has come through, with commas
between them: who meets its own is calling itself, be it by way of another pool.
"""

_JOIN_REQUEST_LIMIT: Final = 2**20  # as the server's: rtcservice.go, decompressed size

NOT_FORWARDED: Final = frozenset(
    {
        b"host",
        b"authorization",
        b"sec-websocket-extensions",  # frames must stay readable: no compression is offered
        b"x-forwarded-for",
        b"x-real-ip",
        b"cf-connecting-ip",
        b"proxy-authorization",
        b"cookie",
        # No body goes upstream: whoever waited there for one that is announced, as balancers do,
        # would look like a server that hangs.
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"trailer",
        b"te",
        VIA,
    }
)


class BadRequest(Exception):
    """The request is refused with ``status``; the text is one sentence fit for the client."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(slots=True)  # frozen, it would take three times as long to make
class SignalQuery:
    """
    The query of a join, a resume, or a validation.

    Attributes:
        raw: the query without the token.
        token: the ``access_token`` in it, or None.
        resume: whether an existing session is to be resumed (``reconnect``).
    """

    raw: bytes
    token: str | None = field(repr=False)
    resume: bool

    @classmethod
    def parse(cls, query: bytes) -> SignalQuery:
        """Parse ``query``. Raises `BadRequest` if its ``join_request`` cannot be read."""
        token: str | None = None
        resume = False
        kept = []
        for part in query.split(b"&"):
            name, _, value = part.partition(b"=")
            if name == b"access_token":
                token = _text(value)
                continue
            if part:
                kept.append(part)
            if name == b"reconnect":
                resume = resume or value in (b"1", b"true")
            elif name == b"join_request" and value:
                resume = resume or _join_request(value).reconnect
        return cls(b"&".join(kept), token, resume)


def bearer(authorization: bytes) -> str:
    """The token of an ``Authorization`` header, which wins over one in the query. `BadRequest`."""
    scheme, _, value = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        raise BadRequest(401, "invalid authorization header: use Bearer")
    return value.strip().decode("ascii", "replace")


def came_through(via: bytes, lineage: str) -> bool:
    """Whether a request with the `VIA` header ``via`` was at the pool of ``lineage`` before."""
    return lineage.encode() in (each.strip() for each in via.split(b","))


def sent_through(via: bytes, lineage: str) -> bytes:
    """The `VIA` header with which such a request is sent on."""
    return via + b", " + lineage.encode() if via else lineage.encode()


def _text(value: bytes) -> str:
    return unquote_to_bytes(value.replace(b"+", b" ")).decode("ascii", "replace")


def _join_request(value: bytes) -> rtc.JoinRequest:
    """The ``join_request`` parameter: base64url of a possibly gzipped protobuf in a wrapper."""
    try:
        wrapped = rtc.WrappedJoinRequest.FromString(
            base64.urlsafe_b64decode(unquote_to_bytes(value))
        )
        data = wrapped.join_request
        if wrapped.compression == rtc.WrappedJoinRequest.GZIP:
            unzip = zlib.decompressobj(wbits=31)
            data = unzip.decompress(data, _JOIN_REQUEST_LIMIT)
            if unzip.unconsumed_tail:
                raise BadRequest(400, "join request too large")
        return rtc.JoinRequest.FromString(data)
    except (binascii.Error, ValueError, DecodeError, zlib.error):
        raise BadRequest(400, "cannot unmarshal join request") from None


@dataclass(slots=True)
class UpgradeRequest:
    """A WebSocket upgrade request (RFC 6455, section 4.1) to one of `SIGNAL_PATHS`."""

    path: bytes
    query: SignalQuery
    token: str | None = field(repr=False)
    key: bytes
    forwarded_for: bytes
    via: bytes
    headers: Sequence[tuple[bytes, bytes]] = field(repr=False)

    @classmethod
    def of(cls, head: Head) -> UpgradeRequest:
        """
        What the request with ``head`` asks for.

        Raises:
            BadRequest: it is not a signal connection, or not one that can be understood.
        """
        headers = []
        authorization = key = None
        forwarded = via = b""
        for each in head.fields:
            name, value = each
            if name == b"sec-websocket-key":
                key = value
            elif name in NOT_FORWARDED:
                if name == b"authorization":
                    authorization = value
                elif name == b"x-forwarded-for":
                    forwarded = forwarded + b"," + value if forwarded else value
                elif name == VIA:
                    via = via + b"," + value if via else value
                continue
            headers.append(each)
        path, _, query = head.target.partition(b"?")
        if path not in SIGNAL_PATHS:
            path = b"/" + path.lstrip(b"/")  # as the server does: a leading double slash collapses
        if head.method != b"GET" or path not in SIGNAL_PATHS or not key:
            raise BadRequest(404, "404 page not found")
        parsed = SignalQuery.parse(query)
        token = parsed.token
        if authorization is not None:
            token = bearer(authorization)
        return cls(path, parsed, token, key, forwarded, via, headers)

    def upstream(self, host: bytes, token: str, client: str, lineage: str) -> bytes:
        """The request's head for the server at ``host``, with a token signed for it."""
        query = self.query.raw
        parts = [
            b"GET " + self.path + (b"?" + query if query else b""),
            b" HTTP/1.1\r\nHost: " + host,
            b"\r\nAuthorization: Bearer " + token.encode(),
            b"\r\n" + VIA + b": " + sent_through(self.via, lineage),
        ]
        if client:
            parts.append(b"\r\nX-Forwarded-For: " + client.encode())
        parts += [b"\r\n" + name + b": " + value for name, value in self.headers]
        parts.append(b"\r\n\r\n")
        return b"".join(parts)
