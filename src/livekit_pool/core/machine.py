"""
PoolMachine: events in, actions out.

The machine is a pure function of the document, what this process observed, the event and
``now`` (the store's time in seconds since the epoch). It writes nothing itself: it asks for a
swap of the document from one revision to the next, one at a time, and decides anew on whatever
document it then finds. People's requests come first (`requests`), then what the pool does of
itself (`decisions`). What the store lost is brought back before anything else (`agreement`);
while the store is away nothing can be agreed on, and a dead server is left by a step
(`stepping`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Final, assert_never

from .actions import (
    Action,
    Announce,
    Answered,
    Note,
    NoteEvent,
    Probe,
    Refused,
    Restore,
    Step,
    Swap,
)
from .agreement import Finding, Losses
from .budget import Usage, lifted
from .decisions import Decision, decide
from .document import Cause, Document, Rotation, ServerRecord
from .events import (
    ClockSet,
    Event,
    FaultSeen,
    FaultSource,
    JoinAnswered,
    Loaded,
    MarkAsked,
    Probed,
    ProbeOutcome,
    RotateAsked,
    RowsSeen,
    StoreSeen,
    SwapAnswered,
    SwapFailed,
    Tick,
    UsageSeen,
)
from .faults import KINDS, REFUSALS
from .health import Health, HealthBook, Settings
from .limits import Limits
from .moments import Moments
from .pending import PendingFaults, is_late
from .requests import Asked, Done, Go, No, Wait, mark_of, verdict
from .situation import Situation
from .stepping import Stepping

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
    "MarkAsked",
    "Note",
    "NoteEvent",
    "PoolMachine",
    "Probe",
    "ProbeOutcome",
    "Probed",
    "Refused",
    "Restore",
    "Role",
    "RotateAsked",
    "RowsSeen",
    "Settings",
    "Step",
    "StoreSeen",
    "Swap",
    "SwapAnswered",
    "SwapFailed",
    "Tick",
    "UsageSeen",
]

_LONGEST_RETRY: Final = 10
_EARLY_LIMIT: Final = 100
_LOST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 5.0


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
    One process's part in the pool.

    Attributes:
        names: this process's servers, in its order.
        settings: the numbers it decides by.
        document: the newest document it follows; None before the first `Loaded`.
        usage: what is used of each server, as it was told last.
    """

    def __init__(
        self,
        names: Sequence[str],
        settings: Settings,
        process: str,
        limits: Mapping[str, Limits] | None = None,
    ) -> None:
        """
        Begin without a document.

        Args:
            process: unique for the life of the process: it makes operation names unique.
            limits: what each server can take, by name; a missing one has none.
        """
        self.limits: Final = limits or {}
        self.names: Final = tuple(names)
        self.settings: Final = settings
        self.document: Document | None = None
        self._process = process
        self._operations = 0
        self._actions: list[Action] = []
        self._told: dict[tuple[str, object], float] = {}  # the notes that are true -> since when
        # What is observed: by probes, by faults, by the process rows.
        self._health = HealthBook(names, settings)
        self._faults = PendingFaults(settings)
        self._early: list[FaultSeen] = []
        self._rows: RowsSeen | None = None
        self._stepping = Stepping()
        self._announced_step: Step | None = None
        self._losses = Losses()
        self._moments = Moments()
        self._active_from = -math.inf
        self.usage: Mapping[str, Usage] = {}
        self._spent_from: float | None = None
        self._foreign: tuple[int, float] | None = None  # the index that is to be answered, since
        # What is asked for: by people, and of the store.
        self._asked: list[Asked] = []
        self._swap: Swap | Restore | None = None
        self._swap_for: Asked | None = None
        self._swap_unknown = False
        self._decides_at = -math.inf
        self._failed_pause = 0.0

    # --- what others ask -------------------------------------------------------------------

    def health(self, server: str) -> Health:
        """What is known of ``server``; nothing, if it is not of this pool."""
        return self._health.health(server)

    @property
    def step(self) -> Step | None:
        """Where everybody is sent in place of an active server that died with the store away."""
        return self._stepping.step

    @property
    def active_server(self) -> str:
        """Where everybody is sent: the document's active server, or the step's. ``""`` at first."""
        if self.document is None:
            return ""
        return self.document.active_server if self.step is None else self.step.server

    @property
    def wants_witness(self) -> bool:
        """Whether a decision waits for what processes on other machines see."""
        return any(event == NoteEvent.UNWITNESSED for event, _ in self._told)

    def available(self, server: str, now: float) -> bool:
        """Whether ``server`` is healthy, not in cool-down and not drained."""
        if self.document is None:
            return False
        return self._situation(self.document, now).candidate(server).available

    @property
    def takes_rooms(self) -> bool:
        """
        Whether rooms that are nowhere yet may be placed.

        Not while the active server is drained, by force, because there was no other: nothing new
        is sent to it.
        """
        if self.document is None or self.step is not None:
            return True
        return self.document.record(self.document.active_server).drained is None

    def joinable(self, server: str, now: float) -> bool:
        """
        Whether a join may be sent to ``server``: it is of the pool and not confirmed down.

        Whoever made it the active server had seen it pass a probe: what this process saw of it
        before that is outdated.
        """
        document = self.document
        if server not in self.names:
            return False
        if document is None or document.active_server != server:
            return self.health(server) is not Health.DOWN
        # A rotation that is to come was written by a clock that was wrong.
        ahead = document.last_rotation > now + self.settings.rotation_interval
        since = self._active_from if ahead else document.last_rotation
        return not self._health.down_since(server, since)

    def can_leave(self, server: str, now: float) -> bool:
        """
        Whether who is refused by ``server`` may hope to be sent to another one soon.

        Not if it is the active one and will stay it: by pause, for want of another, or because
        the store is away, without which only a server that is down is left.
        """
        document = self.document
        if document is None:
            return False
        if self.active_server != server:
            return True
        if document.paused is not None or self._stepping.away:
            return False
        candidates = self._situation(document, now).candidates
        return any(c.shared and (c.worth_a_signed_probe or c.worth_a_probe) for c in candidates)

    def takes_our_key(self, server: str, since: float) -> bool:
        """Whether ``server`` passed a signed probe of this process that began after ``since``."""
        return self._health.signed_since(server, since)

    def record(self, server: str) -> ServerRecord:
        """What all processes share about ``server``, with a cool-down in the time of now."""
        document = self.document
        return ServerRecord() if document is None else self._seen(document).record(server)

    def refuses_joins(self, server: str) -> bool:
        """Whether only a join tells whether ``server`` takes our key: it refused it on joins."""
        return self.document is not None and self.document.record(server).refuses_joins

    def role(self, server: str, now: float) -> Role:
        """What ``server`` is to the pool: of several, the one that explains most."""
        document = None if self.document is None else self._seen(self.document)
        if document is not None and self.active_server == server:
            return Role.ACTIVE
        if document is not None and document.record(server).drained is not None:
            return Role.DRAINED
        if self._health.misconfigured(server) or self.refuses_joins(server):
            return Role.MISCONFIGURED
        if document is not None and document.record(server).cooling(now):
            exhausted = document.record(server).cool_down_cause is Cause.QUOTA
            return Role.EXHAUSTED if exhausted else Role.COOLING
        if document is not None and self._situation(document, now).is_spent(server):
            return Role.EXHAUSTED
        return Role.STANDBY

    @property
    def suspended(self) -> bool:
        """Whether all servers are silent at once, so that silence condemns none of them."""
        return self._health.suspended

    def retry_after(self, now: float) -> int:
        """Seconds, at least 1, after which a refused client may ask again; grows in an outage."""
        since = min(
            (at for (event, _), at in self._told.items() if event == NoteEvent.NO_SERVER),
            default=now,
        )
        return max(1, min(_LONGEST_RETRY, math.ceil((now - since) / 4)))

    # --- events in, actions out ------------------------------------------------------------

    def receive(self, event: Event, now: float) -> list[Action]:
        """Take in ``event``, and return what is to be done, in order."""
        self._take_in(event, now)
        self._expire(now)
        self._decide(now)
        actions, self._actions = self._actions, []
        return actions

    def _take_in(self, event: Event, now: float) -> None:
        match event:
            case Loaded() | StoreSeen() | SwapAnswered() | SwapFailed():
                self._hear_of_store(event, now)
            case RowsSeen(health=health, signed=signed):
                self._rows = event
                self._health.heard(health, now, signed)
            case Probed():
                self._observe(event, now)
            case FaultSeen():
                self._blame(event, now)
            case ClockSet(by=by):
                self._set_clock(by)
            case JoinAnswered(server=server):
                if self.document is not None and server == self.document.active_server:
                    self._faults.join_answered()
            case UsageSeen(usage=usage):
                self.usage = usage
            case RotateAsked() | MarkAsked():
                self._ask(event, now)
            case Tick():
                pass
            case _:
                assert_never(event)

    def _set_clock(self, by: float) -> None:
        """Let nothing that was waited for be over only because the clock was set on."""
        if self.document is not None:
            self._moments.set_on(by, self.document)
        self._stepping.set_clock(by)
        self._losses.set_clock(by)
        self._told = {key: since + by for key, since in self._told.items()}
        self._asked = [replace(asked, until=asked.until + by) for asked in self._asked]
        if self._swap_for is not None:
            self._swap_for = replace(self._swap_for, until=self._swap_for.until + by)
        if self._foreign is not None:
            self._foreign = self._foreign[0], self._foreign[1] + by
        if self._spent_from is not None:
            self._spent_from += by

    def _hear_of_store(
        self, event: Loaded | StoreSeen | SwapAnswered | SwapFailed, now: float
    ) -> None:
        match event:
            case Loaded(document=document):
                self._find(document, now)
                self._resolve_unknown()
            case StoreSeen(ok=ok):
                self._stepping.store_seen(ok, now)
            case SwapAnswered():
                self._swap_answered(event, now)
            case SwapFailed(operation=operation):
                if self._swap is not None and self._swap.operation == operation:
                    self._swap_unknown = True
                    # A store that answers and takes nothing would be asked without end.
                    self._decides_at = now + self._failed_pause
                    longer = max(2 * self._failed_pause, _LOST_PAUSE)
                    self._failed_pause = min(longer, _LONGEST_PAUSE)

    def _observe(self, event: Probed, now: float) -> None:
        self._health.probed(event, now)
        active = self.document is not None and event.server == self.document.active_server
        if active or self.health(event.server) is not Health.DOWN:
            for server in self._health.witnesses(event.server):
                self._probe(server)
        own_silence = event.outcome is ProbeOutcome.SILENT and event.stalled
        if event.call and event.outcome in KINDS and not own_silence:
            # Whether it is down, a plain one tells.
            self._probe(event.server)
        if not active or self.document is None:
            return
        began = now if event.began is None else event.began
        if event.outcome is ProbeOutcome.PASSED and event.signed:
            self._faults.call_answered(began)
        if event.outcome is ProbeOutcome.LIMITED and began >= self._active_from:
            self._blame(_told_to_us(event, self.document), now)
        if event.outcome not in KINDS:
            look_again = not self._faults.forgive(began)
        elif own_silence:
            look_again = self._faults.reports > 0
        else:
            self._faults.missed()
            # Older than its being active: no evidence, but reason enough to look again.
            look_again = began < self._active_from
        if look_again:
            self._probe(event.server)

    def _blame(self, fault: FaultSeen, now: float) -> None:
        document = self.document
        if fault.server in self.names and fault.source is not FaultSource.PROBE:
            # Whether it refuses everybody's key or one caller's token, only a signed one tells.
            self._probe(fault.server, signed=fault.kind is Cause.CREDENTIALS)
        if document is None:
            return
        if fault.revision > document.revision:
            # Seen by somebody who knows a newer document: it counts once that is followed.
            self._early = [*self._early, fault][-_EARLY_LIMIT:]
        elif not is_late(fault, document):
            seen, passed = self._health.seen(fault.server), self._health.passed(fault.server)
            self._faults.add(fault, now, answering=passed or not seen)

    def _ask(self, event: RotateAsked | MarkAsked, now: float) -> None:
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

    # --- following the document ------------------------------------------------------------

    def _find(self, found: Document | None, now: float) -> None:
        """Take in what the store holds."""
        finding = self._losses.found(found, self.document)
        if finding is Finding.NEWER and found is not None:
            self._follow(found, now)
        elif finding is Finding.FOREIGN and found is not None and self.document is not None:
            # What is known whole stays so.
            self.document = replace(found, repaired=self.document.repaired)

    def _follow(self, document: Document, now: float) -> None:
        current = self.document
        self.document = document
        early, self._early = self._early, []
        if current is None or current.lineage != document.lineage:
            early = []  # their revisions say nothing here
        if current is None or not _has_same_active(document, current):
            self._faults = PendingFaults(self.settings)
            self._active_from, self._spent_from = now, None
            if document.active_server in self.names:
                # That it refuses our key may have been seen while the swap was under way.
                doubted = self._health.misconfigured(document.active_server)
                self._probe(document.active_server, signed=doubted)
        self._doubt_joins(document, now)
        self._actions += self._stepping.follow(document)
        self._announce(self._told_by(document, current))
        for fault in early:
            self._blame(fault, now)

    def _doubt_joins(self, document: Document, now: float) -> None:
        """See at once for ourselves what is written of servers that refuse joins."""
        doubted = [name for name in self.names if document.record(name).refuses_joins]
        for server in self._health.doubt_joins(doubted, now):
            self._probe(server, signed=True)

    def _announce(self, rotation: Rotation | None = None) -> None:
        self._announced_step = self.step
        if self.document is not None:
            self._actions.append(
                Announce(document=self.document, rotation=rotation, step=self.step)
            )

    def _told_by(self, document: Document, current: Document | None) -> Rotation | None:
        """The rotation that ``document`` brings to who followed ``current``."""
        if current is None or current.active_server == document.active_server:
            return None
        if isinstance(self._swap, Swap) and self._swap.document == document:
            return self._swap.rotation
        rotation = document.rotation(current.active_server)
        if rotation.revision <= current.revision:
            # Of another lineage, or made where the store had lost data: its own revision may be
            # one that was told before.
            rotation = replace(rotation, revision=document.revision)
        return rotation

    # --- the swap under way ----------------------------------------------------------------

    def _propose(self, document: Document, rotation: Rotation | None, asked: Asked | None) -> None:
        self._swap = Swap(
            operation=self._operation(),
            expected=document.revision - 1,
            document=document,
            rotation=rotation,
        )
        self._swap_for = asked
        self._actions.append(self._swap)

    def _mends(self, held: Document, now: float) -> bool:
        """Whether the document is put right first, by this process or by others."""
        if self._restore(held, now):
            return True
        if not self._waits_for_others(now):
            return False
        # What is written now would make what was read stand; who serves nobody is left all the
        # same, and to end a step writes nothing.
        situation = self._situation(held, now)
        if situation.is_urgent or self.step is not None:
            self._leave_meanwhile(situation)
        return True

    def _leave_meanwhile(self, situation: Situation) -> None:
        """Only leave the active server, also as somebody asks for it if it is dead."""
        leave = decide(situation, only_leave=True)
        if situation.is_urgent and situation.document.foreign_index is not None and leave.leaves:
            self._carry_out(leave, situation.now)  # first, as ever
            return
        evidence = situation.evidence()
        if evidence is not None and not situation.unwitnessed(evidence):
            rotations = [each for each in self._asked if isinstance(each.event, RotateAsked)]
            if self._serve_requests(situation, rotations):
                return
        self._carry_out(self._stepping.reconcile(situation) or leave, situation.now)

    def _waits_for_others(self, now: float) -> bool:
        return self._losses.wait_for_others(now, alone=self._is_alone)

    @property
    def _is_alone(self) -> bool:
        return self._rows is not None and len(self._rows.lists) == 1

    def _restore(self, held: Document, now: float) -> bool:
        """Bring back what the store lost, if it is time for it."""
        remedy = self._losses.remedy(
            held, actor=f"pool {self._process}", now=now, alone=self._is_alone
        )
        if remedy is None:
            return False
        found, document, note = remedy
        self._swap = Restore(operation=self._operation(), found=found, document=document, note=note)
        self._actions.append(self._swap)
        return True

    def _operation(self) -> str:
        self._operations += 1
        return f"{self._process}-{self._operations}"

    def _swap_answered(self, event: SwapAnswered, now: float) -> None:
        self._find(event.document, now)
        if not event.won and _is_unexplained(self._swap, event.document):
            # To ask again at once would only be asking without end.
            self._decides_at = now + _LOST_PAUSE
        if self._swap is not None and self._swap.operation == event.operation:
            self._swap_ended(self._swap, won=event.won)

    def _resolve_unknown(self) -> None:
        """The store answers again: whether the swap was applied shows in the document."""
        swap = self._swap
        if swap is None or not self._swap_unknown or self.document is None:
            return
        applied = isinstance(swap, Swap) and _shows(self.document, swap, self._swap_for)
        self._swap_ended(swap, won=applied)

    def _swap_ended(self, swap: Swap | Restore, *, won: bool) -> None:
        asked = self._swap_for
        self._swap, self._swap_for, self._swap_unknown = None, None, False
        if won:
            self._decides_at, self._failed_pause = -math.inf, 0.0
        if asked is None:
            return
        if won and isinstance(swap, Swap):
            self._answer(asked, swap.document, swap.rotation)
        else:
            self._asked.insert(0, asked)  # the verdict on the new document decides

    # --- requests --------------------------------------------------------------------------

    def _serve_requests(self, situation: Situation, requests: Sequence[Asked]) -> bool:
        """Answer what can be answered of ``requests``, up to the first swap; whether it came."""
        for asked in requests:
            answer = verdict(asked, situation)
            if isinstance(answer, Wait):
                if situation.now < asked.until:
                    for server in answer.probe:
                        self._probe(server)
                    for server in answer.signed:
                        self._probe(server, signed=True)
                    continue
                answer = answer.otherwise
            self._asked.remove(asked)
            match answer:
                case Go(document=document, rotation=rotation):
                    self._propose(document, rotation, asked)
                    return True
                case Done():
                    self._answer(asked, situation.document, None, changed=False)
                case No():
                    self._refuse(asked.event, answer)
        return False

    def _expire(self, now: float) -> None:
        """Refuse what the store keeps waiting for too long."""
        if self._swap is not None or self._stepping.away:
            why = "The store does not answer in time; try again."
        elif self._waits_for_others(now):
            why = (
                "Parts of the document in the store are missing or nonsense, and other processes"
                " have some seconds to put it right; try again."
            )
        else:
            return
        away = No("store_unavailable", why)
        for asked in [asked for asked in self._asked if asked.until <= now]:
            self._asked.remove(asked)
            self._refuse(asked.event, away)
        asked_for = self._swap_for
        if asked_for is not None and self._swap_unknown and asked_for.until <= now:
            self._swap_for = None
            lost = "The store's answer was lost: look at the pool's status whether it is done."
            self._refuse(asked_for.event, No("store_outcome_unknown", lost))

    def _answer(
        self, asked: Asked, document: Document, rotation: Rotation | None, *, changed: bool = True
    ) -> None:
        event = asked.event
        self._actions.append(
            Answered(
                request=event.request,
                revision=document.revision,
                rotation=rotation,
                changed=changed,
                mark=mark_of(event, document) if isinstance(event, MarkAsked) else None,
            )
        )

    def _refuse(self, event: RotateAsked | MarkAsked, no: No) -> None:
        revision = 0 if self.document is None else self.document.revision
        self._actions.append(
            Refused(request=event.request, code=no.code, message=no.message, revision=revision)
        )

    # --- decisions -------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        if self.document is None:
            return
        self._faults.forget(now)
        if not self._situation(self.document, now).is_spent(self.document.active_server):
            self._spent_from = None
        elif self._spent_from is None:
            self._spent_from = now
        if self._stepping.away:
            # What the store was asked for last may be done or not: its document will tell.
            self._carry_out(self._stepping.leave_down(self._situation(self.document, now)), now)
            return
        foreign = self.document.foreign_index
        if self._foreign is not None and self._foreign[0] != foreign:
            self._foreign = None
        if self._swap is not None or now < self._decides_at or self._mends(self.document, now):
            return
        if foreign is not None and self._foreign is None:
            self._foreign = foreign, now
        situation = self._situation(self.document, now)
        if foreign is not None:
            # What anybody writes now would wipe out what the foreign client wrote: that is answered
            # first, and an operator's word, who asks at the same moment, is the last.
            answer = decide(situation)
            if answer.document is not None:
                self._carry_out(answer, now)
                return
        if self._serve_requests(situation, list(self._asked)):
            return
        self._carry_out(self._stepping.reconcile(situation) or decide(situation), now)

    def _carry_out(self, decision: Decision, now: float) -> None:
        for server in decision.probe:
            self._probe(server)
        for server in decision.signed:
            self._probe(server, signed=True)
        self._tell(decision.notes, now)
        if decision.document is not None:
            self._propose(decision.document, decision.rotation, None)
        if self.step is not self._announced_step:
            self._announce()

    def _situation(self, document: Document, now: float) -> Situation:
        return Situation(
            names=self.names,
            actor=f"pool {self._process}",
            settings=self.settings,
            document=self._seen(document),
            health=self._health,
            faults=self._faults,
            lists=None if self._rows is None else self._rows.lists,
            elsewhere=() if self._rows is None else self._rows.elsewhere,
            agreed=self._rows is None or self._rows.agreed,
            unwitnessed_from=self._told.get((NoteEvent.UNWITNESSED, document.active_server)),
            participants=0 if self._rows is None else self._rows.participants,
            active_from=self._active_from,
            foreign_from=None if self._foreign is None else self._foreign[1],
            limits=self.limits,
            usage=self.usage,
            spent_from=self._spent_from,
            now=now,
        )

    def _seen(self, document: Document) -> Document:
        """``document`` as it is to be understood now, and by this process's budgets."""
        document = self._moments.seen(document)
        share, servers = self.settings.minutes_share, dict(document.servers)
        for name in self.names:
            if name in servers:
                servers[name] = lifted(servers[name], self.limits.get(name, Limits()), share)
        return document if servers == document.servers else replace(document, servers=servers)

    def _probe(self, server: str, *, signed: bool = False) -> None:
        if (action := Probe(server=server, signed=signed)) not in self._actions:
            self._actions.append(action)

    def _tell(self, notes: Sequence[Note], now: float) -> None:
        """Tell each note when it becomes true."""
        true = {(note.event, note.fields.get("server")): note for note in notes}
        self._actions += [note for key, note in true.items() if key not in self._told]
        self._told = {key: self._told.get(key, now) for key in true}


def _told_to_us(event: Probed, document: Document) -> FaultSeen:
    """The refusal that a probe of the active server met."""
    kind = event.kind if event.kind in REFUSALS else Cause.RATE_LIMIT
    return FaultSeen(
        server=event.server,
        revision=document.revision,
        kind=kind or Cause.RATE_LIMIT,
        source=FaultSource.PROBE,
        detail=event.detail,
        retry_after=event.retry_after,
    )


def _is_unexplained(swap: Swap | Restore | None, there: Document | None) -> bool:
    """Whether the store refuses ``swap`` although what it shows is what that expected."""
    if swap is None or there is None or there.foreign_index is not None:
        return False
    if isinstance(swap, Swap):
        return there.revision <= swap.expected
    found = swap.found
    return found is not None and found.identity == there.identity


def _has_same_active(document: Document, current: Document) -> bool:
    """Whether the active server is the same, and was so all the time between the two."""
    return (document.lineage, document.active_since, document.active_server) == (
        current.lineage,
        current.active_since,
        current.active_server,
    )


def _shows(document: Document, swap: Swap, asked: Asked | None) -> bool:
    """Whether ``document`` shows that ``swap``, made for ``asked``, was applied."""
    if swap.rotation is not None:
        return _tells_of(document, swap.rotation)
    if asked is None or not isinstance(asked.event, MarkAsked):
        return False
    there, written = mark_of(asked.event, document), mark_of(asked.event, swap.document)
    if there is None or written is None:
        return there is written
    same = (there.by, there.reason) == (written.by, written.reason)
    return same and abs(there.since - written.since) < 0.001


def _tells_of(document: Document, rotation: Rotation) -> bool:
    """Whether ``rotation`` is the last one of ``document``."""
    return (
        document.active_since == rotation.revision
        and document.active_server == rotation.to
        and abs(document.last_rotation - rotation.at) < 0.001  # stores keep less than a float
        and document.actor == rotation.actor
        and document.reason == rotation.reason
    )
