"""Join probes: what a join of our own meets, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from livekit.api import ListParticipantsRequest, ListRoomsRequest
from livekit.protocol import agent, models, rtc

from livekit_pool import tokens
from livekit_pool.core.events import ProbeOutcome
from livekit_pool.local import LocalServer, find_server
from livekit_pool.upstream.join_probe import ROOM, JoinProber, Witness
from tests.real.roster import calls
from tests.real.until import until
from tests.upstream.scripted import Exchange, always, never, response, scripted
from tests.upstream.test_probe import at, unserved

PASSED, REFUSED, SILENT, FAILED, UNAUTHORIZED = (
    ProbeOutcome.PASSED,
    ProbeOutcome.REFUSED,
    ProbeOutcome.SILENT,
    ProbeOutcome.FAILED,
    ProbeOutcome.UNAUTHORIZED,
)


@pytest.fixture
async def joiner() -> AsyncIterator[JoinProber]:
    """A join prober as the pool makes it."""
    async with JoinProber() as joiner:
        yield joiner


class Stay(NamedTuple):
    """What a witness is told."""

    server: str
    sid: str
    joined: float
    at: float


def stayed(stays: list[Stay]) -> Witness:
    """A witness that notes down what it is told."""

    def witness(server: str, *, sid: str, joined: float, at: float) -> None:
        stays.append(Stay(server, sid, joined, at))

    return witness


async def people(server: LocalServer) -> list[str]:
    """Identities in the rooms of probes, by what the server says."""
    async with calls(server) as lk:
        rooms = (await lk.room.list_rooms(ListRoomsRequest())).rooms
        assert all(room.name.startswith(f"{ROOM}-") for room in rooms)
        lists = [
            await lk.room.list_participants(ListParticipantsRequest(room=room.name))
            for room in rooms
        ]
        return [who.identity for listed in lists for who in listed.participants]


async def nobody_is_left(server: LocalServer) -> None:
    """At once: a participant whose goodbye was not heard would stay for 20 s."""

    async def so() -> bool:
        return not await people(server)

    await until(so, seconds=1, what="the probe's participant is gone")


async def room_ends(server: LocalServer) -> None:
    async def gone() -> bool:
        async with calls(server) as lk:
            return not (await lk.room.list_rooms(ListRoomsRequest())).rooms

    await until(gone, seconds=5, what="the probe's room ends")


# ---- a real server ----------------------------------------------------------------------------


@pytest.mark.real
async def test_it_joins_and_leaves_no_ghost(livekit: LocalServer) -> None:
    stays: list[Stay] = []
    began = time.time()
    async with JoinProber(witness=stayed(stays)) as joiner:
        for _ in range(20):
            result = await joiner.probe(livekit.server)
            assert (result.outcome, result.detail) == (PASSED, "let a participant in")
            await nobody_is_left(livekit)
    assert {stay.server for stay in stays} == {"red"}
    assert len({stay.sid for stay in stays}) == len(stays) == 20
    for stay in stays:
        assert stay.sid.startswith("PA_")
        assert began - 1 < stay.joined < stay.at < stay.joined + 5
    await room_ends(livekit)


@pytest.mark.real
async def test_webhooks_tell_of_a_room_and_of_nobody_who_joined(tmp_path: Path) -> None:
    told: list[str] = []

    async def hear(request: web.Request) -> web.Response:
        event = await request.json()
        assert event["room"]["name"].startswith(f"{ROOM}-")
        told.append(event["event"])
        return web.Response()

    async with hooks(hear) as url:
        settings = {"webhook": {"api_key": "key-red", "urls": [url]}}
        async with (
            LocalServer(
                "red", program=find_server(), log=tmp_path / "red.log", settings=settings
            ) as red,
            JoinProber() as joiner,
        ):
            assert (await joiner.probe(red.server)).outcome is PASSED
            await until(lambda: "room_finished" in told, seconds=5, what="the room has finished")
    assert told == ["room_started", "participant_connection_aborted", "room_finished"]


@asynccontextmanager
async def hooks(hear: Any) -> AsyncIterator[str]:
    """A receiver of webhooks; its URL."""
    app = web.Application()
    app.router.add_post("/hook", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


@pytest.mark.real
async def test_it_wakes_no_agent(livekit: LocalServer, joiner: JoinProber) -> None:
    pair = tokens.KeyPair(key=livekit.key, secret=livekit.secret)
    token = tokens.sign({"exp": int(time.time()) + 300, "video": {"agent": True}}, pair)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"{livekit.server.http_url}/agent", headers={"Authorization": f"Bearer {token}"}
        ) as socket,
    ):
        register = agent.RegisterWorkerRequest(type=agent.JT_ROOM, version="1")
        available = agent.UpdateWorkerStatus(status=agent.WS_AVAILABLE)
        for said in (
            agent.WorkerMessage(register=register),
            agent.WorkerMessage(update_worker=available),
        ):
            await socket.send_bytes(said.SerializeToString())
        hello = agent.ServerMessage.FromString((await socket.receive()).data)
        assert hello.WhichOneof("message") == "register"

        assert (await joiner.probe(livekit.server)).outcome is PASSED
        # A room of anybody's, after it: the worker is heard, and gets that job alone.
        claims = {"sub": "alice", "video": {"roomJoin": True, "room": "standup"}}
        token = tokens.sign({**claims, "exp": int(time.time()) + 300}, pair)
        async with session.ws_connect(
            f"{livekit.server.http_url}/rtc", headers={"Authorization": f"Bearer {token}"}
        ) as alice:
            await alice.receive()
            asked = agent.ServerMessage.FromString((await socket.receive(timeout=10)).data)
            assert asked.availability.job.room.name == "standup"


@pytest.mark.real
async def test_a_server_that_makes_no_rooms_of_itself_is_joined_too(tmp_path: Path) -> None:
    settings = {"room": {"auto_create": False}}
    async with (
        LocalServer(
            "red", program=find_server(), log=tmp_path / "red.log", settings=settings
        ) as red,
        JoinProber() as joiner,
    ):
        assert (await joiner.probe(red.server)).outcome is PASSED
        await nobody_is_left(red)
        await room_ends(red)


@pytest.mark.real
async def test_a_wrong_secret_is_unauthorized(livekit: LocalServer, joiner: JoinProber) -> None:
    stranger = replace(livekit.server, secret="another-secret-0123456789012345678")
    result = await joiner.probe(stranger)
    assert (result.outcome, result.status) == (UNAUTHORIZED, 401)
    assert "ey" + "J" not in repr(result)  # this version's body holds the token
    assert "ey" + "J" in result.text


@pytest.mark.real
async def test_a_killed_server_refuses(livekit: LocalServer, joiner: JoinProber) -> None:
    await livekit.kill()
    result = await joiner.probe(livekit.server)
    assert (result.outcome, result.detail) == (REFUSED, "connection refused")


@pytest.mark.real
async def test_a_join_that_outlasts_its_probe_leaves_no_ghost(livekit: LocalServer) -> None:
    stays: list[Stay] = []
    async with JoinProber(timeout=0.3, witness=stayed(stays)) as joiner:
        await livekit.freeze()
        result = await joiner.probe(livekit.server)
        assert (result.outcome, result.detail) == (SILENT, "no answer to a join within 0.3 s")
        assert not stays
        await livekit.thaw()
        await until(lambda: stays, seconds=5, what="the join is answered after all")
        await nobody_is_left(livekit)
    assert [stay.server for stay in stays] == ["red"]


# ---- what a server can do ---------------------------------------------------------------------


async def test_a_refused_port(joiner: JoinProber) -> None:
    async with unserved() as port:
        result = await joiner.probe(at(port))
    assert (result.outcome, result.status, result.stalled) == (REFUSED, None, False)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("429 Too Many Requests", FAILED), ("403 Forbidden", UNAUTHORIZED), ("302 Found", FAILED)],
)
async def test_a_refusal_is_kept_with_its_text(
    joiner: JoinProber, status: str, outcome: ProbeOutcome
) -> None:
    answer = response(status, b"quota exceeded", "Retry-After: 7", "Location: /elsewhere")
    async with scripted(always(answer)) as server:
        result = await joiner.probe(server.server)
        assert len(server.seen) == 1
    assert (result.outcome, result.status) == (outcome, int(status.split()[0]))
    assert (result.text, result.retry_after) == ("quota exceeded", 7.0)
    assert result.detail == f"a join was refused with HTTP {result.status}"
    assert "quota" not in repr(result)


async def test_a_date_to_retry_after_is_by_the_servers_own_clock(joiner: JoinProber) -> None:
    date = "Date: Sun, 01 Nov 2020 10:00:00 GMT"
    answer = response(
        "503 Service Unavailable", b"", date, "Retry-After: Sun, 01 Nov 2020 10:01:30 GMT"
    )
    async with scripted(always(answer)) as server:
        assert (await joiner.probe(server.server)).retry_after == 90.0


async def test_a_refusal_that_comes_in_pieces_is_kept_whole(joiner: JoinProber) -> None:
    async def script(exchange: Exchange) -> bytes | None:
        return (
            b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nquota\r\n9\r\n exceeded\r\n0\r\n\r\n"
        )

    async with scripted(script) as server:
        assert (await joiner.probe(server.server)).text == "quota exceeded"


async def test_a_refusal_without_end_is_cut(joiner: JoinProber) -> None:
    body = b"x" * 2**20
    async with scripted(always(response("500 Internal Server Error", body))) as server:
        result = await joiner.probe(server.server)
    assert (result.status, len(result.text)) == (500, 64 * 1024)


async def test_what_is_not_found_is_made_once_and_no_more(joiner: JoinProber) -> None:
    async with scripted(always(response("404 Not Found"))) as server:
        result = await joiner.probe(server.server)
        asked = [exchange.head.split()[1] for exchange in server.seen]
    assert (result.outcome, result.status) == (FAILED, 404)
    assert asked[1] == "/twirp/livekit.RoomService/CreateRoom"
    assert len(asked) <= 3


async def test_silence(joiner: JoinProber) -> None:
    async with scripted(never) as server, JoinProber(timeout=0.1) as short:
        for _ in range(3):
            result = await short.probe(server.server)
            if not result.stalled:  # as this process may be
                break
        assert (result.outcome, result.stalled) == (SILENT, False)


async def test_a_silent_join_is_no_evidence_while_the_own_loop_stands_still() -> None:
    async with scripted(never) as server, JoinProber(timeout=0.4) as joiner:
        probing = asyncio.create_task(joiner.probe(server.server))
        await until(lambda: server.seen, seconds=5, what="the join has been asked for")
        time.sleep(0.5)  # noqa: ASYNC251  # a loop that stands still is the case
        assert (await probing).stalled


@pytest.mark.parametrize(
    ("frame", "detail", "reason"),
    [
        (None, "it ended a join without a word", ""),
        (b"\x88\x02\x03\xe8", "it ended a join without a word", ""),
        (b"\x81\x02{}", "it answers a join, but not as a LiveKit server does", ""),
        (b"\x82\x03abc", "it answers a join, but not as a LiveKit server does", ""),
        (
            rtc.SignalResponse(leave=rtc.LeaveRequest(reason=models.SERVER_SHUTDOWN)),
            "it sent a participant away instead of letting it in (SERVER_SHUTDOWN)",
            "SERVER_SHUTDOWN",
        ),
    ],
)
async def test_an_upgrade_is_not_a_join(
    joiner: JoinProber, frame: bytes | rtc.SignalResponse | None, detail: str, reason: str
) -> None:
    if isinstance(frame, rtc.SignalResponse):
        said = frame.SerializeToString()
        frame = bytes([0x82, len(said)]) + said

    async def script(exchange: Exchange) -> bytes | None:
        if exchange.number > 1 or "Upgrade" not in exchange.head:
            return None
        return upgraded(exchange.head) + (frame or b"\x88\x00")

    async with scripted(script) as server:
        result = await joiner.probe(server.server)
    assert (result.outcome, result.detail, result.reason) == (FAILED, detail, reason)


def upgraded(head: str) -> bytes:
    """The 101 that belongs to a request (RFC 6455, section 4.2.2)."""
    key = next(
        line.split(": ")[1]
        for line in head.split("\r\n")
        if line.lower().startswith("sec-websocket-key")
    )
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    accept = base64.b64encode(digest).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()
