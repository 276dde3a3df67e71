"""
Reset: when a server's quota begins anew.

Pure: no I/O and no clock. A zone is handed in, `config` looks it up.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

__all__ = ["MONTHLY", "Reset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """
    When a server's quota begins anew: each month, or once.

    Attributes:
        day: day of the month, 1 to 31, at whose midnight it does; in a shorter month its last day.
        zone: whose midnight that is.
        at: a fixed moment instead, in seconds since the epoch; None for every month.
    """

    day: int = 1
    zone: tzinfo = UTC
    at: float | None = None

    def begin(self, now: float) -> float:
        """
        When the period that holds ``now`` began: the last reset, in seconds since the epoch.

        0 before a fixed one, and that moment itself from then on.
        """
        if self.at is not None:
            return self.at if now >= self.at else 0.0
        moment = self._of_month(now, 0)
        return moment if moment <= now else self._of_month(now, -1)

    def end(self, now: float) -> float | None:
        """
        When the period that holds ``now`` ends: the next reset, in seconds since the epoch.

        None after a fixed one: nobody said when the next one is.
        """
        if self.at is not None:
            return self.at if now < self.at else None
        moment = self._of_month(now, 0)
        return moment if moment > now else self._of_month(now, 1)

    @property
    def label(self) -> str:
        """One text for what it is, the same wherever it is the same."""
        return f"{self.day} {self.zone}" if self.at is None else f"{self.at:.0f}"

    def _of_month(self, now: float, months: int) -> float:
        """The reset of the month in which ``now`` is there, or so many months later."""
        local = datetime.fromtimestamp(now, self.zone)
        year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
        day = min(self.day, calendar.monthrange(year, month + 1)[1])
        # A midnight that daylight saving skips is the moment at which the clock went on: Python
        # takes the offset from before it (PEP 495).
        return (datetime(year, month + 1, day, tzinfo=self.zone) - _EPOCH) / timedelta(seconds=1)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

MONTHLY: Final = Reset()
"""The first of the month in UTC, as LiveKit Cloud's is."""
