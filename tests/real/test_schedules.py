"""Rotations at bad moments: after a join, there and back, before an answer, before the news."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from livekit import api
from livekit.protocol import models, rtc
from websockets.exceptions import InvalidStatus

from livekit_pool.local import LocalServer
from tests.real.call import Participant
from tests.real.pool_process import PoolProcess
from tests.real.proxy import Conversation, Proxy
from tests.real.roster import calls, only_on, roster
from tests.real.signal_client import SignalClient, SignalClients, give_up, server_of
from tests.real.until import until

ROOM = "standup"


@pytest.fixture
async def signals() -> AsyncIterator[SignalClients]:
    """Makes clients that speak LiveKit's signal protocol alone."""
    async with SignalClients() as clients:
        yield clients


@pytest.fixture
async def before_red(livekit_servers: list[LocalServer]) -> AsyncIterator[Proxy]:
    """A proxy in front of the first server, for pools made with `behind`."""
    async with Proxy(livekit_servers[0].port) as proxy:
        yield proxy


def behind(proxy: Proxy, **settings: str) -> dict[str, str]:
    """The settings of a pool that reaches its first server through ``proxy``."""
    return {"LIVEKIT_SERVERS_0_URL": proxy.url, **settings}


async def settled(client: SignalClient) -> SignalClient:
    """
    Let ``client``, which has joined, be settled.

    Without media it never becomes ACTIVE. But whoever resumes was ACTIVE before, as far as the
    gateway can know, and so is settled after a second.
    """
    assert (await client.resume()).kind == "reconnect"
    resumed = time.monotonic()
    # And the store may be told somewhat later.
    await until(lambda: time.monotonic() > resumed + 2, seconds=4, what="two seconds later")
    return client


def only_reconnects(client: SignalClient) -> bool:
    """Whether it was never thrown out: each Leave it got asks it to come back."""
    return all(
        leave.action == rtc.LeaveRequest.RECONNECT and leave.can_reconnect
        for leave in client.leaves
    )


# ---- a Leave right after a join -----------------------------------------------------------------


def active_at(conversation: Conversation) -> int:
    """Where in ``conversation`` the server said that the participant is ACTIVE."""
    sid = ""
    for place, told in enumerate(conversation.told):
        if told.kind == "join":
            sid = told.message.join.participant.sid
        for who in told.message.update.participants:
            if who.sid == sid and who.state == models.ParticipantInfo.ACTIVE:
                return place
    raise AssertionError(f"never ACTIVE: {[told.kind for told in conversation.told]}")


async def test_who_just_joined_is_told_when_it_can_bear_it(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    for delay, target in ((0.0, "green"), (0.02, "blue"), (0.05, "red")):
        async with Proxy(pool.port) as tap, Participant(f"to-{target}") as who:
            begun = time.monotonic()
            token = pool.token(f"room-{target}", who.identity)
            joining = asyncio.create_task(who.join(tap.url, token))
            first = await tap.conversation()
            join = await first.hears("join")
            await asyncio.sleep(delay)
            rotated = time.monotonic()
            await pool.rotate("right after a join", to=target)

            await joining
            connected = time.monotonic() - begun
            leave = await first.hears("leave", seconds=15)
            assert leave.message.leave.action == rtc.LeaveRequest.RECONNECT
            print(f"{delay}: connect() {connected:.2f} s, Leave {leave.at - join.at:.2f} s after")
            # The gateway counts from when it wrote the join, which is a little before it came by.
            assert leave.at - join.at > 0.9
            assert first.told.index(leave) > active_at(first)
            assert leave.at - rotated < 11
            # Hit by a Leave, connect() takes more than 15 s.
            assert connected < 10
            await who.reconnects(since=rotated, seconds=15)
            back = tap.conversations[-1].first("join")
            assert back is not None
            assert server_of(back, livekit_servers) == target
            assert who.count("disconnected") == 0


async def test_who_never_gets_active_is_told_after_ten_seconds(
    pool: PoolProcess, livekit_servers: list[LocalServer], signals: SignalClients
) -> None:
    alice, bob = (signals(pool.url, pool.token(ROOM, name)) for name in ("alice", "bob"))
    joined = await alice.join()
    await pool.rotate("right after a join", to="green")
    rotated = time.monotonic()
    await asyncio.sleep(joined.at + 5 - time.monotonic())
    # The room waits for who is not settled, and who joins meanwhile comes to where it is.
    assert server_of(await bob.join(), livekit_servers) == "red"

    leave = await alice.gets("leave", seconds=10)

    assert leave.at - joined.at > 9.9
    assert leave.at - rotated < 12
    assert server_of(await alice.comes_back(), livekit_servers) == "green"
    # Bob is not settled yet, but his room is elsewhere: what happens to it here is not meant.
    assert bob.leaves == []
    # His worker may be another than the one that moved it, and hears of it within 50 ms.
    await asyncio.sleep(0.5)
    async with calls(livekit_servers[0]) as lk:
        await lk.room.delete_room(api.DeleteRoomRequest(room=ROOM))
    assert server_of(await bob.comes_back(seconds=2), livekit_servers) == "green"
    assert only_reconnects(bob)
    await only_on(livekit_servers, "green", {ROOM: {"alice", "bob"}})


async def test_a_join_not_passed_on_goes_to_the_new_server(
    tmp_path: Path, livekit_servers: list[LocalServer], before_red: Proxy, signals: SignalClients
) -> None:
    async with PoolProcess(tmp_path, livekit_servers, settings=behind(before_red)) as pool:
        alone = signals(pool.url, pool.token("alone", "alice"))
        bob = signals(pool.url, pool.token(ROOM, "bob"))
        carol = signals(pool.url, pool.token(ROOM, "carol"), version=1)
        await bob.join()
        await bob.resume()  # and so he is settled in a second: until then his room stays
        before = len(before_red.conversations)
        before_red.hold()
        joins = [asyncio.create_task(who.join()) for who in (alone, carol)]
        held = [await before_red.conversation(before + number) for number in (0, 1)]
        await until(lambda: all(each.answered for each in held), seconds=5, what="both answered")

        await pool.rotate("while they join", to="green")

        # The old server's answer is still kept back: nobody has to wait for it. Nor for each
        # other: Carol's room moves when Bob is settled.
        for join in joins:
            assert server_of(await join, livekit_servers) == "green"
        assert alone.leaves == carol.leaves == []
        before_red.release()
        # With the answer the old server is told goodbye.
        await until(lambda: all(each.over for each in held), seconds=2, what="the old ones ended")
        assert server_of(await bob.comes_back(), livekit_servers) == "green"
        await only_on(livekit_servers, "green", {"alone": {"alice"}, ROOM: {"bob", "carol"}})


# ---- a move back within two seconds -------------------------------------------------------------


async def test_moved_back_before_anybody_came_back(
    tmp_path: Path, livekit_servers: list[LocalServer], signals: SignalClients
) -> None:
    # One worker: another would hear of the second rotation some 50 ms after the first joins.
    async with PoolProcess(tmp_path, livekit_servers, workers=1) as pool:
        people = [
            signals(pool.url, pool.token(ROOM, f"p{number}"), version=number % 2)
            for number in range(4)
        ]
        for who in people:
            await who.join()
        await asyncio.gather(*(settled(who) for who in people))

        await pool.rotate("there", to="green")
        await asyncio.gather(*(who.gets("leave", seconds=2) for who in people))
        await pool.rotate("and back", to="red")
        # At once, and with the old connections open: the old server still has the old participants,
        # and throws them out as duplicates.
        joined = await asyncio.gather(*(who.join() for who in people))

        assert {server_of(each, livekit_servers) for each in joined} == {"red"}
        sids = {
            who.identity: each.message.join.participant.sid
            for who, each in zip(people, joined, strict=True)
        }
        # Longer than anything of the old connections lives.
        done = time.monotonic()
        await until(lambda: time.monotonic() > done + 2, seconds=3, what="two seconds later")
        assert {server.name: await roster(server) for server in livekit_servers} == {
            "red": {ROOM: sids},
            "green": {},
            "blue": {},
        }
        for who in people:
            assert len(who.leaves) == 1
            assert only_reconnects(who), who
            # Upstream's messages stop with the Leave.
            assert [told.kind for told in who.before[-1]][-2:] == ["refresh_token", "leave"]
            assert who.ended is None


async def test_there_and_back_with_media(
    pool: PoolProcess, livekit_servers: list[LocalServer]
) -> None:
    red, green, _ = livekit_servers
    async with (
        Proxy(pool.port) as tap,
        Participant("alice") as alice,
        Participant("bob") as bob,
    ):
        for who in (alice, bob):
            await who.join(tap.url, pool.token(ROOM, who.identity), audio=True)
        await alice.hears(bob)
        await bob.hears(alice)
        await pool.rotate("there", to="green")
        for conversation in tap.conversations[:2]:
            await conversation.hears("leave", seconds=15)
        there = [await tap.conversation(number) for number in (2, 3)]
        for conversation in there:
            assert server_of(await conversation.hears("join"), livekit_servers) == "green"
        # Without a goodbye of the gateway's they would stay there for twenty seconds.
        await until(lambda: gone(red), seconds=5, what="nobody stays on red")

        await pool.rotate("and back", to="red")

        for conversation in there:
            await conversation.hears("leave", seconds=15)
        await until(lambda: gone(green), seconds=5, what="nobody stays on green")
        await alice.meets(bob, seconds=15)
        await bob.meets(alice, seconds=15)
        await bob.hears(alice, seconds=15)
        await only_on(livekit_servers, "red", {ROOM: {"alice", "bob"}})
        assert alice.count("disconnected") == bob.count("disconnected") == 0
        assert len(tap.conversations) == 6


async def gone(server: LocalServer) -> bool:
    return await roster(server) == {}


# ---- a join answered late -----------------------------------------------------------------------


async def test_a_join_is_held_for_four_and_a_half_seconds_and_leaves_no_ghost(
    tmp_path: Path, livekit_servers: list[LocalServer], before_red: Proxy, signals: SignalClients
) -> None:
    async with PoolProcess(tmp_path, livekit_servers, settings=behind(before_red)) as pool:
        alice, bob, carol = (
            signals(pool.url, pool.token(ROOM, name)) for name in ("alice", "bob", "carol")
        )
        before_red.hold()
        begun = time.monotonic()
        with pytest.raises(InvalidStatus) as refused:
            await alice.join()
        took = time.monotonic() - begun
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        print(f"refused after {took:.2f} s")
        assert 4.4 < took < 5.0

        # And who does not wait so long is not let in behind its back either.
        joining = asyncio.create_task(bob.join())
        held = await before_red.conversation(1)
        await until(lambda: held.answered, seconds=5, what="the server has answered")
        assert set((await roster(livekit_servers[0]))[ROOM]) == {"alice", "bob"}
        await give_up(joining)

        before_red.release()
        await until(lambda: held.over, seconds=2, what="the server is told goodbye")
        assert server_of(await carol.join(), livekit_servers) == "red"
        await only_on(livekit_servers, "red", {ROOM: {"carol"}})
        assert await pool.rotations() == []


async def test_a_join_given_up_while_the_server_works_on_it_leaves_no_ghost(
    tmp_path: Path, livekit_servers: list[LocalServer], before_red: Proxy, signals: SignalClients
) -> None:
    red = livekit_servers[0]
    async with PoolProcess(tmp_path, livekit_servers, settings=behind(before_red)) as pool:
        # Cut off while it makes the participant, LiveKit keeps it in 1 of 20 to 40 tries.
        people = [signals(pool.url, pool.token(ROOM, f"p{number}")) for number in range(100)]
        await red.freeze()
        joins = [asyncio.create_task(who.join()) for who in people]
        await before_red.conversation(len(people) - 1)
        for join in joins:
            await give_up(join)
        await red.thaw()

        # The server comes to each of them, and nobody is left.
        await until(
            lambda: all(each.answered and each.over for each in before_red.conversations),
            seconds=10,
            what="each join was answered, and ended",
        )
        await until(lambda: gone(red), seconds=2, what="nobody stays")


# ---- a process that hears late ------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two_pools(
    folder: Path, servers: list[LocalServer], proxy: Proxy
) -> AsyncIterator[tuple[PoolProcess, PoolProcess]]:
    """Two `livekit-pool serve` of one pool, with one worker each."""
    shared = behind(proxy, LIVEKIT_POOL_STORE=f"sqlite:///{folder}/shared.db")
    pools = []
    for name in ("here", "late"):
        (folder / name).mkdir()
        pools.append(PoolProcess(folder / name, servers, workers=1, settings=shared))
    here, late = pools
    late.secret = here.secret
    async with here, late:
        yield here, late


@contextlib.asynccontextmanager
async def frozen(pool: PoolProcess) -> AsyncIterator[None]:
    """SIGSTOP the workers of ``pool`` for as long as this lasts."""
    workers = pool.workers()
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)


async def test_an_answer_that_comes_before_the_news_of_the_move(
    tmp_path: Path, livekit_servers: list[LocalServer], before_red: Proxy, signals: SignalClients
) -> None:
    async with two_pools(tmp_path, livekit_servers, before_red) as (here, late):
        bob = signals(here.url, here.token(ROOM, "bob"))
        await bob.join()
        await settled(bob)
        alice = signals(late.url, late.token(ROOM, "alice"))
        number = len(before_red.conversations)
        before_red.hold()
        joining = asyncio.create_task(alice.join())
        held = await before_red.conversation(number)
        await until(lambda: held.answered, seconds=5, what="the old server has answered")
        async with frozen(late):
            await here.rotate("while the other process sleeps", to="green")
            await bob.gets("leave")
            before_red.release()
            await held.hears("join")

        assert server_of(await joining, livekit_servers) == "green"
        assert server_of(await bob.comes_back(), livekit_servers) == "green"
        assert alice.leaves == []
        await only_on(livekit_servers, "green", {ROOM: {"alice", "bob"}})


@pytest.mark.parametrize("seconds", [0.8, 3.0])
async def test_a_process_that_hears_late(
    tmp_path: Path,
    livekit_servers: list[LocalServer],
    before_red: Proxy,
    signals: SignalClients,
    seconds: float,
) -> None:
    async with two_pools(tmp_path, livekit_servers, before_red) as (here, late):
        bob = signals(here.url, here.token(ROOM, "bob"))
        dave = signals(late.url, late.token(ROOM, "dave"))
        grace = signals(late.url, late.token("lobby", "grace"))
        for who in (bob, dave, grace):
            assert server_of(await who.join(), livekit_servers) == "red"
        # The lobby keeps its placement, and nobody is in it who could move it.
        await grace.say_goodbye()
        await asyncio.gather(settled(bob), settled(dave))
        new = {
            # Sent while it sleeps, and read by it first thing when it goes on.
            room: signals(late.url, late.token(room, f"new-in-{room}"))
            for room in ("lobby", ROOM, "nowhere")
        }
        async with frozen(late):
            stopped = time.monotonic()
            await here.rotate("while the other process sleeps", to="green")
            joining = {room: asyncio.create_task(who.join()) for room, who in new.items()}
            assert server_of(await bob.comes_back(), livekit_servers) == "green"
            await asyncio.sleep(stopped + seconds - time.monotonic())

        came_to = {room: server_of(await join, livekit_servers) for room, join in joining.items()}
        assert came_to[ROOM] == came_to["nowhere"] == "green"
        # The lobby is where its placement says; who slept so long reads before it takes that.
        assert came_to["lobby"] == "green" or seconds < 2
        if came_to["lobby"] == "red":
            await new["lobby"].comes_back()
        assert server_of(await dave.comes_back(seconds=5), livekit_servers) == "green"
        people = {room: {f"new-in-{room}"} for room in new}
        people[ROOM] |= {"bob", "dave"}
        await only_on(livekit_servers, "green", people)
        # It does not act on what it remembers: no rotation of its own.
        assert [rotation["to"] for rotation in await late.rotations()] == ["green"]
        assert late.log_text().count("LiveKit server rotated") == 0
