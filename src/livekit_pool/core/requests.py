"""
Requests: the rotations that somebody asked for, and the verdict on each.
"""

from __future__ import annotations

from dataclasses import dataclass

from .choice import Situation, next_available
from .events import RotateAsked

__all__ = ["Asked", "Done", "Go", "No", "Verdict", "Wait", "verdict"]


@dataclass(slots=True, kw_only=True)
class Asked:
    """
    A request that is not answered yet.

    Attributes:
        lineage, active_since: of the document when it was asked: what the asker meant to leave.
        until: when it is refused if it is still waiting.
        attempted: a swap for it was sent and its answer is not known.
    """

    event: RotateAsked
    lineage: str
    active_since: int
    until: float
    attempted: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing has to change."""


@dataclass(frozen=True, slots=True)
class Go:
    """Rotate to ``server``."""

    server: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Probes of ``probe`` will tell; if they do not in time, it is ``otherwise``."""

    probe: tuple[str, ...]
    otherwise: No


@dataclass(frozen=True, slots=True)
class No:
    """Refuse, with the code of an error in `livekit_pool.exceptions` and a sentence."""

    code: str
    message: str


Verdict = Done | Go | Wait | No


def verdict(asked: Asked, situation: Situation) -> Verdict:
    """
    Decide what becomes of a request in this situation; pause does not concern it.

    Without ``to`` it means "away from the server that was active when I asked": if that one has
    been left meanwhile, by whomever, two who asked at once must not cause two rotations.
    """
    event, document = asked.event, situation.document
    moved = (asked.lineage, asked.active_since) != (document.lineage, document.active_since)
    if event.expected_revision not in (None, document.revision) or (moved and event.to is None):
        return No(
            "revision_conflict",
            f"The document is at revision {document.revision} by now, where"
            f" {document.active_server} is active; look at it and ask again.",
        )
    if event.to is None:
        choice = next_available(situation.candidates)
        if choice.server is not None:
            return Go(choice.server)
        nowhere = No("no_server", "No other server of the pool is available.")
        return Wait(choice.probe, nowhere) if choice.probe else nowhere
    if event.to == document.active_server:
        return Done()
    return _towards(event.to, situation, force=event.force)


def _towards(server: str, situation: Situation, *, force: bool) -> Verdict:
    if server not in situation.names:
        return No("unknown_server", f"No server of the pool is named {server!r}.")
    if force:
        return Go(server)
    candidate = situation.candidate(server)
    if candidate.obstacle is not None:
        return No(
            "server_not_eligible",
            f"{server} is {candidate.obstacle.value}; to rotate to it all the same, use force.",
        )
    if candidate.passed:
        return Go(server)
    silent = f"{server} has not answered a probe; to rotate to it all the same, use force."
    return Wait((server,), No("server_not_eligible", silent))
