"""
Health: what this process observed of each server, and how long a failed one is not chosen.

Observations belong to the process that made them and are never written to the document; the
cool-down that follows from them is, because all processes must agree on it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from .document import LONGEST_COOL_DOWN, Cause, ServerRecord
from .events import Probed, ProbeOutcome, SignedSight
from .faults import FOLLOWS, KINDS, CoolDown

__all__ = [
    "OWN_LASTS",
    "Evidence",
    "Health",
    "HealthBook",
    "Settings",
    "cooled",
]

_APART: Final = 1.0
"""Seconds by which the clocks of two processes may be apart, which both go by the store's."""

OWN_LASTS: Final = 5.0
"""
Seconds for which an own observation is preferred to that of the process which probes for this
machine: longer than two heartbeats, so that what is heard is the newer one.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    The numbers the machine decides by.

    Attributes:
        rise: passed probes in a row after which a server that was down is up; default 2.
        fall: silent or failed probes in a row after which a server is down, and failed joins in
            a row after which the active server is left although its probes pass; default 3.
        cool_down_first: seconds of the first cool-down for ``down`` and ``timeout``, doubled by
            each that follows; default 5.
        cool_down_limit_first: seconds of the first cool-down of a server that refused for a limit
            and named no time, doubled by each that follows; default 30.
        cool_down_max: seconds of the longest one; a server that has been out of cool-down for
            longer than this starts anew at the first; default 300.
        rotation_interval: least number of seconds between a rotation and an automatic one after
            it; never delays leaving a server that is confirmed down; default 10.
        pace: participants per second that are moved at a rotation; default 200.
        minutes_share: part of its minutes that is used of a server, before it is left for another
            ahead of its refusal; default 0.95.
        patience: seconds that a rotation which somebody asked for may wait for a probe or for
            the store before it is refused; default 5.
    """

    rise: int = 2
    fall: int = 3
    cool_down_first: float = 5.0
    cool_down_limit_first: float = 30.0
    cool_down_max: float = 300.0
    rotation_interval: float = 10.0
    pace: float = 200.0
    minutes_share: float = 0.95
    patience: float = 5.0


class Health(StrEnum):
    """What is known of a server; cool-down and drain are other facts."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The observation that shows a server down; its probe ``began`` and ended ``at``."""

    outcome: ProbeOutcome
    detail: str
    began: float
    at: float


@dataclass(slots=True)
class _Sight:
    """What this process saw of one server."""

    health: Health = Health.UNKNOWN
    unauthorized: Evidence | None = None  # that it refuses our key, since the last signed pass
    refusing_since: float | None = None  # when the first began that showed it, since that pass
    limited: bool = False  # it refused our own call for a limit, since the last signed pass
    signed: float = -math.inf  # when the newest signed probe that passed began
    signed_last: float = -math.inf  # when the newest signed probe began that was answered
    asked: float = -math.inf  # when the newest signed probe began that has ended
    joins_only: bool = False  # only a join tells whether it takes our key
    heard: bool | None = None  # by the process that probes on this machine; None: own is newer
    heard_at: float = 0.0
    # The newest observation.
    outcome: ProbeOutcome | None = None
    detail: str = ""
    began: float = 0.0
    at: float = 0.0
    call: bool = False
    # Runs of observations of one kind.
    passes: int = 0
    misses: int = 0
    calls_alone: bool = True  # all of these misses were calls'
    answering_since: float | None = None
    evidence: Evidence | None = None  # the newest miss that showed it down, since the last pass


class HealthBook:
    """
    The health of each server, from probes.

    A refusal comes from the other side and is believed at once. Silence is weaker: it takes
    ``fall`` of them, and a witness that it is not our own network's: another server which has
    been answering since before the last of the silent probes began, and has answered one that
    began after it did. Silences without a witness are remembered; when somebody answers again,
    one more is enough. It must be one more: the first server to answer after an outage of our
    own network must not condemn the others, whose answers are still on their way.

    A call that fails over a connection that was made is a miss like others, and no more than that:
    who answers ``GET /`` lets people in, so that calls alone show nobody down.
    """

    def __init__(self, names: Sequence[str], settings: Settings) -> None:
        self._settings = settings
        self._sights = {name: _Sight() for name in names}

    def probed(self, event: Probed, now: float) -> None:
        """Take in an observation; silence during an own stall is none."""
        sight = self._sights.get(event.server)
        if sight is None or (event.stalled and event.outcome is ProbeOutcome.SILENT):
            return
        sight.outcome, sight.detail, sight.at = event.outcome, event.detail, now
        sight.began = now if event.began is None else event.began
        sight.call, sight.heard = event.call, None
        if event.signed:
            own = SignedSight(
                outcome=event.outcome, began=sight.began, detail=event.detail, joined=event.joined
            )
            self._signed(sight, own, now)
        if event.outcome not in KINDS:
            self._answered(sight, now)
        else:
            sight.passes, sight.misses = 0, sight.misses + 1
            sight.calls_alone = sight.calls_alone and event.call
            sight.answering_since = None
        self._judge()

    def doubt_joins(self, servers: Collection[str], now: float) -> Sequence[str]:
        """
        Believe joins only, and no calls, that one of ``servers`` takes our key.

        Returns:
            those of which it was not so yet: no probe of them that began before now counts.
        """
        new = []
        for name, sight in self._sights.items():
            if name in servers and not sight.joins_only:
                sight.signed = sight.asked = -math.inf
                sight.signed_last = now
                new.append(name)
            sight.joins_only = name in servers
        return new

    @staticmethod
    def _signed(sight: _Sight, seen: SignedSight, now: float) -> None:
        if sight.joins_only and not seen.joined and seen.outcome is not ProbeOutcome.UNAUTHORIZED:
            return
        sight.asked = max(sight.asked, seen.began)
        if seen.began < sight.signed_last or seen.outcome in KINDS:
            return
        sight.signed_last = seen.began
        match seen.outcome:
            case ProbeOutcome.UNAUTHORIZED:
                if sight.refusing_since is None:
                    sight.refusing_since = seen.began
                sight.unauthorized = Evidence(
                    outcome=seen.outcome, detail=seen.detail, began=seen.began, at=now
                )
            case ProbeOutcome.LIMITED:
                sight.limited = True
            case ProbeOutcome.PASSED:
                sight.unauthorized, sight.refusing_since = None, None
                sight.limited, sight.signed = False, seen.began

    def _answered(self, sight: _Sight, now: float) -> None:
        sight.passes, sight.misses = sight.passes + 1, 0
        sight.calls_alone, sight.evidence = True, None
        if sight.answering_since is None:
            sight.answering_since = now
        if sight.health is Health.UNKNOWN or sight.passes >= self._settings.rise:
            sight.health = Health.UP

    def _judge(self) -> None:
        # All of them: an answer of one server may be the witness against another.
        for name, sight in self._sights.items():
            if sight.outcome is not None and self._condemned(name, sight):
                sight.health = Health.DOWN
                sight.evidence = Evidence(
                    outcome=sight.outcome, detail=sight.detail, began=sight.began, at=sight.at
                )

    def _condemned(self, name: str, sight: _Sight) -> bool:
        """Whether its last miss, with those before it, shows it down."""
        if sight.outcome is ProbeOutcome.REFUSED and not sight.call:
            return sight.misses > 0  # none, where it was heard to be up since
        if not self._missed_enough(sight):
            return False
        if sight.outcome is not ProbeOutcome.SILENT or len(self._sights) == 1:
            return True
        return any(
            other.answering_since is not None
            and other.answering_since <= sight.began <= other.began
            for other_name, other in self._sights.items()
            if other_name != name
        )

    def _missed_enough(self, sight: _Sight) -> bool:
        return sight.misses >= self._settings.fall and not sight.calls_alone

    def witnesses(self, server: str) -> tuple[str, ...]:
        """Servers to be probed now, because the last silence of ``server`` lacks but a witness."""
        sight = self._sights.get(server)
        if sight is None or not self._missed_enough(sight) or self._condemned(server, sight):
            return ()
        return tuple(name for name in self._sights if self.passed(name))

    def heard(
        self,
        health: Mapping[str, bool],
        now: float,
        signed: Mapping[str, SignedSight] | None = None,
    ) -> None:
        """
        Take in what the process that probes on this machine sees (server -> up).

        Of ``signed`` probes, by whichever process of this machine, the newest counts; not one that
        is to begin, of a process whose clock is ahead because it was set back since: nothing that
        is seen here would be newer.
        """
        for name, seen in (signed or {}).items():
            if name in self._sights and seen.began <= now + _APART:
                self._signed(self._sights[name], seen, now)
        for name, up in health.items():
            sight = self._sights.get(name)
            if sight and (sight.outcome is None or now - sight.at > OWN_LASTS):
                self._heard(sight, up, now)

    @staticmethod
    def _heard(sight: _Sight, up: bool, now: float) -> None:
        sight.heard, sight.heard_at = up, now
        # Whether it answered all the time since our own last pass, nobody knows: as a witness it
        # has to begin anew.
        sight.answering_since = None
        if up:
            sight.health, sight.evidence = Health.UP, None
            sight.misses, sight.calls_alone = 0, True

    def health(self, server: str) -> Health:
        """The health of ``server``; unknown for one that is not of the pool."""
        sight = self._sights.get(server)
        if sight is None:
            return Health.UNKNOWN
        if sight.heard is None:
            return sight.health
        return Health.UP if sight.heard else Health.DOWN

    def down_since(self, server: str, moment: float) -> bool:
        """Whether ``server`` is down by what was seen after ``moment``, or heard well after it."""
        sight = self._sights.get(server)
        if sight is None or self.health(server) is not Health.DOWN:
            return False
        if sight.heard is None:
            return sight.began >= moment
        return sight.heard_at > moment + OWN_LASTS

    def seen(self, server: str) -> bool:
        """Whether anything was observed of ``server``, here or by the machine's prober."""
        sight = self._sights.get(server)
        return sight is not None and (sight.outcome is not None or sight.heard is not None)

    def passed(self, server: str) -> bool:
        """Whether the newest observation of ``server`` is a passed probe."""
        sight = self._sights.get(server)
        if sight is None:
            return False
        return sight.outcome is ProbeOutcome.PASSED if sight.heard is None else sight.heard

    def looked_since(self, server: str, moment: float) -> bool:
        """Whether this process itself observed ``server`` by a probe begun after ``moment``."""
        sight = self._sights.get(server)
        return sight is not None and sight.outcome is not None and sight.began > moment

    def passed_since(self, server: str, moment: float) -> bool:
        """Whether what shows ``server`` up was seen after ``moment``, or heard well after it."""
        sight = self._sights.get(server)
        if sight is None or not self.passed(server):
            return False
        if sight.heard is None:
            return sight.began >= moment
        return sight.heard_at > moment + OWN_LASTS

    def misconfigured(self, server: str) -> bool:
        """Whether ``server`` refuses tokens made with our key for it."""
        sight = self._sights.get(server)
        return sight is not None and sight.unauthorized is not None

    def unauthorized(self, server: str) -> Evidence | None:
        """What shows that ``server`` refuses our key, if no signed probe passed since."""
        sight = self._sights.get(server)
        return None if sight is None else sight.unauthorized

    def limited(self, server: str) -> bool:
        """Whether ``server`` refused a call of our own for a limit, and none passed since."""
        sight = self._sights.get(server)
        return sight is not None and sight.limited

    def signed_since(self, server: str, moment: float) -> bool:
        """Whether ``server`` passed a signed probe of this process that began after ``moment``."""
        sight = self._sights.get(server)
        return sight is not None and sight.signed >= moment

    def asked_since(self, server: str, moment: float) -> bool:
        """Whether a signed probe of ``server`` that began after ``moment`` has ended."""
        sight = self._sights.get(server)
        return sight is not None and sight.asked >= moment

    def refusing_since(self, server: str) -> float:
        """When ``server`` began to refuse our key, by the first signed probe that showed it."""
        sight = self._sights.get(server)
        since = None if sight is None else sight.refusing_since
        return math.inf if since is None else since

    def signed_pass(self, server: str) -> float:
        """When the newest signed probe of ``server`` that passed began; -inf if there is none."""
        sight = self._sights.get(server)
        return -math.inf if sight is None else sight.signed

    def let_in(self, server: str) -> bool:
        """Whether ``server``, of which only joins are believed, let us in when last asked."""
        sight = self._sights.get(server)
        return (
            sight is not None
            and sight.joins_only
            and sight.unauthorized is None
            and sight.signed > -math.inf
        )

    def signed_answer(self, server: str) -> float:
        """When the newest signed probe that ``server`` answered began; -inf if there is none."""
        sight = self._sights.get(server)
        return -math.inf if sight is None else sight.signed_last

    def evidence(self, server: str) -> Evidence | None:
        """
        The newest own observation that shows ``server`` down, if no probe passed since.

        That it was down before and has not passed often enough to be up is none. What is only
        heard confirms nothing: a row may be older than a rotation back. But that the server was
        seen up since refutes.
        """
        sight = self._sights.get(server)
        return None if sight is None or sight.heard else sight.evidence

    @property
    def suspended(self) -> bool:
        """Whether all servers of a pool of several are silent, so that silence says nothing."""
        return len(self._sights) > 1 and all(
            sight.outcome is ProbeOutcome.SILENT and not sight.heard
            for sight in self._sights.values()
        )


def cooled(
    record: ServerRecord,
    cause: Cause,
    now: float,
    settings: Settings,
    *,
    retry_after: float | None = None,
    reset: float | None = None,
    spent_minutes: float | None = None,
    refuses_joins: bool = False,
) -> ServerRecord:
    """
    Put a server into the cool-down that ``cause`` deserves; see `faults.FOLLOWS`.

    Args:
        retry_after: seconds after which the server wants to be asked again, if it said so.
        reset: when its quota is reset, in seconds since the epoch; None if nobody knows.
        spent_minutes: the minutes that could be used of it, if it is left for having used them.
        refuses_joins: whether it is left because joins showed that it refuses our key.
    """
    ended = record.cool_down_until
    forgotten = ended is None or now - ended > settings.cool_down_max
    failures = 0 if forgotten else record.failures
    until = now + settings.cool_down_max
    asked = asked_for(retry_after)
    match FOLLOWS[cause].cool_down:
        case CoolDown.RESET if reset is not None or asked is not None:
            ends = (reset, None if asked is None else now + asked)
            until = min(end for end in ends if end is not None)
        case CoolDown.DOUBLING:
            pause = _doubled(settings.cool_down_first, failures, settings)
            until = now + max(pause, asked or 0.0)
            failures += 1
        case CoolDown.LIMIT:
            pause = _doubled(settings.cool_down_limit_first, failures, settings)
            until = now + (pause if asked is None else asked)
            failures += 1
    return replace(
        record,
        cool_down_until=until,
        cool_down_cause=cause,
        spent_minutes=spent_minutes,
        refuses_joins=refuses_joins,
        failures=failures,
    )


def asked_for(retry_after: float | None) -> float | None:
    """
    The seconds that a refusal asks for, at most `LONGEST_COOL_DOWN`; None if it does not.

    "At once", after a refusal, is no time at all. A server whose clock is wrong must not be out for
    ever by it.
    """
    if retry_after is None or retry_after <= 0:
        return None
    return min(retry_after, LONGEST_COOL_DOWN)


def _doubled(first: float, failures: int, settings: Settings) -> float:
    # Nobody needs the 1024th power of two, and a float cannot hold it.
    return min(first * 2.0 ** min(failures, 64), settings.cool_down_max)
