"""
Faults: what was seen -> kind of fault -> what follows, and the faults not yet resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .document import Cause, Document
from .events import FaultSeen, FaultSource, ProbeOutcome

__all__ = ["COOLS", "KINDS", "PendingFaults", "is_late"]

KINDS: Final[Mapping[ProbeOutcome, Cause]] = {
    ProbeOutcome.REFUSED: Cause.DOWN,
    ProbeOutcome.FAILED: Cause.DOWN,
    ProbeOutcome.SILENT: Cause.TIMEOUT,
}
"""Which kind of fault a failing probe is. The others are none."""

COOLS: Final = frozenset({Cause.DOWN, Cause.TIMEOUT})
"""Kinds that put the server which is left into cool-down, and that a last resort may ignore."""


def is_late(fault: FaultSeen, document: Document) -> bool:
    """
    Whether ``fault`` says nothing about the active server of ``document``.

    It does not if it is about another server, or was seen before this one became active: then
    it has been answered by a rotation since, even if the server is active again meanwhile. A
    revision that moved for another reason (a drain) makes no fault late.
    """
    return fault.server != document.active_server or fault.revision < document.active_since


class PendingFaults:
    """
    True faults against the active server that no probe and no rotation has resolved yet.

    Attributes:
        kind: that of the first of them.
        detail: that of the newest of them.
        reports: how many there are.
        joins: failed joins in a row; a passed probe does not forgive these.
        since: when the newest was seen.
    """

    def __init__(self) -> None:
        self.kind = Cause.DOWN
        self.detail = ""
        self.reports = 0
        self.joins = 0
        self.since = 0.0

    def add(self, fault: FaultSeen, now: float) -> None:
        """Remember ``fault``."""
        if not self.reports and not self.joins:
            self.kind = fault.kind
        self.detail = fault.detail or self.detail
        self.reports += 1
        self.joins += fault.source is FaultSource.JOIN
        self.since = now

    def forgive(self, began: float) -> bool:
        """
        A probe that began at ``began`` passed.

        Returns:
            False if it proves nothing, because a fault was seen after it had begun.
        """
        if self.reports and began < self.since:
            return False
        self.reports = 0
        return True

    def join_answered(self) -> None:
        """The active server answered a join well."""
        self.joins = 0
