"""What a process learns from the rows of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.events import ProbeOutcome, SignedSight
from livekit_pool.driver.neighbours import LATE, Neighbours, seen_in, signed_sight
from livekit_pool.stores.base import HEARTBEAT, LIVING, ProcessRow
from livekit_pool.stores.memory import MemoryStore

NOW = 1_800_000_000.0


def row(
    process: str,
    host: str,
    *,
    health: dict[str, str] | None = None,
    age: float = 0.0,
    probing: bool = True,
    names: tuple[str, ...] = ("red", "green"),
    fingerprint: str = "f",
) -> ProcessRow:
    return ProcessRow(
        process=process,
        host=host,
        started=NOW - 100,
        names=names,
        fingerprint=fingerprint,
        health={name: {"health": seen} for name, seen in (health or {}).items()},
        sessions={"red": 2},
        probing=probing,
        beat=NOW - age,
    )


OWN = row("own", "here", probing=False)
OTHER = row("other", "there")


class TestNeighbours:
    """Rows that are missing for a moment; the clock is turned by hand."""

    def setup_method(self) -> None:
        self.now = 0.0
        self.set_by = 0.0  # the store's clock
        self.known = Neighbours(MemoryStore("memory://"), "own", lambda: self.now)
        self.told(known=False)
        self.known.read([OWN, OTHER])

    def told(self, *, known: bool) -> bool:
        return self.known.told(self.known.begin(), known=known)

    def read(self, *rows: ProcessRow) -> list[str]:
        return [row.process for row in self.known.read([*map(self.as_beaten, rows)])]

    def as_beaten(self, row: ProcessRow) -> ProcessRow:
        return replace(row, beat=NOW + self.now + self.set_by)

    def test_who_leaves_or_dies_is_gone_at_once(self) -> None:
        for _ in range(5):
            self.now += LATE * HEARTBEAT
            self.told(known=True)
            assert self.read(OWN) == ["own"]

    def test_who_was_there_before_an_outage_counts_until_all_have_told_it_anew(self) -> None:
        self.now += LATE * HEARTBEAT + 0.1
        self.told(known=True)
        began = self.now
        while self.now < began + LIVING:
            assert self.read(OWN) == ["own", "other"]
            assert self.known.living(self.known.rows[:1]) == self.known.rows
            self.now += LIVING / 6
            self.told(known=True)
        assert self.read(OWN) == ["own"]

    def test_who_dies_is_not_kept_for_ever_where_the_store_is_slow(self) -> None:
        for _ in range(5):
            self.now += LATE * HEARTBEAT + 0.1  # each of them is late
            self.told(known=True)
            self.read(OWN)
        assert self.read(OWN) == ["own"]

    def test_time_in_which_nobody_could_tell_anything_does_not_count(self) -> None:
        self.now += 20.0
        self.told(known=True)
        assert self.read(OWN) == ["own", "other"], "it is back, and away again"
        self.now += 20.0
        assert self.read(OWN) == ["own", "other"]
        self.told(known=True)
        assert self.read(OWN) == ["own", "other"]

    def test_who_showed_again_and_leaves_is_gone_at_once(self) -> None:
        self.told(known=False)
        assert self.read(OWN) == ["own", "other"]
        assert self.read(OWN, OTHER) == ["own", "other"]
        assert self.read(OWN) == ["own"]

    def test_so_it_does_where_the_rows_are_read_before_the_own_is_written_again(self) -> None:
        self.now += LATE * HEARTBEAT + 0.1
        assert self.read(OWN) == ["own", "other"]

    def test_who_was_there_before_the_store_lost_its_rows_counts_as_well(self) -> None:
        self.told(known=False)
        assert self.read(OWN) == ["own", "other"]

    def test_who_is_forgotten_hears_of_it(self) -> None:
        new = Neighbours(MemoryStore("memory://"), "new")
        assert not new.told(new.begin(), known=False), "it is new"
        assert not self.told(known=True)
        assert self.told(known=False)

    @pytest.mark.parametrize("by", [-3600.0, -5.0, 5.0, 3600.0])
    def test_who_was_there_before_the_stores_clock_was_set_counts_as_well(self, by: float) -> None:
        self.set_by = by
        self.now += HEARTBEAT
        self.told(known=True)
        assert self.read(OWN) == ["own", "other"]
        for _ in range(3):
            self.now += HEARTBEAT
            self.told(known=True)
            self.read(OWN)
        assert self.read(OWN) == ["own"], "it told nothing since"

    def test_a_row_that_was_read_before_the_last_heartbeat_tells_no_time(self) -> None:
        before = self.as_beaten(OWN)
        self.known.read([before, OTHER])
        self.now += LIVING
        self.told(known=True)
        self.known.read([before, OTHER])
        assert self.known.read([before]) == [before]
        assert self.known.now(otherwise=0.0) == NOW + self.now

    def test_a_heartbeat_whose_answer_is_under_way_tells_no_time(self) -> None:
        self.known.read([self.as_beaten(OWN), OTHER])
        self.now += 300.0
        heartbeat = self.known.begin()
        assert self.known._kept == {}
        self.known.read([self.as_beaten(OWN)])
        self.known.told(heartbeat, known=True)
        self.read(OWN)
        assert self.known.now(otherwise=0.0) == NOW + self.now

    def test_nor_does_one_that_began_before_the_answer_to_another(self) -> None:
        self.known.read([self.as_beaten(OWN), OTHER])
        first, second = self.known.begin(), self.known.begin()
        self.known.told(first, known=True)
        self.now += 300.0
        self.read(OWN)  # the second one's, of which no answer came yet
        assert self.known.now(otherwise=0.0) == NOW + self.now
        self.known.told(second, known=True)
        self.read(OWN)
        assert self.known.now(otherwise=0.0) == NOW + self.now

    def test_an_answer_that_comes_after_that_to_a_later_heartbeat_is_old(self) -> None:
        self.now += 1.0
        first, second = self.known.begin(), self.known.begin()
        self.known.told(second, known=True)
        rows = [self.as_beaten(OWN)]
        self.now += LATE * HEARTBEAT
        assert not self.known.told(first, known=True)
        assert self.known.read(rows) == rows
        assert self.known.now(otherwise=0.0) == NOW + self.now
        third = self.known.begin()
        self.now += 300.0
        self.read(OWN)
        assert self.known.now(otherwise=0.0) == NOW + self.now, "the third one's"
        self.known.told(third, known=True)

    def test_a_slow_answer_to_a_seldom_heartbeat_is_no_clock_that_was_set(self) -> None:
        class Seldom(MemoryStore):
            heartbeat = 300.0

        known = Neighbours(Seldom("memory://"), "own", lambda: self.now)
        for answered_after, there in ((0.0, [OWN, OTHER]), (4.0, [OWN])):
            self.now += 300.0
            heartbeat = known.begin()
            rows = [*map(self.as_beaten, there)]
            self.now += answered_after
            known.told(heartbeat, known=True)
            assert known.read(rows) == rows

    def test_rows_are_as_old_as_the_stores_clock_says_though_it_was_set_back(self) -> None:
        self.set_by = -3600.0
        self.told(known=True)
        rows = self.known.read([self.as_beaten(OWN), self.as_beaten(OTHER)])
        self.now += LIVING
        assert self.known.now(otherwise=0.0) == rows[1].beat + LIVING

    def test_so_it_does_where_ones_own_row_is_missing(self) -> None:
        assert self.read() == ["own", "other"]

    def test_the_newer_row_counts_once(self) -> None:
        self.told(known=False)
        newer = replace(OTHER, names=("red",))
        assert self.known.read([OWN, newer]) == [OWN, newer]

    def test_a_process_that_has_just_begun_has_nothing_to_keep(self) -> None:
        new = Neighbours(MemoryStore("memory://"), "own", lambda: self.now)
        assert new.read([OTHER]) == [OTHER]
        new.told(new.begin(), known=False)
        assert new.read([OWN]) == [OWN]


def test_a_process_alone_counts_itself() -> None:
    seen = seen_in([], OWN, NOW)
    assert (seen.lists, seen.elsewhere, seen.health) == ((OWN.names,), (), {})
    assert (seen.participants, seen.agreed) == (2, True)


def test_what_others_here_and_elsewhere_see_is_kept_apart() -> None:
    rows = [
        OWN,
        row("a", "here", health={"red": "down", "green": "unknown"}),
        row("b", "there", health={"red": "up"}),
        row("c", "there", health={"green": "down"}, probing=False),
        row("d", "beyond"),
    ]
    seen = seen_in(rows, OWN, NOW)
    assert seen.health == {"red": False}
    assert seen.elsewhere == ({}, {"red": True})
    assert seen.participants == 10


def test_who_probes_goes_by_what_it_sees_itself() -> None:
    rows = [row("a", "here", health={"red": "up"}), row("b", "there", health={"red": "up"})]
    seen = seen_in(rows, replace(OWN, probing=True), NOW)
    assert (seen.health, seen.elsewhere) == ({}, ({"red": True},))


def test_an_old_row_says_nothing_of_health_but_its_machine_counts() -> None:
    for age, elsewhere in ((LIVING, {"red": True}), (LIVING + 0.1, {}), (-LIVING - 0.1, {})):
        seen = seen_in([row("b", "there", health={"red": "up"}, age=age)], OWN, NOW)
        assert seen.elsewhere == (elsewhere,)


def test_lists_that_differ_in_what_rows_do_not_show_are_noticed() -> None:
    assert not seen_in([row("b", "there", fingerprint="g")], OWN, NOW).agreed


def test_of_signed_probes_the_newest_of_this_machine_counts() -> None:
    def signed(process: str, host: str, seen: object) -> ProcessRow:
        return replace(row(process, host), health={"red": {"health": "up", "signed": seen}})

    rows = [
        signed("a", "here", {"outcome": "unauthorized", "began": NOW - 2, "detail": "no"}),
        signed("b", "here", {"outcome": "passed", "began": NOW - 9}),
        signed("c", "there", {"outcome": "passed", "began": NOW}),
        signed("d", "here", {"outcome": "nonsense", "began": NOW}),
        signed("e", "here", "nonsense"),
    ]
    expected = SignedSight(outcome=ProbeOutcome.UNAUTHORIZED, began=NOW - 2, detail="no")
    assert seen_in(rows, OWN, NOW).signed == {"red": expected}


@pytest.mark.parametrize("joined", [False, True])
def test_what_is_told_of_a_signed_probe_is_heard_as_it_is(joined: bool) -> None:
    sight = SignedSight(outcome=ProbeOutcome.LIMITED, began=NOW - 1, detail="full", joined=joined)
    told = replace(row("a", "here"), health={"red": {"signed": signed_sight(sight)}})
    assert seen_in([told], OWN, NOW).signed == {"red": sight}
