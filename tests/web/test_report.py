"""Reports of clients: who may, what is refused and counted, and that nothing of them is kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from livekit_pool import observe
from livekit_pool.driver.reports import Reported, Standing
from livekit_pool.exceptions import (
    NoAnswer,
    PoolError,
    RevisionConflict,
    StoreUnavailable,
    TooManyReports,
    UnknownServer,
)
from livekit_pool.tokens import KeyPair, participant_token
from livekit_pool.web.addresses import neighbourhood
from livekit_pool.web.app import create_app
from tests.web.asking import client_of, error
from tests.web.fake_pool import ADMIN, MAKER, PARTICIPANT, VIEWER, FakePool
from tests.web.served import serving

Refused = Callable[[], list[tuple[str, int]]]

TOLD: dict[str, Any] = {"server": "green", "revision": 7, "error": "websocket error"}
PATH = "/pool/report"


@pytest.fixture
def refused(caplog: pytest.LogCaptureFixture) -> Refused:
    """What the log was told of refused reports: why, and how many."""
    caplog.set_level(logging.INFO, logger="livekit_pool")

    def told() -> list[tuple[str, int]]:
        lines = [record for record in caplog.records if record.msg == observe.REPORT_REFUSED]
        fields = [dict(vars(line)["fields"]) for line in lines]
        return [(each.pop("why"), each.pop("count")) for each in fields if len(each) == 2]

    return told


async def test_a_report_is_passed_on_and_verified(refused: Refused) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        answer = await client.post(PATH, json={**TOLD, "code": "unavailable"}, headers=PARTICIPANT)

    assert answer.status_code == 202
    assert answer.json() == {"status": "verifying", "revision": 7, "active": "green"}
    assert pool.calls == [
        (
            "report",
            {
                **TOLD,
                "code": "unavailable",
                "reporter": "\nstandup\nalice",
                "address": "203.0.113.9",
            },
        )
    ]
    assert not refused()


@pytest.mark.parametrize(
    "standing", [Standing.ALREADY_HANDLED, Standing.NOT_ITS_FAULT, Standing.DISMISSED]
)
async def test_a_report_that_starts_nothing_is_200(standing: Standing) -> None:
    pool = FakePool()
    pool.reported = Reported(status=standing, revision=8, active="blue")
    async with client_of(pool) as client:
        answer = await client.post(PATH, json=TOLD, headers=PARTICIPANT)

    assert answer.status_code == 200
    assert answer.json() == {"status": standing.value, "revision": 8, "active": "blue"}


@pytest.mark.parametrize("headers", [ADMIN, VIEWER, MAKER, PARTICIPANT])
async def test_any_token_of_the_pools_key_may_report(headers: dict[str, str]) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        assert (await client.post(PATH, json=TOLD, headers=headers)).status_code == 202


async def test_two_kinds_of_token_are_two_reporters() -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        for headers in (ADMIN, VIEWER, PARTICIPANT):
            await client.post(PATH, json=TOLD, headers=headers)
    assert len({told["reporter"] for _, told in pool.calls}) == 3


STRANGER = participant_token(
    KeyPair(key="APIpool", secret="x" * 40), identity="alice", room="standup"
)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "token_missing"),
        ({"Authorization": "Basic YTpi"}, "unauthorized"),
        ({"Authorization": "Bearer nonsense"}, "token_malformed"),
        ({"Authorization": f"Bearer {STRANGER}"}, "token_wrong_key"),
    ],
)
async def test_who_has_no_token_may_not(
    headers: dict[str, str], code: str, refused: Refused
) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        answer = await client.post(PATH, json=TOLD, headers=headers)

    assert error(answer) == (401, code)
    assert (pool.calls, refused()) == ([], [(code, 1)])


async def test_a_token_in_the_query_opens_nothing() -> None:
    pool = FakePool()
    token = PARTICIPANT["Authorization"].removeprefix("Bearer ")
    async with client_of(pool) as client:
        answer = await client.post(f"{PATH}?access_token={token}", json=TOLD)
    assert error(answer) == (401, "token_missing")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"server": ...}, "server is missing."),
        ({"revision": ...}, "revision is missing."),
        ({"error": ...}, "error is missing."),
        ({"server": ""}, "server is wrong"),
        ({"server": 7}, "server is wrong"),
        ({"server": "x" * 301}, "server is wrong"),
        ({"revision": "7"}, "revision is wrong"),
        ({"revision": -1}, "revision is wrong"),
        ({"revision": 1.5}, "revision is wrong"),
        ({"revision": True}, "revision is wrong"),
        ({"error": ""}, "error is wrong"),
        ({"error": None}, "error is wrong"),
        ({"error": "x" * 4097}, "error is wrong: string should have at most 4096 characters."),
        ({"code": 1.5}, "code"),
        ({"code": "x" * 301}, "code"),
        ({"reason": "because"}, "reason is wrong"),
    ],
)
async def test_wrong_fields_are_refused_and_named(
    change: dict[str, Any], says: str, refused: Refused
) -> None:
    told = {key: value for key, value in {**TOLD, **change}.items() if value is not ...}
    pool = FakePool()
    async with client_of(pool) as client:
        answer = await client.post(PATH, json=told, headers=PARTICIPANT)

    assert error(answer) == (400, "bad_request")
    assert answer.json()["error"]["message"].startswith(says)
    assert (pool.calls, refused()) == ([], [("bad_request", 1)])


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 10_000, b'{"server": NaN}', b"null"]
)
async def test_what_is_no_json_object_is_refused(body: bytes, refused: Refused) -> None:
    pool = FakePool()
    headers = {**PARTICIPANT, "Content-Type": "application/json"}
    async with client_of(pool) as client:
        answer = await client.post(PATH, content=body, headers=headers)
    assert error(answer) == (400, "bad_request")
    assert refused() == [("bad_request", 1)]


@pytest.mark.parametrize("announced", [True, False])
async def test_megabytes_are_refused_before_they_are_read(
    announced: bool, refused: Refused
) -> None:
    """By a real server, over a real connection, also where nobody says how many there are."""
    pool = FakePool()
    body = json.dumps({**TOLD, "error": "x" * 10 * 2**20}).encode()
    token = PARTICIPANT["Authorization"]
    head = f"POST {PATH} HTTP/1.1\r\nHost: pool\r\nAuthorization: {token}\r\nConnection: close\r\n"
    head += "Content-Type: application/json\r\n"
    async with serving(create_app(pool.pool)) as served:
        if announced:
            answer = await served.ask(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        else:
            part = body[:100_000]
            answer = await served.ask(
                f"{head}Transfer-Encoding: chunked\r\n\r\n{len(part):x}\r\n".encode() + part
            )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large","message":"The body is larger than 64 KiB."' in answer
    assert (pool.calls, refused()) == ([], [("too_large", 1)])


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (UnknownServer("No server has that name."), 404),
        (RevisionConflict("The document is at revision 7.", revision=7), 409),
        (StoreUnavailable("The store does not answer."), 503),
        (NoAnswer("There is no document yet."), 503),
        (TooManyReports("These are too many.", retry_after=3.2), 429),
    ],
)
async def test_refusals_have_their_status(raised: PoolError, status: int, refused: Refused) -> None:
    pool = FakePool()
    pool.reported = raised
    async with client_of(pool) as client:
        answer = await client.post(PATH, json=TOLD, headers=PARTICIPANT)

    assert error(answer) == (status, raised.code)
    wait = {429: "4", 503: "2"}.get(status)
    assert answer.headers.get("Retry-After") == wait
    assert answer.json()["error"].get("revision") == (7 if status == 409 else None)
    assert refused() == [(raised.code, 1)]


async def test_a_flood_of_refusals_is_one_line_and_counted(refused: Refused) -> None:
    pool = FakePool()
    pool.reported = UnknownServer("No server has that name.")
    async with serving(create_app(pool.pool)) as served:
        async with httpx.AsyncClient(base_url=served.url) as client:
            for _ in range(50):
                await client.post(PATH, json=TOLD, headers=PARTICIPANT)
        assert refused() == [("unknown_server", 1)]
    assert refused() == [("unknown_server", 1), ("unknown_server", 49)]  # told at the stop


async def test_only_post_reports() -> None:
    async with client_of(FakePool()) as client:
        assert (await client.get(PATH, headers=PARTICIPANT)).status_code == 405


async def test_a_page_of_another_origin_may_report() -> None:
    """That is where most clients are; its token protects, and no cookie is looked at."""
    origin = {"Origin": "https://app.example"}
    preflight = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    async with client_of(FakePool()) as client:
        allowed = await client.options(PATH, headers=preflight)
        answer = await client.post(PATH, json=TOLD, headers={**PARTICIPANT, **origin})
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == "*"
    assert "authorization" in allowed.headers["Access-Control-Allow-Headers"]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_nothing_of_a_report_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pool = FakePool()
    told = {**TOLD, "server": "sauerkraut", "error": "sauerkraut", "code": "sauerkraut"}
    async with client_of(pool) as client:
        for change in ({}, {"revision": "sauerkraut"}, {"sauerkraut": 1}):
            answer = await client.post(PATH, json={**told, **change}, headers=PARTICIPANT)
            assert "sauerkraut" not in answer.json().get("error", {}).get("message", "") or change
    records = [record for record in caplog.records if record.name.startswith("livekit_pool")]
    assert "sauerkraut" not in str([(r.getMessage(), vars(r)) for r in records])


@pytest.mark.parametrize(
    ("address", "whole"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_a_client_has_a_whole_network_of_ipv6(address: str, whole: str) -> None:
    assert neighbourhood(address) == whole
