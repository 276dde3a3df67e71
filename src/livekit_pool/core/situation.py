"""
Situation: everything a decision depends on, at one moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from . import budget
from .budget import Usage
from .choice import Candidate, in_turn
from .document import Cause, Document, ServerRecord
from .events import ProbeOutcome
from .faults import FORGIVABLE, REFUSALS
from .health import Evidence, HealthBook, Settings
from .limits import Limits
from .pending import PendingFaults

__all__ = ["FRESH", "WITNESS", "Situation"]

WITNESS: Final = 6.0
"""
Seconds that other machines have to say what they see of a silent server: as long as a process
counts as living without a heartbeat, where those cost next to nothing.
"""

FRESH: Final = 2.0
"""
Seconds for which a failed probe is reason enough to leave a server. After longer than that (no
server was available, the store was away) it is probed again before it is left.
"""

_PROVE_THEMSELVES: Final = REFUSALS | {Cause.CREDENTIALS}
"""Causes after whose cool-down a server comes back by a signed probe: it answered all the time."""

_STRAINS: Final = REFUSALS - {Cause.QUOTA}
"""Causes that may be over before the cool-down is: nobody refuses for ever because it is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """
    One process's view of the pool.

    Attributes:
        names: this process's servers, in its order.
        actor: this process, as the history names it.
        lists: the live processes' lists of servers; None until they were read.
        elsewhere: server -> up, as each other machine on which a process lives sees it.
        participants: connected through all live processes together.
        agreed: whether all live processes have the same list, to the keys.
        faults: the pending ones against the active server.
        unwitnessed_from: when it began to wait for a second witness, if it does.
        active_from: when this process learned that the active server is active. A probe that
            began before is no evidence against it: it may have been left and be active again.
        limits: what each server can take, by name; a missing one has none.
        usage: what is used of each server, by name; of a missing one nothing is known.
        spent_from: when this process first saw that the active server's share was used up, if so.
        foreign_from: when this process first saw the foreign index in the document, if any.
    """

    names: Sequence[str]
    actor: str
    settings: Settings
    document: Document
    health: HealthBook
    faults: PendingFaults
    lists: tuple[tuple[str, ...], ...] | None
    participants: int
    elsewhere: tuple[Mapping[str, bool], ...] = ()
    agreed: bool = True
    unwitnessed_from: float | None = None
    active_from: float
    foreign_from: float | None
    limits: Mapping[str, Limits] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)
    spent_from: float | None = None
    now: float

    @property
    def active(self) -> str:
        """Name of the active server."""
        return self.document.active_server

    def candidate(self, server: str) -> Candidate:
        """What choosing may ask about ``server``."""
        record = self.document.record(server)
        return Candidate(
            name=server,
            health=self.health.health(server),
            seen=self.health.seen(server),
            passed=self.health.passed(server),
            misconfigured=self.misconfigured(server),
            drained=record.drained is not None,
            shared=all(server in names for names in self.lists or ()),
            cooling_until=record.cool_down_until if record.cooling(self.now) else None,
            forgivable=record.cool_down_cause in FORGIVABLE,
            proven=self.health.passed_since(server, self.document.last_rotation),
            limited=self.health.limited(server),
            over=self.is_spent(server) or self.is_full(server),
            returning=self._returning(server, record),
            asked=self.health.asked_since(server, record.cool_down_until or 0.0),
            strained=record.cool_down_cause in _STRAINS,
        )

    def misconfigured(self, server: str) -> bool:
        """Whether ``server`` refuses our key: on calls, or on joins though perhaps not on calls."""
        return self.health.misconfigured(server) or self.document.record(server).refuses_joins

    def _returning(self, server: str, record: ServerRecord) -> bool:
        ended = record.cool_down_until
        refused = record.cool_down_cause in _PROVE_THEMSELVES
        return ended is not None and refused and not self.health.signed_since(server, ended)

    def limits_of(self, server: str) -> Limits:
        """What ``server`` can take."""
        return self.limits.get(server, Limits())

    def usage_of(self, server: str) -> Usage:
        """What is used of ``server``."""
        return self.usage.get(server, budget.NONE)

    def is_spent(self, server: str) -> bool:
        """Whether the share of its minutes that the pool uses is used up."""
        share = self.settings.minutes_share
        return budget.is_spent(self.usage_of(server), self.limits_of(server), share, self.now)

    def is_full(self, server: str) -> bool:
        """Whether there are as many participants on ``server`` as there may be."""
        return budget.is_full(self.usage_of(server), self.limits_of(server))

    def roomy(self) -> tuple[Candidate, ...]:
        """Those of `candidates` that can take all who are on the active server."""
        more = self.usage_of(self.active).participants
        return tuple(
            each
            for each in self.candidates
            if budget.has_room(self.usage_of(each.name), self.limits_of(each.name), more)
        )

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The servers beside the active one, in the order in which their turn comes."""
        return tuple(self.candidate(name) for name in in_turn(self.names, self.active))

    @property
    def one_list(self) -> bool:
        """Whether every live process is known to have the same list as this one."""
        return self.lists is not None and all(names == self.names for names in self.lists)

    def evidence(self) -> Evidence | None:
        """What shows that the active server is down, seen since it is active; else None."""
        evidence = self.health.evidence(self.active)
        if evidence is None or evidence.began < self.active_from:
            return None
        return evidence

    def unauthorized(self) -> Evidence | None:
        """What shows that the active server refuses our key, seen since it is active; else None."""
        evidence = self.health.unauthorized(self.active)
        if evidence is None or evidence.began < self.active_from:
            return None
        return evidence

    @property
    def is_urgent(self) -> bool:
        """Whether it is known that the active server serves nobody."""
        refusal = self.faults.refusal
        return (
            self.evidence() is not None
            or self.unauthorized() is not None
            or self.faults.verified
            or (refusal is not None and refusal.kind is Cause.QUOTA)
        )

    def unwitnessed(self, evidence: Evidence) -> bool:
        """
        Whether ``evidence`` against the active server lacks a second witness.

        A refusal comes from the server's side. Silence may be this machine's own network: where
        processes live on other machines, one of those must see the server down too. If none of
        them says anything about it for `WITNESS` seconds, they may be gone with it.
        """
        if evidence.outcome is not ProbeOutcome.SILENT or not self.elsewhere:
            return False
        said = {seen[self.active] for seen in self.elsewhere if self.active in seen}
        if said:
            return False not in said
        return self.unwitnessed_from is None or self.now < self.unwitnessed_from + WITNESS

    def window(self, participants: int = 0) -> float:
        """Seconds over which to spread the moves of so many participants (0: of all)."""
        moving = participants or self.participants
        return moving / self.settings.pace if moving > self.settings.pace else 0.0

    def alone(self) -> Situation:
        """The same, were this the only process."""
        return replace(self, lists=(tuple(self.names),))
