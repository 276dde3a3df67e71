"""
JoinProber: joins a LiveKit server as a client does, says goodbye at once, and tells what it saw.

What only a join meets: a node that is full, a quota that is used up, signalling that hangs while
``GET /`` is answered. It costs the server a participant for some milliseconds, so it is no routine:
it verifies reports, and asks servers that refused our key on joins. Nobody is disturbed: the
participant is hidden and in a room of the pool's own. That room names an agent that nobody is,
since LiveKit sends a job to the agents without a name for each new room that names none (server:
pkg/rtc/room.go, createAgentDispatchesFromRoomAgent); it ends a second after the participant has
left. Webhooks tell of it: room_started, participant_connection_aborted, room_finished (seen with
1.13.5).
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, Self

import aiohttp
from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from .. import tokens
from ..core.events import ProbeOutcome
from ..servers import Server
from .connection import Failure, open_session
from .retry_after import http_date, retry_after
from .stalls import Stalls

__all__ = ["ROOM", "JoinProber", "JoinResult", "Witness"]

ROOM: Final = "livekit-pool-probe"
"""
How the names of the rooms that are joined begin. Each has one of its own, which nobody can guess:
whoever were in it, by a token for it, could fill it, and so make a server look as if it were.
"""

TIMEOUT: Final = 4.5
"""Seconds that a join probe waits: as long as the gateway holds a client's join, since the most
impatient SDK gives up after 5 s (rust-sdks: signal_client/mod.rs)."""

_LAST_WORD: Final = 10.0
"""Seconds after which a join that nobody waits for any more is given up. Cut before the server
answered, its participant would sometimes stay for 20 s: so the answer is waited for."""

_GOODBYE: Final = 1.0
"""Seconds that the server has to answer a goodbye, and a prober to say those that are due when it
is closed."""

_TOKEN_LIFE: Final = 300
"""Seconds. The token has neither ``nbf`` nor ``iat``, so that clocks may differ by 5 minutes."""

_REFUSAL_LIMIT: Final = 64 * 1024

# v0 of signalling, which every version has, without what its SDKs ask for: nothing is offered, so
# that no connection for media is ever begun. protocol: livekit_rtc.proto; since 13 a server says
# by `action` what a Leave means.
_PATH: Final = "/rtc?protocol=16&auto_subscribe=0&adaptive_stream=0"

_ROOM_OPTIONS: Final[Mapping[str, Any]] = {
    "emptyTimeout": 1,
    "departureTimeout": 1,
    "agents": [{"agentName": "livekit-pool/nobody"}],
}

_LEAVE: Final = rtc.SignalRequest(
    leave=rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)
).SerializeToString()


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinResult:
    """
    What one join saw.

    Attributes:
        server: its name.
        outcome: PASSED if it was let in; UNAUTHORIZED if our key was refused; FAILED if anything
            else was answered; REFUSED or SILENT if nothing was.
        detail: a few words for a person, without secrets.
        status: HTTP status of a refusal.
        reason: why the server sent the participant away instead of letting it in, a name of
            ``DisconnectReason``; else empty.
        text: the refusal's body, to be classified and never shown: old servers put the whole
            token into it.
        retry_after: seconds after which it wants to be asked again, if it said so.
        duration: seconds that it took.
        stalled: this process could not listen for more than 0.25 s of that time, or could not
            ask at all: silence says nothing of the server.
    """

    server: str
    outcome: ProbeOutcome
    detail: str
    status: int | None = None
    reason: str = ""
    text: str = field(default="", repr=False)
    retry_after: float | None = None
    duration: float = 0.0
    stalled: bool = False


class Witness(Protocol):
    """Who counts minutes."""

    def __call__(self, server: str, *, sid: str, joined: float, at: float) -> None:
        """
        Take in that participant ``sid`` was on ``server`` from ``joined`` until ``at``.

        Both are seconds since the epoch by the server's clock.
        """


class _Refusal(Exception):
    """The server answered the upgrade with something else than 101."""

    def __init__(self, status: int, text: str, retry_after: float | None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.text = text
        self.retry_after = retry_after


class JoinProber:
    """
    Joins LiveKit servers. One for each process, used as an asynchronous context manager.

    A join that outlasts its probe is not cut: it goes on until the server has answered, so that
    the goodbye can be said.
    """

    def __init__(
        self,
        *,
        timeout: float = TIMEOUT,
        context: ssl.SSLContext | None = None,
        witness: Witness | None = None,
    ) -> None:
        """
        Connect to nothing yet.

        Args:
            timeout: seconds that a probe waits.
            context: how TLS is verified; by default against the system's authorities.
            witness: told how long a participant of ours was on a server, also of a join that
                outlasted its probe.
        """
        self._timeout = timeout
        self._context = context
        self._witness = witness
        self._joining: set[asyncio.Task[JoinResult]] = set()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Open its session, in the running loop."""
        self._session = open_session(
            timeout=_LAST_WORD, keep=False, context=self._context, middleware=_refusals
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Say the goodbyes that can be said within a second, and close all connections."""
        if self._joining:
            await asyncio.wait(self._joining, timeout=_GOODBYE)
        for task in self._joining:
            task.cancel()
        await asyncio.gather(*self._joining, return_exceptions=True)
        await self._session.close()

    async def probe(self, server: Server) -> JoinResult:
        """
        Join ``server`` and leave.

        Where rooms are not made by joining (``room.auto_create: false``) the room is made first.
        Nothing is raised.
        """
        began = time.monotonic()
        with Stalls() as stalls:
            task = asyncio.create_task(self._join(server), name=f"join probe {server.name}")
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)
            await asyncio.wait({task}, timeout=self._timeout)
            seen = task.result() if task.done() else _silent(server, self._timeout)
            stalled = stalls.stalled or seen.stalled
        return replace(seen, duration=time.monotonic() - began, stalled=stalled)

    # -- one join --

    async def _join(self, server: Server) -> JoinResult:
        """Join and leave; ends with what was seen, and never with an error."""
        room = f"{ROOM}-{secrets.token_hex(8)}"
        try:
            async with asyncio.timeout(_LAST_WORD):
                try:
                    return await self._enter(server, room)
                except _Refusal as refusal:
                    if refusal.status != 404:
                        raise
                await self._make_room(server, room)
                return await self._enter(server, room)
        except _Refusal as refusal:
            return _refused(server, refusal)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = Failure.of(error)
            return JoinResult(
                server=server.name,
                outcome=failure.outcome,
                detail=failure.detail,
                stalled=failure.own,
            )

    async def _enter(self, server: Server, room: str) -> JoinResult:
        grants = {
            "roomJoin": True,
            "room": room,
            "hidden": True,
            "canPublish": False,
            "canPublishData": False,
            "canSubscribe": False,
        }
        claims = {"sub": f"{ROOM}-{secrets.token_hex(4)}", "roomConfig": _ROOM_OPTIONS}
        async with self._session.ws_connect(
            server.http_url + _PATH,
            headers=_authorization(server, {**claims, "video": grants}),
            timeout=aiohttp.ClientWSTimeout(ws_close=_GOODBYE),
        ) as socket:
            said, began = None, time.monotonic()
            try:
                said = _said(await socket.receive())
                began = time.monotonic()
                return _judge(server, said)
            finally:
                # Also where nothing was heard: what the server still makes of it goes at once.
                with suppress(aiohttp.ClientError, TimeoutError, OSError):
                    await _say_goodbye(socket)
                if isinstance(said, rtc.SignalResponse) and said.HasField("join"):
                    self._tell(server, said.join.participant, time.monotonic() - began)

    def _tell(self, server: Server, participant: models.ParticipantInfo, seconds: float) -> None:
        if self._witness is not None:
            joined = participant.joined_at_ms / 1000 or float(participant.joined_at)
            self._witness(server.name, sid=participant.sid, joined=joined, at=joined + seconds)

    async def _make_room(self, server: Server, room: str) -> None:
        """protocol: livekit_room.proto, RoomService.CreateRoom; the grant is ``roomCreate``."""
        async with self._session.post(
            f"{server.http_url}/twirp/livekit.RoomService/CreateRoom",
            json={"name": room, **_ROOM_OPTIONS},
            headers=_authorization(server, {"video": {"roomCreate": True}}),
        ):
            pass


async def _say_goodbye(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Say goodbye, and let the server close: then nobody is there any more."""
    if socket.closed:
        return
    await socket.send_bytes(_LEAVE)
    async with asyncio.timeout(_GOODBYE):
        while (await socket.receive()).type is aiohttp.WSMsgType.BINARY:
            pass


def _authorization(server: Server, claims: Mapping[str, Any]) -> Mapping[str, str]:
    pair = tokens.KeyPair(key=server.key, secret=server.secret)
    token = tokens.sign({**claims, "exp": int(time.time()) + _TOKEN_LIFE}, pair)
    return {"Authorization": f"Bearer {token}"}


async def _refusals(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep what aiohttp does not: the body of a refused upgrade. A redirect is a refusal too."""
    answer = await handler(request)
    if answer.status == (200 if request.method == "POST" else 101):
        return answer
    body = b""
    while len(body) < _REFUSAL_LIMIT and (piece := await answer.content.readany()):
        body += piece
    answer.close()
    text = body[:_REFUSAL_LIMIT].decode("utf-8", "replace")
    theirs = http_date(answer.headers.get("Date"))
    raise _Refusal(answer.status, text, retry_after(answer.headers.get("Retry-After"), theirs))


# ---- what it means ----------------------------------------------------------------------------


def _said(message: aiohttp.WSMessage) -> rtc.SignalResponse | str:
    """A server's first message, or what it did instead of sending one."""
    if message.type is aiohttp.WSMsgType.BINARY:
        with suppress(DecodeError):
            return rtc.SignalResponse.FromString(message.data)
    if message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
        return "it answers a join, but not as a LiveKit server does"
    return "it ended a join without a word"


def _judge(server: Server, said: rtc.SignalResponse | str) -> JoinResult:
    outcome, reason = ProbeOutcome.FAILED, ""
    if isinstance(said, str):
        detail = said
    elif said.HasField("join"):
        outcome, detail = ProbeOutcome.PASSED, "let a participant in"
    elif said.HasField("leave"):
        reason = _reason(said.leave.reason)
        detail = f"it sent a participant away instead of letting it in ({reason})"
    else:
        detail = "it answers a join, but not as a LiveKit server does"
    return JoinResult(server=server.name, outcome=outcome, detail=detail, reason=reason)


def _reason(number: int) -> str:
    known = models.DisconnectReason.DESCRIPTOR.values_by_number.get(number)
    return str(number) if known is None else known.name


def _refused(server: Server, refusal: _Refusal) -> JoinResult:
    unauthorized = refusal.status in (401, 403, 451)
    return JoinResult(
        server=server.name,
        outcome=ProbeOutcome.UNAUTHORIZED if unauthorized else ProbeOutcome.FAILED,
        detail=f"a join was refused with HTTP {refusal.status}",
        status=refusal.status,
        text=refusal.text,
        retry_after=refusal.retry_after,
    )


def _silent(server: Server, timeout: float) -> JoinResult:
    return JoinResult(
        server=server.name,
        outcome=ProbeOutcome.SILENT,
        detail=f"no answer to a join within {timeout:g} s",
    )
