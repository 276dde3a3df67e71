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
from typing import Final, Self

from . import config, observe, tokens
from .core.actions import Announce, Step
from .core.document import Cause, Document, Rotation
from .core.events import FaultSource
from .core.faults import Surface, classify
from .core.health import Settings as MachineSettings
from .driver import Driver
from .driver.raised import Raised
from .driver.reports import Report, Reported
from .exceptions import PoolError
from .rooms import Rooms
from .servers import Server
from .status import status
from .stores import store_from_url
from .stores.base import Placement
from .upstream.probe import Prober

__all__ = ["Access", "Pool"]

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
            prober = await stack.enter_async_context(Prober(timeout=settings.probe_timeout))
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
                ),
                host=settings.machine or socket.gethostname(),
                probe_interval=settings.probe_interval,
                signed_interval=settings.probe_rooms_interval,
                may_probe=self._may_probe,
            )
            self._rooms = Rooms(driver)
            self._driver = await stack.enter_async_context(driver)
            self._rooms.start()
            self._stack = stack.pop_all()
        observe.event(
            observe.READY,
            process=driver.process,
            active=driver.machine.active_server or None,
            revision=driver.machine.document and driver.machine.document.revision,
            store=store.url,
        )
        return self

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
            force: also to a server that is drained, down or misconfigured.

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

    def report_refused(self, code: str) -> None:
        """Count a report that was refused with ``code`` before it was read."""
        self.driver.reports.refused(code)

    def fault(
        self,
        server: str,
        kind: Cause,
        source: FaultSource,
        detail: str = "",
        revision: int | None = None,
        *,
        retry_after: float | None = None,
    ) -> None:
        """
        Evidence against ``server``, seen by the pool itself at ``revision``.

        ``retry_after`` is the number of seconds after which it wants to be asked again, if it
        said so.
        """
        self.driver.fault(server, kind, source, detail, revision, retry_after=retry_after)

    def join_answered(self, server: str) -> None:
        """``server`` answered a join well."""
        self.driver.join_answered(server)

    # -- where rooms are --

    async def place(self, room: str) -> Placement:
        """The placement of ``room``, made if it has none, moved if that is due."""
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
        return await status(self.driver)
