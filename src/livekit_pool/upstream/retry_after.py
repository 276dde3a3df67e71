"""``Retry-After``: when a server that refuses says that it may be asked again."""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from ..core.health import LONGEST_RETRY_AFTER

__all__ = ["retry_after"]

_SHORTEST: Final = 1.0


def retry_after(header: str | None, date: str | None = None) -> float | None:
    """
    Seconds from now that ``header`` asks for; None if it cannot be read.

    At least 1, at most `LONGEST_RETRY_AFTER`.

    RFC 9110, section 10.2.3: a number of seconds, or a date in any of the three forms of section
    5.6.7. A date is counted from the answer's own ``Date`` where there is one, so that clocks may
    differ.
    """
    value = (header or "").strip()
    if value.isascii() and value.isdigit():
        seconds = float(value[:20])
    else:
        until, now = _moment(value), _moment(date or "")
        if until is None:
            return None
        seconds = until - (time.time() if now is None else now)
    return min(max(seconds, _SHORTEST), LONGEST_RETRY_AFTER)


def _moment(date: str) -> float | None:
    """Seconds since the epoch of an HTTP date, which is always in GMT."""
    try:
        moment = parsedate_to_datetime(date.strip())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
