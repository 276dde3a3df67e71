from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livekit_pool.core import budget
from livekit_pool.core.actions import NoteEvent, Swap
from livekit_pool.core.budget import Usage
from livekit_pool.core.decisions import Decision, decide
from livekit_pool.core.document import Cause, Document, ServerRecord, rotated
from livekit_pool.core.events import Loaded, Probed, RowsSeen, SwapAnswered, Tick, UsageSeen
from livekit_pool.core.health import Settings
from livekit_pool.core.limits import Limits
from livekit_pool.core.machine import PoolMachine, Role
from livekit_pool.core.situation import Situation
from livekit_pool.resets import Reset

from .samples import (
    MARK,
    NAMES,
    PASSED,
    REFUSED,
    START,
    book,
    document,
    notes_of,
    situation,
    swaps_of,
)

HUNDRED = Limits(minutes=100.0)
TEN = Limits(max_participants=10)
SHARE = 0.9


def usage(
    used: float = 0.0, participants: int = 0, mean: float = 0.0, ends: float | None = None
) -> Usage:
    return Usage(used=used, participants=participants, mean=mean, ends=ends)


class TestFigures:
    def test_of_a_server_without_a_budget(self) -> None:
        assert budget.left(usage(500), Limits(), 0.0) is None
        assert budget.runs_out(usage(500, 5), Limits(), 0.0) is None
        assert not budget.is_spent(usage(500), Limits(), SHARE, 0.0)

    def test_what_is_left_is_never_less_than_nothing(self) -> None:
        assert budget.left(usage(60.5), HUNDRED, 0.0) == 39.5
        assert budget.left(usage(101.0), HUNDRED, 0.0) == 0.0

    def test_when_it_runs_out(self) -> None:
        assert budget.runs_out(usage(60, participants=8), HUNDRED, 1000.0) == 1000.0 + 300.0
        assert budget.runs_out(usage(60), HUNDRED, 1000.0) is None, "nobody is there"
        assert budget.runs_out(usage(110, participants=1), HUNDRED, 1000.0) == 1000.0

    def test_it_does_not_run_out_that_is_counted_anew_before(self) -> None:
        assert budget.runs_out(usage(60, 8, ends=1300.0), HUNDRED, 1000.0) is None
        assert budget.runs_out(usage(60, 8, ends=1301.0), HUNDRED, 1000.0) == 1300.0

    def test_nobody_looks_farther_than_a_year(self) -> None:
        assert budget.runs_out(usage(participants=1), Limits(minutes=1e12), 1000.0) is None

    def test_at_the_reset_nothing_is_used(self) -> None:
        one = usage(95, ends=2000.0)
        assert budget.is_spent(one, HUNDRED, SHARE, 1999.0)
        assert not budget.is_spent(one, HUNDRED, SHARE, 2000.0)
        assert budget.left(one, HUNDRED, 2000.0) == 100.0


class TestDue:
    @pytest.mark.parametrize(
        ("figures", "waited", "why"),
        [
            (usage(89.9), 0, None),
            (usage(90.0), 0, "nobody is connected"),
            (usage(90.0, participants=2, mean=4.0), 0, "a quiet moment"),
            (usage(90.0, participants=3, mean=4.0), 0, None),
            (usage(90.0, participants=3, mean=4.0), 599, None),
            (usage(90.0, participants=3, mean=4.0), 600, "no quiet moment came"),
            (usage(94.9, participants=3, mean=4.0), 0, None),
            (usage(95.0, participants=3, mean=4.0), 0, "they will soon be out"),
            (usage(90.0, participants=10, mean=4.0), 0, "they will soon be out"),
            (usage(90.0, participants=9, mean=4.0), 0, None),
        ],
    )
    def test_when_and_why(self, figures: Usage, waited: float, why: str | None) -> None:
        reason = budget.due(figures, HUNDRED, SHARE, START, START + waited)
        assert reason == (why and f"{figures.used:.0f} of 100 minutes are used; {why}")

    def test_all_of_the_minutes_may_be_used(self) -> None:
        assert budget.due(usage(99.9), HUNDRED, 1.0, START, START) is None
        assert budget.due(usage(100.0, 9, 9.0), HUNDRED, 1.0, START, START) is not None

    @given(
        st.floats(0, 200),
        st.integers(0, 500),
        st.floats(0, 500),
        st.floats(0.01, 1),
        st.floats(0, 2000),
    )
    def test_never_before_the_share_and_never_later_than_ten_minutes(
        self, used: float, participants: int, mean: float, share: float, waited: float
    ) -> None:
        figures = usage(used, participants, mean)
        due = budget.due(figures, HUNDRED, share, START, START + waited)
        if used < share * 100:
            assert due is None
        elif waited >= budget.LATEST or used >= 100:
            assert due is not None


class TestRoom:
    def test_who_moves_need_not_move_again(self) -> None:
        assert budget.is_full(usage(participants=10), TEN)
        assert not budget.is_full(usage(participants=9), TEN)
        assert budget.has_room(usage(participants=3), TEN, 6)
        assert not budget.has_room(usage(participants=3), TEN, 7)
        assert budget.has_room(usage(participants=3), Limits(), 10**6)


# -- what the pool does of it --


def here(
    used: dict[str, Usage],
    limits: dict[str, Limits],
    shared: Document | None = None,
    names: tuple[str, ...] = NAMES,
) -> Situation:
    well = book(dict.fromkeys(names, PASSED), names)
    return replace(
        situation(shared or document(names), well, names=names), usage=used, limits=limits
    )


def moved_to(decision: Decision) -> str | None:
    return None if decision.rotation is None else decision.rotation.to


class TestSpent:
    def test_the_next_one_is_active_and_this_one_exhausted_until_its_reset(self) -> None:
        limits = {"red": Limits(minutes=100.0, reset=Reset(at=START + 1e6))}
        decision = decide(here({"red": usage(95.0)}, limits))

        assert decision.rotation is not None
        assert (decision.rotation.to, decision.rotation.cause) == ("green", Cause.QUOTA)
        assert decision.rotation.reason == "95 of 100 minutes are used; nobody is connected"
        assert decision.document is not None
        assert decision.document.record("red") == ServerRecord(
            cool_down_until=START + 1e6, cool_down_cause=Cause.QUOTA, spent_minutes=95.0
        )

    def test_it_waits_for_a_quiet_moment(self) -> None:
        busy = here({"red": usage(95.0, participants=2, mean=3.0)}, {"red": HUNDRED})
        assert decide(busy) == Decision()
        assert decide(replace(busy, spent_from=START - 599)) == Decision()
        assert moved_to(decide(replace(busy, spent_from=START - 600))) == "green"

    def test_a_server_past_its_share_is_not_chosen(self) -> None:
        both = {"red": HUNDRED, "green": HUNDRED}
        assert moved_to(decide(here({"red": usage(95), "green": usage(95)}, both))) == "blue"
        assert moved_to(decide(here({"red": usage(95), "green": usage(94)}, both))) == "green"

    def test_nowhere_to_go_is_noted_and_nothing_written(self) -> None:
        limits = dict.fromkeys(NAMES, HUNDRED)
        decision = decide(here(dict.fromkeys(NAMES, usage(96)), limits))
        assert decision.document is None
        assert [note.event for note in decision.notes] == [NoteEvent.SPENT]

    def test_the_only_server_is_never_left(self) -> None:
        decision = decide(here({"red": usage(200)}, {"red": HUNDRED}, names=("red",)))
        assert decision.document is None
        assert [note.event for note in decision.notes] == [NoteEvent.SPENT]

    def test_a_pause_holds_it(self) -> None:
        paused = replace(document(), paused=MARK)
        decision = decide(here({"red": usage(96)}, {"red": HUNDRED}, paused))
        assert decision.document is None
        assert [note.event for note in decision.notes] == [NoteEvent.FAULT_WHILE_PAUSED]

    def test_a_server_that_can_take_all_is_better_and_another_better_than_none(self) -> None:
        used = {"red": usage(99, participants=20, mean=20)}
        limits = {"red": HUNDRED, "green": TEN}
        assert moved_to(decide(here(used, limits))) == "blue"
        assert moved_to(decide(here(used, limits | {"blue": TEN}))) == "green"

    def test_the_interval_does_not_delay_it(self) -> None:
        lately, _ = rotated(
            document(), to="red", names=NAMES, cause=Cause.DOWN, reason="", actor="", now=START - 1
        )
        assert moved_to(decide(here({"red": usage(96)}, {"red": HUNDRED}, lately))) == "green"


class TestRaised:
    """Red was left, for green, when 95 of its 100 minutes were used; now it has more."""

    LEFT = ServerRecord(
        cool_down_until=START + 1e6, cool_down_cause=Cause.QUOTA, spent_minutes=95.0
    )

    @pytest.mark.parametrize(
        ("limits", "share", "ends"),
        [
            (HUNDRED, 0.95, False),
            (Limits(minutes=90.0), 0.95, False),
            (Limits(minutes=101.0), 0.95, True),
            (HUNDRED, 0.96, True),
            (Limits(), 0.95, True),
        ],
    )
    def test_what_it_has_more_ends_its_cool_down(
        self, limits: Limits, share: float, ends: bool
    ) -> None:
        after = budget.lifted(self.LEFT, limits, share)
        assert after == (ServerRecord() if ends else self.LEFT)

    def test_what_it_refused_itself_holds(self) -> None:
        refused = replace(self.LEFT, spent_minutes=None)
        assert budget.lifted(refused, Limits(minutes=1e6), 0.95) is refused

    def test_a_drain_and_what_it_failed_before_stay(self) -> None:
        record = replace(self.LEFT, drained=MARK, failures=3)
        assert budget.lifted(record, Limits(), 0.95) == ServerRecord(drained=MARK, failures=3)

    @pytest.mark.parametrize(("minutes", "role"), [(100.0, Role.EXHAUSTED), (200.0, Role.STANDBY)])
    def test_a_process_with_a_larger_budget_may_choose_it(self, minutes: float, role: Role) -> None:
        before = Metered()
        (swap,) = before.tells(red=usage(95.0))

        machine = Metered({"red": Limits(minutes=minutes)}, swap.document).machine
        machine.receive(UsageSeen(usage={"red": usage(95.0)}), START)

        assert machine.role("red", START) is role
        assert machine.available("red", START) is (role is Role.STANDBY)
        assert machine.record("red").cooling(START) is (role is Role.EXHAUSTED)


class TestFull:
    def test_everybody_moves_to_one_that_has_room(self) -> None:
        decision = decide(here({"red": usage(participants=10)}, {"red": TEN}))
        assert decision.rotation is not None
        assert decision.rotation.to == "green"
        assert decision.rotation.cause is Cause.PARTICIPANT_LIMIT
        assert decision.rotation.reason == "10 participants, of 10"

    def test_not_to_one_that_would_be_full_then(self) -> None:
        used = {"red": usage(participants=10)}
        more = Limits(max_participants=11)
        assert moved_to(decide(here(used, {"red": TEN, "green": TEN}))) == "blue"
        assert moved_to(decide(here(used, {"red": TEN, "green": more}))) == "green"
        crowded = used | {"green": usage(participants=1)}
        assert moved_to(decide(here(crowded, {"red": TEN, "green": more}))) == "blue"

    def test_nowhere_to_go_is_noted(self) -> None:
        used = {"red": usage(participants=10)}
        decision = decide(here(used, dict.fromkeys(NAMES, TEN)))
        assert decision.document is None
        assert [note.event for note in decision.notes] == [NoteEvent.FULL]

    def test_it_waits_for_the_interval(self) -> None:
        lately, _ = rotated(
            document(), to="red", names=NAMES, cause=Cause.DOWN, reason="", actor="", now=START - 9
        )
        full = here({"red": usage(participants=10)}, {"red": TEN}, lately)
        assert decide(full) == Decision()
        assert moved_to(decide(replace(full, now=START + 1))) == "green"

    def test_a_pause_holds_it(self) -> None:
        paused = replace(document(), paused=MARK)
        decision = decide(here({"red": usage(participants=10)}, {"red": TEN}, paused))
        assert [note.event for note in decision.notes] == [NoteEvent.FAULT_WHILE_PAUSED]

    def test_a_full_server_is_not_chosen_for_any_other_cause(self) -> None:
        full = here({"green": usage(participants=10)}, {"green": TEN})
        dead = replace(full, health=book({"red": REFUSED, "green": PASSED, "blue": PASSED}))
        assert moved_to(decide(dead)) == "blue"


class Metered:
    """A machine whose servers are all up, and have a hundred minutes each."""

    def __init__(
        self, limits: dict[str, Limits] | None = None, shared: Document | None = None
    ) -> None:
        limits = dict.fromkeys(NAMES, HUNDRED) if limits is None else limits
        self.machine = PoolMachine(NAMES, Settings(), "p", limits)
        self.now = START
        for event in (Loaded(document=shared or document()), RowsSeen(lists=(NAMES,))):
            self.machine.receive(event, START)
        for name in NAMES:
            self.machine.receive(Probed(server=name, outcome=PASSED), START)

    def tells(self, seconds: float = 0.0, **used: Usage) -> list[Swap]:
        self.now += seconds
        return swaps_of(self.machine.receive(UsageSeen(usage=used), self.now))


class TestMachine:
    def test_it_waits_from_when_the_share_was_used_up(self) -> None:
        pool = Metered()
        busy = usage(95.0, participants=2, mean=2.0)
        assert pool.tells(red=usage(94.0, participants=2, mean=2.0)) == []
        assert pool.tells(900, red=busy) == []
        assert pool.tells(599, red=busy) == []
        assert len(pool.tells(1, red=busy)) == 1

    def test_a_figure_that_fell_again_begins_anew(self) -> None:
        pool = Metered()
        busy = usage(95.0, participants=2, mean=2.0)
        assert pool.tells(red=busy) == []
        assert pool.tells(300, red=usage(0.1, participants=2, mean=2.0)) == []
        assert pool.tells(300, red=busy) == []
        assert pool.tells(300, red=busy) == []
        assert len(pool.tells(300, red=busy)) == 1

    def test_the_role_says_it(self) -> None:
        pool = Metered()
        pool.tells(green=usage(96.0, ends=START + 50))
        assert pool.machine.role("green", START) is Role.EXHAUSTED
        assert not pool.machine.available("green", START)
        assert pool.machine.role("green", START + 50) is Role.STANDBY
        assert pool.machine.available("green", START + 50)

    def test_it_comes_back_at_the_reset_by_a_signed_probe(self) -> None:
        reset = START + 1000
        pool = Metered({"red": Limits(minutes=100.0, reset=Reset(at=reset))})
        (swap,) = pool.tells(red=usage(96.0, ends=reset))
        won = SwapAnswered(operation=swap.operation, won=True, document=swap.document)
        pool.machine.receive(won, START)
        assert pool.machine.role("red", reset - 1) is Role.EXHAUSTED
        for moment, signed, available in (
            (reset - 1, True, False),
            (reset, False, False),
            (reset + 1, True, True),
        ):
            pool.machine.receive(Probed(server="red", outcome=PASSED, signed=signed), moment)
            assert pool.machine.available("red", moment) is available, moment
        assert pool.machine.role("red", reset + 1) is Role.STANDBY

    def test_it_says_once_that_there_is_nowhere_to_go(self) -> None:
        pool = Metered()
        spent = UsageSeen(usage=dict.fromkeys(NAMES, usage(96.0)))
        assert notes_of(pool.machine.receive(spent, START)) == [NoteEvent.SPENT]
        assert notes_of(pool.machine.receive(spent, START + 1)) == []
        assert notes_of(pool.machine.receive(Tick(), START + 2)) == []
        assert pool.machine.retry_after(START + 60) == 1, "it still serves"
