"""What livekit-client raises in Chromium, reported as docs/http-api.md says, is understood."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from livekit import api

from livekit_pool.core.document import Cause
from livekit_pool.core.faults import Blame, Surface, classify
from livekit_pool.driver.raised import Raised
from livekit_pool.local import LocalServer, reserve_port
from tests.real.browser.tab import HERE, Browser
from tests.real.call import make_token
from tests.real.injector import Injector, signalling
from tests.real.pool_process import PoolProcess
from tests.real.signal_client import SignalClients

pytestmark = pytest.mark.needs("chromium")

CODE = "const code = error.status ?? ConnectionErrorReason[error.reason];"
DOCUMENT = HERE.parents[2] / "docs" / "http-api.md"
# As LiveKit answers; else a page is not let read it.
CORS = {"Access-Control-Allow-Origin": "*"}


def meaning(error: str, code: str | int | None) -> tuple[Blame, Cause | None]:
    raised = Raised.of(error, code)
    found = classify(Surface.CLIENT, status=raised.status, code=raised.code, text=raised.text)
    return found.blame, found.cause


def understood(
    told: dict[str, Any], *, code: str | int, says: str, blame: Blame, cause: Cause | None = None
) -> None:
    """Check what livekit-client raised, and what it means with that code, another, and none."""
    assert (told["code"], told["reasonName"]) == (code, "ServerUnreachable"), told
    assert says in told["error"]
    for beside in (code, None, told["reasonName"]):
        assert meaning(told["error"], beside) == (blame, cause), (told["error"], beside)


def test_the_page_does_as_the_document_says() -> None:
    assert CODE in DOCUMENT.read_text()
    assert CODE in (HERE / "page.js").read_text()


@pytest.fixture
async def pool_of_one(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> AsyncIterator[PoolProcess]:
    async with PoolProcess(tmp_path, livekit_servers[:1], workers=1) as pool:
        yield pool
        assert not pool.leaks()


async def test_a_token_that_is_refused_is_the_pages_own_affair(
    pool_of_one: PoolProcess, livekit_servers: list[LocalServer], browser: Browser
) -> None:
    """By a real server, to which the page connects straight."""
    pool, red = pool_of_one, livekit_servers[0]
    tab = await browser.open_tab()

    told = await tab.fails_to_join(
        red.url, make_token(red.key, "not the secret" * 3, room="standup", identity="tab")
    )

    understood(told, code=401, says="invalid token", blame=Blame.CALLER)
    for code in (told["code"], told["reasonName"]):
        sent = {"server": "red", "revision": 1, "error": told["error"], "code": code}
        answer = await tab.reports(pool.http_url, pool.token("standup", "tab"), sent)
        assert answer == {"status": "not_its_fault", "revision": 1, "active": "red"}


async def test_a_full_room_is_looked_into(
    pool_of_one: PoolProcess, livekit_servers: list[LocalServer], browser: Browser
) -> None:
    """The server tells no page why: by what a page knows, it may be down."""
    pool, red = pool_of_one, livekit_servers[0]
    tokens = {who: make_token(red.key, red.secret, room="full", identity=who) for who in "ab"}
    async with api.LiveKitAPI(red.url, red.key, red.secret) as lk, SignalClients() as make:
        await lk.room.create_room(api.CreateRoomRequest(name="full", max_participants=1))
        await make(red.url, tokens["a"]).join()
        tab = await browser.open_tab()

        told = await tab.fails_to_join(red.url, tokens["b"])

    understood(told, code="WebSocket", says="websocket error", blame=Blame.SERVER, cause=Cause.DOWN)
    sent = {"server": "red", "revision": 1, **told}
    answer = await tab.reports(pool.http_url, pool.token("full", "b"), sent)
    assert answer == {"status": "verifying", "revision": 1, "active": "red"}


async def test_a_503_of_the_pool_looks_like_a_server_that_is_down(
    tmp_path: Path, livekit_servers: list[LocalServer], browser: Browser
) -> None:
    async with Injector(livekit_servers[0].port) as red:
        red.answers(signalling, 429, "quota exceeded")
        settings = {"LIVEKIT_SERVERS_0_URL": red.url}
        async with PoolProcess(tmp_path, livekit_servers[:1], settings=settings) as pool:
            tab = await browser.open_tab()

            told = await tab.fails_to_join(pool.url, pool.token("standup", "tab"))

            assert red.count(signalling) > 0

    understood(told, code="WebSocket", says="websocket error", blame=Blame.SERVER, cause=Cause.DOWN)


@pytest.mark.parametrize(
    ("happens", "code", "says", "blame", "cause"),
    [
        (
            lambda red: red.answers(signalling, 429, "quota exceeded", headers=CORS),
            "WebSocket",
            "websocket error",
            Blame.SERVER,
            Cause.DOWN,
        ),
        (
            lambda red: red.answers(signalling, 401, "permissions denied", headers=CORS),
            401,
            "permissions denied",
            Blame.CALLER,
            None,
        ),
        (
            lambda red: red.answers(signalling, 404, "requested room does not exist", headers=CORS),
            404,
            "requested room does not exist",
            Blame.CALLER,
            None,
        ),
        (
            lambda red: red.resets(signalling),
            "ServerUnreachable",
            "Failed to fetch",
            Blame.SERVER,
            Cause.DOWN,
        ),
        (
            lambda red: red.swallows(signalling),
            "Timeout",
            "timed out (signal)",
            Blame.SERVER,
            Cause.TIMEOUT,
        ),
    ],
    ids=["429", "401", "room missing", "reset", "silent"],
)
async def test_what_a_page_is_told_of_a_refusal(
    browser: Browser,
    happens: Callable[[Injector], None],
    code: str | int,
    says: str,
    blame: Blame,
    cause: Cause | None,
) -> None:
    """The status and the words of a 401, 403 and 404, and nothing of the others."""
    async with Injector(0) as red:
        happens(red)
        tab = await browser.open_tab()

        told = await tab.fails_to_join(red.url, make_token("key", "s" * 32, room="r", identity="t"))

    understood(told, code=code, says=says, blame=blame, cause=cause)


async def test_a_refused_connection(browser: Browser) -> None:
    port, held = reserve_port()
    tab = await browser.open_tab()

    with held:
        told = await tab.fails_to_join(
            f"ws://127.0.0.1:{port}", make_token("key", "s" * 32, room="r", identity="t")
        )

    understood(
        told,
        code="ServerUnreachable",
        says="Failed to fetch",
        blame=Blame.SERVER,
        cause=Cause.DOWN,
    )
