"""
A changed list of servers, rolled out machine by machine, in a call.

Nobody moves who need not, `status` says at each moment who has what, and a server that not every
machine has is not chosen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from livekit import api

from livekit_pool.core.document import Document
from livekit_pool.local import LocalServer
from livekit_pool.stores import store_from_url
from tests.real.call import Participant
from tests.real.machines import Machines, machines
from tests.real.test_machines import all_meet, nobody_left, settled
from tests.real.until import until

pytestmark = [pytest.mark.needs("redis", "haproxy"), pytest.mark.timeout(150)]

PEOPLE = 3
EVERYBODY = {f"p{number}" for number in range(PEOPLE)}
DIFFER = "Processes have different lists of servers"
SECOND_KEY = ("another-key", "another-secret-that-is-long-enough-0123456789")


class TwoKeys(LocalServer):
    """A server that takes another key too, as one does while its key is changed."""

    def _configuration(self) -> dict[str, object]:
        own = super()._configuration()
        return {**own, "keys": {self.key: self.secret, SECOND_KEY[0]: SECOND_KEY[1]}}


@pytest.fixture
async def servers(tmp_path: Path, livekit_program: Path) -> AsyncIterator[dict[str, LocalServer]]:
    """Three servers, by name; green takes two keys."""
    async with AsyncExitStack() as stack:
        made: dict[str, LocalServer] = {}
        for name in ("red", "green", "blue"):
            kind = TwoKeys if name == "green" else LocalServer
            server = kind(name, program=livekit_program, log=tmp_path / f"{name}.log")
            made[name] = await stack.enter_async_context(server)
        yield made


@asynccontextmanager
async def call_of(pool: Machines, url: str = "") -> AsyncIterator[list[Participant]]:
    """A call of three through the balancer, or at ``url``."""
    async with AsyncExitStack() as stack:
        people = [
            await stack.enter_async_context(Participant(f"p{number}")) for number in range(PEOPLE)
        ]
        for who in people:
            await who.join(url or pool.url, pool.token("standup", who.identity), hear=False)
        people[1].start_sending()
        await all_meet(people)
        await settled(people)
        yield people


async def roll(pool: Machines, number: int, servers: Sequence[LocalServer], **more: str) -> None:
    """Restart the pool of a machine with another list, as an operator does."""
    one = pool.pools[number]
    assert await one.stop() == 0
    one.servers = list(servers)
    one.settings |= more
    await one.start()


async def lists(pool: Machines) -> list[dict[str, Sequence[str]]]:
    """What each machine says of the lists of all: machine -> names of its servers."""
    states = [await one.status() for one in pool.running]
    return [{row["host"]: row["servers"] for row in state["processes"]} for state in states]


async def in_the_middle(pool: Machines, names: Mapping[str, Sequence[str]]) -> None:
    """Wait until each machine says who has which list, and that they differ; the sums are right."""

    async def told() -> bool:
        return all(each == names for each in await lists(pool))

    await until(told, seconds=10, what=lambda: f"all tell of {names}\n{pool.logs()}")
    for number, one in enumerate(pool.pools):
        state = await one.status()
        assert state["lists_differ"] is True
        own = next(row for row in state["processes"] if row["host"] == f"machine{number}")
        assert own["same_list"] is True
        for row in state["processes"]:
            assert row["same_list"] is (row["fingerprint"] == own["fingerprint"])
        everybody = {name for having in names.values() for name in having}
        assert {server["name"] for server in state["servers"]} == everybody
        by_process = [row["participants"] for row in state["processes"]]
        assert sum(server["participants"] for server in state["servers"]) == sum(by_process)
        ours = names[f"machine{number}"]
        unknown = {server["name"] for server in state["servers"] if server["url"] is None}
        assert unknown == everybody - set(ours)
    for one in pool.pools:
        await one.logs(DIFFER)


async def at_the_end(pool: Machines) -> None:
    """Wait until every machine says that all have one list."""

    async def agreed() -> bool:
        states = [await one.status() for one in pool.running]
        return all(
            not state["lists_differ"] and len(state["processes"]) == len(pool.pools)
            for state in states
        )

    await until(agreed, seconds=10, what=lambda: f"all have one list\n{pool.logs()}")


async def stored(pool: Machines) -> Document:
    """The document, as Redis has it."""
    url = f"redis://127.0.0.1:{pool.redis.port}?prefix=machines"
    async with store_from_url(url, names=()) as store:
        document = (await store.load()).document
    assert document is not None
    return document


async def rooms_on(server: LocalServer) -> dict[str, set[str]]:
    """What a server tells itself: the sid of each room, and who is in it."""
    url = server.url.replace("ws", "http", 1)
    async with api.LiveKitAPI(url, server.key, server.secret) as livekit:
        rooms = (await livekit.room.list_rooms(api.ListRoomsRequest())).rooms
        people = [
            await livekit.room.list_participants(api.ListParticipantsRequest(room=room.name))
            for room in rooms
        ]
    return {
        room.sid: {each.identity for each in there.participants}
        for room, there in zip(rooms, people, strict=True)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    A changed list.

    Attributes:
        before, after: names of the servers.
        variables: environment variables that change with it.
        revision: of the document afterwards.
        index, count: of the active server, and of all, as the document has them afterwards.
    """

    before: tuple[str, ...] = ("red", "green", "blue")
    after: tuple[str, ...] = ("red", "green", "blue")
    variables: Mapping[str, str] = field(default_factory=dict)
    revision: int = 2
    index: int = 0
    count: int = 3


CHANGES = {
    "added at the end": Change(before=("red", "green")),
    "added at the beginning": Change(
        before=("red", "green"), after=("blue", "red", "green"), index=1
    ),
    "order turned": Change(after=("blue", "green", "red"), index=2),
    "removed one that is not active": Change(after=("red", "blue"), count=2),
    "key changed": Change(
        variables={
            "LIVEKIT_SERVERS_1_KEY": SECOND_KEY[0],
            "LIVEKIT_SERVERS_1_SECRET": SECOND_KEY[1],
        },
        revision=1,
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_a_changed_list_moves_nobody(
    tmp_path: Path, servers: dict[str, LocalServer], change: Change
) -> None:
    before = [servers[name] for name in change.before]
    after = [servers[name] for name in change.after]
    async with machines(tmp_path, before) as pool, call_of(pool) as people:
        room = await rooms_on(servers["red"])
        assert list(room.values()) == [EVERYBODY]

        for number in range(3):
            await roll(pool, number, after, **change.variables)
            await pool.room_is_whole("red", PEOPLE)
            if number < 2:
                rolled = {f"machine{n}": list(change.after) for n in range(number + 1)}
                others = {f"machine{n}": list(change.before) for n in range(number + 1, 3)}
                await in_the_middle(pool, rolled | others)
                assert (await stored(pool)).revision == 1
        await at_the_end(pool)

        document = await settled_document(pool, change.revision)
        assert (document.active_server, document.active_since) == ("red", 1)
        assert (document.own_index, document.server_count) == (change.index, change.count)
        await all_meet(people)
        nobody_left(people)
        assert await rooms_on(servers["red"]) == room, "it is the same room as before"
        assert await rooms_on(servers["green"]) == await rooms_on(servers["blue"]) == {}
        for one in pool.pools:
            assert await one.rotations() == []
            assert "refuses our key" not in one.log_text()
        assert pool.leaks() == []


async def settled_document(pool: Machines, revision: int) -> Document:
    """Wait until every machine follows ``revision``, and see that nobody writes another one."""

    async def followed() -> bool:
        return {(await one.status())["revision"] for one in pool.pools} == {revision}

    await until(followed, seconds=10, what=lambda: f"all are at {revision}\n{pool.logs()}")
    document = await stored(pool)
    assert document.revision == revision
    return document


async def test_the_active_server_removed_is_left_once_for_one_that_all_have(
    tmp_path: Path, servers: dict[str, LocalServer]
) -> None:
    before = [servers[name] for name in ("red", "green", "blue")]
    after = [servers[name] for name in ("blue", "green")]
    async with machines(tmp_path, before) as pool, call_of(pool) as people:
        await roll(pool, 0, after)
        await pool.agree_on("blue")
        await pool.room_is_whole("blue", PEOPLE)
        for number in (1, 2):
            await roll(pool, number, after)
        await at_the_end(pool)
        await pool.room_is_whole("blue", PEOPLE)
        await all_meet(people)
        nobody_left(people)
        assert await removals(pool) == [("red", "blue", "removed")]
        assert (await stored(pool)).server_count == 2


async def test_the_active_server_stays_while_no_other_is_in_every_list(
    tmp_path: Path, servers: dict[str, LocalServer]
) -> None:
    before = [servers["red"]]
    after = [servers["green"]]
    async with machines(tmp_path, before) as pool, call_of(pool) as people:
        for number in (0, 1):
            await roll(pool, number, after)
            await pool.agree_on("red")
            assert await pool.history() == []
        assert list((await rooms_on(servers["red"])).values()) == [EVERYBODY]
        await roll(pool, 2, after)
        await at_the_end(pool)
        await pool.agree_on("green")
        await pool.room_is_whole("green", PEOPLE, seconds=30)
        await all_meet(people)
        nobody_left(people)
        assert await removals(pool) == [("red", "green", "removed")]


async def removals(pool: Machines) -> list[tuple[str, str, str]]:
    return [(r["from"], r["to"], r["cause"]) for r in await pool.history()]


async def test_a_server_that_not_every_machine_has_is_not_chosen(
    tmp_path: Path, servers: dict[str, LocalServer]
) -> None:
    before = [servers[name] for name in ("red", "green")]
    after = [servers[name] for name in ("red", "blue", "green")]
    # Only the machine that has it sees for itself that the active server is dead.
    late = {n: {"LIVEKIT_POOL_PROBE_INTERVAL": "60"} for n in (1, 2)}
    async with machines(tmp_path, before, settings=late) as pool:
        await roll(pool, 0, after)
        await leave_the_next_server_to_others(pool, servers, after)


async def leave_the_next_server_to_others(
    pool: Machines, servers: Mapping[str, LocalServer], after: Sequence[LocalServer]
) -> None:
    names = {"machine0": [server.name for server in after]}
    async with call_of(pool, pool.pools[0].url) as people:
        await in_the_middle(pool, names | {f"machine{n}": ["red", "green"] for n in (1, 2)})

        await servers["red"].kill()
        await pool.agree_on("green")
        await pool.room_is_whole("green", PEOPLE)
        await all_meet(people)
        nobody_left(people)
        assert await removals(pool) == [("red", "green", "down")]

        with pytest.raises(AssertionError, match=r"409 .*not in the list of every process"):
            await pool.pools[0].rotate(to="blue")
        forced: dict[str, Any] = await pool.pools[0].rotate(to="blue", force=True)
        assert (forced["from"], forced["to"], forced["cause"]) == ("green", "blue", "manual")
