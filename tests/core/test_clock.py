"""The machine, when the store's clock is set on by hours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.actions import Probe, Refused
from livekit_pool.core.budget import Usage
from livekit_pool.core.document import Cause, Document, ServerRecord
from livekit_pool.core.events import (
    ClockSet,
    FaultSeen,
    FaultSource,
    Loaded,
    Probed,
    RotateAsked,
    RowsSeen,
    Tick,
    UsageSeen,
)
from livekit_pool.core.health import Settings
from livekit_pool.core.limits import Limits
from livekit_pool.core.machine import PoolMachine, Role
from livekit_pool.core.stepping import HEARING
from tests.core.samples import (
    NAMES,
    PASSED,
    REFUSED,
    SILENT,
    START,
    Pool,
    back,
    document,
    moved,
    stepped,
    swap_of,
    swaps_of,
)

HOURS = 3 * 3600.0


def set_on(pool: Pool, by: float = HOURS) -> None:
    pool.now += by
    pool.feed(ClockSet(by=by))


def cooling(cause: Cause, until: float) -> Document:
    record = ServerRecord(cool_down_until=until, cool_down_cause=cause, failures=1)
    return replace(document(), servers={"green": record})


def test_a_cool_down_keeps_what_is_left_of_it() -> None:
    pool = Pool(shared=cooling(Cause.DOWN, START + 100))
    set_on(pool)
    set_on(pool)
    assert pool.machine.role("green", pool.now) is Role.COOLING
    assert pool.machine.record("green").cool_down_until == pytest.approx(START + 2 * HOURS + 100)
    pool.now += 90
    assert not pool.machine.available("green", pool.now)
    pool.now += 20
    pool.probed("green", PASSED)
    assert pool.machine.available("green", pool.now)


def test_the_next_document_has_it_in_the_time_of_now_and_nobody_counts_it_twice() -> None:
    pool = Pool(shared=cooling(Cause.DOWN, START + 100))
    set_on(pool)
    swap = swap_of(pool.probed("red", REFUSED))
    assert swap.rotation is not None
    assert (swap.rotation.to, swap.rotation.at) == ("blue", pool.now)
    until = swap.document.record("green").cool_down_until
    assert until == pytest.approx(START + HOURS + 100)
    pool.won(swap)
    assert pool.machine.record("green").cool_down_until == until


def test_a_quota_ends_at_a_date() -> None:
    pool = Pool(shared=cooling(Cause.QUOTA, START + 100))
    set_on(pool)
    assert pool.machine.role("green", pool.now) is Role.STANDBY


def test_the_pause_between_two_rotations_is_kept() -> None:
    pool = Pool(shared=moved(document(), "red"))
    set_on(pool)
    fault = FaultSeen(
        server="red", revision=2, kind=Cause.DOWN, source=FaultSource.JOIN, detail="refused"
    )
    pool.probed("red", PASSED)
    for _ in range(3):
        pool.feed(fault)
        assert swaps_of(pool.probed("red", PASSED)) == [], "too soon"
    pool.now += 10
    assert swap_of(pool.feed(Tick())).rotation is not None


def test_nobody_is_blamed_and_nothing_is_rotated() -> None:
    pool = Pool()
    set_on(pool)
    assert pool.feed(Tick()) == []
    # Silence of before and of after is still one silence each.
    pool.probed("red", SILENT, 2)
    set_on(pool)
    assert swaps_of(pool.feed(Tick())) == []
    assert swaps_of(pool.probed("red", PASSED)) == []


def test_a_request_is_not_given_up_sooner() -> None:
    pool = Pool(outcomes={"red": PASSED})
    asked = RotateAsked(request="r", reason="because", actor="ann")
    assert Probe(server="green") in pool.feed(asked)
    set_on(pool)
    assert not [each for each in pool.feed(Tick()) if isinstance(each, Refused)]
    pool.now += 6
    assert [each for each in pool.feed(Tick()) if isinstance(each, Refused)]


def test_a_silence_without_a_second_witness_waits_as_long_as_ever() -> None:
    pool = Pool()
    pool.feed(RowsSeen(lists=(NAMES,), elsewhere=({},)))

    def silent_for(seconds: int) -> int:
        """For so many, and how often it was left for that."""
        left = 0
        for _ in range(seconds):
            pool.now += 1
            left += len(swaps_of(pool.probed("red", SILENT)))
            left += len(swaps_of(pool.probed("green", PASSED)))
        return left

    assert silent_for(4) == 0
    set_on(pool)
    assert silent_for(3) == 0
    assert silent_for(4) == 1


def test_what_other_machines_have_to_say_is_waited_for_as_long_as_ever() -> None:
    pool = stepped()
    back(pool, elsewhere=({},))
    assert swaps_of(pool.probed("red", REFUSED)) == []
    set_on(pool)
    assert swaps_of(pool.probed("red", REFUSED)) == []
    pool.now += HEARING
    assert swap_of(pool.probed("red", REFUSED)).document.active_server == "green"


def test_a_foreign_rotation_waits_for_its_probe_as_long_as_ever() -> None:
    pool = Pool(outcomes={"red": PASSED})
    foreign = replace(pool.document, active_server_index=2, index_written=0)
    assert pool.feed(Loaded(document=foreign)) == [Probe(server="blue")]
    set_on(pool)
    assert pool.feed(Tick()) == [Probe(server="blue")]
    pool.now += 6
    assert swap_of(pool.feed(Tick())).document.active_server == "red"


def test_a_server_whose_share_is_used_up_waits_for_a_quiet_moment_as_long_as_ever() -> None:
    machine = PoolMachine(NAMES, Settings(), "p", {"red": Limits(minutes=100.0)})
    spent = UsageSeen(usage={"red": Usage(used=95.0, participants=2, mean=2.0)})
    machine.receive(Loaded(document=document()), START)
    machine.receive(RowsSeen(lists=(NAMES,)), START)
    for name in NAMES:
        machine.receive(Probed(server=name, outcome=PASSED), START)
    machine.receive(spent, START)
    machine.receive(ClockSet(by=HOURS), START + HOURS)
    assert swaps_of(machine.receive(Tick(), START + HOURS)) == []
    assert swaps_of(machine.receive(Tick(), START + HOURS + 599)) == []
    assert swaps_of(machine.receive(Tick(), START + HOURS + 600))


def test_who_is_refused_need_not_wait_longer() -> None:
    pool = Pool(outcomes=dict.fromkeys(NAMES, REFUSED))
    assert pool.machine.retry_after(pool.now) == 1
    set_on(pool)
    assert pool.machine.retry_after(pool.now) == 1


def test_before_there_is_a_document_it_is_no_matter() -> None:
    machine = PoolMachine(("red",), Settings(), "p")
    assert machine.receive(ClockSet(by=HOURS), START) == []
    machine.receive(Loaded(document=document(("red",))), START)


@pytest.mark.parametrize(
    ("cause", "days", "role"),
    [
        (Cause.DOWN, 1, Role.COOLING),
        (Cause.DOWN, 30, Role.STANDBY),
        (Cause.RATE_LIMIT, 30, Role.STANDBY),
        (Cause.QUOTA, 30, Role.EXHAUSTED),
    ],
)
def test_what_a_clock_that_was_set_back_wrote_lasts_not_for_ever(
    cause: Cause, days: int, role: Role
) -> None:
    pool = Pool(shared=cooling(cause, START + days * 86_400))
    assert pool.machine.role("green", pool.now) is role
