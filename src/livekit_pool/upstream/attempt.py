"""Attempt: one ``GET /`` to a server under way, and what was seen when it ended."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from ..core.document import Cause
from ..core.events import ProbeOutcome
from ..servers import Server
from .connection import Failure, Stage, connected, opened_sockets

__all__ = ["Attempt", "Seen", "tracing"]

_HEALTHY: Final = b"OK"  # server: pkg/service/server.go, healthCheck
_BODY_LIMIT: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a request to a server saw: the fields of `ProbeResult`, and ``own`` of `Failure`."""

    outcome: ProbeOutcome
    stage: Stage
    detail: str
    own: bool = False
    kind: Cause | None = None
    retry_after: float | None = None

    @classmethod
    def after(cls, error: aiohttp.ClientError | TimeoutError | OSError) -> Seen:
        """What an error of aiohttp says about the server."""
        failure = Failure.of(error)
        return cls(
            outcome=failure.outcome, stage=failure.stage, detail=failure.detail, own=failure.own
        )


class Attempt:
    """
    One ``GET /`` under way; it may outlive the probe that began it.

    Attributes:
        reused: whether it is waiting on a connection that was kept from an earlier request.
        expired: whether it was given up after its own time, which is longer than a probe's.
        task: ends with what was seen, and never with an error.
    """

    __slots__ = ("_connecting", "_secure", "_sockets", "expired", "reused", "task")

    def __init__(self, session: aiohttp.ClientSession, server: Server) -> None:
        """Begin. ``session`` must have been made with `tracing`."""
        self.reused = self.expired = False
        self._connecting = True
        self._secure = server.secure
        self._sockets: list[socket.socket] = []
        self.task: asyncio.Task[Seen] = asyncio.create_task(
            self._ask(session, server.http_url + "/"), name=f"probe {server.name}"
        )

    @property
    def stage(self) -> Stage:
        """How far it has got."""
        if not self._connecting:
            return Stage.HTTP
        return Stage.TLS if self._secure and connected(self._sockets) else Stage.TCP

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> Seen:
        self._sockets = opened_sockets()
        try:
            async with session.get(url, allow_redirects=False, trace_request_ctx=self) as answer:
                return _health(answer.status, await answer.content.read(_BODY_LIMIT))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.expired = isinstance(error, TimeoutError)
            return Seen.after(error)


def _health(status: int, body: bytes) -> Seen:
    """Judge the answer to ``GET /``."""
    if status == 200 and body.strip() == _HEALTHY:
        return Seen(outcome=ProbeOutcome.PASSED, stage=Stage.HTTP, detail="answered")
    if status == 200:
        detail = "it answers, but not as a LiveKit server does"
    elif status == 406:  # its own figures are older than 4 s (server: pkg/service/server.go)
        detail = "it says that it is not ready (HTTP 406)"
    else:
        detail = f"it answered with HTTP {status}"
    return Seen(outcome=ProbeOutcome.FAILED, stage=Stage.HTTP, detail=detail)


def tracing() -> aiohttp.TraceConfig:
    """Make what tells an `Attempt` about its connection."""

    async def reused(_: Any, context: SimpleNamespace, __: Any) -> None:
        context.trace_request_ctx.reused = True
        context.trace_request_ctx._connecting = False

    async def connecting(_: Any, context: SimpleNamespace, __: Any) -> None:
        # Also after a kept connection turned out closed: aiohttp tries again by itself.
        context.trace_request_ctx.reused = False
        context.trace_request_ctx._connecting = True

    async def ready(_: Any, context: SimpleNamespace, __: Any) -> None:
        context.trace_request_ctx._connecting = False

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    trace.on_connection_create_start.append(connecting)
    trace.on_connection_create_end.append(ready)
    return trace
