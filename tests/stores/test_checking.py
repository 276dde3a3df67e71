"""The judges of `test_contract_together` find what they are there to find."""

from __future__ import annotations

from typing import Any

import pytest

from .checking import (
    check_attempts,
    check_beats,
    check_folds,
    check_ledger,
    check_moves,
    check_passing,
    check_places,
    check_swaps,
    check_watch,
)


def swap(expected: int, reason: str, time: float, **other: Any) -> dict[str, Any]:
    """A swap that was won in the second after ``time``."""
    record = {"expected": expected, "won": True, "now": expected + 1, "reason": reason}
    return {**record, "begin": time, "end": time + 1, **other}


def read(revision: int, time: float) -> dict[str, Any]:
    return {"read": revision, "begin": time, "end": time + 1}


def move(revision: int, server: str, time: float, asked: int = 1) -> dict[str, Any]:
    record = {"room": "standup", "server": server, "revision": revision, "asked": asked}
    return {**record, "begin": time, "end": time + 1}


HISTORY = [(2, "a"), (3, "b")]
GOOD_SWAPS = [swap(1, "a", 0), swap(2, "b", 2), swap(1, "c", 1, won=False, now=2), read(2, 1)]


class TestSwaps:
    def test_good_ones_pass(self) -> None:
        assert check_swaps([GOOD_SWAPS[:2], GOOD_SWAPS[2:]], 1, 3, HISTORY) == []

    @pytest.mark.parametrize(
        ("records", "final", "history", "problem"),
        [
            ([*GOOD_SWAPS, swap(1, "twice", 1)], 3, HISTORY, "2 was won by a and twice"),
            (GOOD_SWAPS, 2, HISTORY, "won were [2, 3], the store is at 2"),
            ([GOOD_SWAPS[1]], 3, HISTORY, "won were [3], the store is at 3"),
            (GOOD_SWAPS, 3, HISTORY[:1], "the history is not what was won"),
            (GOOD_SWAPS, 3, [(2, "b"), (3, "a")], "the history is not what was won"),
            ([*GOOD_SWAPS, swap(1, "c", 1, won=False, now=1)], 3, HISTORY, "c lost against 1"),
            ([swap(1, "a", 0, now=7), GOOD_SWAPS[1]], 3, HISTORY, "a won 2 and was shown 7"),
            ([*GOOD_SWAPS, read(1, 1.5)], 3, HISTORY, "read 1, which was not between 2 and 3"),
            ([*GOOD_SWAPS, read(3, 0.5)], 3, HISTORY, "read 3, which was not between 1 and 2"),
        ],
    )
    def test_a_fault_is_named(
        self, records: list[Any], final: int, history: list[Any], problem: str
    ) -> None:
        assert problem in check_swaps([records], 1, final, history)


class TestPlaces:
    def test_a_fault_is_named(self) -> None:
        red = {"room": "standup", "server": "red", "confirmed": True}
        unconfirmed = {**red, "confirmed": False}

        assert check_places([[red], [red]], 1) == []
        assert check_places([[red], [{**red, "server": "green"}]], 1) != []
        assert check_places([[red], [unconfirmed]], 1) == ["standup was not confirmed"]
        assert check_places([[red], [{"stale": 2}]], 1) == ["stale at 2"]
        assert check_places([[red], []], 1) == ["a worker saw 0 rooms"]


class TestMoves:
    @pytest.mark.parametrize(
        ("records", "final", "problems"),
        [
            ([move(2, "a", 0), move(3, "b", 2)], ("b", 3), []),
            # At the same time either may be first.
            ([move(3, "b", 0), move(2, "a", 0.5)], ("b", 3), []),
            ([move(3, "b", 0), move(2, "a", 2)], ("b", 3), ["standup was at 3 and then at 2"]),
            ([move(2, "a", 0)], ("a", 1), ["standup ended as ('a', 1), the highest seen was 2"]),
            ([move(2, "a", 0, asked=3)], ("a", 2), ["asked for 3, left at 2"]),
        ],
    )
    def test_a_fault_is_named(
        self, records: list[Any], final: tuple[str, int], problems: list[str]
    ) -> None:
        assert check_moves([records], {"standup": final}) == problems

    def test_a_lost_room_is_named(self) -> None:
        records = [move(2, "a", 0), {"lost": "standup"}]

        assert check_moves([records], {"standup": ("a", 2)}) == ["standup was lost"]

    def test_two_servers_at_one_revision_are_named(self) -> None:
        problems = check_moves([[move(2, "a", 0)], [move(2, "b", 0)]], {"standup": ("a", 2)})

        assert len(problems) == 1
        assert "at 2" in problems[0]


class TestWatch:
    good: tuple[dict[str, Any], ...] = (
        {"resync": 1},
        {"changed": 2},
        {"moved": "standup", "revision": 2},
        {"view": {"standup": ["red", 2]}},
    )

    def problems(self, records: list[dict[str, Any]], final: int = 2) -> list[str]:
        return check_watch(records, final, {"standup": ["red", 2]})

    def test_a_fault_is_named(self) -> None:
        good = list(self.good)

        assert self.problems(good) == []
        assert self.problems(good[1:]) == ["the first notice was not a Resync"]
        assert self.problems(good, final=3) == ["the last revision known was 2, the store is at 3"]
        back = [*good[:2], {"changed": 1}, *good[2:]]
        assert self.problems(back) == ["revisions went back: [2, 1]"]
        moved_back = [*good[:3], {"moved": "standup", "revision": 1}, good[3]]
        assert self.problems(moved_back) == ["standup went back to 1"]
        assert self.problems(good[:3]) == ["the view by notices is not what the store has"]
        assert len(self.problems([])) == 3


def attempt(expected: int, reason: str, time: float, outcome: str = "won") -> dict[str, Any]:
    record = {"attempt": reason, "expected": expected, "outcome": outcome}
    return {**record, "begin": time, "end": time + 1}


GOOD_ATTEMPTS = [
    attempt(1, "a", 0),
    attempt(2, "b", 2, "unknown"),
    attempt(2, "c", 2, "lost"),
    attempt(3, "d", 4, "unknown"),
    read(3, 5),
]


class TestAttempts:
    def test_good_ones_pass(self) -> None:
        assert check_attempts([GOOD_ATTEMPTS[:1], GOOD_ATTEMPTS[1:]], 1, HISTORY) == []

    @pytest.mark.parametrize(
        ("records", "history", "problem"),
        [
            (GOOD_ATTEMPTS, [(2, "a"), (4, "d")], "revisions have gaps: [2, 4]"),
            (GOOD_ATTEMPTS, [(3, "b")], "revisions have gaps: [3]"),
            (GOOD_ATTEMPTS, [(2, "x"), (3, "b")], "2 was written by x, who did not ask for it"),
            (GOOD_ATTEMPTS, [(2, "a"), (3, "d")], "3 was written by d, who did not ask for it"),
            (GOOD_ATTEMPTS, [(2, "a"), (3, "c")], "c wrote 3 and was told that it was lost"),
            (
                [*GOOD_ATTEMPTS[:1], attempt(2, "b", 2, "refused")],
                HISTORY,
                "b wrote 3 and was told that it was refused",
            ),
            (GOOD_ATTEMPTS[:1], [], "a won 2, and it is not there"),
            (
                [*GOOD_ATTEMPTS, attempt(2, "e", 2)],
                HISTORY,
                "e won 3, and it is not there",
            ),
            ([*GOOD_ATTEMPTS, read(2, 7)], HISTORY, "a reader went back from 3 to 2"),
            ([*GOOD_ATTEMPTS, read(1, 1.5)], HISTORY, "read 1, which was not between 2 and 3"),
            ([read(3, 0), *GOOD_ATTEMPTS[:-1]], HISTORY, "read 3, which was not between 1 and 2"),
        ],
    )
    def test_bad_ones_are_found(
        self, records: list[dict[str, Any]], history: list[tuple[int, str]], problem: str
    ) -> None:
        assert problem in check_attempts([records], 1, history)

    def test_two_readers_may_differ(self) -> None:
        assert check_attempts([GOOD_ATTEMPTS[:1], [read(2, 2)], [read(1, 0)]], 1, [(2, "a")]) == []


def counted(total: int, certain: bool = True) -> dict[str, Any]:
    return {"counted": total, "writer": "p1", "certain": certain}


class TestLedger:
    @pytest.mark.parametrize("total", [2, 3])
    def test_what_is_not_certain_may_be_there(self, total: int) -> None:
        assert check_ledger([[counted(2), counted(3, False)]], {"p1": {"steps": total}}) == []

    @pytest.mark.parametrize(
        ("ledger", "problem"),
        [
            ({}, "p1 counted 2 to 3, the ledger has 0"),
            ({"p1": {"steps": 1}}, "p1 counted 2 to 3, the ledger has 1"),
            ({"p1": {"steps": 4}}, "p1 counted 2 to 3, the ledger has 4"),
            ({"p1": {"steps": 2}, "p2": {"steps": 2}}, "p2 counted nothing"),
        ],
    )
    def test_bad_ones_are_found(self, ledger: dict[str, dict[str, int]], problem: str) -> None:
        assert check_ledger([[counted(2), counted(3, False)], []], ledger) == [problem]


def loose(number: int, certain: bool = True) -> dict[str, Any]:
    return {"loose": number, "writer": "p1", "certain": certain}


class TestFolds:
    good = (loose(2), {"folded": True, "at": 0}, loose(3, False), {"folded": False, "at": 1})

    @pytest.mark.parametrize("sums", [{"at": 1, "sum": 2}, {"at": 2, "sum": 2, "step/3": 3}])
    def test_what_is_not_certain_may_be_there(self, sums: dict[str, int]) -> None:
        assert check_folds([self.good], {"p1": sums}) == []
        assert check_ledger([self.good], {"p1": sums}) == []

    @pytest.mark.parametrize(
        ("sums", "problem"),
        [
            ({"at": 1, "sum": 1}, "p1 counted 2 to 5, the ledger has 1"),
            ({"at": 1, "sum": 4, "step/2": 2}, "p1 counted 2 to 5, the ledger has 6"),
            ({"sum": 2}, "p1 folded at [0], the ledger is at 0"),
        ],
    )
    def test_bad_ones_are_found(self, sums: dict[str, int], problem: str) -> None:
        assert check_folds([self.good], {"p1": sums}) == [problem]

    def test_one_that_was_done_twice_is_found(self) -> None:
        again = {"folded": True, "at": 0}
        problems = check_folds([[*self.good, again]], {"p1": {"at": 1, "sum": 2}})
        assert problems == ["p1 folded at [0, 0], the ledger is at 1"]


def test_a_row_is_the_last_that_was_written_for_certain_or_later() -> None:
    beats = [
        {"beat": 1, "process": "p1", "certain": True},
        {"beat": 2, "process": "p1", "certain": False},
    ]
    for sessions in (1, 2):
        assert check_beats([beats, []], {"p1": {"red": sessions}}) == []
    assert check_beats([beats], {}) == ["p1 wrote 1 to 2, its row has 0"]
    assert check_beats([beats], {"p1": {"red": 3}}) == ["p1 wrote 1 to 2, its row has 3"]


def passing(what: str, revision: int | None = None, to: int | None = None) -> dict[str, Any]:
    return {"passing": what, "revision": revision, "to": to}


class TestPassing:
    @pytest.mark.parametrize(
        "records",
        [
            [passing("found"), passing("placed", 2, 2), passing("lapsed"), passing("found")],
            [passing("unknown", to=2), passing("found", 2), passing("placed", 2, 5)],
            [passing("unknown", to=2), passing("found"), passing("placed", 3, 3)],
            [passing("placed", 2, 2), passing("unknown"), passing("found")],
            [passing("placed", 2, 2), passing("unknown"), passing("placed", 2, 3)],
            [passing("placed", 2, 2), passing("refused"), passing("found", 2)],
        ],
    )
    def test_good_ones_pass(self, records: list[dict[str, Any]]) -> None:
        assert check_passing([records, []]) == []

    @pytest.mark.parametrize(
        "records",
        [
            [passing("found", 2)],
            [passing("placed", 1, 2)],
            [passing("placed", 2, 2), passing("found")],
            [passing("placed", 2, 2), passing("refused"), passing("found")],
            [passing("placed", 2, 2), passing("placed", 3, 3)],
            [passing("placed", 2, 2), passing("lapsed"), passing("found", 2)],
            [passing("placed", 2, 2), passing("kept")],
        ],
    )
    def test_bad_ones_are_found(self, records: list[dict[str, Any]]) -> None:
        assert len(check_passing([records])) == 1
