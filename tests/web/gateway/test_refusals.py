"""Refusals of joins between raw sockets: what is held and for how long, and what is passed on."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

import pytest

from livekit_pool import observe
from livekit_pool.core.document import Cause
from livekit_pool.core.events import FaultSource
from livekit_pool.driver.reports import Report, Reported, Reports, Standing
from livekit_pool.pool import Pool
from livekit_pool.upstream.names import Unresolved
from livekit_pool.web.gateway.dialer import Dialer
from livekit_pool.web.gateway.frames import accept_key
from livekit_pool.web.gateway.upstream import Upstream
from tests.web.gateway.a_pool import JOIN, SWITCHED, Line, Script, Setting, a_pool
from tests.web.served import until


def answer(status: int, body: bytes = b"", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d No" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", b""]) + body


LIMIT = answer(429, b"slow down", b"Retry-After: 77")


def red_says(setting: Callable[[], Setting], what: bytes, *, after: int = 0) -> Script:
    """A script: red answers ``what`` to all joins but the first ``after``, green lets in."""

    async def script(line: Line) -> None:
        if line in setting().green.lines or len(setting().red.lines) <= after:
            await line.joins()
        else:
            line.writer.write(what)

    return script


async def test_a_limit_is_held_until_the_room_is_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long that takes: here as long as the test wants."""
    faults: list[tuple[object, ...]] = []
    waits: list[float | None] = []

    def fault(
        self: Pool, *fault: object, retry_after: float | None = None, voice: str = ""
    ) -> None:
        assert voice == "standup\nalice"
        faults.append(fault)
        waits.append(retry_after)

    monkeypatch.setattr(Pool, "fault", fault)
    async with a_pool(red_says(lambda: setting, LIMIT)) as setting:
        connection = await setting.asks()
        await until(lambda: faults)
        for _ in range(50):  # whatever else happens meanwhile
            setting.gateway._poke()
            await asyncio.sleep(0.01)
        assert len(setting.red.lines) == 1
        assert not connection.reader.at_eof()

        await setting.pool.rotate("away from red")

        await connection.until(JOIN)
        assert len(setting.red.lines) == len(setting.green.lines) == 1
        connection.close()
    detail = "a join was refused with HTTP 429: rate limit"
    assert faults == [("red", Cause.RATE_LIMIT, FaultSource.JOIN, detail, 1)]
    assert waits == [77.0]


async def test_trouble_is_asked_again_in_its_time_and_not_at_each_piece_of_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pool, "fault", lambda *_, **__: None)
    async with a_pool(red_says(lambda: setting, answer(503))) as setting:
        connection = await setting.asks()
        await until(lambda: setting.red.lines)
        began = setting.gateway.loop.time()
        async with asyncio.timeout(10):
            while len(setting.red.joins) < 3:
                setting.gateway._poke()
                await asyncio.sleep(0.01)

        # The second after 0.3 s, the third after 0.9 s, at the earliest.
        assert setting.gateway.loop.time() - began > 0.85
        connection.close()


async def test_where_nobody_can_go_the_answer_comes_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pool, "fault", lambda *_, **__: None)
    monkeypatch.setattr(Pool, "can_leave", lambda *_: False)
    async with a_pool(red_says(lambda: setting, LIMIT)) as setting:
        connection = await setting.asks()

        head = await connection.until(b"\r\n\r\n")  # a_pool's own patience is 60 s
        assert b" 503 " in head.splitlines()[0]
        assert b"Retry-After: " in head
        assert (
            await connection.rest() == b"the LiveKit servers refuse joins (rate limit), try again"
        )


async def test_a_hold_ends_with_the_clients_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "fault", lambda *_, **__: None)
    script = red_says(lambda: setting, LIMIT)
    async with a_pool(script, join_timeout=0.5) as setting:
        connection = await setting.asks()

        head = await connection.until(b"\r\n\r\n")
        assert b" 503 " in head.splitlines()[0]
        assert (
            await connection.rest() == b"the LiveKit servers refuse joins (rate limit), try again"
        )


async def test_a_fault_is_seen_at_the_revision_at_which_the_server_was_asked() -> None:
    """A room may stay where it is while the active server changes, and changes back."""
    spent = answer(429, b"quota exceeded")
    async with a_pool(red_says(lambda: setting, spent, after=1)) as setting:
        alice = await setting.session()  # not settled: its room does not move yet
        await setting.pool.rotate("away", to="green")
        await setting.pool.rotate("and back", to="red")
        placement = await setting.pool.placement("standup")
        assert placement is not None
        assert (placement.server, placement.revision) == ("red", 1)
        bob = await setting.asks()

        await until(lambda: setting.pool.document.cause is Cause.QUOTA)
        assert setting.pool.active_server == "green"
        alice.close()
        bob.close()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_is_neither_logged_nor_passed_on(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Pool, "can_leave", lambda *_: False)
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(Pool, "fault", lambda self, *fault, **_: seen.append(fault))
    caplog.set_level(logging.DEBUG)
    echo = answer(status, b"invalid token: eyJhbGciOi.eyJzdWIi.c2ln, error: no")
    async with a_pool(red_says(lambda: setting, echo)) as setting:
        connection = await setting.asks()

        head = await connection.until(b"\r\n\r\n")
        body = await connection.rest()
    assert b" 503 " in head.splitlines()[0]
    assert seen[0][1] is Cause.CREDENTIALS
    logged = [(record.getMessage(), vars(record).get("fields")) for record in caplog.records]
    assert "eyJ" not in repr((head, body, seen, logged))


@pytest.mark.parametrize(
    ("failure", "blamed"),
    [
        (Unresolved(own=True), False),
        (OSError(errno.EMFILE, "Too many open files"), False),
        (Unresolved(own=False), True),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True),
    ],
)
async def test_what_keeps_this_process_from_asking_is_no_fault_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: OSError,
    blamed: bool,
) -> None:
    faults: list[tuple[object, ...]] = []
    monkeypatch.setattr(Pool, "fault", lambda _, *fault, **__: faults.append(fault))

    async def joins(line: Line) -> None:
        await line.joins()

    async with a_pool(joins) as setting:
        dialer = setting.gateway.dialers["red"]
        failures = [failure]

        async def dial(upstream: Upstream, request: bytes) -> None:
            if failures:
                raise failures.pop()
            await Dialer.dial(dialer, upstream, request)

        monkeypatch.setattr(dialer, "dial", dial)
        connection = await setting.session()  # it is asked again in its time
        connection.close()
    assert [fault[:2] for fault in faults] == ([("red", Cause.DOWN)] if blamed else [])
    assert (observe.OWN_FAULT in caplog.messages) is not blamed


@pytest.mark.parametrize("resets", [False, True])
async def test_what_one_client_alone_meets_rotates_nothing(resets: bool) -> None:
    """However often it asks again: the pool looks for itself, and is let in."""

    async def script(line: Line) -> None:
        if b"auto_subscribe=0" in line.head:
            key = line.head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            accepts = b"Sec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n"
            line.writer.write(SWITCHED[:-2] + accepts + JOIN)
            await line.reader.read(64)  # it says goodbye
            line.writer.close()
        elif resets:
            line.writer.transport.abort()
        else:
            line.writer.write(answer(503))

    async with a_pool(script, join_timeout=3) as setting:
        for _ in range(2):
            refused = await (await setting.asks()).rest()
            assert b" 503 " in refused.splitlines()[0]
        assert len(setting.red.joins) >= 2 * setting.pool.driver.machine.settings.fall
        assert len(setting.red.lines) > len(setting.red.joins), "it looked for itself"
        assert setting.pool.active_server == "red"
        assert await setting.pool.history() == []


@pytest.mark.parametrize("taken", [True, False])
async def test_what_may_be_our_own_fault_is_held_against_no_client(
    monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    monkeypatch.setattr(Pool, "fault", lambda *_, **__: taken)
    looks = await reports_of(monkeypatch, "alice")
    assert bool(looks) is taken


async def test_what_one_client_alone_meets_is_not_held_against_its_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor against who comes through the same balancer: all of them have one address here."""
    looks = await reports_of(monkeypatch, "alice", "bob")
    assert {look.reporter.split("\n")[-1] for look in looks} == {"alice", "bob"}
    assert len({look.address for look in looks}) == 2


async def reports_of(monkeypatch: pytest.MonkeyPatch, *clients: str) -> list[Report]:
    """What the reports hear of ``clients`` whom their server does not let in."""
    looks: list[Report] = []

    async def take(self: Reports, report: Report) -> Reported:
        looks.append(report)
        return Reported(status=Standing.DISMISSED, revision=1, active="red")

    monkeypatch.setattr(Reports, "take", take)
    async with a_pool(red_says(lambda: setting, answer(503)), join_timeout=1) as setting:
        for client in clients:
            await (await setting.asks(setting.token(identity=client))).rest()
    return looks
