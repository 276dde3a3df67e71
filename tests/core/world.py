"""
World: several machines, one compare-and-swap document, the truth, and what must hold of them.

The world knows the truth (which server is well, and since when) that the machines can only
guess from probes and faults, and checks what they do against it. Everything that takes time in
a real pool lies in a list here until somebody takes it out, in any order: notices of a changed
document, swaps on their way to the store and answers on their way back, probes, faults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from livekit_pool.core.actions import (
    Action,
    Announce,
    Answered,
    Note,
    Probe,
    Refused,
    Restore,
    Step,
    Swap,
)
from livekit_pool.core.document import Cause, Document, Mark, Rotation, new_document
from livekit_pool.core.events import (
    Change,
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
)
from livekit_pool.core.faults import COOLS, FORGIVABLE, REFUSALS
from livekit_pool.core.health import Health, Settings
from livekit_pool.core.machine import PoolMachine
from tests.core.samples import NAMES

SETTINGS = Settings()
AUTOMATIC = COOLS
SILENCE = 0.8
"""Seconds that a probe waits for an answer."""


class Truth(StrEnum):
    """What is the matter with a server."""

    WELL = "well"
    DEAD = "dead"  # refuses
    HUNG = "hung"  # swallows everything
    SICK = "sick"  # answers probes, fails joins
    FULL = "full"  # answers probes, refuses joins for a limit


PASSED = ProbeOutcome.PASSED
OUTCOMES = {
    Truth.WELL: ProbeOutcome.PASSED,
    Truth.SICK: ProbeOutcome.PASSED,
    Truth.FULL: ProbeOutcome.PASSED,
    Truth.DEAD: ProbeOutcome.REFUSED,
    Truth.HUNG: ProbeOutcome.SILENT,
}


@dataclass
class Process:
    """One machine, and what is on its way to and from it."""

    machine: PoolMachine
    network: bool = True  # False: whatever it asks of servers meets silence
    store: bool = True  # False: the store is away for it
    announced: Document | None = None
    step: Step | None = None  # as it was announced last
    notices: list[Document | None] = field(default_factory=list)
    probes: list[Probed] = field(default_factory=list)
    faults: list[FaultSeen] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)  # the requests that it took
    swap: Swap | Restore | None = None  # on its way to the store
    answer: SwapAnswered | None = None  # on its way back
    undecided: bool = False  # its swap's answer was lost, and it has not read the document since
    # What it must act upon: evidence that arrived in the present period of the active server.
    back_at: float = 0.0  # when the store was back last
    missed: dict[str, float] = field(default_factory=dict)  # when the newest miss began
    period: tuple[str, int] = ("", 0)  # lineage and activeSince
    refused: bool = False
    joins: int = 0
    limited_until: float = 0.0  # it knows of a limit for which joins are refused, so long
    seen: dict[str, ProbeOutcome] = field(default_factory=dict)  # newest outcomes that arrived

    @property
    def document(self) -> Document:
        assert self.machine.document is not None
        return self.machine.document


class World:
    """Three processes; to be set up before anything happens."""

    def set_up(self, make: Callable[[tuple[str, ...], Settings, str], PoolMachine]) -> None:
        self.make_machine = make
        self.restarts = 0
        self.now = 1000.0
        self.truth = dict.fromkeys(NAMES, Truth.WELL)
        # What the store holds, and the newest document that anybody knows: what it should hold.
        self.stored: Document | None = new_document(
            lineage="L", names=NAMES, actor="p0", now=self.now
        )
        self.document = self.stored
        self.earlier: list[Document] = []
        self.history: list[Rotation] = []
        self.ill: set[str] = set()  # servers that failed at any time
        self.guilty = False  # the active server failed at some time since it became active
        self.requests: dict[str, tuple[int, RotateAsked | MarkAsked]] = {}
        self.answered: set[str] = set()
        self.processes = [
            Process(machine=make(NAMES, SETTINGS, f"p{number}")) for number in range(3)
        ]

    # --- what the store does ---------------------------------------------------------------

    def write(self, document: Document, rotation: Rotation | None) -> None:
        """Somebody whose knowledge is complete wrote ``document``."""
        self.earlier = [*self.earlier, self.document][-5:]
        self.stored = self.document = document
        for process in self.processes:
            process.notices.append(document)
        if rotation is not None and rotation.from_ != rotation.to:
            self.history.append(rotation)
            self.guilty = self.truth[rotation.to] is not Truth.WELL

    def lose(self, stored: Document | None) -> None:
        """The store has lost its data: it holds ``stored`` now, and says so."""
        self.stored = stored
        # What nobody had read is gone for good.
        machines = [process.machine.document for process in self.processes]
        self.know(max((one for one in (*machines, stored) if one is not None), key=standing))
        for process in self.processes:
            process.notices.append(stored)

    def all_know(self) -> bool:
        """Whether every process has read what the store holds, and that is the newest."""
        return self.stored == self.document and all(
            process.document == self.document for process in self.processes
        )

    def know(self, document: Document) -> None:
        """The newest that anybody knows is ``document``."""
        if document.active_since != self.document.active_since:
            self.guilty = True  # of a server that is active again, nobody kept the record
        self.document = document

    def execute(self, process: Process) -> None:
        if (swap := process.swap) is None or not process.store:
            return
        process.swap = None
        if isinstance(swap, Restore):
            won = identity(self.stored) == identity(swap.found)
            if won:
                # Another process may hold a newer one still, and will bring that back.
                self.lose(swap.document)
        else:
            won = identity(self.stored) == (swap.document.lineage, swap.expected)
            if won and self.stored != self.document:
                # By one who does not know what the store has lost: who knows it comes after.
                self.lose(swap.document)
            elif won:
                self.check_swap(swap)
                self.check_marks(process, swap)
                self.write(swap.document, swap.rotation)
        process.answer = SwapAnswered(operation=swap.operation, won=won, document=self.stored)

    def answer(self, process: Process) -> None:
        if (answer := process.answer) is not None and process.store:
            process.answer = None
            self.feed(process, answer)

    def load(self, process: Process, document: Document | None) -> None:
        if process.store:
            process.undecided = False
            self.feed(process, Loaded(document=document))

    def store_changes(self, process: Process, there: bool) -> None:
        """The store is away for ``process``, or back: it reads everything before it says so."""
        if there:
            process.undecided = False
            self.feed(process, Loaded(document=self.stored))
            self.feed(process, RowsSeen(lists=(NAMES, NAMES, NAMES)))
            process.back_at = self.now
        process.store = there
        self.feed(process, StoreSeen(ok=there))

    def restart(self, number: int) -> None:
        """A process ends; the next one knows nothing, and begins anew if it finds nothing."""
        ended = self.processes[number]
        self.answered |= ended.asked  # nobody is left to answer
        self.restarts += 1
        machine = self.make_machine(NAMES, SETTINGS, f"p{number}.{self.restarts}")
        self.processes[number] = process = Process(machine=machine, network=ended.network)
        lineage = f"N{self.restarts}"
        self.lose(
            self.stored or new_document(lineage=lineage, names=NAMES, actor="p", now=self.now)
        )
        self.begin(process)

    def begin(self, process: Process) -> None:
        """It reads the store, and probes every server once."""
        self.feed(process, Loaded(document=self.stored))
        self.feed(process, RowsSeen(lists=(NAMES, NAMES, NAMES)))
        for server in NAMES:
            self.feed(process, self.begun(process, server))
        process.probes.clear()

    # --- what the machines are told, and what they do --------------------------------------

    def pick(self, place: str, pick: int) -> Process:
        having = [process for process in self.processes if getattr(process, place)]
        return having[pick % len(having)]

    def begun(self, process: Process, server: str) -> Probed:
        outcome = OUTCOMES[self.truth[server]] if process.network else ProbeOutcome.SILENT
        if self.truth[server] is not Truth.WELL:
            self.ill.add(server)
        return Probed(server=server, outcome=outcome, began=self.now)

    def end(self, process: Process, probe: Probed) -> None:
        if probe.outcome is ProbeOutcome.SILENT:
            assert probe.began is not None
            self.now = max(self.now, probe.began + SILENCE)
        self.feed(process, probe)

    def fault(self, process: Process, kind: Cause, source: FaultSource) -> FaultSeen:
        document = process.document
        return FaultSeen(
            server=document.active_server, revision=document.revision, kind=kind, source=source
        )

    def feed(self, process: Process, event: Event) -> None:
        self.now += 0.001  # no two things happen at once
        if isinstance(event, Probed) and event.outcome is not PASSED:
            # One that began earlier may arrive later; it is no look of that moment.
            missed = process.missed.get(event.server, 0.0)
            process.missed[event.server] = max(missed, event.began or 0.0)
        for action in process.machine.receive(event, self.now):
            self.perform(process, action)
        self.remember(process, event)

    def perform(self, process: Process, action: Action) -> None:
        match action:
            case Swap() | Restore():
                assert process.store, "a swap while the store is away"
                assert process.swap is None, "two swaps on their way at once"
                assert process.answer is None, "a swap before the last one's answer"
                assert not process.undecided, "a swap before the last one's outcome is known"
                process.swap = action
                if isinstance(action, Swap):
                    self.check_choice(process, action)
                    self.check_drain(process, action)
                else:
                    self.check_restore(process, action)
            case Probe(server=server):
                if all(probe.server != server for probe in process.probes):
                    process.probes.append(self.begun(process, server))
            case Announce(document=document, step=step):
                if (known := process.announced) is not None and step == process.step:
                    assert document.revision > known.revision, "old news"
                if step is not None and step != process.step:
                    self.check_step(process, step)
                process.announced, process.step = document, step
            case Answered(request=request) | Refused(request=request):
                assert request in self.requests
                assert request not in self.answered, "a request answered twice"
                self.answered.add(request)
            case Note():
                pass

    def remember(self, process: Process, event: Event) -> None:
        """Keep count of what ``process`` knows of the active server and has to act upon."""
        document = process.document
        if isinstance(event, Probed):
            process.seen[event.server] = event.outcome
        period = (document.lineage, document.active_since)
        if process.period != period:
            process.period, process.refused, process.joins = period, False, 0
            process.limited_until = 0.0
        match event:
            case Probed(server=document.active_server, outcome=outcome):
                process.refused = outcome is ProbeOutcome.REFUSED
                if outcome is not ProbeOutcome.PASSED:
                    process.joins = 0
            case JoinAnswered():
                process.joins, process.limited_until = 0, 0.0
            case FaultSeen(kind=kind, server=server, revision=revision) if kind in REFUSALS:
                if server == document.active_server and revision >= document.active_since:
                    process.limited_until = self.now + SETTINGS.cool_down_limit_first
            case FaultSeen(source=FaultSource.JOIN, server=server, revision=revision):
                true = server == document.active_server and revision >= document.active_since
                if true and process.seen[server] is ProbeOutcome.PASSED:
                    process.joins += 1

    # --- properties ------------------------------------------------------------------------

    def check_swap(self, swap: Swap) -> None:
        """What is true of every change that the store applies."""
        rotation, base = swap.rotation, self.document
        assert swap.document.revision == base.revision + 1
        if rotation is None or rotation.from_ == rotation.to:
            assert swap.document.active_since == base.active_since, "a fault is late for nothing"
        if rotation is None:
            return
        assert rotation.from_ == base.active_server
        if rotation.cause in AUTOMATIC:
            # One fault is one rotation, and a late one none: whoever is left has failed, and
            # failed since it became active, not when it was so before.
            assert self.guilty, f"{rotation.from_} was left though it was well"
            assert base.paused is None, "an automatic rotation while paused"
        if rotation.cause is Cause.MANUAL:
            since, asked = self.requests[rotation.actor]
            if isinstance(asked, RotateAsked):
                again = asked.to is None and since != base.active_since
                assert not again, "asked at once, done twice"
            else:
                assert swap.document.record(rotation.from_).drained is not None, "left undrained"
            if base.record(rotation.from_).drained is None:
                assert asked.expected_revision in (None, base.revision), "another one expected"
            elif isinstance(asked, MarkAsked):  # the pool itself leaves it, when it can
                assert base.paused is None, "an automatic rotation while paused"

    def check_marks(self, process: Process, swap: Swap) -> None:
        """Whatever a person set, nothing undoes or changes but what a person asks for."""
        waiting = [self.requests[request][1] for request in process.asked - self.answered]
        for server in ("", *NAMES):
            before, after = self.document.marks.get(server), swap.document.marks.get(server)
            if before != after:
                assert None in (before, after), "a mark was set over another one"
                wished = any(wants(event, server, after) for event in waiting)
                assert wished, "a mark was changed though nobody asked for it"

    def check_drain(self, process: Process, swap: Swap) -> None:
        """The last available server is drained only by force, the active one with a rotation."""
        base = process.document
        for server in NAMES:
            mark = swap.document.record(server).drained
            if mark is None or base.record(server).drained is not None:
                continue
            _, asked = self.requests[mark.by]
            others = [name for name in NAMES if name != server and self.fit(process, name)]
            if not asked.force and (server == base.active_server or self.fit(process, server)):
                assert others, "the last available server was drained without force"
            if server == base.active_server and set(others) & set(self.passing(process)):
                assert swap.rotation is not None, "the active server was drained and not left"

    def check_restore(self, process: Process, restore: Restore) -> None:
        """What is brought back is what somebody held, and nobody sees a revision again."""
        found, held = restore.found, process.document
        assert restore.document.revision > held.revision
        assert found is None or restore.document.revision > found.revision
        kept = found if found is not None and standing(found) > standing(held) else held
        assert restore.document.lineage == kept.lineage, "a younger lineage was brought back"
        assert restore.document.active_server == kept.active_server, "a rotation by accident"
        assert restore.document.active_since == kept.active_since
        assert restore.document.marks == kept.marks, "a mark was lost with what was brought back"

    def check_step(self, process: Process, step: Step) -> None:
        """A step leaves a dead server while the store is away, for one that was not taken out."""
        document = process.document
        assert not process.store, "a step while the store is there"
        assert document.paused is None, "a step while paused"
        left = process.step.server if process.step else document.active_server
        assert left in self.ill, f"{left} was left by a step though it was well"
        record = document.record(step.server)
        assert record.drained is None, "a step to a drained server"
        assert not record.cooling(self.now), "a step to a cooling server"

    def check_choice(self, process: Process, swap: Swap) -> None:
        """No server in cool-down is chosen while an available one exists."""
        rotation, base = swap.rotation, process.document
        if rotation is None or rotation.from_ == rotation.to:
            return
        if rotation.cause is Cause.MANUAL and isinstance(
            self.requests[rotation.actor][1], RotateAsked
        ):
            return
        if process.step is not None and rotation.cause in FORGIVABLE:
            fresh = process.missed.get(rotation.from_, 0.0) > process.back_at
            assert fresh, "a step was confirmed without a fresh look"
        assert base.record(rotation.to).drained is None, "a drained server was chosen"
        assert process.machine.health(rotation.to) is Health.UP, "a server not up was chosen"
        if base.record(rotation.to).cooling(self.now):
            assert not self.available(process), "a cooling server was chosen"

    def available(self, process: Process) -> list[str]:
        """The servers beside the active one that ``process`` sees as available."""
        active = process.document.active_server
        return [name for name in NAMES if name != active and self.fit(process, name)]

    def fit(self, process: Process, server: str) -> bool:
        """Whether ``process`` sees ``server`` as available."""
        record = process.document.record(server)
        up = process.machine.health(server) is Health.UP
        return up and record.drained is None and not record.cooling(self.now)

    def passing(self, process: Process) -> list[str]:
        """The servers whose newest probe passed, as far as ``process`` knows."""
        return [name for name in NAMES if process.seen.get(name) is ProbeOutcome.PASSED]

    def targets(self, process: Process) -> list[str]:
        """The servers to which ``process`` may rotate of itself."""
        if self.document.paused is not None:
            return []
        return [name for name in self.available(process) if name in self.passing(process)]

    def settle(self) -> None:
        for _ in range(20):
            before = self.document
            self.settle_a_little()
            if self.document == before:
                return
        raise AssertionError("it does not come to rest")

    def settle_a_little(self) -> None:
        for _ in range(6):
            for process in self.processes:
                for _ in range(50):
                    if process.probes:
                        self.end(process, process.probes.pop(0))
                assert not process.probes, "it probes without a pause"
                self.execute(process)
                self.answer(process)
                self.load(process, self.stored)


def wants(event: RotateAsked | MarkAsked, server: str, mark: Mark | None) -> bool:
    """Whether ``event`` asks for ``server`` to have that ``mark``; of no server, the pool."""
    if isinstance(event, RotateAsked):
        return mark is None and event.force and event.to == server
    if mark is None:
        return event.server == server and event.change in (Change.UNDRAIN, Change.RESUME)
    sets = event.change in (Change.DRAIN, Change.PAUSE)
    return sets and (event.server, event.request) == (server, mark.by)


def identity(document: Document | None) -> tuple[str, int] | None:
    """What a swap compares."""
    return None if document is None else (document.lineage, document.revision)


def standing(document: Document) -> tuple[float, int]:
    """The greater, the more it stands: of lineages the oldest, and its highest revision."""
    return -document.created_at, document.revision
