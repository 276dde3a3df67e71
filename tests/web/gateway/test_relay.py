"""The gateway between raw sockets: servers that answer oddly, and sides that stop reading."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

import pytest
from livekit.protocol import models, rtc

from livekit_pool import tokens
from livekit_pool.core.document import Cause
from livekit_pool.core.events import FaultSource
from livekit_pool.web.gateway.frames import accept_key, close_frame, encode
from tests.web.gateway.a_pool import JOIN, MASK, PONG, SID, SWITCHED, Line, a_pool
from tests.web.served import until

# -- servers that answer oddly --


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"4\r\nno r\r\n3;x=y\r\noom\r\n0\r\n\r\n",
            b"no room",
        ),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            b"HTTP/1.1 400 No\r\nContent-Length: 7\r\n\r\nno room",
            b"no room",
        ),
        (b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nno room\r\n0\r\n\r\n", b""),
    ],
)
async def test_a_refusal_is_whole_though_its_connection_stays(answer: bytes, told: bytes) -> None:
    async def refuses(line: Line) -> None:
        line.writer.write(answer)

    async with a_pool(refuses) as setting:
        connection = await setting.asks()
        head = await connection.until(b"\r\n\r\n")
        assert await connection.rest() == told

    assert head.split()[1] == b"400"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nWelcome",
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_an_answer_that_no_livekit_gives_is_the_servers_fault(answer: bytes) -> None:
    async def another_program(line: Line) -> None:
        if line in setting.green.lines:
            await line.joins()
        else:
            line.writer.write(answer)

    async with a_pool(another_program) as setting:
        connection = await setting.asks()
        await connection.until(JOIN)

        document = setting.pool.document
        assert (document.active_server, document.cause) == ("green", Cause.DOWN)
        assert document.reason.endswith("not an answer of LiveKit's")
        assert len(setting.red.joins) >= 3
        connection.close()


async def test_a_first_message_without_end_is_not_collected_for_ever() -> None:
    async def floods(line: Line) -> None:
        line.writer.write(SWITCHED + b"\x82\x7f" + (2**40).to_bytes(8, "big") + b"\x0a\x00")
        with contextlib.suppress(ConnectionError):
            while True:
                line.writer.write(bytes(2**16))
                await line.writer.drain()

    async with a_pool(floods) as setting:
        connection = await setting.asks()
        await until(lambda: setting.red.lines and setting.red.lines[0].writer.is_closing())
        connection.close()


async def test_what_cannot_be_read_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    garbage = encode(b"\x2a\x05\x0a")  # an update that ends too soon
    after = encode(PONG, 2)

    async def sends(line: Line) -> None:
        await line.joins(garbage)
        line.writer.write(garbage + after)

    async with a_pool(sends) as setting:
        connection = await setting.session()
        await connection.until(garbage + garbage + after)
        connection.close()

    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_an_admission_that_fails_unexpectedly_is_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def resign(*_: object) -> str:
        raise ZeroDivisionError("a-secret")

    monkeypatch.setattr(tokens, "resign", resign)
    async with a_pool(lambda line: line.joins()) as setting:
        connection = await setting.asks()
        assert b" 503 " in (await connection.rest()).splitlines()[0]

    assert "Task failed" in caplog.text
    assert "a-secret" not in caplog.text


# -- where clients come back to --


@pytest.mark.parametrize("revision", [1, 2])
async def test_a_room_that_is_nowhere_goes_to_the_active_server_whoever_asks(revision: int) -> None:
    """A room placed elsewhere at this revision would stay there, also when that server dies."""
    async with a_pool(lambda line: line.joins()) as setting:
        pool = setting.pool
        await pool.rotate("away from red")
        claims = tokens.verify(setting.token(), pool.pair).raw
        token = tokens.news(claims, pool.pair, revision=revision, server_name="red")

        connection = await setting.asks(token)
        await connection.until(JOIN)

        placement = await pool.placement("standup")
        connection.close()
    assert placement is not None
    assert placement.server == "green"


async def test_nothing_of_its_old_server_reaches_a_client_that_was_sent_away() -> None:
    message = encode(b"\x22\x0a" + b"trickle me")

    async def goes_on(line: Line) -> None:
        await line.joins(message)
        await told.wait()
        line.writer.write(message)

    told = asyncio.Event()
    async with a_pool(goes_on) as setting:
        connection = await setting.session()
        await connection.until(message)
        (room,) = setting.pool.rooms
        (relay,) = room.sessions
        assert room.placement is not None

        relay.move(room.placement)
        told.set()
        await until(lambda: relay.upstream is None)  # type: ignore[attr-defined]  # it is a relay
        connection.writer.write(close_frame(1000, MASK))

        assert message not in await connection.rest()


# -- sides that stop reading --


async def test_a_client_is_heard_again_after_its_server_stopped_reading() -> None:
    async def never_reads(line: Line) -> None:
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's has it
        await line.joins()

    async with a_pool(never_reads) as setting:
        connection = await setting.session()
        (room,) = setting.pool.rooms
        (relay,) = room.sessions
        pinned = encode(bytes(2**16), mask=MASK)
        while relay.transport.is_reading():  # type: ignore[attr-defined]  # it is a relay
            connection.writer.write(pinned)
            await asyncio.sleep(0)

        relay.resume_elsewhere()  # type: ignore[attr-defined]

        assert relay.transport.is_reading()  # type: ignore[attr-defined]
        connection.close()


async def test_a_server_waits_for_a_client_that_does_not_read() -> None:
    size, sent = 2**23, 0

    async def floods(line: Line) -> None:
        nonlocal sent
        big = encode(
            rtc.SignalResponse(
                join=rtc.JoinResponse(
                    participant=models.ParticipantInfo(sid=SID, metadata="x" * 3 * 2**20)
                )
            ).SerializeToString()
        )
        line.writer.write(SWITCHED + big)
        piece = encode(PONG + bytes(2**16))
        with contextlib.suppress(ConnectionError):
            while sent < 8 * size:
                line.writer.write(piece)
                await line.writer.drain()
                sent += len(piece)

    async with a_pool(floods) as setting:
        # What the system takes must be less than the first message.
        sending = setting.served.server.servers[0].sockets[0]
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        connection = await setting.asks()
        receiving = connection.writer.get_extra_info("socket")
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: len(setting.pool.rooms) and next(iter(setting.pool.rooms)).sessions)
        (relay,) = next(iter(setting.pool.rooms)).sessions
        await until(lambda: relay.sid)  # type: ignore[attr-defined]
        await until(
            lambda: (
                sent >= 8 * size
                or (
                    setting.red.lines[0].writer.transport.get_write_buffer_size()
                    and not relay.upstream.transport.is_reading()  # type: ignore[attr-defined]
                )
            )
        )
        assert relay.transport.get_write_buffer_size() < size  # type: ignore[attr-defined]
        connection.writer.transport.abort()


async def test_who_cannot_be_told_within_a_frame_is_cut() -> None:
    async def hangs(line: Line) -> None:
        await line.joins()
        await joined.wait()
        line.writer.write(encode(PONG + bytes(100))[:50])

    joined = asyncio.Event()
    async with a_pool(hangs) as setting:
        connection = await setting.session()
        await until(lambda: [relay for room in setting.pool.rooms for relay in room.sessions])
        (room,) = setting.pool.rooms
        (relay,) = room.sessions
        assert room.placement is not None

        joined.set()
        await connection.until(PONG)

        relay.move(room.placement)

        with contextlib.suppress(ConnectionError):
            await connection.rest()
        await until(lambda: not len(setting.pool.rooms))


async def test_who_does_not_read_its_end_is_cut() -> None:
    async def says_goodbye(line: Line) -> None:
        await line.joins()
        await goes.wait()
        line.writer.write(encode(PONG + bytes(2**24)) + close_frame(1000))
        with contextlib.suppress(ConnectionError):
            await line.writer.drain()
        line.writer.close()

    goes = asyncio.Event()
    async with a_pool(says_goodbye) as setting:
        connection = await setting.session()
        (room,) = setting.pool.rooms
        (relay,) = room.sessions
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        goes.set()
        await until(lambda: relay.transport.get_write_buffer_size())  # type: ignore[attr-defined]
        connection.writer.write(b"\x81\x80" + MASK)  # text: refused with 1003
        await until(lambda: not len(setting.pool.rooms))
        await until(lambda: relay.phase.name == "CLOSED")  # type: ignore[attr-defined]
        connection.writer.transport.abort()


def test_the_key_of_the_example_is_accepted() -> None:
    # RFC 6455, section 1.3
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


async def test_each_session_whose_server_breaks_off_or_shuts_down_is_a_fault_of_that_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pool looks at once; what it sees decides."""
    faults: list[tuple[object, ...]] = []
    goodbye = rtc.LeaveRequest(reason=models.SERVER_SHUTDOWN)  # to disconnect, as a server says it
    async with a_pool(lambda line: line.joins()) as setting:
        fault = setting.pool.fault

        def noted(*seen: Any) -> bool:
            faults.append(seen[:3])
            return fault(*seen)

        monkeypatch.setattr(setting.pool, "fault", noted)
        sessions = [await setting.session() for _ in range(3)]
        breaking, leaving = setting.red.joins[:2], setting.red.joins[2]
        for line in breaking:
            line.writer.transport.abort()
        await until(lambda: len(faults) == 2)
        assert faults == [("red", Cause.DOWN, FaultSource.SOCKET)] * 2

        faults.clear()
        leaving.writer.write(encode(rtc.SignalResponse(leave=goodbye).SerializeToString()))
        await until(lambda: faults)
        assert faults[0] == ("red", Cause.DOWN, FaultSource.SHUTDOWN)
        for session in sessions:
            session.close()
        await until(lambda: not len(setting.pool.rooms))
