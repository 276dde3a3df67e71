"""
SignalRelay: the client's side of a signal connection, and the splice between both sides.

Made for each upgrade request (`http.Upgraded`), and told of the request first. After admission
(`admission`) bytes pass through unparsed in both directions; the relay knows where frames end, so
that it can put frames of its own between two of the server's, and reads the few messages that
concern it.

    ADMITTING -> OPEN -> TOLD -> CLOSED        told to come back, to another server
                   |       ^
                   +-> ORPHANED                its server's side was lost
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from ... import tokens
from ...core.faults import Surface, classify
from ...rooms import Room
from ...stores.base import Placement
from . import signal
from .frames import CLOSE, FrameError, FrameStream, Message, accept_key, close_frame, encode

if TYPE_CHECKING:
    from ..upgrade import Head
    from .admission import Admission
    from .gateway import Gateway
    from .request import UpgradeRequest
    from .upstream import Upstream

__all__ = ["LINGER", "OPEN", "Phase", "SignalRelay"]

LINGER: Final = 1.5
"""Seconds after which a connection that was told to go, and did not, is cut."""

FAREWELL: Final = 1.0
"""Seconds after a Leave at which the gateway says goodbye to the old server at the latest."""

_EARLY_LIMIT: Final = 64 * 1024
"""Bytes a client may send before it has been answered."""

_FROM_CLIENT: Final = frozenset({signal.REQUEST_LEAVE})
_WHILE_SETTLING: Final = frozenset(
    {signal.UPDATE, signal.LEAVE, signal.REFRESH_TOKEN, signal.ROOM_MOVED, signal.RECONNECT}
)
_PASSED_UNREAD: Final = frozenset({signal.JOIN, signal.RECONNECT})
_SETTLED: Final = _WHILE_SETTLING - {signal.UPDATE}

# Each reason phrase is what LiveKit's own server (Go's net/http) says.
_PHRASES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    413: "Request Entity Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    508: "Loop Detected",
}


class Phase(IntEnum):
    """Where a relay is in its life."""

    ADMITTING = 1
    OPEN = 2
    ORPHANED = 3
    TOLD = 4
    CLOSED = 5


OPEN: Final = Phase.OPEN
"""The same, found at once: for where each step counts."""


class SignalRelay(asyncio.Protocol):
    """
    One client's signal connection.

    Attributes:
        phase: where it is in its life.
        server: name of the server it is connected to.
        claims: the latest claims of its token, as JSON bytes (`tokens.payload`).
        settled: whether its client can bear to be moved.
        since: loop time at which it was opened, or orphaned.
    """

    __slots__ = (
        "_admission",
        "_client",
        "_early",
        "_full",
        "_gateway",
        "_move",
        "_said_goodbye",
        "_stay",
        "active",
        "claims",
        "phase",
        "room",
        "server",
        "settled",
        "sid",
        "since",
        "transport",
        "upstream",
    )

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._admission: Admission | None = None
        self._client: FrameStream | None = None
        self._early: bytes | None = None
        self._full = False  # the client reads more slowly than its server writes
        self._move: Placement | None = None  # asked for, and not yet at a frame's end
        self._said_goodbye = False
        # The SID whose minutes are counted; empty while it is not known, None when it is not here.
        self._stay: str | None = None
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connected
        self.upstream: Upstream | None = None
        self.phase = Phase.ADMITTING
        self.server = ""
        self.claims = b""
        self.room: Room | None = None
        self.sid = ""
        self.active = False
        self.settled = False
        self.since = 0.0

    def __repr__(self) -> str:
        return f"<SignalRelay {self.phase.name} server={self.server!r} settled={self.settled}>"

    # -- the client's side --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport

    def upgraded(self, head: Head) -> None:
        """Begin the admission."""
        self._admission = self._gateway.admit(self, head)
        if self._admission is not None:
            self._admission.begin()

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase is OPEN:
            if self._client.passes(data):  # type: ignore[union-attr]  # there while it is open
                self.upstream.transport.write(data)  # type: ignore[union-attr]  # likewise
            else:
                self._from_client(data)
        elif phase is Phase.ADMITTING:
            self._early = (self._early or b"") + data
            if len(self._early) > _EARLY_LIMIT:
                self.transport.abort()
        elif phase is Phase.TOLD or phase is Phase.ORPHANED:
            self._drop(data)

    def _from_client(self, data: bytes) -> None:
        upstream = self.upstream
        assert upstream is not None
        assert self._client is not None
        try:
            pieces = self._client.feed(data)
        except FrameError as error:
            self._refuse_frames(error)
            return
        if isinstance(pieces, bytes):
            upstream.transport.write(pieces)
            return
        for piece in pieces:
            if isinstance(piece, Message):
                self._said_goodbye = True  # a leave, or a close: what follows is no fault
                upstream.transport.write(piece.raw)
            elif piece:
                upstream.transport.write(piece)

    def _refuse_frames(self, error: FrameError) -> None:
        """The client broke the protocol: close with the code that says so."""
        self.transport.write(close_frame(error.code))
        self._close()

    def _close(self) -> None:
        """Close the client's side: at once, or soon if it does not read what is on its way."""
        self.transport.close()
        self._gateway.loop.call_later(LINGER, self.transport.abort)

    def _drop(self, data: bytes) -> None:
        """After a goodbye of ours the client's close frame counts: livekit-client waits for it."""
        try:
            pieces = self._client.feed(data) if self._client is not None else b""
        except FrameError:
            self.transport.abort()
            return
        if isinstance(pieces, list):
            for piece in pieces:
                if not isinstance(piece, Message):
                    continue
                self._farewell()
                if piece.opcode == CLOSE:
                    self.transport.write(close_frame(1000))
                    self.transport.close()
                    return

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._admission is not None:
            self._admission.cancel()
            self._admission = None
        upstream = self.upstream
        if upstream is not None and self.phase is Phase.TOLD:
            self._farewell()
        elif upstream is not None:
            upstream.relay = None
            upstream.transport.close()
        self._closed()

    def pause_writing(self) -> None:
        self._full = True
        if self.upstream is not None and self.phase is Phase.OPEN:
            self.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if self.upstream is not None and self.phase is Phase.OPEN:
            self.upstream.transport.resume_reading()

    # -- admission --

    def refuse(self, status: int, text: str, retry_after: int | None = None) -> None:
        """Answer the upgrade request with ``status``, as LiveKit's server does: text, CORS open."""
        body = text.encode()
        head = (
            f"HTTP/1.1 {status} {_PHRASES.get(status, 'Error')}\r\n"
            "Access-Control-Allow-Origin: *\r\n"
            "Content-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Connection: close\r\n"
        )
        if retry_after is not None:
            head += f"Retry-After: {retry_after}\r\n"
        self.phase = Phase.CLOSED
        self.transport.write(head.encode() + b"\r\n" + body)
        self._close()

    def fail(self) -> None:
        """Its admission failed for a reason that nobody thought of."""
        if self.phase is Phase.ADMITTING:
            self.refuse(503, "something went wrong in the pool, try again", retry_after=1)
        else:
            self.transport.abort()

    def answer_leave(self, request: UpgradeRequest) -> None:
        """
        Accept the upgrade only to say: come back with a new join.

        The answer to a resume whose session this pool's servers no longer have; a server says
        it itself in the same words (server: pkg/service/roommanager.go).
        """
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(request.key) + b"\r\n\r\n"
        )
        self._client = FrameStream(masked=True)
        reason = models.DisconnectReason.STATE_MISMATCH
        self.transport.write(encode(signal.leave(rtc.LeaveRequest.RECONNECT, reason)))
        self._linger()

    def open(
        self, upstream: Upstream, room: Room, server: str, claims: bytes, *, resumed: bool
    ) -> None:
        """Take over an answered upstream connection; its first bytes are passed on by `passed`."""
        self.upstream = upstream
        self.room = room
        self.server = server
        self.claims = claims
        self.active = resumed  # it was active before, and the server says no more of it
        self._client = FrameStream(masked=True, wanted=_FROM_CLIENT)
        self.phase = Phase.OPEN
        self._stay = ""
        self._gateway.pool.metering.entered(server)
        self._admission = None
        self.since = self._gateway.loop.time()
        assert upstream.stream is not None
        upstream.stream.wanted = _WHILE_SETTLING

    def pass_first(self, head: bytes, first: tuple[bytes | Message, ...]) -> None:
        """Pass the server's answer on: its head and what came with it."""
        first_message = first[0]
        if isinstance(first_message, Message) and first_message.kind in _PASSED_UNREAD:
            # The client has waited long enough: what there is to learn can be learnt afterwards.
            self.transport.write(head + first_message.raw)
            self._gateway.loop.call_soon(self._after_first, first_message, first[1:])
        else:
            self.transport.write(head)
            self._after_first(None, first)
        if self._early:
            early, self._early = self._early, None
            self.data_received(early)

    def _after_first(self, message: Message | None, rest: tuple[bytes | Message, ...]) -> None:
        upstream = self.upstream
        if self.phase is not Phase.OPEN or upstream is None:
            return
        behind = upstream.attach(self)
        if message is not None:
            self._read(message)
        self._pass(rest)
        if behind:
            self.from_server(behind)
        if self.phase is Phase.OPEN:
            if not self._full:
                upstream.transport.resume_reading()
            if upstream.lost:
                self.server_lost()

    # -- the server's side --

    def from_server(self, data: bytes) -> None:
        """Bytes from the server: pass them on, but for the messages that concern the gateway."""
        if self.phase is not OPEN:
            return
        upstream = self.upstream
        assert upstream is not None
        stream = upstream.stream
        assert stream is not None
        try:
            pieces = stream.feed(data)
        except FrameError:
            upstream.transport.abort()
            return
        if isinstance(pieces, bytes):
            self.transport.write(pieces)
        else:
            self._pass(pieces)
        if self._move is not None and stream.at_boundary:
            self._tell(self._move)

    def _pass(self, pieces: Sequence[bytes | Message]) -> None:
        for piece in pieces:
            if isinstance(piece, Message):
                passed = self._read(piece)
                if self.phase is not Phase.OPEN:
                    return
                if passed is not None:
                    self.transport.write(passed)
            else:
                self.transport.write(piece)

    def _read(self, message: Message) -> bytes | None:
        """Read a message of the server's; returns the frames to pass on in its place."""
        if message.opcode == CLOSE:
            self._said_goodbye = True
            return message.raw
        if message.kind not in _WHILE_SETTLING and message.kind != signal.JOIN:
            return message.raw
        response = _parsed(message.payload)
        match response.WhichOneof("message"):
            case "join":
                self._is_participant(response.join.participant, joins=True)
            case "update":
                self._see(response.update)
            case "refresh_token":
                return encode(signal.refresh_token(self._refreshed(response.refresh_token)))
            case "room_moved":
                response.room_moved.token = self._refreshed(response.room_moved.token)
                return encode(response.SerializeToString())
            case "leave":
                return self._server_leaves(response.leave, message)
        return message.raw

    def _see(self, update: rtc.ParticipantUpdate) -> None:
        """The server tells of participants: who is ours, after a resume, and is it active?"""
        if self.active and self.sid:
            return
        identity = "" if self.sid else tokens.claims_of(self.claims).identity
        for participant in update.participants:
            if self.sid and participant.sid == self.sid:
                self.active = participant.state == models.ParticipantInfo.ACTIVE
            elif identity and participant.identity == identity:
                self._is_participant(participant, joins=False)

    def _is_participant(self, participant: models.ParticipantInfo, *, joins: bool) -> None:
        """The server says who the client's participant is: its minutes are counted from now on."""
        self.sid = participant.sid
        if participant.kind != models.ParticipantInfo.EGRESS and self._stay == "":
            self._stay = self.sid
            joined = participant.joined_at_ms / 1000 or float(participant.joined_at)
            self._gateway.pool.metering.began(self.server, self.sid, joined, now=joins)

    def _stay_ends(self) -> None:
        """Its participant is not seen here any more; idempotent."""
        stay, self._stay = self._stay, None
        if stay is not None:
            self._gateway.pool.metering.ended(self.server, stay)

    def _refreshed(self, token: str) -> str:
        gateway, room = self._gateway, self.room
        placement = room.placement if room is not None else None
        revision = placement.revision if placement is not None else gateway.pool.revision
        renewed = tokens.refreshed(
            token,
            gateway.pool.servers[self.server],
            tokens.claims_of(self.claims).raw,
            gateway.pool.pair,
            revision=revision,
            server_name=self.server,
        )
        self.claims = tokens.payload(renewed)
        return renewed

    def _server_leaves(self, leave: rtc.LeaveRequest, message: Message) -> bytes | None:
        """
        The server says leave. Its own shutdown would throw everybody out for good.

        Whose room was moved is not thrown out by what happens to it on the old server either.
        Everything else (a kick, a deleted room, a second join) is meant and passes unchanged.
        """
        elsewhere = (
            self.room is not None
            and self.room.placement is not None
            and self.room.placement.server != self.server
        )
        if leave.action != rtc.LeaveRequest.DISCONNECT:
            self._said_goodbye = True
            return message.raw
        if _is_the_servers_fault(leave):
            self._gateway.server_shuts_down(self)
        elif not (elsewhere and leave.reason == models.DisconnectReason.ROOM_DELETED):
            self._said_goodbye = True
            return message.raw
        self._say_leave(rtc.LeaveRequest.RECONNECT, models.DisconnectReason.SERVER_SHUTDOWN)
        self._give_up_upstream(goodbye=False)
        return None

    def server_lost(self) -> None:
        """The upstream connection is gone."""
        if self.phase is not Phase.OPEN:
            return
        self._stay_ends()
        if self._said_goodbye:
            self._close()
            return
        self.phase = Phase.ORPHANED
        self.since = self._gateway.loop.time()
        self._gateway.orphaned(self)

    # -- moves --

    def move(self, placement: Placement) -> None:
        """
        Send the client to ``placement``: at once, or as soon as no frame is cut in two by it.

        Called for settled sessions, or when the session's server is down.
        """
        if self.phase is Phase.ORPHANED:
            self._tell(placement)
        elif self.phase is Phase.OPEN:
            if self._move is None:
                self._gateway.loop.call_later(LINGER, self._cut_if_untold)
            self._move = placement
            if (stream := self._stream) is not None and stream.at_boundary:
                self._tell(placement)

    def _cut_if_untold(self) -> None:
        """The frame did not end: its server hangs within it, or the client does not read it."""
        if self._move is not None:
            self.transport.abort()

    def _tell(self, placement: Placement) -> None:
        """``refresh_token`` with the news, then Leave; goodbye to the old server for the client."""
        self._move = None
        stream = self._stream
        if stream is None or not stream.at_boundary:
            self.transport.abort()  # its server died within a frame: nothing can follow that
            return
        gateway = self._gateway
        token = tokens.news(
            tokens.claims_of(self.claims).raw,
            gateway.pool.pair,
            revision=placement.revision,
            server_name=placement.server,
        )
        self.transport.write(encode(signal.refresh_token(token)))
        self._say_leave(rtc.LeaveRequest.RECONNECT, models.DisconnectReason.SERVER_SHUTDOWN)
        gateway.loop.call_later(FAREWELL, self._farewell)

    def _farewell(self) -> None:
        """Goodbye to the old server: the client has heard the news, or had time enough."""
        self._give_up_upstream(goodbye=True)

    def release(self) -> None:
        """An orphan whose server answers: the client resumes, if its connection simply breaks."""
        self.transport.abort()

    def send_away(self) -> None:
        """An orphan with no server to go to: the client comes back until there is one."""
        stream = self._stream
        if stream is not None and stream.at_boundary:
            self._say_leave(rtc.LeaveRequest.RECONNECT, models.DisconnectReason.SERVER_SHUTDOWN)
        else:
            self.transport.abort()

    def resume_elsewhere(self) -> None:
        """This process ends: the client resumes through another, to the same server."""
        stream = self._stream
        if self.phase is not Phase.OPEN or stream is None or not stream.at_boundary:
            self.transport.abort()
            return
        self._say_leave(rtc.LeaveRequest.RESUME, models.DisconnectReason.SERVER_SHUTDOWN)
        self._give_up_upstream(goodbye=False)

    def _say_leave(self, action: rtc.LeaveRequest.Action, reason: models.DisconnectReason) -> None:
        self.transport.write(encode(signal.leave(action, reason)))
        self._linger()

    def _linger(self) -> None:
        self._move = None
        self._leave_room()
        self.phase = Phase.TOLD
        self.transport.resume_reading()  # a server that took no more may have stopped it
        self._gateway.loop.call_later(LINGER, self.transport.abort)

    def _give_up_upstream(self, *, goodbye: bool) -> None:
        """
        Let go of the server's side, if that was not done before.

        With ``goodbye`` the participant is gone there at once.
        If a frame of the client's was passed on in part, the goodbye would be taken for its
        rest: then the connection is cut, and the server notices by itself.
        """
        upstream, self.upstream = self.upstream, None
        if upstream is None:
            return
        self._stay_ends()
        upstream.relay = None
        if not goodbye or upstream.lost or self._client is None or not self._client.at_boundary:
            upstream.transport.abort()
            return
        upstream.transport.write(encode(signal.GOODBYE, mask=secrets.token_bytes(4)))
        upstream.transport.write(close_frame(1000, secrets.token_bytes(4)))
        self._gateway.loop.call_later(LINGER, upstream.transport.abort)

    @property
    def _stream(self) -> FrameStream | None:
        """The server's direction of the connection, while there is one."""
        return self.upstream.stream if self.upstream is not None else None

    # -- the end --

    def becomes_settled(self) -> None:
        """Its client can bear a move from now on."""
        self.settled = True
        if (stream := self._stream) is not None:
            stream.wanted = _SETTLED

    def _leave_room(self) -> None:
        room, self.room = self.room, None
        if room is not None:
            self._gateway.pool.rooms.remove(room, self, unsettled=not self.settled)

    def _closed(self) -> None:
        self._stay_ends()
        self._leave_room()
        self.phase = Phase.CLOSED
        self.upstream = None
        self._gateway.closed(self)


def _is_the_servers_fault(leave: rtc.LeaveRequest) -> bool:
    """Whether the server says by it that it goes, and not its participant."""
    known = models.DisconnectReason.DESCRIPTOR.values_by_number.get(leave.reason)
    return known is not None and classify(Surface.LEAVE, code=known.name).cause is not None


def _parsed(payload: bytes) -> rtc.SignalResponse:
    """The message; an empty one if it cannot be read, of which the client makes as little."""
    try:
        return rtc.SignalResponse.FromString(payload)
    except DecodeError:
        return rtc.SignalResponse()
