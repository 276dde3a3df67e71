"""Doubts: whose word is not worth a verification for the moment, and for how long."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

__all__ = ["Doubts"]

_MOST: Final = 10_000


@dataclass(slots=True)
class _Doubt:
    """Since when, and for how many seconds."""

    since: float
    pause: float


class Doubts:
    """
    Growing pauses by name: each further doubt doubles a name's pause.

    A name that was left alone for as long as the longest pause after its own had ended is as good
    as new. Of more than 10,000 names the one doubted longest ago is forgotten.
    """

    def __init__(self, *, first: float, longest: float) -> None:
        """``first`` and ``longest`` pause, in seconds."""
        self._first = first
        self._longest = longest
        self._doubts: OrderedDict[str, _Doubt] = OrderedDict()

    def add(self, name: str, now: float) -> None:
        """Doubt ``name`` from ``now`` on."""
        known = self._doubts.pop(name, None)
        pause = self._first
        if known is not None and now <= known.since + known.pause + self._longest:
            pause = min(2 * known.pause, self._longest)
        self._doubts[name] = _Doubt(since=now, pause=pause)
        if len(self._doubts) > _MOST:
            self._doubts.popitem(last=False)

    def forget(self, name: str) -> None:
        """Believe ``name`` again."""
        self._doubts.pop(name, None)

    def pause(self, name: str) -> float:
        """Seconds that ``name``'s pause lasts from its last doubt on; 0 without one."""
        known = self._doubts.get(name)
        return 0.0 if known is None else known.pause

    def doubtful(self, name: str, now: float, *, voices: int = 1) -> bool:
        """Whether ``name`` is in its pause, of which ``voices`` that speak for it take a share."""
        known = self._doubts.get(name)
        return known is not None and now < known.since + known.pause / max(1, voices)
