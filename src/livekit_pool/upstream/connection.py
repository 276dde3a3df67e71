"""
Connection: how this process reaches LiveKit servers over HTTP, and what it means when it cannot.

Everything that asks a server (probes, the list of rooms, forwarded calls) opens its session here,
so that certificates are always verified and no proxy or cookie of the environment gets in between.
"""

from __future__ import annotations

import errno
import socket
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import aiohttp

from ..core.events import ProbeOutcome
from .names import Names, Unresolved

__all__ = ["Failure", "Stage", "connected", "open_session", "opened_sockets"]

KEEP_ALIVE: Final = 15.0
"""Seconds that an idle connection is kept; below the 60 s after which balancers close one, so that
a request hardly ever meets a connection that the other side is just closing."""

# Only what the other side sends back is its refusal. An unreachable network may be our own cable.
_REFUSALS: Final = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ESHUTDOWN}
)
# This process, or its machine, ran out of something: no server's fault.
_OWN: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)


class Stage(StrEnum):
    """How far a request to a server got when it was decided."""

    TCP = "tcp"
    TLS = "tls"
    HTTP = "http"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """
    A request that brought no answer.

    Attributes:
        outcome: REFUSED if the other side sent something to that effect, else SILENT.
        stage: where it ended.
        detail: a few words for a person, no secret among them.
        sent: whether the server may have got the request. False: it certainly did not.
        own: this process could not ask, for want of sockets, memory or a resolver: says nothing of
            the server.
    """

    outcome: ProbeOutcome
    stage: Stage
    detail: str
    sent: bool = True
    own: bool = False

    @classmethod
    def of(cls, error: aiohttp.ClientError | TimeoutError | OSError) -> Failure:
        """Say what an error of aiohttp means. Never quotes it: it may hold a URL or a header."""
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            reason = _certificate(error.certificate_error)
            return _refused(Stage.TLS, f"its certificate is not trusted: {reason}", sent=False)
        resolving = getattr(error, "os_error", error)
        if isinstance(resolving, Unresolved):
            return _silent(Stage.TCP, str(resolving), sent=False, own=resolving.own)
        for kind, failure in _KNOWN:
            if isinstance(error, kind):
                return failure
        if isinstance(error, aiohttp.ClientConnectorError):
            return _system(error.os_error, sent=False)
        if isinstance(error, OSError):
            return _system(error, sent=True)
        # ClientResponseError, ClientPayloadError: bytes came that are no HTTP answer.
        return cls(outcome=ProbeOutcome.FAILED, stage=Stage.HTTP, detail="its answer is not HTTP")


def _refused(stage: Stage, detail: str, *, sent: bool = True) -> Failure:
    return Failure(outcome=ProbeOutcome.REFUSED, stage=stage, detail=detail, sent=sent)


def _silent(stage: Stage, detail: str, *, sent: bool = True, own: bool = False) -> Failure:
    return Failure(outcome=ProbeOutcome.SILENT, stage=stage, detail=detail, sent=sent, own=own)


# The first that fits counts: some of these are kinds of others.
_KNOWN: Final[tuple[tuple[type[Exception], Failure], ...]] = (
    (
        aiohttp.ClientConnectorSSLError,
        _refused(Stage.TLS, "TLS could not be agreed on", sent=False),
    ),
    (
        aiohttp.ClientConnectorDNSError,
        _silent(Stage.TCP, "its host name could not be resolved", sent=False),
    ),
    # TCP and TLS together: aiohttp does not tell which.
    (aiohttp.ConnectionTimeoutError, _silent(Stage.TCP, "no connection in time", sent=False)),
    (TimeoutError, _silent(Stage.HTTP, "no answer in time")),
    (
        aiohttp.ServerDisconnectedError,
        _refused(Stage.HTTP, "it closed the connection without an answer"),
    ),
    (ssl.SSLError, _refused(Stage.TLS, "TLS could not be agreed on")),
)


def _system(error: OSError, *, sent: bool) -> Failure:
    """Say what an error of the operating system means."""
    stage = Stage.HTTP if sent else Stage.TCP
    if error.errno == errno.ECONNREFUSED:
        return _refused(stage, "connection refused", sent=sent)
    # One without a number: the other side cut a TLS handshake short.
    if error.errno in _REFUSALS or isinstance(error, ConnectionError):
        return _refused(stage, "connection reset", sent=sent)
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    if error.errno in _OWN:
        return _silent(stage, f"this process could not connect: {name}", sent=sent, own=True)
    return _silent(stage, f"no way to it: {name}", sent=sent)


def _certificate(error: Exception) -> str:
    """Return OpenSSL's own words, such as "certificate has expired"."""
    return getattr(error, "verify_message", "") or "it cannot be verified"


# ---- sockets ----------------------------------------------------------------------------------

_opened: Final[ContextVar[list[socket.socket] | None]] = ContextVar("opened", default=None)


def opened_sockets() -> list[socket.socket]:
    """
    Start to collect, in the running task, the sockets that its requests open.

    aiohttp does not tell how far a connection got before it timed out; its socket does.
    """
    sockets: list[socket.socket] = []
    _opened.set(sockets)
    return sockets


def connected(sockets: list[socket.socket]) -> bool:
    """Whether TCP was established on any of ``sockets``."""
    for candidate in sockets:
        try:
            candidate.getpeername()
        except OSError:
            continue
        return True
    return False


def _open_socket(address: Any) -> socket.socket:
    # Any: aiohttp's AddrInfoType is the tuple of getaddrinfo(3), whose last part varies.
    family, kind, protocol, _, _ = address
    opened = socket.socket(family=family, type=kind, proto=protocol)
    sockets = _opened.get()
    if sockets is not None:
        sockets.append(opened)
    return opened


# ---- sessions ---------------------------------------------------------------------------------


def open_session(
    *,
    timeout: float,
    connect_timeout: float | None = None,
    keep: bool = True,
    context: ssl.SSLContext | None = None,
    trace: aiohttp.TraceConfig | None = None,
    middleware: aiohttp.ClientMiddlewareType | None = None,
) -> aiohttp.ClientSession:
    """
    Open a session for requests to servers, inside a running loop.

    Args:
        timeout: bound in seconds for a whole request.
        connect_timeout: bound for TCP and TLS together, None for ``timeout`` alone.
        keep: keep idle connections; False makes every request connect anew.
        context: how TLS is verified; by default against the system's certificate authorities.
        trace: told about connections.
        middleware: stands between a request and its answer.
    """
    connector = aiohttp.TCPConnector(
        ssl=context or ssl.create_default_context(),
        limit=0,  # who waits for a free connection is not measuring the server
        socket_factory=_open_socket,
        resolver=Names.shared(),
        use_dns_cache=False,  # it has its own
        **({"keepalive_timeout": KEEP_ALIVE} if keep else {"force_close": True}),
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        skip_auto_headers=("Accept-Encoding", "Accept", "User-Agent"),
        trace_configs=[trace] if trace else None,
        middlewares=(middleware,) if middleware else (),
    )
