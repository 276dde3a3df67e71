"""Where rooms are while no store tells it, and how it is told and heard when one does again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any

import pytest

from livekit_pool.core.document import Document
from livekit_pool.exceptions import NoAnswer, StoreUnavailable
from livekit_pool.rooms.live import MENDS
from livekit_pool.stores.base import Loaded, Placement, Settling, Stale
from livekit_pool.stores.memory import MemoryStore
from tests.rooms_setting import FakeSession, Process, Setting, scene


class Store(MemoryStore):
    """
    A store that can be cut off, and forgets placements when it is told to.

    Attributes:
        away: nothing is answered.
        failing: methods whose next call is not answered.
        slow: seconds that placing takes.
    """

    away = False
    slow = 0.0

    def __init__(self, *arguments: object, **options: object) -> None:
        self.failing: set[str] = set()
        super().__init__(*arguments, **options)  # type: ignore[arg-type]

    async def _turn(self) -> float:
        if self.away:
            raise StoreUnavailable("away")
        return await super()._turn()

    def _may_fail(self, method: str) -> None:
        if method in self.failing:
            self.failing.remove(method)
            raise StoreUnavailable("away")

    def forget(self) -> None:
        """Lose all placements."""
        for placement in self._rooms.all():
            assert self._rooms.lapse(placement, 0, 1e18)

    async def load(self) -> Loaded:
        self._may_fail("load")
        return await super().load()

    async def place(self, room: str, server: str, revision: int) -> Placement | Stale:
        self._may_fail("place")
        await asyncio.sleep(self.slow)
        return await super().place(room, server, revision)

    async def confirm(
        self, placement: Placement, process: str, settling_until: float
    ) -> Placement | None:
        self._may_fail("confirm")
        return await super().confirm(placement, process, settling_until)

    async def move(
        self, room: str, server: str, revision: int, process: str, *, force: bool = False
    ) -> Placement | Settling:
        self._may_fail("move")
        return await super().move(room, server, revision, process, force=force)


def store_of(pool: Setting) -> Store:
    assert isinstance(pool.store, Store)
    return pool.store


def goes_away(pool: Setting) -> None:
    """The store is away, and both processes know it."""
    store_of(pool).away = True
    for process in (pool.a, pool.b):
        process.driver.store_changes(False)


async def comes_back(pool: Setting) -> None:
    """The store is back, and both processes know it."""
    store_of(pool).away = False
    for process in (pool.a, pool.b):
        process.driver.store_changes(True)
    await asyncio.sleep(0.1)


def at(server: str, revision: int = 1, room: str = "standup") -> Placement:
    return Placement(room=room, server=server, revision=revision)


# ---- the store is away: where joins go ----------------------------------------------------------


@scene(Store)
async def test_without_the_store_a_join_goes_where_the_sessions_of_this_process_are(
    pool: Setting,
) -> None:
    await pool.store.place("standup", "blue", 1)
    await pool.a.join_settled("standup")
    goes_away(pool)
    assert (await pool.a.join("standup")).server == "blue"
    assert pool.a.driver.asked == 0


@scene(Store)
async def test_without_the_store_a_join_goes_where_another_join_goes(pool: Setting) -> None:
    await pool.store.place("standup", "blue", 1)
    with pool.a.rooms.joining("standup") as room:
        placement = await pool.a.rooms.resolve("standup")
        goes_away(pool)
        assert await pool.a.rooms.resolve("standup") == placement == at("blue")
        assert await pool.a.rooms.confirm(room, placement, 10.0)


@scene(Store)
async def test_without_the_store_a_join_goes_to_the_server_that_has_the_room(
    pool: Setting,
) -> None:
    await pool.a.join_settled("standup")
    await pool.rotate("green", window=1e6)
    await asyncio.sleep(0.1)
    goes_away(pool)
    for process in (pool.a, pool.b):
        process.driver.having = {"red": {"standup"}}

    assert (await pool.b.join("standup")).server == "red"
    assert (await pool.a.join("standup")).server == "red"
    assert (await pool.b.join("new")).server == "green"


@scene(Store)
async def test_while_the_store_is_away_a_room_is_where_somebody_made_it_last(
    pool: Setting,
) -> None:
    """Others, who reach the store, may have moved it without this process hearing of it."""
    goes_away(pool)
    pool.a.driver.having = {"red": {"standup"}, "green": {"standup"}}
    pool.a.driver.made_last = ["green", "red"]

    session = await pool.a.join_settled("standup")
    await asyncio.sleep(60)

    assert session.server == "green"
    assert session.moves == []


@scene(Store)
async def test_who_made_a_room_unheard_follows_who_else_made_it(pool: Setting) -> None:
    """Although its own copy is the newer one: the others may reach the store."""
    goes_away(pool)
    session = await pool.a.join_settled("standup")
    assert session.server == "red"
    pool.a.driver.having = {"red": {"standup"}, "green": {"standup"}}
    pool.a.driver.made_last = ["red", "green"]

    await asyncio.sleep(30)

    assert [placement.server for placement in session.moves] == ["green"]


@scene(Store)
async def test_two_who_are_cut_off_do_not_chase_each_other(pool: Setting) -> None:
    goes_away(pool)
    session = await pool.a.join_settled("standup")
    pool.a.driver.having = {"red": {"standup"}, "green": {"standup"}}
    pool.a.driver.made_last = ["green", "red"]
    await asyncio.sleep(30)
    assert [placement.server for placement in session.moves] == ["green"]
    back = await pool.a.join_settled("standup")
    pool.a.driver.made_last = ["red", "green"]

    await asyncio.sleep(60)

    assert (back.server, back.moves) == ("green", [])


@scene(Store)
async def test_servers_that_do_not_say_what_they_have_hold_nobody_up(pool: Setting) -> None:
    goes_away(pool)
    pool.a.driver.having = {"blue": {"standup"}}
    pool.a.driver.answers_in = 1e6
    async with asyncio.timeout(1):
        assert (await pool.a.join("standup")).server == "red"


@scene(Store)
async def test_what_was_found_is_asked_for_once(pool: Setting) -> None:
    goes_away(pool)
    with pool.a.rooms.joining("standup"):
        await pool.a.rooms.resolve("standup")
        await pool.a.rooms.resolve("standup")
        assert pool.a.driver.asked == 1
        assert await pool.a.rooms.find("standup") == at("red")
        assert pool.a.driver.asked == 1
    await asyncio.sleep(0.1)
    assert (await pool.b.rooms.find("standup")) is None


@scene(Store)
async def test_what_was_found_is_forgotten_with_the_last_session(pool: Setting) -> None:
    goes_away(pool)
    (await pool.a.join_settled("standup")).leave()
    await asyncio.sleep(0.1)
    pool.a.driver.steps("green")
    assert (await pool.a.join("standup")).server == "green"


@scene(Store)
async def test_what_was_found_of_a_room_that_nobody_joined_is_forgotten(pool: Setting) -> None:
    goes_away(pool)
    await pool.a.rooms.resolve("standup")
    await asyncio.sleep(25)
    pool.a.driver.steps("green")
    assert (await pool.a.rooms.resolve("standup")).server == "green"


@scene(Store)
async def test_nobody_can_tell_where_rooms_are_so_all_servers_are_asked(pool: Setting) -> None:
    await pool.a.join_settled("standup")
    assert await pool.a.rooms.servers() == {"red"}
    goes_away(pool)
    assert await pool.a.rooms.servers() == {"red", "green", "blue"}


@scene(Store)
async def test_a_store_that_fails_in_the_middle_of_a_join_fails_no_join(pool: Setting) -> None:
    for method in ("place", "confirm"):
        store_of(pool).failing = {method}
        assert (await pool.a.join(f"room of {method}")).server == "red"
        assert not store_of(pool).failing
        assert not pool.a.driver.store_ok
        await comes_back(pool)
        await asyncio.sleep(2)


@scene(Store)
async def test_a_store_that_fails_in_the_middle_of_a_move_fails_no_join(pool: Setting) -> None:
    (await pool.a.join_settled("standup")).leave()
    await asyncio.sleep(0.1)
    await pool.rotate("green")
    store_of(pool).failing = {"move"}
    assert (await pool.b.join("standup")).server == "green"
    assert not pool.b.driver.store_ok


class Unheard(Store):
    """Tells nobody of anything, as a slow watch does."""

    def watch(self) -> AsyncIterator[Any]:
        async def silent() -> AsyncIterator[Any]:
            await asyncio.sleep(1e6)
            yield

        return silent()


@scene(Unheard)
async def test_a_store_that_fails_before_the_document_is_read_again_fails_no_join(
    pool: Setting,
) -> None:
    await pool.rotate("green")
    store_of(pool).failing = {"load"}
    assert (await pool.a.join("standup")).server == "red"
    assert not pool.a.driver.store_ok


@scene(Store)
async def test_a_store_that_fails_after_a_stall_fails_no_join(pool: Setting) -> None:
    pool.a.driver.stalled = True
    store_of(pool).failing = {"load"}
    assert (await pool.a.join("standup")).server == "red"
    assert not pool.a.driver.store_ok


@scene(Unheard)
async def test_a_placement_counts_although_the_document_is_not_to_be_read(pool: Setting) -> None:
    await pool.rotate("green")
    await pool.store.move("standup", "green", 2, "b")
    store_of(pool).failing = {"load"}
    assert (await pool.a.join("standup")).server == "green"
    assert not pool.a.driver.store_ok


# ---- a step -------------------------------------------------------------------------------------


def steps(pool: Setting, to: str | None) -> None:
    for process in (pool.a, pool.b):
        process.driver.steps(to)


def die(pool: Setting, *servers: str) -> None:
    for process in (pool.a, pool.b):
        for server in servers:
            process.driver.goes_down(server)


def live(pool: Setting) -> None:
    for process in (pool.a, pool.b):
        process.driver.down.clear()


@scene(Store)
async def test_a_step_moves_rooms_off_the_dead_server_once(pool: Setting) -> None:
    settled = await pool.a.join_settled("standup")
    new = await pool.b.join("standup")
    await pool.store.place("elsewhere", "blue", 1)
    there = await pool.a.join_settled("elsewhere")
    goes_away(pool)
    die(pool, "red")
    steps(pool, "green")
    # Were any task to try it again and again, this moment would never come.
    await asyncio.sleep(1)

    assert settled.moves == new.moves == [at("green")]
    assert there.moves == []
    again = await pool.a.join_settled("standup")
    assert again.server == (await pool.b.join("standup")).server == "green"
    await asyncio.sleep(30)
    assert again.moves == []


@scene(Store)
async def test_a_step_moves_rooms_that_were_placed_since_the_last_rotation(pool: Setting) -> None:
    document = (await pool.store.load()).document
    assert document is not None
    await pool.store.swap(1, replace(document, revision=2), "something else")
    await asyncio.sleep(0.1)
    session = await pool.a.join_settled("standup")
    goes_away(pool)
    die(pool, "red")
    steps(pool, "green")
    await asyncio.sleep(1)
    assert session.moves == [at("green", 2)]


@scene(Store)
async def test_in_a_step_new_rooms_go_to_its_server_and_live_ones_stay(pool: Setting) -> None:
    goes_away(pool)
    die(pool, "red")
    steps(pool, "green")
    pool.a.driver.having = {"blue": {"elsewhere"}}
    assert (await pool.a.join("new")).server == "green"
    assert (await pool.a.join("elsewhere")).server == "blue"


async def stepped(pool: Setting, room: str = "standup") -> tuple[FakeSession, FakeSession]:
    """A room with a session in each process that a step took from red to green."""
    first, second = await pool.a.join_settled(room), await pool.b.join_settled(room)
    goes_away(pool)
    die(pool, "red")
    steps(pool, "green")
    await asyncio.sleep(1)
    assert first.moves
    assert second.moves
    return await pool.a.join_settled(room), await pool.b.join_settled(room)


@scene(Store)
async def test_rooms_stay_where_a_step_took_them_while_the_store_returns(pool: Setting) -> None:
    first, second = await stepped(pool)
    await comes_back(pool)
    await asyncio.sleep(30)
    assert first.moves == second.moves == []
    assert await pool.server() == "red"


@scene(Store)
async def test_rooms_go_back_when_a_step_is_undone(pool: Setting) -> None:
    first, second = await stepped(pool)
    live(pool)
    await comes_back(pool)
    steps(pool, None)
    await asyncio.sleep(1)
    assert first.moves == second.moves == [at("red")]
    assert await pool.store.placement("standup") == at("red")
    assert (await pool.b.join("standup")).server == "red"


@scene(Store)
async def test_rooms_go_back_also_where_the_store_has_a_lower_revision(pool: Setting) -> None:
    await pool.a.join_settled("standup")
    await pool.rotate("green", window=1e6)
    await asyncio.sleep(0.1)
    goes_away(pool)
    die(pool, "red", "green")
    steps(pool, "blue")
    await asyncio.sleep(1)
    there = await pool.a.join_settled("standup")
    assert there.server == "blue"

    live(pool)
    await comes_back(pool)
    steps(pool, None)
    await asyncio.sleep(1)
    assert there.moves == [at("red")]
    assert await pool.store.placement("standup") == at("red")


@scene(Store)
async def test_rooms_go_back_also_where_somebody_joined_all_the_time(pool: Setting) -> None:
    await pool.a.join_settled("standup")
    await pool.rotate("green", window=1e6)
    await asyncio.sleep(0.1)
    goes_away(pool)
    with pool.a.rooms.joining("standup"):
        die(pool, "red", "green")
        steps(pool, "blue")
        await asyncio.sleep(1)
        there = await pool.a.join_settled("standup")
    assert there.server == "blue"

    live(pool)
    await comes_back(pool)
    steps(pool, None)
    await asyncio.sleep(1)
    assert there.moves == [at("red")]


@scene(Store)
async def test_rooms_begun_in_a_step_go_to_the_active_server_when_it_is_undone(
    pool: Setting,
) -> None:
    goes_away(pool)
    die(pool, "red")
    steps(pool, "green")
    session = await pool.a.join_settled("new")
    live(pool)
    await comes_back(pool)
    steps(pool, None)
    await asyncio.sleep(1)
    assert session.moves == [at("red", room="new")]
    assert await pool.server("new") == "red"


@scene(Store)
async def test_rooms_stay_where_a_step_took_them_when_it_was_confirmed(pool: Setting) -> None:
    first, second = await stepped(pool)
    await comes_back(pool)
    await pool.rotate("green")
    await asyncio.sleep(1)
    assert pool.a.driver.step is pool.b.driver.step is None
    assert first.moves == second.moves == []
    assert await pool.store.placement("standup") == at("green", 2)
    assert await pool.store.rooms() == {"green": 1}


@scene(Store)
async def test_who_came_in_during_a_step_is_waited_for_when_it_was_confirmed(
    pool: Setting,
) -> None:
    goes_away(pool)
    die(pool, "red")
    steps(pool, "green")
    await pool.a.join("new")
    await comes_back(pool)
    await pool.rotate("green")
    await asyncio.sleep(1)
    answer = await pool.store.move("new", "blue", 1_000_000, "somebody else")
    assert isinstance(answer, Settling)


@scene(Store)
async def test_a_store_that_fails_again_keeps_no_room_where_an_undone_step_took_it(
    pool: Setting,
) -> None:
    await pool.a.join_settled("standup")
    await pool.rotate("green", window=1e6)
    await asyncio.sleep(0.1)
    goes_away(pool)
    die(pool, "red", "green")
    steps(pool, "blue")
    await asyncio.sleep(1)
    there = await pool.a.join_settled("standup")
    live(pool)
    await comes_back(pool)
    store_of(pool).failing = {"place"}
    steps(pool, None)
    await asyncio.sleep(0.1)
    assert not pool.a.driver.store_ok
    assert there.moves == []
    await comes_back(pool)
    assert there.moves == [at("red")]


@scene(Store)
async def test_news_of_a_gap_keeps_no_room_where_an_undone_step_took_it(pool: Setting) -> None:
    await pool.a.join_settled("standup")
    await pool.rotate("green", window=1e6)
    await asyncio.sleep(0.1)
    goes_away(pool)
    die(pool, "red", "green")
    steps(pool, "blue")
    await asyncio.sleep(1)
    there = await pool.a.join_settled("standup")
    live(pool)
    await comes_back(pool)
    store_of(pool).slow = 0.5
    steps(pool, None)
    await asyncio.sleep(0)
    pool.a.driver.tell_moved(None)
    await asyncio.sleep(2)
    assert there.moves == [at("red")]


@scene(Unheard)
async def test_a_room_begun_in_a_step_goes_to_the_server_that_is_active_by_now(
    pool: Setting,
) -> None:
    goes_away(pool)
    die(pool, "red")
    pool.a.driver.steps("green")
    session = await pool.a.join_settled("new")
    live(pool)
    store_of(pool).away = False
    await pool.rotate("blue")
    pool.a.driver.store_changes(True)
    pool.a.driver.steps(None)
    await asyncio.sleep(2)
    assert [moved.server for moved in session.moves] == ["blue"]
    assert await pool.server("new") == "blue"


# ---- the store is back, or had a gap ------------------------------------------------------------


@scene(Store)
async def test_the_store_is_told_of_the_rooms_that_were_placed_without_it(pool: Setting) -> None:
    goes_away(pool)
    session = await pool.a.join_settled("standup")
    await comes_back(pool)
    assert await pool.store.placement("standup") == at("red")
    assert await pool.store.rooms() == {"red": 1}
    assert session.moves == []
    session.leave()
    await asyncio.sleep(0.1)
    assert await pool.store.rooms() == {}


@scene(Store)
async def test_rooms_that_others_moved_meanwhile_are_followed(pool: Setting) -> None:
    session = await pool.a.join_settled("standup")
    pool.a.driver.store_changes(False)
    await pool.rotate("green")
    await pool.store.move("standup", "green", 2, "b", force=True)
    pool.a.driver.store_changes(True)
    await asyncio.sleep(0.1)
    assert session.moves == [at("green", 2)]


async def seconds_of(join: Awaitable[object]) -> float:
    loop = asyncio.get_running_loop()
    since = loop.time()
    await join
    return loop.time() - since


@scene(Store)
async def test_after_a_gap_joins_of_unplaced_rooms_wait_a_second(pool: Setting) -> None:
    await pool.store.place("placed", "blue", 1)
    await pool.a.join_settled("held")
    pool.a.driver.tell_moved(None)  # of the beginning of the watch
    assert await seconds_of(pool.a.join("one")) < 0.1
    pool.a.driver.tell_moved(None)
    assert await seconds_of(pool.a.join("placed")) < 0.1
    assert await seconds_of(pool.a.join("held")) < 0.1
    assert await seconds_of(pool.a.join("two")) == pytest.approx(1.0, abs=0.05)
    assert await seconds_of(pool.a.join("three")) < 0.1


@scene(Store)
async def test_after_a_gap_a_lost_placement_is_told_before_others_place_the_room(
    pool: Setting,
) -> None:
    await pool.store.place("standup", "blue", 1)
    await pool.a.join_settled("standup")
    for process in (pool.a, pool.b):
        process.driver.tell_moved(None)
    await asyncio.sleep(0.1)
    store_of(pool).forget()
    pool.b.driver.tell_moved(None)
    joining = asyncio.ensure_future(pool.b.join("standup"))
    await asyncio.sleep(0.5)  # the other process hears of the gap a little later
    pool.a.driver.tell_moved(None)
    assert (await joining).server == "blue"


@scene(Store)
async def test_the_return_of_the_store_is_a_gap(pool: Setting) -> None:
    goes_away(pool)
    store_of(pool).away = False
    pool.a.driver.store_changes(True)
    assert await seconds_of(pool.a.join("standup")) == pytest.approx(1.0, abs=0.05)


# ---- a store without placements -----------------------------------------------------------------


class Own(Store):
    """Keeps no placements that others see."""

    @property
    def keeps_placements(self) -> bool:
        return False

    async def place(self, room: str, server: str, revision: int) -> Placement | Stale:
        raise AssertionError("a store that keeps no placements was asked to place a room")


@scene(Own)
async def test_servers_are_asked_only_within_a_minute_of_a_rotation(pool: Setting) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Who looks for rooms that others moved, by chance while somebody is in one, asks as well.
        patch.setattr("livekit_pool.rooms.live.MENDS", 1e6)
        await asked_only_within_a_minute(pool)


async def asked_only_within_a_minute(pool: Setting) -> None:
    await asyncio.sleep(70)
    await pool.a.join_settled("early")
    assert pool.a.driver.asked == 0

    document = await rotate_now(pool, "green", window=30.0)
    assert document.last_rotation == pytest.approx(asyncio.get_running_loop().time(), abs=0.2)
    pool.b.driver.having = {"red": {"standup"}}
    asked = pool.b.driver.asked
    await in_and_out(pool.b, "other")
    assert pool.b.driver.asked == asked + 1
    await asyncio.sleep(85)
    await in_and_out(pool.b, "within")
    assert pool.b.driver.asked == asked + 2
    await asyncio.sleep(10)
    assert (await pool.b.join("standup")).server == "green"
    assert pool.b.driver.asked == asked + 2


@scene(Own)
async def test_without_placements_each_process_moves_its_own_sessions(pool: Setting) -> None:
    first, second = await pool.a.join_settled("standup"), await pool.b.join_settled("standup")
    await pool.rotate("green")
    await asyncio.sleep(0.1)
    assert first.moves == second.moves == [at("green", 2)]


async def in_and_out(process: Process, room: str) -> None:
    """Join the active server, and leave: who stays is looked for again and again."""
    session = await process.join_settled(room)
    assert session.server == "green"
    session.leave()


async def rotate_now(pool: Setting, to: str, *, window: float) -> Document:
    """A rotation at the time that it is."""
    now = asyncio.get_running_loop().time()
    await pool.rotate(to, window=window, now=now)
    await asyncio.sleep(0.1)
    return pool.a.driver.document


# ---- what clients and servers know better -------------------------------------------------------


@scene(Store)
async def test_without_the_store_a_newer_token_tells_where_a_room_went(pool: Setting) -> None:
    before = await pool.a.join_settled("standup")
    goes_away(pool)
    assert await pool.a.rooms.resolve("standup", at("green", 5)) == at("green", 5)
    assert before.moves == [at("green", 5)]


@scene(Store)
async def test_with_the_store_no_token_tells_where_a_room_is(pool: Setting) -> None:
    session = await pool.a.join_settled("standup")
    assert await pool.a.rooms.resolve("standup", at("green", 5)) == at("red")
    assert session.moves == []


@scene(Store)
async def test_a_room_on_two_servers_is_made_whole_without_the_store(pool: Setting) -> None:
    await pool.store.place("standup", "green", 1)
    session = await pool.a.join_settled("standup")
    goes_away(pool)
    pool.a.driver.having = {"red": {"standup"}}
    await asyncio.sleep(25)
    assert session.moves == []  # it may be on its way to where everybody else is
    pool.a.driver.having["green"] = {"standup"}
    await asyncio.sleep(1.5 * MENDS + 1)  # the longest pause, and some more
    assert session.moves == [at("red")]


@scene(Store)
async def test_a_join_under_way_does_not_count_if_its_room_was_found_elsewhere(
    pool: Setting,
) -> None:
    await pool.store.place("standup", "green", 1)
    session = await pool.a.join_settled("standup")
    goes_away(pool)
    with pool.a.rooms.joining("standup") as room:
        placement = await pool.a.rooms.resolve("standup")
        pool.a.driver.having = {"red": {"standup"}, "green": {"standup"}}
        await asyncio.sleep(20)
        assert session.moves == [at("red")]
        assert not await pool.a.rooms.confirm(room, placement, 10.0)


async def without_document(pool: Setting) -> Process:
    """A process that started with the store away."""
    process = Process(pool.store, "c")
    process.driver.store_changes(False)
    process.rooms.start()
    return process


@scene(Store)
async def test_without_a_document_only_those_who_return_are_served(pool: Setting) -> None:
    store_of(pool).away = True
    process = await without_document(pool)
    with pytest.raises((NoAnswer, StoreUnavailable)):
        await process.rooms.resolve("standup")
    with process.rooms.joining("standup") as room:
        placement = await process.rooms.resolve("standup", at("blue", 4))
        assert placement == at("blue", 4)
        assert await process.rooms.confirm(room, placement, 10.0)
        with pytest.raises((NoAnswer, StoreUnavailable)):
            await process.rooms.resolve("standup", at("a server of another list", 4))
        await asyncio.sleep(60)
    await process.driver.stop()
