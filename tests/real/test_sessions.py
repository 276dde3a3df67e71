"""What clients are told: news of a move, fresh tokens, no to a resume, and who is meant to go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from livekit import api
from livekit.protocol import models, rtc

from livekit_pool.local import LocalServer
from tests.real.pool_process import PoolProcess
from tests.real.roster import calls, only_on, roster
from tests.real.signal_client import SignalClient, SignalClients, Told, server_of
from tests.real.until import until

ROOM = "standup"


@pytest.fixture
async def signals() -> AsyncIterator[SignalClients]:
    """Makes clients that speak LiveKit's signal protocol alone."""
    async with SignalClients() as clients:
        yield clients


def verified(pool: PoolProcess, token: str) -> dict[str, Any]:
    """The claims of a token that the pool signed, and that is valid now."""
    claims = jwt.decode(token, pool.secret, algorithms=["HS256"], issuer=pool.key)
    assert claims["exp"] >= time.time() + 500  # LiveKit's own refresh tokens last ten minutes
    return dict(claims)


def check_refused_resume(told: list[Told]) -> None:
    """Nothing but one Leave, as a LiveKit server says it that does not know the session."""
    assert [each.kind for each in told] == ["leave"]
    leave = told[0].message.leave
    assert leave.action == rtc.LeaveRequest.RECONNECT
    assert leave.reason == models.DisconnectReason.STATE_MISMATCH


async def test_the_news_travels_with_the_client(
    pool: PoolProcess, livekit_servers: list[LocalServer], signals: SignalClients
) -> None:
    people = [
        signals(pool.url, pool.token(ROOM, f"v{version}"), version=version) for version in (0, 1)
    ]
    for who in people:
        await who.join()
        await who.gets("refresh_token")
        assert who.location == {"revision": 1, "server": "red"}
        await who.resume()
        # Whoever resumes is sent a fresh token as well.
        await who.gets("refresh_token")
    outdated = [who.token for who in people]

    await pool.rotate("a planned one", to="green")
    joined = await asyncio.gather(*(who.comes_back() for who in people))

    for who in people:
        # The news comes just before the Leave, and after it nothing.
        assert [told.kind for told in who.before[-1]][-2:] == ["refresh_token", "leave"]
        assert who.before[-1][-1].message.leave.reason == models.DisconnectReason.SERVER_SHUTDOWN
        news = verified(pool, who.before[-1][-2].message.refresh_token)
        assert news["livekitPool"] == {"revision": 2, "server": "green"}
    assert {server_of(each, livekit_servers) for each in joined} == {"green"}

    # A resume that was under way meanwhile would now meet the new session under its own name.
    for who, token in zip(people, outdated, strict=True):
        late = signals(pool.url, token, version=int(who.identity[1:]))
        await late.resume()
        await late.ends()
        check_refused_resume(late.told)
        assert late.told[0].message.leave.can_reconnect  # Android goes by this
    for who, each in zip(people, joined, strict=True):
        there = (await roster(livekit_servers[1]))[ROOM]
        assert there[who.identity] == each.message.join.participant.sid
        assert who.ended is None


async def test_a_close_after_the_leave_is_answered_at_once(
    pool: PoolProcess, signals: SignalClients
) -> None:
    # livekit-client joins again only when that has happened. The gateway cuts who does not close;
    # then the code would be 1006.
    alice = signals(pool.url, pool.token(ROOM, "alice"))
    await alice.join()
    await alice.resume()

    await pool.rotate("a planned one", to="green")
    await alice.gets("leave")
    await alice.close()

    assert await alice.ends() == 1000


@pytest.mark.parametrize("version", [0, 1])
async def test_a_resume_of_no_session_is_answered_by_a_leave(
    pool: PoolProcess, signals: SignalClients, version: int
) -> None:
    stranger = signals(pool.url, pool.token(ROOM, "stranger"), version=version)
    await stranger.resume()
    await stranger.ends()
    check_refused_resume(stranger.told)
    assert (await stranger.join()).kind == "join"


async def test_a_resume_is_refused_while_its_server_is_dead(
    pool: PoolProcess, livekit_servers: list[LocalServer], signals: SignalClients
) -> None:
    people = [
        signals(pool.url, pool.token(ROOM, f"v{version}"), version=version) for version in (0, 1)
    ]
    for who in people:
        await who.join()
        await who.gets("refresh_token")
        assert who.location["server"] == "red"
        who.cut()
    await livekit_servers[0].kill()
    for who in people:
        await who.resume()
        await who.ends()
        check_refused_resume(who.told)
        assert server_of(await who.join(), livekit_servers) == await pool.active() != "red"


async def test_fresh_tokens_are_the_pools_and_lose_nothing(
    pool: PoolProcess, livekit_servers: list[LocalServer], signals: SignalClients
) -> None:
    mine = {
        "iss": pool.key,
        "sub": "alice",
        "name": "Alice",
        "exp": int(time.time()) + 3600,
        "video": {"roomJoin": True, "room": ROOM, "canUpdateOwnMetadata": True},
        "attributes": {"seat": "3"},
        # None of these comes back from a LiveKit server.
        "sip": {"call": True},
        "inference": {"perform": True},
        "sha256": "c2hhMjU2",
        "ourOwn": {"tenant": ["a", 1, None]},
    }
    alice = signals(pool.url, jwt.encode(mine, pool.secret, algorithm="HS256"))
    await alice.join()
    await alice.gets("refresh_token")

    fresh = verified(pool, alice.token)
    assert fresh["livekitPool"] == {"revision": 1, "server": "red"}
    for name in ("sub", "name", "attributes", "sip", "inference", "sha256", "ourOwn"):
        assert fresh[name] == mine[name], name
    assert fresh["exp"] >= mine["exp"]
    assert "pool" not in fresh

    # What she may do changes: the newest permissions travel, also in the news of a move.
    await alice.resume()
    async with calls(livekit_servers[0]) as lk:
        permission = models.ParticipantPermission(can_subscribe=True, can_publish=False)
        await lk.room.update_participant(
            api.UpdateParticipantRequest(room=ROOM, identity="alice", permission=permission)
        )
    await until(
        lambda: verified(pool, alice.token)["video"].get("canPublish") is False,
        seconds=5,
        what="a token with the new permission",
    )
    await pool.rotate("a planned one", to="green")
    assert server_of(await alice.comes_back(), livekit_servers) == "green"
    news = verified(pool, alice.before[-1][-2].message.refresh_token)
    assert news["livekitPool"] == {"revision": 2, "server": "green"}
    assert news["video"]["canPublish"] is False
    assert news["ourOwn"] == mine["ourOwn"]
    me = alice.told[0].message.join.participant
    assert me.permission.can_publish is False
    assert dict(me.attributes) == {"seat": "3"}
    # And the new server's tokens carry the rest on.
    await alice.gets("refresh_token")
    assert verified(pool, alice.token)["ourOwn"] == mine["ourOwn"]
    assert not pool.leaks()


async def test_a_servers_shutdown_becomes_a_reconnect(
    pool: PoolProcess, livekit_servers: list[LocalServer], signals: SignalClients
) -> None:
    people = [signals(pool.url, pool.token(ROOM, f"p{number}")) for number in range(4)]
    for who in people:
        await who.join()

    await livekit_servers[0].terminate()

    joined = await asyncio.gather(*(who.comes_back() for who in people))
    for who in people:
        assert [leave.action for leave in who.leaves] == [rtc.LeaveRequest.RECONNECT]
        assert who.leaves[0].can_reconnect
    (rotation,) = await pool.rotations()
    assert (rotation["from"], rotation["cause"]) == ("red", "down")
    assert {server_of(each, livekit_servers) for each in joined} == {rotation["to"]}


async def check_thrown_out(who: SignalClient, reason: models.DisconnectReason) -> None:
    """It was told to go for that reason, in the server's own words, and its connection ends."""
    leave = (await who.gets("leave")).message.leave
    assert leave.action == rtc.LeaveRequest.DISCONNECT
    assert leave.reason == reason
    assert not leave.can_reconnect
    assert await who.ends() == 1000
    assert len(who.leaves) == 1


async def test_who_is_meant_to_go_is_told_so(
    pool: PoolProcess, livekit_servers: list[LocalServer], signals: SignalClients
) -> None:
    red = livekit_servers[0]
    kicked, leaver, first, stays = (
        signals(pool.url, pool.token(ROOM, name)) for name in ("kicked", "leaver", "twin", "stays")
    )
    deleted = signals(pool.url, pool.token("deleted", "member"), version=1)
    for who in (kicked, leaver, first, stays, deleted):
        await who.join()

    async with calls(red) as lk:
        await lk.room.remove_participant(api.RoomParticipantIdentity(room=ROOM, identity="kicked"))
        await check_thrown_out(kicked, models.DisconnectReason.PARTICIPANT_REMOVED)
        await lk.room.delete_room(api.DeleteRoomRequest(room="deleted"))
        await check_thrown_out(deleted, models.DisconnectReason.ROOM_DELETED)

    second = signals(pool.url, pool.token(ROOM, "twin"))
    await second.join()
    await check_thrown_out(first, models.DisconnectReason.DUPLICATE_IDENTITY)

    await leaver.say_goodbye()
    assert await leaver.ends() == 1000
    # The server says the same back; participants without a goodbye stay much longer.
    assert {leave.reason for leave in leaver.leaves} <= {models.DisconnectReason.CLIENT_INITIATED}
    await only_on(livekit_servers, "red", {ROOM: {"twin", "stays"}}, seconds=2)
    assert second.ended is stays.ended is None
    assert second.leaves == stays.leaves == []
    # None of it was a fault of the server.
    assert await pool.rotations() == []
