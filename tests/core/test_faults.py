"""Lateness, and the faults that are not resolved yet."""

from __future__ import annotations

from dataclasses import replace

from livekit_pool.core.document import Cause
from livekit_pool.core.events import FaultSeen, FaultSource, ProbeOutcome
from livekit_pool.core.faults import COOLS, KINDS, PendingFaults, is_late
from tests.core.samples import START, document


def fault(
    server: str = "red",
    revision: int = 1,
    source: FaultSource = FaultSource.JOIN,
    kind: Cause = Cause.DOWN,
    detail: str = "",
) -> FaultSeen:
    return FaultSeen(server=server, revision=revision, kind=kind, source=source, detail=detail)


def test_a_fault_is_late_exactly_if_it_was_seen_before_the_server_became_active() -> None:
    since = replace(document(), revision=7, active_since=4)
    assert is_late(fault(revision=3), since)
    assert not is_late(fault(revision=4), since)
    assert not is_late(fault(revision=7), since)


def test_a_fault_of_another_server_says_nothing_of_the_active_one() -> None:
    assert is_late(fault(server="green"), document())


def test_every_failing_outcome_is_a_kind_that_cools() -> None:
    assert set(KINDS) == set(ProbeOutcome) - {ProbeOutcome.PASSED, ProbeOutcome.UNAUTHORIZED}
    assert set(KINDS.values()) <= COOLS


def test_joins_count_once_a_later_probe_has_passed() -> None:
    pending = PendingFaults()
    pending.add(fault(), START, answering=True)
    pending.add(fault(), START + 1, answering=True)
    assert (pending.joins, pending.reports) == (0, 2)
    assert not pending.forgive(began=START + 0.5), "the second was seen after it began"
    assert (pending.joins, pending.reports) == (1, 2)
    assert pending.forgive(began=START + 1.5)
    assert (pending.joins, pending.reports) == (2, 2)


def test_other_faults_are_forgiven_by_a_later_probe() -> None:
    pending = PendingFaults()
    pending.add(fault(source=FaultSource.SOCKET), START, answering=True)
    assert not pending.forgive(began=START - 1)
    assert pending.reports == 1
    assert pending.forgive(began=START + 1)
    assert pending.reports == 0


def test_joins_that_fail_while_probes_do_are_explained_by_those() -> None:
    pending = PendingFaults()
    pending.add(fault(), START, answering=False)
    pending.add(fault(), START, answering=True)
    pending.missed()
    pending.forgive(began=START + 1)
    assert pending.joins == 0


def test_an_answered_join_forgets_the_failed_ones() -> None:
    pending = PendingFaults()
    pending.add(fault(), START, answering=True)
    pending.forgive(began=START)
    pending.add(fault(), START, answering=True)
    pending.join_answered()
    pending.forgive(began=START)
    assert pending.joins == 0


def test_the_newest_fault_tells_kind_and_detail() -> None:
    pending = PendingFaults()
    pending.add(fault(detail="refused"), START, answering=True)
    pending.add(fault(kind=Cause.TIMEOUT), START, answering=True)
    assert (pending.kind, pending.detail) == (Cause.TIMEOUT, "refused")


def test_memory_is_bounded() -> None:
    pending = PendingFaults()
    for _ in range(20_000):
        pending.add(fault(), START, answering=False)
    assert pending.reports == 10_000
