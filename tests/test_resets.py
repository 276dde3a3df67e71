"""When a quota begins anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livekit_pool.config.values import reset
from livekit_pool.resets import MONTHLY, Reset

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("which", "now", "begin", "end"),
    [
        (MONTHLY, "2026-11-26T12:00Z", "2026-11-01T00:00Z", "2026-12-01T00:00Z"),
        (MONTHLY, "2026-12-01T00:00Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        (MONTHLY, "2026-11-30T23:59:59.9Z", "2026-11-01T00:00Z", "2026-12-01T00:00Z"),
        (Reset(day=15), "2026-01-03T00:00Z", "2025-12-15T00:00Z", "2026-01-15T00:00Z"),
        (Reset(day=31), "2026-02-20T00:00Z", "2026-01-31T00:00Z", "2026-02-28T00:00Z"),
        (Reset(day=31), "2028-02-29T00:00Z", "2028-02-29T00:00Z", "2028-03-31T00:00Z"),
        # In Berlin the first of December begins while it is November in UTC.
        (Reset(zone=BERLIN), "2026-11-30T23:30Z", "2026-12-01T00:00+01:00", "2027-01-01T00:00+01"),
        # The clock goes forward on 29 March, from 2 to 3: that month is an hour shorter.
        (Reset(zone=BERLIN), "2026-03-30T00:00Z", "2026-03-01T00:00+01:00", "2026-04-01T00:00+02"),
    ],
)
def test_the_period_that_holds_a_moment(which: Reset, now: str, begin: str, end: str) -> None:
    assert (which.begin(at(now)), which.end(at(now))) == (at(begin), at(end))


def test_a_fixed_moment_comes_once() -> None:
    once = Reset(at=1000.0)
    assert (once.begin(999.0), once.end(999.0)) == (0.0, 1000.0)
    assert (once.begin(1000.0), once.end(1000.0)) == (1000.0, None)


@given(
    now=st.floats(0, 4e9),
    day=st.integers(1, 31),
    zone=st.one_of(
        st.sampled_from([UTC, BERLIN, ZoneInfo("Pacific/Apia"), ZoneInfo("America/Sao_Paulo")]),
        st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours))),
    ),
)
def test_periods_follow_each_other_without_a_gap(now: float, day: int, zone: ZoneInfo) -> None:
    monthly = Reset(day=day, zone=zone)
    begin, end = monthly.begin(now), monthly.end(now)
    assert end is not None
    assert begin <= now < end
    assert monthly.begin(end) == end
    assert monthly.end(begin) == end
    assert 27 * 86_400 < end - begin < 33 * 86_400


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1", MONTHLY),
        (1, MONTHLY),
        ("31 UTC", Reset(day=31)),
        (" 15  Europe/Berlin ", Reset(day=15, zone=BERLIN)),
        ("2026-12-24T00:00:00+01:00", Reset(at=at("2026-12-23T23:00Z"))),
        (datetime(2026, 12, 24, tzinfo=UTC), Reset(at=at("2026-12-24T00:00Z"))),
        (datetime(2026, 12, 24), Reset(at=at("2026-12-24T00:00Z"))),
    ],
)
def test_what_a_setting_may_say(given: object, expected: Reset) -> None:
    assert reset(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        "",
        "0",
        "32",
        "00131",
        "0019",
        "monthly",
        "1st",
        "2026-12-24T00:00:00",
        "2026-12",
        True,
        1.5,
        None,
        "-1",
        "²",
    ],
)
def test_anything_else_is_refused_with_what_to_write(given: object) -> None:
    with pytest.raises(ValueError, match="must be a day of the month"):
        reset(given)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc/passwd", "x" * 300])
def test_a_zone_that_nobody_knows_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match=r"time zone"):
        reset(f"1 {zone}")
