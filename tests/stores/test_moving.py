"""A state that goes from one store into another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from livekit_pool.core.document import Cause, ServerRecord
from livekit_pool.exceptions import StoreError, StoreUnavailable
from livekit_pool.stores.base import Ledger, Placement, Store
from livekit_pool.stores.memory import MemoryStore
from livekit_pool.stores.moving import Import, Summary, Target, look, read_state, summary
from livekit_pool.stores.sqlite import SqliteStore
from livekit_pool.stores.state_json import State, state_from_json, state_to_json

from .backends import Backend
from .states import LEDGER, NAMES, PLACEMENTS, history, rich, state
from .values import NOON, Clock, first_document, process_row, rotation_to


async def fill(store: Store, given: State) -> None:
    """Bring a store that is empty to a state."""
    await store.restore(None, given.document, "fill", given.history)
    await store.renew(given.placements, "filler")
    await store.leave("filler")
    await store.count(given.ledger)


async def bring(
    store: Store, given: State, *, replace_: bool = False, names: Sequence[str] = NAMES
) -> Import:
    """Import a state as the command does, all steps of it."""
    made = Import(given, await look(store), names=names, actor="ada@ops", replace_=replace_)
    await made.run(store, lambda done, of: None)
    return made


def kept(given: State, store: Store) -> State:
    """What a store can hold of a state."""
    return given if store.keeps_placements else replace(given, placements=())


def without_place(given: State) -> State:
    """A state without what depends on the store it is read from."""
    return replace(given, store="", exported_at=0.0)


def at(given: State, revision: int) -> State:
    """A state as it was imported: its document at ``revision``, with a note."""
    return replace(given, document=replace(given.document, revision=revision))


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Store]:
    async with MemoryStore(clock=Clock()) as store:
        yield store


async def test_a_round_trip_equals_the_original(
    backend: Backend, source: Store, tmp_path: Path
) -> None:
    """From memory through a file into each store, and from there through a file into SQLite."""
    await fill(source, state())
    exported = await read_state(source)
    assert without_place(exported) == without_place(state())

    read = state_from_json(state_to_json(exported), "file")
    assert read == exported
    async with backend.open() as store:
        made = await bring(store, read)
        there = await read_state(store)
        assert made.note == there.history[-1]
        assert (made.note.cause, made.note.from_, made.note.to) == (
            Cause.RESTORED,
            "grün ☎",
            "grün ☎",
        )
        assert without_place(replace(there, history=there.history[:-1])) == without_place(
            at(kept(read, store), 10)
        )
    again = state_from_json(state_to_json(there), "file")
    async with SqliteStore(f"sqlite:///{tmp_path}/third.db") as third:
        await bring(third, again)
        last = await read_state(third)
        assert without_place(replace(last, history=last.history[:-2])) == without_place(
            at(replace(read, placements=there.placements), 11)
        )


async def test_nobody_holds_the_rooms_afterwards(backend: Backend, clock: Clock) -> None:
    async with backend.open() as store:
        await bring(store, state())
        assert await store.rows() == []
        assert await store.rooms() == {}
        clock.turn(60.0)
        idle = sorted(await store.lapsing(60.0), key=lambda each: each.room)
        assert tuple(idle) == kept(state(), store).placements


async def test_importing_twice_writes_and_counts_nothing_twice(backend: Backend) -> None:
    async with backend.open() as store:
        first = await bring(store, state())
        there = await read_state(store)
        second = await bring(store, state())
        assert second.resumed
        assert (second.document, second.note) == (first.document, first.note)
        assert without_place(await read_state(store)) == without_place(there)
        assert await store.ledger() == LEDGER


async def test_a_long_history_and_many_placements_come_whole(
    backend: Backend, tmp_path: Path
) -> None:
    """Into each store, out of it again, and into another one."""
    placements = tuple(
        Placement(room=f"room-{number:05}", server="red", revision=2) for number in range(2500)
    )
    given = state(history=history(1203), placements=placements, document=first_document(1203))
    told = []
    async with backend.open() as store:
        made = Import(given, await look(store), names=NAMES, actor="ada")
        await made.run(store, lambda done, of: told.append((done, of)))
        there = await read_state(store)
        expected = kept(given, store)
        assert there.history == (*given.history, made.note)
        assert there.placements == expected.placements
        assert told == [(1000, 2500), (2000, 2500), (2500, 2500)][: 3 * store.keeps_placements]
    async with SqliteStore(f"sqlite:///{tmp_path}/other.db") as other:
        again = state_from_json(state_to_json(there), "file")
        brought = await bring(other, again)
        last = await read_state(other)
        assert last.history == (*there.history, brought.note)
        assert last.placements == there.placements


# -- reading while others write --


class Restless(MemoryStore):
    """One in which somebody changes the document, so many times, while it is read."""

    changes = 0

    async def ledger(self) -> Ledger:
        found = await super().ledger()
        if self.changes:
            self.changes -= 1
            document = (await self.load()).document
            assert document is not None
            changed = replace(document, revision=document.revision + 1)
            await self.swap(document.revision, changed, f"op-{changed.revision}")
        return found


async def test_a_document_that_changes_while_it_is_read_is_read_again() -> None:
    async with Restless() as store:
        await fill(store, state())
        store.changes = 2
        assert (await read_state(store)).document.revision == 11
        store.changes = 100
        with pytest.raises(StoreError, match="5 times in a row"):
            await read_state(store)


async def test_an_empty_store_is_not_exported(backend: Backend) -> None:
    async with backend.open() as store:
        with pytest.raises(StoreError, match="holds no document"):
            await read_state(store)


# -- refusals --


async def test_it_refuses_while_processes_live(backend: Backend, clock: Clock) -> None:
    async with backend.open() as store:
        await store.beat(process_row("p1"))
        await store.beat(process_row("p2"))
        with pytest.raises(StoreError, match=r"2 processes use .*on host-1.* stop the pool"):
            await bring(store, state())
        assert (await store.load()).document is None
        assert await store.placements() == []
        assert await store.ledger() == {}
        clock.turn(3600)
        await bring(store, state())


async def test_it_refuses_to_replace_a_document_unless_told_to(backend: Backend) -> None:
    async with backend.open() as store:
        await store.create(first_document(), "op")
        with pytest.raises(StoreError, match="at revision 1: give --replace"):
            await bring(store, state())
        assert (await store.load()).document == first_document()
        assert await store.placements() == []
        await bring(store, state(), replace_=True)
        assert (await store.load()).document is not None


async def test_it_refuses_when_the_document_changes_after_the_look(backend: Backend) -> None:
    async with backend.open() as store:
        made = Import(state(), await look(store), names=NAMES, actor="ada")
        await store.create(first_document(), "op")
        with pytest.raises(StoreError, match="changed meanwhile: nothing was written"):
            await made.run(store, lambda done, of: None)
        assert (await store.load()).document == first_document()
        assert await store.ledger() == {}


async def test_it_says_when_somebody_places_rooms_meanwhile() -> None:
    class Busy(MemoryStore):
        async def lapse(self, placement: Placement, idle: float) -> bool:
            return False  # somebody has joined that room just now

    async with Busy() as store:
        await store.create(first_document(20), "op")
        await store.renew([Placement(room="standup", server="red", revision=20)], "p1")
        with pytest.raises(StoreError, match=r"placed rooms .* meanwhile \(1 differ\)"):
            await bring(store, state(), replace_=True)
        assert await store.rooms() == {"red": 1}


# -- replacing --


async def test_the_revision_is_above_everything(backend: Backend) -> None:
    """Also above history and placements, which a lost document may have left behind."""
    for there, noted, placed, wanted in (
        (3, 3, 3, 10),
        (40, 40, 40, 41),
        (40, 88, 40, 89),
        (40, 40, 77, 78),
    ):
        async with backend.open() as store:
            found = (await store.load()).document
            document = first_document(there) if found is None else replace(found, revision=there)
            target = replace(
                await look(store),
                document=replace(document, active_server="grün ☎"),
                history=(rotation_to(first_document(noted)),),
                placements=(Placement(room="x", server="red", revision=placed),),
            )
            made = Import(state(), target, names=NAMES, actor="ada", replace_=True)
            assert made.document.revision == made.note.revision == wanted


async def test_another_active_server_is_a_rotation(backend: Backend) -> None:
    """What was seen at the document that is replaced must be late."""
    async with backend.open() as store:
        await store.create(first_document(20), "op")
        made = await bring(store, state(), replace_=True)
        assert (made.note.from_, made.note.to, made.note.revision) == ("red", "grün ☎", 21)
        assert made.document.active_since == 21
        assert made.document.rotation("red") == made.note
        assert (await store.history())[0] == made.note
        kept = replace(made.document, revision=9, active_since=7)
        assert kept.servers == rich().servers
        assert kept.paused == rich().paused
        assert (await bring(store, state())).resumed


async def test_placements_of_the_replaced_document_give_way(backend: Backend) -> None:
    async with backend.open() as store:
        if not store.keeps_placements:
            return
        await store.create(first_document(20), "op")
        others = [
            Placement(room="standup", server="red", revision=20),
            Placement(room="daily ☀", server="blue", revision=1),
            Placement(room="not in the file", server="red", revision=20),
        ]
        await store.renew(others, "p1")
        await bring(store, state(), replace_=True)
        assert {each.room: each for each in await store.placements()} == {
            each.room: each for each in PLACEMENTS
        }


async def test_sums_that_are_there_stay_where_they_are_higher(backend: Backend) -> None:
    async with backend.open() as store:
        await store.count({"p1": {"red:2027-01": 13_000}, "p9": {"red:2027-01": 1}})
        await bring(store, state())
        assert await store.ledger() == {
            "p1": {"red:2027-01": 13_000, "blue:2027-01": 7},
            "p2": {"red:2027-01": 30},
            "p9": {"red:2027-01": 1},
        }


# -- interruptions --


class Fragile(MemoryStore):
    """One that goes away at its so manieth write."""

    left = 1000

    def _write_or_fail(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailable("gone")

    async def restore(self, *given: Any, **more: Any) -> Any:
        self._write_or_fail()
        return await super().restore(*given, **more)

    async def count(self, totals: Ledger) -> None:
        self._write_or_fail()
        await super().count(totals)

    async def lapse(self, placement: Placement, idle: float) -> bool:
        self._write_or_fail()
        return await super().lapse(placement, idle)

    async def renew(self, placements: Any, process: str) -> Any:
        self._write_or_fail()
        return await super().renew(placements, process)

    async def leave(self, process: str) -> None:
        self._write_or_fail()
        await super().leave(process)


@pytest.mark.parametrize("after", range(8))
async def test_an_interrupted_import_is_repeated(after: int) -> None:
    async with Fragile() as store:
        await store.create(first_document(20), "op")
        await store.renew([Placement(room="standup", server="red", revision=20)], "p1")
        await store.leave("p1")
        store.left = after
        interrupted = True
        try:
            await bring(store, state(), replace_=True)
            interrupted = False
        except StoreUnavailable:
            pass
        assert interrupted == (after < 5)
        store.left = 1000
        # Without "replace" once the document is there: it is this file's own.
        await bring(store, state(), replace_=after == 0)
        there = await read_state(store)
        assert there.placements == PLACEMENTS
        assert there.ledger == LEDGER
        assert there.document.revision == 21
        assert [rotation.revision for rotation in there.history] == [*range(2, 10), 21]
        assert await store.rooms() == {}


async def test_a_document_that_changed_since_the_import_is_not_taken_for_its_own(
    backend: Backend,
) -> None:
    async with backend.open() as store:
        made = await bring(store, state())
        changed = replace(made.document, revision=11, reason="somebody drained a server")
        await store.swap(10, changed, "op")
        with pytest.raises(StoreError, match="at revision 11: give --replace"):
            await bring(store, state())
        again = await bring(store, state(), replace_=True)
        assert (again.resumed, again.document.revision) == (False, 12)


async def test_another_export_of_the_same_revision_is_another_file(backend: Backend) -> None:
    async with backend.open() as store:
        await bring(store, state())
        with pytest.raises(StoreError, match="give --replace"):
            await bring(store, state(exported_at=NOON + 60))


# -- what is said before --


async def plan(
    target: Target | None = None, names: Sequence[str] = NAMES, **changes: Any
) -> Import:
    async with MemoryStore() as store:
        found = await look(store) if target is None else target
    return Import(state(**changes), found, names=names, actor="ada")


async def test_it_warns_of_names_that_the_configuration_does_not_have() -> None:
    assert (await plan()).warnings == []
    active, others, rooms = (await plan(names=("blue",))).warnings[:3]
    assert active.startswith("The active server, grün ☎, is not in this configuration's list")
    assert others.endswith("not in this configuration's list: red.")
    assert rooms == "Rooms placed on grün ☎, which is not in this configuration's list: 1."
    (record,) = (
        await plan(document=replace(rich(), servers={"gone": ServerRecord(failures=1)}))
    ).warnings
    assert record.endswith(": gone.")


async def test_it_warns_where_placements_are_not_kept() -> None:
    async with MemoryStore() as store:
        target = replace(await look(store), keeps_placements=False)
    made = await plan(target)
    (warning,) = made.warnings
    assert "keeps no placements" in warning
    assert made.after.placements == 0


class Forgetful(MemoryStore):
    """One without placements, as Firestore."""

    @property
    def keeps_placements(self) -> bool:
        return False


async def test_where_no_placements_are_kept_none_are_read_or_written() -> None:
    async with Forgetful() as store:
        await bring(store, state())
        assert await store.placements() == []
        await store.renew(PLACEMENTS, "p1")
        assert (await read_state(store)).placements == ()


async def test_it_warns_of_rotations_that_another_history_hides() -> None:
    async with MemoryStore() as store:
        await store.restore(None, first_document(5), "op", history(5)[:2])
        other = replace(history(5)[2], reason="another life")
        await store.restore(first_document(5), first_document(6), "op2", [other])
        made = await plan(await look(store))
    (warning,) = made.warnings
    assert warning.startswith("1 of the file's rotations are left out")


async def test_the_figures_say_what_will_be_there(backend: Backend) -> None:
    async with backend.open() as store:
        await store.restore(None, first_document(20), "op", history(3))
        await store.count({"p9": {"red:2027-01": 1}, "p1": {"red:2027-01": 1}})
        made = Import(state(), await look(store), names=NAMES, actor="ada", replace_=True)
        assert summary(state()) == Summary(
            revision=9, active="grün ☎", rotations=8, placements=2, sums=3
        )
        await made.run(store, lambda done, of: None)
        assert made.after == summary(await look(store))
        assert made.after.revision == 21


async def test_a_restored_document_is_read_and_followed(tmp_path: Path) -> None:
    """A watcher of the store, such as a process that starts in the middle, hears of it."""
    url = f"sqlite:///{tmp_path}/pool.db"
    async with SqliteStore(url) as store, SqliteStore(url) as other:
        await store.create(first_document(), "op")
        heard: asyncio.Queue[object] = asyncio.Queue()

        @asynccontextmanager
        async def listening() -> AsyncIterator[None]:
            async def listen() -> None:
                async for notice in other.watch():
                    heard.put_nowait(notice)

            task = asyncio.create_task(listen())
            await heard.get()
            yield
            task.cancel()

        async with listening():
            await bring(store, state(), replace_=True)
            await asyncio.wait_for(heard.get(), 10)
        assert (await other.load()).document == (await store.load()).document
