"""
PoolModel: rules by which anything may happen to the `World`, in any order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from livekit_pool.core.actions import Probe
from livekit_pool.core.agreement import Finding, compare
from livekit_pool.core.document import Cause, Mark, drained, paused, resumed, rotated, undrained
from livekit_pool.core.events import (
    Change,
    FaultSeen,
    FaultSource,
    JoinAnswered,
    MarkAsked,
    ProbeOutcome,
    RotateAsked,
    SwapFailed,
    Tick,
)
from livekit_pool.core.faults import REFUSALS
from livekit_pool.core.health import Settings
from livekit_pool.core.machine import PoolMachine
from tests.core.samples import NAMES
from tests.core.world import SETTINGS, Process, Truth, World, identity

_KINDS = {Truth.HUNG: Cause.TIMEOUT, Truth.FULL: Cause.RATE_LIMIT}

numbers = st.integers(0, 2)
picks = st.integers(0, 20)


def waiting(*places: str) -> Callable[[PoolModel], bool]:
    """Whether some process has something in one of these places."""
    return lambda model: any(
        getattr(process, place) for process in model.processes for place in places
    )


class PoolModel(RuleBasedStateMachine, World):
    """The rules; ``make`` is replaced where a guard is taken out."""

    make: Callable[[tuple[str, ...], Settings, str], PoolMachine] = PoolMachine

    def __init__(self) -> None:
        super().__init__()
        self.set_up(type(self).make)

    @initialize()
    def start(self) -> None:
        for process in self.processes:
            self.begin(process)

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

    @rule(number=numbers, how=st.sampled_from([Truth.DEAD, Truth.SICK]), pick=picks)
    def active_fails_around_a_drain(self, number: int, how: Truth, pick: int) -> None:
        """And a true fault, with a revision in between that has nothing to do with it."""
        process, active = self.processes[number], self.document.active_server
        self.load(process, self.document)
        if how is Truth.SICK:
            self.joins_fail(number, SETTINGS.fall - 1)
        else:
            self.fails(active, how)
            self.probes_in_a_row(number, active, 1)
        while process.faults:
            self.feed(process, process.faults.pop(0))
        others = [server for server in NAMES if server != active]
        self.somebody_drains(others[pick % 2])
        self.load(process, self.document)
        if how is Truth.SICK:
            self.joins_fail(number, 1)

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

    @rule(
        number=numbers,
        times=st.integers(1, 3),
        kind=st.sampled_from(sorted(REFUSALS)),
        drain=st.booleans(),
    )
    def active_refuses(self, number: int, times: int, kind: Cause, drain: bool) -> None:
        """It refuses joins for a limit, and somebody may drain another server meanwhile."""
        process, active = self.processes[number], self.document.active_server
        self.truth[active] = Truth.FULL
        self.guilty = True
        self.load(process, self.document)
        process.faults += [self.fault(process, kind, FaultSource.JOIN)] * times
        if drain:
            others = [server for server in NAMES if server != active]
            self.somebody_drains(others[number % 2])

    @rule(number=numbers, times=st.integers(1, 3), source=st.sampled_from(FaultSource))
    def faults_are_seen(self, number: int, times: int, source: FaultSource) -> None:
        """Joins fail, sockets are lost: on their way to the machine from now on."""
        process = self.processes[number]
        truth = self.truth[process.document.active_server]
        if not process.network:
            for _ in range(times):  # told at once: nobody mistakes them for later ones
                self.feed(process, self.fault(process, Cause.TIMEOUT, source))
        elif truth is not Truth.WELL:
            kind = _KINDS.get(truth, Cause.DOWN)
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
        self.ask(process, asked)

    def ask(self, process: Process, asked: RotateAsked | MarkAsked) -> None:
        process.asked.add(asked.request)
        self.requests[asked.request] = (process.document.active_since, asked)
        self.feed(process, asked)

    @rule(
        number=numbers,
        change=st.sampled_from(Change),
        server=st.none() | st.sampled_from(NAMES),
        expected=st.sampled_from([False, False, True]),
        force=st.booleans(),
    )
    def mark_is_asked(
        self, number: int, change: Change, server: str | None, expected: bool, force: bool
    ) -> None:
        process = self.processes[number]
        document = process.document
        request = f"r{len(self.requests)}"
        of_pool = change in (Change.PAUSE, Change.RESUME)
        self.ask(
            process,
            MarkAsked(
                request=request,
                change=change,
                actor=request,  # tells whose a mark is, and a rotation
                server="" if of_pool else server or document.active_server,
                reason="because",
                expected_revision=document.revision if expected else None,
                force=force,
            ),
        )

    @rule(pick=picks)
    def somebody_rotates_there_and_back(self, pick: int) -> None:
        """By hand, through processes that are not looked at here."""
        home = self.document.active_server
        others = [server for server in NAMES if server != home]
        for to in (others[pick % 2], home):
            before = undrained(self.document, server=to)  # by force, if need be
            document, rotation = rotated(
                replace(before, revision=self.document.revision),
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
            mark = Mark(by="operator", since=self.now, reason="")
            if self.document.record(server).drained is None:
                self.write(drained(self.document, server=server, mark=mark), None)
            else:
                self.write(undrained(self.document, server=server), None)

    @rule()
    def somebody_pauses(self) -> None:
        mark = Mark(by="operator", since=self.now, reason="")
        if self.document.paused is None:
            self.write(paused(self.document, mark=mark), None)
        else:
            self.write(resumed(self.document), None)

    @rule(index=st.integers(0, 3))
    def foreign_client_rotates(self, index: int) -> None:
        """It writes the index alone, and knows no revision."""
        document = self.document
        if identity(self.stored) != identity(document):
            return  # it would write over a document that is not to stay
        written = document.active_server_index
        if document.index_written is not None:
            written = document.index_written
        self.write(replace(document, active_server_index=index, index_written=written), None)

    # --- the store -------------------------------------------------------------------------

    @precondition(waiting("notices"))
    @rule(pick=picks)
    def notice_arrives(self, pick: int) -> None:
        process = self.pick("notices", pick)
        self.load(process, process.notices.pop(pick % len(process.notices)))

    @rule()
    def everybody_reads(self) -> None:
        for process in self.processes:
            self.load(process, self.stored)

    # Only where every process has read the newest change: one that has not may write another of
    # the same revision, which no comparison of revisions can tell from it (docs/failure-model.md).
    @precondition(lambda self: self.all_know())
    @rule()
    def store_is_emptied(self) -> None:
        """Flushed, say, or the document deleted."""
        self.lose(None)

    @precondition(lambda self: self.earlier and self.all_know())
    @rule(pick=picks)
    def store_is_back_with_old_data(self, pick: int) -> None:
        """A restart that lost the last second, say, or a backup."""
        self.lose(self.earlier[pick % len(self.earlier)])

    @rule(number=numbers, empty=st.booleans())
    def process_is_restarted(self, number: int, empty: bool) -> None:
        """Also while the store is empty: it begins another lineage then."""
        if self.processes[number].store:
            if empty and self.all_know():
                self.lose(None)
            self.restart(number)

    @rule(number=numbers)
    def store_is_cut_off(self, number: int) -> None:
        process = self.processes[number]
        if process.store:
            self.store_changes(process, there=False)

    @precondition(lambda self: not all(process.store for process in self.processes))
    @rule(number=numbers)
    def store_is_reached_again(self, number: int) -> None:
        process = self.processes[number]
        if not process.store:
            self.store_changes(process, there=True)

    @rule(number=numbers, how=st.sampled_from([Truth.DEAD, Truth.HUNG]), back=st.booleans())
    def active_fails_while_the_store_is_away(self, number: int, how: Truth, back: bool) -> None:
        """A story again: a step, and the store's return with the server dead or well."""
        process = self.processes[number]
        self.store_changes(process, there=False)
        server = process.document.active_server
        self.truth[server] = how
        self.guilty |= server == self.document.active_server
        for name in NAMES:
            self.probes_in_a_row(number, name, 1)
        self.probes_in_a_row(number, server, SETTINGS.fall)
        for name in NAMES:
            self.probes_in_a_row(number, name, 1)
        self.probes_in_a_row(number, server, 1)
        if back:
            self.truth[server] = Truth.WELL
        self.store_changes(process, there=True)
        self.probes_in_a_row(number, server, SETTINGS.fall)

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
            if not process.store:
                self.store_changes(process, there=True)
            if not process.network:
                self.network_changes(number)
            while process.faults:
                self.feed(process, process.faults.pop(0))
        self.settle()
        # A swap that the store refused for no reason to be seen is not asked for again at once.
        self.time_passes(0.3)
        self.settle()
        for process in self.processes:
            assert not (process.refused and self.targets(process)), "a true fault was dropped"
        self.now += SETTINGS.rotation_interval
        for _ in range(SETTINGS.rise):  # who was away may have to see it well that often
            for process in self.processes:
                self.end(process, self.begun(process, self.document.active_server))
        self.settle()
        for process in self.processes:
            failing = process.joins >= SETTINGS.fall
            answers = process.seen[self.document.active_server] is ProbeOutcome.PASSED
            assert not (failing and answers and self.targets(process)), "joins fail unheard"
            limited = self.now < process.limited_until
            assert not (limited and self.targets(process)), "a refusal was dropped"
        out = self.document.record(self.document.active_server).drained is not None
        for process in self.processes:
            assert not (out and self.targets(process)), "a drained server stayed the active one"
        assert self.stored is not None, "what the store lost was not brought back"
        for process in self.processes:
            assert compare(self.stored, process.document) is Finding.SAME, "they do not agree"
            settled = process.machine.step is None or self.truth[process.document.active_server]
            assert settled is not Truth.WELL, "a step outlasted the store's return"
        assert self.document.foreign_index is None, "a foreign rotation was ignored"
        assert self.answered == self.requests.keys(), "somebody waits for an answer"

    def teardown(self) -> None:
        if sys.exception() is None:  # else it would hide what was found
            self.all_comes_to_rest()
