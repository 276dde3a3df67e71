"""Raised: what the SDKs' own exceptions say, once they are told apart."""

from __future__ import annotations

import asyncio
import errno
import os
from http import HTTPStatus

import aiohttp
import pytest
from livekit import api, rtc

from livekit_pool.core.document import Cause
from livekit_pool.core.faults import Blame, Classified, Surface, classify
from livekit_pool.driver.raised import LONGEST_TEXT, Raised
from tests.upstream.test_probe import unserved


def meaning(error: BaseException | str, code: str | int | None = None) -> Classified:
    raised = Raised.of(error, code)
    return classify(Surface.CLIENT, status=raised.status, code=raised.code, text=raised.text)


@pytest.mark.parametrize("code", [1, 2, 5, 6])
def test_the_number_of_a_javascript_error_does_not_overrule_its_text(code: int) -> None:
    """livekit-client: its `ConnectionError` has the code 1 always, and numbers of its own."""
    text = "could not establish signal connection: Encountered websocket error"
    assert (meaning(text, code).blame, meaning(text, code).cause) == (Blame.SERVER, Cause.DOWN)
    assert meaning("", code).blame is Blame.CALLER, "a DisconnectReason comes without a text"
    assert meaning(text, "DUPLICATE_IDENTITY").blame is Blame.CALLER, "a name can only be one"


@pytest.mark.parametrize(
    ("text", "blame", "cause"),
    [
        ("invalid token: x.y.z, error: token is expired", Blame.CALLER, None),
        ("requested room does not exist", Blame.CALLER, None),
        ("room connection has timed out (signal)", Blame.SERVER, Cause.TIMEOUT),
        ("Encountered websocket error during connection establishment", Blame.SERVER, Cause.DOWN),
        ("Failed to fetch", Blame.SERVER, Cause.DOWN),
    ],
)
def test_the_name_of_a_javascript_error_does_not_overrule_its_text(
    text: str, blame: Blame, cause: Cause | None
) -> None:
    """Each failed ``connect()`` has it: tests/real/test_browser_reports.py."""
    text = f"ConnectionError: could not establish signal connection: {text}"
    for code in ("ServerUnreachable", None):
        assert (meaning(text, code).blame, meaning(text, code).cause) == (blame, cause)


@pytest.mark.parametrize(
    ("text", "blame", "cause"),
    [
        # What Python's ConnectError says, as it was seen (facts about the Rust core).
        (
            "engine: signal failure: client error: 401 Unauthorized - invalid token",
            Blame.CALLER,
            None,
        ),
        (
            "engine: signal failure: client error: 429 Too Many Requests - quota exceeded",
            Blame.SERVER,
            Cause.QUOTA,
        ),
        (
            "engine: signal failure: server error: 503 Service Unavailable - node has exceeded its"
            " configured limit",
            Blame.SERVER,
            Cause.CONNECTION_LIMIT,
        ),
        (
            "engine: signal failure: transport connection error: IO error: Connection refused (os"
            " error 111)",
            Blame.SERVER,
            Cause.DOWN,
        ),
        ("signal connection timed out", Blame.SERVER, Cause.TIMEOUT),
    ],
)
def test_a_connect_error_says_it_in_its_message(
    text: str, blame: Blame, cause: Cause | None
) -> None:
    for error in (rtc.ConnectError(text), text):
        assert (meaning(error).blame, meaning(error).cause) == (blame, cause)


def test_a_twirp_error_says_it_by_its_code_and_status() -> None:
    error = api.TwirpError("resource_exhausted", "minutes exceeded", status=429)
    raised = Raised.of(error)
    assert (raised.status, raised.code, raised.text) == (
        429,
        "resource_exhausted",
        "minutes exceeded",
    )
    assert meaning(error).cause is Cause.QUOTA
    assert meaning(api.TwirpError("not_found", "no such room", status=404)).blame is Blame.CALLER


def test_an_exception_behind_counts_too() -> None:
    def fails() -> None:
        try:
            raise api.TwirpError("unavailable", "down for repair", status=503)
        except api.TwirpError as error:
            raise RuntimeError("the meeting could not be opened") from error

    with pytest.raises(RuntimeError) as failed:
        fails()
    raised = Raised.of(failed.value)
    assert (raised.status, raised.code) == (503, "unavailable")
    assert raised.text == "the meeting could not be opened: down for repair"


async def test_errors_of_aiohttp_and_of_the_system() -> None:
    async with unserved() as port, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await session.get(f"http://127.0.0.1:{port}/")
    assert meaning(refused.value).cause is Cause.DOWN
    with pytest.raises(TimeoutError) as late:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)
    assert meaning(late.value).cause is Cause.TIMEOUT
    reset = OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    assert meaning(reset).cause is Cause.DOWN


@pytest.mark.parametrize(
    ("code", "blame", "cause"),
    [
        (429, Blame.SERVER, Cause.RATE_LIMIT),
        (HTTPStatus.SERVICE_UNAVAILABLE, Blame.SERVER, Cause.DOWN),
        (2, Blame.CALLER, None),  # DUPLICATE_IDENTITY
        (3, Blame.SERVER, Cause.DOWN),  # SERVER_SHUTDOWN
        (5, Blame.CALLER, None),  # ROOM_DELETED
        ("PARTICIPANT_REMOVED", Blame.CALLER, None),
        ("ServerUnreachable", Blame.SERVER, Cause.DOWN),
        ("resource_exhausted", Blame.SERVER, Cause.RATE_LIMIT),
        (99, Blame.NOBODY, None),
        (600, Blame.NOBODY, None),
        (True, Blame.NOBODY, None),
        (None, Blame.NOBODY, None),
    ],
)
def test_a_code_beside_a_text(code: str | int | None, blame: Blame, cause: Cause | None) -> None:
    assert (meaning("it failed", code).blame, meaning("it failed", code).cause) == (blame, cause)


def test_no_more_than_the_beginning_is_looked_at() -> None:
    assert len(Raised.of("x" * 2**20).text) == LONGEST_TEXT
    assert len(Raised.of(ValueError("x" * 2**20)).text) == LONGEST_TEXT
    looped = ValueError("round")
    looped.__cause__ = looped
    assert Raised.of(looped).text.count("round") == 5
    assert "xxx" not in repr(Raised.of("xxx"))
