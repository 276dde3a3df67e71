"""
Requests: the rotations, drains and pauses that somebody asked for, and the verdict on each.

Pause does not concern them: it stops what the pool does of itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from .choice import in_turn, next_available
from .document import (
    Cause,
    Document,
    Mark,
    Rotation,
    drain_reason,
    drained,
    paused,
    resumed,
    rotated,
    undrained,
)
from .events import Change, MarkAsked, RotateAsked
from .situation import Situation

__all__ = ["Asked", "Done", "Go", "No", "Verdict", "Wait", "mark_of", "verdict"]

_SETS: Final = frozenset({Change.DRAIN, Change.PAUSE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """
    A request that is not answered yet.

    Attributes:
        lineage, active_since: of the document when it was asked: what the asker meant to leave.
        until: when it is refused if it is still waiting.
    """

    event: RotateAsked | MarkAsked
    lineage: str
    active_since: int
    until: float


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing has to change."""


@dataclass(frozen=True, slots=True)
class Go:
    """Do it: the document that comes of it, and the entry for the history if it is a rotation."""

    document: Document
    rotation: Rotation | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Probes of ``probe``, and signed ones, will tell; if not in time, it is ``otherwise``."""

    probe: tuple[str, ...]
    otherwise: Go | No
    signed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class No:
    """Refuse, with the code of an error in `livekit_pool.exceptions` and a sentence."""

    code: str
    message: str


Verdict = Done | Go | Wait | No


def verdict(asked: Asked, situation: Situation) -> Verdict:
    """Decide what becomes of a request in this situation."""
    if isinstance(asked.event, RotateAsked):
        return _rotation(asked, asked.event, situation)
    return _marking(asked.event, situation)


def mark_of(event: MarkAsked, document: Document) -> Mark | None:
    """The drain or pause in ``document`` that ``event`` is about, if it is set."""
    if event.change in (Change.DRAIN, Change.UNDRAIN):
        return document.record(event.server).drained
    return document.paused


# --- rotations -----------------------------------------------------------------------------


def _rotation(asked: Asked, event: RotateAsked, situation: Situation) -> Verdict:
    """
    Decide on a rotation.

    Without ``to`` it means "away from the server that was active when I asked": if that one has
    been left meanwhile, by whomever, two who asked at once must not cause two rotations.
    """
    document = situation.document
    moved = (asked.lineage, asked.active_since) != (document.lineage, document.active_since)
    if event.expected_revision not in (None, document.revision) or (moved and event.to is None):
        return _conflict(document)
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
        return _unknown(server)
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
    before = situation.document
    if before.record(server).drained is not None:
        # By force: who sends everybody there does not want it drained any more.
        before = replace(undrained(before, server=server), revision=before.revision)
    document, rotation = rotated(
        before,
        to=server,
        names=situation.names,
        cause=Cause.MANUAL,
        reason=event.reason,
        actor=event.actor,
        now=situation.now,
        window=situation.window(event.participants),
    )
    return Go(document, rotation)


# --- marks ---------------------------------------------------------------------------------


def _marking(event: MarkAsked, situation: Situation) -> Verdict:
    """
    Decide on a drain or a pause, or the end of one.

    What is so already needs nothing, whoever did it and whatever revision was expected: the mark
    stays as it was set first. So whoever asks again, because an answer was lost, is not refused.
    """
    document, server = situation.document, event.server
    there = mark_of(event, document)
    known = server in situation.names or (there is not None and event.change is Change.UNDRAIN)
    if event.change in (Change.DRAIN, Change.UNDRAIN) and not known:
        return _unknown(server)
    if (there is not None) == (event.change in _SETS):
        return Done()
    if event.expected_revision not in (None, document.revision):
        return _conflict(document)
    mark = Mark(by=event.actor, since=situation.now, reason=event.reason)
    if event.change is Change.DRAIN:
        return _drain(event, mark, situation)
    if event.change is Change.UNDRAIN:
        return Go(undrained(document, server=server), None)
    changed = paused(document, mark=mark) if event.change is Change.PAUSE else resumed(document)
    return Go(changed, None)


def _drain(event: MarkAsked, mark: Mark, situation: Situation) -> Verdict:
    """Drain a server; if it is the active one, leave it with the same change."""
    server, document = event.server, situation.document
    stays = Go(drained(document, server=server, mark=mark), None)
    if server != situation.active:
        return stays if event.force else _unless_last(server, stays, situation)
    choice = next_available(situation.candidates)
    if choice.server is not None:
        return _drain_active(event, mark, choice.server, situation)
    otherwise = stays if event.force else _last(server)
    return Wait(choice.probe, otherwise, choice.signed) if choice.waits else otherwise


def _unless_last(server: str, drain: Go, situation: Situation) -> Verdict:
    """Allow ``drain``, unless nothing would be available after it that is available now."""
    candidate = situation.candidate(server)
    others = [situation.candidate(name) for name in in_turn(situation.names, server)]
    if any(other.available and other.shared for other in others):
        return drain
    all_of_them = (*others, candidate)
    unseen = tuple(one.name for one in all_of_them if one.worth_a_probe)
    unsure = tuple(
        one.name
        for one in all_of_them
        if one.worth_a_signed_probe and one.shared and not one.available
    )
    if candidate.available or candidate.name in (*unseen, *unsure):
        return Wait(unseen, _last(server), unsure) if unseen or unsure else _last(server)
    return drain


def _drain_active(event: MarkAsked, mark: Mark, to: str, situation: Situation) -> Go:
    document, rotation = rotated(
        situation.document,
        to=to,
        names=situation.names,
        cause=Cause.MANUAL,
        reason=drain_reason(event.reason),
        actor=event.actor,
        now=situation.now,
        window=situation.window(event.participants),
        left=replace(situation.document.record(event.server), drained=mark),
    )
    return Go(document, rotation)


# --- refusals ------------------------------------------------------------------------------


def _conflict(document: Document) -> No:
    return No(
        "revision_conflict",
        f"The document is at revision {document.revision} by now, where"
        f" {document.active_server} is active; look at it and ask again.",
    )


def _unknown(server: str) -> No:
    return No("unknown_server", f"No server of the pool is named {server!r}.")


def _last(server: str) -> No:
    return No(
        "no_server",
        f"No other server than {server} is available; if it is drained all the same, by force,"
        " rooms that are live stay where they are, and new ones are refused until another server"
        " is available.",
    )
