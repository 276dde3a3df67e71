"""
Admission: from an upgrade request to an open relay, or to a clean refusal.

A join goes where the room's placement says. It is held while that is being found out, while a
server is being given up, or while the room moves, but never longer than the most impatient SDK
waits; and nothing of a server's answer reaches the client before the placement has been confirmed
after it, so that no client is ever let in where its room no longer is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from ... import observe, tokens
from ...core.document import Cause
from ...core.events import FaultSource
from ...exceptions import NoAnswer, StoreError, TokenError
from ...rooms import Room
from ...stores.base import Placement
from .relay import SignalRelay
from .request import UpgradeRequest, came_through
from .upstream import Answer, Upstream

if TYPE_CHECKING:
    from .gateway import Gateway

__all__ = ["Admission", "Inquiry", "Validation"]

SETTLING: Final = 10.0
"""Longest time in seconds for which a new session counts as unsettled."""

_CONNECT: Final = 2.0
"""Seconds for a connection to a server, TLS included."""

_VERDICT: Final = 0.6
"""Seconds to wait for a verdict over a server that refused, before its refusal is passed on."""

_SERVER_TROUBLE: Final = frozenset({502, 503, 504})
"""Refusals that count as evidence against a server; others may be one room's or one client's."""

_NOT_FOUND_V1: Final = b"404 page not found"
"""What a server before 1.9.10 says to /rtc/v1; SDKs turn to /rtc on it."""


class Door(Protocol):
    """Where the answer goes."""

    def refuse(self, status: int, text: str, retry_after: int | None = None) -> None:
        """Answer with ``status`` and ``text``, and nothing more."""

    def answer_leave(self, request: UpgradeRequest) -> None:
        """Answer a resume with: come back with a new join."""


class Inquiry:
    """
    A client's question to the server of its room, asked until it is answered.

    Subclasses say which status is the good one, and what follows from it.
    """

    __slots__ = ("_claims", "_client", "_deadline", "_door", "_gateway", "_request", "_retry")

    GOOD: ClassVar[int]

    def __init__(
        self,
        gateway: Gateway,
        door: Door,
        request: UpgradeRequest,
        client: str,
        *,
        patience: float,
    ) -> None:
        self._gateway = gateway
        self._door = door
        self._request = request
        self._client = client
        self._deadline = gateway.loop.time() + patience
        self._claims: tokens.Claims
        self._retry: asyncio.Future[None] | None = None
        """Done when something changed that may make the attempt under way pointless."""

    @property
    def room(self) -> str:
        """Name of the room that the client asks for; to be asked once it waits."""
        return self._claims.room

    def poke(self) -> None:
        """A server's health, a placement or the document changed: look again."""
        if self._retry is not None and not self._retry.done():
            self._retry.set_result(None)

    async def run(self) -> None:
        """Ask, and answer the client in every case."""
        pool, request = self._gateway.pool, self._request
        try:
            self._claims = tokens.verify(request.token, pool.pair)
        except TokenError as error:
            self._door.refuse(401, str(error))
            return
        claims = self._claims
        if claims.grants.get("roomJoin") is not True:
            self._door.refuse(401, "permissions denied: the token has no roomJoin grant")
        elif not claims.room:
            self._door.refuse(400, "no room name: the token names none")
        elif not claims.identity:
            self._door.refuse(400, "identity cannot be empty")
        elif came_through(request.via, self._gateway.lineage):
            self._door.refuse(508, "this pool is configured as a server of itself")
        else:
            with pool.rooms.joining(claims.room) as room:
                await self._admit(room)

    async def _admit(self, room: Room) -> None:
        pool = self._gateway.pool
        location = self._claims.location
        try:
            async with asyncio.timeout_at(self._deadline):
                if location is not None and not pool.without_document:
                    await pool.fresh(location.revision if self._of_this_lineage() else 0)
                known = None
                if location is not None and (pool.without_document or self._of_this_lineage()):
                    known = Placement(
                        room=room.name, server=location.server, revision=location.revision
                    )
                while True:
                    placement = await pool.rooms.resolve(room.name, known)
                    if self._request.query.resume and self._outdated(placement):
                        self._door.answer_leave(self._request)
                        return
                    if not pool.joinable(placement.server):
                        await self._changed(0.25)
                    elif await self._attempt(room, placement):
                        return
        except TimeoutError:
            self._unavailable("no LiveKit server answered in time, try again")
        except (StoreError, NoAnswer):
            self._unavailable("the pool's store does not answer, try again")

    def _of_this_lineage(self) -> bool:
        # A revision far above ours comes from a document that was lost: reading again is no use.
        location = self._claims.location
        return (
            location is not None
            and location.revision <= self._gateway.pool.document.revision + 1000
        )

    def _outdated(self, placement: Placement) -> bool:
        """Whether a resume comes from another server than where the room is now."""
        location = self._claims.location
        return location is not None and location.server != placement.server

    def _unavailable(self, text: str) -> None:
        self._door.refuse(503, text, retry_after=self._gateway.pool.retry_after())

    async def _changed(self, longest: float) -> None:
        """Wait until something changed, ``longest`` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._poked()

    async def _attempt(self, room: Room, placement: Placement) -> bool:
        """Try ``placement``; whether the client has been answered."""
        upstream, answer = await self._ask(placement)
        if upstream is None:
            return False
        if answer.status != self.GOOD:
            upstream.transport.abort()
            return await self._refused(placement, answer)
        return await self._accepted(room, placement, upstream, answer)

    async def _accepted(
        self, room: Room, placement: Placement, upstream: Upstream, answer: Answer
    ) -> bool:
        """The server answered well; whether the client has been answered too."""
        raise NotImplementedError

    async def _ask(self, placement: Placement) -> tuple[Upstream | None, Answer]:
        """
        Connect and send the request; the answer, or no upstream if it became pointless.

        It is pointless when the server was confirmed down, or the room moved, while it was asked.
        """
        gateway, pool = self._gateway, self._gateway.pool
        server = pool.servers[placement.server]
        upstream: Upstream | None = None
        answer: Answer | None = None
        try:
            async with asyncio.timeout(_CONNECT):
                _, upstream = await gateway.loop.create_connection(
                    lambda: Upstream(self.poke),
                    server.host,
                    server.port,
                    ssl=gateway.tls if server.secure else None,
                )
            token = tokens.resign(self._claims.raw, server.key, server.secret)
            upstream.transport.write(
                self._request.upstream(server, token, self._client, gateway.lineage)
            )
            while (answer := upstream.answer) is None:
                await self._poked()
                if upstream.answer is None and not await self._still_right(placement):
                    return None, Answer(0)
            return upstream, answer
        except TimeoutError:
            if gateway.loop.time() >= self._deadline:
                raise
            self._fault(placement, Cause.TIMEOUT, "no connection in time")
        except OSError as error:
            self._fault(placement, Cause.DOWN, f"connection failed: {type(error).__name__}")
        except asyncio.CancelledError:
            if upstream is not None and gateway.loop.time() >= self._deadline:
                self._fault(placement, Cause.TIMEOUT, "no first message in time")
            raise
        finally:
            if answer is None and upstream is not None:
                self._let_go(upstream)
        await self._changed(_VERDICT)
        return None, Answer(0)

    def _let_go(self, upstream: Upstream) -> None:
        """Give up on ``upstream``, which has not answered yet, or not as it should."""
        upstream.transport.abort()

    async def _poked(self) -> None:
        """Wait until something changed: the server answered, say, or is down."""
        self._retry = self._gateway.loop.create_future()
        self._gateway.waiting.add(self)
        try:
            await self._retry
        finally:
            self._gateway.waiting.discard(self)
            self._retry = None

    async def _still_right(self, placement: Placement) -> bool:
        pool = self._gateway.pool
        return pool.joinable(placement.server) and await pool.rooms.holds(placement)

    def _fault(self, placement: Placement, kind: Cause, detail: str) -> None:
        self._gateway.pool.fault(
            placement.server, kind, FaultSource.JOIN, detail, placement.revision
        )

    async def _refused(self, placement: Placement, answer: Answer) -> bool:
        """The server refused: pass on what is the caller's own affair; whether that was done."""
        request = self._request
        returning = self._claims.location is not None
        status = answer.status
        if status == 0:
            self._fault(placement, Cause.DOWN, "connection lost before an answer")
            await self._changed(_VERDICT)
            return False
        observe.event(
            observe.UPSTREAM_REFUSED, logging.WARNING, server=placement.server, status=status
        )
        if status in (401, 403):
            # We signed that token: it is the server that does not know our key.
            self._fault(placement, Cause.DOWN, f"refused the pool's token with status {status}")
            await self._changed(_VERDICT)
            return await self._give_up_on(placement, f"server answered {status} to the pool")
        if status in _SERVER_TROUBLE:
            self._fault(placement, Cause.DOWN, f"refused a join with status {status}")
            await self._changed(_VERDICT)
            return await self._give_up_on(placement, answer.body.decode("utf-8", "replace"))
        if request.query.resume:
            self._door.answer_leave(request)
            return True
        if status == 404 and request.path == b"/rtc/v1" and _NOT_FOUND_V1 in answer.body:
            self._door.refuse(404, _NOT_FOUND_V1.decode())
        elif returning and status < 500:
            # Old SDKs take any 4xx on their way back for the end of the call.
            self._unavailable(f"the LiveKit server answered {status}, try again")
        else:
            self._door.refuse(status, answer.body.decode("utf-8", "replace"))
        return True

    async def _give_up_on(self, placement: Placement, text: str) -> bool:
        """After a refusal and a wait: try again if something changed, else tell the client."""
        if not await self._still_right(placement):
            return False
        if self._request.query.resume:
            self._door.answer_leave(self._request)
        else:
            self._unavailable(text)
        return True


class Admission(Inquiry):
    """The admission of one client to its room."""

    __slots__ = ("_relay",)

    GOOD = 101

    def __init__(
        self, gateway: Gateway, relay: SignalRelay, request: UpgradeRequest, client: str
    ) -> None:
        patience = gateway.pool.settings.join_timeout
        super().__init__(gateway, relay, request, client, patience=patience)
        self._relay = relay

    async def _accepted(
        self, room: Room, placement: Placement, upstream: Upstream, answer: Answer
    ) -> bool:
        gateway, pool, relay = self._gateway, self._gateway.pool, self._relay
        opened = False
        try:
            if not await pool.rooms.confirm(room, placement, SETTLING):
                return False
            # No await from here on: the placement holds until the first byte is out.
            opened = True
        finally:
            if not opened:
                self._let_go(upstream)
        payload = tokens.payload(self._request.token or "")
        resumed = self._request.query.resume
        relay.open(upstream, room, placement.server, payload, resumed=resumed)
        pool.rooms.add(room, relay, unsettled=True)
        relay.pass_first(answer.head, answer.first)
        gateway.opened(relay)
        pool.join_answered(placement.server)
        return True

    def _let_go(self, upstream: Upstream) -> None:
        if self._request.query.resume:
            upstream.transport.abort()  # the session itself goes on
        else:
            upstream.let_go()


class Validation(Inquiry):
    """What an upgrade with the same query would be answered, without making one."""

    __slots__ = ()

    GOOD = 200

    async def _accepted(
        self, room: Room, placement: Placement, upstream: Upstream, answer: Answer
    ) -> bool:
        upstream.transport.abort()
        self._door.refuse(200, answer.body.decode("utf-8", "replace"))
        return True
