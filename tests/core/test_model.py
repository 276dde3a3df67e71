"""
What must hold in any interleaving, and that each guard of the core is needed for it.

`World` states the properties, `PoolModel` all that may happen. Here it is run, once as it is and
once for each guard that is taken out: then the run must fail, and for the reason that the guard
is there for. Seeds are fixed, so that a run says the same twice; ``CORE_EXAMPLES=5000`` looks
further, with seeds of the day and for as long as it takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RULE_MARKER, run_state_machine_as_test

from livekit_pool.core import agreement, decisions, machine, requests, stepping
from livekit_pool.core.actions import Swap
from livekit_pool.core.agreement import Finding, Losses
from livekit_pool.core.choice import Candidate, in_turn
from livekit_pool.core.document import Document, rotated, undrained
from livekit_pool.core.document import drained as document_drained
from livekit_pool.core.events import ProbeOutcome
from livekit_pool.core.health import Health, HealthBook, Settings
from livekit_pool.core.machine import PoolMachine
from livekit_pool.core.pending import PendingFaults
from livekit_pool.core.situation import Situation
from livekit_pool.core.stepping import Stepping
from tests.core.model import PoolModel
from tests.core.world import AUTOMATIC

EXAMPLES = os.environ.get("CORE_EXAMPLES")
THOROUGH = settings(
    max_examples=int(EXAMPLES or 300),
    stateful_step_count=40,
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
SEARCH = settings(
    THOROUGH,
    max_examples=2000,
    stateful_step_count=25,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
"""Enough to find what is broken, without the search for the shortest example of it."""


@pytest.mark.timeout(0 if EXAMPLES else 120)
def test_the_properties_hold() -> None:
    run_state_machine_as_test(PoolModel, settings=THOROUGH)


def broken(reason: str, *rules: str) -> None:
    """Expect that the properties do not hold, for a ``reason`` that the model gives."""
    model = narrowed(rules) if rules else PoolModel
    with pytest.raises(AssertionError, match=reason):
        run_state_machine_as_test(model, settings=SEARCH)


def narrowed(rules: tuple[str, ...]) -> type[PoolModel]:
    """The model with these rules alone, where more of them make the search long."""
    all_rules = {
        name: getattr(member, RULE_MARKER).function
        for name, member in vars(PoolModel).items()
        if hasattr(member, RULE_MARKER)
    }
    assert set(rules) <= all_rules.keys()
    left = {name: function for name, function in all_rules.items() if name not in rules}
    return type("Narrowed", (PoolModel,), left)  # as methods they stay: stories are made of them


LATE = ("active_is_mended", "stragglers_fail", "faults_arrive", "probe_ends", "everybody_reads")
RESTARTS = ("active_is_restarted", "fails", "recovers", "probes_in_a_row", "everybody_reads")
NETWORK = ("network_is_out", "network_changes", "probes_in_a_row", "time_passes")
NEWS = ("notice_arrives", "everybody_reads", "swap_goes_on")
STORE = ("store_is_emptied", "store_is_back_with_old_data", "store_is_cut_off")
STORE_BACK = ("store_is_reached_again", "process_is_restarted", "somebody_drains")
STEP = "active_fails_while_the_store_is_away"


def test_without_lateness_an_old_fault_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    def about_another(fault: machine.FaultSeen, document: Document) -> bool:
        return fault.server != document.active_server

    monkeypatch.setattr(machine, "is_late", about_another)
    broken("was left though it was well", *LATE, *NETWORK)


def test_without_active_from_an_old_probe_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    def evidence(self: Situation) -> object:
        return self.health.evidence(self.active)

    monkeypatch.setattr(Situation, "evidence", evidence)
    broken("was left though it was well")


def test_without_the_wait_for_an_answer_two_swaps_are_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hasty(PoolMachine):
        def _decide(self, now: float) -> None:
            under_way, self._swap = self._swap, None
            super()._decide(now)
            if self._swap is None:
                self._swap = under_way

    monkeypatch.setattr(PoolModel, "make", Hasty)
    broken("swap|somebody waits for an answer")


def test_without_monotonicity_old_news_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    def always_newer(found: Document | None, held: Document) -> Finding:
        return Finding.SAME if found in (None, held) else Finding.NEWER

    monkeypatch.setattr(agreement, "compare", always_newer)
    broken("old news|was not brought back", "somebody_rotates_there_and_back", *NEWS)


def test_without_the_decision_a_refusal_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = tuple(step for step in decisions._STEPS if step is not decisions._leave_limited)
    monkeypatch.setattr(decisions, "_STEPS", steps)
    broken("a refusal was dropped")


def test_without_lateness_a_refusal_of_before_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    class Believing(PoolMachine):
        def _follow(self, document: Document, now: float) -> None:
            faults = self._faults
            super()._follow(document, now)
            if faults.refusal is not None:
                self._faults = faults

    monkeypatch.setattr(PoolModel, "make", Believing)
    broken("was left though it was well", "active_refuses", "faults_arrive", *NEWS)


def test_without_the_cool_down_filter_a_cooling_server_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def available(self: Candidate) -> bool:
        return self.health is Health.UP and not self.drained and not self.misconfigured

    monkeypatch.setattr(Candidate, "available", property(available))
    broken("a cooling server was chosen", *RESTARTS)


def test_without_memory_a_drain_elsewhere_drops_failed_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Forgetful(PoolMachine):
        def _follow(self, document: Document, now: float) -> None:
            before = self.document
            super()._follow(document, now)
            if self.document is not before:
                self._faults = PendingFaults(Settings())

    monkeypatch.setattr(PoolModel, "make", Forgetful)
    broken(
        "joins fail unheard|a refusal was dropped",
        "active_fails_around_a_drain",
        "joins_fail",
        "faults_arrive",
        *NEWS,
    )


def test_without_memory_a_drain_elsewhere_drops_a_failed_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Forgetful(PoolMachine):
        def _follow(self, document: Document, now: float) -> None:
            before = self.document
            super()._follow(document, now)
            if self.document is not before:
                self._active_from = now

    monkeypatch.setattr(PoolModel, "make", Forgetful)
    broken("a true fault was dropped", "active_fails_around_a_drain", "faults_arrive", *NEWS)


def test_without_a_new_decision_a_lost_swap_rotates_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(PoolMachine):
        def _swap_answered(self, event: machine.SwapAnswered, now: float) -> None:
            lost = self._swap
            super()._swap_answered(event, now)
            if event.won or not isinstance(lost, Swap) or lost.rotation is None:
                return
            if event.document is None or event.document.paused is not None:
                return
            turn = in_turn(self.names, event.document.active_server)
            up = [name for name in turn if self.available(name, now)]
            if up and lost.rotation.cause in AUTOMATIC:  # on to the next one, whatever is active
                again = rotated(
                    event.document,
                    to=up[0],
                    names=self.names,
                    cause=lost.rotation.cause,
                    reason=lost.rotation.reason,
                    actor=lost.rotation.actor,
                    now=now,
                )
                self._propose(*again, None)

    monkeypatch.setattr(PoolModel, "make", Stubborn)
    broken("was left though it was well")


def test_without_a_true_witness_our_own_network_condemns(monkeypatch: pytest.MonkeyPatch) -> None:
    def condemned(self: HealthBook, name: str, sight: Any) -> bool:
        answering = [other for other in self._sights.values() if other.answering_since]
        return sight.outcome is ProbeOutcome.REFUSED or bool(sight.misses >= 3 and answering)

    monkeypatch.setattr(HealthBook, "_condemned", condemned)
    broken("was left (by a step )?though it was well", *NETWORK)


def test_without_proof_our_own_network_fails_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PendingFaults, "missed", lambda self: None)
    broken("was left though it was well", "faults_are_seen", "faults_arrive", *NETWORK)


def test_without_the_look_at_pause_it_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpaused(situation: Situation) -> decisions.Decision:
        paused = situation.document.paused
        free = replace(situation, document=replace(situation.document, paused=None))
        decision = decisions.decide(free)
        if decision.document is None:
            return decision
        return replace(decision, document=replace(decision.document, paused=paused))

    monkeypatch.setattr(machine, "decide", unpaused)
    broken("an automatic rotation while paused")


# --- drain and pause -----------------------------------------------------------------------

MARKS = ("mark_is_asked", "somebody_drains", "somebody_pauses", "swap_goes_on", "everybody_reads")


def test_without_the_filter_a_drained_server_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = property(lambda candidate: not candidate.misconfigured)
    monkeypatch.setattr(Candidate, "_fit", fit)
    broken("a drained server was chosen")


def test_a_drain_that_counts_as_a_rotation_makes_faults_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def drained(document: Document, **fields: Any) -> Document:
        after = document_drained(document, **fields)
        return replace(after, active_since=after.revision)

    monkeypatch.setattr(requests, "drained", drained)
    broken("a fault is late for nothing", *MARKS)


def test_a_pool_that_undoes_what_was_set_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drained server that answers well came back into service: Scalelite's issue 233."""

    def eager(situation: Situation) -> decisions.Decision:
        decision = decisions.decide(situation)
        for name in situation.names:
            drained = situation.document.record(name).drained is not None
            if decision.document is None and drained and situation.health.passed(name):
                return decisions.Decision(document=undrained(situation.document, server=name))
        return decision

    monkeypatch.setattr(machine, "decide", eager)
    broken("a mark was changed though nobody asked for it", *MARKS)


def test_without_a_decision_a_drained_server_stays_the_active_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = tuple(step for step in decisions._STEPS if step is not decisions._leave_drained)
    monkeypatch.setattr(decisions, "_STEPS", steps)
    broken("a drained server stayed the active one", "fails", "recovers", *MARKS)


def test_without_its_rotation_a_drain_leaves_the_active_server_active(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def alone(event: Any, mark: Any, to: str, situation: Situation) -> requests.Go:
        return requests.Go(
            document_drained(situation.document, server=event.server, mark=mark), None
        )

    monkeypatch.setattr(requests, "_drain_active", alone)
    broken("the active server was drained and not left", *MARKS)


def test_without_the_look_at_what_is_set_a_mark_is_set_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "mark_of", lambda event, document: None)
    broken("a mark was set over another one", *MARKS)


# --- the store lost data -------------------------------------------------------------------


def test_without_the_remedy_what_the_store_lost_stays_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Losses, "remedy", lambda self, held, **_: None)
    broken("what the store lost was not brought back|they do not agree", *STORE, *NEWS)


def other_lineages(finding: Finding) -> Callable[[Document | None, Document], Finding]:
    """`compare`, but that a document of another lineage is always ``finding``."""

    def compare(found: Document | None, held: Document) -> Finding:
        if found is not None and found.lineage != held.lineage:
            return finding
        return agreement_compare(found, held)

    return compare


agreement_compare = agreement.compare


@pytest.mark.parametrize(
    ("finding", "reason"),
    [
        (Finding.NEWER, "old news"),  # everybody follows whatever there is
        (Finding.OLDER, "a younger lineage was brought back"),  # everybody insists on its own
        (Finding.SAME, "they do not agree"),  # nobody minds
    ],
)
def test_without_the_rule_for_lineages_the_wrong_one_stands(
    monkeypatch: pytest.MonkeyPatch, finding: Finding, reason: str
) -> None:
    monkeypatch.setattr(agreement, "compare", other_lineages(finding))
    broken(reason, *STORE, *STORE_BACK, *NEWS)


# --- the store is away ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ("drained", "a step to a cooling server"),
        ("cooling", "a step to a drained server"),
    ],
)
def test_without_the_filter_a_step_goes_to_a_server_that_was_taken_out(
    monkeypatch: pytest.MonkeyPatch, known: str, reason: str
) -> None:
    def following(situation: Situation, left: str) -> str | None:
        for name in in_turn(situation.names, left):
            record = situation.document.record(name)
            out = (
                record.drained is not None if known == "drained" else record.cooling(situation.now)
            )
            if not out and situation.health.health(name) is not Health.DOWN:
                return name
        return None

    monkeypatch.setattr(stepping, "_next", following)
    broken(reason, STEP, "somebody_drains", *RESTARTS)


def test_without_the_look_at_pause_a_step_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_down = Stepping.leave_down

    def unpaused(self: Stepping, situation: Situation) -> decisions.Decision:
        free = replace(situation, document=replace(situation.document, paused=None))
        return leave_down(self, free)

    monkeypatch.setattr(Stepping, "leave_down", unpaused)
    broken("a step while paused", STEP, "somebody_pauses", *NEWS)


def test_without_a_fresh_look_a_well_server_is_left_when_the_store_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hasty(self: Stepping, situation: Situation) -> decisions.Decision | None:
        if self.step is None or self.step.server == situation.active:
            return reconcile(self, situation)
        return decisions.confirm_step(situation, self.step.server)

    reconcile = Stepping.reconcile
    monkeypatch.setattr(Stepping, "reconcile", hasty)
    broken("a step was confirmed without a fresh look", STEP, *NEWS)


def test_without_an_end_a_step_outlasts_the_return_of_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Stepping, "_end", lambda self, document: ())
    broken("a step outlasted the store's return", STEP, *NEWS)
