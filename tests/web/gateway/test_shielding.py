"""What one client might do to a server, and so to all others: its headers, its joins, its room."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from livekit.protocol import models, rtc

from livekit_pool.driver.allowance import Allowance
from livekit_pool.driver.reports import Standing
from livekit_pool.pool import Pool
from livekit_pool.web.addresses import neighbourhood
from livekit_pool.web.gateway import gateway
from livekit_pool.web.gateway.frames import encode
from livekit_pool.web.gateway.upstream import _FIRST_LIMIT
from livekit_pool.web.gateway.validate import router
from tests.web.gateway.a_pool import JOIN, PONG, Line, Setting, a_pool
from tests.web.served import Served, serving, until


async def joins(line: Line) -> None:
    await line.joins()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the pool hears of its servers."""
    heard: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Pool, "fault", lambda _, *fault, **__: heard.append(fault))
    return heard


# -- its headers --


@pytest.mark.parametrize(
    "header", [b"Content-Length: 10", b"Transfer-Encoding: chunked", b"Expect: 100-continue",
               b"Trailer: x", b"TE: trailers"],
)  # fmt: skip
async def test_no_body_is_announced_upstream(header: bytes) -> None:
    """A balancer before a server waits for it, which looks like a server that hangs."""
    async with a_pool(joins) as setting:
        connection = await setting.asks(more=header + b"\r\nX-Kept: 1\r\n")
        await connection.until(JOIN)

        names = {row.partition(b":")[0].lower() for row in setting.red.lines[0].head.split(b"\r\n")}
        assert b"x-kept" in names
        assert header.partition(b":")[0].lower() not in names
        connection.close()


async def test_no_body_is_announced_with_a_validation_either() -> None:
    async with a_pool(answers) as setting, validating(setting) as served:
        told = await validated(setting, served, b"Content-Length: 2\r\nExpect: 100-continue\r\n")

        assert b"success" in told
        head = setting.red.lines[0].head.lower()
        assert head.startswith(b"get /rtc/validate")
        assert b"content-length" not in head
        assert b"expect" not in head


# -- its joins --


async def answers(line: Line) -> None:
    """Let everybody in, and say so."""
    if line.head.startswith(b"GET /rtc/validate"):
        line.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsuccess")
    else:
        await line.joins()


@contextlib.asynccontextmanager
async def validating(setting: Setting) -> AsyncIterator[Served]:
    app = FastAPI()
    app.include_router(router(setting.gateway))
    async with serving(app) as served:
        yield served


async def validated(
    setting: Setting, served: Served, more: bytes = b"", who: str = "alice"
) -> bytes:
    """The answer to a validation of ``who``."""
    return await served.ask(
        b"GET /rtc/validate HTTP/1.1\r\nHost: pool\r\nConnection: close\r\n"
        b"Authorization: Bearer " + setting.token(who).encode() + b"\r\n" + more + b"\r\nok"
    )


async def refused(setting: Setting, who: str) -> bytes:
    """The head of the answer to a join of ``who``, who is not let in."""
    connection = await setting.asks(setting.token(who))
    head = await connection.until(b"\r\n\r\n")
    await connection.rest()
    return head


async def test_one_participant_cannot_use_up_what_a_server_allows_the_pool(
    monkeypatch: pytest.MonkeyPatch, faults: list[tuple[Any, ...]]
) -> None:
    """All come from one address there: too many, and the server would refuse everybody."""
    now = 0.0
    async with a_pool(answers) as setting, validating(setting) as served:
        allowance = Allowance(gateway.PER_PARTICIPANT, clock=lambda: now)
        monkeypatch.setattr(setting.gateway, "asked", allowance)
        (await setting.session()).close()
        for _ in range(119):
            assert b"success" in await validated(setting, served)
        assert len(setting.red.lines) == 120

        told = await validated(setting, served)
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in told
        head = await refused(setting, "alice")
        assert b" 503 " in head.splitlines()[0]
        assert b"\r\nretry-after: 1\r\n" in head.lower()
        assert len(setting.red.lines) == 120

        bob = await setting.asks(setting.token("bob"))
        await bob.until(JOIN)
        bob.close()
        now = 0.5  # when the next one is allowed
        (await setting.session()).close()
        assert len(setting.red.lines) == 122
    assert faults == []


async def test_reports_from_an_address_do_not_silence_what_the_gateway_sees_there() -> None:
    """Liars and honest people may have one address: that of an office, or of a balancer."""

    async def refuses(line: Line) -> None:
        line.writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 14\r\n\r\ninternal error")

    async with a_pool(refuses) as setting:
        reports = setting.pool.driver.reports
        for _ in range(5):
            reports._addresses.add(neighbourhood("127.0.0.1"), setting.gateway.loop.time())
        assert reports._addresses.pause("127.0.0.1") == 80.0
        connection = await setting.asks()

        await until(lambda: reports.counts)
        assert set(reports.counts) == {Standing.VERIFYING}
        connection.close()


# -- its room --


def first_message(size: int) -> bytes:
    """A `join` that names a participant with so many bytes of metadata."""
    others = [models.ParticipantInfo(sid="PA_bob", metadata="x" * size)]
    join = rtc.JoinResponse(
        participant=models.ParticipantInfo(sid="PA_alice"), other_participants=others
    )
    return encode(rtc.SignalResponse(join=join).SerializeToString())


async def test_a_first_message_of_a_large_room_is_passed_on(faults: list[tuple[Any, ...]]) -> None:
    large = first_message(6 * 2**20)

    async def joins_a_crowd(line: Line) -> None:
        await line.joins(first=large, more=encode(PONG))

    async with a_pool(joins_a_crowd) as setting:
        connection = await setting.asks()
        await connection.until(b"\r\n\r\n")
        whole = large + encode(PONG)
        async with asyncio.timeout(10):
            assert await connection.reader.readexactly(len(whole)) == whole
        connection.close()
    assert faults == []


async def test_a_first_message_without_end_is_no_fault_of_its_server(
    faults: list[tuple[Any, ...]],
) -> None:
    """Participants set their metadata: nobody must be able to make a server look ill."""
    large = first_message(_FIRST_LIMIT + 2**20)

    async def joins_a_crowd(line: Line) -> None:
        with contextlib.suppress(ConnectionError):
            await line.joins(first=large)

    async with a_pool(joins_a_crowd) as setting:
        connection = await setting.asks()

        head = await connection.until(b"\r\n\r\n")
        assert b" 503 " in head.splitlines()[0]
        assert await connection.rest() == b"the room is too large to be joined through the pool"
        assert len(setting.red.lines) == 1
    assert faults == []
