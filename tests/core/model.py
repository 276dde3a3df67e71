"""
PoolModel: several machines on one compare-and-swap document, in any interleaving.

The model knows the truth (which server is well, and since when) that the machines can only
guess from probes and faults, and checks what they do against it. Everything that takes time in
a real pool lies in a list here until a rule takes it out, in any order: notices of a changed
document, swaps on their way to the store and answers on their way back, probes, faults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from livekit_pool.core.actions import Action, Announce, Answered, Note, Probe, Refused, Swap
from livekit_pool.core.document import Cause, Document, Mark, Rotation, new_document, rotated
from livekit_pool.core.events import (
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
from livekit_pool.core.health import Health, Settings
from livekit_pool.core.machine import PoolMachine

NAMES = ("red", "green", "blue")
SETTINGS = Settings()
AUTOMATIC = (Cause.DOWN, Cause.TIMEOUT)
SILENCE = 0.8
"""Seconds that a probe waits for an answer."""


class Truth(StrEnum):
    """What is the matter with a server."""

    WELL = "well"
    DEAD = "dead"  # refuses
    HUNG = "hung"  # swallows everything
    SICK = "sick"  # answers probes, fails joins


OUTCOMES = {
    Truth.WELL: ProbeOutcome.PASSED,
    Truth.SICK: ProbeOutcome.PASSED,
    Truth.DEAD: ProbeOutcome.REFUSED,
    Truth.HUNG: ProbeOutcome.SILENT,
}


@dataclass
class Process:
    """One machine, and what is on its way to and from it."""

    machine: PoolMachine
    network: bool = True  # False: whatever it asks of servers meets silence
    announced: tuple[str, int] | None = None
    notices: list[Document] = field(default_factory=list)
    probes: list[Probed] = field(default_factory=list)
    faults: list[FaultSeen] = field(default_factory=list)
    swap: Swap | None = None  # on its way to the store
    answer: SwapAnswered | None = None  # on its way back
    undecided: bool = False  # its swap's answer was lost, and it has not read the document since
    # What it must act upon: evidence that arrived in the present period of the active server.
    period: int = 0
    refused: bool = False
    joins: int = 0
    seen: dict[str, ProbeOutcome] = field(default_factory=dict)  # newest outcomes that arrived

    @property
    def document(self) -> Document:
        assert self.machine.document is not None
        return self.machine.document


numbers = st.integers(0, 2)
picks = st.integers(0, 20)


def waiting(*places: str) -> Callable[[PoolModel], bool]:
    """Whether some process has something in one of these places."""
    return lambda model: any(
        getattr(process, place) for process in model.processes for place in places
    )


class PoolModel(RuleBasedStateMachine):
    """The rules and the properties; ``make`` is replaced where a guard is taken out."""

    make: Callable[[tuple[str, ...], Settings, str], PoolMachine] = PoolMachine

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.truth = dict.fromkeys(NAMES, Truth.WELL)
        self.document = new_document(lineage="L", names=NAMES, actor="p0", now=self.now)
        self.history: list[Rotation] = []
        self.guilty = False  # the active server failed at some time since it became active
        self.requests: dict[str, tuple[int, RotateAsked]] = {}
        self.answered: set[str] = set()
        self.processes = [
            Process(machine=type(self).make(NAMES, SETTINGS, f"p{number}")) for number in range(3)
        ]

    @initialize()
    def start(self) -> None:
        for process in self.processes:
            self.feed(process, Loaded(document=self.document))
            self.feed(process, RowsSeen(lists=(NAMES, NAMES, NAMES)))
            for server in NAMES:
                self.feed(process, self.begun(process, server))
            process.probes.clear()

    # --- the world -------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.3, 2.5, 6.0, 12.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for process in self.processes:
            self.feed(process, Tick())

    @rule(server=st.sampled_from(NAMES), how=st.sampled_from([Truth.DEAD, Truth.HUNG]))
    def fails(self, server: str, how: Truth) -> None:
        self.truth[server] = how
        self.guilty |= server == self.document.active_server

    @precondition(lambda self: set(self.truth.values()) != {Truth.WELL})
    @rule(pick=picks)
    def recovers(self, pick: int) -> None:
        ill = [server for server in NAMES if self.truth[server] is not Truth.WELL]
        self.truth[ill[pick % len(ill)]] = Truth.WELL

    @rule(number=numbers, how=st.sampled_from([Truth.DEAD, Truth.HUNG]), wait=st.booleans())
    def active_is_restarted(self, number: int, how: Truth, wait: bool) -> None:
        """A whole story, so that what comes after one is reached often."""
        process, server = self.processes[number], self.document.active_server
        self.load(process, self.document)
        self.fails(server, how)
        self.probes_in_a_row(number, server, SETTINGS.fall)
        for other in NAMES:
            self.probes_in_a_row(number, other, 1)
        self.probes_in_a_row(number, server, 1)
        self.execute(process)
        self.answer(process)
        self.truth[server] = Truth.WELL
        self.now += 6.0 if wait else 0.0
        self.probes_in_a_row(number, server, SETTINGS.rise)

    @rule(number=numbers, how=st.sampled_from([Truth.DEAD, Truth.SICK]), pick=picks)
    def active_is_mended(self, number: int, how: Truth, pick: int) -> None:
        """Red, green, red: what was seen of it before is still on its way."""
        process = self.processes[number]
        self.load(process, self.document)
        process.probes.clear()
        if how is Truth.SICK:
            self.joins_fail(number, SETTINGS.fall)
        else:
            self.fails(self.document.active_server, how)
            self.probe_begins(number, None)
        self.truth[self.document.active_server] = Truth.WELL
        self.somebody_rotates_there_and_back(pick)

    @rule(number=numbers, rounds=st.integers(1, 4), first=st.permutations(NAMES))
    def network_is_out(self, number: int, rounds: int, first: list[str]) -> None:
        """Also a story: joins fail, all servers are silent, and come back one after another."""
        process = self.processes[number]
        process.network = False
        self.faults_are_seen(number, SETTINGS.fall, FaultSource.JOIN)
        for _ in range(rounds):
            for server in NAMES:
                self.end(process, self.begun(process, server))
        process.network = True
        for server in first:
            self.end(process, self.begun(process, server))

    @rule(number=numbers)
    def network_changes(self, number: int) -> None:
        process = self.processes[number]
        if not process.network:
            # Every server is probed every second: no outage that one probe saw is unseen by
            # the probes of the others.
            for server in NAMES:
                self.end(process, self.begun(process, server))
        process.network = not process.network

    # --- probes and faults -----------------------------------------------------------------

    @rule(number=numbers, server=st.none() | st.sampled_from(NAMES))
    def probe_begins(self, number: int, server: str | None) -> None:
        self.perform(self.processes[number], Probe(server=server or self.document.active_server))

    @precondition(waiting("probes"))
    @rule(pick=picks)
    def probe_ends(self, pick: int) -> None:
        process = self.pick("probes", pick)
        self.end(process, process.probes.pop(pick % len(process.probes)))

    @rule(number=numbers, server=st.sampled_from(NAMES), times=st.integers(1, 3))
    def probes_in_a_row(self, number: int, server: str, times: int) -> None:
        for _ in range(times):
            self.end(self.processes[number], self.begun(self.processes[number], server))

    @rule(number=numbers, times=st.integers(2, 4))
    def joins_fail(self, number: int, times: int) -> None:
        """Joins of the active server fail, though it answers probes, and are on their way."""
        self.truth[self.document.active_server] = Truth.SICK
        self.guilty = True
        self.load(self.processes[number], self.document)
        self.faults_are_seen(number, times, FaultSource.JOIN)

    @rule(number=numbers, times=st.integers(1, 3), source=st.sampled_from(FaultSource))
    def faults_are_seen(self, number: int, times: int, source: FaultSource) -> None:
        """Joins fail, sockets are lost: on their way to the machine from now on."""
        process = self.processes[number]
        truth = self.truth[process.document.active_server]
        if not process.network:
            for _ in range(times):  # told at once: nobody mistakes them for later ones
                self.feed(process, self.fault(process, Cause.TIMEOUT, source))
        elif truth is not Truth.WELL:
            kind = Cause.TIMEOUT if truth is Truth.HUNG else Cause.DOWN
            process.faults += [self.fault(process, kind, source)] * times

    @precondition(lambda self: self.history)
    @rule(number=numbers, pick=picks, times=st.integers(1, 3))
    def stragglers_fail(self, number: int, pick: int, times: int) -> None:
        """Sessions of a server that was left long ago fail, whatever the reason."""
        rotation = self.history[pick % len(self.history)]
        fault = FaultSeen(
            server=rotation.from_,
            revision=rotation.revision - 1,
            kind=Cause.DOWN,
            source=FaultSource.JOIN,
        )
        self.processes[number].faults += [fault] * times

    @precondition(waiting("faults"))
    @rule(pick=picks, several=st.booleans())
    def faults_arrive(self, pick: int, several: bool) -> None:
        process = self.pick("faults", pick)
        for _ in range(3 if several else 1):
            if process.faults:
                self.feed(process, process.faults.pop(pick % len(process.faults)))

    @rule(number=numbers)
    def join_is_answered(self, number: int) -> None:
        process = self.processes[number]
        server = process.document.active_server
        if process.network and self.truth[server] is Truth.WELL:
            self.feed(process, JoinAnswered(server=server))

    # --- people ----------------------------------------------------------------------------

    @rule(
        number=numbers,
        to=st.none() | st.sampled_from(NAMES),
        expected=st.sampled_from([False, False, True]),
        force=st.sampled_from([False, False, True]),
    )
    def rotation_is_asked(self, number: int, to: str | None, expected: bool, force: bool) -> None:
        process = self.processes[number]
        asked = RotateAsked(
            request=f"r{len(self.requests)}",
            reason="because",
            actor=f"r{len(self.requests)}",  # tells whose a rotation is
            to=to,
            expected_revision=process.document.revision if expected else None,
            force=force,
        )
        self.requests[asked.request] = (process.document.active_since, asked)
        self.feed(process, asked)

    @rule(pick=picks)
    def somebody_rotates_there_and_back(self, pick: int) -> None:
        """By hand, through processes that are not looked at here."""
        home = self.document.active_server
        others = [server for server in NAMES if server != home]
        for to in (others[pick % 2], home):
            document, rotation = rotated(
                self.document,
                to=to,
                names=NAMES,
                cause=Cause.MANUAL,
                reason="because",
                actor="somebody",
                now=self.now,
            )
            self.write(document, rotation)

    @rule(server=st.sampled_from(NAMES))
    def somebody_drains(self, server: str) -> None:
        """Another server than the active one: a revision that makes no fault late."""
        if server != self.document.active_server:
            record = self.document.record(server)
            drained = None if record.drained else Mark(by="operator", since=self.now, reason="")
            servers = {**self.document.servers, server: replace(record, drained=drained)}
            revision = self.document.revision + 1
            self.write(replace(self.document, revision=revision, servers=servers), None)

    @rule()
    def somebody_pauses(self) -> None:
        paused = None if self.document.paused else Mark(by="operator", since=self.now, reason="")
        revision = self.document.revision + 1
        self.write(replace(self.document, revision=revision, paused=paused), None)

    # --- the store -------------------------------------------------------------------------

    @precondition(waiting("notices"))
    @rule(pick=picks)
    def notice_arrives(self, pick: int) -> None:
        process = self.pick("notices", pick)
        self.load(process, process.notices.pop(pick % len(process.notices)))

    @rule()
    def everybody_reads(self) -> None:
        for process in self.processes:
            self.load(process, self.document)

    @precondition(waiting("swap", "answer"))
    @rule(pick=picks, both=st.booleans())
    def swap_goes_on(self, pick: int, both: bool) -> None:
        process = self.pick("swap", pick) if waiting("swap")(self) else self.pick("answer", pick)
        if process.swap is not None:
            self.execute(process)
            if not both:
                return
        self.answer(process)

    @precondition(waiting("swap", "answer"))
    @rule(pick=picks)
    def answer_is_lost(self, pick: int) -> None:
        process = self.pick("answer", pick) if waiting("answer")(self) else self.pick("swap", pick)
        lost = process.swap or process.answer
        assert lost is not None
        process.swap = process.answer = None
        process.undecided = True
        self.feed(process, SwapFailed(operation=lost.operation))

    # --- rest ------------------------------------------------------------------------------

    @rule()
    def all_comes_to_rest(self) -> None:
        """Whatever is on its way arrives; then nothing may be left undone."""
        for number, process in enumerate(self.processes):
            if not process.network:
                self.network_changes(number)
            while process.faults:
                self.feed(process, process.faults.pop(0))
        self.settle()
        for process in self.processes:
            assert not (process.refused and self.targets(process)), "a true fault was dropped"
        self.now += SETTINGS.rotation_interval
        for process in self.processes:
            self.end(process, self.begun(process, self.document.active_server))
        self.settle()
        for process in self.processes:
            failing = process.joins >= SETTINGS.fall
            answers = process.seen[self.document.active_server] is ProbeOutcome.PASSED
            assert not (failing and answers and self.targets(process)), "joins fail unheard"
        assert self.answered == self.requests.keys(), "somebody waits for an answer"

    def settle(self) -> None:
        for _ in range(6):
            for process in self.processes:
                for _ in range(50):
                    if process.probes:
                        self.end(process, process.probes.pop(0))
                assert not process.probes, "it probes without a pause"
                self.execute(process)
                self.answer(process)
                self.load(process, self.document)

    def teardown(self) -> None:
        self.all_comes_to_rest()

    # --- what the store does ---------------------------------------------------------------

    def write(self, document: Document, rotation: Rotation | None) -> None:
        self.document = document
        for process in self.processes:
            process.notices.append(document)
        if rotation is not None:
            self.history.append(rotation)
            self.guilty = self.truth[rotation.to] is not Truth.WELL

    def execute(self, process: Process) -> None:
        if (swap := process.swap) is None:
            return
        process.swap = None
        won = swap.expected == self.document.revision
        if won:
            self.check_swap(swap)
            self.write(swap.document, swap.rotation)
        process.answer = SwapAnswered(operation=swap.operation, won=won, document=self.document)

    def answer(self, process: Process) -> None:
        if (answer := process.answer) is not None:
            process.answer = None
            self.feed(process, answer)

    def load(self, process: Process, document: Document) -> None:
        process.undecided = False
        self.feed(process, Loaded(document=document))

    # --- what the machines are told, and what they do --------------------------------------

    def pick(self, place: str, pick: int) -> Process:
        having = [process for process in self.processes if getattr(process, place)]
        return having[pick % len(having)]

    def begun(self, process: Process, server: str) -> Probed:
        outcome = OUTCOMES[self.truth[server]] if process.network else ProbeOutcome.SILENT
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
        for action in process.machine.receive(event, self.now):
            self.perform(process, action)
        self.remember(process, event)

    def perform(self, process: Process, action: Action) -> None:
        match action:
            case Swap():
                assert process.swap is None, "two swaps on their way at once"
                assert process.answer is None, "a swap before the last one's answer"
                assert not process.undecided, "a swap before the last one's outcome is known"
                process.swap = action
                self.check_choice(process, action)
            case Probe(server=server):
                if all(probe.server != server for probe in process.probes):
                    process.probes.append(self.begun(process, server))
            case Announce(document=document):
                news = (document.lineage, document.revision)
                assert process.announced is None or news > process.announced, "old news"
                process.announced = news
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
        if process.period != document.active_since:
            process.period, process.refused, process.joins = document.active_since, False, 0
        match event:
            case Probed(server=document.active_server, outcome=outcome):
                process.refused = outcome is ProbeOutcome.REFUSED
                if outcome is not ProbeOutcome.PASSED:
                    process.joins = 0
            case JoinAnswered():
                process.joins = 0
            case FaultSeen(source=FaultSource.JOIN, server=server, revision=revision):
                true = server == document.active_server and revision >= document.active_since
                if true and process.seen[server] is ProbeOutcome.PASSED:
                    process.joins += 1

    # --- properties ------------------------------------------------------------------------

    def check_swap(self, swap: Swap) -> None:
        """What is true of every change that the store applies."""
        rotation, base = swap.rotation, self.document
        assert swap.document.revision == base.revision + 1
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
            assert asked.to is not None or since == base.active_since, "asked at once, done twice"
            assert asked.expected_revision in (None, base.revision), "another revision expected"

    def check_choice(self, process: Process, swap: Swap) -> None:
        """No server in cool-down is chosen while an available one exists."""
        rotation, base = swap.rotation, process.document
        if rotation is None or rotation.cause is Cause.MANUAL:
            return
        assert base.record(rotation.to).drained is None, "a drained server was chosen"
        assert process.machine.health(rotation.to) is Health.UP, "a server not up was chosen"
        if base.record(rotation.to).cooling(self.now):
            assert not self.available(process), "a cooling server was chosen"

    def available(self, process: Process) -> list[str]:
        """The servers beside the active one that ``process`` sees as available."""
        base = process.document
        return [
            server
            for server in NAMES
            if server != base.active_server
            and process.machine.health(server) is Health.UP
            and base.record(server).drained is None
            and not base.record(server).cooling(self.now)
        ]

    def targets(self, process: Process) -> list[str]:
        """The servers to which ``process`` may rotate of itself."""
        if self.document.paused is not None:
            return []
        passed = ProbeOutcome.PASSED
        return [name for name in self.available(process) if process.seen[name] is passed]
