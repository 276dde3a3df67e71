"""
Inquiry: a client's question to the server of its room, and all that may come in between.

It is held while the room's placement is being found out, while a server is being given up, or
while the room moves, but never longer than the most impatient SDK waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from ... import tokens
from ...core.document import Cause
from ...core.events import FaultSource
from ...exceptions import NoAnswer, NoServer, StoreError, TokenError
from ...rooms import Room
from ...stores.base import Placement
from ...upstream.connection import Failure
from .dialer import CONNECT
from .request import UpgradeRequest, came_through
from .upstream import Answer, Upstream

if TYPE_CHECKING:
    from .gateway import Gateway

__all__ = ["LOOK", "WATCH", "Door", "Inquiry"]

WATCH: Final = 0.5
"""Seconds after which a join that has set no time limit for itself does so; few ever do."""

_FIRST_PAUSE: Final = 0.3
"""Seconds before a server is asked again that did not answer well; doubled each time."""

_LONGEST_PAUSE: Final = 1.2

LOOK: Final = 0.25
"""Seconds between two looks at whether what is waited for has happened unheard."""

_FULL: Final = 0.6
"""Seconds to wait for a rotation away from a server that has as many as it may."""


class Door(Protocol):
    """Where the answer goes."""

    def refuse(self, status: int, text: str, retry_after: int | None = None) -> None:
        """Answer with ``status`` and ``text``, and nothing more."""

    def answer_leave(self, request: UpgradeRequest) -> None:
        """Answer a resume with: come back with a new join."""


class Inquiry:
    """
    A client's question to the server of its room, asked until it is answered.

    Subclasses say which status is the good one, and what follows from it and from others.
    """

    __slots__ = (
        "_alarm",
        "_claims",
        "_client",
        "_deadline",
        "_door",
        "_expired",
        "_gateway",
        "_pause",
        "_request",
        "_retry",
        "_revision",
        "_server",
        "_task",
        "_why",
    )

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
        self._task: asyncio.Task[object] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._expired = False  # the client was held as long as it may be
        self._server = ""  # that was asked last
        self._revision = 0  # at which it was
        self._pause = 0.0  # before it was asked again
        self._why = "no LiveKit server answered in time, try again"
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

    def takes_long(self, seconds: float) -> None:
        """
        Look at the time, if it sets no limit itself and has waited for so many seconds.

        Here it has set one.
        """

    async def run(self) -> None:
        """Ask, and answer the client in every case."""
        if self._allowed():
            with self._gateway.pool.rooms.joining(self._claims.room) as room:
                await self._inquire(room)

    def _allowed(self) -> bool:
        """Whether the client may ask; one that may not has been answered."""
        request = self._request
        try:
            claims = self._claims = tokens.verify(request.token, self._gateway.pool.pair)
        except TokenError as error:
            self._door.refuse(401, str(error))
            return False
        if claims.grants.get("roomJoin") is not True:
            self._door.refuse(401, "permissions denied: the token has no roomJoin grant")
        elif not claims.room:
            self._door.refuse(400, "no room name: the token names none")
        elif not claims.identity:
            self._door.refuse(400, "identity cannot be empty")
        elif request.via and came_through(request.via, self._gateway.lineage):
            self._door.refuse(508, "this pool is configured as a server of itself")
        elif wait := self._gateway.asked.take(f"{claims.room}\n{claims.identity}"):
            # Not 429: old SDKs take any 4xx on their way back for the end of the call.
            self._door.refuse(503, "too many joins of one participant", math.ceil(wait))
        else:
            return True
        return False

    async def _inquire(self, room: Room, asked: tuple[Placement, Upstream] | None = None) -> None:
        """Go on until there is an answer; ``asked`` is a server that has been asked already."""
        self._task = asyncio.current_task()
        if self._alarm is None:
            self._set_alarm(self._gateway.loop.time() if asked is None else asked[1].since)
        try:
            if asked is None or not await self._attempt(room, *asked):
                await self._ask_around(room)
        except asyncio.CancelledError:
            # The alarm's, and nobody else's: then it has come to this.
            if not self._expired or self._task is None or self._task.uncancel():
                raise
            self._unavailable(self._why)
        except (StoreError, NoAnswer):
            self._unavailable("the pool's store does not answer, try again")
        finally:
            if self._alarm is not None:
                self._alarm.cancel()

    async def _ask_around(self, room: Room) -> None:
        """Ask the server of ``room``, wherever that goes, until the client is answered."""
        pool, location = self._gateway.pool, self._claims.location
        known = None
        if location is not None and not pool.without_document:
            await pool.fresh(location.revision if self._of_this_lineage() else 0)
        if location is not None and (pool.without_document or self._of_this_lineage()):
            known = Placement(room=room.name, server=location.server, revision=location.revision)
        while True:
            try:
                placement = await pool.rooms.resolve(room.name, known)
            except NoServer:
                await self._changed(LOOK)
                continue
            if self._request.query.resume and self._outdated(placement):
                self._door.answer_leave(self._request)
                return
            if not pool.joinable(placement.server):
                await self._changed(LOOK)
            elif await self._attempt(room, placement):
                return

    def _set_alarm(self, since: float) -> None:
        """Wake when a connection begun then must be there, and when the client must be answered."""
        moment = min(since + CONNECT, self._deadline)
        self._alarm = self._gateway.loop.call_at(moment, self._ring)

    def _ring(self) -> None:
        # What `asyncio.timeout` would do, at half the price and for two times.
        now = self._gateway.loop.time()
        if now < self._deadline:
            self._set_alarm(now)
            self.poke()
        elif self._task is not None:
            self._expired = True
            self._task.cancel()

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

    async def _attempt(
        self, room: Room, placement: Placement, asked: Upstream | None = None
    ) -> bool:
        """
        Try ``placement``, which may be ``asked``, if there is room; whether the client has been
        answered.
        """
        if asked is None and self._is_over(placement):
            return await self._turn_away(placement)
        return await self._try(room, placement, asked)

    async def _try(self, room: Room, placement: Placement, asked: Upstream | None) -> bool:
        upstream, answer = await self._ask(placement, asked)
        if upstream is None:
            return False
        if answer.status != self.GOOD:
            upstream.abort()
            return await self._refused(placement, upstream, answer)
        return await self._accepted(room, placement, upstream, answer)

    def _is_over(self, placement: Placement) -> bool:
        """Whether its server has as many participants as it may; who resumes is one of them."""
        return not self._request.query.resume and self._gateway.pool.is_full(placement.server)

    async def _turn_away(self, placement: Placement) -> bool:
        """Its server is full: wait for a rotation, which may follow; else tell the client."""
        metering = self._gateway.pool.metering
        metering.count_again()
        await self._changed(_FULL)
        await metering.seats.hear()  # somebody may have left whom another process had let in
        if not await self._still_right(placement) or not self._is_over(placement):
            return False
        self._unavailable("the LiveKit server has as many participants as it may, try again")
        return True

    async def _accepted(
        self, room: Room, placement: Placement, upstream: Upstream, answer: Answer
    ) -> bool:
        """The server answered well; whether the client has been answered too."""
        raise NotImplementedError

    async def _refused(self, placement: Placement, upstream: Upstream, answer: Answer) -> bool:
        """The server did not let the client in; whether the client has been answered."""
        raise NotImplementedError

    async def _ask(
        self, placement: Placement, asked: Upstream | None
    ) -> tuple[Upstream | None, Answer]:
        """
        Connect and send the request, unless it was ``asked`` already, and wait for the answer.

        Returns no upstream where that became pointless: the server was confirmed down, or the
        room moved, while it was asked.
        """
        loop, dialer = self._gateway.loop, self._gateway.dialers[placement.server]
        upstream = Upstream(self.poke) if asked is None else asked
        answer: Answer | None = None
        try:
            if asked is None:
                await dialer.dial(upstream, self._forwarded(placement))
                if upstream.answer is None:
                    await self._poked()
            while (answer := upstream.answer) is None:
                if not await self._still_right(placement):
                    return None, Answer(0)
                if loop.time() >= upstream.since + CONNECT and not upstream.connected:
                    raise TimeoutError
                if upstream.answer is None:
                    await self._poked()
            return upstream, answer
        except TimeoutError:
            self._fault(placement, Cause.TIMEOUT, "no connection in time")
        except OSError as error:
            self._lost(placement, error)
        except asyncio.CancelledError:
            if self._expired and upstream.connected:
                self._fault(placement, Cause.TIMEOUT, "no first message in time")
            raise
        finally:
            if answer is None and upstream.asked:
                self._let_go(upstream)
        dialer.forget()
        await self._hold(placement)
        return None, Answer(0)

    def _forwarded(self, placement: Placement) -> bytes:
        """The request for the server of ``placement``, with a token of its own, to be sent now."""
        gateway = self._gateway
        # A room may stay where it is while the active server changes, and changes back.
        self._revision = max(placement.revision, gateway.pool.revision)
        if placement.server != self._server:
            self._server, self._pause = placement.server, 0.0
        server = gateway.pool.servers[placement.server]
        token = tokens.resign(self._claims.raw, server.key, server.secret)
        host = gateway.dialers[placement.server].host_header
        return self._request.upstream(host, token, self._client, gateway.lineage)

    def _let_go(self, upstream: Upstream) -> None:
        """Give up on ``upstream``, which has not answered yet, or not as it should."""
        upstream.abort()

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

    def _lost(self, placement: Placement, error: Exception | None) -> None:
        """There is no connection to the server any more, or none could be made."""
        failure = Failure.of(error) if isinstance(error, OSError) else None
        if failure is not None and failure.own:
            self._gateway.pool.own_fault(failure.detail, placement.server)
            return
        what = f"failed: {type(error).__name__}" if error else "lost before an answer"
        self._fault(placement, Cause.DOWN, f"connection {what}")

    def _fault(
        self,
        placement: Placement,
        kind: Cause,
        detail: str,
        retry_after: float | None = None,
    ) -> bool:
        """Evidence against the server of ``placement``; False where it may be our own fault."""
        return self._gateway.pool.fault(
            placement.server,
            kind,
            FaultSource.JOIN,
            detail,
            self._revision,
            retry_after=retry_after,
            voice=self._voice,
        )

    @property
    def _voice(self) -> str:
        """Who asks, by its token."""
        return f"{self._claims.room}\n{self._claims.identity}"

    async def _hold(self, placement: Placement) -> None:
        """
        Hold the client until its room is on another server, or the same one may be asked again.

        What it then answers counts as evidence once more.
        """
        loop = self._gateway.loop
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) if self._pause else _FIRST_PAUSE
        until = loop.time() + self._pause
        while (left := until - loop.time()) > 0 and await self._still_right(placement):
            await self._changed(min(left, LOOK))
