"""
Pending faults: those against the active server that nothing has resolved yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from .document import Cause, Document
from .events import FaultSeen, FaultSource
from .faults import REFUSALS
from .health import Settings, asked_for

__all__ = ["PendingFaults", "Refusal", "is_late"]

_PENDING_LIMIT: Final = 10_000

_VOICES: Final = 1_000
"""Clients that are told from each other; more than are ever needed to leave a server."""


def is_late(fault: FaultSeen, document: Document) -> bool:
    """
    Whether ``fault`` says nothing about the active server of ``document``.

    It does not if it is about another server, or was seen before this one became active: then
    it has been answered by a rotation since, even if the server is active again meanwhile. A
    revision that moved for another reason (a drain) makes no fault late.
    """
    return fault.server != document.active_server or fault.revision < document.active_since


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """
    The server's own word that it cannot take more: a kind of `faults.REFUSALS`.

    Attributes:
        retry_after: seconds after which it wants to be asked again, None if it did not say.
        until: when that is over, in seconds since the epoch.
        of_call: whether a call of the server API met it, and no join.
    """

    kind: Cause
    detail: str
    retry_after: float | None
    until: float
    of_call: bool


class _Pending(NamedTuple):
    """
    One that the next probe explains.

    Attributes:
        counts: a join failed, or was verified to fail, while the server answered.
        not_before: when the server wants to be asked again, 0 if it did not say.
    """

    fault: FaultSeen
    seen: float
    counts: bool
    not_before: float

    @property
    def verified(self) -> bool:
        return self.fault.source is FaultSource.VERIFIED


class PendingFaults:
    """
    True faults against the active server that no probe and no rotation has resolved yet.

    A refusal for a limit is the server's own word: a server that is full answers probes, so that a
    refused join is forgiven by one that is answered well, and a refused call by a signed probe.

    A failed join of another kind is explained by what the next probe sees: if that is missed, the
    server or our own network is in trouble, and the probes will tell which. If it passes, the join
    *counts*: the server seems well and yet refuses joins. What was verified by joins of the pool's
    own, repeated until it was certain, counts as many.

    Attributes:
        kind: that of the newest fault; while a verified one counts, of the newest of these.
        detail: that of the newest of those that had one.
        joins: failed joins that count, in a row; a passed probe does not forgive these. Those of
            one client count once: it may be its own affair.
        verified: whether one that was verified counts; a passed probe does not forgive it either.
        refusal: the newest one, of several kinds the gravest; a quota is graver than a limit.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.kind = Cause.DOWN
        self.detail = ""
        self.joins = 0
        self.verified = False
        self.refusal: Refusal | None = None
        self._refusals = 0
        self._refused_at = 0.0  # when the newest refusal was seen
        self._not_before = 0.0  # when the server wants to be asked again, by what counts
        self._counted = 0  # reports of what counts
        self._voices: set[str] = set()  # whose joins count
        self._pending: list[_Pending] = []

    @property
    def reports(self) -> int:
        """How many faults a rotation would answer now."""
        pending = sum(each.fault.reports for each in self._pending)
        return self._refusals + self._counted + pending

    def retry_after(self, now: float) -> float | None:
        """
        Seconds after which those that are no refusals want the server to be asked again.

        None if none of them said so, or that time is over. What a refusal asks for is its own;
        what a probe, or a good join, has resolved asks for nothing any more.
        """
        pending = max((each.not_before for each in self._pending), default=0.0)
        return asked_for(max(pending, self._not_before) - now)

    def add(self, fault: FaultSeen, now: float, *, answering: bool) -> None:
        """Remember ``fault``; ``answering`` says whether the server's last probe passed."""
        if fault.kind in REFUSALS:
            self._refused(fault, now)
            return
        # A refused key is for a signed probe to confirm, or a join of our own: one caller's token
        # must neither count nor give its name to what does.
        doubted = fault.kind is Cause.CREDENTIALS and fault.source is not FaultSource.VERIFIED
        if not doubted and not self.verified:
            self._name(fault)
        if len(self._pending) < _PENDING_LIMIT:
            asked = None if doubted else asked_for(fault.retry_after)
            counts = fault.source in (FaultSource.JOIN, FaultSource.VERIFIED)
            self._pending.append(
                _Pending(
                    fault=fault,
                    seen=now,
                    counts=counts and answering and not doubted,
                    not_before=0.0 if asked is None else now + asked,
                )
            )

    def _name(self, fault: FaultSeen) -> None:
        """What counts has the kind, and the detail, of ``fault``."""
        self.kind = fault.kind
        self.detail = fault.detail or self.detail

    def _refused(self, fault: FaultSeen, now: float) -> None:
        self._refusals += fault.reports
        self._refused_at = now
        before = self.refusal
        asked = asked_for(fault.retry_after)
        if fault.kind is Cause.QUOTA:
            lasts = self._settings.cool_down_max
        else:
            lasts = self._settings.cool_down_limit_first if asked is None else asked
        refusal = Refusal(
            kind=fault.kind,
            detail=fault.detail,
            retry_after=asked,
            until=now + lasts,
            of_call=fault.source in (FaultSource.CALL, FaultSource.PROBE),
        )
        if before is None or _gravity(refusal) >= _gravity(before):
            self.refusal = refusal

    def forget(self, now: float) -> None:
        """Let a refusal go whose time is over, if nobody could be sent elsewhere meanwhile."""
        if self.refusal is not None and now >= self.refusal.until:
            self.refusal, self._refusals = None, 0

    def call_answered(self, began: float) -> None:
        """A signed probe that began at ``began`` passed: the server takes calls again."""
        refusal = self.refusal
        if refusal is not None and refusal.of_call and began > self._refused_at:
            self.refusal, self._refusals = None, 0

    def forgive(self, began: float) -> bool:
        """
        A probe that began at ``began`` passed: it resolves what was seen before.

        Returns:
            whether nothing is left that needs another probe.
        """
        for each in self._pending:
            if each.counts and each.seen <= began:
                self._count(each)
        self._pending = [each for each in self._pending if each.seen > began]
        return not self._pending

    def _count(self, each: _Pending) -> None:
        self.joins += self._is_new(each.fault.voice)
        self._counted += each.fault.reports
        self._not_before = max(self._not_before, each.not_before)
        if each.verified:
            # What is certain says what is wrong, and not what somebody met since.
            self.verified = True
            self._name(each.fault)

    def _is_new(self, voice: str) -> bool:
        """Whether no join of that client counts yet; of unknown ones, each does."""
        if voice in self._voices:
            return False
        if voice and len(self._voices) < _VOICES:
            self._voices.add(voice)
        return True

    def missed(self) -> None:
        """A probe was missed: no join that failed about that time counts."""
        self._pending = [each._replace(counts=False) for each in self._pending]

    def join_answered(self) -> None:
        """The active server answered a join well."""
        self.joins = self._counted = 0
        self._not_before = 0.0
        self._voices.clear()
        self.verified = False
        if self.refusal is not None and not self.refusal.of_call:
            self.refusal, self._refusals = None, 0
        self._pending = [each._replace(counts=False, not_before=0.0) for each in self._pending]


def _gravity(refusal: Refusal) -> tuple[bool, float]:
    """A quota is graver than a limit; of two limits the one that lasts longer."""
    return refusal.kind is Cause.QUOTA, refusal.until
