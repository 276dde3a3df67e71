"""
Stepping: what a process does about a dead active server while the store is away.

Nothing can be agreed on then, so each process goes by what all of them know: the last document.
A step chooses the next server in the list that is neither cooling nor drained there, so that
processes which see the same servers dead step to the same one. It is provisional: it has no
revision, and when the store is back its document wins. The step becomes a rotation only if
nobody changed the active server meanwhile, a fresh probe of it still fails, and no living
process on another machine sees it up; else the rooms go back. A step by silence needs no second
witness, since nobody can be asked; to confirm it by silence needs one, as everywhere.
"""

from __future__ import annotations

import math
from typing import Final

from .actions import Note, NoteEvent, Step
from .choice import in_turn
from .decisions import Decision, confirm_step
from .document import Document
from .health import Evidence, Health
from .situation import FRESH, Situation

__all__ = ["HEARING", "Stepping"]

HEARING: Final = 3.0
"""
Seconds after the store's return in which the processes of other machines may still have to say
what they see: longer than a heartbeat.
"""


class Stepping:
    """
    The step of one process, if it has made one.

    Attributes:
        step: where everybody is sent in place of the document's active server, or None.
        away: whether the store is away.
    """

    def __init__(self) -> None:
        self.step: Step | None = None
        self.away = False
        self._back_at = -math.inf

    def store_seen(self, ok: bool, now: float) -> None:
        """The store is away, or is back."""
        if ok and self.away:
            self._back_at = now
        self.away = not ok

    def set_clock(self, by: float) -> None:
        """The clock was set on by so many seconds."""
        self._back_at += by

    def follow(self, document: Document) -> tuple[Note, ...]:
        """
        Another document is followed: the step ends if its active server is another one.

        Returns:
            what an operator should read of it.
        """
        step = self.step
        if step is None or _concerns(step, document):
            return ()
        return self._end(document)

    def leave_down(self, situation: Situation) -> Decision:
        """While the store is away: leave a server that is confirmed down by a step."""
        left, evidence = self._down(situation)
        if evidence is None:
            return Decision()
        document, now = situation.document, situation.now
        if document.paused is not None:
            return Decision(notes=(_note(NoteEvent.FAULT_WHILE_PAUSED, left),))
        to = _next(situation, left)
        if to is None:
            return Decision(notes=(_note(NoteEvent.NO_SERVER, left),))
        if now - evidence.at > FRESH:
            return Decision(probe=_unless_seen(situation, left, evidence.at))
        self.step = Step(
            server=to, since=now, lineage=document.lineage, active_since=document.active_since
        )
        return Decision(notes=(_note(NoteEvent.STEPPED, left, to=to),))

    def reconcile(self, situation: Situation) -> Decision | None:
        """
        Once the store is back: what becomes of the step; None if there is none.

        A decision that proposes no document waits for a probe, or for what others have to say.
        """
        step, active = self.step, situation.active
        if step is None:
            return None
        health, evidence = situation.health, situation.health.evidence(active)
        well = health.health(active) is Health.UP and health.passed_since(active, self._back_at)
        if well or step.server == active or situation.document.paused is not None:
            return Decision(notes=self._end(situation.document))
        if situation.elsewhere and situation.now < self._back_at + HEARING:
            return Decision(probe=_unless_seen(situation, active, self._back_at))
        if any(seen.get(active) for seen in situation.elsewhere):
            return Decision(notes=self._end(situation.document))
        if evidence is not None and evidence.began >= self._back_at:
            return confirm_step(situation, step.server)
        return Decision(probe=_unless_seen(situation, active, self._back_at))

    def _down(self, situation: Situation) -> tuple[str, Evidence | None]:
        """The server everybody is sent to, and what shows it down since that is so."""
        step = self.step
        if step is None:
            return situation.active, situation.evidence()
        evidence = situation.health.evidence(step.server)
        seen_before = evidence is not None and evidence.began < step.since
        return step.server, None if seen_before else evidence

    def _end(self, document: Document) -> tuple[Note, ...]:
        step, self.step = self.step, None
        if step is None or document.active_server == step.server:
            return ()
        return (_note(NoteEvent.STEP_UNDONE, step.server, to=document.active_server),)


def _concerns(step: Step, document: Document) -> bool:
    """Whether ``document`` still has the active server that was left."""
    return (step.lineage, step.active_since) == (document.lineage, document.active_since)


def _unless_seen(situation: Situation, server: str, moment: float) -> tuple[str, ...]:
    """``server``, to be probed now; if it was since ``moment``, the next one in turn will tell."""
    return () if situation.health.looked_since(server, moment) else (server,)


def _next(situation: Situation, left: str) -> str | None:
    """The server to step to: by the document alone, but for those that would be left at once."""
    health = situation.health
    for name in in_turn(situation.names, left):
        record = situation.document.record(name)
        barred = health.health(name) is Health.DOWN or situation.misconfigured(name)
        if record.drained is None and not record.cooling(situation.now) and not barred:
            return name
    return None


def _note(event: NoteEvent, server: str, **fields: object) -> Note:
    return Note(event=event.value, fields={"server": server, **fields})
