"""
HeldInquiry: what becomes of a client whom a server does not let in.

The client hears of a refusal only where that is its own affair. Otherwise it is held, and goes to
the next server within the same request.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ... import observe
from ...core.document import Cause
from ...core.faults import FORGIVABLE, Blame, Classified
from ...driver.reports import Report, Standing
from ...exceptions import PoolError
from ...stores.base import Placement
from .inquiry import LOOK, Door, Inquiry
from .refusal import Refusal
from .request import UpgradeRequest
from .upstream import Answer, Upstream

if TYPE_CHECKING:
    from .gateway import Gateway

__all__ = ["HeldInquiry"]

_TRIES: Final = 3
"""How often a server is asked again while it is found out whether it is at fault."""

_NOT_FOUND_V1: Final = "404 page not found"
"""What a server before 1.9.10 says to /rtc/v1; SDKs turn to /rtc on it."""


class HeldInquiry(Inquiry):
    """An inquiry that knows what to do about refusals."""

    __slots__ = ("_failed_at", "_looked_at", "_tries")

    def __init__(
        self,
        gateway: Gateway,
        door: Door,
        request: UpgradeRequest,
        client: str,
        *,
        patience: float,
    ) -> None:
        super().__init__(gateway, door, request, client, patience=patience)
        self._failed_at = ""  # the server that failed last
        self._looked_at = ""  # the server that was last found to be perhaps at fault
        self._tries = 0  # how often yet to ask it

    async def _refused(self, placement: Placement, upstream: Upstream, answer: Answer) -> bool:
        """The server did not let the client in; whether the client has been answered."""
        if answer.unread:
            # The room's affair, in which somebody may have seen to it: no fault of its server's.
            self._unavailable("the room is too large to be joined through the pool")
            return True
        if answer.status == 0:
            self._gateway.dialers[placement.server].forget()
            self._lost(placement, upstream.error)
            await self._hold(placement)
            return False
        return await self._weighed(placement, Refusal.of(answer))

    async def _weighed(self, placement: Placement, refusal: Refusal) -> bool:
        """What follows from ``refusal``; whether the client has been answered."""
        observe.event(
            observe.UPSTREAM_REFUSED,
            logging.WARNING,
            server=placement.server,
            status=refusal.status,
            what=refusal.row,
        )
        if refusal.doubtful and not await self._is_full(placement, refusal):
            return await self._doubted(placement, refusal)
        if refusal.cause is None or refusal.doubtful:
            self._pass_on(refusal)
            return True
        self._why = f"the LiveKit servers refuse joins ({refusal.row}), try again"
        self._fault(placement, refusal.cause, refusal.detail, refusal.retry_after)
        if refusal.lasts:
            return await self._wait_for_another(placement, refusal)
        await self._hold(placement)
        if self._request.query.resume and await self._still_right(placement):
            self._door.answer_leave(self._request)
            return True
        return False

    async def _is_full(self, placement: Placement, refusal: Refusal) -> bool:
        """Whether the room may take nobody more, as its server says."""
        if refusal.blame is not Blame.ROOM or self._request.query.resume:
            return False  # who was in it has a place
        return await self._gateway.full_rooms.is_full(placement.server, placement.room)

    async def _doubted(self, placement: Placement, refusal: Refusal) -> bool:
        """
        The server may be at fault, or this one client; whether the client has been answered.

        So it counts for no more than a client's report of it: on the first one the pool looks for
        itself. Meanwhile the server is asked again, and once more in any case.
        """
        if self._looked_at != placement.server:
            self._looked_at = placement.server
            self._tries = _TRIES if await self._is_looked_into(placement, *_what(refusal)) else 1
        elif self._gateway.pool.driver.reports.verdict(placement.server) is not Standing.VERIFYING:
            self._tries = 0
        if not self._tries:
            self._pass_on(refusal)
            return True
        self._tries -= 1
        await self._hold(placement)
        return False

    def _fault(
        self,
        placement: Placement,
        kind: Cause,
        detail: str,
        retry_after: float | None = None,
    ) -> bool:
        taken = super()._fault(placement, kind, detail, retry_after)
        again, self._failed_at = self._failed_at == placement.server, placement.server
        if taken and kind in FORGIVABLE and (again or kind is Cause.TIMEOUT):
            # All that one client meets is one voice. So the pool looks whether others would too.
            self._gateway.pool.driver.spawn(self._look_into(placement, kind))
        return taken

    async def _look_into(self, placement: Placement, kind: Cause) -> None:
        await self._is_looked_into(placement, kind, "a join failed")

    async def _is_looked_into(self, placement: Placement, kind: Cause, row: str) -> bool:
        """Whether it is being found out whose fault it is that this client is not let in."""
        client = f"join\n{self._voice}"
        report = Report(
            server=placement.server,
            revision=self._revision,
            error=Classified(blame=Blame.SERVER, cause=kind, row=row),
            reporter=client,
            # It is known by its token. What others meet is not doubted for where it comes from.
            address=client,
        )
        try:
            told = await self._gateway.pool.driver.reports.take(report)
        except PoolError:
            return False
        return told.status in (Standing.VERIFYING, Standing.ALREADY_HANDLED)

    async def _wait_for_another(self, placement: Placement, refusal: Refusal) -> bool:
        """Hold the client until its room is on another server; whether it had to be answered."""
        pool, server, since = self._gateway.pool, placement.server, self._gateway.pool.now()
        looked_into: bool | None = None
        while await self._still_right(placement):
            doubted = refusal.cause is Cause.CREDENTIALS and pool.takes_our_key(server, since)
            if doubted and looked_into is None:
                # For calls it does. So it is something in this client's token, or it is the joins
                # of everybody, as in a region that is not allowed: one of our own tells.
                looked_into = await self._is_looked_into(placement, *_what(refusal))
            verifying = pool.driver.reports.verdict(server) is Standing.VERIFYING
            cleared = looked_into is False or (looked_into is True and not verifying)
            if cleared or not pool.can_leave(server):
                self._unavailable(self._why)
                return True
            await self._changed(LOOK)
        return False

    def _pass_on(self, refusal: Refusal) -> None:
        """Answer the caller as the server did."""
        request, status = self._request, refusal.status
        if request.query.resume:
            self._door.answer_leave(request)
        elif status == 404 and request.path == b"/rtc/v1" and _NOT_FOUND_V1 in refusal.text:
            self._door.refuse(404, _NOT_FOUND_V1)
        elif self._claims.location is not None and status < 500:
            # Old SDKs take any 4xx on their way back for the end of the call.
            self._unavailable(f"the LiveKit server answered {status}, try again")
        else:
            self._door.refuse(status, refusal.text)


def _what(refusal: Refusal) -> tuple[Cause, str]:
    return refusal.cause or Cause.DOWN, refusal.row
