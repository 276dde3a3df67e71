"""Retry-After: when a server wants to be asked again (RFC 9110, section 10.2.3)."""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["http_date", "retry_after"]


def retry_after(header: str | None, now: float | None = None) -> float | None:
    """
    Read the header: seconds from now, at least 0; None where there is none that can be read.

    Args:
        header: seconds, or a date.
        now: what a date is compared with, in seconds since the epoch: the answer's own ``Date``
            where it has one, so that clocks may differ; by default this machine's clock.
    """
    given = (header or "").strip()
    if given.isascii() and given.isdecimal():
        return float(given[:12])
    moment = http_date(given)
    if moment is None:
        return None
    return max(0.0, moment - (time.time() if now is None else now))


def http_date(header: str | None) -> float | None:
    """
    Read a date in any of the three forms of RFC 9110, section 5.6.7, all of which mean GMT.

    Seconds since the epoch; None if it is none.
    """
    try:
        moment = parsedate_to_datetime((header or "").strip())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
