"""Limits, keys and stops of real servers, as these enforce them themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from livekit import api, rtc
from websockets.exceptions import InvalidStatus

from livekit_pool.local import LocalServer
from tests.real.call import Participant, make_token
from tests.real.injector import Injector, joins, method
from tests.real.meeting import meeting
from tests.real.pool_process import PoolProcess
from tests.real.roster import only_on, roster
from tests.real.signal_client import SignalClient, SignalClients
from tests.real.until import until
from tests.stores.redis_server import RedisServer

ROOM = "standup"


async def role(pool: PoolProcess, name: str) -> str:
    """The role in which status shows a server."""
    servers = (await pool.status())["servers"]
    return str(next(each["role"] for each in servers if each["name"] == name))


async def all_up(pool: PoolProcess) -> None:
    """Wait until the pool has seen all servers."""

    async def seen() -> bool:
        return {each["health"] for each in (await pool.status())["servers"]} == {"up"}

    await until(seen, seconds=5, what="all servers are up")


# ---- a node that is full ------------------------------------------------------------------------


@pytest.fixture
async def small_and_large(
    tmp_path: Path, livekit_program: Path
) -> AsyncIterator[list[LocalServer]]:
    """Red takes no more joins as soon as one track is published; green has no limit."""
    async with AsyncExitStack() as stack:
        servers = [
            LocalServer(
                "red",
                program=livekit_program,
                log=tmp_path / "red.log",
                settings={"limit": {"num_tracks": 1}},
            ),
            LocalServer("green", program=livekit_program, log=tmp_path / "green.log"),
        ]
        for server in servers:
            await stack.enter_async_context(server)
        yield servers


async def test_a_node_that_is_full_is_left_by_everybody(
    tmp_path: Path, small_and_large: list[LocalServer]
) -> None:
    red, _ = small_and_large
    async with (
        PoolProcess(tmp_path, small_and_large) as pool,
        Participant("alice") as alice,
        Participant("bob") as bob,
    ):
        await all_up(pool)
        await alice.join(pool.url, pool.token(ROOM, "alice"), audio=True)
        await only_on(small_and_large, "red", {ROOM: {"alice"}})
        await full(red)

        await bob.join(pool.url, pool.token(ROOM, "bob"))

        await alice.meets(bob, seconds=15)
        await bob.meets(alice, seconds=15)
        await bob.hears(alice)
        await only_on(small_and_large, "green", {ROOM: {"alice", "bob"}})
        (rotation,) = await pool.rotations()
        assert (rotation["to"], rotation["cause"]) == ("green", "connection_limit")
        assert rotation["reason"] == "a join was refused with HTTP 503: node full"
        assert await role(pool, "red") == "cooling"
        assert alice.count("disconnected") == bob.count("disconnected") == 0


async def full(server: LocalServer) -> None:
    """Wait until ``server`` refuses joins; it looks at its figures each 2 s."""
    token = make_token(server.key, server.secret, room="elsewhere", identity="nobody")
    url = f"{server.url.replace('ws', 'http', 1)}/rtc/validate?access_token={token}"

    async def refuses() -> bool:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status == 503

    await until(refuses, seconds=10, what="the node is full")


# ---- a room that is full ------------------------------------------------------------------------


async def test_a_full_room_is_not_a_full_server(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    async with AsyncExitStack() as stack:
        red = await stack.enter_async_context(Injector(livekit_servers[0].port))
        pool = await stack.enter_async_context(
            PoolProcess(
                tmp_path,
                livekit_servers,
                # The injector is in this process, which has eight SDKs to run.
                settings={"LIVEKIT_SERVERS_0_URL": red.url, "LIVEKIT_POOL_PROBE_TIMEOUT": "3"},
            )
        )
        alice, carol = [
            await stack.enter_async_context(Participant(name)) for name in ("alice", "carol")
        ]
        await all_up(pool)
        async with api.LiveKitAPI(pool.url, pool.key, pool.secret) as lk:
            await lk.room.create_room(api.CreateRoomRequest(name="pair", max_participants=1))
        await alice.join(pool.url, pool.token("pair", "alice"))
        # What it says without a pool.
        lone = Participant("dora")
        direct = livekit_servers[0]
        token = make_token(direct.key, direct.secret, room="pair", identity="dora")
        with pytest.raises(rtc.ConnectError) as wanted:
            await lone.join(direct.url, token)
        began, before = time.monotonic(), len(red.seen)

        crowd = [Participant(f"bob{number}") for number in range(8)]
        refused = await asyncio.gather(
            *(who.join(pool.url, pool.token("pair", who.identity)) for who in crowd),
            return_exceptions=True,
        )

        assert [str(each) for each in refused] == [str(wanted.value)] * 8
        took = time.monotonic() - began
        asked = [
            request for request in red.seen[before:] if method("ListParticipants")(request.path)
        ]
        tried = [request for request in red.seen[before:] if joins(request.path)]
        print(f"{len(tried)} joins refused in {took:.1f} s, {len(asked)} questions")
        # The SDK tries four times. None is asked again, but where the answer took too long: then
        # all are, once, and each worker looks for itself.
        assert 4 * 8 <= len(tried) <= 5 * 8 + 2
        # One question a second of each process, and one more where one came too early.
        assert len(asked) <= 2 * 2 * (took + 1)

        await carol.join(pool.url, pool.token("other", "carol"))
        await only_on(livekit_servers, "red", {"pair": {"alice"}, "other": {"carol"}})
        assert await pool.rotations() == []
        assert await role(pool, "red") == "active"


# ---- what one client does wrong, and the server answers with 500 --------------------------------


async def test_a_client_with_too_many_attributes_moves_nobody(
    tmp_path: Path, livekit_program: Path
) -> None:
    async with AsyncExitStack() as stack:
        servers = [
            LocalServer(
                name,
                program=livekit_program,
                log=tmp_path / f"{name}.log",
                settings={"limit": {"max_attributes_size": 64}},
            )
            for name in ("red", "green")
        ]
        for server in servers:
            await stack.enter_async_context(server)
        pool = await stack.enter_async_context(PoolProcess(tmp_path, servers))
        bob = await stack.enter_async_context(Participant("bob"))
        await all_up(pool)
        await bob.join(pool.url, pool.token(ROOM, "bob"))
        with pytest.raises(rtc.ConnectError) as wanted:
            await Participant("mallory").join(
                servers[0].url, overloaded(servers[0].key, servers[0].secret)
            )

        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(rtc.ConnectError) as refused:
                await Participant("mallory").join(pool.url, overloaded(pool.key, pool.secret))
            print(f"refused after {time.monotonic() - began:.2f} s: {refused.value}")
            assert str(refused.value) == str(wanted.value)

        assert "500" in str(wanted.value)
        assert await pool.rotations() == []
        await pool.logs("Clients' reports dismissed server=red")
        await only_on(servers, "red", {ROOM: {"bob"}})
        assert bob.count("reconnecting") == 0


def overloaded(key: str, secret: str) -> str:
    """A token with more attributes than the servers take, to which 1.13.5 answers 500."""
    return (
        api.AccessToken(key, secret)
        .with_identity("mallory")
        .with_attributes({"much": "x" * 100})
        .with_grants(api.VideoGrants(room_join=True, room=ROOM))
        .to_jwt()
    )


# ---- a key that was revoked ---------------------------------------------------------------------


async def test_a_revoked_key_is_left_until_the_configuration_changes(
    tmp_path: Path, livekit_servers: list[LocalServer], livekit_program: Path
) -> None:
    # The same server with another key, at the same address from one moment to the next.
    rekeyed = LocalServer("red", program=livekit_program, log=tmp_path / "rekeyed.log")
    rekeyed.key = "key-new"
    async with rekeyed, Injector(livekit_servers[0].port) as red:
        pool = PoolProcess(
            tmp_path,
            livekit_servers,
            workers=1,  # which has seen green when status says so, and does not pass it by
            settings={
                "LIVEKIT_SERVERS_0_URL": red.url,
                "LIVEKIT_POOL_COOL_DOWN_MAX": "5",
            },
        )
        async with pool, Participant("alice") as alice:
            await all_up(pool)
            red.behind = rekeyed.port

            await alice.join(pool.url, pool.token(ROOM, "alice"))

            await only_on(livekit_servers, "green", {ROOM: {"alice"}})
            (rotation,) = await pool.rotations()
            assert (rotation["to"], rotation["cause"]) == ("green", "credentials")
            await pool.logs("LiveKit server refuses our key.*server=red")
            assert "eyJ" not in str(rotation)
            await never_chosen(pool)
            assert await role(pool, "red") == "misconfigured"

            # Corrected.
            pool.settings |= {
                "LIVEKIT_SERVERS_0_KEY": rekeyed.key,
                "LIVEKIT_SERVERS_0_SECRET": rekeyed.secret,
            }
            assert await pool.stop() == 0
            await pool.start()
            await chosen_again(pool)
            assert not pool.leaks()


async def never_chosen(pool: PoolProcess) -> None:
    """Rotate on and on, beyond the end of red's cool-down."""

    async def cool_down_over() -> bool:
        servers = (await pool.status())["servers"]
        return next(each["cool_down_until"] is None for each in servers if each["name"] == "red")

    await until(cool_down_over, seconds=10, what="red's cool-down is over")
    for target in ("blue", "green", "blue", "green"):
        await pool.rotate("on and on")
        assert (await pool.rotations())[0]["to"] == target


async def chosen_again(pool: PoolProcess) -> None:
    async def standing_by() -> bool:
        return await role(pool, "red") == "standby"

    await until(standing_by, seconds=15, what="red is one of several again")
    await pool.rotate("back", to="red")
    assert (await pool.rotations())[0]["to"] == "red"


# ---- stops --------------------------------------------------------------------------------------


async def test_a_server_that_is_asked_to_stop_goes_on_and_one_that_is_stopped_is_left(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    red = livekit_servers[0]
    async with meeting(pool) as call, Participant("carol") as carol:
        await call.settled()

        await red.ask_to_stop()

        # It says OK and takes joins as before, says nothing to anybody, and does not end.
        await carol.join(pool.url, pool.token("other", "carol"))
        await only_on(livekit_servers, "red", {ROOM: {"alice", "bob"}, "other": {"carol"}})
        await call.runs()
        await probed(pool)
        assert await pool.rotations() == []
        assert red.running
        assert call.alice.count("reconnecting") == call.bob.count("reconnecting") == 0
        await carol.leave()

        await red.terminate()

        # That its Leave becomes RECONNECT, test_sessions shows. The Python SDK itself gives up at
        # times, when its data channels close before it has read that Leave.
        (rotation,) = await until(pool.rotations, seconds=10, what="the stopped server is left")
        assert (rotation["from"], rotation["to"], rotation["cause"]) == ("red", "green", "down")


async def probed(pool: PoolProcess) -> None:
    """Wait for three more probes of red that passed."""
    times = set()

    async def thrice() -> bool:
        servers = (await pool.status())["servers"]
        probe = next(each["last_probe"] for each in servers if each["name"] == "red")
        if probe["outcome"] == "passed":  # one that is late means nothing
            times.add(probe["at"])
        return len(times) > 3

    await until(thrice, seconds=10, what="three probes passed")


# ---- a maximum that the operator sets ------------------------------------------------------------


@pytest.mark.parametrize(
    "store", ["sqlite", pytest.param("redis", marks=pytest.mark.needs("redis"))]
)
async def test_of_a_crowd_before_several_workers_no_more_get_in_than_may(
    tmp_path: Path, livekit_servers: list[LocalServer], store: str
) -> None:
    """No worker waits for the others' next heartbeat to know how many they have let in."""
    red, most, came = livekit_servers[0], 6, 18
    settings = {"LIVEKIT_SERVERS_0_MAX_PARTICIPANTS": str(most)}
    async with AsyncExitStack() as stack:
        if store == "redis":
            redis = RedisServer(tmp_path / "redis")
            stack.callback(redis.kill)
            settings["LIVEKIT_POOL_STORE"] = redis.url
        pool = PoolProcess(tmp_path, [red], workers=3, settings=settings)
        await stack.enter_async_context(pool)
        await all_up(pool)
        clients = await stack.enter_async_context(SignalClients())
        for crowd in range(3):
            outside = [
                clients(pool.url, pool.token(f"room{number % 5}", f"p{crowd}-{number}"))
                for number in range(came)
            ]
            inside: list[SignalClient] = []
            while len(inside) < most:  # those who hear 503 try again, as SDKs do
                answers = await asyncio.gather(
                    *(who.join() for who in outside), return_exceptions=True
                )
                refused = [isinstance(answer, InvalidStatus) for answer in answers]
                assert not any(
                    isinstance(answer, BaseException) and not no
                    for answer, no in zip(answers, refused, strict=True)
                ), answers
                inside += [who for who, no in zip(outside, refused, strict=True) if not no]
                outside = [who for who, no in zip(outside, refused, strict=True) if no]
                print(f"{store}: {len(inside)} of {most} let in, {len(outside)} not")
                assert len(inside) <= most
            assert sum(map(len, (await roster(red)).values())) == most
            for who in inside:
                await who.say_goodbye()
                await who.ends()
            await until(partial(is_empty, pool), seconds=10, what="all have left")


async def is_empty(pool: PoolProcess) -> bool:
    """Whether the pool counts nobody."""
    (server,) = (await pool.status())["servers"]
    return int(server["participants"]) == 0
