"""LiveKit's server API through the pool: with the real SDK and real servers, and a pool by hand."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from fastapi import FastAPI
from livekit.api import (
    CreateRoomRequest,
    DeleteRoomRequest,
    ListParticipantsRequest,
    ListRoomsRequest,
    ListRoomsResponse,
    LiveKitAPI,
    Room,
    RoomParticipantIdentity,
    TwirpError,
    UpdateRoomMetadataRequest,
)
from livekit.protocol.egress import RoomCompositeEgressRequest

from livekit_pool.config import Settings
from livekit_pool.core.document import Cause
from livekit_pool.core.events import FaultSource
from livekit_pool.exceptions import NoServer, StoreUnavailable
from livekit_pool.local import LocalServer, find_server
from livekit_pool.servers import Server
from livekit_pool.stores.base import Placement
from livekit_pool.tokens import Claims, KeyPair, sign
from livekit_pool.web.gateway import twirp, twirp_call
from livekit_pool.web.gateway.twirp_call import TwirpCall
from tests.upstream.scripted import Exchange, Script, always, never, response, scripted
from tests.web.served import serving

PAIR = KeyPair(key="pool-key", secret="secret-of-the-pool-0123456789012345")
MISSING = response(
    "404 Not Found", b'{"code":"not_found","msg":"gone"}', "Content-Type: application/json"
)
GOOD = response("200 OK", b"{}", "Content-Type: application/json")


class HandPool:
    """A pool whose rotations, placements and moves are the test's."""

    def __init__(self, *servers: Server) -> None:
        self.servers = {server.name: server for server in servers}
        self.pair = PAIR
        self.settings = Settings(join_timeout=1.5)
        self.stuck = False
        self.tried_key_at = 0.0  # when a signed probe of all servers passed
        self.active = servers[0].name
        self.placements: dict[str, str] = {}
        self.down: set[str] = set()
        self.moving: Callable[[], bool] = lambda: False
        self.faults: list[tuple[str, Cause, FaultSource, str, int | None]] = []
        self.waits: list[float | None] = []
        self.on_fault: Callable[[str], None] = lambda server: None
        self.store_away = False
        self.takes_rooms = True
        self.revision = 7

    @property
    def lineage(self) -> str:
        return "this-pool"

    @property
    def active_server(self) -> str:
        return self.active

    def joinable(self, server: str) -> bool:
        return server in self.servers and server not in self.down

    def retry_after(self) -> int:
        return 3

    def now(self) -> float:
        return time.time()

    def takes_our_key(self, server: str, since: float) -> bool:
        return self.tried_key_at > since

    def can_leave(self, server: str) -> bool:
        return server != self.active or not self.stuck

    def on_the_move(self, room: str) -> bool:
        return self.moving()

    async def place(self, room: str) -> Placement:
        if self.store_away:
            raise StoreUnavailable("the store at /secret/path does not answer")
        if not self.takes_rooms and room not in self.placements:
            raise NoServer("it is drained")
        server = self.placements.setdefault(room, self.active)
        if not self.joinable(server):
            server = self.placements[room] = self.active
        return Placement(room=room, server=server, revision=self.revision)

    async def placement(self, room: str) -> Placement | None:
        if self.store_away:
            raise StoreUnavailable("the store at /secret/path does not answer")
        server = self.placements.get(room)
        return server and Placement(room=room, server=server, revision=1)  # type: ignore[return-value]

    async def placed_servers(self) -> set[str]:
        return set(self.placements.values()) | {self.active}

    async def wait_joinable(self, room: str | None, timeout: float) -> Placement | None:
        deadline = time.monotonic() + timeout
        while True:
            server = (await self.place(room)).server if room else self.active
            if self.joinable(server):
                return Placement(room=room or "", server=server, revision=self.revision)
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(0.01)

    def fault(
        self,
        server: str,
        kind: Cause,
        source: FaultSource,
        detail: str = "",
        revision: int | None = None,
        *,
        retry_after: float | None = None,
    ) -> None:
        self.waits.append(retry_after)
        self.faults.append((server, kind, source, detail, revision))
        self.on_fault(server)


class Front:
    """An application with the calls' route, on a port, and ways to call it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    def api(self, key: str = PAIR.key, secret: str = PAIR.secret) -> LiveKitAPI:
        return LiveKitAPI(self.url, key, secret)

    async def post(
        self,
        method: str,
        body: bytes | str | io.BytesIO = b"{}",
        *,
        token: str | None = None,
        verb: str = "POST",
        **headers: str,
    ) -> tuple[int, dict[str, str], Any]:
        """Call with JSON; the status, the headers and the body, decoded if it is JSON."""
        sent = {"Content-Type": "application/json", "Authorization": f"Bearer {token or grant()}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(
            verb, f"{self.url}/twirp/{method}", data=body, headers=sent
        ) as answer:
            text = await answer.read()
            try:
                content = json.loads(text)
            except ValueError:
                content = text
            return answer.status, dict(answer.headers), content


def grant(room: str | None = None, **claims: Any) -> str:
    """A token of the pool's for every call, as SDKs make one, about ``room`` if given."""
    video: dict[str, Any] = {"roomCreate": True, "roomList": True, "roomRecord": True}
    if room:
        video |= {"roomAdmin": True, "room": room}
    return sign({"exp": int(time.time()) + 600, "video": video, **claims}, PAIR)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def front_of(pool: HandPool, stack: AsyncExitStack) -> Front:
    app = FastAPI()
    app.include_router(twirp.router(pool))
    served = await stack.enter_async_context(serving(app, lifespan="on", proxy_headers=False))
    session = await stack.enter_async_context(aiohttp.ClientSession())
    return Front(served.url, session)


@pytest.fixture
async def red_and_green(
    tmp_path: Path, stack: AsyncExitStack
) -> tuple[HandPool, Front, LocalServer, LocalServer]:
    """Two real servers behind a pool; red is active."""
    red, green = [
        LocalServer(name, program=find_server(), log=tmp_path / name) for name in ("red", "green")
    ]
    for server in (red, green):
        stack.push_async_callback(server.aclose)
    await asyncio.gather(red.start(), green.start())
    pool = HandPool(red.server, green.server)
    return pool, await front_of(pool, stack), red, green


RealPair = tuple[HandPool, Front, LocalServer, LocalServer]


async def make_room(server: LocalServer, name: str) -> Room:
    """Make a room without the pool knowing."""
    async with LiveKitAPI(server.url, server.key, server.secret) as api:
        return await api.room.create_room(CreateRoomRequest(name=name))


async def names_on(server: LocalServer) -> set[str]:
    async with LiveKitAPI(server.url, server.key, server.secret) as api:
        return {room.name for room in (await api.room.list_rooms(ListRoomsRequest())).rooms}


# ---- the SDK, real servers --------------------------------------------------------------------


@pytest.mark.real
async def test_the_sdk_lists_creates_and_deletes_rooms(red_and_green: RealPair) -> None:
    pool, front, red, _ = red_and_green
    async with front.api() as api:
        made = await api.room.create_room(CreateRoomRequest(name="standup", metadata="é"))
        assert (made.name, made.metadata) == ("standup", "é")
        assert pool.placements == {"standup": "red"}
        listed = await api.room.list_rooms(ListRoomsRequest())
        assert [(room.name, room.sid) for room in listed.rooms] == [("standup", made.sid)]
        await api.room.update_room_metadata(
            UpdateRoomMetadataRequest(room="standup", metadata="new")
        )
        people = await api.room.list_participants(ListParticipantsRequest(room="standup"))
        assert list(people.participants) == []
        await api.room.delete_room(DeleteRoomRequest(room="standup"))
    assert await names_on(red) == set()
    assert pool.faults == []


@pytest.mark.real
async def test_the_same_with_json(red_and_green: RealPair) -> None:
    _, front, red, _ = red_and_green
    service = "livekit.RoomService"
    status, headers, made = await front.post(f"{service}/CreateRoom", '{"name":"standup"}')
    assert (status, headers["Content-Type"], made["name"]) == (200, "application/json", "standup")
    status, _, listed = await front.post(f"{service}/ListRooms")
    assert (status, [room["sid"] for room in listed["rooms"]]) == (200, [made["sid"]])
    status, _, _ = await front.post(f"{service}/DeleteRoom", '{"room":"standup"}')
    assert (status, await names_on(red)) == (200, set())


@pytest.mark.real
async def test_a_call_goes_where_its_room_is_placed(red_and_green: RealPair) -> None:
    pool, front, red, green = red_and_green
    pool.placements["there"] = "green"
    async with front.api() as api:
        await api.room.create_room(CreateRoomRequest(name="there"))
        await api.room.create_room(CreateRoomRequest(name="here"))
        assert (await names_on(red), await names_on(green)) == ({"here"}, {"there"})
        await api.room.update_room_metadata(UpdateRoomMetadataRequest(room="there", metadata="x"))
        await api.room.delete_room(DeleteRoomRequest(room="there"))
    assert await names_on(green) == set()


@pytest.mark.real
@pytest.mark.parametrize("with_json", [False, True], ids=["protobuf", "json"])
async def test_rooms_of_all_servers_make_one_list(red_and_green: RealPair, with_json: bool) -> None:
    pool, front, red, green = red_and_green
    await make_room(red, "on-red")
    await make_room(green, "on-green")
    await make_room(red, "split")
    placed = await make_room(green, "split")
    pool.placements = {"on-green": "green", "split": "green"}
    if with_json:
        _, headers, content = await front.post("livekit.RoomService/ListRooms")
        found = sorted((room["name"], room["sid"]) for room in content["rooms"])
        assert headers["Content-Type"] == "application/json"
    else:
        async with front.api() as api:
            listed = await api.room.list_rooms(ListRoomsRequest())
        found = sorted((room.name, room.sid) for room in listed.rooms)
    assert [name for name, _ in found] == ["on-green", "on-red", "split"]
    assert found[2][1] == placed.sid


@pytest.mark.real
async def test_names_asked_for_reach_every_server(red_and_green: RealPair) -> None:
    pool, front, red, green = red_and_green
    await make_room(red, "on-red")
    await make_room(green, "on-green")
    pool.placements = {"on-green": "green"}
    async with front.api() as api:
        listed = await api.room.list_rooms(ListRoomsRequest(names=["on-green"]))
    assert [room.name for room in listed.rooms] == ["on-green"]


@pytest.mark.real
async def test_a_dead_servers_rooms_are_missing_and_the_others_are_listed(
    red_and_green: RealPair,
) -> None:
    pool, front, red, green = red_and_green
    await make_room(red, "on-red")
    pool.placements = {"on-green": "green"}
    await green.kill()
    async with front.api() as api:
        listed = await api.room.list_rooms(ListRoomsRequest())
    assert [room.name for room in listed.rooms] == ["on-red"]
    assert pool.faults == [
        ("green", Cause.DOWN, FaultSource.CALL, "a call failed: connection refused", 7)
    ]


@pytest.mark.real
async def test_a_call_that_a_dead_server_never_got_goes_to_the_next(
    red_and_green: RealPair,
) -> None:
    pool, front, red, green = red_and_green
    await red.kill()

    def rotate(_: str) -> None:
        asyncio.get_running_loop().call_later(0.2, pool.down.add, "red")
        pool.active = "green"

    pool.on_fault = rotate
    async with front.api() as api:
        await api.room.create_room(CreateRoomRequest(name="standup"))
    assert await names_on(green) == {"standup"}
    assert pool.placements == {"standup": "green"}
    assert [fault[:2] for fault in pool.faults] == [("red", Cause.DOWN)]


@pytest.mark.real
async def test_a_frozen_server_is_left_when_it_is_confirmed_down(red_and_green: RealPair) -> None:
    pool, front, red, green = red_and_green
    pool.placements = {"standup": "red"}
    await make_room(green, "standup")
    await red.freeze()

    def confirm() -> None:
        pool.active = pool.placements["standup"] = "green"
        pool.down.add("red")

    asyncio.get_running_loop().call_later(0.3, confirm)
    async with front.api() as api:
        people = await api.room.list_participants(ListParticipantsRequest(room="standup"))
    assert list(people.participants) == []


@pytest.mark.real
async def test_what_may_have_been_done_is_not_done_again(red_and_green: RealPair) -> None:
    pool, front, red, green = red_and_green
    pool.placements = {"standup": "red"}
    await make_room(green, "standup")
    await red.freeze()

    def confirm() -> None:
        pool.active = pool.placements["standup"] = "green"
        pool.down.add("red")

    asyncio.get_running_loop().call_later(0.3, confirm)
    status, headers, content = await front.post(
        "livekit.RoomService/DeleteRoom", '{"room":"standup"}'
    )
    assert (status, content["code"], headers["Retry-After"]) == (503, "unavailable", "3")
    assert "not known" in content["msg"]
    assert await names_on(green) == {"standup"}


@pytest.mark.real
async def test_a_server_that_refuses_its_key_is_at_fault_and_the_caller_is_not(
    tmp_path: Path, stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    red = await stack.enter_async_context(
        LocalServer("red", program=find_server(), log=tmp_path / "red")
    )
    wrong = Server(name="red", url=red.url, key=red.key, secret="not-the-secret-" + "0" * 20)
    pool = HandPool(wrong)
    front = await front_of(pool, stack)
    status, headers, content = await front.post("livekit.RoomService/ListRooms")
    assert (status, content["code"], headers["Retry-After"]) == (503, "unavailable", "3")
    assert [fault[:3] for fault in pool.faults] == [("red", Cause.CREDENTIALS, FaultSource.CALL)]
    said = caplog.text + repr(pool.faults) + repr(content)
    assert "LiveKit server refused a call" in said
    assert "ey" + "J" not in said


@pytest.mark.real
async def test_a_grant_that_is_missing_is_the_callers_affair(red_and_green: RealPair) -> None:
    pool, front, red, _ = red_and_green
    await make_room(red, "standup")
    body = '{"room":"standup","identity":"alice"}'
    for method in ("GetParticipant", "RemoveParticipant"):
        status, headers, content = await front.post(f"livekit.RoomService/{method}", body)
        assert (status, headers["Content-Type"]) == (401, "application/json")
        assert content == {"code": "unauthenticated", "msg": "permissions denied"}
    assert pool.faults == []


@pytest.mark.real
async def test_the_servers_own_errors_pass_unchanged(red_and_green: RealPair) -> None:
    _, front, red, _ = red_and_green
    await make_room(red, "standup")
    async with front.api() as api:
        with pytest.raises(TwirpError) as raised:
            await api.room.get_participant(
                RoomParticipantIdentity(room="standup", identity="alice")
            )
    assert (raised.value.code, raised.value.status) == ("not_found", 404)
    status, _, content = await front.post("livekit.RoomService/ListRooms", "{nonsense")
    assert (status, content["code"]) == (400, "malformed")
    status, _, content = await front.post("livekit.NoService/Nothing")
    assert (status, content) == (404, b"404 page not found\n")


# ---- who may call -----------------------------------------------------------------------------


@pytest.fixture
async def quiet(stack: AsyncExitStack) -> tuple[HandPool, Front]:
    """A pool of one server that must not be asked."""

    async def asked(_: Exchange) -> bytes | None:
        raise AssertionError("the server was asked")

    server = await stack.enter_async_context(scripted(asked))
    pool = HandPool(server.server)
    front = await front_of(pool, stack)
    stack.callback(lambda: pytest.fail("the server was asked") if server.seen else None)
    return pool, front


@pytest.mark.parametrize(
    "token",
    [
        sign({"exp": int(time.time()) - 3600, "video": {"roomList": True}}, PAIR),
        sign({"exp": int(time.time()) + 3600}, KeyPair(key="server-key", secret=PAIR.secret)),
        sign({"exp": int(time.time()) + 3600}, KeyPair(key=PAIR.key, secret="x" * 40)),
        "nonsense",
    ],
    ids=["expired", "another key", "forged", "no token"],
)
async def test_a_bad_token_is_refused_as_the_sdks_read_it(
    quiet: tuple[HandPool, Front], token: str
) -> None:
    pool, front = quiet
    status, headers, content = await front.post("livekit.RoomService/ListRooms", token=token)
    assert (status, headers["Content-Type"]) == (401, "application/json")
    assert content["code"] == "unauthenticated"
    assert token not in repr(content)
    assert pool.faults == []


async def test_the_sdk_reads_a_refusal(quiet: tuple[HandPool, Front]) -> None:
    async with quiet[1].api(secret="x" * 40) as api:
        with pytest.raises(TwirpError) as raised:
            await api.room.list_rooms(ListRoomsRequest())
    error = raised.value
    assert (error.code, error.status) == ("unauthenticated", 401)
    assert "key" in error.message


async def test_the_token_may_come_in_the_query_if_there_is_no_header(
    stack: AsyncExitStack,
) -> None:
    server = await stack.enter_async_context(scripted(always(GOOD)))
    front = await front_of(HandPool(server.server), stack)
    session = await stack.enter_async_context(aiohttp.ClientSession())
    url = f"{front.url}/twirp/livekit.RoomService/ListRooms?access_token="
    async with session.post(url + grant()) as answer:
        assert answer.status == 200
    assert "access_token" not in server.seen[0].head
    async with session.post(url + grant(), headers={"Authorization": "Basic eA=="}) as answer:
        assert answer.status == 401


@pytest.mark.parametrize(
    "method",
    [
        "RoomService/ListParticipants",
        "RoomService/SendData",
        "AgentDispatchService/CreateDispatch",
        "Egress/ListEgress",
        "Ingress/ListIngress",
        "SIP/ListSIPTrunk",
    ],
)
async def test_a_participants_token_reaches_no_server(
    quiet: tuple[HandPool, Front], method: str
) -> None:
    """Everybody has such a token, and each call costs of a server's API quota."""
    pool, front = quiet
    video = {"roomJoin": True, "room": "standup", "canPublish": True, "agent": True, "hidden": True}
    video |= {"roomAdmin": False, "canPublishSources": ["camera"]}
    token = sign({"exp": int(time.time()) + 600, "sub": "mallory", "video": video}, PAIR)

    status, _, content = await front.post(f"livekit.{method}", '{"room":"standup"}', token=token)

    assert (status, content) == (401, {"code": "unauthenticated", "msg": "permissions denied"})
    assert (pool.placements, pool.faults) == ({}, [])


@pytest.mark.parametrize(
    "claims",
    [
        {"video": {"roomJoin": True, "roomAdmin": True, "room": "standup"}},
        {"video": {"ingressAdmin": True}},
        {"video": {"roomJoin": True, "aGrantOfTomorrow": True}},
        {"video": {"roomJoin": True}, "sip": {"admin": True}},
    ],
)
async def test_what_may_be_granted_is_for_the_server_to_say(
    stack: AsyncExitStack, claims: dict[str, Any]
) -> None:
    _, front, (seen,) = await scripted_pool(stack, always(GOOD))
    token = sign({"exp": int(time.time()) + 600, **claims}, PAIR)

    status, _, _ = await front.post("livekit.SIP/ListSIPTrunk", token=token)

    assert (status, len(seen)) == (200, 1)


@pytest.mark.parametrize(
    "method",
    ["RoomService/CreateRoom", "RoomService/ListRooms", "AgentDispatchService/CreateDispatch"],
)
async def test_what_the_pool_does_itself_needs_the_grant_first(
    quiet: tuple[HandPool, Front], method: str
) -> None:
    pool, front = quiet
    video = {"roomJoin": True, "room": "standup", "roomRecord": True}  # it opens another call
    token = sign({"exp": int(time.time()) + 600, "video": video}, PAIR)
    status, _, content = await front.post(f"livekit.{method}", '{"name":"standup"}', token=token)
    assert status == 401
    assert content == {"code": "unauthenticated", "msg": "permissions denied"}
    assert pool.placements == {}


async def test_a_pool_that_is_its_own_server_says_so(quiet: tuple[HandPool, Front]) -> None:
    status, _, content = await quiet[1].post(
        "livekit.RoomService/ListRooms", livekit_pool_via="this-pool"
    )
    assert (status, content["code"]) == (508, "failed_precondition")


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "livekit.RoomService/ListRooms"),
        ("DELETE", "livekit.RoomService/ListRooms"),
        ("POST", "livekit.RoomService"),
        ("POST", "livekit.RoomService/ListRooms/more"),
        ("POST", "other.RoomService/ListRooms"),
        ("POST", "livekit.RoomService/..%2fListRooms"),
        ("POST", ""),
    ],
)
async def test_no_such_call(quiet: tuple[HandPool, Front], verb: str, path: str) -> None:
    status, headers, content = await quiet[1].post(path, verb=verb)
    assert (status, headers["Content-Type"]) == (404, "application/json")
    assert content["code"] == "bad_route"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_more_than_10_mib_is_refused(
    quiet: tuple[HandPool, Front], stack: AsyncExitStack, chunked: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield bytes(2**20)

    session = await stack.enter_async_context(aiohttp.ClientSession())
    async with session.post(
        f"{quiet[1].url}/twirp/livekit.RoomService/SendData",
        data=chunks() if chunked else io.BytesIO(bytes(11 * 2**20)),
        headers={"Authorization": f"Bearer {grant('standup')}"},
    ) as answer:
        assert (answer.status, (await answer.json())["code"]) == (413, "malformed")


async def test_without_a_store_calls_about_rooms_must_wait(
    quiet: tuple[HandPool, Front],
) -> None:
    pool, front = quiet
    pool.store_away = True
    status, headers, content = await front.post(
        "livekit.RoomService/CreateRoom", '{"name":"standup"}'
    )
    assert (status, content["code"], headers["Retry-After"]) == (503, "unavailable", "3")
    assert "/secret/path" not in content["msg"]


@pytest.mark.parametrize(
    ("method", "body", "room"),
    [
        ("RoomService/CreateRoom", '{"name":"standup"}', None),
        ("RoomService/CreateRoom", "{}", None),  # the server would make up a name
        ("AgentDispatchService/CreateDispatch", '{"room":"standup"}', "standup"),
    ],
)
async def test_on_a_drained_server_no_new_room_is_made(
    quiet: tuple[HandPool, Front], method: str, body: str, room: str | None
) -> None:
    pool, front = quiet
    pool.takes_rooms = False
    status, headers, content = await front.post(f"livekit.{method}", body, token=grant(room))
    assert (status, content["code"], headers["Retry-After"]) == (503, "unavailable", "3")
    assert content["msg"] == "no LiveKit server takes new rooms, try again"


async def test_without_any_server_calls_must_wait(
    quiet: tuple[HandPool, Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twirp, "PATIENCE", 0.1)
    pool, front = quiet
    pool.down = set(pool.servers)
    for method in ("ListRooms", "CreateRoom", "SendData"):
        status, headers, content = await front.post(
            f"livekit.RoomService/{method}", '{"name":"standup"}', token=grant("standup")
        )
        assert (status, content["code"], headers["Retry-After"]) == (503, "unavailable", "3")


# ---- what reaches the server ------------------------------------------------------------------


async def scripted_pool(
    stack: AsyncExitStack, *scripts: Script
) -> tuple[HandPool, Front, list[list[Exchange]]]:
    """A pool of scripted servers called s0, s1, ...; s0 is active."""
    servers = [
        await stack.enter_async_context(scripted(script, name=f"s{number}"))
        for number, script in enumerate(scripts)
    ]
    pool = HandPool(*(server.server for server in servers))
    return pool, await front_of(pool, stack), [server.seen for server in servers]


async def test_the_headers_and_claims_that_reach_a_server(stack: AsyncExitStack) -> None:
    pool, front, (seen,) = await scripted_pool(stack, always(GOOD))
    now = int(time.time())
    token = grant("standup", sub="app", custom={"a": [1]}, nbf=now + 30, exp=now - 30, pool="x")
    await front.post(
        "livekit.RoomService/SendData",
        '{"room":"standup"}',
        token=token,
        User_Agent="sdk/1",
        X_Livekit_Request_Id="id-1",
        X_Twirp_Timeout_Ms="9000",
        X_Forwarded_For="203.0.113.9, 198.51.100.1",
        Cookie="session=1",
        X_Other="1",
    )
    method, *lines = seen[0].head.strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    sent = next(line for line in lines if line.startswith("Authorization")).split("Bearer ")[1]
    assert method == "POST /twirp/livekit.RoomService/SendData HTTP/1.1"
    del headers["authorization"]
    assert headers == {
        "host": pool.servers["s0"].host_header,
        "content-type": "application/json",
        "content-length": "18",
        "accept": "*/*",
        "user-agent": "sdk/1",
        "x-livekit-request-id": "id-1",
        "x-twirp-timeout-ms": "9000",
        "x-forwarded-for": "127.0.0.1",
        "livekit-pool-via": "this-pool",
    }
    claims = jwt.decode(
        sent, pool.servers["s0"].secret, algorithms=["HS256"], options={"require": ["exp"]}
    )
    assert claims.pop("exp") >= now + 290
    assert claims.pop("video")["room"] == "standup"
    assert claims == {"iss": pool.servers["s0"].key, "sub": "app", "custom": {"a": [1]}}


@pytest.mark.parametrize(
    ("status", "code", "expected", "faults"),
    [
        ("502 Bad Gateway", b"<h1>bad gateway</h1>", 503, ["s0", "s0"]),
        ("503 Service Unavailable", b'{"code":"unavailable","msg":"full"}', 503, []),
        ("500 Internal Server Error", b"oops", 500, []),
        ("429 Too Many Requests", b"slow down", 503, ["s0"]),
        ("403 Forbidden", b"<h1>forbidden</h1>", 503, ["s0"]),
        ("403 Forbidden", b'{"code":"permission_denied","msg":"no"}', 403, []),
        ("401 Unauthorized", b'{"code":"unauthenticated","msg":"invalid API key"}', 503, ["s0"]),
    ],
)
async def test_whose_fault_an_error_is(
    stack: AsyncExitStack,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    code: bytes,
    expected: int,
    faults: list[str],
) -> None:
    monkeypatch.setattr(twirp, "PATIENCE", 0.2)
    pool, front, _ = await scripted_pool(
        stack, always(response(status, code, "Content-Type: x/y", "Retry-After: 9"))
    )
    answered, headers, _ = await front.post(
        "livekit.RoomService/ListParticipants", token=grant("standup")
    )
    assert (answered, [fault[0] for fault in pool.faults]) == (expected, faults)
    if not faults and expected != 403:
        assert (headers["Content-Type"], headers["Retry-After"]) == ("x/y", "9")


async def test_a_call_that_takes_too_long_is_nobodys_fault(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twirp_call, "_TIMEOUT", 0.2)
    pool, front, (seen,) = await scripted_pool(stack, never)
    status, _, content = await front.post("livekit.Egress/ListEgress")
    assert (status, content["code"], len(seen)) == (408, "deadline_exceeded", 1)
    assert pool.faults == []


async def test_a_call_that_broke_off_is_repeated_only_if_it_changes_nothing(
    stack: AsyncExitStack,
) -> None:
    pool, front, (first, second) = await scripted_pool(stack, always(None), always(GOOD))

    def rotate(_: str) -> None:
        pool.active = "s1"

    pool.on_fault = rotate
    status, _, content = await front.post("livekit.Egress/StopEgress")
    assert (status, content["code"]) == (503, "unavailable")
    assert (len(first), len(second)) == (1, 0)
    pool.active = "s0"
    status, _, _ = await front.post("livekit.Egress/ListEgress")
    assert (status, len(first), len(second)) == (200, 2, 1)
    assert [fault[:2] for fault in pool.faults] == [("s0", Cause.DOWN)] * 2


async def test_a_server_that_came_back_is_asked_once_more(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twirp, "PATIENCE", 0.3)

    async def second_time(_: Exchange) -> bytes | None:
        return None if len(seen) == 1 else GOOD

    _, front, (seen,) = await scripted_pool(stack, second_time)
    status, _, _ = await front.post("livekit.Egress/ListEgress")
    assert (status, len(seen)) == (200, 2)


async def test_a_large_body_arrives_whole(stack: AsyncExitStack) -> None:
    _, front, (seen,) = await scripted_pool(stack, always(GOOD))
    body = b'{"data":"' + b"x" * 5 * 2**20 + b'"}'
    status, _, _ = await front.post(
        "livekit.RoomService/SendData", io.BytesIO(body), token=grant("standup")
    )
    assert (status, seen[0].body == body) == (200, True)


# ---- rooms on the move ------------------------------------------------------------------------


async def test_who_is_not_found_while_the_room_moves_is_looked_for_again(
    stack: AsyncExitStack,
) -> None:
    async def third_time(_: Exchange) -> bytes | None:
        return MISSING if len(seen) < 3 else GOOD

    pool, front, (seen,) = await scripted_pool(stack, third_time)
    pool.moving = lambda: len(seen) < 3
    status, _, _ = await front.post("livekit.RoomService/RemoveParticipant", token=grant("standup"))
    assert (status, len(seen)) == (200, 3)


async def test_who_is_not_found_in_a_room_that_stays_is_not_looked_for_again(
    stack: AsyncExitStack,
) -> None:
    pool, front, (seen,) = await scripted_pool(stack, always(MISSING))
    status, _, _ = await front.post("livekit.RoomService/GetParticipant", token=grant("standup"))
    assert (status, len(seen)) == (404, 1)
    # Asked for when the room was still on the move: its end is no proof, the next answer is.
    answers = iter([True, False])
    pool.moving = lambda: next(answers)
    status, _, _ = await front.post("livekit.RoomService/GetParticipant", token=grant("standup"))
    assert (status, len(seen)) == (404, 3)


async def test_a_room_that_moves_for_long_is_waited_for_2_seconds_at_most(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert twirp.PATIENCE == 2.0
    monkeypatch.setattr(twirp, "PATIENCE", 0.3)
    pool, front, (seen,) = await scripted_pool(stack, always(MISSING))
    pool.moving = lambda: True
    status, _, content = await front.post(
        "livekit.RoomService/GetParticipant", token=grant("standup")
    )
    assert (status, content["code"]) == (404, "not_found")
    assert len(seen) > 1


async def test_a_call_whose_answer_would_hide_an_absence_waits_for_the_move(
    stack: AsyncExitStack,
) -> None:
    pool, front, (old, new) = await scripted_pool(stack, always(GOOD), always(GOOD))
    moved = asyncio.Event()
    pool.moving = lambda: not moved.is_set()

    async def move() -> None:
        await asyncio.sleep(0.3)
        assert old == []
        pool.placements["standup"] = "s1"
        moved.set()

    moving = asyncio.create_task(move())
    await front.post("livekit.RoomService/SendData", token=grant("standup"))
    await moving
    assert (len(old), len(new)) == (0, 1)


# ---- which room -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "grants", "room"),
    [
        ("RoomService/CreateRoom", {"name": "r"}, {"room": "other", "roomAdmin": True}, "r"),
        ("RoomService/CreateRoom", {}, {}, None),
        ("RoomService/DeleteRoom", {"room": "r"}, {"room": "other"}, "r"),
        ("RoomService/ListRooms", {"names": ["r"]}, {"room": "other"}, None),
        ("RoomService/SendData", {}, {"room": "r"}, "r"),
        ("RoomService/SendData", {"room": "r"}, {}, "r"),
        ("RoomService/UpdateParticipant", {"room": "r", "name": "n"}, {}, "r"),
        ("AgentDispatchService/CreateDispatch", {"room": "r"}, {}, "r"),
        ("Egress/StartRoomCompositeEgress", {"room_name": "r"}, {"room": "other"}, "r"),
        ("Egress/StartRoomCompositeEgress", {"roomName": "r"}, {}, "r"),
        ("Egress/StopEgress", {"egress_id": "EG_1"}, {"room": "other"}, None),
        ("Ingress/CreateIngress", {"name": "n", "room_name": "r"}, {}, "r"),
        ("SIP/CreateSIPParticipant", {"room_name": "r"}, {}, "r"),
        ("SIP/ListSIPTrunk", {}, {}, None),
        ("Unknown/Call", {"room": "r"}, {}, None),
        ("RoomService/DeleteRoom", {"room": 5}, {}, None),
        ("RoomService/DeleteRoom", [], {}, None),
    ],
)
def test_the_room_of_a_call(path: str, body: Any, grants: Any, room: str | None) -> None:
    service, method = path.split("/")
    call = TwirpCall.read(
        service,
        method,
        Claims(raw={"video": grants}),
        json.dumps(body).encode(),
        {"Content-Type": "Application/JSON; charset=utf-8"},
    )
    assert call.room == room


def test_the_room_of_a_call_in_protobuf() -> None:
    def read(path: str, body: bytes) -> str | None:
        service, method = path.split("/")
        headers = {"Content-Type": "application/protobuf"}
        return TwirpCall.read(service, method, Claims(raw={}), body, headers).room

    egress = RoomCompositeEgressRequest(room_name="r").SerializeToString()
    assert read("Egress/StartRoomCompositeEgress", egress) == "r"
    assert read("RoomService/CreateRoom", CreateRoomRequest(name="r").SerializeToString()) == "r"
    assert read("RoomService/CreateRoom", b"\xff\xff\xff") is None
    assert read("RoomService/CreateRoom", b"") is None


def test_calls_to_a_telephone_may_take_longer() -> None:
    def timeout(service: str, method: str) -> float:
        return TwirpCall.read(service, method, Claims(raw={}), b"", {}).timeout

    assert timeout("SIP", "CreateSIPParticipant") == 65
    assert timeout("SIP", "ListSIPTrunk") == 10
    assert timeout("RoomService", "CreateRoom") == 10


async def test_fields_that_are_not_known_here_stay_in_a_merged_list(
    stack: AsyncExitStack,
) -> None:
    # Field 2000 of Room does not exist: a varint, as a newer LiveKit could send it.
    strange = Room(name="a").SerializeToString() + b"\x80\x7d\x01"
    one = bytes([0x0A, len(strange)]) + strange
    two = ListRoomsResponse(rooms=[Room(name="b")]).SerializeToString()
    kind = "Content-Type: application/protobuf"
    pool, front, _ = await scripted_pool(
        stack, always(response("200 OK", one, kind)), always(response("200 OK", two, kind))
    )
    pool.placements["b"] = "s1"
    status, _, body = await front.post(
        "livekit.RoomService/ListRooms", b"", Content_Type="application/protobuf"
    )
    assert status == 200
    assert one in body
    assert [room.name for room in ListRoomsResponse.FromString(body).rooms] == ["a", "b"]
