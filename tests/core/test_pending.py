"""Lateness, and the faults that are not resolved yet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.document import Cause
from livekit_pool.core.events import FaultSeen, FaultSource
from livekit_pool.core.health import Settings
from livekit_pool.core.pending import PendingFaults, is_late
from tests.core.samples import START, document


def fault(
    server: str = "red",
    revision: int = 1,
    source: FaultSource = FaultSource.JOIN,
    kind: Cause = Cause.DOWN,
    detail: str = "",
    retry_after: float | None = None,
) -> FaultSeen:
    return FaultSeen(
        server=server,
        revision=revision,
        kind=kind,
        source=source,
        detail=detail,
        retry_after=retry_after,
    )


def test_a_fault_is_late_exactly_if_it_was_seen_before_the_server_became_active() -> None:
    since = replace(document(), revision=7, active_since=4)
    assert is_late(fault(revision=3), since)
    assert not is_late(fault(revision=4), since)
    assert not is_late(fault(revision=7), since)


def test_a_fault_of_another_server_says_nothing_of_the_active_one() -> None:
    assert is_late(fault(server="green"), document())


def test_joins_count_once_a_later_probe_has_passed() -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(), START, answering=True)
    pending.add(fault(), START + 1, answering=True)
    assert (pending.joins, pending.reports) == (0, 2)
    assert not pending.forgive(began=START + 0.5), "the second was seen after it began"
    assert (pending.joins, pending.reports) == (1, 2)
    assert pending.forgive(began=START + 1.5)
    assert (pending.joins, pending.reports) == (2, 2)


def test_other_faults_are_forgiven_by_a_later_probe() -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(source=FaultSource.SOCKET), START, answering=True)
    assert not pending.forgive(began=START - 1)
    assert pending.reports == 1
    assert pending.forgive(began=START + 1)
    assert pending.reports == 0


def test_joins_that_fail_while_probes_do_are_explained_by_those() -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(), START, answering=False)
    pending.add(fault(), START, answering=True)
    pending.missed()
    pending.forgive(began=START + 1)
    assert pending.joins == 0


def test_an_answered_join_forgets_the_failed_ones() -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(), START, answering=True)
    pending.forgive(began=START)
    pending.add(fault(), START, answering=True)
    pending.join_answered()
    pending.forgive(began=START)
    assert pending.joins == 0


def test_the_newest_fault_tells_kind_and_detail() -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(detail="refused"), START, answering=True)
    pending.add(fault(kind=Cause.TIMEOUT), START, answering=True)
    assert (pending.kind, pending.detail) == (Cause.TIMEOUT, "refused")


def test_memory_is_bounded() -> None:
    pending = PendingFaults(Settings())
    for _ in range(20_000):
        pending.add(fault(), START, answering=False)
    assert pending.reports == 10_000


def test_a_refused_join_is_forgiven_by_a_join_and_by_no_probe() -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(kind=Cause.RATE_LIMIT), START, answering=True)
    pending.forgive(began=START + 1)
    pending.call_answered(began=START + 1)
    pending.missed()
    assert pending.refusal
    assert pending.reports == 1
    pending.join_answered()
    assert pending.reports == 0
    assert pending.refusal is None


@pytest.mark.parametrize("source", [FaultSource.CALL, FaultSource.PROBE])
def test_a_refused_call_is_forgiven_by_a_later_call_and_by_no_join(source: FaultSource) -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(kind=Cause.RATE_LIMIT, source=source), START, answering=True)
    pending.join_answered()
    pending.call_answered(began=START)
    assert pending.refusal
    pending.call_answered(began=START + 1)
    assert pending.refusal is None


@pytest.mark.parametrize("unsaid", [None, 0.0, -3.0])
def test_a_refusal_that_names_no_time_does_not_shorten_one_that_does(
    unsaid: float | None,
) -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(kind=Cause.RATE_LIMIT, retry_after=600.0), START, answering=True)
    pending.add(fault(kind=Cause.RATE_LIMIT, retry_after=unsaid), START + 1, answering=True)
    assert pending.refusal
    assert pending.refusal.retry_after == 600.0


def test_a_quota_is_the_gravest_refusal() -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(kind=Cause.CONNECTION_LIMIT), START, answering=True)
    pending.add(fault(kind=Cause.QUOTA, detail="spent"), START, answering=True)
    pending.add(fault(kind=Cause.RATE_LIMIT), START, answering=True)
    assert pending.refusal is not None
    assert (pending.refusal.kind, pending.refusal.detail) == (Cause.QUOTA, "spent")
    assert pending.reports == 3


def test_a_refusal_lasts_as_long_as_its_cool_down_would() -> None:
    for retry_after, lasts in ((None, 30.0), (0.0, 30.0), (5.0, 5.0), (1e11, 86_400.0)):
        pending = PendingFaults(Settings())
        pending.add(fault(kind=Cause.RATE_LIMIT, retry_after=retry_after), START, answering=True)
        pending.forget(START + lasts - 0.1)
        assert pending.refusal is not None
        pending.forget(START + lasts)
        assert pending.refusal is None


def test_joins_whose_token_a_server_refuses_do_not_add_up() -> None:
    """A server of an old version refuses one caller's token for a claim that it does not know."""
    pending = PendingFaults(Settings())
    for _ in range(5):
        pending.add(fault(kind=Cause.CREDENTIALS), START, answering=True)
    pending.forgive(began=START + 1)
    assert pending.joins == 0


def test_a_verified_fault_counts_for_good_once_a_later_probe_has_passed() -> None:
    pending = PendingFaults(Settings())
    pending.add(verified(reports=40), START, answering=True)
    assert (pending.verified, pending.reports) == (False, 40)
    assert pending.forgive(began=START + 1)
    assert (pending.verified, pending.reports) == (True, 40)
    pending.missed()
    assert pending.verified
    pending.join_answered()
    assert (pending.verified, pending.joins, pending.reports) == (False, 0, 0)


def test_a_verified_fault_is_none_where_probes_are_missed_too() -> None:
    for missed in (True, False):
        pending = PendingFaults(Settings())
        pending.add(verified(), START, answering=missed)
        if missed:
            pending.missed()
        assert pending.forgive(began=START + 1)
        assert (pending.verified, pending.reports) == (False, 0)


def test_a_key_that_joins_of_our_own_are_refused_is_verified() -> None:
    """As in a region that is not allowed: every call passes, and every join is refused."""
    pending = PendingFaults(Settings())
    pending.add(verified(kind=Cause.CREDENTIALS), START, answering=True)
    pending.forgive(began=START + 1)
    assert pending.verified
    assert pending.kind is Cause.CREDENTIALS


def test_one_callers_refused_token_gives_no_name_to_what_counts() -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(detail="down"), START, answering=True)
    pending.add(fault(kind=Cause.CREDENTIALS, detail="a token"), START, answering=True)
    assert (pending.kind, pending.detail) == (Cause.DOWN, "down")


def test_the_reports_of_a_refusal_are_counted() -> None:
    pending = PendingFaults(Settings())
    pending.add(verified(kind=Cause.QUOTA, reports=7), START, answering=True)
    assert pending.reports == 7


def verified(kind: Cause = Cause.DOWN, reports: int = 1) -> FaultSeen:
    return replace(fault(source=FaultSource.VERIFIED, kind=kind), reports=reports)


def test_what_a_server_in_trouble_asks_for_is_kept_until_it_is_over() -> None:
    pending = PendingFaults(Settings())
    for asked in (20.0, 60.0, None, 0.0, 30.0):
        pending.add(fault(retry_after=asked), START, answering=True)
    pending.add(fault(kind=Cause.RATE_LIMIT, retry_after=600.0), START, answering=True)
    assert pending.retry_after(START) == 60.0
    assert pending.retry_after(START + 45) == 15.0
    assert pending.retry_after(START + 60) is None


def test_a_join_that_is_answered_takes_back_what_was_asked_for() -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(retry_after=60.0), START, answering=True)
    pending.join_answered()
    assert pending.retry_after(START) is None


@pytest.mark.parametrize("source", FaultSource)
def test_what_a_passed_probe_resolves_asks_for_nothing_any_more(source: FaultSource) -> None:
    pending = PendingFaults(Settings())
    pending.add(fault(retry_after=86_400.0, source=source), START, answering=True)
    assert pending.retry_after(START + 1) == 86_399.0
    pending.forgive(began=START + 1)
    counts = source in (FaultSource.JOIN, FaultSource.VERIFIED)
    assert pending.retry_after(START + 1) == (86_399.0 if counts else None)


@pytest.mark.parametrize("source", [FaultSource.JOIN, FaultSource.CALL, FaultSource.SOCKET])
@pytest.mark.parametrize("early", [True, False])
def test_what_somebody_met_since_does_not_rename_what_is_verified(
    source: FaultSource, early: bool
) -> None:
    pending = PendingFaults(Settings())
    sure = fault(source=FaultSource.VERIFIED, kind=Cause.CREDENTIALS, detail="our join: 403")
    pending.add(sure, START, answering=True)
    if not early:
        pending.forgive(began=START + 1)
    pending.add(fault(source=source, detail="a socket was lost"), START + 2, answering=True)
    pending.forgive(began=START + 3)
    assert (pending.verified, pending.kind, pending.detail) == (True, sure.kind, sure.detail)
    pending.join_answered()
    pending.add(fault(source=source, detail="a socket was lost"), START + 4, answering=True)
    assert (pending.kind, pending.detail) == (Cause.DOWN, "a socket was lost")


def test_the_joins_of_one_client_count_once_and_those_of_others_each() -> None:
    pending = PendingFaults(Settings())

    def fails(voice: str, at: float) -> None:
        pending.add(replace(fault(), voice=voice), START + at, answering=True)
        pending.forgive(began=START + at + 0.5)

    for number in range(10):
        fails("alice", number)
    assert pending.joins == 1
    fails("bob", 10)
    assert pending.joins == 2
    for number in range(2):
        fails("", 11 + number)  # of whom it is not known whether it is the same
    assert pending.joins == 4
    pending.join_answered()
    fails("alice", 20)
    assert pending.joins == 1


def test_what_was_verified_needs_no_second_voice() -> None:
    pending = PendingFaults(Settings())
    pending.add(replace(fault(), voice="alice"), START, answering=True)
    pending.add(fault(source=FaultSource.VERIFIED), START, answering=True)
    pending.forgive(began=START + 1)
    assert pending.verified
