"""
Decisions: what the pool does of itself, as functions of the situation.

    a foreign client wrote another index   -> foreign, or the active one is written back
    the active server is confirmed down    -> down or timeout, at once
    the active server is not in the list   -> removed
    it refuses our key, and no other does  -> credentials, at once
    it is drained                          -> manual, as soon as another one is available
    it refuses for a limit                 -> the refusal's kind: a quota at once, other limits not
                                              sooner than the interval
    joins to it fail although probes pass  -> the faults' kind, not sooner than the interval
    its minutes are nearly used up         -> quota, at a quiet moment if one comes in time
    it has as many participants as it may  -> participant_limit, if another can take them all
    one that refused our key lets us join  -> it is trusted again
    the list changed                       -> positions are written anew
    the document is the original system's  -> it becomes one of the pool

The first that wants to change the document is followed; what the others say waits for the
document that comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from . import budget
from .actions import Note, NoteEvent
from .choice import Candidate, Choice, last_resort, next_available, next_or_last
from .document import (
    Cause,
    Document,
    Rotation,
    adopted,
    drain_reason,
    listed,
    rotated,
    trusted,
    written_back,
)
from .faults import COOLS, FOLLOWS, KINDS, Confirmed
from .health import cooled
from .situation import FRESH, Situation

__all__ = ["Decision", "confirm_step", "decide"]

_LONGEST_REASON: Final = 200

LATE_RESET: Final = 3600.0
"""Seconds that a server may be late with the reset of its quota, or its clock or zone differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    What is to be done.

    Attributes:
        document, rotation: the change of the document and its entry in the history, or None.
        probe: servers to be probed at once. signed: those to be asked with our key.
        notes: what is true and should be known; told once, as long as it stays true.
    """

    document: Document | None = None
    rotation: Rotation | None = None
    probe: tuple[str, ...] = ()
    signed: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def leaves(self) -> bool:
        """Whether it is a rotation to another server."""
        return self.rotation is not None and self.rotation.from_ != self.rotation.to


_NOTHING: Final = Decision()


def decide(situation: Situation, *, only_leave: bool = False) -> Decision:
    """
    Go through the table above, down to the first change of the document.

    Args:
        only_leave: go on to the first that is a rotation to another server, and change nothing
            else.
    """
    probe: list[str] = []
    signed: list[str] = []
    notes = _conditions(situation)
    for step in _STEPS:
        decision = step(situation)
        probe += decision.probe
        signed += decision.signed
        if only_leave and decision.document is not None and not decision.leaves:
            continue
        notes += decision.notes
        if decision.document is not None:
            break
    else:
        decision = _NOTHING
    return Decision(
        document=decision.document,
        rotation=decision.rotation,
        probe=tuple(probe),
        signed=tuple(signed),
        notes=tuple(notes),
    )


def _conditions(situation: Situation) -> list[Note]:
    health = situation.health
    notes = [
        _note(NoteEvent.SERVER_MISCONFIGURED, server=name)
        for name in situation.names
        if situation.misconfigured(name)
    ]
    if health.suspended:
        notes.append(_note(NoteEvent.ALL_SILENT, servers=len(situation.names)))
    if situation.lists is not None and not (situation.agreed and situation.one_list):
        notes.append(_note(NoteEvent.LISTS_DIFFER))
    return notes


def _answer_foreign(situation: Situation) -> Decision:
    document, names = situation.document, situation.names
    index = document.foreign_index
    if index is None:
        return _NOTHING
    if document.server_count != len(names) and not situation.one_list:
        return _NOTHING  # the index counts in another list than ours
    target = names[index] if index < len(names) else None
    if target == situation.active:
        return Decision(document=listed(document, names))
    if target is not None and document.paused is None:
        followed = _follow_foreign(situation, target)
        if followed is not None:
            return followed
    kept, entry = written_back(
        document,
        names=names,
        reason=f"a foreign client rotated to {target or f'position {index}'}: not followed",
        actor=situation.actor,
        now=situation.now,
    )
    note = _note(NoteEvent.FOREIGN_WRITTEN_BACK, server=target, position=index)
    return Decision(document=kept, rotation=entry, notes=(note,))


def _follow_foreign(situation: Situation, target: str) -> Decision | None:
    """Follow to ``target``, or look whether that may be; None if it is not to be followed."""
    candidate = situation.candidate(target)
    if candidate.choosable:
        reason = situation.document.last_error or "rotated by a foreign client"
        return _rotation(situation, target, Cause.FOREIGN, reason, actor="foreign")
    waited = situation.now - (situation.foreign_from or situation.now)
    if waited >= situation.settings.patience:
        return None
    if candidate.worth_a_probe:
        return Decision(probe=(target,))
    return Decision(signed=(target,)) if candidate.lacks_a_signed_probe else None


def _leave_down(situation: Situation) -> Decision:
    evidence = situation.evidence()
    if evidence is None:
        return _NOTHING
    if situation.document.paused is not None:
        return _held_by_pause(situation)
    if situation.unwitnessed(evidence):
        return _unwitnessed(situation)
    reason = evidence.detail or f"probe {evidence.outcome.value}"
    kind, asked = KINDS[evidence.outcome], situation.faults.retry_after(situation.now)
    decision = _leave(situation, last_resort, kind, reason, retry_after=asked)
    if decision.document is not None and situation.now - evidence.at > FRESH:
        return Decision(probe=(situation.active,))
    return decision


def confirm_step(situation: Situation, to: str) -> Decision:
    """
    Make the rotation of a step to ``to``, of which the outlook is that it was right.

    To ``to`` if that may be chosen, so that no room moves twice; else to whichever may.
    """
    evidence = situation.health.evidence(situation.active)
    if evidence is None:
        return _NOTHING
    if situation.unwitnessed(evidence):
        return _unwitnessed(situation)
    cause, reason = KINDS[evidence.outcome], evidence.detail or f"probe {evidence.outcome.value}"
    asked = situation.faults.retry_after(situation.now)
    if situation.candidate(to).choosable:
        return _rotation(situation, to, cause, reason, retry_after=asked)
    return _leave(situation, last_resort, cause, reason, retry_after=asked)


def _leave_removed(situation: Situation) -> Decision:
    if situation.active in situation.names or situation.lists is None:
        return _NOTHING
    if situation.document.paused is not None:
        return _held_by_pause(situation)
    reason = "not in the list of servers any more"
    decision = _leave(situation, next_available, Cause.REMOVED, reason)
    if decision.document is None and not any(
        situation.active in names for names in situation.lists
    ):
        # Nobody is left who could serve it: a server that not everybody has is better.
        return _leave(situation.alone(), next_available, Cause.REMOVED, reason)
    return decision


def _leave_drained(situation: Situation) -> Decision:
    # It was drained by force, when there was nowhere to go: what was asked for then is done now.
    mark = situation.document.record(situation.active).drained
    if mark is None or situation.document.paused is not None:
        return _NOTHING
    reason = drain_reason(mark.reason)
    return _leave(situation, next_available, Cause.MANUAL, reason, actor=mark.by)


def _leave_misconfigured(situation: Situation) -> Decision:
    evidence = situation.unauthorized()
    if evidence is None:
        return _NOTHING
    if situation.document.paused is not None:
        return _held_by_pause(situation)
    wanted = _witness_of_key(situation, evidence.began)
    if wanted:
        return Decision(signed=wanted)
    return _go(
        situation,
        next_or_last(situation.candidates),
        Cause.CREDENTIALS,
        evidence.detail,
        # Somebody may have rotated to it by force: a call that it takes is still no proof.
        refuses_joins=situation.document.record(situation.active).refuses_joins,
    )


def _witness_of_key(situation: Situation, refused: float) -> tuple[str, ...]:
    """
    Whom to ask with our key before the active server, which ``refused`` it last, is blamed.

    Where nobody takes our tokens any more, it is our clock that is wrong. So another server must
    take one first, and this one refuse one after that: when the clock is set right, the others'
    answers must not condemn the one that is asked last.
    """
    health, since = situation.health, situation.health.refusing_since(situation.active)
    others = [each.name for each in situation.candidates if each.available]
    passes = [health.signed_pass(name) for name in others]
    if any(since <= passed <= refused for passed in passes):
        return ()
    if any(since <= passed for passed in passes):
        return (situation.active,)
    return tuple(name for name in others if health.signed_answer(name) < since)


def _leave_limited(situation: Situation) -> Decision:
    refusal = situation.faults.refusal
    if refusal is None:
        return _NOTHING
    if situation.document.paused is not None:
        return _held_by_pause(situation)
    if FOLLOWS[refusal.kind].confirmed is Confirmed.INTERVAL and _too_soon(situation):
        return _NOTHING
    reason = refusal.detail or f"it refuses for a limit: {refusal.kind.value}"
    # Who is out of minutes lets nobody in; one that is full may let in the next.
    policy = next_or_last if refusal.kind is Cause.QUOTA else next_available
    return _leave(situation, policy, refusal.kind, reason, retry_after=refusal.retry_after)


def _leave_refusing(situation: Situation) -> Decision:
    faults = situation.faults
    if faults.joins < situation.settings.fall and not faults.verified:
        return _NOTHING
    # Passing probes show that the fault is not our own network's.
    if not situation.health.passed(situation.active):
        return _NOTHING
    if situation.document.paused is not None:
        return _held_by_pause(situation)
    if _too_soon(situation):
        return _NOTHING
    reason = faults.detail or f"{faults.joins} joins in a row failed"
    refused = faults.kind is Cause.CREDENTIALS
    choice = next_available(situation.candidates)
    return _go(
        situation,
        choice,
        faults.kind,
        reason,
        retry_after=faults.retry_after(situation.now),
        refuses_joins=refused,
    )


def _leave_spent(situation: Situation) -> Decision:
    since = situation.now if situation.spent_from is None else situation.spent_from
    reason = budget.due(
        situation.usage_of(situation.active),
        situation.limits_of(situation.active),
        situation.settings.minutes_share,
        since,
        situation.now,
    )
    if reason is None:
        return _NOTHING
    if situation.document.paused is not None:
        return _held_by_pause(situation)
    choice = next_available(situation.roomy())
    if choice.server is None and not choice.waits:
        choice = next_available(situation.candidates)
    spent = budget.usable(situation.limits_of(situation.active), situation.settings.minutes_share)
    return _go(situation, choice, Cause.QUOTA, reason, spent_minutes=spent, nowhere=NoteEvent.SPENT)


def _leave_full(situation: Situation) -> Decision:
    active = situation.active
    if not situation.is_full(active):
        return _NOTHING
    if situation.document.paused is not None:
        return _held_by_pause(situation)
    if _too_soon(situation):
        return _NOTHING
    count = situation.usage_of(active).participants
    reason = f"{count} participants, of {situation.limits_of(active).max_participants}"
    choice = next_available(situation.roomy())
    return _go(situation, choice, Cause.PARTICIPANT_LIMIT, reason, nowhere=NoteEvent.FULL)


def _too_soon(situation: Situation) -> bool:
    """Whether the last rotation is so near that a doubtful one has to wait."""
    document = situation.document
    waited, interval = situation.now - document.last_rotation, situation.settings.rotation_interval
    # A rotation that is to come, by the clock of a process that was wrong, is no time to go by.
    return document.cause is not Cause.CREATED and -interval < waited < interval


def _trust_again(situation: Situation) -> Decision:
    for name in situation.names:
        if situation.document.record(name).refuses_joins and situation.health.let_in(name):
            return Decision(document=trusted(situation.document, server=name))
    return _NOTHING


def _write_positions(situation: Situation) -> Decision:
    # While lists differ, every process would write its own positions, for ever; and a foreign
    # client's is to be answered, not lost.
    if not situation.one_list or situation.document.foreign_index is not None:
        return _NOTHING
    document = situation.document
    if document.revision == 0:
        return Decision(document=adopted(document, situation.names))
    return Decision(document=listed(document, situation.names))


_STEPS: Final[tuple[Callable[[Situation], Decision], ...]] = (
    _answer_foreign,
    _leave_down,
    _leave_removed,
    _leave_misconfigured,
    _leave_drained,
    _leave_limited,
    _leave_refusing,
    _leave_spent,
    _leave_full,
    _trust_again,
    _write_positions,
)


def _leave(
    situation: Situation,
    policy: Callable[[Sequence[Candidate]], Choice],
    cause: Cause,
    reason: str,
    *,
    actor: str | None = None,
    retry_after: float | None = None,
) -> Decision:
    """Leave the active server for the one that ``policy`` chooses, if there is one."""
    choice = policy(situation.candidates)
    return _go(situation, choice, cause, reason, actor=actor, retry_after=retry_after)


def _go(
    situation: Situation,
    choice: Choice,
    cause: Cause,
    reason: str,
    *,
    actor: str | None = None,
    retry_after: float | None = None,
    spent_minutes: float | None = None,
    refuses_joins: bool = False,
    nowhere: NoteEvent = NoteEvent.NO_SERVER,
) -> Decision:
    """Leave the active server for the one chosen; ``nowhere`` tells that there is none."""
    if choice.server is not None:
        return _rotation(
            situation,
            choice.server,
            cause,
            reason,
            actor=actor,
            retry_after=retry_after,
            spent_minutes=spent_minutes,
            refuses_joins=refuses_joins,
        )
    if choice.waits:
        return Decision(probe=choice.probe, signed=choice.signed)
    return Decision(notes=(_note(nowhere, server=situation.active),))


def _rotation(
    situation: Situation,
    to: str,
    cause: Cause,
    reason: str,
    *,
    actor: str | None = None,
    retry_after: float | None = None,
    spent_minutes: float | None = None,
    refuses_joins: bool = False,
) -> Decision:
    left, reports = None, 1
    if cause in COOLS:
        record = situation.document.record(situation.active)
        left = cooled(
            record,
            cause,
            situation.now,
            situation.settings,
            retry_after=retry_after,
            reset=_reset(situation),
            spent_minutes=spent_minutes,
            refuses_joins=refuses_joins,
        )
        reports = max(1, situation.faults.reports)
    document, rotation = rotated(
        situation.document,
        to=to,
        names=situation.names,
        cause=cause,
        reason=reason[:_LONGEST_REASON],
        actor=actor or situation.actor,
        now=situation.now,
        reports=reports,
        window=situation.window(),
        left=left,
    )
    return Decision(document=document, rotation=rotation)


def _reset(situation: Situation) -> float | None:
    """
    When the active server's quota is reset next, as far as that is to be believed.

    One that refuses just after its reset has not reset it yet: that is no reason to leave it out
    for the whole of the next period.
    """
    reset = situation.limits_of(situation.active).reset
    begun = reset.begin(situation.now)
    if situation.now < begun + LATE_RESET and not situation.is_spent(situation.active):
        return None
    return reset.end(situation.now)


def _held_by_pause(situation: Situation) -> Decision:
    return Decision(notes=(_note(NoteEvent.FAULT_WHILE_PAUSED, server=situation.active),))


def _unwitnessed(situation: Situation) -> Decision:
    return Decision(notes=(_note(NoteEvent.UNWITNESSED, server=situation.active),))


def _note(event: NoteEvent, **fields: object) -> Note:
    return Note(event=event.value, fields=fields)
