"""Calls that a server refuses for a reason of its own: held, and sent to the next server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from livekit_pool.config import Settings
from livekit_pool.core.document import Cause
from livekit_pool.core.events import FaultSource
from livekit_pool.exceptions import StoreUnavailable
from livekit_pool.stores.base import Placement
from tests.upstream.scripted import Exchange, always, response
from tests.web.test_twirp import GOOD, HandPool, grant, scripted_pool

LIMIT = response(
    "429 Too Many Requests",
    b'{"code":"resource_exhausted","msg":"slow down"}',
    "Content-Type: application/json",
    "Retry-After: 77",
)
CREATE, SEND, LIST = (
    f"livekit.RoomService/{name}" for name in ("CreateRoom", "SendData", "ListRooms")
)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def rotating(pool: HandPool, *, after: float = 0.3) -> None:
    """The pool rotates to s1 that many seconds after the first fault, and moves its rooms."""

    def rotate() -> None:
        pool.active = "s1"

    def soon(_: str) -> None:
        asyncio.get_running_loop().call_later(after, rotate)

    pool.on_fault = soon


async def test_a_call_waits_for_the_rotation_and_goes_to_the_next(stack: AsyncExitStack) -> None:
    pool, front, (first, second) = await scripted_pool(stack, always(LIMIT), always(GOOD))
    rotating(pool)

    status, _, _ = await front.post("livekit.Egress/StartRoomCompositeEgress")

    # What was refused was not carried out, and may be sent again though it changes something.
    assert (status, len(first), len(second)) == (200, 1, 1)
    detail = "a call was refused with HTTP 429: rate limit"
    assert pool.faults == [("s0", Cause.RATE_LIMIT, FaultSource.CALL, detail, 7)]
    assert pool.waits == [77.0]


async def test_the_room_of_a_call_moves_with_it(stack: AsyncExitStack) -> None:
    """One that nobody is in, which no join would move."""
    pool, front, (first, second) = await scripted_pool(stack, always(LIMIT), always(GOOD))
    pool.placements["standup"] = "s0"

    def rotate(_: str) -> None:
        pool.active = "s1"

    async def place(room: str) -> Placement:
        pool.placements[room] = pool.active
        return Placement(room=room, server=pool.active, revision=8)

    pool.on_fault = rotate
    pool.place = place  # type: ignore[method-assign]
    status, _, _ = await front.post(SEND, '{"room":"standup"}', token=grant("standup"))

    assert (status, len(first), len(second)) == (200, 1, 1)
    assert pool.placements == {"standup": "s1"}


async def test_a_second_server_that_refuses_is_left_too(stack: AsyncExitStack) -> None:
    pool, front, seen = await scripted_pool(stack, always(LIMIT), always(LIMIT), always(GOOD))
    following = {"s0": "s1", "s1": "s2"}

    def rotate(server: str) -> None:
        pool.active = following[server]

    pool.on_fault = rotate
    status, _, _ = await front.post("livekit.Egress/ListEgress")

    assert (status, [len(each) for each in seen]) == (200, [1, 1, 1])


@pytest.mark.parametrize("stuck", [True, False])
async def test_where_nobody_can_go_it_is_503_and_no_429(stack: AsyncExitStack, stuck: bool) -> None:
    pool, front, (seen,) = await scripted_pool(stack, always(LIMIT))
    pool.settings = Settings(join_timeout=60.0 if stuck else 0.3)
    pool.stuck = stuck

    status, headers, content = await asyncio.wait_for(front.post(CREATE, '{"name":"standup"}'), 10)

    assert (status, headers["Retry-After"], content["code"]) == (503, "3", "unavailable")
    assert content["msg"] == "the LiveKit servers refuse calls (rate limit), try again"
    assert len(seen) == 1


async def test_rooms_of_the_others_are_listed(stack: AsyncExitStack) -> None:
    rooms = response("200 OK", b'{"rooms":[{"name":"here"}]}', "Content-Type: application/json")
    pool, front, _ = await scripted_pool(stack, always(LIMIT), always(rooms))
    pool.placements = {"here": "s1"}

    status, _, content = await front.post(LIST)

    assert (status, content) == (200, {"rooms": [{"name": "here"}]})
    assert [fault[:2] for fault in pool.faults] == [("s0", Cause.RATE_LIMIT)]


async def test_a_store_that_goes_away_meanwhile_is_no_error_of_the_callers(
    stack: AsyncExitStack,
) -> None:
    pool, front, _ = await scripted_pool(stack, always(LIMIT), always(GOOD))
    pool.placements["standup"] = "s0"

    def away(_: str) -> None:
        pool.store_away = True

    pool.on_fault = away
    status, _, content = await front.post(SEND, '{"room":"standup"}', token=grant("standup"))

    assert (status, content["code"]) == (503, "unavailable")
    assert StoreUnavailable.__name__ not in repr(content)


async def test_no_word_of_a_refused_token_is_passed_on(stack: AsyncExitStack) -> None:
    async def echo(exchange: Exchange) -> bytes:
        token = exchange.head.partition("Bearer ")[2].partition("\r\n")[0]
        return response("401 Unauthorized", f"invalid token: {token}".encode())

    pool, front, _ = await scripted_pool(stack, echo)
    pool.stuck = True

    status, headers, content = await front.post(CREATE, '{"name":"standup"}')

    assert (status, pool.faults[0][1]) == (503, Cause.CREDENTIALS)
    assert "ey" + "J" not in repr((headers, content, pool.faults))


@pytest.mark.parametrize(
    ("status", "code"), [("401 Unauthorized", "unauthenticated"), ("403 No", "permission_denied")]
)
async def test_a_callers_want_of_grants_is_told_in_words_of_our_own(
    stack: AsyncExitStack, status: str, code: str
) -> None:
    body = json.dumps({"code": code, "msg": "permissions denied for eyJhbGciOi.eyJzdWIi.c2ln"})
    pool, front, _ = await scripted_pool(stack, always(response(status, body.encode())))

    answered, _, content = await front.post(SEND, token=grant("standup"))

    assert (answered, content) == (
        int(status[:3]),
        {"code": code, "msg": "permissions denied"},
    )
    assert pool.faults == []


async def test_a_token_that_a_server_dislikes_though_it_takes_our_key_is_not_held(
    stack: AsyncExitStack,
) -> None:
    pool, front, (seen, _) = await scripted_pool(
        stack, always(response("401 Unauthorized", b"unknown field")), always(GOOD)
    )
    pool.settings = Settings(join_timeout=60.0)

    def signed_probe(_: str) -> None:
        pool.tried_key_at = pool.now() + 1

    pool.on_fault = signed_probe
    status, _, content = await asyncio.wait_for(front.post(CREATE, '{"name":"standup"}'), 10)

    assert (status, content["code"], len(seen)) == (503, "unavailable", 1)
    assert pool.faults[0][1] is Cause.CREDENTIALS
