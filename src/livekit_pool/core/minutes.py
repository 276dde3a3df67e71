"""
Minutes: the ledger of who was on which server for how long.

A *stay* is one participant's time on one server, from joining to leaving, named by the SID that
the server gave it. Several witnesses see the same stay, late, twice, or never; what they saw is
merged, so that the stay is the union of it: from the earliest moment at which anybody saw the
participant to the latest. The store's ledger (`livekit_pool.stores.base.Ledger`) keeps of each
writer and key the higher sum, so a server is one writer there, with these keys:

    SID:from   2**52 minus the moment at which the stay began: of several the earliest is kept
    SID:to     the moment at which the participant was seen last
    until      the watermark: everything before it stands in the sums below, and only there
    at:MOMENT  the sum from that moment on: of a day (UTC), or of the part of it in one period

Moments and sums are in milliseconds. `folded` moves the watermark on: what lies before it goes
into the sums, stays that ended before it go. What anybody says later of the time before the
watermark counts nothing; that is why nothing can be counted twice, and why the watermark is kept
`GRACE` behind the present.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

__all__ = [
    "DROPPED_AT_ONCE",
    "GRACE",
    "HOUR",
    "WATERMARK",
    "Account",
    "Calendar",
    "Fold",
    "Stay",
    "folded",
    "mean",
    "merged",
    "pruned",
    "read",
    "seen",
    "server_of",
    "used",
    "writer",
]

HOUR: Final = 3600.0
"""Seconds over which the mean number of participants is taken."""

GRACE: Final = HOUR + 300.0
"""Seconds after which evidence comes too late; longer than `HOUR`, whose stays are all needed."""

WATERMARK: Final = "until"
"""The key of the watermark."""

_MIRROR: Final = 2**52
_DAY: Final = 86_400_000
_KEPT: Final = 400 * _DAY
"""How long sums are kept: somebody may want to see the same month of last year."""

DROPPED_AT_ONCE: Final = 500
"""Stays dropped in one fold, where others wait for it."""

_PREFIX: Final = "minutes:"
_FROM: Final = "from"
_TO: Final = "to"
_AT: Final = "at:"


class Calendar(Protocol):
    """When a server's minutes are counted anew (`livekit_pool.resets.Reset`)."""

    def begin(self, now: float) -> float:
        """The beginning of the period that ``now`` is in; both in seconds since the epoch."""

    def end(self, now: float) -> float | None:
        """Its end, the beginning of the next one; None if nobody knows."""


class Stay(NamedTuple):
    """From when to when a participant was seen, in milliseconds since the epoch."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """
    What the ledger says of one server, in milliseconds.

    Attributes:
        until: the watermark.
        sums: beginning of a part of the time before it -> what was counted in it.
        stays: by SID; of each only what lies behind the watermark counts.
    """

    until: int = 0
    sums: Mapping[int, int] = field(default_factory=dict)
    stays: Mapping[str, Stay] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """
    How an account is made shorter, for `livekit_pool.stores.base.Store.fold`.

    Attributes:
        expected: the watermark that it is made for.
        totals: the new one, and the new sums.
        drop: keys that say nothing any more.
    """

    expected: int
    totals: Mapping[str, int]
    drop: tuple[str, ...]


def writer(server: str) -> str:
    """The ledger's writer that stands for ``server``."""
    return _PREFIX + server


def server_of(writer: str) -> str | None:
    """The server that ``writer`` stands for; None if it stands for none."""
    return writer.removeprefix(_PREFIX) if writer.startswith(_PREFIX) else None


def seen(sid: str, start: float, end: float) -> dict[str, int]:
    """
    What the ledger is to be told of a participant seen from ``start`` to ``end``.

    Both are seconds since the epoch; an end before the start counts as the start.
    """
    begun = _ms(start)
    return {f"{sid}:{_FROM}": _MIRROR - begun, f"{sid}:{_TO}": max(begun, _ms(end))}


def read(sums: Mapping[str, int]) -> Account:
    """Read what the ledger holds of one server. What makes no sense there is left out."""
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    parts: dict[int, int] = {}
    for key, total in sums.items():
        name, _, kind = key.rpartition(":")
        if kind == _FROM:
            starts[name] = _MIRROR - total
        elif kind == _TO:
            ends[name] = total
        elif key.startswith(_AT) and kind.isdecimal():
            parts[int(kind)] = total
    stays = {
        sid: Stay(start, ends[sid])
        for sid, start in starts.items()
        if 0 <= start <= ends.get(sid, -1)
    }
    return Account(until=sums.get(WATERMARK, 0), sums=parts, stays=stays)


def merged(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Of each key the higher sum, as the ledger merges them."""
    both = dict(one)
    for key, total in other.items():
        both[key] = max(total, both.get(key, 0))
    return both


def used(account: Account, begin: float, end: float) -> float:
    """Minutes that participants were on the server between two moments, seconds since the epoch."""
    first, last = _ms(begin), _ms(end)
    before = sum(total for start, total in account.sums.items() if first <= start < last)
    return (before + _within(account, first, last)) / 60_000


def mean(account: Account, now: float) -> float:
    """How many participants there were in the last `HOUR`, on average."""
    return _within(account, _ms(now - HOUR), _ms(now)) / (HOUR * 1000)


def folded(
    account: Account, calendar: Calendar, now: float, most: int = DROPPED_AT_ONCE
) -> Fold | None:
    """
    How to move the watermark on to `GRACE` before ``now``; None if there is nothing to do.

    Of the stays that are over, ``most`` are dropped.

    A watermark ahead of ``now`` was set by a clock that was wrong, and nothing would be counted
    until then: it is put back. What the stays then count again is taken out of the sums.
    """
    until = _ms(now - GRACE)
    if until <= account.until <= _ms(now):
        return None
    sums: dict[int, int] = {}
    if account.stays:
        first = min(stay.start for stay in account.stays.values())
        for start, end in _parts(max(account.until, first, until - _KEPT), until, calendar):
            total = _within(account, start, end)
            if total:
                part = _part(start, calendar)
                sums[part] = sums.get(part, account.sums.get(part, 0)) + total
    if account.until > until and account.stays:
        behind = replace(account, until=until)
        first = min(stay.start for stay in account.stays.values())
        for start, end in _parts(max(until, first), account.until, calendar):
            part = _part(start, calendar)
            kept = sums.get(part, account.sums.get(part, 0))
            if kept:
                sums[part] = max(0, kept - _within(behind, start, end))
    over = [sid for sid, stay in account.stays.items() if stay.end <= until]
    old = [start for start in account.sums if start < until - _KEPT]
    if not over and not old and account.until <= until:
        return None  # nothing would become shorter
    gone = [f"{sid}:{key}" for sid in over[:most] for key in (_FROM, _TO)]
    return Fold(
        expected=account.until,
        totals={WATERMARK: until} | {f"{_AT}{start}": total for start, total in sums.items()},
        drop=(*gone, *(f"{_AT}{start}" for start in old)),
    )


def pruned(sums: Mapping[str, int]) -> Mapping[str, int]:
    """What is left of a server's ledger without the stays that ended before the watermark."""
    until = sums.get(WATERMARK, 0)
    over = {
        key.removesuffix(f":{_TO}")
        for key, total in sums.items()
        if key.endswith(f":{_TO}") and total <= until
    }
    if not over:
        return sums
    return {key: total for key, total in sums.items() if key.rpartition(":")[0] not in over}


def _within(account: Account, first: int, last: int) -> int:
    """Milliseconds of stays between two moments, behind the watermark."""
    first = max(first, account.until)
    return sum(
        max(0, min(stay.end, last) - max(stay.start, first)) for stay in account.stays.values()
    )


def _parts(first: int, last: int, calendar: Calendar) -> Iterator[tuple[int, int]]:
    """Cut the time from ``first`` to ``last`` where a day begins, or a period."""
    while first < last:
        period = calendar.end(first / 1000)
        ends = last if period is None else _ms(period)
        cut = min(last, (first // _DAY + 1) * _DAY, ends if ends > first else last)
        yield first, cut
        first = cut


def _part(moment: int, calendar: Calendar) -> int:
    """The beginning of the part that ``moment`` is in."""
    return max(moment // _DAY * _DAY, _ms(calendar.begin(moment / 1000)))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
