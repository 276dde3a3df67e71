"""Retry-After: when a server wants to be asked again (RFC 9110, section 10.2.3)."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

__all__ = ["retry_after"]


def retry_after(header: str | None, now: float | None = None) -> float | None:
    """
    Read the header: seconds from now, at least 0; None where there is none that can be read.

    Args:
        header: seconds, or a date.
        now: seconds since the epoch by this machine's clock, which a date is compared with.
    """
    given = (header or "").strip()
    if given.isascii() and given.isdecimal():
        return float(given[:12])
    try:
        moment = parsedate_to_datetime(given).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - (time.time() if now is None else now))
