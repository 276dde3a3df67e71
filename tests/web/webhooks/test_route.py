"""``POST /pool/webhook``: what is taken in, what is refused, and that nothing of it is logged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from livekit_pool import observe
from livekit_pool.tokens import KeyPair
from livekit_pool.web.answers import handlers
from livekit_pool.web.app import create_app
from livekit_pool.web.webhooks import route
from livekit_pool.web.webhooks.desk import Desk, Outcome
from livekit_pool.web.webhooks.route import LARGEST_EVENT
from tests.web.asking import client_of, error, settings
from tests.web.fake_pool import ADMIN, FakePool
from tests.web.served import serving, until
from tests.web.webhooks.livekits import (
    BLUE,
    GREEN,
    LEFT,
    POOL,
    RED,
    SERVERS,
    STRANGER,
    body_of,
    event,
    signature,
)
from tests.web.webhooks.receiver import Receiver, receiving

BODY = body_of(LEFT)
BODY_TIME = 2.0  # seconds for a body: enough for 1 MB where the machine is busy


class Taking:
    """The route alone, with its desk."""

    def __init__(self, *urls: str) -> None:
        self.pool = FakePool(settings(servers=SERVERS, webhook_urls=urls))
        self.desk = Desk(self.pool.pool, self.pool.settings)
        self.app = FastAPI(exception_handlers=handlers())
        self.app.include_router(route.router(self.desk, body_time=BODY_TIME))

    async def post(
        self,
        body: Any = BODY,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
    ) -> httpx.Response:
        """Post as LiveKit does, but for what is given."""
        sent = {"Content-Type": "application/webhook+json"}
        token = signature(body) if token is None else token
        if token:
            sent["Authorization"] = token
        async with client_of(self.app) as client:
            return await client.post(
                f"/pool/webhook{query}", content=body, headers={**sent, **(headers or {})}
            )


@pytest.fixture
async def taking() -> AsyncIterator[Taking]:
    taking = Taking()
    yield taking
    await taking.desk.aclose()


@pytest.fixture
async def passing() -> AsyncIterator[tuple[Taking, Receiver]]:
    """The same, and a receiver that it passes on to."""
    async with receiving() as receiver:
        taking = Taking(receiver.url)
        yield taking, receiver
        await taking.desk.aclose()


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged; never anything of an event, a token or a secret."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    told = " ".join(f"{r.getMessage()} {vars(r).get('fields')}" for r in caplog.records)
    for secret in ("alice", "standup", "EV_", "eyJ", RED.secret, STRANGER.secret, "of-the-url"):
        assert secret not in told


def refusals(log: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [
        vars(record)["fields"]
        for record in log.records
        if record.getMessage() == observe.WEBHOOK_REFUSED
    ]


# -- taken in --


async def test_an_event_is_passed_on_with_its_server_and_revision(
    passing: tuple[Taking, Receiver], log: pytest.LogCaptureFixture
) -> None:
    taking, receiver = passing
    answer = await taking.post()
    assert (answer.status_code, answer.content) == (200, b"")
    # Go's client keeps a connection whose answer has no body, and sends the next event over it.
    assert answer.headers["content-length"] == "0"
    await receiver.has(1)
    assert receiver.taken == [{**LEFT, "server": "red", "revision": 7}]
    assert taking.desk.outcomes == {Outcome.COUNTED: 1}
    assert refusals(log) == []


def witnessed(taking: Taking) -> list[Mapping[str, Any]]:
    """What the ledger was told."""
    return [arguments for name, arguments in taking.pool.calls if name == "witness"]


async def test_the_ledger_is_told_once(taking: Taking) -> None:
    for _ in range(3):
        assert (await taking.post()).is_success
    assert witnessed(taking) == [
        {
            "server": "red",
            "event": "participant_left",
            "sid": "PA_one",
            "joined_ms": 1_800_000_010_250,
            "created": 1_800_000_070,
            "kind": "STANDARD",
        }
    ]


async def test_the_pools_own_verifications_are_counted_and_not_passed_on(
    passing: tuple[Taking, Receiver],
) -> None:
    taking, receiver = passing
    room = {"sid": "RM_own", "name": "livekit-pool-probe-00c0ffee"}
    own = body_of({**LEFT, "id": "EV_own", "room": room})
    assert (await taking.post(own)).is_success
    assert (await taking.post()).is_success
    await receiver.has(1)
    assert receiver.ids == ["EV_left"]
    assert len(witnessed(taking)) == 2


async def test_each_server_by_its_key(passing: tuple[Taking, Receiver]) -> None:
    taking, receiver = passing
    for server in (RED, GREEN):
        body = body_of(event(id=f"EV_{server.name}"))
        assert (await taking.post(body, signature(body, server))).is_success
    await receiver.has(2)
    assert [got["server"] for got in receiver.taken] == ["red", "green"]


async def test_several_servers_with_one_key(passing: tuple[Taking, Receiver]) -> None:
    taking, receiver = passing
    for number, query in enumerate(("", "?server=cyan", "?server=blue", "?server=red")):
        body = body_of(event(id=f"EV_{number}"))
        answer = await taking.post(body, signature(body, BLUE), query=query)
        assert answer.status_code == (401 if query == "?server=red" else 200)
    taking.pool.placed["standup"] = "cyan"
    body = body_of(event(id="EV_placed"))
    assert (await taking.post(body, signature(body, BLUE))).is_success
    await receiver.has(4)
    assert [got["server"] for got in receiver.taken] == [None, "cyan", "blue", "cyan"]
    assert [told["server"] for told in witnessed(taking)] == ["cyan", "blue", "cyan"]
    assert taking.desk.outcomes == {
        Outcome.UNDECIDED: 1,
        Outcome.COUNTED: 3,
        Outcome.WRONG_KEY: 1,
    }


async def test_an_event_of_tomorrow_is_passed_on_and_not_counted(
    passing: tuple[Taking, Receiver], log: pytest.LogCaptureFixture
) -> None:
    taking, receiver = passing
    body = body_of(event("agent_job_started", job={"id": "AJ_1", "n": "9223372036854775807"}))
    assert (await taking.post(body)).is_success
    await receiver.has(1)
    assert receiver.taken[0]["job"] == {"id": "AJ_1", "n": "9223372036854775807"}
    assert taking.desk.outcomes == {Outcome.UNKNOWN_KIND: 1}
    assert observe.WEBHOOK_UNKNOWN in log.messages
    assert witnessed(taking) == []


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "multipart/form-data"])
async def test_what_it_is_called_does_not_matter(taking: Taking, kind: str) -> None:
    # It is signed by the server; a proxy on the way may call it otherwise.
    assert (await taking.post(headers={"Content-Type": kind})).is_success
    assert taking.desk.outcomes == {Outcome.COUNTED: 1}


async def test_no_receiver_keeps_a_server_waiting(passing: tuple[Taking, Receiver]) -> None:
    taking, receiver = passing
    receiver.gate = asyncio.Event()
    for number in range(20):
        body = body_of(event(id=f"EV_{number}"))
        assert (await taking.post(body)).is_success
    assert receiver.got == []
    receiver.gate.set()
    await receiver.has(20)


# -- again --


async def test_the_same_event_again_is_answered_and_nothing_more(
    passing: tuple[Taking, Receiver], log: pytest.LogCaptureFixture
) -> None:
    taking, receiver = passing
    token = signature(BODY)
    for sent in (token, token, signature(BODY)):
        assert (await taking.post(token=sent)).is_success
    other = body_of({**LEFT, "id": "EV_other"})
    assert (await taking.post(other)).is_success
    await receiver.has(2)
    assert receiver.ids == ["EV_left", "EV_other"]
    assert taking.desk.outcomes == {Outcome.COUNTED: 2, Outcome.REPLAYED: 2}
    assert log.messages.count(observe.WEBHOOK_REPLAYED) == 1, "one line for all of them"


async def test_the_id_of_another_servers_event_is_another_one(
    passing: tuple[Taking, Receiver],
) -> None:
    taking, receiver = passing
    for server in (GREEN, RED):
        assert (await taking.post(token=signature(BODY, server))).is_success
    await receiver.has(2)


async def test_without_an_id_the_body_tells(passing: tuple[Taking, Receiver]) -> None:
    taking, receiver = passing
    for number in (1, 2, 1):
        body = body_of({"event": "room_started", "n": number})
        assert (await taking.post(body)).is_success
    await receiver.has(2)
    assert taking.desk.outcomes == {Outcome.COUNTED: 2, Outcome.REPLAYED: 1}


async def test_an_event_is_forgotten_when_its_token_has_ended(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("EV_left", "EV_other"):
        assert (await taking.post(body_of({**LEFT, "id": each}))).is_success
    later = time.time() + 361
    monkeypatch.setattr(time, "time", lambda: later)
    for each in ("EV_left", "EV_new"):  # signed anew, which only its server can do
        assert (await taking.post(body_of({**LEFT, "id": each}))).is_success
    assert taking.desk.outcomes == {Outcome.COUNTED: 4}
    assert len(taking.desk._seen) == 2


# -- refused --

# Functions, since a token that was made when the tests were collected may have expired by now.
REFUSED: list[tuple[Callable[[], str], Outcome]] = [
    (lambda: "", Outcome.UNSIGNED),
    (lambda: "Bearer x", Outcome.MALFORMED),
    (lambda: "x" * 9000, Outcome.MALFORMED),
    (lambda: signature(BODY, STRANGER), Outcome.WRONG_KEY),
    (lambda: signature(BODY, KeyPair(key=RED.key, secret=STRANGER.secret)), Outcome.WRONG_KEY),
    (lambda: signature(BODY, POOL), Outcome.WRONG_KEY),  # what it signs itself, and opens all else
    (lambda: ADMIN["Authorization"], Outcome.WRONG_KEY),
    (lambda: signature(b"another"), Outcome.WRONG_BODY),
    (lambda: signature(BODY + b" "), Outcome.WRONG_BODY),
    (lambda: signature(BODY, sha256=None), Outcome.WRONG_BODY),
    (lambda: signature(BODY, exp=int(time.time()) - 61), Outcome.EXPIRED),
    (lambda: signature(BODY, nbf=int(time.time()) + 3600), Outcome.NOT_YET_VALID),
]


@pytest.mark.parametrize(("token", "outcome"), REFUSED)
async def test_what_is_not_signed_by_a_server_is_refused(
    passing: tuple[Taking, Receiver],
    log: pytest.LogCaptureFixture,
    token: Callable[[], str],
    outcome: Outcome,
) -> None:
    taking, receiver = passing
    answer = await taking.post(token=token())
    assert error(answer)[0] == 401
    assert "eyJ" not in answer.text
    assert taking.desk.outcomes == {outcome: 1}
    assert refusals(log) == [{"why": str(outcome), "count": 1}]
    assert witnessed(taking) == []
    # The same body with its true signature is not a replay.
    assert (await taking.post()).is_success
    await receiver.has(1)


@pytest.mark.parametrize("body", [b"", b"alice", b"[]", b'{"room": {}}', b"\xff", b"[" * 9000])
async def test_what_is_signed_and_no_event_is_refused(
    taking: Taking, log: pytest.LogCaptureFixture, body: bytes
) -> None:
    assert error(await taking.post(body)) == (400, "bad_request")
    assert taking.desk.outcomes == {Outcome.NOT_AN_EVENT: 1}
    assert refusals(log) == [{"why": "not_an_event", "count": 1}]


async def test_a_flood_is_a_few_lines(taking: Taking, log: pytest.LogCaptureFixture) -> None:
    for _ in range(200):
        await taking.post(token="x")
        await taking.post(b"{}")
    assert refusals(log) == [
        {"why": "malformed", "count": 1},
        {"why": "not_an_event", "count": 1},
    ]
    assert taking.desk.outcomes == {Outcome.MALFORMED: 200, Outcome.NOT_AN_EVENT: 200}
    await taking.desk.aclose()
    assert refusals(log)[2:] == [
        {"why": "malformed", "count": 199},
        {"why": "not_an_event", "count": 199},
    ]


# -- size and time, over real connections --


@contextlib.asynccontextmanager
async def served(taking: Taking) -> AsyncIterator[Any]:
    async with serving(taking.app, lifespan="off") as there:
        yield there


def head(token: str, *lines: str) -> bytes:
    fixed = ["POST /pool/webhook HTTP/1.1", "Host: pool", "Connection: close"]
    return "\r\n".join([*fixed, f"Authorization: {token}", *lines, "", ""]).encode()


async def test_ten_megabytes_are_refused_before_they_are_read(taking: Taking) -> None:
    async with served(taking) as there:
        announced = head(signature(b""), f"Content-Length: {10 * 2**20}")
        # Nothing of it is sent: whoever waited for it would answer 408.
        assert (await there.ask(announced)).startswith(b"HTTP/1.1 413")
    assert taking.desk.outcomes == {Outcome.TOO_LARGE: 1}


async def test_ten_megabytes_that_were_not_announced_are_cut_off(taking: Taking) -> None:
    async with served(taking) as there:
        connection = await there.connect()
        connection.writer.write(head(signature(b""), "Transfer-Encoding: chunked"))
        piece = b"%x\r\n%s\r\n" % (2**16, b"x" * 2**16)
        sent = 0
        with contextlib.suppress(ConnectionError):
            for _ in range(160):
                connection.writer.write(piece)
                sent += 2**16
                await asyncio.wait_for(connection.writer.drain(), 2)
                if taking.desk.outcomes:
                    break
        await until(lambda: taking.desk.outcomes == {Outcome.TOO_LARGE: 1})
        assert sent < 8 * 2**20
        connection.close()


async def test_unsigned_megabytes_are_refused_before_they_are_read(taking: Taking) -> None:
    async with served(taking) as there:
        for lines in ((f"Content-Length: {LARGEST_EVENT}",), ("Transfer-Encoding: chunked",)):
            answer = await there.ask(head(signature(b"", STRANGER), *lines))
            assert answer.startswith(b"HTTP/1.1 401")


async def test_the_largest_event_is_taken(taking: Taking) -> None:
    room = {"metadata": ""}
    missing = LARGEST_EVENT - len(body_of(event(room=room)))
    body = body_of(event(room={"metadata": "x" * missing}))
    assert len(body) == LARGEST_EVENT
    assert (await taking.post(body)).is_success
    assert error(await taking.post(body + b" ")) == (413, "too_large")


async def test_an_event_that_does_not_arrive_is_not_waited_for(taking: Taking) -> None:
    async with served(taking) as there:
        connection = await there.connect()
        connection.writer.write(head(signature(BODY), f"Content-Length: {len(BODY)}") + BODY[:-1])
        assert (await connection.rest()).startswith(b"HTTP/1.1 408")
    assert taking.desk.outcomes == {Outcome.TOO_SLOW: 1}


async def test_a_server_that_hangs_up_is_no_error(
    taking: Taking, log: pytest.LogCaptureFixture
) -> None:
    app = create_app(taking.pool.pool)
    async with serving(app) as there:
        connection = await there.connect()
        connection.writer.write(head(signature(BODY), f"Content-Length: {len(BODY)}") + BODY[:-1])
        await connection.writer.drain()
        connection.writer.transport.abort()
        async with httpx.AsyncClient(base_url=there.url) as client:
            sent = {"Authorization": signature(BODY)}
            answer = await client.post("/pool/webhook", content=BODY, headers=sent)
    assert answer.status_code == 200
    assert not [record for record in log.records if record.levelno >= logging.ERROR]


# -- in the application --


async def test_the_application_passes_on_and_closes_with_all_delivered() -> None:
    async with receiving() as receiver:
        pool = FakePool(settings(servers=SERVERS, webhook_urls=(receiver.url,)))
        async with serving(create_app(pool.pool)) as there:
            receiver.gate = asyncio.Event()
            async with httpx.AsyncClient(base_url=there.url) as client:
                for number in range(10):
                    body = body_of(event(id=f"EV_{number}"))
                    sent = {"Authorization": signature(body)}
                    assert (
                        await client.post("/pool/webhook", content=body, headers=sent)
                    ).is_success
            asyncio.get_running_loop().call_later(0.3, receiver.gate.set)
        assert receiver.ids == [f"EV_{number}" for number in range(10)]


async def test_no_page_of_another_site_may_use_it() -> None:
    pool = FakePool(settings(servers=SERVERS))
    async with client_of(pool) as client:
        origin = {"Origin": "https://app.example"}
        preflight = {**origin, "Access-Control-Request-Method": "POST"}
        asked = await client.options("/pool/webhook", headers=preflight)
        sent = {**origin, "Authorization": signature(BODY)}
        posted = await client.post("/pool/webhook", content=BODY, headers=sent)
        got = await client.get("/pool/webhook")
    assert asked.status_code == 405
    assert posted.is_success
    assert error(got) == (405, "method_not_allowed")
    for answer in (asked, posted):
        assert not [name for name in answer.headers if name.startswith("access-control")]
