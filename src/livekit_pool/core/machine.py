"""
PoolMachine: events in, actions out.

The machine is a pure function of the document, what this process observed, the event and
``now`` (the store's time in seconds since the epoch). It writes nothing itself: it asks for a
swap of the document from one revision to the next, one at a time, and decides anew on whatever
document it then finds. What it decides, in this order:

    somebody asked for a rotation          -> manual, unless refused
    a foreign client wrote another index   -> foreign, or the active one is written back
    the active server is confirmed down    -> down or timeout
    the active server is not in the list   -> removed
    joins to it fail although probes pass  -> the faults' kind, at least the interval after the last
    the list changed                       -> positions are written anew
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, assert_never

from .actions import Action, Announce, Answered, Note, NoteEvent, Probe, Refused, Swap
from .choice import Candidate, Choice, Situation, last_resort, next_available
from .document import Cause, Document, Rotation, listed, rotated, written_back
from .events import (
    Event,
    FaultSeen,
    FaultSource,
    JoinAnswered,
    Loaded,
    Probed,
    ProbeOutcome,
    RotateAsked,
    RowsSeen,
    SwapAnswered,
    SwapFailed,
    Tick,
)
from .faults import COOLS, KINDS, PendingFaults, is_late
from .health import Evidence, Health, HealthBook, Settings, cooled
from .requests import Asked, Done, Go, No, Wait, verdict

__all__ = [
    "Action",
    "Announce",
    "Answered",
    "Event",
    "FaultSeen",
    "FaultSource",
    "Health",
    "JoinAnswered",
    "Loaded",
    "Note",
    "NoteEvent",
    "PoolMachine",
    "Probe",
    "ProbeOutcome",
    "Probed",
    "Refused",
    "Role",
    "RotateAsked",
    "RowsSeen",
    "Settings",
    "Swap",
    "SwapAnswered",
    "SwapFailed",
    "Tick",
]

_LONGEST_REASON: Final = 200
_LONGEST_RETRY: Final = 10
_EARLY_LIMIT: Final = 100


class Role(StrEnum):
    """What a server is to the pool at this moment."""

    ACTIVE = "active"
    STANDBY = "standby"
    COOLING = "cooling"
    EXHAUSTED = "exhausted"
    DRAINED = "drained"
    MISCONFIGURED = "misconfigured"


class PoolMachine:
    """
    One process's decisions about the pool.

    Attributes:
        names: this process's servers, in its order.
        document: the newest document it follows; None before the first `Loaded`.
    """

    def __init__(self, names: Sequence[str], settings: Settings, process: str) -> None:
        """``process`` is unique for the life of the process: it makes operation names unique."""
        self.names: Final = tuple(names)
        self.settings: Final = settings
        self.document: Document | None = None
        self._process = process
        self._operations = 0
        self._actions: list[Action] = []
        self._noted: set[NoteEvent] = set()
        # What is observed: by probes, by faults, by the process rows.
        self._health = HealthBook(names, settings)
        self._faults = PendingFaults()
        self._early: list[FaultSeen] = []
        self._lists: tuple[tuple[str, ...], ...] | None = None
        self._participants = 0
        # When this process learned that the active server is active: a probe that began before
        # is no evidence against it, for it may be active again.
        self._active_from = -math.inf
        self._foreign_from: float | None = None
        self._stranded_from: float | None = None
        # What is asked for: by people, and of the store.
        self._asked: list[Asked] = []
        self._swap: Swap | None = None
        self._swap_for: Asked | None = None
        self._swap_unknown = False

    # --- what others ask -------------------------------------------------------------------

    def health(self, server: str) -> Health:
        """What is known of ``server``; nothing, if it is not of this pool."""
        return self._health.health(server)

    def available(self, server: str, now: float) -> bool:
        """Whether ``server`` is healthy, not in cool-down and not drained."""
        if self.document is None or server not in self.names:
            return False
        return self._situation(self.document, now).candidate(server).available

    def joinable(self, server: str, now: float) -> bool:
        """Whether a join may be sent to ``server``: it is of the pool and not confirmed down."""
        return server in self.names and self.health(server) is not Health.DOWN

    def role(self, server: str, now: float) -> Role:
        """What ``server`` is to the pool; the first that is true of it, in the order below."""
        document = self.document
        if document is not None and document.active_server == server:
            return Role.ACTIVE
        if document is not None and document.record(server).drained is not None:
            return Role.DRAINED
        if self._health.misconfigured(server):
            return Role.MISCONFIGURED
        if document is not None and document.record(server).cooling(now):
            return Role.COOLING
        return Role.STANDBY

    @property
    def suspended(self) -> bool:
        """Whether all servers are silent at once, so that silence condemns none of them."""
        return self._health.suspended

    def retry_after(self, now: float) -> int:
        """Seconds, at least 1, after which a refused client may ask again; grows in an outage."""
        if self._stranded_from is None:
            return 1
        return max(1, min(_LONGEST_RETRY, math.ceil((now - self._stranded_from) / 4)))

    # --- events in, actions out ------------------------------------------------------------

    def receive(self, event: Event, now: float) -> list[Action]:
        """Take in ``event``, and return what is to be done, in order."""
        self._take_in(event, now)
        self._expire(now)
        if self.document is not None:
            self._decide(now)
        actions, self._actions = self._actions, []
        return actions

    def _take_in(self, event: Event, now: float) -> None:
        match event:
            case Loaded(document=document):
                self._follow(document, now)
                self._after_unknown_swap()
            case RowsSeen(lists=lists, health=health, participants=participants):
                self._lists, self._participants = lists, participants
                self._health.heard(health, now)
            case Probed():
                self._observe(event, now)
            case FaultSeen():
                self._blame(event, now)
            case JoinAnswered(server=server):
                if self.document is not None and server == self.document.active_server:
                    self._faults.join_answered()
            case RotateAsked():
                self._ask(event, now)
            case SwapAnswered():
                self._swap_answered(event, now)
            case SwapFailed(operation=operation):
                if self._swap is not None and self._swap.operation == operation:
                    self._swap_unknown = True
            case Tick():
                pass
            case _:
                assert_never(event)

    def _observe(self, event: Probed, now: float) -> None:
        self._health.probed(event, now)
        if self._health.misconfigured(event.server):
            self._note(NoteEvent.SERVER_MISCONFIGURED, server=event.server)
        if self.suspended:
            self._note(NoteEvent.ALL_SILENT, servers=len(self.names))
        else:
            self._noted.discard(NoteEvent.ALL_SILENT)
        document = self.document
        if document is None or event.server != document.active_server:
            return
        began = now if event.began is None else event.began
        if event.outcome in KINDS:
            if began < self._active_from:
                self._probe(event.server)  # no evidence, but reason enough to look again
        elif not self._faults.forgive(began):
            self._probe(event.server)

    def _blame(self, fault: FaultSeen, now: float) -> None:
        document = self.document
        if fault.server in self.names:
            self._probe(fault.server)
        if document is None:
            return
        if fault.revision > document.revision:
            # Seen by somebody who knows a newer document: it counts once that is followed.
            self._early = [*self._early, fault][-_EARLY_LIMIT:]
        elif not is_late(fault, document):
            self._faults.add(fault, now)

    # --- following the document ------------------------------------------------------------

    def _follow(self, document: Document, now: float) -> None:
        current = self.document
        if not self._is_newer(document):
            if current is not None and self._is_foreign_write(document, current):
                self.document = document
            return
        self.document = document
        since = None if current is None else (current.lineage, current.active_since)
        if since != (document.lineage, document.active_since):
            self._faults = PendingFaults()
            self._active_from = now
            self._stranded_from = None
            self._noted.clear()
            if document.active_server in self.names:
                self._probe(document.active_server)
        rotation = None
        if current is not None and current.active_server != document.active_server:
            own = self._swap.rotation if self._swap and self._swap.document == document else None
            rotation = own or document.rotation(current.active_server)
        self._actions.append(Announce(document=document, rotation=rotation))
        early, self._early = self._early, []
        for fault in early:
            self._blame(fault, now)

    def _is_newer(self, document: Document) -> bool:
        current = self.document
        if current is None or document.lineage != current.lineage:
            return True
        return document.revision > current.revision

    @staticmethod
    def _is_foreign_write(document: Document, current: Document) -> bool:
        # A foreign client knows no revision: its write leaves it as it was.
        same = (document.lineage, document.revision) == (current.lineage, current.revision)
        return same and document.foreign_index is not None

    # --- the swap under way ----------------------------------------------------------------

    def _swap_answered(self, event: SwapAnswered, now: float) -> None:
        swap, asked = self._swap, self._swap_for
        self._follow(event.document, now)
        if swap is None or swap.operation != event.operation:
            return
        self._swap, self._swap_for, self._swap_unknown = None, None, False
        if asked is None:
            return
        if event.won:
            self._answer(asked, swap)
        else:
            self._ask_again(asked)

    def _after_unknown_swap(self) -> None:
        """The store answers again: whether the swap was applied shows in the document."""
        swap, asked = self._swap, self._swap_for
        if swap is None or not self._swap_unknown:
            return
        self._swap, self._swap_for, self._swap_unknown = None, None, False
        if asked is None or self.document is None:
            return
        rotation = swap.rotation
        if rotation is not None and self.document.rotation(rotation.from_) == rotation:
            self._answer(asked, swap)
        else:
            self._ask_again(asked)

    def _answer(self, asked: Asked, swap: Swap) -> None:
        self._actions.append(
            Answered(
                request=asked.event.request,
                revision=swap.document.revision,
                rotation=swap.rotation,
            )
        )

    def _ask_again(self, asked: Asked) -> None:
        asked.attempted = False
        self._asked.insert(0, asked)  # the verdict on the new document decides

    def _propose(
        self, document: Document, rotation: Rotation | None, asked: Asked | None = None
    ) -> None:
        self._operations += 1
        self._swap = Swap(
            operation=f"{self._process}-{self._operations}",
            expected=document.revision - 1,
            document=document,
            rotation=rotation,
        )
        self._swap_for = asked
        self._actions.append(self._swap)

    # --- requests --------------------------------------------------------------------------

    def _ask(self, event: RotateAsked, now: float) -> None:
        document = self.document
        if document is None:
            self._refuse(event, No("store_unavailable", "The pool has no document yet."))
            return
        self._asked.append(
            Asked(
                event=event,
                lineage=document.lineage,
                active_since=document.active_since,
                until=now + self.settings.patience,
            )
        )

    def _expire(self, now: float) -> None:
        """Refuse what the store keeps waiting for too long."""
        if self._swap is None:
            return
        away = No("store_unavailable", "The store does not answer; nothing was rotated.")
        for asked in [asked for asked in self._asked if asked.until <= now]:
            self._asked.remove(asked)
            self._refuse(asked.event, away)
        asked_for = self._swap_for
        if asked_for is not None and self._swap_unknown and asked_for.until <= now:
            self._swap_for = None
            lost = "The store's answer was lost: look whether the pool has rotated."
            self._refuse(asked_for.event, No("store_outcome_unknown", lost))

    def _refuse(self, event: RotateAsked, no: No) -> None:
        revision = 0 if self.document is None else self.document.revision
        self._actions.append(
            Refused(request=event.request, code=no.code, message=no.message, revision=revision)
        )

    # --- decisions -------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        steps: tuple[Callable[[Situation], None], ...] = (
            self._serve_requests,
            self._answer_foreign,
            self._leave_down,
            self._leave_removed,
            self._leave_refusing,
            self._write_positions,
        )
        for step in steps:
            if self._swap is not None or self.document is None:
                return
            step(self._situation(self.document, now))

    def _serve_requests(self, situation: Situation) -> None:
        for asked in list(self._asked):
            answer = verdict(asked, situation)
            if isinstance(answer, Wait) and asked.until > situation.now:
                for server in answer.probe:
                    self._probe(server)
                continue
            self._asked.remove(asked)
            match answer:
                case Go(server=server):
                    self._rotate_by_hand(asked, server, situation)
                    return
                case Done():
                    revision = situation.document.revision
                    self._actions.append(
                        Answered(request=asked.event.request, revision=revision, rotation=None)
                    )
                case No():
                    self._refuse(asked.event, answer)
                case Wait(otherwise=no):
                    self._refuse(asked.event, no)

    def _rotate_by_hand(self, asked: Asked, server: str, situation: Situation) -> None:
        event = asked.event
        document, rotation = rotated(
            situation.document,
            to=server,
            names=self.names,
            cause=Cause.MANUAL,
            reason=event.reason,
            actor=event.actor,
            now=situation.now,
            window=self._window(event.participants or self._participants),
        )
        self._propose(document, rotation, asked)

    def _answer_foreign(self, situation: Situation) -> None:
        document, now = situation.document, situation.now
        index = document.foreign_index
        if index is None:
            self._foreign_from = None
            return
        if document.server_count != len(self.names) and not situation.one_list:
            return  # the index counts in another list than ours
        if self._foreign_from is None:
            self._foreign_from = now
        target = self.names[index] if index < len(self.names) else None
        if target is not None and target != document.active_server and document.paused is None:
            candidate = situation.candidate(target)
            if candidate.choosable:
                reason = (document.last_error or "rotated by a foreign client")[:_LONGEST_REASON]
                self._rotate(situation, target, Cause.FOREIGN, reason, actor="foreign")
                return
            if candidate.worth_a_probe and now - self._foreign_from < self.settings.patience:
                self._probe(target)
                return
        reason = f"a foreign client rotated to {target or f'position {index}'}, not available"
        kept, note = written_back(
            document, names=self.names, reason=reason, actor=self._actor, now=now
        )
        self._note(NoteEvent.FOREIGN_WRITTEN_BACK, server=target, position=index)
        self._noted.discard(NoteEvent.FOREIGN_WRITTEN_BACK)  # each time it happens
        self._propose(kept, note)

    def _leave_down(self, situation: Situation) -> None:
        active = situation.document.active_server
        evidence = self._confirmed(active)
        if evidence is None:
            self._stranded_from = None
            self._noted.discard(NoteEvent.NO_SERVER)
            return
        if self._held_by_pause(situation, active):
            return
        target = self._choose(situation, last_resort)
        if target is None:
            return
        cause = KINDS[evidence.outcome]
        reason = evidence.detail or f"probe {evidence.outcome.value}"
        self._rotate(situation, target, cause, reason)

    def _confirmed(self, active: str) -> Evidence | None:
        evidence = self._health.evidence(active)
        if evidence is None or evidence.began < self._active_from:
            return None
        return evidence

    def _leave_removed(self, situation: Situation) -> None:
        document, lists = situation.document, situation.lists
        active = document.active_server
        if active in self.names or lists is None or self._held_by_pause(situation, active):
            return
        target = self._choose(situation, next_available)
        if target is None and not any(active in names for names in lists):
            # Nobody is left who could serve it: a server that not everybody has is better.
            own = Situation(
                names=self.names,
                document=document,
                health=self._health,
                lists=(self.names,),
                now=situation.now,
            )
            target = self._choose(own, next_available)
        if target is None:
            self._note(NoteEvent.REMOVED_NOWHERE_TO_GO, server=active)
            return
        self._rotate(situation, target, Cause.REMOVED, "not in the list of servers any more")

    def _leave_refusing(self, situation: Situation) -> None:
        document, faults = situation.document, self._faults
        active = document.active_server
        # Passing probes show that the fault is not our own network's.
        if faults.joins < self.settings.fall or not self._health.passed(active):
            return
        if self._held_by_pause(situation, active):
            return
        waited = situation.now - document.last_rotation
        if document.cause is not Cause.CREATED and waited < self.settings.rotation_interval:
            return
        target = self._choose(situation, next_available)
        if target is not None:
            reason = faults.detail or f"{faults.joins} joins in a row failed"
            self._rotate(situation, target, faults.kind, reason)

    def _write_positions(self, situation: Situation) -> None:
        # While lists differ, every process would write its own positions, for ever.
        if situation.one_list and (document := listed(situation.document, self.names)):
            self._propose(document, None)

    def _held_by_pause(self, situation: Situation, active: str) -> bool:
        if situation.document.paused is None:
            self._noted.discard(NoteEvent.FAULT_WHILE_PAUSED)
            return False
        self._note(NoteEvent.FAULT_WHILE_PAUSED, server=active)
        return True

    def _choose(
        self, situation: Situation, policy: Callable[[Sequence[Candidate]], Choice]
    ) -> str | None:
        choice = policy(situation.candidates)
        for server in choice.probe:
            self._probe(server)
        if choice.server is None and not choice.probe:
            if self._stranded_from is None:
                self._stranded_from = situation.now
            self._note(NoteEvent.NO_SERVER, server=situation.document.active_server)
        return choice.server

    def _rotate(
        self, situation: Situation, to: str, cause: Cause, reason: str, actor: str | None = None
    ) -> None:
        document, now = situation.document, situation.now
        left = None
        if cause in COOLS:
            left = cooled(document.record(document.active_server), cause, now, self.settings)
        changed, rotation = rotated(
            document,
            to=to,
            names=self.names,
            cause=cause,
            reason=reason[:_LONGEST_REASON],
            actor=actor or self._actor,
            now=now,
            reports=max(1, self._faults.reports, self._faults.joins) if cause in COOLS else 1,
            window=self._window(self._participants),
            left=left,
        )
        self._propose(changed, rotation)

    # --- small things ----------------------------------------------------------------------

    @property
    def _actor(self) -> str:
        return f"pool {self._process}"

    def _situation(self, document: Document, now: float) -> Situation:
        return Situation(
            names=self.names, document=document, health=self._health, lists=self._lists, now=now
        )

    def _window(self, participants: int) -> float:
        return participants / self.settings.pace if participants > self.settings.pace else 0.0

    def _probe(self, server: str) -> None:
        if (action := Probe(server=server)) not in self._actions:
            self._actions.append(action)

    def _note(self, event: NoteEvent, **fields: object) -> None:
        """Tell it once, until it has ended."""
        if event not in self._noted:
            self._noted.add(event)
            self._actions.append(Note(event=event.value, fields=fields))
