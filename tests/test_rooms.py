"""Rooms: where joins go, when rooms move, who is told; on a clock that the tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from livekit_pool.exceptions import NoServer, StoreUnavailable
from livekit_pool.rooms import Room
from livekit_pool.stores.base import Placement, Settling, Stale
from livekit_pool.stores.memory import MemoryStore
from tests.rooms_setting import FakeSession, Setting, scene

# ---- where a join goes --------------------------------------------------------------------------


@scene()
async def test_a_new_room_is_placed_on_the_active_server(pool: Setting) -> None:
    assert await pool.a.rooms.resolve("standup") == Placement(
        room="standup", server="red", revision=1
    )


@scene()
async def test_a_join_goes_where_the_placement_says(pool: Setting) -> None:
    await pool.store.place("standup", "blue", 1)
    assert (await pool.b.join("standup")).server == "blue"


@scene()
async def test_nothing_new_is_placed_on_a_drained_server(pool: Setting) -> None:
    await pool.a.join_settled("standup")
    await pool.store.place("retro", "red", 1)
    for process in (pool.a, pool.b):
        process.driver.takes_rooms = False
        assert (await process.join("standup")).server == "red"
        assert (await process.join("retro")).server == "red"
        with pytest.raises(NoServer, match="red is drained, and no other is available"):
            await process.rooms.resolve("new")
    assert await pool.store.placement("new") is None


class UnheardStore(MemoryStore):
    """Tells nobody of anything, as a slow watch does."""

    def watch(self) -> AsyncIterator[Any]:
        async def silent() -> AsyncIterator[Any]:
            await asyncio.sleep(1e6)
            yield

        return silent()


@scene(UnheardStore)
async def test_a_process_that_has_not_heard_places_nothing_on_the_old_server(
    pool: Setting,
) -> None:
    await pool.rotate("green")
    assert isinstance(await pool.store.place("new", "red", 1), Stale)
    assert pool.a.driver.document.active_server == "red"
    assert (await pool.a.join("new")).server == "green"
    assert pool.a.driver.document.revision == 2


@scene(UnheardStore)
async def test_a_placement_newer_than_the_document_is_a_reason_to_read(pool: Setting) -> None:
    await pool.rotate("green")
    await pool.store.move("standup", "green", 2, "b")
    assert (await pool.a.join("standup")).server == "green"
    assert pool.a.driver.document.revision == 2


@scene(UnheardStore)
async def test_an_answer_does_not_count_if_the_room_moved_unheard(pool: Setting) -> None:
    with pool.a.rooms.joining("standup") as room:
        placement = await pool.a.rooms.resolve("standup")
        await pool.rotate("green")
        await pool.store.move("standup", "green", 2, "b")

        assert not await pool.a.rooms.confirm(room, placement, 10.0)
        assert (await pool.a.rooms.resolve("standup")).server == "green"


@scene()
async def test_a_join_under_way_moves_its_room_itself(pool: Setting) -> None:
    with pool.a.rooms.joining("standup") as room:
        placement = await pool.a.rooms.resolve("standup")
        await pool.rotate("green")
        await asyncio.sleep(0.1)

        assert not await pool.a.rooms.holds(placement)
        assert not await pool.a.rooms.confirm(room, placement, 10.0)
        assert await pool.server() == "green"


@scene()
async def test_a_join_under_way_hears_that_its_room_moved(pool: Setting) -> None:
    heard: list[str] = []
    pool.a.rooms.listen(heard.append)
    settled = await pool.b.join_settled("standup")
    with pool.a.rooms.joining("standup"), pool.a.rooms.joining("other"):
        placement = await pool.a.rooms.resolve("standup")
        await pool.rotate("green")
        await asyncio.sleep(0.1)

        assert settled.moves
        assert heard == ["standup"]
        assert not await pool.a.rooms.holds(placement)


@scene()
async def test_a_room_moves_for_a_join_although_nobody_is_in_it(pool: Setting) -> None:
    (await pool.a.join_settled("standup")).leave()
    await pool.rotate("green")
    assert await pool.server() == "red"
    assert (await pool.b.join("standup")).server == "green"


# ---- who is told, and when ----------------------------------------------------------------------


@scene()
async def test_settled_sessions_are_told_at_once_by_whichever_process(pool: Setting) -> None:
    first = await pool.a.join_settled("standup")
    second = await pool.b.join_settled("standup")

    revision = await pool.rotate("green")
    await asyncio.sleep(0.1)

    there = Placement(room="standup", server="green", revision=revision)
    assert first.moves == second.moves == [there]
    assert await pool.store.placement("standup") == there
    assert pool.a.rooms.sessions() == pool.b.rooms.sessions() == {}


@scene()
async def test_a_session_is_told_when_it_is_settled_and_its_room_waits_for_it(
    pool: Setting,
) -> None:
    settled = await pool.a.join_settled("standup")
    new = await pool.a.join("standup")

    await pool.rotate("green")
    await asyncio.sleep(3)
    assert settled.moves == new.moves == []
    newer = await pool.a.join("standup")
    assert newer.server == "red"

    new.becomes_settled()
    await asyncio.sleep(0.3)
    assert settled.moves == new.moves == []
    newer.becomes_settled()
    await asyncio.sleep(0.3)
    assert [len(session.moves) for session in (settled, new, newer)] == [1, 1, 1]


@scene()
async def test_another_process_that_has_unsettled_sessions_delays_the_move(
    pool: Setting,
) -> None:
    settled = await pool.a.join_settled("standup")
    new = await pool.b.join("standup")

    await pool.rotate("green")
    await asyncio.sleep(3)
    assert await pool.server() == "red"
    assert settled.moves == []

    new.becomes_settled()
    await asyncio.sleep(0.3)
    assert await pool.server() == "green"
    assert len(settled.moves) == len(new.moves) == 1


@scene()
async def test_a_join_does_not_move_a_room_that_another_process_has_unsettled_sessions_in(
    pool: Setting,
) -> None:
    await pool.b.join("standup")
    await pool.rotate("green")
    await asyncio.sleep(1)
    assert (await pool.a.join("standup")).server == "red"


@scene()
async def test_a_dead_process_delays_nothing(pool: Setting) -> None:
    settled = await pool.a.join_settled("standup")
    await pool.b.driver.stop()
    await pool.store.confirm(Placement(room="standup", server="red", revision=1), "b", 1000.0)
    await asyncio.sleep(6.1)

    await pool.rotate("green")
    await asyncio.sleep(0.3)

    assert len(settled.moves) == 1


@scene()
async def test_no_room_waits_longer_than_ten_seconds(pool: Setting) -> None:
    settled = await pool.a.join_settled("standup")
    new = await pool.b.join("standup")
    await pool.rotate("green")
    await asyncio.sleep(5)
    # Each process has somebody now for whom the other should wait.
    newer, newest = await pool.b.join("standup"), await pool.a.join("standup")
    assert newer.server == newest.server == "red"
    await asyncio.sleep(4.9)
    assert await pool.server() == "red"

    await asyncio.sleep(0.3)

    assert await pool.server() == "green"
    assert len(settled.moves) == 1
    # While their server lives they are told when they are settled, and not before.
    assert new.moves == newer.moves == newest.moves == []
    newer.becomes_settled()
    assert len(newer.moves) == 1
    assert (await pool.b.join("standup")).server == "green"


@scene()
async def test_a_dead_server_is_left_by_everybody_at_once(pool: Setting) -> None:
    new = [await pool.a.join("standup"), await pool.b.join("standup")]
    for process in (pool.a, pool.b):
        process.driver.goes_down("red")
    await pool.rotate("green")
    await asyncio.sleep(0.1)
    assert [len(session.moves) for session in new] == [1, 1]
    assert (await pool.a.join("standup")).server == "green"


@scene()
async def test_who_is_not_settled_is_told_when_the_old_server_dies_after_the_move(
    pool: Setting,
) -> None:
    new = await pool.b.join("standup")
    pool.a.driver.goes_down("red")
    await pool.rotate("green")
    await pool.a.join("standup")
    await asyncio.sleep(0.1)
    assert await pool.server() == "green"
    assert new.moves == []

    # Only now does its own process know.
    pool.b.driver.goes_down("red")

    assert len(new.moves) == 1


@scene()
async def test_rotations_meanwhile_are_merged(pool: Setting) -> None:
    new = await pool.a.join("standup")
    await pool.rotate("green")
    await asyncio.sleep(0.3)
    last = await pool.rotate("blue")
    await asyncio.sleep(0.3)
    assert await pool.server() == "red"

    new.becomes_settled()
    await asyncio.sleep(0.2)

    assert new.moves == [Placement(room="standup", server="blue", revision=last)]


@scene()
async def test_nobody_is_told_if_the_room_need_not_move_after_all(pool: Setting) -> None:
    settled = await pool.b.join_settled("standup")
    new = await pool.a.join("standup")
    await pool.rotate("green")
    await asyncio.sleep(0.3)
    await pool.rotate("red")
    await asyncio.sleep(0.3)
    new.becomes_settled()

    await asyncio.sleep(15)

    assert settled.moves == new.moves == []
    assert await pool.store.placement("standup") == Placement(
        room="standup", server="red", revision=1
    )
    assert (await pool.b.join("standup")).server == "red"


@scene()
async def test_there_and_back_is_a_new_placement(pool: Setting) -> None:
    first = await pool.a.join_settled("standup")
    await pool.rotate("green")
    await asyncio.sleep(0.1)
    assert len(first.moves) == 1
    back = await pool.rotate("red")
    await asyncio.sleep(0.1)

    returned = await pool.a.join("standup")

    assert returned.server == "red"
    assert await pool.store.placement("standup") == Placement(
        room="standup", server="red", revision=back
    )
    await asyncio.sleep(1)
    assert returned.moves == []


@scene(UnheardStore)
async def test_a_gap_in_the_news_is_filled_by_reading(pool: Setting) -> None:
    settled = await pool.a.join_settled("standup")
    await pool.rotate("green")
    await pool.store.move("standup", "green", 2, "b")
    await asyncio.sleep(1)
    assert settled.moves == []

    pool.a.driver.tell_moved(None)
    await asyncio.sleep(0.1)

    assert len(settled.moves) == 1


@scene(UnheardStore)
async def test_old_news_moves_nobody_back(pool: Setting) -> None:
    await pool.rotate("green")
    session = await pool.a.join("standup")
    assert session.server == "green"
    session.becomes_settled()

    pool.a.driver.tell_moved(Placement(room="standup", server="red", revision=1))

    assert session.moves == []


class BusyStore(MemoryStore):
    """Refuses the first two moves."""

    refusals = 2

    async def move(
        self, room: str, server: str, revision: int, process: str, *, force: bool = False
    ) -> Placement | Settling:
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailable("busy")
        return await super().move(room, server, revision, process, force=force)


@scene(BusyStore)
async def test_a_move_that_the_store_refuses_is_tried_again(pool: Setting) -> None:
    settled = await pool.a.join_settled("standup")
    await pool.rotate("green")
    await asyncio.sleep(2)
    assert len(settled.moves) == 1


# ---- what the store is told ---------------------------------------------------------------------


async def settling(pool: Setting, by: str, room: str = "standup") -> bool:
    """Whether the store would make another process than ``by`` wait for its sessions."""
    answer = await pool.store.move(room, "blue", 1_000_000, "somebody else")
    return isinstance(answer, Settling)


@scene()
async def test_the_store_knows_when_the_last_session_is_settled(pool: Setting) -> None:
    first = await pool.a.join("standup")
    second = await pool.a.join("standup")
    first.becomes_settled()
    await asyncio.sleep(0.1)
    assert await settling(pool, "a")
    second.becomes_settled()
    await asyncio.sleep(0.1)
    assert not await settling(pool, "a")


@scene()
async def test_the_store_knows_when_the_last_unsettled_session_is_over(pool: Setting) -> None:
    await pool.a.join_settled("standup")
    new = await pool.a.join("standup")
    await asyncio.sleep(0.1)
    assert await settling(pool, "a")
    new.leave()
    await asyncio.sleep(0.1)
    assert not await settling(pool, "a")


@scene()
async def test_a_store_that_forgot_who_holds_a_room_is_told_who_settles_in_it(
    pool: Setting,
) -> None:
    await pool.a.join_settled("standup")
    new = await pool.a.join("standup")
    await pool.store.leave("a")
    await pool.a.beat()
    pool.a.driver.tell_moved(None)
    await asyncio.sleep(0.1)
    assert await settling(pool, "a")
    new.becomes_settled()
    await asyncio.sleep(0.1)
    assert not await settling(pool, "a")


def slow(method: str) -> type[MemoryStore]:
    """A store that takes a second over ``method``, and does it at the end of that."""

    async def slowly(self: MemoryStore, *arguments: Any) -> Any:
        await asyncio.sleep(1)
        return await getattr(MemoryStore, method)(self, *arguments)

    class Slow(MemoryStore):
        pass

    setattr(Slow, method, slowly)
    return Slow


@scene(slow("confirm"))
async def test_who_settles_while_a_store_is_told_again_is_not_waited_for(pool: Setting) -> None:
    new = await pool.a.join("standup")
    pool.a.driver.tell_moved(None)
    await asyncio.sleep(0.5)
    new.becomes_settled()
    await asyncio.sleep(1)
    assert not await settling(pool, "a")


@scene(slow("confirm"))
async def test_who_leaves_while_a_store_is_told_again_holds_nothing(pool: Setting) -> None:
    new = await pool.a.join("standup")
    pool.a.driver.tell_moved(None)
    await asyncio.sleep(0.5)
    new.leave()
    await asyncio.sleep(1)
    assert await pool.store.rooms() == {}


@scene(slow("renew"))
async def test_who_leaves_while_its_room_is_renewed_holds_nothing(pool: Setting) -> None:
    session = await pool.a.join_settled("standup")
    pool.a.driver.tell_moved(None)
    await asyncio.sleep(0.5)
    session.leave()
    await asyncio.sleep(1)
    assert await pool.store.rooms() == {}


@scene(slow("release"))
async def test_who_joins_a_room_while_it_is_released_holds_it(pool: Setting) -> None:
    session = await pool.a.join_settled("standup")
    session.leave()
    await asyncio.sleep(0.5)
    await pool.a.join("standup")
    await asyncio.sleep(1)
    assert await pool.store.rooms() == {"red": 1}
    assert await settling(pool, "a")


@pytest.mark.parametrize(
    ("held", "unsettled", "joining", "until", "expected"),
    [
        (True, 1, 0, 11.0, True),
        (True, 0, 1, 11.0, True),
        (True, 0, 0, 11.0, False),
        (False, 1, 1, 11.0, False),
        (True, 1, 1, 10.0, False),
    ],
)
def test_a_room_settles_while_others_wait_for_somebody_in_it(
    held: bool, unsettled: int, joining: int, until: float, expected: bool
) -> None:
    room = Room("standup")
    room.held, room.unsettled, room.joining = held, unsettled, joining
    room.settling_until = until
    assert room.settles(10.0) is expected


def test_what_the_store_was_told_last_is_not_always_what_others_wait_for() -> None:
    room = Room("standup")
    for until in (11.0, 10.0):
        room.hold(until)
    assert (room.held, room.settling_until) == (True, 11.0)


@scene()
async def test_a_join_that_fails_keeps_no_room_settling(pool: Setting) -> None:
    session = await pool.a.join("standup")
    with pool.a.rooms.joining("standup"):
        session.becomes_settled()
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.1)
    assert not await settling(pool, "a")


@scene(slow("settled"))
async def test_a_room_is_not_called_settled_after_a_new_join_was_confirmed(
    pool: Setting,
) -> None:
    busy = await pool.a.join("busy")
    session = await pool.a.join("standup")
    busy.becomes_settled()  # keeps the writer busy for a second
    session.becomes_settled()
    await asyncio.sleep(0.5)
    with pool.a.rooms.joining("standup") as room:
        placement = await pool.a.rooms.resolve("standup")
        await asyncio.sleep(1)  # for the server's answer; the writer comes to this room
        assert await pool.a.rooms.confirm(room, placement, 10.0)
        new = FakeSession(pool.a, room, placement.server)
        pool.a.rooms.add(room, new, unsettled=True)
    await asyncio.sleep(3)
    assert await settling(pool, "a")


@scene()
async def test_a_room_is_released_when_its_last_session_is_over(pool: Setting) -> None:
    first, second = await pool.a.join_settled("standup"), await pool.a.join_settled("standup")
    assert await pool.store.rooms() == {"red": 1}
    assert pool.a.rooms.sessions() == {"red": 2}
    first.leave()
    await asyncio.sleep(0.1)
    assert await pool.store.rooms() == {"red": 1}
    second.leave()
    await asyncio.sleep(0.1)
    assert await pool.store.rooms() == {}
    assert len(pool.a.rooms) == 0


@scene()
async def test_a_room_is_not_released_while_somebody_joins(pool: Setting) -> None:
    session = await pool.a.join_settled("standup")
    with pool.a.rooms.joining("standup"):
        session.leave()
        await asyncio.sleep(0.1)
        assert await pool.store.rooms() == {"red": 1}
    await asyncio.sleep(0.1)
    assert await pool.store.rooms() == {}


@scene(slow("settled"))
async def test_a_room_that_is_there_again_is_not_released(pool: Setting) -> None:
    busy, busier = await pool.a.join("busy"), await pool.a.join("busier")
    session = await pool.a.join("standup")
    busy.becomes_settled()  # keeps the writer busy for a second
    await asyncio.sleep(0.1)
    session.leave()
    again = await pool.a.join("standup")
    await asyncio.sleep(2)
    assert await pool.store.rooms() == {"red": 3}

    busier.becomes_settled()
    again.leave()
    with pool.a.rooms.joining("standup"):
        await asyncio.sleep(2)  # the writer has its turn, and then this join fails
    await asyncio.sleep(2)
    assert await pool.store.rooms() == {"red": 2}


@scene()
async def test_a_room_with_sessions_does_not_lapse(pool: Setting) -> None:
    await pool.a.join_settled("standup")
    (await pool.a.join_settled("left")).leave()
    await asyncio.sleep(130)
    assert [placement.room for placement in await pool.store.lapsing(60.0)] == ["left"]


@scene()
async def test_a_room_is_on_the_move_for_two_seconds(pool: Setting) -> None:
    await pool.a.join_settled("standup")
    assert not pool.b.rooms.on_the_move("standup")
    await pool.rotate("green")
    await asyncio.sleep(0.1)
    assert pool.a.rooms.on_the_move("standup")
    assert pool.b.rooms.on_the_move("standup")
    await asyncio.sleep(2)
    assert not pool.b.rooms.on_the_move("standup")
