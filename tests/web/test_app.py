"""Health, CORS, errors and limits of the application; and all of it on a real pool."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import StreamingResponse

from livekit_pool.config import Settings
from livekit_pool.exceptions import StoreUnavailable
from livekit_pool.pool import Pool
from livekit_pool.servers import Server
from livekit_pool.tokens import verify
from livekit_pool.web.app import LARGEST_BODY, create_app
from tests.web.asking import client_of, error
from tests.web.fake_pool import ADMIN, MAKER, PAIR, VIEWER, FakePool
from tests.web.served import serving

# -- health --


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "//"])
async def test_the_root_answers_as_livekits_does(method: str, path: str) -> None:
    async with client_of(FakePool()) as client:
        answer = await client.request(method, f"https://pool.example{path}")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == ("OK" if method == "GET" else "")


async def test_alive_is_not_ready() -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        assert (await client.get("/pool/readyz")).status_code == 200
        pool.ready = False
        answer = await client.get("/pool/readyz")

        assert error(answer) == (503, "not_ready")
        assert int(answer.headers["retry-after"]) > 0
        assert (await client.get("/pool/livez")).status_code == 200


# -- CORS --

OPEN = ["/", "/rtc", "/rtc/v1/validate", "//rtc", "/twirp/livekit.RoomService/ListRooms"]
CLOSED = [
    "/pool/status",
    "/pool/rotate",
    "/pool/events",
    "/pool/readyz",
    "/pool/token/",
    "/pool/nothing",
    "/nothing",
]
ORIGIN = {"Origin": "https://app.example"}


@pytest.mark.parametrize("path", [*OPEN, "/pool/token"])
@pytest.mark.parametrize("method", ["HEAD", "GET", "POST", "PATCH", "DELETE"])
async def test_preflights_are_answered_as_livekit_does(path: str, method: str) -> None:
    headers = {
        **ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,x-anything",
    }
    async with client_of(FakePool()) as client:
        answer = await client.options(f"https://pool.example{path}", headers=headers)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    assert "x-anything" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-max-age"] == "86400"


@pytest.mark.parametrize("path", [*OPEN, "/pool/token"])
async def test_livekits_paths_can_be_read_from_any_page_also_errors(path: str) -> None:
    async with client_of(FakePool()) as client:
        answer = await client.get(f"https://pool.example{path}", headers=ORIGIN)

    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", CLOSED)
async def test_nothing_else_can_be_read_from_other_pages(path: str) -> None:
    async with client_of(FakePool()) as client:
        preflight = {**ORIGIN, "Access-Control-Request-Method": "POST"}
        answers = [
            await client.get(path, headers={**ORIGIN, **VIEWER})
            if path != "/pool/events"
            else await client.get(path, headers=ORIGIN),
            await client.options(path, headers=preflight),
        ]

    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]


# -- errors --


def failing(pool: FakePool) -> APIRouter:
    """Routes that fail in the ways in which routes can."""
    router = APIRouter()

    @router.get("/pool/bug")
    @router.get("/twirp/bug")
    async def bug() -> None:
        raise RuntimeError("SECRET")

    @router.get("/pool/late-bug")
    async def late_bug() -> StreamingResponse:
        async def text() -> AsyncIterator[str]:
            yield "so far"
            raise RuntimeError("SECRET")

        return StreamingResponse(text())

    @router.get("/twirp/away")
    async def away() -> None:
        raise StoreUnavailable("the store does not answer")

    @router.post("/twirp/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    return router


async def test_errors_under_pool_are_json() -> None:
    pool = FakePool()
    async with client_of(create_app(pool.pool, routers=[failing(pool)])) as client:
        assert error(await client.get("/pool/nothing")) == (404, "not_found")
        assert error(await client.get("/pool")) == (404, "not_found")
        assert error(await client.get("/pool/status/")) == (404, "not_found")
        wrong = await client.delete("/pool/status")
        assert error(wrong) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "GET"
        assert error(await client.get("/pool/bug")) == (500, "internal")
        pool.error = StoreUnavailable("The store does not answer.")
        assert error(await client.get("/pool/status", headers=VIEWER)) == (503, "store_unavailable")


async def test_errors_elsewhere_are_text_as_livekits() -> None:
    pool = FakePool()
    async with client_of(create_app(pool.pool, routers=[failing(pool)])) as client:
        answers = [
            await client.get("/nothing", headers=ORIGIN),
            await client.get("/poolside"),
            await client.get("/twirp/bug", headers=ORIGIN),
            await client.get("/twirp/away"),
        ]

    assert [answer.status_code for answer in answers] == [404, 404, 500, 503]
    assert all(a.headers["content-type"].startswith("text/plain") for a in answers)
    assert answers[0].text == "404 page not found\n"
    # A browser's page could not tell an outage from a failure that it may not read.
    assert answers[2].headers["access-control-allow-origin"] == "*"


async def test_an_unexpected_error_tells_nothing_to_caller_or_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = FakePool()
    with caplog.at_level(logging.INFO):
        app = create_app(pool.pool, routers=[failing(pool)])
        async with serving(app) as served, httpx.AsyncClient(base_url=served.url) as client:
            answer = await client.get("/pool/bug")
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/pool/late-bug")

    assert error(answer) == (500, "internal")
    assert "SECRET" not in answer.text
    assert "SECRET" not in caplog.text
    fields = [record.__dict__.get("fields", {}) for record in caplog.records]
    assert [f["error"] for f in fields if "error" in f] == ["RuntimeError", "RuntimeError"]


# -- bodies --


async def big(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65536):
        yield b"b" * 65536
    yield b"b" * (size % 65536)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_10_mib_is_read_and_no_byte_more(chunked: bool) -> None:
    pool = FakePool()
    async with client_of(create_app(pool.pool, routers=[failing(pool)])) as client:

        async def post(size: int) -> httpx.Response:
            headers = {} if chunked else {"Content-Length": str(size)}
            return await client.post("/twirp/echo", content=big(size), headers=headers)

        assert (await post(LARGEST_BODY)).json() == LARGEST_BODY
        assert (await post(LARGEST_BODY + 1)).status_code == 413


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    pool = FakePool()
    async with serving(create_app(pool.pool)) as served:
        head = b"POST /pool/rotate HTTP/1.1\r\nhost: pool\r\ncontent-type: application/json\r\n"
        head += f"authorization: {ADMIN['Authorization']}\r\n".encode()
        connection = await served.connect()
        connection.writer.write(head + b"content-length: 10485761\r\n\r\n")
        answer = await connection.until(b"}}")
        connection.close()

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_large"
    assert pool.calls == []


# -- documents --


async def test_the_openapi_document_tells_what_is_true() -> None:
    async with client_of(FakePool()) as client:
        document = (await client.get("/pool/openapi.json")).json()

    assert set(document["paths"]) == {
        "/pool/livez",
        "/pool/readyz",
        "/pool/status",
        "/pool/history",
        "/pool/rotate",
        "/pool/servers/{name}/drain",
        "/pool/servers/{name}/undrain",
        "/pool/pause",
        "/pool/resume",
        "/pool/report",
        "/pool/events",
        "/pool/token",
        "/pool/webhook",
    }
    text = json.dumps(document)
    assert "HTTPValidationError" not in text  # FastAPI's own form, which is never sent here
    assert PAIR.secret not in text
    assert set(document["components"]["schemas"]["RotationAnswer"]["properties"]) == {
        "revision",
        "from",
        "to",
        "cause",
        "reason",
        "actor",
        "at",
    }


async def test_the_docs_page_shows_every_route_and_loads_nothing() -> None:
    async with client_of(FakePool()) as client:
        document = (await client.get("/pool/openapi.json")).json()
        page = await client.get("/pool/docs")

    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"<script|src=|https?://", page.text)
    for path in document["paths"]:
        assert f" {path}</code>" in page.text
    assert "expected_revision" in page.text
    assert "participant_attributes" in page.text


async def test_routes_of_the_gateway_are_served_beside() -> None:
    pool = FakePool()
    async with client_of(create_app(pool.pool, routers=[failing(pool)])) as client:
        assert (await client.post("/twirp/echo", content=b"abc")).json() == 3


# -- a real pool --


def nobody_there() -> str:
    """A URL on loopback at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"ws://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    servers = tuple(
        Server(name=name, url=nobody_there(), key=f"API{name}", secret=f"{name}-secret" * 4)
        for name in ("green", "blue")
    )
    settings = Settings(
        servers=servers, key=PAIR.key, secret=PAIR.secret, store="memory://", port=7870
    )
    async with asyncio.timeout(20), Pool(settings) as opened:
        yield opened


async def test_a_real_pool_is_served(pool: Pool) -> None:
    async with client_of(create_app(pool)) as client:
        assert (await client.get("/pool/readyz")).status_code == 200
        status = (await client.get("/pool/status", headers=VIEWER)).json()
        before = (await client.get("/pool/history", headers=VIEWER)).json()["rotations"]
        order = {"reason": "test", "to": "blue", "force": True}
        order["expected_revision"] = status["revision"]
        done = await client.post("/pool/rotate", json=order, headers=ADMIN)
        again = await client.post("/pool/rotate", json=order, headers=ADMIN)
        del order["expected_revision"]
        same = await client.post("/pool/rotate", json=order, headers=ADMIN)
        nobody = await client.post(
            "/pool/rotate", json={"reason": "test", "to": "red"}, headers=ADMIN
        )
        after = (await client.get("/pool/history", headers=VIEWER)).json()["rotations"]
        token = (await client.post("/pool/token", json={}, headers=MAKER)).json()

    assert (status["active"], before) == ("green", [])
    rotation: dict[str, Any] = done.json()
    assert done.status_code == 200
    assert rotation.pop("at")
    assert rotation == {
        "revision": rotation["revision"],
        "from": "green",
        "to": "blue",
        "cause": "manual",
        "reason": "test",
        "actor": "olga",
    }
    assert error(again) == (409, "revision_conflict")
    assert again.json()["error"]["revision"] >= rotation["revision"]
    assert (same.status_code, same.json()["rotation"]) == (200, None)
    assert error(nobody) == (404, "unknown_server")
    assert [one["to"] for one in after] == ["blue"]
    assert token["server"] == "blue"
    assert verify(token["participant_token"], PAIR).room == token["room_name"]


async def test_nowhere_to_go_is_a_conflict(pool: Pool) -> None:
    async with client_of(create_app(pool)) as client:
        # Nobody answers a probe, so no server may be chosen.
        answer = await client.post("/pool/rotate", json={"reason": "test"}, headers=ADMIN)

    assert error(answer) == (409, "no_server")
    assert answer.json()["error"]["revision"] == pool.document.revision
