"""
What must hold in any interleaving, and that each guard of the core is needed for it.

`World` states the properties, `PoolModel` all that may happen. Here it is run, once as it is and
once for each guard that is taken out: then the run must fail, and for the reason that the guard
is there for. Seeds are fixed, so that a run says the same twice; ``CORE_EXAMPLES=5000`` looks
further, with seeds of the day.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from livekit_pool.core import agreement, decisions, machine
from livekit_pool.core.actions import Swap
from livekit_pool.core.agreement import Finding
from livekit_pool.core.choice import Candidate, in_turn
from livekit_pool.core.document import Document, rotated
from livekit_pool.core.events import ProbeOutcome
from livekit_pool.core.faults import PendingFaults
from livekit_pool.core.health import Health, HealthBook
from livekit_pool.core.machine import PoolMachine
from livekit_pool.core.situation import Situation
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


def test_the_properties_hold() -> None:
    run_state_machine_as_test(PoolModel, settings=THOROUGH)


def broken(reason: str) -> None:
    """Expect that the properties do not hold, for a ``reason`` that the model gives."""
    with pytest.raises(AssertionError, match=reason):
        run_state_machine_as_test(PoolModel, settings=SEARCH)


def test_without_lateness_an_old_fault_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    def about_another(fault: machine.FaultSeen, document: Document) -> bool:
        return fault.server != document.active_server

    monkeypatch.setattr(machine, "is_late", about_another)
    broken("was left though it was well")


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
    broken("old news|was not brought back")


def test_without_the_cool_down_filter_a_cooling_server_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def available(self: Candidate) -> bool:
        return self.health is Health.UP and not self.drained and not self.misconfigured

    monkeypatch.setattr(Candidate, "available", property(available))
    broken("a cooling server was chosen")


def test_without_memory_a_drain_elsewhere_drops_failed_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Forgetful(PoolMachine):
        def _follow(self, document: Document, now: float) -> None:
            before = self.document
            super()._follow(document, now)
            if self.document is not before:
                self._faults = PendingFaults()

    monkeypatch.setattr(PoolModel, "make", Forgetful)
    broken("joins fail unheard")


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
    broken("a true fault was dropped")


def test_without_a_new_decision_a_lost_swap_rotates_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(PoolMachine):
        def _swap_answered(self, event: machine.SwapAnswered, now: float) -> None:
            lost = self._swap
            super()._swap_answered(event, now)
            if event.won or not isinstance(lost, Swap) or lost.rotation is None:
                return
            if event.document is None:
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
    broken("was left though it was well")


def test_without_proof_our_own_network_fails_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PendingFaults, "missed", lambda self: None)
    broken("was left though it was well")


def test_without_the_look_at_pause_it_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpaused(situation: Situation) -> decisions.Decision:
        free = replace(situation, document=replace(situation.document, paused=None))
        return decisions.decide(free)

    monkeypatch.setattr(machine, "decide", unpaused)
    broken("an automatic rotation while paused")
