"""
Choice: every policy for choosing the next server. Filter, then rank.

A policy may ask what `Candidate` says and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .health import Health

__all__ = [
    "Candidate",
    "Choice",
    "Obstacle",
    "first_available",
    "in_turn",
    "last_resort",
    "next_available",
    "next_or_last",
]


class Obstacle(StrEnum):
    """Why a server may be chosen only by force."""

    DRAINED = "drained"
    DOWN = "down"
    MISCONFIGURED = "misconfigured: it refuses our key"
    NOT_SHARED = "not in the list of every process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """
    What choosing may ask about a server.

    Attributes:
        health: as this process sees it.
        seen: something was observed of it.
        passed: its last probe passed.
        misconfigured: it refuses our key.
        drained: an operator took it out.
        shared: every live process has it.
        cooling_until: end of its cool-down, None while it is in none.
        forgivable: the cool-down is for a cause that ends with the server's recovery.
        proven: what shows it up was seen since the last rotation, and so since it was left.
        limited: it refuses calls of our own for a limit.
        over: by the pool's own count its minutes are used up, or it is full.
        returning: its cool-down for a refusal is over, and no signed probe has passed since.
        asked: one that began since then has ended, without saying that it refuses.
        strained: the cool-down is for a limit that may be over before its time.
    """

    name: str
    health: Health
    seen: bool
    passed: bool
    misconfigured: bool
    drained: bool
    shared: bool
    cooling_until: float | None
    forgivable: bool
    proven: bool = True
    limited: bool = False
    over: bool = False
    returning: bool = False
    asked: bool = False
    strained: bool = False

    @property
    def available(self) -> bool:
        """Healthy, not in cool-down, not drained, within its limits."""
        return self.worth_a_signed_probe and not self.returning

    @property
    def worth_a_signed_probe(self) -> bool:
        """A signed probe that passes is all that may be missing for it to be available."""
        return self.health is Health.UP and self.cooling_until is None and self._fit

    @property
    def lacks_a_signed_probe(self) -> bool:
        """It would be choosable, had it been asked with our key since its cool-down ended."""
        asked = self.asked or not self.passed
        return self.worth_a_signed_probe and self.returning and not asked and self.shared

    @property
    def choosable(self) -> bool:
        """Available by its very last probe, and to every process."""
        return self.available and self.passed and self.shared

    @property
    def worth_a_probe(self) -> bool:
        """Nobody knows whether it is available: only its health is unknown."""
        return not self.seen and self.cooling_until is None and self._fit and self.shared

    @property
    def resting(self) -> bool:
        """It would be choosable, were it not in a cool-down that its recovery ends."""
        return self.cooling_until is not None and self.forgivable and self._answers

    @property
    def last_of_all(self) -> bool:
        """It answers, and nobody knows whether it would still refuse for a limit."""
        limited = self.cooling_until is not None and self.strained
        unproven = self.cooling_until is None and self.returning and self.asked
        return self._answers and (limited or unproven)

    @property
    def obstacle(self) -> Obstacle | None:
        """Why it may be chosen by name only with force. A cool-down is no reason."""
        if self.drained:
            return Obstacle.DRAINED
        if self.health is Health.DOWN:
            return Obstacle.DOWN
        if self.misconfigured:
            return Obstacle.MISCONFIGURED
        return None if self.shared else Obstacle.NOT_SHARED

    @property
    def worth_another_call(self) -> bool:
        """It refused a call for a limit, and nobody knows whether it still would."""
        sound = not (self.drained or self.misconfigured or self.over)
        return self.limited and self.health is Health.UP and sound and self.shared

    @property
    def _answers(self) -> bool:
        return self.health is Health.UP and self.passed and self._fit and self.shared

    @property
    def _fit(self) -> bool:
        return not (self.drained or self.misconfigured or self.limited or self.over)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """
    The server chosen, or None.

    Then ``probe`` are those that a probe could make choosable, and ``signed`` those that lack a
    signed one.
    """

    server: str | None = None
    probe: tuple[str, ...] = ()
    signed: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether probes must tell first."""
        return bool(self.probe or self.signed)


def in_turn(names: Sequence[str], after: str) -> tuple[str, ...]:
    """The names in the list's order after ``after``, wrapping to the first, without ``after``."""
    turn = list(names).index(after) + 1 if after in names else 0
    return tuple(name for name in (*names[turn:], *names[:turn]) if name != after)


def next_available(candidates: Iterable[Candidate]) -> Choice:
    """
    The first choosable one in turn.

    Those before it of which nobody knows yet are probed first: a process that has just begun must
    not skip them. While none is choosable, all such are.
    """
    unknown: list[str] = []
    returning: list[str] = []
    for candidate in candidates:
        if candidate.choosable:
            if not unknown and not returning:
                return Choice(server=candidate.name)
            break
        if candidate.worth_a_probe:
            unknown.append(candidate.name)
        elif candidate.lacks_a_signed_probe:
            returning.append(candidate.name)
    return Choice(probe=tuple(unknown), signed=tuple(returning))


def first_available(candidates: Iterable[Candidate]) -> Choice:
    """As `next_available`, but for who cannot wait: the first that is choosable now, if any is."""
    candidates = list(candidates)
    chosen = next((c.name for c in candidates if c.choosable), None)
    return next_available(candidates) if chosen is None else Choice(server=chosen)


def last_resort(candidates: Iterable[Candidate]) -> Choice:
    """
    As `first_available`; but when nothing at all is available, the resting one that is next.

    For leaving a server that serves nobody: one that answers again, though its cool-down has not
    ended, is better than none, and when there is not even that, one that may still refuse for a
    limit. The one whose cool-down ends first is chosen. What was seen of it before it was left
    does not count: those are probed first.
    """
    candidates = list(candidates)
    choice = first_available(candidates)
    found = choice.server is not None or choice.waits
    if found or any(c.available and c.shared for c in candidates):
        return choice
    for resting in (
        [c for c in candidates if c.resting],
        [c for c in candidates if c.last_of_all],
    ):
        if resting and not any(c.proven for c in resting):
            return Choice(probe=tuple(c.name for c in resting))
        if resting:
            proven = [c for c in resting if c.proven]
            return Choice(server=min(proven, key=lambda c: c.cooling_until or 0.0).name)
    return Choice(signed=tuple(c.name for c in candidates if c.worth_another_call))


def next_or_last(candidates: Iterable[Candidate]) -> Choice:
    """
    As `next_available`; and where there is nothing to wait for, as `last_resort`.

    For leaving a server that answers and yet serves nobody: that may wait for a probe, so that
    nobody in turn is passed by.
    """
    candidates = list(candidates)
    choice = next_available(candidates)
    return choice if choice.server is not None or choice.waits else last_resort(candidates)
