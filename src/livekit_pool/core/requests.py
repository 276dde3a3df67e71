"""
Requests: the rotations that somebody asked for, and the verdict on each.
"""

from __future__ import annotations

from dataclasses import dataclass

from .choice import next_available
from .document import Cause, Document, Rotation, rotated
from .events import RotateAsked
from .situation import Situation

__all__ = ["Asked", "Done", "Go", "No", "Verdict", "Wait", "verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """
    A request that is not answered yet.

    Attributes:
        lineage, active_since: of the document when it was asked: what the asker meant to leave.
        until: when it is refused if it is still waiting.
    """

    event: RotateAsked
    lineage: str
    active_since: int
    until: float


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing has to change."""


@dataclass(frozen=True, slots=True)
class Go:
    """Rotate: the document that comes of it, and the entry for the history."""

    document: Document
    rotation: Rotation


@dataclass(frozen=True, slots=True)
class Wait:
    """Probes of ``probe``, and signed ones, will tell; if not in time, it is ``otherwise``."""

    probe: tuple[str, ...]
    otherwise: No
    signed: tuple[str, ...] = ()


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
            return _go(event, choice.server, situation)
        nowhere = No("no_server", "No other server of the pool is available.")
        return Wait(choice.probe, nowhere, choice.signed) if choice.waits else nowhere
    if event.to == document.active_server:
        return Done()
    return _towards(event, event.to, situation)


def _towards(event: RotateAsked, server: str, situation: Situation) -> Verdict:
    if server not in situation.names:
        return No("unknown_server", f"No server of the pool is named {server!r}.")
    if event.force:
        return _go(event, server, situation)
    candidate = situation.candidate(server)
    if candidate.obstacle is not None:
        return No(
            "server_not_eligible",
            f"{server} is {candidate.obstacle.value}; to rotate to it all the same, use force.",
        )
    if candidate.passed:
        return _go(event, server, situation)
    silent = f"{server} has not answered a probe; to rotate to it all the same, use force."
    return Wait((server,), No("server_not_eligible", silent))


def _go(event: RotateAsked, server: str, situation: Situation) -> Go:
    document, rotation = rotated(
        situation.document,
        to=server,
        names=situation.names,
        cause=Cause.MANUAL,
        reason=event.reason,
        actor=event.actor,
        now=situation.now,
        window=situation.window(event.participants),
    )
    return Go(document, rotation)
