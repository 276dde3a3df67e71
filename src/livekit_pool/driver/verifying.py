"""
Verifying: what clients report is a hint, on which this process looks for itself.

Anybody with a token may report anything, and a user's bad network looks to that user like a dead
server. So a report changes nothing but this: the server it names is asked for, from the cheapest
question to a join of our own, and only what is seen then is a fault.

One verification serves all reports of the moment. What it costs a server is bounded against one
who lies, and against many, and yet nobody's lie delays the truth of another:

    found healthy               no other verification of that server for 5 s
    a reporter's false report   not believed for 5 s, doubled each time up to 300 s
    an address's false report   the same up to 60 s, divided by how many who are believed report
    any report                  limited for each reporter and each address
    a true one                  no other verification for 5 s, doubled up to 60 s: the machine knows
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from .. import observe
from ..core.document import Cause
from ..core.events import FaultSource, ProbeOutcome
from ..core.faults import KINDS, Blame, Surface, classify
from ..exceptions import TooManyReports
from ..servers import Server
from ..upstream.join_probe import JoinResult
from ..upstream.probe import ProbeResult
from .allowance import Allowance
from .doubts import Doubts
from .tasks import Tasks

__all__ = ["Standing", "Verifying"]

REUSE: Final = 5.0
"""Seconds for which what a verification found is the answer to whoever reports."""

DEAF: Final = 1.0
"""Seconds until another verification after one that could tell nothing."""

TRIES: Final = 3
"""Joins that must fail for want of an answer, or with one of no meaning, as many as probes must."""

PER_REPORTER: Final = 6
PER_ADDRESS: Final = 60
"""Reports in a minute. Those of an address count where they would cost something: not while a
verification is under way, nor when they are late."""

_VOICES: Final = 100
_COUNTED: Final = 10_000


class Standing(StrEnum):
    """What becomes of a report."""

    VERIFYING = "verifying"  # it is being looked at, or was found true a moment ago
    ALREADY_HANDLED = "already_handled"  # it is about a time before the last rotation
    NOT_ITS_FAULT = "not_its_fault"  # what it tells of is no server's fault
    DISMISSED = "dismissed"  # a verification has just found that server well


class _Probing(Protocol):
    """The probes of this process, which the machine hears of as well."""

    async def look(self, server: str, *, signed: bool) -> ProbeResult:
        """Probe ``server`` now, or wait for the probe under way; what it saw."""


class _Joiner(Protocol):
    """Who joins servers."""

    async def probe_join(self, server: Server) -> JoinResult:
        """Join ``server`` and leave."""


class _Asker(Protocol):
    """Who wants to know."""

    @property
    def revision(self) -> int:
        """The document's."""

    def fault(
        self,
        server: str,
        kind: Cause,
        source: FaultSource,
        detail: str = "",
        revision: int | None = None,
        retry_after: float | None = None,
        reports: int = 1,
    ) -> None:
        """Evidence against ``server``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """
    What a verification found.

    Attributes:
        cause: the fault, None if there is none.
        clear: whether anything can be said at all; a stall of our own, or a refusal that is about
            our own request, says nothing of the server.
    """

    cause: Cause | None = None
    detail: str = ""
    retry_after: float | None = None
    clear: bool = True


_WELL: Final = _Found()
_UNCLEAR: Final = _Found(clear=False)


@dataclass(slots=True)
class _State:
    """
    What is known of one server's reports.

    Attributes:
        who: (reporter, address) of the verification under way; None while there is none.
        reports: how many reports it serves.
        settled: what the last one found, and until when that is the answer.
        voices: address in its pause -> those who report from there and are believed.
    """

    who: set[tuple[str, str]] | None = None
    reports: int = 0
    settled: Standing = Standing.DISMISSED
    settled_until: float = 0.0
    voices: dict[str, set[str]] = field(default_factory=dict)


class Verifying:
    """
    The verifications of one process.

    Attributes:
        counts: how many reports there were, by what became of them, and verifications by what
            they found (``true``, ``false``, ``unclear``).
    """

    def __init__(
        self,
        servers: Mapping[str, Server],
        probing: _Probing,
        joiner: _Joiner,
        asker: _Asker,
        tasks: Tasks,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._servers = servers
        self._probing = probing
        self._joiner = joiner
        self._asker = asker
        self._tasks = tasks
        self._states = {name: _State() for name in servers}
        self._reporters = Doubts(first=5.0, longest=300.0)
        self._addresses = Doubts(first=5.0, longest=60.0)
        self._confirmed = Doubts(first=REUSE, longest=60.0)  # servers whose fault is known
        self._allowed = Allowance(PER_REPORTER, clock=_now)
        self._allowed_from = Allowance(PER_ADDRESS, clock=_now)

    # -- limits --

    def hear(self, reporter: str) -> None:
        """Count a report of ``reporter``. `TooManyReports` if there were too many."""
        self._limit(self._allowed, reporter)

    def pay(self, address: str) -> None:
        """Count a report from ``address`` that costs something. `TooManyReports`."""
        self._limit(self._allowed_from, address)

    def _limit(self, allowance: Allowance, name: str) -> None:
        if name and (wait := allowance.take(name)):
            self.counts["limited"] += 1
            raise TooManyReports("You report too often: the pool has heard you.", retry_after=wait)

    # -- reports --

    def take(self, server: str, reporter: str, address: str) -> Standing:
        """
        Take a report about the active server that is not late.

        Raises:
            TooManyReports: too many that cost something came from ``address``.
        """
        state, now = self._states[server], _now()
        if state.who is not None:
            self._join(state, reporter, address)
            return Standing.VERIFYING
        if now < state.settled_until:
            return state.settled
        if self._reporters.doubtful(reporter, now):
            return Standing.DISMISSED
        voices = state.voices.setdefault(address, set())
        if len(voices) < _VOICES:
            voices.add(reporter)
        if self._addresses.doubtful(address, now, voices=len(voices)):
            return Standing.DISMISSED
        self.pay(address)
        state.who, state.reports = set(), 0
        self._join(state, reporter, address)
        self._tasks.spawn(self._verify(server, state))
        return Standing.VERIFYING

    def _join(self, state: _State, reporter: str, address: str) -> None:
        state.reports += 1
        if state.who is not None and len(state.who) < _COUNTED:
            state.who.add((reporter, address))

    # -- verification --

    async def _verify(self, server: str, state: _State) -> None:
        revision = self._asker.revision
        found = _UNCLEAR
        try:
            found = await self._look(self._servers[server])
        finally:
            who, state.who = state.who or set(), None
            state.voices.clear()
            self._settle(server, state, found, who)
        if found.cause is not None:
            self._asker.fault(
                server,
                found.cause,
                FaultSource.VERIFIED,
                found.detail,
                revision,
                found.retry_after,
                reports=state.reports,
            )

    def _settle(
        self, server: str, state: _State, found: _Found, who: Iterable[tuple[str, str]]
    ) -> None:
        """Remember what was found, and what it says of those who reported."""
        now = _now()
        if found.cause is not None:
            self.counts["true"] += 1
            self._confirmed.add(server, now)
            state.settled = Standing.VERIFYING
            state.settled_until = self._confirmed.until(server)
            for reporter, address in who:
                self._reporters.forget(reporter)
                self._addresses.forget(address)
            return
        state.settled, state.settled_until = Standing.DISMISSED, now + DEAF
        if not found.clear:
            self.counts["unclear"] += 1
            return
        self.counts["false"] += 1
        self._confirmed.forget(server)
        state.settled_until = now + REUSE
        for reporter in {reporter for reporter, _ in who if reporter}:
            self._reporters.add(reporter, now)
        for address in {address for _, address in who}:
            self._addresses.add(address, now)
        observe.event(observe.REPORTS_DISMISSED, server=server, reports=state.reports)

    async def _look(self, server: Server) -> _Found:
        """Ask ``server``, from the cheapest question on, until it fails or has passed all."""
        for signed in (False, True):
            seen = await self._probing.look(server.name, signed=signed)
            if seen.stalled:
                return _UNCLEAR
            if seen.outcome is ProbeOutcome.UNAUTHORIZED:
                return _Found(cause=Cause.CREDENTIALS, detail=seen.detail)
            if not signed and seen.outcome in KINDS:
                return _Found(cause=KINDS[seen.outcome], detail=seen.detail)
        for _ in range(TRIES):
            found = _meaning(await self._joiner.probe_join(server))
            if found.cause not in KINDS.values():
                break
        return found


def _meaning(seen: JoinResult) -> _Found:
    """What a join of our own says of the server."""
    ...


def _now() -> float:
    """Seconds of the loop's clock, which tests turn by hand."""
    return asyncio.get_running_loop().time()
