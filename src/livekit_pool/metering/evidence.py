"""Evidence: what this process has seen of stays and the store does not have yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..core import minutes
from .clocks import ServerClocks

__all__ = ["LIMIT", "Evidence", "Span", "Stay", "sums_of"]

LIMIT: Final = 100_000
"""
Stays of which evidence is kept while the store is away; then the oldest is lost.

Some 20 MB; the stays of 100,000 participants who joined while it was.
"""

_LONGEST: Final = 31 * 86_400.0
"""Seconds before now at which a stay may have begun: a clock that is further off is wrong."""

_DAY: Final = 86_400.0

_LONGEST_SID: Final = 64

Stay = tuple[str, str]
"""Name of a server, SID of a participant."""

Span = tuple[float, float]
"""From when to when it was seen, seconds since the epoch by the server's clock."""


@dataclass(slots=True)
class _Live:
    """
    A participant with sessions here.

    Attributes:
        since: when the first of them began, monotonic. until: when the last one ended, if it has.
        joined: when the participant did, by the server's clock, if it said so.
        base: the server's clock minus the monotonic one, from when it was known on. It stays: where
            the server's clock is set meanwhile, this stay is no longer for that.
    """

    since: float
    joined: float | None = None
    sessions: int = 0
    until: float | None = None
    base: float | None = None


class Evidence:
    """
    Merges what witnesses say of stays, until it is taken to the store.

    Attributes:
        lost: stays of which evidence was lost, because there was too much of it.
    """

    def __init__(self, clocks: ServerClocks, limit: int = LIMIT) -> None:
        """``limit`` is the number of stays that are kept."""
        self._clocks = clocks
        self._limit = limit
        self._seen: dict[Stay, Span] = {}
        self._live: dict[Stay, _Live] = {}
        self._over: list[tuple[Stay, _Live]] = []  # on servers whose time is not known yet
        self.lost = 0

    def __len__(self) -> int:
        return len(self._seen)

    def began(self, server: str, sid: str, joined: float = 0.0, *, now: bool = False) -> None:
        """
        A session of a participant is here, from now on.

        Args:
            joined: when the participant joined, by the server's clock; 0 if unsaid.
            now: whether that was just now, so that it tells what time it is there.
        """
        if not _is_sid(sid):
            return
        if now and joined:
            self._clocks.said(server, joined)
        live = self._live.setdefault((server, sid), _Live(self._clocks.monotonic()))
        live.joined = live.joined or joined or None
        live.sessions += 1

    def ended(self, server: str, sid: str) -> None:
        """It is over. A participant may have another: a resume comes before the end of the old."""
        live = self._live.get((server, sid))
        if live is None:
            return
        live.sessions -= 1
        if not live.sessions:
            del self._live[server, sid]
            live.until = self._clocks.monotonic()
            self._over.append(((server, sid), live))
            self._keep_those_over()

    def saw(self, server: str, sid: str, start: float, end: float) -> None:
        """Somebody saw a participant from ``start`` to ``end``, by the server's clock."""
        now = self._clocks.now(server)
        latest = now if self._clocks.knows(server) else now + _DAY
        if not _is_sid(sid) or not math.isfinite(start) or not math.isfinite(end):
            return
        end = max(now - _LONGEST, min(end, latest))
        self._keep((server, sid), (max(now - _LONGEST, min(start, end)), end))

    def spans(self) -> dict[Stay, Span]:
        """All of it, with the sessions that are here as they are now."""
        self._keep_those_over()
        spans = dict(self._seen)
        for stay, live in (*self._over, *self._live.items()):
            spans[stay] = _union(spans.get(stay), self._span(stay, live))
        return spans

    def take(self) -> dict[Stay, Span]:
        """
        The same, to be brought to the store: only `put_back` makes it this one's again.

        Sessions on servers whose time is not known yet wait for that: what is in the ledger stays.
        """
        self._keep_those_over()
        spans, self._seen = self._seen, {}
        for stay, live in self._live.items():
            if self._clocks.settled(stay[0]):
                spans[stay] = _union(spans.get(stay), self._span(stay, live))
        return spans

    def put_back(self, spans: Mapping[Stay, Span]) -> None:
        """The store did not say that it has it."""
        newer, self._seen = self._seen, {}
        for stay, span in (*spans.items(), *newer.items()):
            self._keep(stay, span)

    def _keep_those_over(self) -> None:
        waiting = []
        for stay, live in self._over:
            if self._clocks.settled(stay[0]):
                self._keep(stay, self._span(stay, live))
            else:
                waiting.append((stay, live))
        self.lost += max(0, len(waiting) - self._limit)
        self._over = waiting[-self._limit :]

    def _span(self, stay: Stay, live: _Live) -> Span:
        server, until = stay[0], live.until
        if live.base is None and self._clocks.knows(server):
            live.base = self._clocks.base(server)
        base = self._clocks.base(server) if live.base is None else live.base
        start = base + live.since
        if live.joined is not None:
            # It cannot have joined after it was here, but by a clock that is wrong.
            start = min(start, max(live.joined, start - _LONGEST))
        return start, base + (self._clocks.monotonic() if until is None else until)

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
