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
from typing import Final, Self, TypeVar

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
from ..core.agreement import Finding, compare
from ..core.document import Cause, Document, Rotation, new_document
from ..core.events import (
    Event,
    FaultSeen,
    FaultSource,
    JoinAnswered,
    Loaded,
    RotateAsked,
    StoreSeen,
    SwapAnswered,
    SwapFailed,
    Tick,
)
from ..core.health import Health, Settings
from ..core.machine import PoolMachine
from ..exceptions import (
    NoAnswer,
    NoServer,
    PoolError,
    RevisionConflict,
    RotationRefused,
    ServerNotEligible,
    StoreCorrupt,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
    UnknownServer,
)
from ..servers import Server, fingerprint
from ..stores.base import (
    HEARTBEAT,
    Changed,
    Ledger,
    Moved,
    Placement,
    ProcessRow,
    Store,
    SwapOutcome,
    Swapped,
)
from ..stores.base import Loaded as StoreLoaded
from ..upstream.probe import Prober, ProbeResult
from ..upstream.room_list import ListedRoom
from .neighbours import seen_in
from .probing import Probing
from .tasks import Tasks

__all__ = ["Driver"]

_News = TypeVar("_News")

STALL: Final = 2.0
"""Seconds after which a silent loop no longer trusts what it remembers."""

TICK: Final = 0.25
"""Seconds between ticks of the machine."""

NEWBORN_WAIT: Final = 3.0
"""Seconds to wait, after finding no document where one may be lost, before making one."""

PATIENCE: Final = 8.0
"""Seconds after which a call of the store is given up, whatever the store says of itself."""

FARTHEST: Final = 86_400.0
"""Seconds by which a last rotation may lie ahead of the store's clock, and be believed."""

COPY: Final = 60.0
"""Seconds between two readings of the ledger, which this process keeps in case it is lost."""

REMEMBERED: Final = 50
"""Rotations of the history that this process keeps in case they are lost."""

_REFUSALS: Final = {error.code: error for error in (RevisionConflict, NoServer, ServerNotEligible)}
_OTHER_ERRORS: Final = {
    error.code: error for error in (UnknownServer, StoreUnavailable, StoreOutcomeUnknown)
}


class Driver:
    """
    Follows the shared document, probes servers, and writes rotations.

    Attributes:
        process: this process's identity in the store, unique for its life.
        servers: the servers by name, in the list's order.
        rows: the living processes' rows, as they were read last.
        host: name of this machine. fingerprint: of this process's list of servers.
        sessions, rooms: server name -> participants, rooms of this process; to be set by whoever
            has them.
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
        self.rows: Sequence[ProcessRow] = ()
        self.sessions: Callable[[], Mapping[str, int]] = dict
        self.rooms: Callable[[], Mapping[str, int]] = dict
        self.machine: Final = PoolMachine(tuple(self.servers), settings, self.process)
        self._tasks = Tasks()
        self._prober = prober
        self._probing = Probing(
            self.servers,
            prober,
            self,
            self._tasks,
            interval=probe_interval,
            signed_interval=signed_interval,
            health=self.machine.health,
            may_lead=may_probe,
            # By rows that come seldom, or not at all, nobody hears of a dead server in time.
            deaf=lambda: not self._store_ok or self.store.heartbeat > HEARTBEAT,
        )
        self.host: Final = host
        self.fingerprint: Final = fingerprint(servers)
        self._rise = settings.rise
        self._listeners: list[Callable[[Announce], None]] = []
        self._health_listeners: list[Callable[[str], None]] = []
        self._store_listeners: list[Callable[[bool], None]] = []
        self._moved: Callable[[Placement | None], None] = lambda placement: None
        self._join_faults: set[str] = set()  # servers with faults that a good join forgives
        self._inbox: deque[Event] = deque()
        self._draining = False
        self._requests: dict[str, asyncio.Future[Rotation | None]] = {}
        self._counter = 0
        self._started = time.time()
        self._base = -math.inf  # until the store has told its time
        self._last_tick = time.monotonic()
        self._store_ok = True
        self._store_detail = ""
        self._return: asyncio.Task[None] | None = None
        self._known_health: dict[str, Health] = {}
        self._news = asyncio.Event()  # something that other processes want to hear at once
        self._loading: asyncio.Task[Document] | None = None
        # What is brought back with a document that the store lost.
        self._remembered: deque[Rotation] = deque(maxlen=REMEMBERED)
        self._ledger: Ledger = {}

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
        try:
            async with asyncio.timeout(PATIENCE):
                await self._begin()
        except (StoreUnavailable, StoreOutcomeUnknown, TimeoutError) as error:
            self._base = time.time() - time.monotonic()
            self._store_failed(error)
        for work in (self._ticks, self._watch, self._beats, self._clean, self._keep_copies):
            self.keep(work)
        self._probing.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.end()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        for request in self._requests.values():
            if not request.done():
                request.set_exception(NoAnswer("the pool is stopping"))
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(2):
                await self.store.leave(self.process)

    async def _begin(self) -> None:
        """Find the document, or make the first one."""
        loaded = await self.store.load()
        self._sync(loaded)
        await self.store.beat(self.row())
        document = loaded.document
        if document is None and (self.store.remote or await self._others_are_older()):
            # Who holds a document that the store lost comes first.
            await asyncio.sleep(NEWBORN_WAIT)
            document = (await self.store.load()).document
        if document is None:
            document = await self._make_document()
        self._remembered.extend(reversed(await self.store.history(REMEMBERED)))
        await self._read_rows()
        self.feed(Loaded(document=document))

    async def _others_are_older(self) -> bool:
        return any(row.started < self._started - NEWBORN_WAIT for row in await self.store.rows())

    async def _make_document(self) -> Document:
        history = await self.store.history(1)  # of a document that is gone for good
        first = new_document(
            lineage=secrets.token_hex(8),
            names=tuple(self.servers),
            actor=self.process,
            now=self.now(),
            revision=history[0].revision + 1 if history else 1,
        )
        swapped = await self.store.create(first, f"{self.process}-create")
        return swapped.document or first

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
        return self._store_ok

    @property
    def store_detail(self) -> str:
        """One sentence about what is wrong with the store; empty while nothing is."""
        return "" if self._store_ok else self._store_detail

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
        return time.monotonic() + self._base

    def stalled(self) -> bool:
        """Whether this process's loop has just been silent for longer than `STALL`."""
        return self.stale or time.monotonic() - self._last_tick > STALL

    async def fresh(self, revision: int = 0) -> Document:
        """
        The document, read again if this loop stalled or if ``revision`` is newer than ours.

        While the store is known to be away, the newest document that was read is the answer.

        Raises:
            NoAnswer: there is none.
            StoreError: it had to be read, and the store did not answer.
        """
        if self.machine.document is not None and not self._store_ok:
            return self.document
        if self.stalled() or self.machine.document is None or self.document.revision < revision:
            return await self.reload()
        return self.document

    async def reload(self) -> Document:
        """Read the document again; several callers share one reading."""
        if self._loading is None:
            self._loading = asyncio.ensure_future(self._load())
            self._loading.add_done_callback(self._loaded)
        return await asyncio.shield(self._loading)

    def _loaded(self, task: asyncio.Task[Document]) -> None:
        self._loading = None
        if not task.cancelled():
            task.exception()  # whoever waits gets it; nobody may

    def listen(self, listener: Callable[[Announce], None]) -> Callable[[], None]:
        """Call ``listener`` with each newer document; returns what undoes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def listen_health(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with a server's name each time its health changed for this process."""
        self._health_listeners.append(listener)

    def listen_store(self, listener: Callable[[bool], None]) -> None:
        """Call ``listener`` with False when the store goes away, with True when it is back."""
        self._store_listeners.append(listener)

    def listen_moves(self, listener: Callable[[Placement | None], None]) -> None:
        """Call ``listener`` with each placement that moved; with None after a gap."""
        self._moved = listener

    def joinable(self, server: str) -> bool:
        """Whether a join may be sent to ``server``: it is one of ours and not confirmed down."""
        return server in self.servers and self.machine.joinable(server, self.now())

    def answered_since(self, server: str, moment: float) -> bool:
        """Whether ``server`` passed a probe that began after ``moment`` (monotonic time)."""
        return self._probing.answered_since(server, moment)

    def probe(self, server: str) -> asyncio.Task[None]:
        """Probe ``server`` at once, unless a probe of it is under way."""
        return self._probing.probe(server)

    async def where(self, rooms: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """
        Ask the servers, but those seen down, for ``rooms``.

        Returns:
            for each room that any of them has the names of those servers: first those where
            somebody is in it, of several the one that made it last. Where a room moved to, it
            was made anew, so that everybody who asks gets the same answer.
        """
        asked = [
            server
            for name, server in self.servers.items()
            if self.machine.health(name) is not Health.DOWN
        ]
        lists = await asyncio.gather(*(self._listed(server, rooms) for server in asked))
        found: dict[str, list[tuple[bool, float, str]]] = {}
        for server, listed in zip(asked, lists, strict=True):
            for name, room in listed.items():
                rank = (room.participants > 0, room.created, server.name)
                found.setdefault(name, []).append(rank)
        return {
            name: [server for _, _, server in sorted(ranks, reverse=True)]
            for name, ranks in found.items()
        }

    async def _listed(self, server: Server, rooms: Sequence[str]) -> Mapping[str, ListedRoom]:
        try:
            return await self._prober.list_rooms(server, rooms)
        except NoAnswer:
            return {}

    def fault(
        self,
        server: str,
        kind: Cause,
        source: FaultSource,
        detail: str = "",
        revision: int | None = None,
    ) -> None:
        """Evidence against ``server``, seen at ``revision`` (default: now's)."""
        seen_at = self.document.revision if revision is None else revision
        if source is FaultSource.JOIN:
            self._join_faults.add(server)
        self.feed(
            FaultSeen(server=server, revision=seen_at, kind=kind, source=source, detail=detail)
        )

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
        participants = await self._read_rows()
        if to is not None and to in self.servers and not self.machine.available(to, self.now()):
            for _ in range(self._rise):  # what is remembered of the target may be old
                await self.probe(to)
        self._counter += 1
        request = f"{self.process}-ask-{self._counter}"
        answer: asyncio.Future[Rotation | None] = asyncio.get_running_loop().create_future()
        self._requests[request] = answer
        try:
            self.feed(
                RotateAsked(
                    request=request,
                    reason=reason,
                    actor=actor,
                    to=to,
                    expected_revision=expected_revision,
                    force=force,
                    participants=participants,
                )
            )
            async with asyncio.timeout(10):
                return await answer
        except TimeoutError:
            raise StoreOutcomeUnknown(
                "the store did not answer in time: see the history before you ask again"
            ) from None
        finally:
            del self._requests[request]

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
                self._news.set()
                for listener in self._health_listeners:
                    self._tell(listener, name)

    def _tell(self, listener: Callable[[_News], None], news: _News) -> None:
        """Call ``listener``; what it does wrong keeps nothing else from being done."""
        try:
            listener(news)
        except Exception as error:  # the outermost frame of what others do with the news
            observe.failure(observe.TASK_FAILED, error, task="listener")

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
            case Probe(server=server):
                self.probe(server)
            case Answered(request=request, rotation=rotation):
                if (answer := self._requests.get(request)) and not answer.done():
                    answer.set_result(rotation)
            case Refused(request=request, code=code, message=message, revision=revision):
                if (answer := self._requests.get(request)) and not answer.done():
                    answer.set_exception(_refusal(code, message, revision))
            case Announce(rotation=rotation):
                if rotation is not None:
                    self._remembered.append(rotation)
                for listener in list(self._listeners):
                    self._tell(listener, action)
            case Note(event=name, fields=fields):
                observe.event(name, logging.WARNING, **dict(fields))

    async def _write(self, action: Swap | Restore) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                swapped = await self._ask_to_write(action)
        except Exception as error:  # the outermost frame: the machine waits for an answer
            if not isinstance(error, StoreError | TimeoutError):
                observe.failure(observe.TASK_FAILED, error, task="swap")
            self._store_failed(error)
            self.feed(SwapFailed(operation=action.operation))
            self.store_answered()  # it may: reading it tells what became of the change
            return
        won = swapped.outcome is SwapOutcome.WON
        if won:
            self._say_written(action)
        if won and isinstance(action, Restore):
            self._remembered.append(action.note)
            self.spawn(self._restore_ledger())
        self.feed(SwapAnswered(operation=action.operation, won=won, document=swapped.document))

    async def _ask_to_write(self, action: Swap | Restore) -> Swapped:
        if isinstance(action, Swap):
            return await self.store.swap(
                action.expected, action.document, action.operation, action.rotation
            )
        known = [r for r in self._remembered if r.revision < action.document.revision]
        return await self.store.restore(
            action.found, action.document, action.operation, (*known, action.note)
        )

    async def _restore_ledger(self) -> None:
        with contextlib.suppress(StoreError):
            await self.store.count(self._ledger)

    def _say_written(self, action: Swap | Restore) -> None:
        rotation = action.rotation if isinstance(action, Swap) else action.note
        if rotation is not None:
            observe.event(
                observe.ROTATED if isinstance(action, Swap) else observe.RESTORED,
                logging.INFO if isinstance(action, Swap) else logging.WARNING,
                from_=rotation.from_,
                to=rotation.to,
                cause=rotation.cause.value,
                reason=rotation.reason,
                actor=rotation.actor,
                revision=rotation.revision,
                reports=rotation.reports,
            )

    # -- following the store --

    async def _load(self) -> Document:
        before = self.machine.document
        try:
            async with asyncio.timeout(PATIENCE):
                loaded = await self.store.load()
        except TimeoutError as error:
            self._store_failed(error)
            raise StoreUnavailable("the store did not answer in time") from None
        except StoreError as error:
            self._store_failed(error)
            raise
        self.store_answered()
        self._sync(loaded)
        self._last_tick = time.monotonic()
        self.stale = False
        if not self._outrun(loaded.document, before):
            self.feed(Loaded(document=loaded.document))
        return self.document

    def _outrun(self, found: Document | None, before: Document | None) -> bool:
        """Whether news came while ``found`` was read, to which it only seems a step back."""
        held = self.machine.document
        if held is None or held is before or compare(found, held) is not Finding.OLDER:
            return False
        return before is None or compare(found, before) is not Finding.OLDER

    def _sync(self, loaded: StoreLoaded) -> None:
        """
        Go by the store's time, but never backwards, and never before the last rotation.

        A clock that is set back would make all evidence older than the rotation before it: for
        as long as it was set back, no dead server would be left.
        """
        now = loaded.now
        if (document := loaded.document) and 0 < document.last_rotation - now < FARTHEST:
            now = document.last_rotation
        self._base = max(self._base, now - time.monotonic())

    def store_answered(self) -> None:
        """The store answered: if it was away, it is read again before it counts as back."""
        if not self._store_ok and (self._return is None or self._return.done()):
            self._return = self.spawn(self._come_back())

    def store_failed(self, error: StoreError) -> None:
        """The store did not answer: from now on this process goes by what it knows."""
        self._store_failed(error)

    def _store_failed(self, error: Exception) -> None:
        self._store_detail = str(error) if isinstance(error, StoreError) else "no answer in time"
        if not self._store_ok:
            return
        self._store_ok = False
        event = observe.STORE_CORRUPT if isinstance(error, StoreCorrupt) else observe.STORE_AWAY
        observe.event(event, logging.WARNING, store=self.store.url, detail=self._store_detail)
        self.feed(StoreSeen(ok=False))
        for listener in self._store_listeners:
            self._tell(listener, False)

    async def _come_back(self) -> None:
        try:
            async with asyncio.timeout(2 * PATIENCE):
                if self.machine.document is None:
                    await self._begin()
                else:
                    await self._read_again()
        except (StoreError, TimeoutError) as error:
            self._store_failed(error)
            return
        self._store_ok = True
        observe.event(observe.STORE_BACK, logging.WARNING, store=self.store.url)
        self.feed(StoreSeen(ok=True))
        for listener in self._store_listeners:
            self._tell(listener, True)

    async def _read_again(self) -> None:
        before = self.machine.document
        loaded = await self.store.load()
        self._sync(loaded)
        if not self._outrun(loaded.document, before):
            self.feed(Loaded(document=loaded.document))
        await self.store.beat(self.row())
        await self._read_rows()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                async for notice in self.store.watch():
                    try:
                        match notice:
                            case Changed(revision=revision):
                                held = self.machine.document
                                if held is None or revision > held.revision:
                                    await self.reload()
                            case Moved(placement=placement):
                                self._tell(self._moved, placement)
                            case _:
                                await self.reload()
                                self._tell(self._moved, None)
                    except PoolError:
                        continue
            await asyncio.sleep(0.5)

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            gap = time.monotonic() - self._last_tick
            self._last_tick = time.monotonic()
            if gap > STALL:
                observe.event(observe.STALLED, logging.WARNING, seconds=gap)
                self.stale = True
            if self.stale:
                with contextlib.suppress(PoolError):
                    await self.reload()
            else:
                self.feed(Tick())

    # -- this process's row --

    def row(self) -> ProcessRow:
        """What this process tells the others of itself now."""
        health: dict[str, Mapping[str, object]] = {}
        for name, result in self.last_probe.items():
            health[name] = {"health": self.machine.health(name).value, **result.public()}
        return ProcessRow(
            process=self.process,
            host=self.host,
            started=self._started,
            names=tuple(self.servers),
            fingerprint=self.fingerprint,
            health=health,
            sessions=dict(self.sessions()),
            probing=self.probing,
        )

    async def _beats(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.store.beat(self.row())
                    await self._read_rows()
                self.store_answered()
            except (StoreError, TimeoutError) as error:
                self._store_failed(error)
            self._news.clear()
            urgent = not self._store_ok or self.machine.wants_witness
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT if urgent else self.store.heartbeat):
                    await self._news.wait()

    async def _read_rows(self) -> int:
        self.rows = await self.store.rows()
        seen = seen_in(self.rows, self.row())
        self.feed(seen)
        return seen.participants

    async def _clean(self) -> None:
        """Let placements lapse that nobody renewed for a minute, once their server has no room."""
        while True:
            await asyncio.sleep(15)
            if not self.probing or not self._store_ok:
                continue
            with contextlib.suppress(StoreError):
                for placement in await self.store.lapsing(60.0):
                    server = self.servers.get(placement.server)
                    exists = server and await self._prober.room_exists(server, placement.room)
                    if exists is False or server is None:
                        await self.store.lapse(placement, 60.0)

    async def _keep_copies(self) -> None:
        """Read what only the store has, so that it can be brought back if the store loses it."""
        while True:
            with contextlib.suppress(StoreError):
                if self._store_ok:
                    self._ledger = _merged(self._ledger, await self.store.ledger())
            await asyncio.sleep(max(COPY, self.store.heartbeat))


def _merged(one: Ledger, other: Ledger) -> Ledger:
    """The higher one of each two sums."""
    merged = {writer: dict(sums) for writer, sums in one.items()}
    for writer, sums in other.items():
        kept = merged.setdefault(writer, {})
        for key, total in sums.items():
            kept[key] = max(total, kept.get(key, 0))
    return merged


def _refusal(code: str, message: str, revision: int) -> PoolError:
    """The error that the machine's ``code`` stands for."""
    if (other := _OTHER_ERRORS.get(code)) is not None:
        return other(message)
    return _REFUSALS.get(code, RotationRefused)(message, revision=revision)
