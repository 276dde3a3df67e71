"""What the SDKs for Python and for Node raise, told as a report, is understood."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from livekit import api, rtc
from livekit.api.twirp_client import TwirpError

from livekit_pool.core.document import Cause
from livekit_pool.core.faults import Blame, Surface, classify
from livekit_pool.driver.raised import Raised
from livekit_pool.local import LocalServer
from tests.real.call import make_token
from tests.real.injector import Injector, calls, signalling
from tests.real.node import rooms as node
from tests.upstream.test_probe import unserved

SECRET = "s" * 32
Meaning = tuple[Blame, Cause | None]

ANSWERS = [
    (429, "quota exceeded", Cause.QUOTA),
    (429, "Too Many Requests", Cause.RATE_LIMIT),
    (503, "node has exceeded its configured limit", Cause.CONNECTION_LIMIT),
    (500, "internal error", Cause.DOWN),
]
CALLS = [
    (429, "resource_exhausted", "quota exceeded", Cause.QUOTA),
    (429, "resource_exhausted", "not now", Cause.RATE_LIMIT),  # its text says nothing
]


def meaning(error: BaseException | str, code: str | int | None = None) -> Meaning:
    raised = Raised.of(error, code)
    found = classify(Surface.CLIENT, status=raised.status, code=raised.code, text=raised.text)
    return found.blame, found.cause


@pytest.fixture
async def red(livekit_servers: list[LocalServer]) -> AsyncIterator[Injector]:
    """A LiveKit server, behind an injector."""
    async with Injector(livekit_servers[0].port) as injector:
        yield injector


async def raised_by_connect(url: str, key: str, secret: str) -> rtc.ConnectError:
    with pytest.raises(rtc.ConnectError) as raised:
        await rtc.Room().connect(url, make_token(key, secret, room="standup", identity="alice"))
    return raised.value


@pytest.mark.parametrize(("status", "body", "cause"), ANSWERS)
async def test_pythons_connect(
    red: Injector, livekit_servers: list[LocalServer], status: int, body: str, cause: Cause
) -> None:
    red.answers(signalling, status, body)
    server = livekit_servers[0]
    error = await raised_by_connect(red.url, server.key, server.secret)
    assert meaning(error) == meaning(error.message) == (Blame.SERVER, cause)


async def test_pythons_connect_to_nobody() -> None:
    async with unserved() as port:
        error = await raised_by_connect(f"ws://127.0.0.1:{port}", "key", SECRET)
    assert meaning(error) == (Blame.SERVER, Cause.DOWN)


async def test_pythons_connect_with_a_bad_token(
    red: Injector, livekit_servers: list[LocalServer]
) -> None:
    error = await raised_by_connect(red.url, livekit_servers[0].key, SECRET)
    assert meaning(error) == (Blame.CALLER, None)


@pytest.mark.parametrize(("status", "code", "text", "cause"), CALLS)
async def test_pythons_calls(
    red: Injector,
    livekit_servers: list[LocalServer],
    status: int,
    code: str,
    text: str,
    cause: Cause,
) -> None:
    answers_calls(red, status, code, text)
    server = livekit_servers[0]
    async with api.LiveKitAPI(red.url, server.key, server.secret) as lk:
        with pytest.raises(TwirpError) as raised:
            await lk.room.list_rooms(api.ListRoomsRequest())
    assert meaning(raised.value) == (Blame.SERVER, cause)


@pytest.mark.needs("node")
@pytest.mark.parametrize(("status", "code", "text", "cause"), CALLS)
async def test_nodes_calls(
    red: Injector,
    livekit_servers: list[LocalServer],
    status: int,
    code: str,
    text: str,
    cause: Cause,
) -> None:
    answers_calls(red, status, code, text)
    server = livekit_servers[0]
    error = (await node.rooms(red.url, server.key, server.secret, "list"))["error"]
    for told in (error["status"], error["code"]):
        assert meaning(error["message"], told) == (Blame.SERVER, cause)


@pytest.mark.needs("node")
async def test_nodes_calls_of_nobody() -> None:
    async with unserved() as port:
        error = (await node.rooms(f"http://127.0.0.1:{port}", "key", SECRET, "list"))["error"]
    assert meaning(error["message"], error.get("status")) == (Blame.SERVER, Cause.DOWN)


def answers_calls(red: Injector, status: int, code: str, text: str) -> None:
    body = f'{{"code": "{code}", "msg": "{text}"}}'
    red.answers(calls, status, body, headers={"Content-Type": "application/json"})
