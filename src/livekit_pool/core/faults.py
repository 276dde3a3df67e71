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


_PENDING_LIMIT: Final = 10_000


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

    A failed join is explained by what the next probe sees: if that is missed, the server or our
    own network is in trouble, and the probes will tell which. If it passes, the join *counts*:
    the server seems well and yet refuses joins.

    Attributes:
        kind: that of the newest fault.
        detail: that of the newest fault that had one.
        joins: failed joins that count, in a row; a passed probe does not forgive these.
    """

    def __init__(self) -> None:
        self.kind = Cause.DOWN
        self.detail = ""
        self.joins = 0
        self._pending: list[tuple[float, bool]] = []  # seen when; whether it may count as a join

    @property
    def reports(self) -> int:
        """How many faults a rotation would answer now."""
        return self.joins + len(self._pending)

    def add(self, fault: FaultSeen, now: float, *, answering: bool) -> None:
        """Remember ``fault``; ``answering`` says whether the server's last probe passed."""
        self.kind = fault.kind
        self.detail = fault.detail or self.detail
        if len(self._pending) < _PENDING_LIMIT:
            self._pending.append((now, answering and fault.source is FaultSource.JOIN))

    def forgive(self, began: float) -> bool:
        """
        A probe that began at ``began`` passed: it resolves what was seen before.

        Returns:
            whether nothing is left that needs another probe.
        """
        self.joins += sum(join for seen, join in self._pending if seen <= began)
        self._pending = [(seen, join) for seen, join in self._pending if seen > began]
        return not self._pending

    def missed(self) -> None:
        """A probe was missed: no join that failed about that time counts."""
        self._pending = [(seen, False) for seen, _ in self._pending]

    def join_answered(self) -> None:
        """The active server answered a join well."""
        self.joins = 0
        self.missed()
