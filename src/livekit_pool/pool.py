"""
Pool: what a Python program uses, and what this package's own web application is made of.

    async with Pool.from_env() as pool:
        access = await pool.token(room="standup", identity="alice")
        print(access.url, access.server, access.revision)
        await pool.rotate("manual rotation")
        async for rotation in pool.rotations():
            ...
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from . import config, observe, tokens
from .core.actions import Announce, Step
from .core.document import Cause, Document, Mark, Rotation
from .core.events import Change, FaultSource
from .core.faults import Surface, classify
from .core.health import Settings as MachineSettings
from .driver import Driver
from .driver.raised import Raised
from .driver.reports import Report, Reported
from .exceptions import PoolError
from .metering import Metering
from .rooms import Rooms
from .servers import Server
from .status import status
from .stores import store_from_url
from .stores.base import Placement
from .upstream.probe import Prober

__all__ = ["Access", "Marked", "Pool"]

_LISTENER_QUEUE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """
    What a participant needs to join: an address and a token for it.

    ``server`` and ``revision`` say which server was active when it was made.
    """

    url: str
    token: str = field(repr=False)
    server: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """
    What came of a drain or a pause, or of the end of one.

    Attributes:
        revision: of the document in which it is so.
        changed: whether it was not so before.
        mark: who set the drain or pause, since when and why; None where there is none any more.
        rotation: the one that it took, because the active server was drained; else None.
    """

    revision: int
    changed: bool
    mark: Mark | None
    rotation: Rotation | None


class Pool:
    """
    One process of a pool of LiveKit servers.

    Entering opens the store, reads or makes the document, and starts to probe the servers.

    Attributes:
        settings: how it is configured.
        servers: the servers by name, in the list's order.
        pair: the pool's own key and secret.
    """

    def __init__(
        self, settings: config.Settings, *, may_probe: Callable[[], bool] = lambda: True
    ) -> None:
        """``may_probe`` says whether this process is the one of its machine that probes."""
        self.settings: Final = settings
        self.servers: Final[Mapping[str, Server]] = {s.name: s for s in settings.servers}
        self.pair: Final = tokens.KeyPair(key=settings.key, secret=settings.secret)
        self._may_probe = may_probe
        self._stack = AsyncExitStack()
        self._driver: Driver | None = None
        self._rooms: Rooms | None = None
        self._metering: Metering | None = None

    @classmethod
    def from_env(cls, **overrides: object) -> Self:
        """A pool configured as the command is: environment, ``.env.local``, ``.env``."""
        return cls(config.ensure_key_pair(config.load(overrides=overrides)))

    async def __aenter__(self) -> Self:
        """Start. Raises `ConfigurationError` or `StoreError`."""
        settings = self.settings
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(
                store_from_url(settings.store, names=tuple(self.servers))
            )
            prober = await stack.enter_async_context(
                Prober(timeout=settings.probe_timeout, witness=self._saw_probe)
            )
            driver = Driver(
                settings.servers,
                store,
                prober,
                MachineSettings(
                    rise=settings.rise,
                    fall=settings.fall,
                    cool_down_first=settings.cool_down_first,
                    cool_down_limit_first=settings.cool_down_limit_first,
                    cool_down_max=settings.cool_down_max,
                    rotation_interval=settings.rotation_interval,
                    pace=settings.pace,
                    minutes_share=settings.minutes_share,
                ),
                host=settings.machine or socket.gethostname(),
                probe_interval=settings.probe_interval,
                signed_interval=settings.probe_rooms_interval,
                may_probe=self._may_probe,
            )
            self._rooms = Rooms(driver)
            self._metering = Metering(driver, prober, self._rooms.occupied)
            self._driver = await stack.enter_async_context(driver)
            stack.push_async_callback(self._metering.aclose)
            self._rooms.start()
            self._metering.start()
            self._stack = stack.pop_all()
        observe.event(
            observe.READY,
            process=driver.process,
            active=driver.machine.active_server or None,
            revision=driver.machine.document and driver.machine.document.revision,
            store=store.url,
        )
        return self

    def _saw_probe(self, server: str, *, sid: str, joined: float, at: float) -> None:
        """A join of our own costs minutes as anybody's does."""
        if self._metering is not None:
            self._metering.witness(server, sid=sid, joined=joined, at=at)

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop; idempotent."""
        await self._stack.aclose()

    # -- parts, for the web application --

    @property
    def driver(self) -> Driver:
        """The loop underneath."""
        if self._driver is None:
            raise PoolError("the pool is not started: use `async with`")
        return self._driver

    @property
    def rooms(self) -> Rooms:
        """The live rooms of this process."""
        if self._rooms is None:
            raise PoolError("the pool is not started: use `async with`")
        return self._rooms

    @property
    def metering(self) -> Metering:
        """The minutes of the pool, as this process counts them."""
        if self._metering is None:
            raise PoolError("the pool is not started: use `async with`")
        return self._metering

    # -- state --

    @property
    def ready(self) -> bool:
        """Whether there is a document to go by. A store that went away since is no outage."""
        return self._driver is not None and not self.without_document

    @property
    def without_document(self) -> bool:
        """Whether this process has never read a document: it started with the store away."""
        return self.driver.machine.document is None

    @property
    def process(self) -> str:
        """This process's identity in the store."""
        return self.driver.process

    @property
    def document(self) -> Document:
        """The newest document this process follows."""
        return self.driver.document

    @property
    def revision(self) -> int:
        """The document's revision, 0 before there is one."""
        return 0 if self.without_document else self.document.revision

    @property
    def lineage(self) -> str:
        """The document's lineage; before there is one, a name of this process's own."""
        return self.process if self.without_document else self.document.lineage

    @property
    def step(self) -> Step | None:
        """Where everybody is sent while the store is away and the active server is dead."""
        return self.driver.step

    @property
    def active_server(self) -> str:
        """Where everybody is sent now. `NoAnswer` before there is a document."""
        return self.driver.active_server

    def now(self) -> float:
        """The store's time, seconds since the epoch."""
        return self.driver.now()

    async def fresh(self, revision: int = 0) -> Document:
        """The document, read again if what is remembered may be old, or older than ``revision``."""
        return await self.driver.fresh(revision)

    def joinable(self, server: str) -> bool:
        """Whether a join may be sent to ``server``: it is of the pool and not confirmed down."""
        return self.driver.joinable(server)

    @property
    def takes_rooms(self) -> bool:
        """Whether rooms that are nowhere yet may be placed."""
        return self.driver.takes_rooms

    def is_full(self, server: str) -> bool:
        """Whether ``server`` has as many participants as it may have."""
        return self.metering.is_full(server)

    def retry_after(self) -> int:
        """Seconds that a caller should wait who found no server, for ``Retry-After``."""
        return self.driver.machine.retry_after(self.now())

    def can_leave(self, server: str) -> bool:
        """Whether who is refused by ``server`` may hope to be sent to another one soon."""
        return self.driver.machine.can_leave(server, self.now())

    def takes_our_key(self, server: str, since: float) -> bool:
        """Whether ``server`` took a token of our own making since then, by `now`."""
        return self.driver.machine.takes_our_key(server, since)

    # -- what it does --

    async def token(
        self,
        *,
        room: str,
        identity: str,
        name: str | None = None,
        metadata: str | None = None,
        attributes: Mapping[str, str] | None = None,
        room_config: Mapping[str, object] | None = None,
        ttl: float | None = None,
        url: str | None = None,
    ) -> Access:
        """
        A token with which ``identity`` joins ``room`` through the pool.

        Args:
            ttl: life of the token in seconds, by default as LiveKit's SDKs make it.
            url: address to name instead of the configured one.
        """
        document = await self.fresh()
        token = tokens.participant_token(
            self.pair,
            room=room,
            identity=identity,
            name=name or "",
            metadata=metadata or "",
            attributes=attributes,
            room_config=room_config,
            ttl=tokens.DEFAULT_TTL if ttl is None else ttl,
        )
        return Access(
            url=url or self.url,
            token=token,
            server=self.active_server,
            revision=document.revision,
        )

    @property
    def url(self) -> str:
        """The pool's own address, as a WebSocket URL."""
        if self.settings.pool_url:
            scheme, rest = self.settings.pool_url.rstrip("/").split("://", 1)
            return f"{ {'http': 'ws', 'https': 'wss'}.get(scheme, scheme) }://{rest}"
        scheme = "wss" if self.settings.tls_cert else "ws"
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"{scheme}://{host}:{self.settings.port}"

    async def rotate(
        self,
        reason: str,
        *,
        actor: str = "library",
        to: str | None = None,
        expected_revision: int | None = None,
        force: bool = False,
    ) -> Rotation | None:
        """
        Make another server the active one; None if ``to`` already is.

        Args:
            to: name of the next server; by default the next available one in the list's order.
            expected_revision: do it only if the document is at this revision.
            force: also to a server that is drained, down or misconfigured; its drain ends so.

        Raises:
            RotationRefused: it is not done; carries the current revision.
            UnknownServer: no server is called ``to``.
            StoreUnavailable: the store did not answer.
        """
        return await self.driver.rotate(
            reason,
            actor=actor,
            to=to,
            expected_revision=expected_revision,
            force=force,
        )

    async def drain(
        self,
        server: str,
        reason: str,
        *,
        actor: str = "library",
        expected_revision: int | None = None,
        force: bool = False,
    ) -> Marked:
        """
        Take ``server`` out: nothing new is sent to it, until `undrain`.

        If it is the active server, the pool rotates away from it in the same change. Nothing
        changes if it is drained already.

        Args:
            expected_revision: change something only if the document is at this revision.
            force: also the last available server. Where that is the active one it stays so:
                rooms that are live stay there, new ones are refused. The pool rotates away from it
                as soon as another server is available.

        Raises:
            RotationRefused: it is not done; carries the current revision.
            UnknownServer: no server is called ``server``.
            StoreUnavailable: the store did not answer.
        """
        return await self._mark(
            Change.DRAIN,
            actor=actor,
            server=server,
            reason=reason,
            expected_revision=expected_revision,
            force=force,
        )

    async def undrain(
        self, server: str, *, actor: str = "library", expected_revision: int | None = None
    ) -> Marked:
        """Let ``server`` be chosen again, whoever drained it. Raises as `drain` does."""
        return await self._mark(
            Change.UNDRAIN, actor=actor, server=server, expected_revision=expected_revision
        )

    async def pause(
        self, reason: str, *, actor: str = "library", expected_revision: int | None = None
    ) -> Marked:
        """
        Stop automatic rotation, until `resume`; what a person asks for works all the same.

        Raises as `drain` does.
        """
        return await self._mark(
            Change.PAUSE, actor=actor, reason=reason, expected_revision=expected_revision
        )

    async def resume(
        self, *, actor: str = "library", expected_revision: int | None = None
    ) -> Marked:
        """Let the pool rotate by itself again, whoever paused it. Raises as `drain` does."""
        return await self._mark(Change.RESUME, actor=actor, expected_revision=expected_revision)

    async def _mark(self, change: Change, **asked: Any) -> Marked:
        answer = await self.driver.mark(change, **asked)
        return Marked(
            revision=answer.revision,
            changed=answer.changed,
            mark=answer.mark,
            rotation=answer.rotation,
        )

    async def history(self, limit: int = 50, before: int | None = None) -> Sequence[Rotation]:
        """The rotations, newest first; ``before`` a revision."""
        return await self.driver.store.history(limit, before)

    async def rotations(self) -> AsyncIterator[Rotation]:
        """Yield each rotation from now on, in the order of their revisions."""
        async for announce in self.announcements():
            if announce.rotation is not None:
                yield announce.rotation

    async def announcements(self) -> AsyncIterator[Announce]:
        """Yield the current document at once (without rotation), then each newer one."""
        queue: asyncio.Queue[Announce] = asyncio.Queue()

        def put(announce: Announce) -> None:
            if queue.qsize() >= _LISTENER_QUEUE:  # too slow for all: the newest state is enough
                while not queue.empty():
                    queue.get_nowait()
                announce = replace(announce, rotation=None)
            queue.put_nowait(announce)

        unlisten = self.driver.listen(put)
        try:
            yield Announce(document=self.document, rotation=None, step=self.step)
            while True:
                yield await queue.get()
        finally:
            unlisten()

    async def report(
        self,
        *,
        server: str,
        revision: int,
        error: BaseException | str,
        code: str | int | None = None,
        reporter: str = "",
        address: str = "",
    ) -> Reported:
        """
        Report that ``server`` failed somebody who was sent to it at ``revision``.

        A report alone changes nothing: the pool looks for itself, and rotates by what it then
        sees. It is told apart what no server is to blame for, and what a rotation has answered.

        Args:
            server, revision: as they came with the token: `Access.server`, `Access.revision`.
            error: what an SDK raised (such as ``livekit.rtc.ConnectError`` and
                ``livekit.api.TwirpError``), or its text. It is not kept.
            code: what is known beside it: an HTTP status, a Twirp code, or the name or number of a
                ``DisconnectReason``.
            reporter: who saw it, and ``address`` from where, where a program reports for others:
                what one of them says wrongly is not held against the rest.

        Returns:
            what becomes of it (`status` is ``"verifying"``, ``"already_handled"``,
            ``"not_its_fault"`` or ``"dismissed"``), and where everybody is sent now.

        Raises:
            UnknownServer: no server is called ``server``.
            RevisionConflict: the document was never at ``revision``.
            TooManyReports: ``reporter``, or ``address``, reports too often.
            StoreError, NoAnswer: there is no document to go by.
        """
        raised = Raised.of(error, code)
        seen = classify(Surface.CLIENT, status=raised.status, code=raised.code, text=raised.text)
        return await self.driver.reports.take(
            Report(server=server, revision=revision, error=seen, reporter=reporter, address=address)
        )

    def fault(
        self,
        server: str,
        kind: Cause,
        source: FaultSource,
        detail: str = "",
        revision: int | None = None,
        *,
        retry_after: float | None = None,
        voice: str = "",
    ) -> bool:
        """
        Evidence against ``server``, seen by the pool itself at ``revision``.

        ``retry_after`` is the number of seconds after which it wants to be asked again, if it
        said so; ``voice`` whose join it was. False where it may be this process's own fault.
        """
        return self.driver.fault(
            server, kind, source, detail, revision, retry_after=retry_after, voice=voice
        )

    def own_fault(self, what: str, server: str) -> None:
        """This process is why ``server`` could not be asked: it is not blamed."""
        self.driver.own_fault(what, server)

    def join_answered(self, server: str) -> None:
        """``server`` answered a join well."""
        self.driver.join_answered(server)

    def witness(
        self,
        server: str,
        event: str,
        *,
        sid: str,
        joined_ms: int,
        created: float,
        kind: str = "STANDARD",
    ) -> None:
        """
        A webhook of ``server`` told of a participant: evidence for the ledger of minutes.

        In any order, and repeated; of an unknown server, or without a participant, it is nothing.

        Args:
            event: LiveKit's name of the event, such as ``participant_left``.
            sid: the participant's, empty if the event is about none.
            joined_ms: its ``joinedAtMs``, by the server's clock; 0 if unsaid.
            created: the event's ``createdAt``, in seconds since the epoch by the same clock.
            kind: name of the participant's kind (protocol: ParticipantInfo.Kind).
        """
        # Whatever happens to a participant shows that it was there. ``room_finished`` names nobody.
        if sid and created > 0 and event.startswith(("participant_", "track_")):
            self.metering.witness(server, sid=sid, joined=joined_ms / 1000, at=created, kind=kind)

    # -- where rooms are --

    async def place(self, room: str) -> Placement:
        """
        The placement of ``room``, made if it has none, moved if that is due.

        Raises `NoServer` if it has none, and the active server, being drained, gets no new rooms.
        """
        return await self.rooms.resolve(room)

    async def placement(self, room: str) -> Placement | None:
        """The placement of ``room``, if it has one."""
        return await self.rooms.find(room)

    async def placed_servers(self) -> set[str]:
        """Names of the servers on which rooms are placed, or may be, and the active one."""
        return await self.rooms.servers() | {self.active_server}

    def on_the_move(self, room: str) -> bool:
        """Whether participants of ``room`` may be on their way between servers just now."""
        return self.rooms.on_the_move(room)

    async def wait_joinable(self, room: str | None, timeout: float) -> Placement | None:
        """
        Wait until the server of ``room`` may be joined; None if it may not within ``timeout`` s.

        Without a ``room`` it is about the active server; its placement then has no room's name.
        """
        deadline = time.monotonic() + timeout
        while True:
            document = await self.fresh()
            placement = await self.place(room) if room else None
            server = placement.server if placement else self.active_server
            if self.joinable(server):
                return placement or Placement(room="", server=server, revision=document.revision)
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(0.05)

    # -- status --

    async def status(self) -> dict[str, object]:
        """
        The answer of ``GET /pool/status``: sums over all living processes.

        While the store is away, over those that were living when it was read last.
        """
        return await status(self.driver, self.metering)
