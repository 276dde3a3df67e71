"""Whose an event is."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from livekit_pool.exceptions import NoAnswer, StoreUnavailable, TokenError
from livekit_pool.stores.base import Placement
from livekit_pool.tokens import KeyPair, Refusal, check_body
from livekit_pool.web.webhooks import signer as module
from livekit_pool.web.webhooks.event import parsed
from livekit_pool.web.webhooks.signer import LONGEST_TOKEN, Signer
from tests.turned_clock import run
from tests.web.fake_pool import FakePool
from tests.web.webhooks.livekits import (
    BLUE,
    CYAN,
    GREEN,
    RED,
    SERVERS,
    STRANGER,
    TEAL,
    body_of,
    event,
    signature,
)

BODY = body_of(event())
NOW = int(time.time())


@pytest.fixture
def pool() -> FakePool:
    return FakePool()


@pytest.fixture
def signer(pool: FakePool) -> Signer:
    return Signer(SERVERS, pool.placement)


@pytest.mark.parametrize("scheme", ["", "Bearer ", "bearer "])
def test_the_key_tells_the_server(signer: Signer, scheme: str) -> None:
    for server in (RED, GREEN):
        names, claims = signer.verified(scheme + signature(BODY, server))
        assert names == (server.name,)
        check_body(claims, BODY)


def test_one_key_and_two_secrets(signer: Signer) -> None:
    assert signer.verified(signature(BODY, TEAL))[0] == ("teal",)
    assert signer.verified(signature(BODY, BLUE))[0] == ("blue", "cyan")


def test_the_address_tells_which_of_several(signer: Signer) -> None:
    assert signer.verified(signature(BODY, BLUE), "cyan")[0] == ("cyan",)
    assert signer.verified(signature(BODY, RED), "red")[0] == ("red",)
    for other in ("red", "teal", "", "nobody"):
        with pytest.raises(TokenError, match="another server than its address names") as caught:
            signer.verified(signature(BODY, BLUE), other)
        assert caught.value.code == Refusal.WRONG_KEY


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("", Refusal.MISSING),
        ("Bearer ", Refusal.MISSING),
        ("Bearer", Refusal.MISSING),
        ("Basic YTpi", Refusal.MALFORMED),
        ("x" * (LONGEST_TOKEN + 1), Refusal.TOO_LONG),
        (signature(BODY, STRANGER), Refusal.WRONG_KEY),
        (signature(BODY, KeyPair(key=RED.key, secret=STRANGER.secret)), Refusal.WRONG_KEY),
        (signature(BODY, KeyPair(key=STRANGER.key, secret=RED.secret)), Refusal.WRONG_KEY),
        (signature(BODY, KeyPair(key=RED.key, secret=GREEN.secret)), Refusal.WRONG_KEY),
        (signature(BODY, KeyPair(key=RED.key, secret=RED.secret * 2), algorithm="HS512"),
         Refusal.MALFORMED),
        (signature(BODY, exp=None), Refusal.MALFORMED),
        (signature(BODY, exp="soon"), Refusal.MALFORMED),
        (signature(BODY, sha256=7), Refusal.MALFORMED),
        (signature(BODY, exp=NOW - 61), Refusal.EXPIRED),
        (signature(BODY, nbf=NOW + 65), Refusal.NOT_YET_VALID),
    ],
)  # fmt: skip
def test_all_else_is_refused(signer: Signer, token: str, code: Refusal) -> None:
    with pytest.raises(TokenError) as caught:
        signer.verified(token, now=NOW)
    assert caught.value.code == code
    assert str(caught.value).endswith(".")
    assert token[-20:] not in str(caught.value) or not token


def test_the_clocks_may_differ_by_a_minute(signer: Signer) -> None:
    signer.verified(signature(BODY, nbf=NOW, exp=NOW - 59), now=NOW)
    signer.verified(signature(BODY, nbf=NOW + 59), now=NOW)


# -- one key, several servers --

SHARED = (BLUE.name, CYAN.name)


async def server_of(signer: Signer, sid: str, room: str = "standup") -> str | None:
    data = event(room={"sid": sid, "name": room})
    return await signer.server_of(parsed(body_of(data)), SHARED)


async def test_nobody_is_asked_where_the_key_tells(signer: Signer, pool: FakePool) -> None:
    assert await signer.server_of(parsed(BODY), ("red",)) == "red"
    assert not pool.calls


async def test_the_placement_tells_and_then_the_session(signer: Signer, pool: FakePool) -> None:
    pool.placed["standup"] = "blue"
    assert await server_of(signer, "RM_blue") == "blue"
    pool.placed["standup"] = "cyan"
    # What the old server still says of the session that was moved away is not the new one's.
    assert await server_of(signer, "RM_blue") == "blue"
    assert await server_of(signer, "RM_cyan") == "cyan"


async def test_what_nothing_tells_stays_open(signer: Signer, pool: FakePool) -> None:
    assert await server_of(signer, "RM_one") is None
    assert await server_of(signer, "RM_one", room="") is None
    pool.placed["standup"] = "red"  # has another key
    assert await server_of(signer, "RM_one") is None
    pool.placed["standup"] = "blue"
    for error in (StoreUnavailable("away"), NoAnswer("none")):
        pool.error = error
        assert await server_of(signer, "RM_one") is None
    pool.error = None
    assert await server_of(signer, "RM_one") == "blue"


def test_a_store_that_hangs_holds_up_one_event_each_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All events come one after the other: what one waits, all behind it do."""
    asked: list[float] = []

    async def hangs(room: str) -> Placement | None:
        asked.append(asyncio.get_running_loop().time())
        await asyncio.Event().wait()
        return None

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))
        signer = Signer(SERVERS, hangs)
        assert await server_of(signer, "RM_one") is None
        assert loop.time() == pytest.approx(1.0)
        for number in range(20):
            assert await server_of(signer, f"RM_{number}") is None
        assert loop.time() == pytest.approx(1.0)
        await asyncio.sleep(10)
        assert await server_of(signer, "RM_one") is None
        assert asked == pytest.approx([0.0, 11.0])

    run(main())
