"""
The desk: takes signed events in, tells the ledger of them, and passes them on.

An event is accepted when its signature has been checked and it is in the spool, or, where there is
no spool, in the queues: then its server gets its 200, and no receiver can keep it waiting. All else
happens afterwards, at the desk of the holder.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from ... import observe
from ...tokens import LEEWAY, Claims, KeyPair
from ...upstream.join_probe import ROOM
from ..rarely import Rarely
from .event import KNOWN_KINDS, Event, parsed
from .signer import Signer
from .spool import Spool
from .stream import Bounds, Stream

if TYPE_CHECKING:
    from ...config import Settings
    from ...pool import Pool

__all__ = ["Desk", "Outcome", "Signed"]

_REMEMBERED: Final = 50_000  # ids of events
_AT_ONCE: Final = 20  # events before others get their turn: some ms
_LOOK_AGAIN: Final = 0.5  # seconds between two tries to become the holder


class Outcome(StrEnum):
    """What became of a request with an event."""

    COUNTED = "counted"
    """Accepted, and known to the ledger if it concerns it."""
    REPLAYED = "replayed"
    """The same event again: answered 200, and nothing more."""
    UNKNOWN_KIND = "unknown_kind"
    """Accepted and passed on; this version does not know what it means."""
    UNDECIDED = "undecided"
    """Accepted and passed on; it cannot be told which of several servers with one key sent it."""
    UNSIGNED = "unsigned"
    MALFORMED = "malformed"
    WRONG_KEY = "wrong_key"
    WRONG_BODY = "wrong_body"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    NOT_AN_EVENT = "not_an_event"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """
    An event whose signature is good.

    Attributes:
        names: the servers that may have sent it.
        expires: when its token ends, seconds since the epoch.
        body: as it came.
    """

    names: tuple[str, ...]
    expires: float
    body: bytes = field(repr=False)

    @classmethod
    def of(cls, names: tuple[str, ...], claims: Claims, body: bytes) -> Signed:
        """The event in ``body``, which was checked against ``claims``."""
        return cls(names=names, expires=claims.expires, body=body)

    def record(self) -> bytes:
        """It as bytes, for the spool."""
        return json.dumps([self.names, self.expires]).encode() + b"\n" + self.body

    @classmethod
    def read(cls, record: bytes) -> Signed:
        """Undo `record`."""
        head, _, body = record.partition(b"\n")
        names, expires = json.loads(head)
        return cls(names=tuple(names), expires=expires, body=body)


class Desk:
    """
    The events that one process is sent, and those of its neighbours if it is the holder.

    Attributes:
        outcomes: how many requests had each `Outcome`. What the spool brings is counted by the
            holder, so that sums over all processes are true.
        stream: what passes them on.
        signer: whose key they are signed with.
        rarely: for what is logged of them.
    """

    def __init__(
        self,
        pool: Pool,
        settings: Settings,
        spool: Spool | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """Prepare; nothing is opened. ``spool`` is shared by the processes of this machine."""
        self.outcomes: Counter[Outcome] = Counter()
        self.rarely = Rarely()
        self.signer = Signer(settings.servers, pool.placement)
        pair = KeyPair(key=settings.key, secret=settings.secret)
        self.stream = Stream(settings.webhook_urls, pair, self.rarely, bounds)
        self._pool = pool
        self._spool = spool
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._arrived = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None
        self._closing = False

    # -- life --

    def open(self) -> None:
        """Be the holder as soon as there is no other one."""
        if self._spool is not None:
            self._holding = asyncio.create_task(self._hold(self._spool), name="webhook spool")

    async def aclose(self) -> None:
        """Pass on what can be within some seconds, and stop; idempotent."""
        if self._holding is not None and self._spool is not None:
            self._closing = True
            self._arrived.set()
            await self._holding
            self._holding = None
        await self.stream.aclose()
        self.rarely.close()

    # -- work --

    async def accept(self, signed: Signed) -> None:
        """
        Take ``signed`` over: when this returns, its server may be told so.

        Raises:
            NotAnEvent: it is none.
        """
        event = parsed(signed.body)
        if self._spool is None or not self._spool.put(signed.record()):
            await self._process(signed, event)

    def count(self, outcome: Outcome) -> None:
        """Count a request, and log it if it is not what it should be; nothing that it holds."""
        self.outcomes[outcome] += 1
        if outcome not in _ACCEPTED:
            self.rarely.event(observe.WEBHOOK_REFUSED, why=str(outcome))
        elif outcome in _ODD:
            self.rarely.event(_ODD[outcome], logging.INFO)

    async def _process(
        self, signed: Signed, event: Event, done: Callable[[], None] = lambda: None
    ) -> None:
        """Do what an event asks for; ``done`` is called when that is over."""
        if self._seen_before(signed, event):
            self.count(Outcome.REPLAYED)
            done()
            return
        server = await self.signer.server_of(event, signed.names)
        if server is None:
            self.rarely.event(observe.WEBHOOK_UNDECIDED, servers=",".join(signed.names))
            self.count(Outcome.UNDECIDED)
        elif event.kind not in KNOWN_KINDS:
            self.count(Outcome.UNKNOWN_KIND)
        else:
            self._pool.witness(
                server,
                event.kind,
                sid=event.participant_sid,
                joined_ms=event.joined_ms,
                created=event.created_at,
                kind=event.participant_kind,
            )
            self.count(Outcome.COUNTED)
        if event.room.startswith(f"{ROOM}-"):  # this pool's own, when it verifies a report
            done()
            return
        body = event.passed_on(server=server, revision=self._pool.revision)
        self.stream.put(event.sequence, body, done)

    def _seen_before(self, signed: Signed, event: Event) -> bool:
        """Whether the event came before, within the life of its token."""
        seen, now = self._seen, time.time()
        identity = event.id or hashlib.sha256(signed.body).hexdigest()
        key = (signed.names[0], identity)
        while seen and (len(seen) > _REMEMBERED or next(iter(seen.values())) < now):
            seen.popitem(last=False)
        if key in seen:
            return True
        seen[key] = signed.expires + LEEWAY
        return False

    # -- the spool --

    async def _hold(self, spool: Spool) -> None:
        while not self._closing:
            try:
                await self._held(spool)
            except Exception as error:  # the outermost frame of this task
                observe.failure(observe.TASK_FAILED, error, task="webhook spool")
                await asyncio.sleep(_LOOK_AGAIN)

    async def _held(self, spool: Spool) -> None:
        """Become the holder as soon as that is possible, and be it until the end."""
        while not spool.try_hold():
            if self._closing:
                return  # there is a holder, who takes out what this process has put in
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), _LOOK_AGAIN)
        loop = asyncio.get_running_loop()
        loop.add_reader(spool.wake_fd, self._arrived.set)
        try:
            while not self._closing:
                self._arrived.clear()
                await self._empty(spool)
                await self._arrived.wait()
            # The last look comes after the waiting: who stops later finds the rest by itself.
            await self._empty(spool)
            await self.stream.flush()
            await self._empty(spool)
            await self.stream.flush()
        finally:
            loop.remove_reader(spool.wake_fd)
            spool.let_go()

    async def _empty(self, spool: Spool) -> None:
        while (records := spool.take()) is None:  # noqa: ASYNC110  # nobody tells when it is free
            await asyncio.sleep(0.05)
        for number, (position, record) in enumerate(records, start=1):
            if number % _AT_ONCE == 0:  # a dead holder may have left thousands
                await asyncio.sleep(0)
            done = partial(spool.finish, position)
            try:
                signed = Signed.read(record)
                await self._process(signed, parsed(signed.body), done)
            except Exception as error:  # the outermost frame of this event
                observe.failure(observe.TASK_FAILED, error, task="webhook")
                done()


_ODD: Final = {
    Outcome.REPLAYED: observe.WEBHOOK_REPLAYED,
    Outcome.UNKNOWN_KIND: observe.WEBHOOK_UNKNOWN,
}

_ACCEPTED: Final = frozenset(
    {Outcome.COUNTED, Outcome.REPLAYED, Outcome.UNKNOWN_KIND, Outcome.UNDECIDED}
)
