"""Retry-After as servers and proxies write it, and as they should not."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from livekit_pool.core.health import LONGEST_RETRY_AFTER as LONGEST
from livekit_pool.upstream.retry_after import retry_after

NOW = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 1),
        ("86400", LONGEST),
        ("31536000", LONGEST),
        ("9" * 400, LONGEST),
        ("Sun, 06 Nov 1994 08:50:07 GMT", 30),
        ("Sunday, 06-Nov-94 08:50:07 GMT", 30),
        ("Sun Nov  6 08:50:07 1994", 30),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 1),  # it is over
        ("Fri, 06 Jan 1995 08:00:00 GMT", LONGEST),
    ],
)
def test_seconds_and_dates(value: str, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value", ["", "-5", "1.5", "1e5", "soon", "²", "Fri, 31 Feb 2025 00:00:00 GMT", "\x00", "in 5"]
)
def test_what_cannot_be_read_says_nothing(value: str) -> None:
    assert retry_after(value, NOW) is None


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_without_the_servers_own_clock_ours_counts(date: str) -> None:
    until = datetime.fromtimestamp(time.time() + 60, UTC) + timedelta(seconds=1)

    seconds = retry_after(format_datetime(until, usegmt=True), date)

    assert seconds is not None
    assert 58 <= seconds <= 61


def test_a_clock_that_is_hours_off_changes_nothing() -> None:
    assert retry_after("Mon, 07 Nov 2044 10:00:10 GMT", "Mon, 07 Nov 2044 10:00:00 GMT") == 10
