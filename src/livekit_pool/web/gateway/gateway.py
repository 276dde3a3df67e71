"""
Gateway: LiveKit's signalling, in front of all servers of the pool.

Makes a relay for each upgrade request, and keeps the few lists that concern all relays of this
process: who is not settled yet, whose server's side was lost, who waits for a server.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

from ...core.actions import Announce
from ...core.document import Cause
from ...core.events import FaultSource
from ...driver.allowance import Allowance
from ...pool import Pool
from ..addresses import client_address
from ..upgrade import Head
from .admission import Admission
from .dialer import Dialer
from .full_rooms import FullRooms
from .inquiry import WATCH, Inquiry
from .relay import Phase, SignalRelay
from .request import BadRequest, UpgradeRequest

__all__ = ["Gateway"]

PER_PARTICIPANT: Final = 120
"""Joins, resumes and validations in a minute of one participant. To a server they all come from the
pool's address, so that one participant could use up what it allows, and be a rotation for all. An
SDK that reconnects makes up to 40 (rust-sdks: reconnect_strategy.rs)."""

SETTLES: Final = 1.0
"""Seconds after its join at which a session can bear to be moved, if its participant is active."""

SETTLED_ANYWAY: Final = 10.0
"""Seconds after its join at which a session counts as settled whatever the server says."""

_SWEEP: Final = 0.05
"""Seconds between two looks at unsettled and orphaned sessions."""

_ORPHAN_VERDICT: Final = 0.1
"""Seconds an orphan waits at least, before a server that answers is believed to be well."""

_ORPHAN_PATIENCE: Final = 1.5
"""Seconds an orphan waits at most."""


class Gateway:
    """
    The signalling surface of one process.

    Attributes:
        pool: what decides where clients go.
        loop: the event loop it runs on.
        tls: how servers with ``wss`` URLs are verified.
        dialers: what connects to each server, by its name.
        waiting: inquiries to look again when something changed.
        asked: how often each participant may still ask for its room.
        full_rooms: which rooms may take nobody more.
    """

    def __init__(self, pool: Pool) -> None:
        """Make it in the running loop, with ``pool`` started."""
        self.pool: Final = pool
        self.loop: Final = asyncio.get_running_loop()
        self.tls: Final = ssl.create_default_context()
        self.waiting: set[Inquiry] = set()
        self.asked: Final = Allowance(PER_PARTICIPANT)
        self.full_rooms: Final = FullRooms(pool.driver.is_full, pool.driver.spawn)
        self.dialers: Final = {
            name: Dialer(server, self.loop, self.tls) for name, server in pool.servers.items()
        }
        self._unsettled: set[SignalRelay] = set()
        self._orphans: set[SignalRelay] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._relays = 0
        self._stopping = False
        self._connections: set[Any] | None = None
        pool.driver.listen(self._announced)
        pool.driver.listen_health(lambda server: self._poke())
        pool.rooms.listen(self._poke)

    @property
    def lineage(self) -> str:
        """The pool's, to know its own calls by."""
        return self.pool.lineage

    def __repr__(self) -> str:
        return (
            f"<Gateway {self._relays} relays, {len(self._unsettled)} unsettled,"
            f" {len(self._orphans)} orphaned>"
        )

    def connection(self, config: Any, server_state: Any, app_state: Any) -> SignalRelay:
        """uvicorn's factory of WebSocket protocols (its ``ws`` option)."""
        if self._connections is None:
            self._connections = server_state.connections
        self._relays += 1
        # One entry for all: uvicorn asks it to shut down, and waits until it is gone.
        self._connections.add(self)
        return SignalRelay(self)

    def admit(self, relay: SignalRelay, head: Head) -> Admission | None:
        """The admission, to be begun, of a client whose upgrade request has ``head``."""
        try:
            request = UpgradeRequest.of(head)
        except BadRequest as error:
            relay.refuse(error.status, error.text)
            return None
        peer = relay.transport.get_extra_info("peername")
        client = client_address(
            peer[0] if peer else "", request.forwarded_for, self.pool.settings.trusted_proxies
        )
        return Admission(self, relay, request, client)

    def watch(self, admission: Admission) -> None:
        """Begin to look whether ``admission``, which has no time limit of its own, takes long."""
        self.waiting.add(admission)
        if self._watching is None:
            self._watching = self.loop.call_later(WATCH, self._watch)

    def _watch(self) -> None:
        self._watching = None
        for inquiry in list(self.waiting):
            inquiry.takes_long(WATCH)
        if self.waiting:
            self._watching = self.loop.call_later(WATCH, self._watch)

    # -- relays come and go --

    def opened(self, relay: SignalRelay) -> None:
        """``relay`` is open, and not settled."""
        self._unsettled.add(relay)
        self._sweep_soon()
        if self._stopping:  # it was on its way in when the stop began
            self.loop.call_later(SETTLES, relay.resume_elsewhere)

    def closed(self, relay: SignalRelay) -> None:
        """``relay`` is over."""
        self._unsettled.discard(relay)
        self._orphans.discard(relay)
        self._relays -= 1
        if not self._relays and self._connections is not None:
            self._connections.discard(self)

    def orphaned(self, relay: SignalRelay) -> None:
        """``relay`` lost its server's side without a goodbye."""
        self._orphans.add(relay)
        self._fault(relay, FaultSource.SOCKET, "a signal connection was lost")
        self._sweep_soon()

    def server_shuts_down(self, relay: SignalRelay) -> None:
        """The server of ``relay`` says that it shuts down."""
        self._fault(relay, FaultSource.SHUTDOWN, "the server says that it shuts down")

    def _fault(self, relay: SignalRelay, source: FaultSource, detail: str) -> None:
        room = relay.room
        revision = room.placement.revision if room is not None and room.placement else None
        self.pool.fault(relay.server, Cause.DOWN, source, detail, revision)

    def shutdown(self) -> None:
        """Send every client to another process; uvicorn calls it in a planned stop."""
        self._stopping = True
        for room in self.pool.rooms:
            for session in list(room.sessions):
                if isinstance(session, SignalRelay):
                    session.resume_elsewhere()
        for admission in list(self.waiting):
            admission.poke()

    # -- what changes --

    def _announced(self, announce: Announce) -> None:
        self._poke()

    def _poke(self, room: str | None = None) -> None:
        """Let inquiries look again: all, or those about ``room``."""
        for inquiry in list(self.waiting):
            if room is None or inquiry.room == room:
                inquiry.poke()

    def _sweep_soon(self) -> None:
        if self._sweeping is None:
            self._sweeping = self.loop.call_later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self.loop.time()
        try:
            for relay in list(self._unsettled):
                self._settle(relay, now - relay.since)
            for relay in list(self._orphans):
                self._place_orphan(relay, now - relay.since)
        finally:  # whatever one of them did, the others are not forgotten
            if self._unsettled or self._orphans:
                self._sweep_soon()

    def _settle(self, relay: SignalRelay, age: float) -> None:
        if relay.phase is not Phase.OPEN:
            self._unsettled.discard(relay)
        elif age >= SETTLED_ANYWAY or (relay.active and age >= SETTLES):
            self._unsettled.discard(relay)
            relay.becomes_settled()
            if relay.room is not None:
                self.pool.rooms.settled(relay.room, relay)

    def _place_orphan(self, relay: SignalRelay, age: float) -> None:
        """Its room moves when its server is given up; until that is decided it waits."""
        if relay.phase is not Phase.ORPHANED:
            self._orphans.discard(relay)
        elif age >= _ORPHAN_VERDICT and self.pool.driver.answered_since(relay.server, relay.since):
            self._orphans.discard(relay)
            relay.release()
        elif age >= _ORPHAN_PATIENCE:
            self._orphans.discard(relay)
            relay.send_away()
