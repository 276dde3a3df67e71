"""
Twirp: LiveKit's server API, each call sent on to the server that has the call's room.

The caller's token is verified with the pool's key and its claims are signed anew for the server.
What the pool itself refuses, it refuses in Twirp's JSON. A call is repeated only when the server
certainly did not get it or carry it out, or when it changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import tokens
from ...exceptions import NoServer, PoolError, TokenError
from ...servers import Server
from ...stores.base import Placement
from .request import VIA, BadRequest, bearer, came_through, sent_through
from .room_lists import RoomLists
from .twirp_answer import TwirpAnswer
from .twirp_call import TwirpCall
from .twirp_pool import TwirpPool
from .twirp_refusal import DENIED, TwirpRefusal
from .twirp_servers import Refused, TwirpServers, Unanswered

__all__ = ["router"]

PATIENCE: Final = 2.0
"""Seconds that a call waits for a rotation, or for a room on the move, in all."""

LARGEST_BODY: Final = 10 * 2**20
"""Bytes; LiveKit's ``max_api_request_body_size``."""

_BODY_TIMEOUT: Final = 10.0
_LOOK: Final = 0.1
"""Seconds between two looks at whether what is waited for has happened."""

# The idempotency key and the caller's own patience are newer SDKs' (protocol: utils/xtwirp).
_FORWARDED: Final = (
    "Content-Type",
    "Accept",
    "User-Agent",
    "X-Livekit-Request-Id",
    "X-Twirp-Timeout-Ms",
)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def router(pool: TwirpPool) -> APIRouter:
    """The route, for the application, in whose lifespan the connections live; CORS is its too."""
    twirp = _Twirp(pool)
    return APIRouter(
        routes=[Route("/twirp/{path:path}", twirp.answer, methods=list(_METHODS))],
        lifespan=twirp.lifespan,
    )


class _Twirp:
    """Takes calls and sends them on."""

    def __init__(self, pool: TwirpPool) -> None:
        self._pool = pool
        self._servers = TwirpServers(pool)

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncGenerator[None]:
        """Keep connections to the servers."""
        async with self._servers:
            yield

    # -- the caller's side --

    async def answer(self, request: Request) -> Response:
        """Answer one call."""
        try:
            return await self._answer(request)
        except TwirpRefusal as refusal:
            return refusal.response()
        except NoServer:
            return self._unavailable("no LiveKit server takes new rooms, try again").response()
        except PoolError:
            # The store is away, or there is no document yet. Its text is for the log, not for here.
            return self._unavailable("the pool cannot tell where the room is, try again").response()

    async def _answer(self, request: Request) -> Response:
        path = TwirpCall.split(request.path_params["path"])
        if request.method != "POST" or path is None:
            raise TwirpRefusal("bad_route", "no such call: POST to /twirp/livekit.Service/Method")
        via, lineage = _via(request), self._pool.lineage
        if came_through(via, lineage):
            raise TwirpRefusal(
                "failed_precondition", "this pool is configured as a server of itself", status=508
            )
        claims = self._verified(request)
        headers = {
            name: value for name in _FORWARDED if (value := request.headers.get(name)) is not None
        }
        if request.client is not None:
            headers["X-Forwarded-For"] = request.client.host
        headers[VIA.decode()] = sent_through(via, lineage).decode("latin-1")
        call = TwirpCall.read(*path, claims, await _body(request), headers)
        if not call.may_be_allowed:
            # Every participant has such a token: what it asks must not cost a server's API quota.
            raise TwirpRefusal("unauthenticated", DENIED)
        if call.lists_rooms:
            _demand(call, "roomList")
            return (await self._list_rooms(call)).response()
        if call.creates_room:
            # Before the room is given a place.
            _demand(call, "roomCreate" if call.service == "RoomService" else "roomAdmin")
            if call.room is None and not self._pool.takes_rooms:
                raise NoServer("the active server is drained, and no other is available")
        return (await self._forward(call)).response()

    def _verified(self, request: Request) -> tokens.Claims:
        header = request.headers.get("authorization")
        try:
            token = (
                request.query_params.get("access_token")
                if header is None
                else bearer(header.encode("latin-1"))
            )
            return tokens.verify(token, self._pool.pair)
        except (TokenError, BadRequest) as error:
            raise TwirpRefusal("unauthenticated", str(error)) from None

    def _unavailable(self, message: str) -> TwirpRefusal:
        return TwirpRefusal.unavailable(message, self._pool.retry_after())

    # -- one server --

    async def _forward(self, call: TwirpCall) -> TwirpAnswer:
        """Send ``call`` to the server of its room, waiting for moves and rotations."""
        held_until = _now() + self._pool.settings.join_timeout
        deadline = _now() + PATIENCE
        if call.is_blind:
            await self._wait_for_move(call)
        failed: str | None = None
        while True:
            moving = self._moving(call)
            server = await self._target(call, deadline, failed)
            try:
                answer = await self._servers.ask(server, call)
            except Refused as refused:
                await self._left(server, call, held_until, refused)
                continue
            except Unanswered as error:
                if error.sent and not call.is_repeatable:
                    raise self._unavailable(
                        "the LiveKit server did not answer: whether the call was carried out is"
                        " not known"
                    ) from None
                if failed is not None:
                    raise self._unavailable("no LiveKit server answers, try again") from None
                failed, deadline = server.name, _now() + PATIENCE
                continue
            if answer.error[0] == "not_found" and moving and _now() < deadline:
                await asyncio.sleep(_LOOK)  # who is not there may be on the way
                continue
            return answer

    async def _left(self, server: Server, call: TwirpCall, until: float, refused: Refused) -> None:
        """
        Wait until ``call`` goes to another server than ``server``, which refused it.

        Raises:
            TwirpRefusal: there is none, or none before ``until``.
        """
        pool, since = self._pool, self._pool.now()
        while await self._whereabouts(call, left=server.name) == server.name:
            # A server that takes our key dislikes something else in this caller's token.
            cleared = refused.of_key and pool.takes_our_key(server.name, since)
            if cleared or _now() >= until or not pool.can_leave(server.name):
                message = f"the LiveKit servers refuse calls ({refused.why}), try again"
                raise self._unavailable(message)
            await asyncio.sleep(_LOOK)

    async def _whereabouts(self, call: TwirpCall, left: str) -> str:
        """Name of the server of ``call``; its room moves, if it is still on ``left``."""
        pool = self._pool
        placement = await pool.placement(call.room) if call.room is not None else None
        if placement is None:
            return pool.active_server
        if placement.server == left != pool.active_server:
            placement = await pool.place(placement.room)  # as a join of it would
        return placement.server

    async def _wait_for_move(self, call: TwirpCall) -> None:
        for _ in range(round(PATIENCE / _LOOK)):
            if not self._moving(call):
                return
            await asyncio.sleep(_LOOK)

    def _moving(self, call: TwirpCall) -> bool:
        return call.room is not None and self._pool.on_the_move(call.room)

    async def _target(self, call: TwirpCall, deadline: float, failed: str | None) -> Server:
        """
        Find the server for ``call``.

        After ``failed`` did not answer, another one is waited for: either that one is confirmed
        down and the room moves, or at the deadline it is believed to be well again.
        """
        pool = self._pool
        while True:
            placement: Placement | None = None
            if call.room is not None:
                placing = pool.place if call.creates_room else pool.placement
                placement = await placing(call.room)
            name = placement.server if placement else pool.active_server
            if not pool.joinable(name):
                room = placement.room if placement else None
                found = await pool.wait_joinable(room, max(0.0, deadline - _now()))
                name = found.server if found else ""
            if name not in pool.servers:
                raise self._unavailable("no LiveKit server is available, try again")
            if name != failed or _now() >= deadline:
                return pool.servers[name]
            await asyncio.sleep(_LOOK)

    # -- all servers --

    async def _list_rooms(self, call: TwirpCall) -> TwirpAnswer:
        """Ask every server that has rooms, and make one list; without those that do not answer."""
        pool = self._pool
        names = await pool.placed_servers() | {pool.active_server}
        asked = [
            server for name, server in pool.servers.items() if name in names and pool.joinable(name)
        ]
        if len(asked) < 2 and (not asked or asked[0].name == pool.active_server):
            return await self._forward(call)
        answers = await asyncio.gather(*(self._part(server, call) for server in asked))
        parts = {
            server.name: answer
            for server, answer in zip(asked, answers, strict=True)
            if answer is not None
        }
        good = {name: answer for name, answer in parts.items() if answer.status == 200}
        if good:
            return await RoomLists(good, is_json=call.is_json).merged(pool.placement)
        if parts:
            return next(iter(parts.values()))
        raise self._unavailable("no LiveKit server answers, try again")

    async def _part(self, server: Server, call: TwirpCall) -> TwirpAnswer | None:
        try:
            return await self._servers.ask(server, call)
        except (Unanswered, Refused, TwirpRefusal):
            return None  # reported as a fault; the others' rooms are better than none


def _via(request: Request) -> bytes:
    return ",".join(request.headers.getlist(VIA.decode())).encode("latin-1")


def _demand(call: TwirpCall, grant: str) -> None:
    """Refuse, in LiveKit's words, a caller without ``grant``."""
    if call.claims.grants.get(grant) is not True:
        raise TwirpRefusal("unauthenticated", DENIED)


async def _body(request: Request) -> bytes:
    """Read the request's body, within limits of size and time."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise HTTPException(413)
    except HTTPException as error:  # ours, or that of the application, which limits bodies too
        raise TwirpRefusal(
            "malformed", "the body is larger than 10 MiB", status=error.status_code
        ) from None
    except TimeoutError:
        raise TwirpRefusal("deadline_exceeded", "the body did not arrive in time") from None
    return bytes(body)


def _now() -> float:
    return asyncio.get_running_loop().time()
