"""
Budget: when a server's limits are so near that it should be left, and which can take everybody.

The figures come from the ledger (`minutes`) and the process rows; the limits are what the
operator configured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from .document import ServerRecord
from .limits import Limits

__all__ = [
    "NONE",
    "Usage",
    "due",
    "has_room",
    "is_full",
    "is_spent",
    "left",
    "lifted",
    "runs_out",
    "usable",
]

QUIET: Final = 0.5
"""Part of the last hour's mean number of participants up to which a moment is a quiet one."""

LATEST: Final = 600.0
"""Seconds after its share was used up at which a server is left, quiet moment or not."""

NEAR: Final = 60.0
"""Seconds before its minutes run out at which a server is left, quiet moment or not."""

_FARTHEST: Final = 366 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """
    What is used of one server.

    Attributes:
        used: participant minutes since the last reset.
        ends: the next reset, in seconds since the epoch; from then on nothing is used. None if
            nobody knows.
        participants: how many are on it now.
        mean: how many there were in the last hour, on average.
    """

    used: float = 0.0
    ends: float | None = None
    participants: int = 0
    mean: float = 0.0

    def used_at(self, now: float) -> float:
        """Minutes used at ``now``, not long after these figures."""
        return 0.0 if self.ends is not None and now >= self.ends else self.used


NONE: Final = Usage()
"""Nothing is known to be used."""


def left(usage: Usage, limits: Limits, now: float) -> float | None:
    """Minutes left until the next reset; None without a budget."""
    return None if limits.minutes is None else max(0.0, limits.minutes - usage.used_at(now))


def runs_out(usage: Usage, limits: Limits, now: float) -> float | None:
    """
    When the minutes run out if everybody stays, in seconds since the epoch.

    Each participant uses one minute a minute. None if that is not before the next reset, or not
    within a year.
    """
    minutes = left(usage, limits, now)
    if minutes is None or not usage.participants:
        return None
    moment, ends = now + 60.0 * minutes / usage.participants, usage.ends
    if ends is None or now >= ends:
        ends = now + _FARTHEST
    return moment if moment < ends else None


def usable(limits: Limits, share: float) -> float | None:
    """Minutes of a server that the pool uses, from one reset to the next; None without a budget."""
    return None if limits.minutes is None else share * limits.minutes


def is_spent(usage: Usage, limits: Limits, share: float, now: float) -> bool:
    """Whether the ``share`` of its minutes that the pool uses is used up."""
    most = usable(limits, share)
    return most is not None and usage.used_at(now) >= most


def lifted(record: ServerRecord, limits: Limits, share: float) -> ServerRecord:
    """
    ``record`` without a cool-down for minutes that were out, if there are more by now.

    Its budget was raised, or the share of it. What the server itself refused is another matter.
    """
    if record.spent_minutes is None:
        return record
    most = usable(limits, share)
    if most is not None and most <= record.spent_minutes:
        return record
    return replace(record, cool_down_until=None, cool_down_cause=None, spent_minutes=None)


def due(usage: Usage, limits: Limits, share: float, since: float, now: float) -> str | None:
    """
    Why a server whose ``share`` was used up at ``since`` is to be left now; None to wait.

    What is left beyond the share is there to be waited with, for a moment at which few are moved.
    """
    if limits.minutes is None or not is_spent(usage, limits, share, now):
        return None
    used, ends = usage.used_at(now), runs_out(usage, limits, now)
    if not usage.participants:
        why = "nobody is connected"
    elif usage.participants <= QUIET * usage.mean:
        why = "a quiet moment"
    elif used >= limits.minutes * (1 + share) / 2 or (ends is not None and ends <= now + NEAR):
        why = "they will soon be out"
    elif now >= since + LATEST:
        why = "no quiet moment came"
    else:
        return None
    return f"{used:.0f} of {limits.minutes:.0f} minutes are used; {why}"


def is_full(usage: Usage, limits: Limits) -> bool:
    """Whether there are as many participants as the server may have."""
    most = limits.max_participants
    return most is not None and usage.participants >= most


def has_room(usage: Usage, limits: Limits, more: int) -> bool:
    """Whether so many ``more`` participants would not fill it: who moves must not move again."""
    most = limits.max_participants
    return most is None or usage.participants + more < most
