from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livekit_pool.core import minutes
from livekit_pool.core.minutes import GRACE, HOUR, Account, Fold, Stay

DAY = 86_400
NOON = 1_790_000_000.0 // DAY * DAY + DAY / 2
"""Some noon, UTC."""


class Every:
    """Periods of so many seconds, from the epoch on."""

    def __init__(self, length: float) -> None:
        self.length = length

    def begin(self, now: float) -> float:
        return now // self.length * self.length

    def end(self, now: float) -> float:
        return self.begin(now) + self.length


TEN_DAYS = Every(10 * DAY)


def merge(ledger: dict[str, int], sums: Mapping[str, int]) -> None:
    """As `Store.count` does."""
    for key, total in sums.items():
        ledger[key] = max(total, ledger.get(key, 0))


def apply(ledger: dict[str, int], fold: Fold | None) -> bool:
    """As `Store.fold` does."""
    if fold is None or ledger.get(minutes.WATERMARK, 0) != fold.expected:
        return False
    for key in fold.drop:
        ledger.pop(key, None)
    ledger.update(fold.totals)
    return True


def ledger_of(*stays: tuple[float, float]) -> dict[str, int]:
    ledger: dict[str, int] = {}
    for number, (start, end) in enumerate(stays):
        merge(ledger, minutes.seen(f"PA_{number}", start, end))
    return ledger


def used(ledger: Mapping[str, int], begin: float = 0.0, end: float = 2 * NOON) -> float:
    return minutes.used(minutes.read(ledger), begin, end)


seconds = st.integers(0, 30 * DAY * 1000).map(lambda ms: NOON + ms / 1000)
spans = st.tuples(seconds, st.integers(0, 3 * DAY * 1000)).map(
    lambda span: (span[0], span[0] + span[1] / 1000)
)


class TestSeen:
    def test_is_the_union_of_what_all_saw(self) -> None:
        ledger: dict[str, int] = {}
        merge(ledger, minutes.seen("PA_x", NOON + 10, NOON + 20))
        merge(ledger, minutes.seen("PA_x", NOON + 5, NOON + 5))
        merge(ledger, minutes.seen("PA_x", NOON + 10, NOON + 65))

        assert used(ledger) == 1.0

    def test_an_end_before_the_start_is_the_start(self) -> None:
        ledger = dict(minutes.seen("PA_x", NOON, NOON - 5))

        assert minutes.read(ledger).stays == {"PA_x": Stay(int(NOON * 1000), int(NOON * 1000))}

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 3), spans), max_size=20), st.randoms())
    def test_in_any_order_and_repeated(
        self, evidence: list[tuple[int, tuple[float, float]]], chance: object
    ) -> None:
        ledger: dict[str, int] = {}
        twice = [*evidence, *evidence]
        chance.shuffle(twice)  # type: ignore[attr-defined]
        for number, (start, end) in twice:
            merge(ledger, minutes.seen(f"PA_{number}", start, end))

        expected = {
            f"PA_{number}": Stay(
                min(round(start * 1000) for n, (start, _) in evidence if n == number),
                max(round(end * 1000) for n, (_, end) in evidence if n == number),
            )
            for number in {n for n, _ in evidence}
        }
        assert minutes.read(ledger).stays == expected


class TestRead:
    def test_leaves_nonsense_out(self) -> None:
        sums = {
            "PA_1:from": 5,
            "PA_2:to": 5,
            "at:x": 5,
            "at:": 5,
            "what": 5,
            "PA_3:from": 2**52 - 10,
            "PA_3:to": 9,
            "PA_4:from": 2**53 - 1,
            "PA_4:to": 9,
            "at:60000": 7,
            "until": 3,
        }
        assert minutes.read(sums) == Account(until=3, sums={60000: 7})

    def test_knows_its_writers(self) -> None:
        assert minutes.server_of(minutes.writer("a:b")) == "a:b"
        assert minutes.server_of("probes") is None


class TestUsed:
    def test_counts_what_lies_between(self) -> None:
        ledger = ledger_of((NOON, NOON + 600), (NOON + 300, NOON + 360))

        assert used(ledger) == 11.0
        assert used(ledger, NOON + 60, NOON + 330) == pytest.approx(4.5 + 0.5)
        assert used(ledger, NOON + 600) == 0.0

    def test_a_stay_belongs_to_both_periods_it_is_in(self) -> None:
        begin = TEN_DAYS.begin(NOON)
        ledger = ledger_of((begin - 60, begin + 120))

        assert (used(ledger, begin - DAY, begin), used(ledger, begin)) == (1.0, 2.0)

        assert apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, begin + DAY))
        assert minutes.read(ledger).stays == {}
        assert (used(ledger, begin - DAY, begin), used(ledger, begin)) == (1.0, 2.0)


class TestMean:
    def test_is_of_the_last_hour(self) -> None:
        account = minutes.read(ledger_of((NOON - 2 * HOUR, NOON), (NOON - HOUR / 2, NOON + 60)))

        assert minutes.mean(account, NOON) == 1.5

    def test_needs_nothing_that_was_folded(self) -> None:
        ledger = ledger_of((NOON - 2 * HOUR, NOON), (NOON - 3 * HOUR, NOON - 2 * HOUR))
        before = minutes.mean(minutes.read(ledger), NOON)
        assert apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, NOON))

        assert minutes.mean(minutes.read(ledger), NOON) == before == 1.0


class TestFolded:
    def test_nothing_where_no_stay_ended(self) -> None:
        recent = ledger_of((NOON - DAY, NOON - GRACE + 1))

        assert minutes.folded(Account(), TEN_DAYS, NOON) is None
        assert minutes.folded(minutes.read(recent), TEN_DAYS, NOON) is None

    def test_of_a_day_is_one_sum(self) -> None:
        morning = NOON - 10 * HOUR
        ledger = ledger_of(*((morning + n * 60, morning + n * 60 + 30) for n in range(100)))

        assert apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, NOON))

        assert ledger.keys() == {"until", f"at:{int(NOON - DAY / 2) * 1000}"}
        assert used(ledger) == 50.0

    def test_what_comes_later_of_the_time_before_counts_nothing(self) -> None:
        ledger = ledger_of((NOON - DAY, NOON - DAY / 2))
        assert apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, NOON))
        before = used(ledger)

        merge(ledger, minutes.seen("PA_0", NOON - DAY, NOON - DAY / 2))
        assert used(ledger) == before
        merge(ledger, minutes.seen("PA_0", NOON - DAY, NOON))

        assert used(ledger) - before == pytest.approx(GRACE / 60)

    def test_of_several_who_fold_at_once_one_does(self) -> None:
        ledger = ledger_of((NOON - DAY, NOON - DAY / 2))
        one = minutes.folded(minutes.read(ledger), TEN_DAYS, NOON)
        other = minutes.folded(minutes.read(ledger), TEN_DAYS, NOON + 1)

        assert apply(ledger, one)
        assert not apply(ledger, other)
        assert used(ledger) == 12 * 60

    def test_a_watermark_ahead_of_the_clock_is_put_back(self) -> None:
        yesterday = int(NOON - DAY) * 1000
        ledger = {"until": int((NOON + 300 * DAY) * 1000), f"at:{yesterday}": 60_000}

        assert apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, NOON))

        merge(ledger, minutes.seen("PA_1", NOON, NOON + 60))
        assert used(ledger) == 2.0

    def test_what_is_put_back_and_forth_counts_once(self) -> None:
        """
        Two who fold by clocks that differ, as after the store's clock was set back.

        A process that lived before that stays ahead; one that began since does not. What is told
        is told by the one that is ahead.
        """
        ahead, put_back = 2 * HOUR, 0
        ledger: dict[str, int] = {}
        true: dict[str, int] = {}
        for minute in range(0, 360, 5):
            now = NOON + minute * 60
            told = minutes.seen("PA_long", NOON, now + ahead)
            told = {**told, **minutes.seen(f"PA_{minute}", now + ahead - 60, now + ahead)}
            merge(true, told)
            merge(ledger, told)
            apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, now + ahead))
            assert used(ledger) <= used(true) + 1e-6
            put_back += apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, now))
            assert used(ledger) <= used(true) + 1e-6
        assert put_back > 50
        assert used(ledger) == pytest.approx(used(true))

    def test_sums_of_last_year_go(self) -> None:
        old, kept = int(NOON - 401 * DAY) * 1000, int(NOON - 399 * DAY) * 1000
        ledger = {"until": int(NOON - DAY) * 1000, f"at:{old}": 1, f"at:{kept}": 2}

        assert apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, NOON))
        assert ledger == {"until": int((NOON - GRACE) * 1000), f"at:{kept}": 2}

    def test_of_a_stay_that_began_before_the_epoch_of_the_pool_ends(self) -> None:
        ledger = {"PA_1:from": 2**52, "PA_1:to": int(NOON - DAY) * 1000}

        assert apply(ledger, minutes.folded(minutes.read(ledger), Every(60), NOON))
        assert minutes.read(ledger).stays == {}

    @settings(deadline=None)
    @given(
        st.lists(spans, max_size=10),
        st.lists(st.integers(1, 5 * DAY), max_size=10),
        st.sampled_from([7 * HOUR + 0.5, 1.5 * DAY, 10 * DAY]),
    )
    def test_changes_no_figure(
        self, stays: list[tuple[float, float]], pauses: list[int], length: float
    ) -> None:
        """Whatever is folded, and when: every period has the minutes that were in it."""
        calendar = Every(length)
        ledger, true = ledger_of(*stays), ledger_of(*stays)
        now = NOON
        for pause in pauses:
            now += pause
            apply(ledger, minutes.folded(minutes.read(ledger), calendar, now))
            assert sum("at:" in key for key in ledger) <= 60 * DAY / min(length, DAY) + 60
            begin = calendar.begin(NOON)
            while begin < NOON + 34 * DAY:
                end = calendar.end(begin + length / 2)
                # To the millisecond: the ends of these periods are not exact in a float.
                assert used(ledger, begin, end) == pytest.approx(used(true, begin, end), abs=1e-3)
                begin = end

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 4), spans, st.integers(0, 2 * DAY)), max_size=25))
    def test_never_lets_anything_count_twice(
        self, evidence: list[tuple[int, tuple[float, float], int]]
    ) -> None:
        """Whatever comes, and however late."""
        ledger: dict[str, int] = {}
        true: dict[str, int] = {}
        now = NOON
        for number, (start, end), pause in evidence:
            now += pause
            told = minutes.seen(f"PA_{number}", min(start, now), min(end, now))
            merge(true, told)
            merge(ledger, told)
            apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, now))
            assert used(ledger) <= used(true) + 1e-6

    @settings(deadline=None)
    @given(
        st.lists(spans, min_size=1, max_size=8),
        st.integers(300, int(GRACE) // 2),
        st.lists(st.integers(0, int(GRACE) // 2 - 1), min_size=8, max_size=8),
    )
    def test_loses_nothing_that_comes_in_time(
        self, stays: list[tuple[float, float]], every: int, lateness: list[int]
    ) -> None:
        """Each stay is told of while it lasts, and its end later than it was."""
        ledger: dict[str, int] = {}
        now, last = NOON, max(end for _, end in stays)
        while now < last + 2 * GRACE:
            for number, (start, end) in enumerate(stays):
                if start <= now - lateness[number] and now - lateness[number] - end < every:
                    heard = min(end, now - lateness[number])
                    merge(ledger, minutes.seen(f"PA_{number}", start, heard))
            apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, now))
            now += every

        assert used(ledger) == pytest.approx(used(ledger_of(*stays)), abs=1e-3)


class TestPruned:
    def test_leaves_what_says_something(self) -> None:
        ledger = ledger_of((NOON - DAY, NOON - DAY / 2), (NOON - 60, NOON))
        before = dict(ledger)
        assert minutes.pruned(ledger) == before
        assert apply(ledger, minutes.folded(minutes.read(ledger), TEN_DAYS, NOON))
        left = dict(ledger)
        merge(ledger, before)  # a copy from before is brought back

        assert used(ledger) == used(left) == 12 * 60 + 1
        assert minutes.pruned(ledger) == left
