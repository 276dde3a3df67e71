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
from functools import partial
from typing import Final, Self, TypeVar

from . import observe
from .core.actions import Action, Announce, Answered, Note, Probe, Refused, Swap
from .core.document import Cause, Document, Rotation, new_document
from .core.events import (
    Event,
    FaultSeen,
    FaultSource,
    JoinAnswered,
    Loaded,
    Probed,
    ProbeOutcome,
    RotateAsked,
    RowsSeen,
    SwapAnswered,
    SwapFailed,
    Tick,
)
from .core.health import Health, Settings
from .core.machine import PoolMachine
from .exceptions import (
    NoAnswer,
    NoServer,
    PoolError,
    RevisionConflict,
    RotationRefused,
    ServerNotEligible,
    StoreError,
    StoreOutcomeUnknown,
    StoreUnavailable,
    UnknownServer,
)
from .servers import Server, fingerprint
from .stores.base import Changed, Moved, Placement, ProcessRow, Store, SwapOutcome
from .stores.base import Loaded as StoreLoaded
from .upstream.probe import Prober, ProbeResult

__all__ = ["Driver"]

_News = TypeVar("_News")

STALL: Final = 2.0
"""Seconds after which a silent loop no longer trusts what it remembers."""

BEAT: Final = 2.0
"""Seconds between heartbeats of this process's row."""

TICK: Final = 0.25
"""Seconds between ticks of the machine."""

NEWBORN_WAIT: Final = 3.0
"""Seconds to wait, after finding no document though others live, before making one."""

SLOWEST_PROBE: Final = 5.0
"""Longest pause in seconds between two probes of a server that is down."""

AGAIN: Final = 1.0
"""Seconds after which work that failed unexpectedly begins again."""

FARTHEST: Final = 86_400.0
"""Seconds by which a last rotation may lie ahead of the store's clock, and be believed."""

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
        last_probe: the newest probe of each server, as this process made it.
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
        self.last_probe: dict[str, ProbeResult] = {}
        self.stale = False
        self.store: Final = store
        self.probing = False
        self.sessions: Callable[[], Mapping[str, int]] = dict
        self.machine: Final = PoolMachine(tuple(self.servers), settings, self.process)
        self._prober = prober
        self._host = host
        self._fingerprint = fingerprint(servers)
        self._probe_interval = probe_interval
        self._signed_interval = signed_interval
        self._rise = settings.rise
        self._may_probe = may_probe
        self._listeners: list[Callable[[Announce], None]] = []
        self._health_listeners: list[Callable[[str], None]] = []
        self._moved: Callable[[Placement | None], None] = lambda placement: None
        self._join_faults: set[str] = set()  # servers with faults that a good join forgives
        self._inbox: deque[Event] = deque()
        self._draining = False
        self._requests: dict[str, asyncio.Future[Rotation | None]] = {}
        self._counter = 0
        self._passed: dict[str, float] = {}  # server -> when its last passed probe began
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = time.time()
        self._base = -math.inf  # until the store has told its time
        self._last_tick = time.monotonic()
        self._store_ok = True
        self._known_health: dict[str, Health] = {}
        self._news = asyncio.Event()  # something that other processes want to hear at once
        self._loading: asyncio.Task[Document] | None = None

    # -- life --

    async def __aenter__(self) -> Self:
        """Read or make the document, then start following it. Raises `StoreError`."""
        await self._begin()
        for work in (self._ticks, self._watch, self._beats, self._clean):
            self.keep(work)
        for name in self.servers:
            self.keep(partial(self._watch_over, name))
        return self

    async def __aexit__(self, *_: object) -> None:
        ending = [*self._tasks, *([self._loading] if self._loading else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for request in self._requests.values():
            if not request.done():
                request.set_exception(NoAnswer("the pool is stopping"))
        with contextlib.suppress(StoreError):
            await self.store.leave(self.process)

    async def _begin(self) -> None:
        self._last_tick = time.monotonic()
        loaded = await self.store.load()
        self._sync(loaded)
        await self.store.beat(self._row())
        if loaded.document is None:
            rows = await self.store.rows()
            if any(row.started < self._started - NEWBORN_WAIT for row in rows):
                # An older process may hold a document that the store lost: it comes first.
                await asyncio.sleep(NEWBORN_WAIT)
                loaded = await self.store.load()
        document = loaded.document
        if document is None:
            first = new_document(
                lineage=secrets.token_hex(8),
                names=tuple(self.servers),
                actor=self.process,
                now=self.now(),
            )
            swapped = await self.store.create(first, f"{self.process}-create")
            document = swapped.document or first
        await self._read_rows()
        self.feed(Loaded(document=document))

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run ``work`` as long as the driver runs; its failure is logged, never lost."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run ``work`` as long as the driver runs; when it fails, log it and begin again."""
        self.spawn(self._again_and_again(work))

    async def _again_and_again(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # the outermost frame of the work
                name = getattr(getattr(work, "func", work), "__name__", "")
                observe.failure(observe.TASK_FAILED, error, task=name.strip("_"))
            await asyncio.sleep(AGAIN)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            observe.failure(observe.TASK_FAILED, error, task=task.get_name())

    # -- what others ask --

    @property
    def document(self) -> Document:
        """The newest document this process follows. `NoAnswer` before there is one."""
        document = self.machine.document
        if document is None:
            raise NoAnswer("the pool has no document yet")
        return document

    @property
    def store_ok(self) -> bool:
        """Whether the store answered when it was last asked."""
        return self._store_ok

    def now(self) -> float:
        """The store's time, seconds since the epoch; runs on the monotonic clock between reads."""
        return time.monotonic() + self._base

    def stalled(self) -> bool:
        """Whether this process's loop has just been silent for longer than `STALL`."""
        return self.stale or time.monotonic() - self._last_tick > STALL

    async def fresh(self, revision: int = 0) -> Document:
        """
        The document, read again if this loop stalled or if ``revision`` is newer than ours.

        Raises:
            StoreError: it had to be read, and the store did not answer.
        """
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

    def listen_moves(self, listener: Callable[[Placement | None], None]) -> None:
        """Call ``listener`` with each placement that moved; with None after a gap."""
        self._moved = listener

    def joinable(self, server: str) -> bool:
        """Whether a join may be sent to ``server``: it is one of ours and not confirmed down."""
        return server in self.servers and self.machine.joinable(server, self.now())

    def answered_since(self, server: str, moment: float) -> bool:
        """Whether ``server`` passed a probe that began after ``moment`` (monotonic time)."""
        return self._passed.get(server, 0.0) >= moment

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
            case Swap():
                self.spawn(self._swap(action))
            case Probe(server=server):
                self.probe(server)
            case Answered(request=request, rotation=rotation):
                if (answer := self._requests.get(request)) and not answer.done():
                    answer.set_result(rotation)
            case Refused(request=request, code=code, message=message, revision=revision):
                if (answer := self._requests.get(request)) and not answer.done():
                    answer.set_exception(_refusal(code, message, revision))
            case Announce():
                for listener in list(self._listeners):
                    self._tell(listener, action)
            case Note(event=name, fields=fields):
                observe.event(name, logging.WARNING, **dict(fields))

    async def _swap(self, swap: Swap) -> None:
        try:
            async with asyncio.timeout(8):
                swapped = await self.store.swap(
                    swap.expected, swap.document, swap.operation, swap.rotation
                )
        except Exception as error:  # the outermost frame: the machine waits for an answer
            if not isinstance(error, StoreError | TimeoutError):
                observe.failure(observe.TASK_FAILED, error, task="swap")
            self._store_answered(False)
            self.feed(SwapFailed(operation=swap.operation))
            with contextlib.suppress(StoreError):
                await self.reload()
            return
        self._store_answered(True)
        if swapped.document is None:
            self.feed(SwapFailed(operation=swap.operation))
            return
        won = swapped.outcome is SwapOutcome.WON
        if won and (rotation := swap.rotation) is not None:
            observe.event(
                observe.ROTATED,
                from_=rotation.from_,
                to=rotation.to,
                cause=rotation.cause.value,
                reason=rotation.reason,
                actor=rotation.actor,
                revision=rotation.revision,
                reports=rotation.reports,
            )
        self.feed(SwapAnswered(operation=swap.operation, won=won, document=swapped.document))

    # -- following the store --

    async def _load(self) -> Document:
        try:
            async with asyncio.timeout(8):
                loaded = await self.store.load()
        except TimeoutError:
            self._store_answered(False)
            raise StoreUnavailable("the store did not answer in time") from None
        except StoreError:
            self._store_answered(False)
            raise
        self._store_answered(True)
        self._sync(loaded)
        self._last_tick = time.monotonic()
        self.stale = False
        if loaded.document is not None:
            self.feed(Loaded(document=loaded.document))
        return self.document

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

    def _store_answered(self, ok: bool) -> None:
        if ok is not self._store_ok:
            self._store_ok = ok
            observe.event(
                observe.STORE_BACK if ok else observe.STORE_AWAY,
                logging.WARNING,
                store=self.store.url,
            )

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                async for notice in self.store.watch():
                    try:
                        match notice:
                            case Changed(revision=revision):
                                if revision > self.document.revision:
                                    await self.reload()
                            case Moved(placement=placement):
                                self._tell(self._moved, placement)
                            case _:
                                await self.reload()
                                self._tell(self._moved, None)
                    except StoreError:
                        continue
            self._store_answered(False)
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

    def _row(self) -> ProcessRow:
        health: dict[str, Mapping[str, object]] = {}
        for name, result in self.last_probe.items():
            health[name] = {"health": self.machine.health(name).value, **result.public()}
        return ProcessRow(
            process=self.process,
            host=self._host,
            started=self._started,
            names=tuple(self.servers),
            fingerprint=self._fingerprint,
            health=health,
            sessions=dict(self.sessions()),
            probing=self.probing,
        )

    async def _beats(self) -> None:
        while True:
            try:
                async with asyncio.timeout(8):
                    await self.store.beat(self._row())
                    await self._read_rows()
                self._store_answered(True)
            except (StoreError, TimeoutError):
                self._store_answered(False)
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await self._news.wait()

    async def _read_rows(self) -> int:
        rows = await self.store.rows()
        health: dict[str, bool] = {}
        for row in rows:
            if row.probing and row.host == self._host and row.process != self.process:
                for name, seen in row.health.items():
                    if (value := seen.get("health")) in ("up", "down"):
                        health[name] = value == "up"
        lists = tuple(row.names for row in rows) or (tuple(self.servers),)
        participants = sum(sum(row.sessions.values()) for row in rows)
        self.feed(RowsSeen(lists=lists, health=health, participants=participants))
        return participants

    async def _clean(self) -> None:
        """Let placements lapse that nobody renewed for a minute, once their server has no room."""
        while True:
            await asyncio.sleep(15)
            if not self.probing:
                continue
            with contextlib.suppress(StoreError):
                for placement in await self.store.lapsing(60.0):
                    server = self.servers.get(placement.server)
                    exists = server and await self._prober.room_exists(server, placement.room)
                    if exists is False or server is None:
                        await self.store.lapse(placement, 60.0)

    # -- probing --

    def probe(self, server: str) -> asyncio.Task[None]:
        """Probe ``server`` at once, unless a probe of it is under way."""
        task = self._probes.get(server)
        if task is None or task.done():
            task = self._probes[server] = self.spawn(self._probe(server, signed=False))
        return task

    async def _probe(self, server: str, *, signed: bool) -> None:
        target = self.servers.get(server)
        if target is None:
            return
        began, began_at = time.monotonic(), self.now()
        ask = self._prober.probe_signed if signed else self._prober.probe
        result = await ask(target)
        self.last_probe[server] = result
        if result.outcome is ProbeOutcome.PASSED:
            self._passed[server] = began
        self.feed(
            Probed(
                server=server,
                outcome=result.outcome,
                stalled=result.stalled or self.stalled(),
                detail=result.detail,
                began=began_at,
                signed=signed,
            )
        )

    async def _watch_over(self, server: str) -> None:
        """Probe ``server`` again and again while this is the probing process of its machine."""
        failures, next_signed = 0, 0.0
        while True:
            self.probing = self._may_probe()
            if not self.probing:
                if self.machine.health(server) is Health.DOWN:
                    # Who saw it down must see for itself when it is back.
                    await asyncio.shield(self.probe(server))
                await asyncio.sleep(self._probe_interval / 2)
                continue
            began = time.monotonic()
            await asyncio.shield(self.probe(server))
            passed = self.last_probe[server].outcome is ProbeOutcome.PASSED
            if passed and time.monotonic() >= next_signed:
                await self._probe(server, signed=True)
                next_signed = time.monotonic() + self._signed_interval
            failures = 0 if passed else failures + 1
            await asyncio.sleep(self._pause(server, passed, failures, time.monotonic() - began))

    def _pause(self, server: str, passed: bool, failures: int, took: float) -> float:
        if self.machine.health(server) is Health.DOWN:
            if passed:  # on its way back: the next probe decides
                return self._probe_interval / 2
            return float(min(self._probe_interval * 2 ** min(failures // 3, 8), SLOWEST_PROBE))
        if not passed:  # its next failures decide whether it is down: do not wait for them
            return max(0.0, self._probe_interval / 2 - took)
        return float(max(0.05, self._probe_interval - took))


def _refusal(code: str, message: str, revision: int) -> PoolError:
    """The error that the machine's ``code`` stands for."""
    if (other := _OTHER_ERRORS.get(code)) is not None:
        return other(message)
    return _REFUSALS.get(code, RotationRefused)(message, revision=revision)
