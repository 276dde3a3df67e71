"""Evidence: what this process has seen of stays and the store does not have yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from ..core import minutes

__all__ = ["LIMIT", "Evidence", "Span", "Stay", "sums_of"]

LIMIT: Final = 100_000
"""
Stays of which evidence is kept while the store is away; then the oldest is lost.

Some 20 MB; the stays of 100,000 participants who joined while it was.
"""

_LONGEST: Final = 31 * 86_400.0
"""Seconds before now at which a stay may have begun: a clock that is further off is wrong."""

_LONGEST_SID: Final = 64

Stay = tuple[str, str]
"""Name of a server, SID of a participant."""

Span = tuple[float, float]
"""From when to when it was seen, seconds since the epoch."""


class Evidence:
    """
    Merges what witnesses say of stays, until it is taken to the store.

    Attributes:
        lost: stays of which evidence was lost, because there was too much of it.
    """

    def __init__(self, now: Callable[[], float], limit: int = LIMIT) -> None:
        """``now`` is the store's time, ``limit`` the number of stays that are kept."""
        self._now = now
        self._limit = limit
        self._seen: dict[Stay, Span] = {}
        self._live: dict[Stay, tuple[float, int]] = {}  # since when, by how many sessions
        self.lost = 0

    def __len__(self) -> int:
        return len(self._seen)

    def began(self, server: str, sid: str) -> None:
        """A session of a participant is here, from now on."""
        if _is_sid(sid):
            since, sessions = self._live.get((server, sid), (self._now(), 0))
            self._live[server, sid] = since, sessions + 1

    def ended(self, server: str, sid: str) -> None:
        """It is over. A participant may have another: a resume comes before the end of the old."""
        live = self._live.get((server, sid))
        if live is None:
            return
        since, sessions = live
        now = self._now()
        if sessions > 1:
            self._live[server, sid] = since, sessions - 1
        else:
            del self._live[server, sid]
        self.saw(server, sid, since, now)

    def saw(self, server: str, sid: str, start: float, end: float) -> None:
        """Somebody saw a participant from ``start`` to ``end``, seconds since the epoch."""
        now = self._now()
        if not _is_sid(sid) or not math.isfinite(start) or not math.isfinite(end):
            return
        end = max(now - _LONGEST, min(end, now))
        self._keep((server, sid), (max(now - _LONGEST, min(start, end)), end))

    def spans(self) -> dict[Stay, Span]:
        """All of it, with the sessions that are here as they are now."""
        now, spans = self._now(), dict(self._seen)
        for stay, (since, _) in self._live.items():
            spans[stay] = _union(spans.get(stay), (since, now))
        return spans

    def take(self) -> dict[Stay, Span]:
        """The same, to be brought to the store: only `put_back` makes it this one's again."""
        spans = self.spans()
        self._seen = {}
        return spans

    def put_back(self, spans: Mapping[Stay, Span]) -> None:
        """The store did not say that it has it."""
        newer, self._seen = self._seen, {}
        for stay, span in (*spans.items(), *newer.items()):
            self._keep(stay, span)

    def _keep(self, stay: Stay, span: Span) -> None:
        self._seen[stay] = _union(self._seen.get(stay), span)
        while len(self._seen) > self._limit:
            del self._seen[next(iter(self._seen))]
            self.lost += 1


def sums_of(spans: Mapping[Stay, Span]) -> dict[str, dict[str, int]]:
    """``spans`` as the ledger is told of them."""
    sums: dict[str, dict[str, int]] = {}
    for (server, sid), (start, end) in spans.items():
        sums.setdefault(minutes.writer(server), {}).update(minutes.seen(sid, start, end))
    return sums


def _union(one: Span | None, other: Span) -> Span:
    return other if one is None else (min(one[0], other[0]), max(one[1], other[1]))


def _is_sid(sid: str) -> bool:
    return 0 < len(sid) <= _LONGEST_SID and sid.isascii() and sid.isprintable()
