"""
Reports: what clients say of a server is a hint, on which this process looks for itself.

Anybody with a token may report anything, and a user's bad network looks to that user like a dead
server. So a report changes nothing; it starts a verification, and only what that sees is a fault.
One verification serves all reports of the moment. What they cost a server is bounded, and no lie
delays another's truth:

    a server was found well    no other verification of it for 5 s, whoever reports
    a reporter was wrong       not believed for 5 s, doubled each time up to 300 s
    an address was wrong       the same, up to 120 s, divided by the number of those who report
                               from there and are believed, at most 4
    a fault was found          no other verification of that server for 5 s, doubled up to 60 s:
                               the machine knows
    any report                 at most 6 a minute of one reporter and 1,200 of one address, behind
                               which there may be an office; 20 of all may make the store be read,
                               which may cost money
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
from ..core.document import Cause, Document
from ..core.events import FaultSource
from ..core.faults import Blame, Classified
from ..exceptions import (
    RevisionConflict,
    StoreUnavailable,
    TooManyReports,
    UnknownServer,
)
from ..servers import Server
from .allowance import Allowance
from .doubts import Doubts
from .tasks import Tasks
from .verifying import Found, Verifying

__all__ = ["Report", "Reported", "Reports", "Standing"]

PER_REPORTER: Final = 6
PER_ADDRESS: Final = 1200
READS: Final = 20
"""Reports in a minute; see the head of this file."""

REUSE: Final = 5.0
"""Seconds for which what a verification found answers whoever else reports."""

UNCLEAR: Final = 1.0
"""The same for one that could tell nothing."""

_VOICES: Final = 4
_REMEMBERED: Final = 10_000


class Standing(StrEnum):
    """What becomes of a report."""

    VERIFYING = "verifying"  # the server is being looked at, or a fault of it has just been found
    ALREADY_HANDLED = "already_handled"  # it is about a server that has been left since
    NOT_ITS_FAULT = "not_its_fault"  # what happened to the reporter is no server's fault
    DISMISSED = "dismissed"  # that server has just been found well


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """
    Somebody says that ``server`` failed, at ``revision`` of the document.

    Attributes:
        error: what the error means, by `core.faults.classify`; its text goes no further.
        reporter: who says so; each is believed, or not, by itself. Empty where nobody knows.
        address: from where; that of a whole network, where one client can have all of it.
    """

    server: str
    revision: int
    error: Classified
    reporter: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """
    The answer to a report.

    Attributes:
        status: what becomes of it; equal to its value, such as ``"verifying"``.
        revision: the document's.
        active: name of the server that everybody is sent to now.
    """

    status: Standing
    revision: int
    active: str


class _Asker(Protocol):
    """Who wants to know: the driver."""

    @property
    def document(self) -> Document: ...

    @property
    def active_server(self) -> str: ...

    @property
    def store_ok(self) -> bool: ...

    async def fresh(self, revision: int = 0) -> Document: ...

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
    ) -> object: ...


@dataclass(slots=True)
class _State:
    """
    What is known of the reports about one server.

    Attributes:
        who: (reporter, address) of the verification under way; None while there is none.
        reports: how many reports it serves.
        settled: what the last one found, and until when that is the answer.
        voices: address in its pause -> those who reported from there and are believed.
    """

    who: set[tuple[str, str]] | None = None
    reports: int = 0
    settled: Standing = Standing.DISMISSED
    settled_until: float = 0.0
    voices: dict[str, set[str]] = field(default_factory=dict)


class Reports:
    """
    The reports that one process hears.

    Attributes:
        counts: how many there were, by what became of them.
        verified: how many verifications ended, by what they found: ``true``, ``false``,
            ``unclear``, or ``probing``: a probe failed, which the machine has heard, and judges as
            any probe.
    """

    def __init__(
        self, servers: Mapping[str, Server], verifying: Verifying, asker: _Asker, tasks: Tasks
    ) -> None:
        self.counts: Final[Counter[Standing]] = Counter()
        self.verified: Final[Counter[str]] = Counter()
        self._servers = servers
        self._verifying = verifying
        self._asker = asker
        self._tasks = tasks
        self._states = {name: _State() for name in servers}
        self._reporters = Doubts(first=5.0, longest=300.0)
        self._addresses = Doubts(first=5.0, longest=120.0)
        self._faulty = Doubts(first=5.0, longest=60.0)  # servers
        self._of_reporter = Allowance(PER_REPORTER, clock=_now)
        self._of_address = Allowance(PER_ADDRESS, clock=_now)
        self._reads = Allowance(READS, clock=_now)

    async def take(self, report: Report) -> Reported:
        """
        Take ``report``: say what becomes of it, and look at the server if it deserves that.

        Raises:
            UnknownServer: the pool has no such server.
            RevisionConflict: the document has not been at that revision yet.
            TooManyReports: the reporter, or its address, reports too often.
            StoreError, NoAnswer: there is no document to go by.
        """
        self._limit(self._of_reporter, report.reporter)
        self._limit(self._of_address, report.address)
        if report.server not in self._servers:
            raise UnknownServer(
                "No server of the pool has that name: send the one that came with your token."
            )
        document = await self._document(report)
        standing = self._standing(report, document)
        self.counts[standing] += 1
        return Reported(
            status=standing,
            revision=self._asker.document.revision,
            active=self._asker.active_server,
        )

    def verdict(self, server: str) -> Standing:
        """VERIFYING while ``server`` is looked at, else what that found: VERIFYING if a fault."""
        state = self._states[server]
        return state.settled if state.who is None else Standing.VERIFYING

    async def _document(self, report: Report) -> Document:
        """The document, as new as the reporter's."""
        document = self._asker.document
        if report.revision > document.revision:
            self._limit(self._reads, "store")
        document = await self._asker.fresh(report.revision)
        if report.revision <= document.revision:
            return document
        if not self._asker.store_ok:
            raise StoreUnavailable(
                "The store does not answer, so that nobody here knows that revision: try again."
            )
        raise RevisionConflict(
            f"The document is at revision {document.revision} and was never at the reported one:"
            " send the revision that came with your token or with the events.",
            revision=document.revision,
        )

    def _standing(self, report: Report, document: Document) -> Standing:
        late = report.revision < document.active_since
        if late or report.server != self._asker.active_server:
            return Standing.ALREADY_HANDLED
        if report.error.blame is Blame.CALLER:
            return Standing.NOT_ITS_FAULT
        # What is one room's is told from what is the server's by a join into another room.
        return self._look_into(report)

    def _look_into(self, report: Report) -> Standing:
        state, now = self._states[report.server], _now()
        if state.who is not None:
            self._serve(state, report)
            return Standing.VERIFYING
        if now < state.settled_until:
            return state.settled
        if self._reporters.doubtful(report.reporter, now):
            return Standing.DISMISSED
        if self._addresses.doubtful(report.address, now, voices=_heard(state, report)):
            return Standing.DISMISSED
        state.who, state.reports = set(), 0
        self._serve(state, report)
        self._tasks.spawn(self._verify(self._servers[report.server], state))
        return Standing.VERIFYING

    @staticmethod
    def _serve(state: _State, report: Report) -> None:
        state.reports += 1
        if state.who is not None and len(state.who) < _REMEMBERED:
            state.who.add((report.reporter, report.address))

    def _limit(self, allowance: Allowance, name: str) -> None:
        wait = allowance.take(name) if name else 0.0
        if wait:
            raise TooManyReports(
                "These are too many reports: one is enough, the pool looks for itself.",
                retry_after=wait,
            )

    # -- what a verification finds --

    async def _verify(self, server: Server, state: _State) -> None:
        revision, found = self._asker.document.revision, Found(clear=False)
        try:
            found = await self._verifying.verify(
                server, lambda: server.name == self._asker.active_server
            )
        finally:
            who, state.who = state.who or set(), None
            state.voices.clear()
            self._settle(server.name, state, found, who)
        if found.cause is None:
            return
        self._asker.fault(
            server.name,
            found.cause,
            found.source,
            found.detail,
            revision,
            retry_after=found.retry_after,
            reports=state.reports,
        )

    def _settle(
        self, server: str, state: _State, found: Found, who: Iterable[tuple[str, str]]
    ) -> None:
        """Remember what was found, and what that says of those who reported."""
        now = _now()
        if not found.clear:
            self.verified["unclear"] += 1
            state.settled, state.settled_until = Standing.DISMISSED, now + UNCLEAR
        elif found.cause is None:
            self.verified["false"] += 1
            self._faulty.forget(server)
            state.settled, state.settled_until = Standing.DISMISSED, now + REUSE
            for reporter in {reporter for reporter, _ in who if reporter}:
                self._reporters.add(reporter, now)
            for address in {address for _, address in who}:
                self._addresses.add(address, now)
            observe.event(observe.REPORTS_DISMISSED, server=server, reports=state.reports)
        else:
            self._faulty.add(server, now)
            state.settled = Standing.VERIFYING
            state.settled_until = now + self._faulty.pause(server)
            for reporter, address in who:
                self._reporters.forget(reporter)
                self._addresses.forget(address)
            if found.source is FaultSource.PROBE:
                self.verified["probing"] += 1
                return
            self.verified["true"] += 1
            observe.event(
                observe.REPORTS_VERIFIED,
                logging.WARNING,
                server=server,
                cause=found.cause.value,
                detail=found.detail,
                reports=state.reports,
            )


def _heard(state: _State, report: Report) -> int:
    """How many who are believed reported from that address since the last verification."""
    voices = state.voices.setdefault(report.address, set())
    if len(voices) < _VOICES:
        voices.add(report.reporter)
    return len(voices)


def _now() -> float:
    """Seconds of the loop's clock, which tests turn by hand."""
    return asyncio.get_running_loop().time()
