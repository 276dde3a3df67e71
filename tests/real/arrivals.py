"""Arrivals: when something came, and what of it is missing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(slots=True)
class Arrivals:
    """
    What came from one sender.

    Attributes:
        times: when, in seconds of the monotonic clock, in order.
        numbers: the numbers of messages, in the order in which they came; empty for audio.
    """

    times: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def add(self, at: float, number: int | None = None) -> None:
        """Something came ``at`` that time."""
        self.times.append(at)
        if number is not None:
            self.numbers.append(number)

    def longest_gap(self, *, since: float | None = None, until: float | None = None) -> float:
        """
        The longest silence in seconds.

        With ``since`` or ``until`` the silence before the first and after the last arrival counts
        as well, so that a stream that never came back is not taken for one without a gap. Infinite
        if nothing came at all.
        """
        came = [
            at
            for at in self.times
            if (since is None or at >= since) and (until is None or at <= until)
        ]
        edges = [edge for edge in (since, until) if edge is not None]
        if not came:
            return math.inf
        return max((b - a for a, b in pairwise(sorted(came + edges))), default=0.0)

    def missing(self, last: int) -> list[int]:
        """The numbers up to ``last`` that never came, counted from the first that did."""
        came = set(self.numbers)
        return [n for n in range(min(came, default=1), last + 1) if n not in came]

    def repeated(self) -> int:
        """How many messages came more than once."""
        return len(self.numbers) - len(set(self.numbers))
