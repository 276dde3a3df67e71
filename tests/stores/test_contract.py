"""
What `livekit_pool.stores.base` promises, tried on every store.

What many do at once is in ``test_contract_together.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from livekit_pool.core.document import Document
from livekit_pool.exceptions import StoreUnavailable
from livekit_pool.stores.base import (
    HEARTBEAT,
    Changed,
    Loaded,
    Moved,
    Placement,
    ProcessRow,
    Prompt,
    Resync,
    Settling,
    Stale,
    Store,
    SwapOutcome,
    Swapped,
)

from .backends import BACKENDS, Backend
from .values import NOON, Clock, first_document, following, process_row, rich_document, rotation_to

Notice = Changed | Moved | Resync

# About placements: where a store does not share them, another process is not asked for them.
placements = pytest.mark.placements


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    """An open store with nothing in it."""
    async with backend.open() as store:
        yield store


@pytest.fixture
async def other(
    request: pytest.FixtureRequest, backend: Backend, store: Store
) -> AsyncIterator[Store]:
    """The same store as another process sees it; see `placements`."""
    about_placements = request.node.get_closest_marker("placements") is not None
    if not backend.shared or (about_placements and not store.keeps_placements):
        yield store
        return
    async with backend.open() as other:
        yield other


async def with_document(store: Store, revision: int = 1) -> Document:
    document = first_document(revision)
    await store.create(document, "create")
    return document


async def change(store: Store, reason: str = "next") -> Document:
    """Swap the document, with a rotation, and return the new one."""
    document = (await store.load()).document
    assert document is not None
    proposal = following(document, reason)
    answer = await store.swap(document.revision, proposal, reason, rotation_to(proposal))
    assert answer.outcome is SwapOutcome.WON
    return proposal


def living(store: Store) -> float:
    """Seconds since its last heartbeat for which a process is living."""
    return 3 * store.heartbeat


async def placed(store: Store, room: str, server: str = "red", revision: int = 1) -> Placement:
    answer = await store.place(room, server, revision)
    assert isinstance(answer, Placement)
    return answer


async def held(store: Store, room: str, process: str, until: float = 0.0) -> Placement:
    """``process`` has a session in ``room``, which is unsettled until then."""
    placement = await placed(store, room)
    assert await store.confirm(placement, process, until) == placement
    return placement


class TestDocument:
    async def test_an_empty_store_has_none_but_knows_the_time(self, store: Store) -> None:
        assert await store.load() == Loaded(document=None, now=NOON)

    @pytest.mark.parametrize("document", [first_document(), rich_document()])
    async def test_comes_back_as_it_was_created(
        self, store: Store, other: Store, document: Document
    ) -> None:
        created = await store.create(document, "a")

        assert created == Swapped(outcome=SwapOutcome.WON, document=document)
        assert (await other.load()).document == document

    async def test_is_created_once(self, store: Store, other: Store) -> None:
        first = await with_document(store)
        second = replace(first, lineage="lineage-2")

        answer = await other.create(second, "b")

        assert answer == Swapped(outcome=SwapOutcome.LOST, document=first)
        assert (await store.load()).document == first

    async def test_a_creation_repeated_is_won(self, store: Store, other: Store) -> None:
        document = first_document()
        await store.create(document, "a")

        again = await other.create(document, "a")

        assert again == Swapped(outcome=SwapOutcome.WON, document=document)

    async def test_a_swap_replaces_it(self, store: Store, other: Store) -> None:
        first = await with_document(store, revision=7)
        proposal = replace(rich_document(), revision=8)

        answer = await other.swap(first.revision, proposal, "b")

        assert answer == Swapped(outcome=SwapOutcome.WON, document=proposal)
        assert (await store.load()).document == proposal

    async def test_a_swap_from_an_old_revision_is_lost(self, store: Store, other: Store) -> None:
        first = await with_document(store)
        current = await change(store)

        late = following(first, "late")
        answer = await other.swap(first.revision, late, "late", rotation_to(late))

        assert answer == Swapped(outcome=SwapOutcome.LOST, document=current)
        assert (await store.load()).document == current
        assert [rotation.reason for rotation in await store.history()] == ["next"]

    async def test_a_swap_from_a_revision_to_come_is_lost(self, store: Store) -> None:
        first = await with_document(store)

        answer = await store.swap(5, replace(first, revision=6), "b")

        assert answer == Swapped(outcome=SwapOutcome.LOST, document=first)

    async def test_a_swap_of_another_lineage_is_lost(self, store: Store) -> None:
        first = await with_document(store)
        stranger = replace(following(first), lineage="lineage-2")

        answer = await store.swap(first.revision, stranger, "b", rotation_to(stranger))

        assert answer == Swapped(outcome=SwapOutcome.LOST, document=first)
        assert await store.history() == []

    async def test_a_swap_in_an_empty_store_is_lost(self, store: Store) -> None:
        answer = await store.swap(1, first_document(2), "b")

        assert answer == Swapped(outcome=SwapOutcome.LOST, document=None)
        assert (await store.load()).document is None

    async def test_a_swap_repeated_is_won_once(self, store: Store, other: Store) -> None:
        first = await with_document(store)
        proposal = following(first)
        await store.swap(1, proposal, "b", rotation_to(proposal))

        again = await other.swap(1, proposal, "b", rotation_to(proposal))

        assert again == Swapped(outcome=SwapOutcome.WON, document=proposal)
        assert await store.history() == [rotation_to(proposal)]

    async def test_a_swap_repeated_too_late_is_lost(self, store: Store) -> None:
        first = await with_document(store)
        proposal = following(first)
        await store.swap(1, proposal, "b")
        newest = await change(store, "c")

        again = await store.swap(1, proposal, "b")

        assert again == Swapped(outcome=SwapOutcome.LOST, document=newest)

    async def test_a_swap_must_follow_the_revision_it_expects(self, store: Store) -> None:
        first = await with_document(store)
        proposal = following(first)

        with pytest.raises(ValueError, match="does not follow"):
            await store.swap(1, first, "b")
        with pytest.raises(ValueError, match="is not the change to 2"):
            await store.swap(1, proposal, "b", replace(rotation_to(proposal), revision=3))
        assert (await store.load()).document == first


class TestRestore:
    async def test_brings_back_what_was_lost(self, store: Store, other: Store) -> None:
        document = replace(rich_document(), revision=9)
        entries = [rotation_to(replace(document, revision=number)) for number in (4, 7, 9)]

        answer = await store.restore(None, document, "r", entries)

        assert answer == Swapped(outcome=SwapOutcome.WON, document=document)
        assert (await other.load()).document == document
        assert list(await other.history()) == entries[::-1]

    async def test_takes_the_place_of_another_lineage(self, store: Store, other: Store) -> None:
        await with_document(store, revision=3)
        watch = other.watch()
        await read(watch, 1)
        there = await change(store)
        await read_until(watch, Changed(4))
        ours = replace(rich_document(), lineage="older", revision=12)

        answer = await store.restore(there, ours, "r")

        assert answer == Swapped(outcome=SwapOutcome.WON, document=ours)
        assert (await other.load()).document == ours
        assert await read_until(watch, Resync())

    async def test_is_lost_against_a_change(self, store: Store, other: Store) -> None:
        first = await with_document(store)
        current = await change(other)
        ours = replace(rich_document(), lineage="older", revision=12)

        for found in (None, first, replace(current, lineage="another")):
            answer = await store.restore(found, ours, "r", [rotation_to(ours)])
            assert answer == Swapped(outcome=SwapOutcome.LOST, document=current)

        assert (await store.load()).document == current
        assert [entry.reason for entry in await store.history()] == ["next"]

    async def test_is_lost_where_there_is_none_any_more(self, store: Store) -> None:
        answer = await store.restore(first_document(), following(first_document()), "r")

        assert answer == Swapped(outcome=SwapOutcome.LOST, document=None)

    async def test_again_tells_the_winner_that_it_won(self, store: Store, other: Store) -> None:
        document = replace(rich_document(), revision=9)
        await store.restore(None, document, "r")

        again = await other.restore(None, document, "r")
        rival = await other.restore(None, document, "rival")

        assert again == Swapped(outcome=SwapOutcome.WON, document=document)
        assert rival == Swapped(outcome=SwapOutcome.LOST, document=document)

    async def test_keeps_the_history_that_is_there(self, store: Store) -> None:
        first = await with_document(store)
        current = await change(store, "kept")
        later = replace(current, revision=5)
        rival = replace(rotation_to(current), reason="other")

        await store.restore(current, later, "r", [rival, rotation_to(later)])

        history = await store.history()
        assert [entry.revision for entry in history] == [5, first.revision + 1]
        assert history[1].reason == "kept"

    async def test_swaps_go_on_from_it(self, store: Store, other: Store) -> None:
        document = replace(rich_document(), revision=9)
        await store.restore(None, document, "r")

        following_it = following(document)
        answer = await other.swap(9, following_it, "s", rotation_to(following_it))

        assert answer.outcome is SwapOutcome.WON

    async def test_refuses_to_go_back(self, store: Store) -> None:
        first = await with_document(store, revision=3)

        with pytest.raises(ValueError, match="not above"):
            await store.restore(first, replace(first, lineage="x"), "r")
        with pytest.raises(ValueError, match="beyond"):
            await store.restore(
                first, replace(first, revision=4), "r", [rotation_to(replace(first, revision=5))]
            )

        assert (await store.load()).document == first


class TestLedger:
    async def test_is_empty_at_first(self, store: Store) -> None:
        assert await store.ledger() == {}

    async def test_keeps_the_sums_of_each_writer(self, store: Store, other: Store) -> None:
        await store.count({"p1": {"red": 5, "grün ☎/2026-11": 2**53 - 1}, "p/2": {"red": 1}})
        await other.count({"p1": {"red": 7}, "p3": {"blue": 0}})

        assert await store.ledger() == {
            "p1": {"red": 7, "grün ☎/2026-11": 2**53 - 1},
            "p/2": {"red": 1},
            "p3": {"blue": 0},
        }

    async def test_counts_nothing_twice(self, store: Store, other: Store) -> None:
        await store.count({"p1": {"red": 7}})
        copy = await other.ledger()

        await store.count({"p1": {"red": 5}})
        await store.count({"p1": {"red": 7}})
        await other.count(copy)

        assert await store.ledger() == {"p1": {"red": 7}}

    @pytest.mark.parametrize("total", [-1, 2**53])
    async def test_refuses_what_it_cannot_keep(self, store: Store, total: int) -> None:
        with pytest.raises(ValueError, match="sum of red"):
            await store.count({"p1": {"blue": 1, "red": total}})

        assert await store.ledger() == {}


class TestFold:
    async def test_replaces_sums_and_drops_others(self, store: Store, other: Store) -> None:
        await store.count({"p1": {"at": 3, "a": 5, "b": 6, "c": 7, "sum": 9}, "p2": {"a": 1}})

        done = await other.fold("p1", "at", 3, {"at": 2, "sum": 20, "new": 1}, ["a", "b", "x"])

        assert done
        assert await store.ledger() == {
            "p1": {"at": 2, "c": 7, "sum": 20, "new": 1},
            "p2": {"a": 1},
        }

    async def test_is_not_done_where_another_was(self, store: Store, other: Store) -> None:
        await store.count({"p1": {"a": 5, "b": 6}})
        assert await store.fold("p1", "at", 0, {"at": 1, "sum": 5}, ["a"])

        assert not await other.fold("p1", "at", 0, {"at": 1, "sum": 5}, ["a"])
        assert not await other.fold("p1", "at", 0, {"at": 2, "sum": 11}, ["a", "b"])
        assert not await other.fold("p1", "at", 2, {"at": 3}, ["b"])

        assert await store.ledger() == {"p1": {"at": 1, "b": 6, "sum": 5}}

    async def test_of_a_writer_who_counted_nothing(self, store: Store, other: Store) -> None:
        assert not await store.fold("p1", "at", 1, {"at": 2}, ["a"])
        assert await other.ledger() == {}

        assert await store.fold("p1", "at", 0, {"at": 2}, ["a"])
        assert await other.ledger() == {"p1": {"at": 2}}

    async def test_leaves_what_is_counted_afterwards(self, store: Store, other: Store) -> None:
        await store.count({"p1": {"a": 5}})
        await store.fold("p1", "at", 0, {"at": 1, "sum": 5}, ["a"])

        await other.count({"p1": {"a": 6, "sum": 4}})

        assert await store.ledger() == {"p1": {"at": 1, "sum": 5, "a": 6}}

    @pytest.mark.parametrize("totals", [{}, {"at": 3}, {"at": 2**53}, {"at": 4, "sum": -1}])
    async def test_refuses_what_it_cannot_keep(self, store: Store, totals: dict[str, int]) -> None:
        await store.count({"p1": {"at": 3}})

        with pytest.raises(ValueError, match=r"at|sum"):
            await store.fold("p1", "at", 3, totals, [])

        assert await store.ledger() == {"p1": {"at": 3}}


class TestHistory:
    async def test_is_newest_first_in_pages(self, store: Store, other: Store) -> None:
        await with_document(store)
        for number in range(5):
            await change(store, f"change {number}")

        async def page(limit: int, before: int | None = None) -> list[int]:
            return [rotation.revision for rotation in await other.history(limit, before)]

        assert await page(50) == [6, 5, 4, 3, 2]
        assert await page(2) == [6, 5]
        assert await page(2, before=5) == [4, 3]
        assert await page(2, before=3) == [2]
        assert await page(2, before=2) == []
        assert await page(0) == []
        assert await page(-1) == []

    async def test_a_rotation_comes_back_as_it_was(self, store: Store) -> None:
        await with_document(store)
        document = await change(store, 'why: "☎"\n')

        assert await store.history() == [rotation_to(document)]

    async def test_has_no_entry_for_a_change_without_rotation(self, store: Store) -> None:
        first = await with_document(store)

        await store.swap(1, following(first), "b")

        assert await store.history() == []


class TestWatch:
    async def test_begins_with_a_resync(self, store: Store) -> None:
        await with_document(store)

        assert await read(store.watch(), 1) == [Resync()]

    @placements
    async def test_tells_of_changes_and_moves_by_others(self, store: Store, other: Store) -> None:
        await with_document(store)
        watch = store.watch()
        await read(watch, 1)

        await change(other)
        moved = as_placement(await other.move("standup", "green", 2, "p1"))

        assert await read_until(watch, Changed(2), Moved(moved))

    @placements
    async def test_tells_of_own_changes_or_not_but_misses_none(
        self, store: Store, other: Store
    ) -> None:
        await with_document(store)
        watch = store.watch()
        await read(watch, 1)

        await change(store, "own")
        await store.move("own", "green", 2, "p1")
        await change(other, "other's")
        moved = as_placement(await other.move("other's", "green", 3, "p1"))

        assert await read_until(watch, Changed(3), Moved(moved))

    async def test_tells_every_consumer(self, store: Store, other: Store) -> None:
        await with_document(store)
        watches = [store.watch() for _ in range(3)]
        for watch in watches:
            await read(watch, 1)

        await change(other)

        for watch in watches:
            assert await read_until(watch, Changed(2))

    @placements
    async def test_a_slow_consumer_gets_merged_notices_in_order(
        self, store: Store, other: Store
    ) -> None:
        await with_document(store)
        slow, quick = store.watch(), store.watch()
        await read(slow, 1)
        await read(quick, 1)
        for revision in range(2, 30):
            await change(other, f"change {revision}")
            await other.move("standup", f"server-{revision}", revision, "p1")
        last = Moved(Placement(room="standup", server="server-29", revision=29))
        await read_until(quick, Changed(29), last)

        notices = await read_until(slow, Changed(29), last)

        revisions = [notice.revision for notice in notices if isinstance(notice, Changed)]
        assert revisions == sorted(revisions)
        assert revisions[-1] == 29
        # All of it was there before the first was taken.
        assert len(notices) == 2

    @placements
    async def test_a_placement_made_or_lapsed_is_no_notice(
        self, store: Store, other: Store, clock: Clock
    ) -> None:
        await with_document(store)
        watch = store.watch()
        await read(watch, 1)

        placement = await held(other, "standup", "p1")
        clock.turn(61)
        assert await other.lapse(placement, 60)
        await change(other)

        notices = await read_until(watch, Changed(2))
        # That of the first document may be late; nothing else has happened.
        assert set(notices) <= {Changed(1), Changed(2)}

    @placements
    async def test_a_move_after_the_last_moved_room_lapsed_is_told(
        self, store: Store, other: Store, clock: Clock
    ) -> None:
        await with_document(store)
        watch = store.watch()
        await read(watch, 1)
        first = await other.move("standup", "green", 2, "p1")
        assert isinstance(first, Placement)
        await read_until(watch, Moved(first))
        clock.turn(61)
        assert await other.lapse(first, 60)

        second = await other.move("retro", "green", 3, "p1")

        assert await read_until(watch, Moved(as_placement(second)))

    async def test_ends_when_the_store_is_closed(self, store: Store) -> None:
        begun = asyncio.Semaphore(0)

        async def consume() -> int:
            count = 0
            async for _ in store.watch():
                count += 1
                begun.release()
            return count

        consumers = [asyncio.create_task(consume()) for _ in range(2)]
        async with asyncio.timeout(5):
            for _ in consumers:
                await begun.acquire()

            await store.aclose()

            assert await asyncio.gather(*consumers) == [1, 1]
            assert [notice async for notice in store.watch()] == []


@placements
class TestPlacement:
    async def test_is_made_at_the_documents_revision(self, store: Store, other: Store) -> None:
        await with_document(store, revision=7)
        assert await store.placement("standup") is None

        placement = await store.place("standup", "red", 7)

        assert placement == Placement(room="standup", server="red", revision=7)
        assert await other.placement("standup") == placement
        assert await other.placement("Standup") is None
        assert await other.placements() == [placement]

    @pytest.mark.parametrize("revision", [6, 8])
    async def test_is_not_made_at_another_revision(self, store: Store, revision: int) -> None:
        await with_document(store, revision=7)

        assert await store.place("standup", "red", revision) == Stale(revision=7)
        assert await store.placement("standup") is None

    async def test_is_not_made_without_a_document(self, store: Store) -> None:
        assert await store.place("standup", "red", 1) == Stale(revision=0)

    async def test_that_is_there_is_answered_whatever_is_asked(
        self, store: Store, other: Store
    ) -> None:
        await with_document(store)
        placement = await store.place("standup", "red", 1)
        await change(store)

        assert await other.place("standup", "green", 1) == placement
        assert await other.place("standup", "green", 2) == placement

    @pytest.mark.parametrize("room", ["", "☎ & 'x'; --", "a\0b", "é" * 256])
    async def test_takes_any_name(self, store: Store, other: Store, room: str) -> None:
        await with_document(store)

        placement = await held(store, room, "p1")

        assert await other.placement(room) == placement


@placements
class TestConfirm:
    async def test_makes_a_holder(self, store: Store, other: Store) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        assert await other.rooms() == {}

        assert await store.confirm(placement, "p1", NOON + 10) == placement
        assert await other.rooms() == {"red": 1}

    async def test_fails_after_a_move(self, store: Store, other: Store) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        moved = await other.move("standup", "green", 2, "p2")

        assert await store.confirm(placement, "p1", NOON + 10) == moved
        assert await store.rooms() == {}
        # Nothing was written: the next move does not wait for p1 either.
        assert isinstance(await other.move("standup", "blue", 3, "p2"), Placement)

    async def test_fails_after_a_move_on_the_same_server(self, store: Store) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        moved = await store.move("standup", "red", 2, "p2")

        assert await store.confirm(placement, "p1", NOON + 10) == moved

    async def test_fails_after_a_lapse(self, store: Store, clock: Clock) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        clock.turn(60)
        assert await store.lapse(placement, 60)

        assert await store.confirm(placement, "p1", NOON + 70) is None
        assert await store.rooms() == {}


class TestAtOnce:
    """What a `Prompt` store does without being waited for; it is what `Store` would do."""

    @pytest.fixture(params=["memory", "sqlite"])  # all others are always to be waited for
    async def backend(
        self, request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
    ) -> AsyncIterator[Backend]:
        backend = BACKENDS[request.param](tmp_path, clock)
        yield backend
        await backend.aclose()

    @pytest.fixture
    def prompt(self, store: Store) -> Prompt:
        assert isinstance(store, Prompt)
        return store

    async def test_places_a_room(self, store: Store, other: Store, prompt: Prompt) -> None:
        await with_document(store)
        placed_now = prompt.place_now("standup", "red", 1)

        assert placed_now == Placement(room="standup", server="red", revision=1)
        assert await other.placement("standup") == placed_now
        assert prompt.place_now("standup", "green", 1) == placed_now

    async def test_places_no_room_at_another_revision(self, store: Store, prompt: Prompt) -> None:
        await with_document(store)

        assert prompt.place_now("standup", "red", 2) is None
        assert await store.placement("standup") is None

    async def test_confirms_as_a_holder(self, store: Store, other: Store, prompt: Prompt) -> None:
        await with_document(store)
        placement = await placed(store, "standup")

        assert prompt.confirm_now(placement, "p1", NOON + 10)
        assert isinstance(await other.move("standup", "green", 2, "p2"), Settling)

    async def test_confirms_no_other_placement(self, store: Store, prompt: Prompt) -> None:
        await with_document(store)
        placement = await placed(store, "standup")

        assert not prompt.confirm_now(replace(placement, revision=2), "p1", NOON + 10)
        assert not prompt.confirm_now(replace(placement, server="green"), "p1", NOON + 10)
        assert not prompt.confirm_now(replace(placement, room="other"), "p1", NOON + 10)
        assert await store.rooms() == {}

    @pytest.mark.parametrize("server", ["red", "green"])
    async def test_a_second_time_confirms_what_still_holds(
        self, store: Store, other: Store, prompt: Prompt, server: str
    ) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        assert prompt.confirm_now(placement, "p1", NOON + 10)

        await other.move("standup", server, 2, "p1")
        assert not prompt.confirm_now(placement, "p1", NOON + 10)

    async def test_a_second_time_holds_longer(self, store: Store, prompt: Prompt) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        assert prompt.confirm_now(placement, "p1", NOON + 10)
        assert prompt.confirm_now(placement, "p1", NOON + 11)

        settling = await store.move("standup", "green", 2, "p2")
        assert isinstance(settling, Settling)
        assert settling.until == NOON + 11

    async def test_after_all_were_settled_begins_anew(self, store: Store, prompt: Prompt) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        assert prompt.confirm_now(placement, "p1", NOON + 10)
        await store.settled("standup", "p1")
        assert prompt.confirm_now(placement, "p1", NOON + 10)

        assert isinstance(await store.move("standup", "green", 2, "p2"), Settling)

    async def test_each_process_is_a_holder_of_its_own(self, store: Store, prompt: Prompt) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        assert prompt.confirm_now(placement, "p1", NOON + 10)
        assert prompt.confirm_now(placement, "p2", NOON + 10)
        await store.settled("standup", "p1")

        assert isinstance(await store.move("standup", "green", 2, "p3"), Settling)

    async def test_who_confirms_again_and_again_is_living(
        self, store: Store, clock: Clock, prompt: Prompt
    ) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        for _ in range(4):
            assert prompt.confirm_now(placement, "p1", NOON + 100)
            clock.turn(living(store) / 2)

        assert await store.rooms() == {"red": 1}

    async def test_a_closed_store_does_nothing(self, store: Store, prompt: Prompt) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        await store.aclose()

        assert prompt.place_now("standup", "red", 1) is None
        assert not prompt.confirm_now(placement, "p1", NOON + 10)


@placements
class TestMove:
    async def test_changes_the_placement(self, store: Store, other: Store) -> None:
        await with_document(store)
        await placed(store, "standup")

        moved = await other.move("standup", "green", 2, "p1")

        assert moved == Placement(room="standup", server="green", revision=2)
        assert await store.placement("standup") == moved
        assert await store.placements() == [moved]

    async def test_makes_a_placement_where_there_is_none(self, store: Store) -> None:
        moved = await store.move("standup", "green", 2, "p1")

        assert await store.placement("standup") == moved

    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize("revision", [4, 5])
    async def test_never_goes_to_a_revision_that_is_not_higher(
        self, store: Store, revision: int, force: bool
    ) -> None:
        await with_document(store)
        current = await store.move("standup", "green", 5, "p1")

        answer = await store.move("standup", "blue", revision, "p2", force=force)

        assert answer == current
        assert await store.placement("standup") == current

    async def test_waits_for_anothers_unsettled_sessions(
        self, store: Store, other: Store, clock: Clock
    ) -> None:
        await with_document(store)
        current = await held(store, "standup", "p1", until=NOON + 3)

        answer = await other.move("standup", "green", 2, "p2")

        assert answer == Settling(placement=current, until=NOON + 3)
        assert await store.placement("standup") == current
        clock.turn(3)
        assert isinstance(await other.move("standup", "green", 2, "p2"), Placement)

    async def test_waits_for_the_last_of_several(self, store: Store, clock: Clock) -> None:
        await with_document(store)
        current = await held(store, "standup", "p1", until=NOON + 3)
        await held(store, "standup", "p2", until=NOON + 5)
        await held(store, "standup", "p3", until=NOON + 4)

        answer = await store.move("standup", "green", 2, "p4")

        assert answer == Settling(placement=current, until=NOON + 5)

    async def test_does_not_wait_for_sessions_in_other_rooms(self, store: Store) -> None:
        await with_document(store)
        await held(store, "retro", "p1", until=NOON + 3)
        await placed(store, "standup")

        assert isinstance(await store.move("standup", "green", 2, "p2"), Placement)

    async def test_does_not_wait_for_ones_own(self, store: Store) -> None:
        await with_document(store)
        await held(store, "standup", "p1", until=NOON + 10)

        assert isinstance(await store.move("standup", "green", 2, "p1"), Placement)

    async def test_does_not_wait_when_forced(self, store: Store) -> None:
        await with_document(store)
        await held(store, "standup", "p1", until=NOON + 10)

        assert isinstance(await store.move("standup", "green", 2, "p2", force=True), Placement)

    @pytest.mark.parametrize("how", ["settled", "release", "leave"])
    async def test_does_not_wait_for_who_has_none_any_more(self, store: Store, how: str) -> None:
        await with_document(store)
        await held(store, "standup", "p1", until=NOON + 10)

        if how == "settled":
            await store.settled("standup", "p1")
        elif how == "release":
            await store.release("standup", "p1")
        else:
            await store.leave("p1")

        assert isinstance(await store.move("standup", "green", 2, "p2"), Placement)

    async def test_does_not_wait_for_a_dead_process(self, store: Store, clock: Clock) -> None:
        await with_document(store)
        await store.beat(process_row("p1"))
        await held(store, "standup", "p1", until=NOON + living(store) + 4)

        clock.turn(living(store))
        assert isinstance(await store.move("standup", "green", 2, "p2"), Settling)
        clock.turn(0.001)
        assert isinstance(await store.move("standup", "green", 2, "p2"), Placement)

    async def test_waits_for_a_process_that_beats(self, store: Store, clock: Clock) -> None:
        await with_document(store)
        await held(store, "standup", "p1", until=NOON + living(store) + 4)
        clock.turn(living(store) - 1)
        await store.beat(process_row("p1"))
        clock.turn(4)

        assert isinstance(await store.move("standup", "green", 2, "p2"), Settling)

    async def test_a_process_that_never_beat_is_soon_taken_for_dead(
        self, store: Store, clock: Clock
    ) -> None:
        await with_document(store)
        await held(store, "standup", "p1", until=NOON + living(store) + 4)

        clock.turn(living(store))
        assert isinstance(await store.move("standup", "green", 2, "p2"), Settling)
        clock.turn(0.001)
        assert isinstance(await store.move("standup", "green", 2, "p2"), Placement)

    async def test_a_later_confirm_never_shortens_the_wait(self, store: Store) -> None:
        await with_document(store)
        current = await held(store, "standup", "p1", until=NOON + 10)
        await held(store, "standup", "p1", until=NOON + 2)
        await store.renew([current], "p1")

        answer = await store.move("standup", "green", 2, "p2")

        assert answer == Settling(placement=current, until=NOON + 10)

    async def test_a_confirm_after_all_were_settled_begins_anew(self, store: Store) -> None:
        await with_document(store)
        current = await held(store, "standup", "p1", until=NOON + 10)
        await store.settled("standup", "p1")
        await held(store, "standup", "p1", until=NOON + 2)

        answer = await store.move("standup", "green", 2, "p2")

        assert answer == Settling(placement=current, until=NOON + 2)

    async def test_forgets_no_holder(self, store: Store) -> None:
        await with_document(store)
        await held(store, "standup", "p1", until=NOON + 10)
        moved = await store.move("standup", "green", 2, "p2", force=True)

        assert await store.rooms() == {"green": 1}
        answer = await store.move("standup", "blue", 3, "p2")
        assert answer == Settling(placement=as_placement(moved), until=NOON + 10)


@placements
class TestHolding:
    async def test_a_release_leaves_the_placement(self, store: Store, other: Store) -> None:
        await with_document(store)
        placement = await held(store, "standup", "p1")
        await held(store, "standup", "p2")

        await other.release("standup", "p1")
        assert await store.rooms() == {"red": 1}
        await other.release("standup", "p2")

        assert await store.rooms() == {}
        assert await store.placement("standup") == placement

    async def test_what_is_not_there_can_be_let_go(self, store: Store) -> None:
        await with_document(store)
        await placed(store, "standup")

        await store.release("standup", "p1")
        await store.settled("standup", "p1")
        await store.release("no such room", "p1")
        await store.leave("p1")

        assert await store.rooms() == {}

    async def test_a_renewal_writes_a_lost_holder_anew(self, store: Store, other: Store) -> None:
        await with_document(store)
        rooms = [await held(store, "standup", "p1"), await held(store, "retro", "p1")]
        await store.leave("p1")
        assert await store.rooms() == {}

        assert await other.renew(iter(rooms), "p1") == []

        assert await store.rooms() == {"red": 2}

    async def test_a_renewal_writes_a_lost_placement_anew(self, store: Store, other: Store) -> None:
        await with_document(store)
        watch = other.watch()
        await read(watch, 1)
        lost = Placement(room="standup", server="green", revision=4)

        assert await store.renew([lost], "p1") == []

        assert await other.placement("standup") == lost
        assert await other.rooms() == {"green": 1}
        assert await read_until(watch, Moved(lost))

    async def test_a_renewal_moves_no_room_back(self, store: Store, other: Store) -> None:
        await with_document(store)
        old = await held(store, "moved", "p1")
        kept = await held(store, "kept", "p1")
        moved = as_placement(await other.move("moved", "green", 3, "p2"))
        behind = as_placement(await other.move("behind", "green", 2, "p2"))
        newer = replace(behind, server="blue", revision=5)
        rival = replace(moved, server="blue")

        assert await store.renew([old, kept, newer], "p1") == [moved]
        assert await store.renew([rival], "p1") == [moved]

        assert await store.placement("moved") == moved
        assert await store.placement("behind") == newer
        assert await store.placement("kept") == kept

    async def test_many_rooms_are_renewed_at_once(self, store: Store) -> None:
        await with_document(store)
        rooms = [await placed(store, f"room-{number}") for number in range(1201)]

        assert await store.renew(rooms, "p1") == []

        assert await store.rooms() == {"red": 1201}

    async def test_only_what_living_processes_hold_is_counted(
        self, store: Store, clock: Clock
    ) -> None:
        await with_document(store)
        await store.beat(process_row("p1"))
        await store.beat(process_row("p2"))
        await held(store, "of both", "p1")
        await held(store, "of both", "p2")
        await held(store, "of the first", "p1")
        await placed(store, "of nobody")
        moved = as_placement(await store.move("of the second", "green", 2, "p2"))
        await store.renew([moved], "p2")

        assert await store.rooms() == {"red": 2, "green": 1}
        clock.turn(living(store) + 1)
        await store.beat(process_row("p2"))
        assert await store.rooms() == {"red": 1, "green": 1}


@placements
class TestLapse:
    async def test_comes_after_the_idle_time(
        self, store: Store, other: Store, clock: Clock
    ) -> None:
        await with_document(store)
        placement = await placed(store, "standup")

        clock.turn(59.5)
        assert await other.lapsing(60) == []
        assert not await other.lapse(placement, 60)
        assert await store.placement("standup") == placement

        clock.turn(0.5)
        assert await other.lapsing(60) == [placement]
        assert await other.lapse(placement, 60)
        assert await store.placement("standup") is None
        assert await store.placements() == []
        assert not await store.lapse(placement, 60)

    @pytest.mark.parametrize("how", ["confirm", "renew", "release", "leave", "move"])
    async def test_is_put_off_by_who_has_to_do_with_the_room(
        self, store: Store, clock: Clock, how: str
    ) -> None:
        await with_document(store)
        placement = await held(store, "standup", "p1")
        clock.turn(30)

        if how == "confirm":
            await store.confirm(placement, "p2", clock.now)
        elif how == "renew":
            await store.renew([placement], "p1")
        elif how == "release":
            await store.release("standup", "p1")
        elif how == "leave":
            await store.leave("p1")
        else:
            placement = as_placement(await store.move("standup", "green", 2, "p1"))

        clock.turn(59)
        assert await store.lapsing(60) == []
        assert not await store.lapse(placement, 60)
        clock.turn(1)
        assert await store.lapsing(60) == [placement]
        assert await store.lapse(placement, 60)

    @pytest.mark.parametrize("how", ["asked for", "another's release", "another's leave"])
    async def test_is_not_put_off_by_others(self, store: Store, clock: Clock, how: str) -> None:
        await with_document(store)
        placement = await held(store, "standup", "p1")
        await held(store, "retro", "p2")
        clock.turn(59)

        if how == "asked for":
            await store.placement("standup")
            await store.place("standup", "green", 1)
        elif how == "another's release":
            await store.release("standup", "p2")
        else:
            await store.leave("p2")

        clock.turn(1)
        assert placement in await store.lapsing(60)

    async def test_spares_a_placement_that_changed(self, store: Store, clock: Clock) -> None:
        await with_document(store)
        old = await placed(store, "standup")
        moved = await store.move("standup", "green", 2, "p1")
        clock.turn(60)

        assert not await store.lapse(old, 60)
        assert await store.placement("standup") == moved

    async def test_takes_the_holders_with_it(self, store: Store, clock: Clock) -> None:
        await with_document(store)
        placement = await held(store, "standup", "p1", until=NOON + 100)
        clock.turn(60)
        await store.beat(process_row("p1"))
        assert await store.lapse(placement, 60)

        await placed(store, "standup")

        assert await store.rooms() == {}
        assert isinstance(await store.move("standup", "green", 2, "p2"), Placement)

    async def test_makes_room_for_a_new_placement(self, store: Store, clock: Clock) -> None:
        await with_document(store)
        placement = await placed(store, "standup")
        clock.turn(60)
        assert await store.lapse(placement, 60)

        await placed(store, "standup", "green")

        assert await store.lapsing(60) == []


class TestProcesses:
    async def test_a_row_comes_back_with_the_stores_time(self, store: Store, other: Store) -> None:
        await store.beat(process_row("p1"))

        assert await other.rows() == [replace(process_row("p1"), beat=NOON)]

    async def test_a_beat_replaces_the_row(self, store: Store, clock: Clock) -> None:
        await store.beat(process_row("p1"))
        clock.turn(2)
        newer = replace(process_row("p1"), names=(), health={}, sessions={}, probing=False)

        await store.beat(newer)

        assert await store.rows() == [replace(newer, beat=NOON + 2)]

    async def test_a_beat_says_whether_the_store_had_the_row(self, store: Store) -> None:
        if store.heartbeat == HEARTBEAT:  # else to know would cost a read
            assert await store.beat(process_row("p1")) is False
        assert await store.beat(process_row("p1")) is True
        await store.leave("p1")
        assert await store.beat(process_row("p1")) is (store.heartbeat != HEARTBEAT)

    async def test_only_living_ones_are_answered(self, store: Store, clock: Clock) -> None:
        await store.beat(process_row("p1"))
        clock.turn(2)
        await store.beat(process_row("p2"))

        clock.turn(living(store) - 2)
        assert processes(await store.rows()) == ["p1", "p2"]
        clock.turn(0.001)
        assert processes(await store.rows()) == ["p2"]
        assert processes(await store.rows(within=living(store) + 1)) == ["p1", "p2"]
        assert processes(await store.rows(within=1)) == []

    @placements
    async def test_who_beat_before_the_clock_was_set_back_must_beat_again(
        self, store: Store, clock: Clock
    ) -> None:
        await with_document(store)
        await store.beat(process_row("dead"))
        await store.beat(process_row("living"))
        await held(store, "standup", "dead", until=NOON + 10)

        clock.turn(-3600)
        await store.beat(process_row("living"))

        assert processes(await store.rows()) == ["living"]
        assert await store.rooms() == {}
        assert isinstance(await store.move("standup", "green", 2, "living"), Placement)

    @placements
    async def test_leaving_takes_the_row_and_the_holders(self, store: Store, other: Store) -> None:
        await with_document(store)
        for process in ("p1", "p2"):
            await store.beat(process_row(process))
            await held(store, f"of {process}", process)

        await other.leave("p1")

        assert processes(await store.rows()) == ["p2"]
        assert await store.rooms() == {"red": 1}
        assert len(await store.placements()) == 2


class TestClosing:
    async def test_is_idempotent(self, backend: Backend) -> None:
        store = backend.open()
        await store.aclose()
        async with store:
            await store.load()
            await asyncio.gather(store.aclose(), store.aclose())
        await store.aclose()

    async def test_nothing_is_answered_afterwards(self, store: Store) -> None:
        await with_document(store)

        await store.aclose()

        for call in (store.load(), store.placement("standup"), store.move("a", "b", 2, "c")):
            with pytest.raises(StoreUnavailable, match="not open"):
                await call

    async def test_what_was_written_is_there_when_it_opens_again(self, backend: Backend) -> None:
        async with backend.open() as store:
            document = await with_document(store)
            placement = await held(store, "standup", "p1")

        async with AsyncExitStack() as stack:
            again = await stack.enter_async_context(backend.open())

            assert (await again.load()).document == document
            assert await again.placements() == ([placement] if again.keeps_placements else [])
            assert await read(again.watch(), 1) == [Resync()]


async def read(watch: AsyncIterator[Notice], count: int) -> list[Notice]:
    """The next ``count`` notices."""
    async with asyncio.timeout(10):
        return [await anext(watch) for _ in range(count)]


async def read_until(watch: AsyncIterator[Notice], *awaited: object) -> list[Notice]:
    """All notices until all of ``awaited`` have come, in whichever order."""
    notices: list[Notice] = []
    async with asyncio.timeout(10):
        while not set(awaited) <= set(notices):
            notices.append(await anext(watch))
    return notices


def as_placement(answer: Placement | Settling) -> Placement:
    assert isinstance(answer, Placement)
    return answer


def processes(rows: Sequence[ProcessRow]) -> list[str]:
    return sorted(row.process for row in rows)
