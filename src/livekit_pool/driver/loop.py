"""
The only loop: feeds events to the machine and performs its actions.

The driver owns what decides and what is shared: the machine, the store, the prober. It knows
nothing of clients. Everything it does to the document, it does because the machine said so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Final, Self

from .. import observe
from ..core.actions import (
    Action,
    Announce,
    Answered,
    Note,
    Probe,
    Refused,
    Restore,
    Step,
    Swap,
)
from ..core.document import Cause, Document, Mark, Rotation
from ..core.events import (
    Change,
    Event,
    FaultSeen,
    FaultSource,
    JoinAnswered,
    MarkAsked,
    RotateAsked,
    SwapFailed,
    Tick,
)
from ..core.faults import REFUSALS
from ..core.health import Health, Settings
from ..core.limits import Limits
from ..core.machine import PoolMachine
from ..exceptions import (
    NoAnswer,
    PoolError,
    StoreError,
)
from ..servers import Server, fingerprint
from ..stores.base import (
    HEARTBEAT,
    Ledger,
    Placement,
    ProcessRow,
    Store,
)
from ..upstream import stalls
from ..upstream.names import Names
from ..upstream.probe import Prober, ProbeResult
from .asking import Asking
from .clock import Jumps
from .following import PATIENCE, Following
from .listeners import Listeners
from .neighbours import signed_sight
from .own_faults import OwnFaults
from .probing import Probing
from .reports import Reports
from .tasks import Tasks
from .verifying import Verifying

__all__ = ["Driver"]

STALL: Final = 2.0
"""Seconds after which a silent loop no longer trusts what it remembers."""

TICK: Final = 0.25
"""Seconds between ticks of the machine."""

LONGEST_WAIT: Final = 5.0
"""Seconds for which a join waits for a server, and a little more."""


_MARKED: Final = {
    Change.DRAIN: observe.DRAINED,
    Change.UNDRAIN: observe.UNDRAINED,
    Change.PAUSE: observe.PAUSED,
    Change.RESUME: observe.RESUMED,
}


class Driver:
    """
    Follows the shared document, probes servers, and writes rotations.

    Attributes:
        process: this process's identity in the store, unique for its life.
        servers: the servers by name, in the list's order.
        host: name of this machine. fingerprint: of this process's list of servers.
        sessions, rooms: server name -> participants, rooms of this process; to be set by whoever
            has them.
        reports: what clients report.
        coming: server name -> joins under way that the others must count already; likewise.
        direct: server name -> participants past the pool that this process knows of; likewise.
        stale: True while what is remembered may be old, because the loop stalled.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        store: Store,
        prober: Prober,
        settings: Settings,
        *,
        host: str,
        probe_interval: float = 1.0,
        signed_interval: float = 15.0,
        may_probe: Callable[[], bool] = lambda: True,
    ) -> None:
        """``may_probe`` says whether this process is the one that probes on its machine."""
        self.process: Final = secrets.token_hex(8)
        self.servers: Final[Mapping[str, Server]] = {server.name: server for server in servers}
        self.stale = False
        self.store: Final = store
        self.sessions: Callable[[], Mapping[str, int]] = dict
        self.rooms: Callable[[], Mapping[str, int]] = dict
        self.coming: Callable[[], Mapping[str, int]] = dict
        self.direct: Callable[[], Mapping[str, int]] = dict
        self.machine: Final = PoolMachine(
            tuple(self.servers), settings, self.process, _limits(servers)
        )
        self._tasks = Tasks()
        self._started = time.time()
        self._following = Following(
            store,
            self.machine,
            self,
            self._tasks,
            process=self.process,
            started=self._started,
        )
        self._prober = prober
        self._probing = Probing(
            self.servers,
            prober,
            self,
            self._tasks,
            interval=probe_interval,
            signed_interval=signed_interval,
            may_lead=may_probe,
            # By rows that come seldom, or not at all, nobody hears of a dead server in time.
            deaf=lambda: not self._following.ok or self.store.heartbeat > HEARTBEAT,
            machine=self.machine,
        )
        self.reports: Final = Reports(
            self.servers, Verifying(self._probing, prober), self, self._tasks
        )
        self.host: Final = host
        self.fingerprint: Final = fingerprint(servers)
        self._rise = settings.rise
        self._announced = Listeners[Announce]()
        self._health_changed = Listeners[str]()
        self._join_faults: set[str] = set()  # servers with faults that a good join forgives
        self._inbox: deque[Event] = deque()
        self._draining = False
        self._asking = Asking(self.process, self.feed)
        self._jumps = Jumps()
        self._own_faults = OwnFaults(lambda: Names.shared().failing)
        self._next_tick = math.inf
        self._stood_until = -math.inf  # when this loop stood still last, for longer than others
        self._last_tick = time.monotonic()
        self._known_health: dict[str, Health] = {}
        self._marks: Mapping[str, Mark] = {}

    # -- life --

    async def __aenter__(self) -> Self:
        """
        Read or make the document, then start following it.

        Where the store does not answer, this process starts without a document, and reads it as
        soon as it can.

        Raises:
            StoreCorrupt: what the store holds is not a pool's document.
        """
        self._last_tick = time.monotonic()
        await self._following.enter()
        self._following.start()
        for work in (self._ticks, self._clean):
            self.keep(work)
        self._probing.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.end()
        self._asking.end()
        await self._following.end()

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run ``work`` as long as the driver runs; its failure is logged, never lost."""
        return self._tasks.spawn(work)

    def keep(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run ``work`` as long as the driver runs; when it fails, log it and begin again."""
        self._tasks.keep(work)

    # -- what others ask --

    @property
    def document(self) -> Document:
        """The newest document this process follows. `NoAnswer` before there is one."""
        document = self.machine.document
        if document is None:
            raise NoAnswer("the pool has no document yet")
        return document

    @property
    def step(self) -> Step | None:
        """Where everybody is sent while the store is away and the active server is dead."""
        return self.machine.step

    @property
    def active_server(self) -> str:
        """Where everybody is sent now. `NoAnswer` before there is a document."""
        return self.document.active_server if self.step is None else self.step.server

    @property
    def store_ok(self) -> bool:
        """Whether the store answers, and what it holds has been read since it does."""
        return self._following.ok

    @property
    def store_detail(self) -> str:
        """One sentence about what is wrong with the store; empty while nothing is."""
        return self._following.detail

    @property
    def rows(self) -> Sequence[ProcessRow]:
        """The living processes' rows, as they were read last."""
        return self._following.rows

    def store_answered(self) -> None:
        """The store answered: if it was away, it is read again before it counts as back."""
        self._following.answered()

    def store_failed(self, error: Exception) -> None:
        """The store did not answer: from now on this process goes by what it knows."""
        self._following.failed(error)

    async def exchange(self) -> Sequence[ProcessRow]:
        """
        Tell the other processes what is so now, and read what they say after that.

        Raises:
            StoreError: the store did not answer.
        """
        return await self._following.exchange()

    async def living(self) -> Sequence[ProcessRow]:
        """
        The living processes' rows, read now for somebody to look at.

        Raises:
            StoreError: the store did not answer.
        """
        return await self._following.living()

    def is_fresh(self) -> None:
        """The document has just been read: what is remembered of it is not old."""
        self._last_tick = time.monotonic()
        self.stale = False

    @property
    def last_probe(self) -> Mapping[str, ProbeResult]:
        """The newest probe of each server, as this process made it."""
        return self._probing.last

    @property
    def probing(self) -> bool:
        """Whether this process is the one that probes for its machine."""
        return self._probing.leads

    def now(self) -> float:
        """The store's time, seconds since the epoch; runs on the monotonic clock between reads."""
        return self._following.clock.now()

    def stalled(self) -> bool:
        """Whether this process's loop has just been silent for longer than `STALL`."""
        return self.stale or time.monotonic() - self._last_tick > STALL

    async def fresh(self, revision: int = 0) -> Document:
        """
        The document, read again if this loop stalled or if ``revision`` is newer than ours.

        While the store is away, or fails, the newest document that was read is the answer.

        Raises:
            NoAnswer: there is none.
            StoreError: the store did not answer, and never did.
        """
        if self.machine.document is not None and not self._following.ok:
            return self.document
        held = self.machine.document
        if held is not None and not self.stalled() and held.revision >= revision:
            return held
        try:
            return await self.reload()
        except StoreError:
            if held is None:
                raise
            return self.document  # the store has failed just now: it is away

    async def reload(self) -> Document:
        """
        Read the document again; several callers share one reading.

        It begins after the call: one that is under way may have read what is outdated now.
        """
        return await self._following.reload()

    def listen(self, listener: Callable[[Announce], None]) -> Callable[[], None]:
        """Call ``listener`` with each newer document; returns what undoes it."""
        return self._announced.add(listener)

    def listen_health(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with a server's name each time its health changed for this process."""
        self._health_changed.add(listener)

    def listen_store(self, listener: Callable[[bool], None]) -> None:
        """Call ``listener`` with False when the store goes away, with True when it is back."""
        self._following.changed.add(listener)

    def listen_moves(self, listener: Callable[[Placement | None], None]) -> None:
        """Call ``listener`` with each placement that moved; with None after a gap."""
        self._following.moved.add(listener)

    def joinable(self, server: str) -> bool:
        """Whether a join may be sent to ``server``: it is one of ours and not confirmed down."""
        return server in self.servers and self.machine.joinable(server, self.now())

    @property
    def takes_rooms(self) -> bool:
        """Whether rooms that are nowhere yet may be placed; see `PoolMachine.takes_rooms`."""
        return self.machine.takes_rooms

    def answered_since(self, server: str, moment: float) -> bool:
        """Whether ``server`` passed a probe that began after ``moment`` (monotonic time)."""
        return self._probing.answered_since(server, moment)

    def probe(self, server: str) -> asyncio.Task[None]:
        """Probe ``server`` at once, unless a probe of it is under way."""
        return self._probing.probe(server)

    async def where(
        self, rooms: Sequence[str], *, occupied: bool = False
    ) -> Mapping[str, Sequence[str]]:
        """Which servers have each of ``rooms``; see `Probing.where`."""
        return await self._probing.where(rooms, occupied=occupied)

    async def ledger(self) -> Ledger:
        """
        All that was counted, as the store has it now.

        Raises:
            StoreError: the store does not answer.
        """
        return await self._following.writing.ledger()

    async def is_full(self, server: str, room: str) -> bool | None:
        """Whether ``room`` on ``server`` has as many in it as it may; None if it cannot tell."""
        return await self._probing.is_full(server, room)

    def fault(
        self,
        server: str,
        kind: Cause,
        source: FaultSource,
        detail: str = "",
        revision: int | None = None,
        *,
        retry_after: float | None = None,
        reports: int = 1,
        voice: str = "",
    ) -> bool:
        """
        Evidence against ``server``, seen at ``revision`` (default: now's) by ``reports`` in all.

        ``retry_after`` is the number of seconds after which it wants to be asked again, if it
        said so; ``voice`` whose join it was.

        Returns:
            False where it was silence that may be this process's own, and is held against nobody.
        """
        if kind is Cause.TIMEOUT and self._stood_still():
            self.own_fault("the event loop stood still", server)
            self.probe(server)
            return False
        known = self.machine.document
        seen_at = (known.revision if known else 0) if revision is None else revision
        if source in (FaultSource.JOIN, FaultSource.VERIFIED) or kind in REFUSALS:
            self._join_faults.add(server)
        self.feed(
            FaultSeen(
                server=server,
                revision=seen_at,
                kind=kind,
                source=source,
                detail=detail,
                retry_after=retry_after,
                reports=reports,
                voice=voice,
            )
        )
        return True

    def own_fault(self, what: str, server: str) -> None:
        """
        This process, or its machine, is why ``server`` could not be asked: it is not blamed.

        ``what`` is a few constant words.
        """
        self._own_faults.seen(what, server=server)

    def _stood_still(self) -> bool:
        """Whether what was waited for lately may have been here, and not been heard."""
        now = time.monotonic()
        return self._is_late(now) or now - self._stood_until < LONGEST_WAIT

    def _is_late(self, now: float) -> bool:
        return now > self._next_tick + stalls.STALL

    def join_answered(self, server: str) -> None:
        """``server`` answered a join well."""
        if server in self._join_faults:  # most joins have nothing to forgive
            self._join_faults.discard(server)
            self.feed(JoinAnswered(server=server))

    async def rotate(
        self,
        reason: str,
        *,
        actor: str,
        to: str | None = None,
        expected_revision: int | None = None,
        force: bool = False,
    ) -> Rotation | None:
        """
        Rotate by hand; None if ``to`` is active already.

        Raises:
            RotationRefused, UnknownServer: it is not done, and why.
            StoreUnavailable: the store did not answer; nothing was written.
            StoreOutcomeUnknown: it did not answer in time; the rotation may be written.
        """
        await self.reload()  # another process may have rotated a moment ago
        participants = await self._following.read_rows()
        if to is not None and to in self.servers and not self.machine.available(to, self.now()):
            for _ in range(self._rise):  # what is remembered of the target may be old
                await self.probe(to)
        answer = await self._asking.ask(
            RotateAsked(
                request="",
                reason=reason,
                actor=actor,
                to=to,
                expected_revision=expected_revision,
                force=force,
                participants=participants,
            )
        )
        return answer.rotation

    async def mark(
        self,
        change: Change,
        *,
        actor: str,
        server: str = "",
        reason: str = "",
        expected_revision: int | None = None,
        force: bool = False,
    ) -> Answered:
        """
        Drain, undrain, pause or resume by hand.

        Raises:
            RotationRefused, UnknownServer: it is not done, and why.
            StoreUnavailable: the store did not answer; nothing was written.
            StoreOutcomeUnknown: it did not answer in time; the change may be written.
        """
        await self.reload()  # what somebody set a moment ago is not set again
        answer = await self._asking.ask(
            MarkAsked(
                request="",
                change=change,
                actor=actor,
                server=server,
                reason=reason,
                expected_revision=expected_revision,
                force=force,
                participants=await self._following.read_rows(),
            )
        )
        if answer.changed:
            observe.event(
                _MARKED[change],
                logging.WARNING,
                server=server or None,
                by=actor,
                reason=reason or None,
                revision=answer.revision,
            )
        return answer

    # -- events and actions --

    def feed(self, event: Event) -> None:
        """Give ``event`` to the machine and perform what it answers, in order."""
        self._inbox.append(event)
        if self._draining:
            return
        self._draining = True
        try:
            while self._inbox:
                for action in self.machine.receive(self._inbox.popleft(), self.now()):
                    self._perform(action)
        finally:
            self._draining = False
        self._tell_health()

    def _tell_health(self) -> None:
        for name in self.servers:
            health = self.machine.health(name)
            if health is not self._known_health.get(name):
                self._say_health(name, health)
                self._known_health[name] = health
                self._following.news.set()
                self._health_changed.tell(name)

    def _say_health(self, server: str, health: Health) -> None:
        """Log a change once for the machine: by the process that probes."""
        before = self._known_health.get(server, Health.UNKNOWN)
        if not self.probing or (before is Health.UNKNOWN and health is not Health.DOWN):
            return
        probe = self.last_probe.get(server)
        observe.event(
            observe.HEALTH,
            logging.WARNING if health is Health.DOWN else logging.INFO,
            server=server,
            health=health.value,
            detail=probe.detail if probe else None,
        )

    def _perform(self, action: Action) -> None:
        match action:
            case Swap() | Restore():
                self.spawn(self._write(action))
            case Probe(server=server, signed=signed):
                self._probing.probe(server, signed=signed)
            case Answered() | Refused():
                self._asking.answered(action)
            case Announce(rotation=rotation, document=document):
                if rotation is not None:
                    self._following.writing.remember([rotation])
                if document.marks != self._marks:
                    # Somebody may wait until every process has heard of it.
                    self._following.news.set()
                self._marks = document.marks
                self._announced.tell(action)
            case Note(event=name, fields=fields):
                observe.event(name, logging.WARNING, **dict(fields))

    async def _write(self, action: Swap | Restore) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._following.writing.write(action)
        except Exception as error:  # the outermost frame: the machine waits for an answer
            if not isinstance(error, StoreError | TimeoutError):
                observe.failure(observe.TASK_FAILED, error, task="swap")
            self.store_failed(error)
            self.feed(SwapFailed(operation=action.operation))
            self.store_answered()  # it may: reading it tells what became of the change
            return
        self.feed(answer)

    # -- time --

    async def _ticks(self) -> None:
        while True:
            self._next_tick = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            if self._is_late(time.monotonic()):
                self._stood_until = time.monotonic()
            await self._look_at_clock()
            self._own_faults.look()
            gap = time.monotonic() - self._last_tick
            self._last_tick = time.monotonic()
            if gap > STALL:
                observe.event(observe.STALLED, logging.WARNING, seconds=gap)
                self.stale = True
            if self.stale:
                await self._catch_up()
            else:
                self.feed(Tick())

    async def _look_at_clock(self) -> None:
        """A clock that was set is told, and the store's, which may be the same one, read again."""
        if by := self._jumps.look():
            observe.event(observe.CLOCK_JUMPED, logging.WARNING, seconds=by)
            with contextlib.suppress(PoolError):
                await self.reload()

    async def _catch_up(self) -> None:
        """After a stall: read again; where nothing can be read, what is known has to do."""
        try:
            await self.reload()
        except PoolError:
            if not self._following.ok:
                self.stale = False

    # -- this process's row --

    def row(self) -> ProcessRow:
        """What this process tells the others of itself now."""
        health: dict[str, Mapping[str, object]] = {}
        document = self.machine.document
        for name, result in self.last_probe.items():
            told = {"health": self.machine.health(name).value, **result.public()}
            if (seen := self._probing.signed.get(name)) is not None:
                told["signed"] = signed_sight(seen)
            health[name] = told
        return ProcessRow(
            process=self.process,
            host=self.host,
            started=self._started,
            names=tuple(self.servers),
            fingerprint=self.fingerprint,
            health=health,
            sessions=dict(self.sessions()),
            coming=dict(self.coming()),
            probing=self.probing,
            revision=document.revision if document else 0,
            direct=dict(self.direct()),
        )

    async def _clean(self) -> None:
        """Let placements lapse that nobody renewed for a minute, once their server has no room."""
        while True:
            await asyncio.sleep(15)
            if not self.probing or not self._following.ok:
                continue
            with contextlib.suppress(StoreError):
                for placement in await self.store.lapsing(60.0):
                    server = self.servers.get(placement.server)
                    exists = server and await self._prober.room_exists(server, placement.room)
                    if exists is False or server is None:
                        await self.store.lapse(placement, 60.0)


def _limits(servers: Sequence[Server]) -> dict[str, Limits]:
    return {
        server.name: Limits(
            minutes=server.minutes, max_participants=server.max_participants, reset=server.reset
        )
        for server in servers
    }
