"""
The store is away: cut off from one machine or from all, in either direction, or from the start.

The calls go on. Only a server that is confirmed dead is left, provisionally, and when the store
is back there is one truth again.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import jwt
import pytest
from livekit import api

from livekit_pool.local import LocalServer
from tests.real.call import Participant
from tests.real.events import events_of
from tests.real.machines import SECRET, Machines, machines
from tests.real.test_machines import settled
from tests.real.until import until
from tests.stores.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.needs("redis", "haproxy"), pytest.mark.timeout(150)]


async def refuse(proxy: TcpProxy) -> None:
    await proxy.refuse()


async def black_hole(proxy: TcpProxy) -> None:
    proxy.black_hole()


async def lose_answers(proxy: TcpProxy) -> None:
    proxy.mute()


async def lose_questions(proxy: TcpProxy) -> None:
    proxy.deafen()


CUTS: dict[str, Callable[[TcpProxy], Awaitable[None]]] = {
    "refused": refuse,
    "black hole": black_hole,
    "answers lost": lose_answers,
    "questions lost": lose_questions,
}


async def heal(proxy: TcpProxy) -> None:
    """Let all pass again, whatever was done to it."""
    proxy.heal()
    await proxy.cut()
    with contextlib.suppress(OSError):
        await proxy.accept()


@pytest.fixture
async def pool(tmp_path: Path, livekit_servers: list[LocalServer]) -> AsyncIterator[Machines]:
    """Two machines."""
    async with machines(tmp_path, livekit_servers, count=2) as pool:
        yield pool


@contextlib.asynccontextmanager
async def people_of(
    pool: Machines, *through: int, room: str = "standup", names: str = "p"
) -> AsyncIterator[list[Participant]]:
    """Participants of one room, each joined through the machine of that number."""
    async with contextlib.AsyncExitStack() as stack:
        people = []
        for number, machine in enumerate(through):
            who = await stack.enter_async_context(Participant(f"{names}{number}"))
            await who.join(pool.pools[machine].url, pool.token(room, who.identity), hear=False)
            people.append(who)
        for who in people:
            who.start_sending()
        yield people


async def meet(people: list[Participant], *, seconds: float = 30) -> None:
    for who in people:
        await who.meets(*(other for other in people if other is not who), seconds=seconds)


async def store_is(pool: Machines, number: int, ok: bool, *, seconds: float = 15) -> None:
    async def seen() -> bool:
        return bool((await pool.pools[number].status())["store"]["ok"]) is ok

    await until(seen, seconds=seconds, what=lambda: f"store ok: {ok}\n{pool.logs()}")


@pytest.mark.parametrize("cut", CUTS)
async def test_a_machine_that_is_cut_off_serves_on(pool: Machines, cut: str) -> None:
    async with people_of(pool, 0, 1) as people:
        await meet(people)
        await settled(people)

        await CUTS[cut](pool.stores[0])
        await store_is(pool, 0, False)

        # Into the room that is there, and into one that is new, through both machines.
        async with people_of(pool, 0, names="late") as late:
            await meet([*people, *late])
            async with people_of(pool, 0, 1, room="new", names="n") as new:
                await meet(new)
        status = await pool.pools[0].status()
        assert (status["active"], status["provisional"]) == ("red", None)
        assert status["store"]["detail"]

        await heal(pool.stores[0])
        await store_is(pool, 0, True)
        await meet(people)
        await pool.room_is_whole("red", 2)
        assert await pool.history() == []
        for who in people:
            assert who.count("disconnected") == 0, who.history()


async def test_what_a_machine_that_is_cut_off_did_not_hear_it_finds_out(pool: Machines) -> None:
    """The others rotate: its participants are found on the other server, and follow."""
    async with people_of(pool, 0, 1) as people:
        await meet(people)
        await settled(people)
        await CUTS["black hole"](pool.stores[0])
        await store_is(pool, 0, False)

        await pool.pools[1].rotate("behind its back", to="blue")

        await meet(people, seconds=40)
        assert (await pool.pools[0].status())["active"] == "red"
        await heal(pool.stores[0])
        await pool.agree_on("blue")
        await meet(people)
        await pool.room_is_whole("blue", 2)
        assert len(await pool.history()) == 1


@pytest.mark.parametrize("cut", ["refused", "black hole"])
async def test_all_step_alike_and_the_step_becomes_one_rotation(
    pool: Machines, livekit_servers: list[LocalServer], cut: str
) -> None:
    async with people_of(pool, 0, 1, 0, 1) as people:
        await meet(people)
        await settled(people)
        for proxy in pool.stores:
            await CUTS[cut](proxy)
        for number in range(2):
            await store_is(pool, number, False)

        async with events_of(pool, 0) as told:
            await livekit_servers[0].kill()
            await pool.step_to("green")
            await meet(people)
            await until(
                lambda: ("state", {"revision": 1, "active": "green", "provisional": True}) in told,
                seconds=5,
                what=lambda: f"the step is told: {told}",
            )
            assert "rotation" not in [name for name, _ in told]

            for proxy in pool.stores:
                await heal(proxy)
            await pool.agree_on("green", seconds=20)
            await until(
                lambda: told[-1][0] == "rotation" or "rotation" in [name for name, _ in told],
                seconds=5,
                what=lambda: f"the rotation is told: {told}",
            )
        await pool.room_is_whole("green", 4)
        await meet(people)
        assert [(r["from"], r["to"], r["cause"]) for r in await pool.history()] == [
            ("red", "green", "down")
        ]
        for who in people:
            assert who.count("disconnected") == 0, who.history()


async def test_a_step_is_undone_if_the_server_is_back_first(
    pool: Machines, livekit_servers: list[LocalServer]
) -> None:
    async with people_of(pool, 0, 1) as people:
        await meet(people)
        await settled(people)
        for proxy in pool.stores:
            await CUTS["refused"](proxy)
        for number in range(2):
            await store_is(pool, number, False)
        await livekit_servers[0].kill()
        await pool.step_to("green")
        await meet(people)
        await livekit_servers[0].start()
        await settled(people)

        for proxy in pool.stores:
            await heal(proxy)

        await pool.agree_on("red", seconds=20)
        await pool.room_is_whole("red", 2)
        await meet(people)
        assert await pool.history() == []
        for one in pool.pools:
            await one.logs("Provisional step undone")


async def test_who_is_cut_off_from_the_store_and_a_server_comes_back(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    """The one case that splits a room; when the network heals, it is whole again."""
    red = livekit_servers[0]
    async with TcpProxy(red.port) as signalling:
        url = {"LIVEKIT_SERVERS_0_URL": f"ws://127.0.0.1:{signalling.port}"}
        async with (
            machines(tmp_path, livekit_servers, count=2, settings={0: url}) as pool,
            people_of(pool, 0, 1) as people,
        ):
            await meet(people)
            await settled(people)

            pool.stores[0].black_hole()
            signalling.black_hole()
            await until(
                lambda: _stepped(pool, 0), seconds=25, what=lambda: f"a step\n{pool.logs()}"
            )
            assert (await pool.pools[1].status())["active"] == "red"

            signalling.heal()
            await heal(pool.stores[0])
            await pool.agree_on("red", seconds=25)
            await pool.room_is_whole("red", 2, seconds=30)
            await meet(people, seconds=30)
            assert await pool.history() == []


async def _stepped(pool: Machines, number: int) -> bool:
    return (await pool.pools[number].status())["provisional"] is not None


async def test_a_pool_starts_without_its_store(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    """It guesses nothing, but who brings a token that tells the server is let in."""
    async with machines(tmp_path, livekit_servers, count=1, start=False) as pool:
        one = pool.pools[0]
        pool.redis.kill()
        one.launch()
        await one.logs("Store does not answer")

        assert await answer(f"{one.http_url}/pool/livez") == (200, None)
        assert (await answer(f"{one.http_url}/pool/readyz"))[0] == 503
        status, retry = await answer(validate_url(pool, pool.token("standup", "new")))
        assert status == 503
        assert retry is not None
        claims = jwt.decode(pool.token("standup", "back"), options={"verify_signature": False})
        claims["livekitPool"] = {"revision": 9, "server": "blue"}
        returning = jwt.encode(claims, SECRET, algorithm="HS256")
        async with Participant("back") as back:
            await back.join(one.url, returning, hear=False)
            async with livekit_room(livekit_servers[2]) as names:
                assert names == {"standup"}

            pool.redis.start()
            await until(
                lambda: _ready(one.http_url), seconds=20, what=lambda: f"ready\n{one.log_end()}"
            )
            await pool.agree_on("red")
            async with people_of(pool, 0, names="new") as new:
                await meet([back, *new])


async def _ready(url: str) -> bool:
    return (await answer(f"{url}/pool/readyz"))[0] == 200


async def answer(url: str) -> tuple[int, str | None]:
    """Status and Retry-After."""
    async with aiohttp.ClientSession() as session, session.get(url) as got:
        return got.status, got.headers.get("Retry-After")


def validate_url(pool: Machines, token: str) -> str:
    return f"{pool.pools[0].http_url}/rtc/validate?access_token={token}"


@contextlib.asynccontextmanager
async def livekit_room(server: LocalServer) -> AsyncIterator[set[str]]:
    """Names of the rooms that ``server`` itself says it has."""
    url = server.url.replace("ws", "http", 1)
    async with api.LiveKitAPI(url, server.key, server.secret) as lk:
        yield {room.name for room in (await lk.room.list_rooms(api.ListRoomsRequest())).rooms}
