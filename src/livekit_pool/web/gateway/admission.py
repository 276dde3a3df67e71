"""
Admission: from an upgrade request to an open relay, or to a clean refusal.

A join goes where the room's placement says, and nothing of a server's answer reaches the client
before the placement has been confirmed after it, so that no client is ever let in where its room
no longer is.

Nearly always nothing has to be waited for but the server's answer. Then a join is two calls: one
when the client's request is there, one when the answer is. Whatever else may happen in between is
left to the task of an `Inquiry`, which is begun when it happens, with what has been done so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ... import observe
from ...core.document import Cause
from ...rooms import Room
from ...stores.base import Placement
from .held import HeldInquiry
from .inquiry import WATCH
from .relay import SignalRelay
from .request import UpgradeRequest
from .upstream import Answer, Upstream

if TYPE_CHECKING:
    from .gateway import Gateway

__all__ = ["Admission"]

SETTLING: Final = 10.0
"""Longest time in seconds for which a new session counts as unsettled."""


class Admission(HeldInquiry):
    """The admission of one client to its room."""

    __slots__ = ("_asked", "_entered", "_relay")

    GOOD = 101

    def __init__(
        self, gateway: Gateway, relay: SignalRelay, request: UpgradeRequest, client: str
    ) -> None:
        patience = gateway.pool.settings.join_timeout
        super().__init__(gateway, relay, request, client, patience=patience)
        self._relay = relay
        self._entered: Room | None = None  # while the join is under way
        self._asked: tuple[Placement, Upstream] | None = None  # while no task waits for it

    def begin(self) -> None:
        """Ask the server at once, or refuse at once, or begin to wait for whatever is missing."""
        try:
            if not self._allowed():
                return
            room = self._entered = self._gateway.pool.rooms.begin_join(self._claims.room)
            if not self._ask_now(room):
                self._go_on()
        except Exception as error:
            self._failed(error)

    def cancel(self) -> None:
        """The client is gone."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._end()

    def poke(self) -> None:
        """Look again; most of the time because the server has answered."""
        if self._task is not None:
            super().poke()
        elif self._asked is not None:
            asked, self._asked = self._asked, None  # whatever pokes meanwhile finds it under way
            try:
                if not self._let_in_now(*asked):
                    self._asked = asked
                    self._go_on()
            except Exception as error:
                if self._relay.upstream is None:
                    self._asked = asked  # to be let go
                self._failed(error)

    def takes_long(self, seconds: float) -> None:
        """Go on in a task, which has a time limit, after so many seconds."""
        if self._task is not None or self._asked is None:
            return
        if self._gateway.loop.time() >= self._asked[1].since + seconds:
            self._go_on()

    def _ask_now(self, room: Room) -> bool:
        """Ask the server of ``room``, if it is known which that is and how to reach it."""
        gateway, location = self._gateway, self._claims.location
        if self._request.query.resume:
            return False  # it may have to be sent away
        if location is not None and location.revision > gateway.pool.revision:
            return False
        placement = gateway.pool.rooms.resolved_now(room.name)
        if placement is None or not self._may_ask(placement):
            return False
        dialer = gateway.dialers[placement.server]
        if not dialer.ready:
            return False
        upstream = Upstream(self.poke)
        try:
            dialer.dial_now(upstream, self._forwarded(placement))
        except OSError:
            return False  # it will be tried once more, and then have consequences
        self._asked = placement, upstream
        gateway.watch(self)
        if self._deadline < upstream.since + 2 * WATCH:  # otherwise it is soon enough then
            self._set_alarm(upstream.since)
        return True

    def _may_ask(self, placement: Placement) -> bool:
        pool, server = self._gateway.pool, placement.server
        return pool.joinable(server) and not pool.metering.seats.limited(server)

    async def _attempt(
        self, room: Room, placement: Placement, asked: Upstream | None = None
    ) -> bool:
        seats, server = self._gateway.pool.metering.seats, placement.server
        if self._request.query.resume or asked is not None or not seats.limited(server):
            return await super()._attempt(room, placement, asked)
        if self._is_over(placement) or not await seats.take(server):
            return await self._turn_away(placement)
        try:
            return await self._try(room, placement, None)
        finally:
            seats.leave(server)

    def _let_in_now(self, placement: Placement, upstream: Upstream) -> bool:
        """Let the client in, if there is a good answer and the placement holds."""
        answer, room = upstream.answer, self._entered
        if answer is None or answer.status != self.GOOD or room is None:
            return False
        if not self._gateway.pool.rooms.confirm_now(room, placement, SETTLING):
            return False
        self._let_in(room, placement, upstream, answer)
        self._end()
        return True

    def _go_on(self) -> None:
        """Go on in a task: there is something to wait for."""
        self._gateway.waiting.discard(self)
        self._task = self._gateway.pool.driver.spawn(self._rest())
        self._task.add_done_callback(lambda _: self._end())

    async def _rest(self) -> None:
        assert self._entered is not None
        asked, self._asked = self._asked, None
        try:
            await self._inquire(self._entered, asked)
        except Exception as error:  # the outermost frame: the client is answered in every case
            self._failed(error)

    def _ring(self) -> None:
        if self._task is None and self._gateway.loop.time() >= self._deadline:
            if self._asked is not None and self._asked[1].connected:
                self._fault(self._asked[0], Cause.TIMEOUT, "no first message in time")
            self._unavailable(self._why)
            self._end()
        else:
            super()._ring()

    def _failed(self, error: Exception) -> None:
        observe.failure(observe.TASK_FAILED, error, task="admission")
        self._relay.fail()
        self._end()

    def _end(self) -> None:
        """The client was answered, or is gone; idempotent."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._gateway.waiting.discard(self)
        asked, self._asked = self._asked, None
        if asked is not None:
            self._let_go(asked[1])
        room, self._entered = self._entered, None
        if room is not None:
            self._gateway.pool.rooms.end_join(room)

    async def _accepted(
        self, room: Room, placement: Placement, upstream: Upstream, answer: Answer
    ) -> bool:
        opened = False
        try:
            if not await self._gateway.pool.rooms.confirm(room, placement, SETTLING):
                return False
            # No await from here on: the placement holds until the first byte is out.
            opened = True
        finally:
            if not opened:
                self._let_go(upstream)
        self._let_in(room, placement, upstream, answer)
        return True

    def _let_in(self, room: Room, placement: Placement, upstream: Upstream, answer: Answer) -> None:
        gateway, relay = self._gateway, self._relay
        resumed = self._request.query.resume
        relay.open(upstream, room, placement.server, self._claims.data, resumed=resumed)
        gateway.pool.rooms.add(room, relay, unsettled=True)
        relay.pass_first(answer.head, answer.first)
        gateway.opened(relay)
        gateway.pool.join_answered(placement.server)

    def _let_go(self, upstream: Upstream) -> None:
        if self._request.query.resume:
            upstream.abort()  # the session itself goes on
        else:
            upstream.let_go()
