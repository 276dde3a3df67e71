"""The machine, when a server refuses: for a limit, or because of our key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.actions import NoteEvent, Probe
from livekit_pool.core.document import Cause, ServerRecord
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
    SignedSight,
    Tick,
)
from livekit_pool.core.health import Settings
from livekit_pool.core.limits import Limits
from livekit_pool.core.machine import PoolMachine, Role
from livekit_pool.resets import Reset
from tests.core.samples import (
    AWAY,
    NAMES,
    PASSED,
    REFUSED,
    UNAUTHORIZED,
    Pool,
    back,
    document,
    drained,
    moved,
    notes_of,
    probes_of,
    swap_of,
    swaps_of,
)

LIMITED = ProbeOutcome.LIMITED


def fault(
    kind: Cause,
    source: FaultSource = FaultSource.JOIN,
    revision: int = 1,
    retry_after: float | None = None,
) -> FaultSeen:
    return FaultSeen(
        server="red",
        revision=revision,
        kind=kind,
        source=source,
        detail=f"refused: {kind}",
        retry_after=retry_after,
    )


SEEN = [FaultSource.JOIN, FaultSource.CALL, FaultSource.VERIFIED]


@pytest.mark.parametrize("source", SEEN)
@pytest.mark.parametrize("kind", [Cause.QUOTA, Cause.RATE_LIMIT, Cause.PARTICIPANT_LIMIT])
def test_a_refusal_rotates_at_once(kind: Cause, source: FaultSource) -> None:
    pool = Pool()
    swap = swap_of(pool.feed(fault(kind, source)))
    assert swap.rotation is not None
    assert (swap.rotation.to, swap.rotation.cause) == ("green", kind)
    pool.won(swap)
    role = Role.EXHAUSTED if kind is Cause.QUOTA else Role.COOLING
    assert pool.machine.role("red", pool.now) is role
    assert not pool.machine.available("red", pool.now)


def test_five_hundred_refusals_of_one_server_are_one_rotation() -> None:
    pool = Pool()
    first = swap_of(pool.feed(fault(Cause.RATE_LIMIT)))
    for _ in range(249):
        assert swaps_of(pool.feed(fault(Cause.RATE_LIMIT))) == []
    pool.won(first)
    for _ in range(250):  # each with its own late error, seen when red was active
        assert swaps_of(pool.feed(fault(Cause.RATE_LIMIT), Tick())) == []
    assert pool.document.active_server == "green"


def test_a_quota_met_within_the_interval_is_left_at_once_and_a_limit_after_it() -> None:
    for kind, at_once in ((Cause.QUOTA, True), (Cause.CONNECTION_LIMIT, False)):
        pool = Pool(shared=moved(moved(document(), "blue"), "red"))
        since = pool.document.last_rotation
        pool.now = since + 2
        swaps = swaps_of(pool.feed(fault(kind, revision=pool.document.revision)))
        assert bool(swaps) is at_once
        if not at_once:
            pool.now = since + 10
            assert swap_of(pool.feed(Tick())).document.active_server == "green"


def test_a_join_that_is_answered_takes_a_refusal_back() -> None:
    pool = Pool(shared=moved(moved(document(), "blue"), "red"))
    pool.now = pool.document.last_rotation + 2
    pool.feed(fault(Cause.CONNECTION_LIMIT, revision=pool.document.revision))
    pool.feed(JoinAnswered(server="red"))
    pool.now += 20
    assert swaps_of(pool.feed(Tick())) == []


def test_a_refusal_outlives_a_drain_of_another_server() -> None:
    pool = Pool(shared=moved(moved(document(), "blue"), "red"))
    pool.now = pool.document.last_rotation + 2
    pool.feed(fault(Cause.CONNECTION_LIMIT, revision=pool.document.revision))
    pool.feed(Loaded(document=drained(pool.document, "green")))
    pool.now += 20
    assert swap_of(pool.feed(Tick())).document.active_server == "blue"


def test_while_none_is_available_the_refusal_waits_for_one_and_says_so() -> None:
    pool = Pool(outcomes={"red": PASSED, "green": REFUSED, "blue": REFUSED})
    assert NoteEvent.NO_SERVER in notes_of(pool.feed(fault(Cause.QUOTA)))
    pool.probed("green", PASSED)
    assert swap_of(pool.probed("green", PASSED)).document.active_server == "green"


@pytest.mark.parametrize(
    ("event", "kind", "retry_after"),
    [
        (Probed(server="red", outcome=LIMITED, kind=Cause.QUOTA, detail="x"), Cause.QUOTA, None),
        (Probed(server="red", outcome=LIMITED, detail="x", retry_after=4.0), Cause.RATE_LIMIT, 4.0),
    ],
)
def test_a_limit_that_our_own_call_met_is_a_refusal(
    event: Event, kind: Cause, retry_after: float | None
) -> None:
    pool = Pool()
    swap = swap_of(pool.feed(event))
    assert swap.rotation is not None
    assert (swap.rotation.cause, swap.rotation.reason) == (kind, "x")
    if retry_after is not None:
        assert swap.document.record("red").cool_down_until == pool.now + retry_after


def test_a_limit_met_before_the_server_became_active_rotates_nothing() -> None:
    pool = Pool()
    pool.now += 100
    early = Probed(server="red", outcome=LIMITED, began=pool.now - 1)
    pool.feed(Loaded(document=moved(moved(pool.document, "blue"), "red")))
    assert pool.now - pool.document.last_rotation > 20, "the interval does not hold it"
    assert swaps_of(pool.feed(early)) == []


def test_a_kind_that_is_no_limit_is_taken_for_a_rate() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(Probed(server="red", outcome=LIMITED, kind=Cause.DOWN)))
    assert swap.document.cause is Cause.RATE_LIMIT


def test_a_call_that_passes_takes_back_what_another_one_met() -> None:
    pool = Pool(outcomes={"red": PASSED, "green": REFUSED, "blue": REFUSED})
    pool.feed(Probed(server="red", outcome=LIMITED, retry_after=1e11))
    pool.feed(Probed(server="red", outcome=PASSED))
    pool.probed("green", PASSED)
    assert swaps_of(pool.probed("green", PASSED)) == []


def test_a_refusal_is_forgotten_when_its_time_is_over() -> None:
    pool = Pool(outcomes={"red": PASSED, "green": REFUSED, "blue": REFUSED})
    pool.feed(fault(Cause.CONNECTION_LIMIT))
    pool.now += 31
    pool.probed("green", PASSED)
    assert swaps_of(pool.probed("green", PASSED)) == []


def test_one_that_wants_to_be_asked_again_at_once_is_left_all_the_same() -> None:
    swap = swap_of(Pool().feed(fault(Cause.CONNECTION_LIMIT, retry_after=0.0)))
    until = swap.document.record("red").cool_down_until
    assert until is not None
    assert until > swap.document.last_rotation + 29


def test_a_configured_reset_ends_what_is_exhausted() -> None:
    pool = Pool()
    pool.now = 1_000_000.0
    limits = {"red": Limits(reset=Reset(at=pool.now + 5_000))}
    pool.machine = PoolMachine(pool.machine.names, Settings(), "p", limits)
    pool.feed(Loaded(document=document()), RowsSeen(lists=(NAMES,)))
    for name in NAMES:
        pool.probed(name, PASSED)
    swap = swap_of(pool.feed(fault(Cause.QUOTA)))
    assert swap.document.record("red").cool_down_until == limits["red"].reset.at


def test_a_key_refused_while_the_swap_was_under_way_is_looked_at_once_it_is_made() -> None:
    pool = Pool()
    swap = swap_of(pool.feed(fault(Cause.QUOTA)))
    pool.feed(Probed(server="green", outcome=UNAUTHORIZED))
    assert Probe(server="green", signed=True) in pool.won(swap)


def test_a_server_whose_limit_our_calls_meet_is_not_chosen_until_one_passes() -> None:
    pool = Pool()
    pool.feed(Probed(server="green", outcome=LIMITED))
    pool.feed(Probed(server="green", outcome=PASSED, signed=False))
    assert not pool.machine.available("green", pool.now)
    assert swap_of(pool.feed(fault(Cause.QUOTA))).document.active_server == "blue"
    pool.feed(Probed(server="green", outcome=PASSED))
    assert pool.machine.available("green", pool.now)


def test_a_refused_key_waits_for_a_signed_probe() -> None:
    pool = Pool()
    for _ in range(5):
        actions = pool.feed(fault(Cause.CREDENTIALS))
        assert actions == [Probe(server="red", signed=True)]
        assert swaps_of(pool.feed(Probed(server="red", outcome=PASSED))) == []
    actions = pool.feed(fault(Cause.CREDENTIALS), Probed(server="red", outcome=UNAUTHORIZED))
    assert swaps_of(actions) == [], "it may be our clock"
    assert Probe(server="green", signed=True) in actions
    actions = pool.feed(Probed(server="green", outcome=PASSED))
    assert (swaps_of(actions), probes_of(actions)) == ([], ["red"]), "it was, perhaps"
    swap = swap_of(pool.feed(Probed(server="red", outcome=UNAUTHORIZED)))
    assert swap.rotation is not None
    assert swap.rotation.cause is Cause.CREDENTIALS
    pool.won(swap)
    assert pool.machine.role("red", pool.now) is Role.MISCONFIGURED
    pool.now += 1_000
    assert not pool.machine.available("red", pool.now), "not before a signed probe passes"


@pytest.mark.parametrize("order", [("green", "red", "blue"), ("red", "blue", "green")])
def test_where_all_refuse_our_key_it_is_our_clock_and_nobody_is_left(order: list[str]) -> None:
    pool = Pool()
    for name in ("red", "green", "blue", "red", "green"):
        assert swaps_of(pool.feed(Probed(server=name, outcome=UNAUTHORIZED))) == []
        pool.now += 1.0
    assert pool.machine.role("green", pool.now) is Role.MISCONFIGURED
    for name in order:  # it is set right, and one after the other is asked
        pool.now += 1.0
        assert swaps_of(pool.feed(Probed(server=name, outcome=PASSED))) == []
    assert pool.machine.active_server == "red"
    assert pool.machine.available("green", pool.now)


def test_a_server_that_comes_back_is_asked_with_our_key_before_it_is_chosen() -> None:
    record = ServerRecord(cool_down_until=1_200.0, cool_down_cause=Cause.CONNECTION_LIMIT)
    shared = replace(document(), servers={"green": record, "blue": record})
    pool = Pool(shared=shared)
    pool.now = 1_201.0
    pool.feed(RotateAsked(request="r", reason="because", actor="ann"))
    actions = pool.feed(Tick())
    assert {Probe(server=name, signed=True) for name in ("green", "blue")} <= set(actions)
    assert swap_of(pool.probed("green", PASSED)).document.active_server == "green"


def test_a_pool_of_one_is_never_cooled_out_of_use() -> None:
    pool = Pool(names=("red",))
    for kind in (Cause.QUOTA, Cause.RATE_LIMIT, Cause.CREDENTIALS):
        assert swaps_of(pool.feed(fault(kind))) == []
    assert swaps_of(pool.probed("red", UNAUTHORIZED, 5)) == []
    assert swaps_of(pool.probed("red", REFUSED, 5)) == []
    assert pool.document == document(("red",))
    assert pool.machine.role("red", pool.now) is Role.ACTIVE


def test_a_verified_report_that_joins_fail_rotates_once_a_probe_passes() -> None:
    pool = Pool()
    found = replace(fault(Cause.TIMEOUT, FaultSource.VERIFIED), reports=30)
    actions = pool.feed(found)
    assert swaps_of(actions) == []
    assert Probe(server="red") in actions
    swap = swap_of(pool.probed("red", PASSED))
    assert swap.rotation is not None
    assert (swap.rotation.to, swap.rotation.cause) == ("green", Cause.TIMEOUT)
    assert swap.rotation.reports == 30


def test_a_verified_report_waits_for_the_interval() -> None:
    pool = Pool(shared=moved(document(), "red"), outcomes=dict.fromkeys(("red", "green"), PASSED))
    pool.feed(fault(Cause.DOWN, FaultSource.VERIFIED, revision=pool.document.revision))
    assert swaps_of(pool.probed("red", PASSED)) == []
    pool.now = pool.document.last_rotation + pool.machine.settings.rotation_interval
    assert swap_of(pool.probed("red", PASSED)).rotation is not None


def test_a_key_that_only_joins_of_our_own_found_refused_is_left() -> None:
    pool = Pool()
    actions = pool.feed(fault(Cause.CREDENTIALS, FaultSource.VERIFIED))
    assert Probe(server="red", signed=True) in actions
    swap = swap_of(pool.feed(Probed(server="red", outcome=PASSED, signed=True)))
    assert swap.rotation is not None
    assert (swap.rotation.to, swap.rotation.cause) == ("green", Cause.CREDENTIALS)
    until = swap.rotation.at + pool.machine.settings.cool_down_max
    assert swap.document.record("red").cool_down_until == until
    assert swap.document.record("red").refuses_joins
    pool.won(swap)
    assert pool.machine.role("red", pool.now) is Role.MISCONFIGURED


def refusing_joins() -> Pool:
    """A pool that left red for refusing joins, when its cool-down is over."""
    pool = Pool()
    pool.feed(fault(Cause.CREDENTIALS, FaultSource.VERIFIED))
    swap = swap_of(pool.feed(Probed(server="red", outcome=PASSED, signed=True)))
    actions = pool.won(swap)
    assert Probe(server="red", signed=True) in actions, "to see it for ourselves"
    assert NoteEvent.SERVER_MISCONFIGURED in notes_of(actions)
    pool.now = swap.document.last_rotation + 2 * pool.machine.settings.cool_down_max
    for name in NAMES:
        pool.probed(name, PASSED)
    return pool


def test_no_call_that_passes_ends_that_a_server_refuses_joins() -> None:
    pool = refusing_joins()
    for seen in (
        Probed(server="red", outcome=PASSED),
        Probed(server="red", outcome=UNAUTHORIZED, joined=True),
        Probed(server="red", outcome=PASSED),
    ):
        pool.now += 15
        assert swaps_of(pool.feed(seen)) == []
        assert pool.machine.role("red", pool.now) is Role.MISCONFIGURED
        assert not pool.machine.available("red", pool.now)
    other = PoolMachine(NAMES, Settings(), "q")
    other.receive(Loaded(document=pool.document), pool.now)
    assert other.role("red", pool.now) is Role.MISCONFIGURED, "also where nobody saw it"


def test_a_join_that_passes_ends_that_a_server_refuses_joins() -> None:
    pool = refusing_joins()
    swap = swap_of(pool.feed(Probed(server="red", outcome=PASSED, joined=True)))
    assert swap.rotation is None
    assert not swap.document.record("red").refuses_joins
    assert swap.document.active_server == "green"
    pool.won(swap)
    assert pool.machine.role("red", pool.now) is Role.STANDBY
    assert pool.machine.available("red", pool.now)
    assert swaps_of(pool.feed(Probed(server="red", outcome=PASSED, joined=True))) == []


def test_a_join_that_another_process_of_this_machine_made_counts_too() -> None:
    pool = refusing_joins()
    for joined in (False, True):
        sight = SignedSight(outcome=PASSED, began=pool.now, joined=joined)
        swaps = swaps_of(pool.feed(RowsSeen(lists=(NAMES,), signed={"red": sight})))
        assert bool(swaps) is joined


def test_a_server_that_refused_joins_and_is_left_for_something_else_is_not_misconfigured() -> None:
    pool = refusing_joins()
    swap = swap_of(
        pool.feed(RotateAsked(request="r", reason="try", actor="ann", to="red", force=True))
    )
    pool.won(swap)
    assert swap.document.record("red").refuses_joins
    swap = swap_of(pool.feed(fault(Cause.QUOTA, revision=pool.document.revision)))
    assert not swap.document.record("red").refuses_joins


def test_a_server_that_refuses_joins_again_after_a_rotation_by_force_does_so_still() -> None:
    pool = refusing_joins()
    ask = RotateAsked(request="r", reason="try", actor="ann", to="red", force=True)
    pool.won(swap_of(pool.feed(ask)))
    pool.now += 15
    refused = Probed(server="red", outcome=UNAUTHORIZED, joined=True, signed=True)
    pool.feed(refused, Probed(server="green", outcome=PASSED, signed=True))
    swap = swap_of(pool.feed(refused))
    assert swap.rotation is not None
    assert (swap.rotation.to, swap.rotation.cause) == ("green", Cause.CREDENTIALS)
    assert swap.document.record("red").refuses_joins


def test_a_server_that_refuses_the_join_after_one_that_passed_is_not_trusted() -> None:
    pool = refusing_joins()
    pool.feed(AWAY, Probed(server="red", outcome=PASSED, joined=True))
    pool.feed(Probed(server="red", outcome=UNAUTHORIZED, joined=True))
    assert swaps_of(back(pool)) == []


def test_a_join_that_passed_before_the_server_was_left_does_not_end_it() -> None:
    pool = Pool()
    pool.feed(fault(Cause.CREDENTIALS, FaultSource.VERIFIED))
    earlier = SignedSight(outcome=PASSED, began=pool.now, joined=True)
    swap = swap_of(pool.feed(Probed(server="red", outcome=PASSED, signed=True)))
    pool.won(swap)
    assert swaps_of(pool.feed(RowsSeen(lists=(NAMES,), signed={"red": earlier}))) == []


@pytest.mark.parametrize("outcome", [PASSED, REFUSED])
def test_a_server_in_trouble_is_left_for_as_long_as_it_asks(outcome: ProbeOutcome) -> None:
    pool = Pool()
    pool.feed(*3 * [fault(Cause.DOWN, retry_after=90.0)])
    pool.now += 2
    swap = swap_of(pool.probed("red", outcome))
    assert swap.document.cause is Cause.DOWN
    until = swap.document.record("red").cool_down_until
    assert until == pytest.approx(swap.document.last_rotation + 88, abs=0.1)
