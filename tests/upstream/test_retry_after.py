"""Retry-After, as RFC 9110 has it."""

from __future__ import annotations

import time

import pytest

from livekit_pool.upstream.retry_after import http_date, retry_after

NOW = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 0.0),
        ("9" * 400, 999_999_999_999.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\N{SUPERSCRIPT TWO}", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


@pytest.mark.parametrize(
    "until",
    ["Sun, 06 Nov 1994 08:50:07 GMT", "Sunday, 06-Nov-94 08:50:07 GMT", "Sun Nov  6 08:50:07 1994"],
)
def test_all_forms_of_a_date_mean_gmt(until: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after(until, http_date("Sun, 06 Nov 1994 08:49:37 GMT")) == 30
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("date", [None, "", "yesterday", "\x00", "Fri, 31 Feb 2025 00:00:00 GMT"])
def test_what_is_no_date_says_nothing(date: str | None) -> None:
    assert http_date(date) is None
