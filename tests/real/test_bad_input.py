"""
What nobody should send: bad tokens, request heads and frames, at a pool of a real LiveKit server.

Each is refused in its protocol's own way, the next client is served by the very same worker, and
no token or secret is in the log.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import random
import secrets
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from livekit.protocol import rtc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from livekit_pool.local import LocalServer
from livekit_pool.web.gateway.frames import BINARY, CONTINUATION, PING, TEXT, encode
from tests.real.pool_process import PoolProcess

MARK = "a-mark-that-no-log-may-hold"
MASK = b"\x01\x02\x03\x04"
PATIENCE = 5.0


@pytest.fixture
async def red(tmp_path: Path, livekit_program: Path) -> AsyncIterator[LocalServer]:
    """A LiveKit server."""
    async with LocalServer("red", program=livekit_program, log=tmp_path / "red.log") as server:
        yield server


@pytest.fixture
async def pool(tmp_path: Path, red: LocalServer) -> AsyncIterator[PoolProcess]:
    """A pool of it with one worker, so that the next client meets the same one."""
    async with PoolProcess(tmp_path, [red], workers=1) as pool:
        yield pool


@asynccontextmanager
async def unharmed(pool: PoolProcess) -> AsyncIterator[None]:
    """What happens in the block neither ends the worker nor keeps it from the next client."""
    workers = pool.workers()
    yield
    async with entered(pool, "next"):
        pass
    assert pool.workers() == workers
    assert pool.leaks() == []
    assert MARK not in pool.log_text()
    assert " ERROR " not in pool.log_text()
    assert "Traceback" not in pool.log_text()


@asynccontextmanager
async def entered(pool: PoolProcess, identity: str, query: str = "") -> AsyncIterator[Any]:
    """The signal connection of a participant that has been let in."""
    async with upgrading(pool, pool.token("lobby", identity), query) as connection:
        async with asyncio.timeout(PATIENCE):
            first = rtc.SignalResponse.FromString(await connection.recv(decode=False))
        assert first.join.participant.identity == identity
        yield connection


@asynccontextmanager
async def upgrading(
    pool: PoolProcess, token: str | None, query: str = "", path: str = "/rtc"
) -> AsyncIterator[ClientConnection]:
    """An upgrade with ``token`` in its header; `InvalidStatus` if it is refused."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection = await connect(
        f"{pool.url}{path}?protocol=16&sdk=python{query}",
        additional_headers=headers,
        compression=None,
        ping_interval=None,
        proxy=None,
        max_size=None,
        max_queue=None,  # else it stops reading while nobody takes its messages
        open_timeout=PATIENCE,
    )
    try:
        yield connection
    finally:
        connection.transport.abort()
        await connection.wait_closed()


async def refusal(
    pool: PoolProcess, token: str | None, query: str = "", path: str = "/rtc"
) -> tuple[int, str]:
    """Status and text with which such an upgrade is refused."""
    try:
        async with upgrading(pool, token, query, path):
            raise AssertionError("it was let in")
    except InvalidStatus as refused:
        return refused.response.status_code, (refused.response.body or b"").decode()


# ---- tokens -----------------------------------------------------------------------------------


def claims(pool: PoolProcess, /, **changes: object) -> dict[str, object]:
    """A participant's claims, as LiveKit's SDKs make them."""
    now = int(time.time())
    made = {
        "iss": pool.key,
        "sub": "mallory",
        "nbf": now,
        "exp": now + 600,
        "video": {"roomJoin": True, "room": "lobby"},
        "metadata": MARK,
    } | changes
    return {name: value for name, value in made.items() if value is not None}


def signed(pool: PoolProcess, secret: str | None = None, /, **changes: object) -> str:
    """Such claims, signed with the pool's secret or another."""
    return jwt.encode(claims(pool, **changes), secret or pool.secret, algorithm="HS256")


def unsigned(pool: PoolProcess) -> str:
    """Such claims with the algorithm ``none``."""
    return jwt.encode(claims(pool), "", algorithm="none")


def tampered(pool: PoolProcess) -> str:
    """Good once, and then somebody changed who it is."""
    head, _, signature = signed(pool).split(".")
    _, body, _ = signed(pool, sub="admin").split(".")
    return f"{head}.{body}.{signature}"


Forger = Callable[[PoolProcess, LocalServer], str | None]

WRONG_KEY = "signed with a key that is not the pool's"

BAD_TOKENS: dict[str, tuple[Forger, str]] = {
    "none": (lambda pool, red: None, "No token"),
    "empty": (lambda pool, red: "", "No token"),
    "not one": (lambda pool, red: f"{MARK}.{MARK}.{MARK}", "not a JWT"),
    "forged": (lambda pool, red: signed(pool, secrets.token_urlsafe(32)), WRONG_KEY),
    "unsigned": (lambda pool, red: unsigned(pool), "not a JWT signed with HS256"),
    "tampered": (lambda pool, red: tampered(pool), WRONG_KEY),
    "of a server": (lambda pool, red: signed(pool, red.secret, iss=red.key), WRONG_KEY),
    "by a server's secret": (lambda pool, red: signed(pool, red.secret), WRONG_KEY),
    "by a server's name": (lambda pool, red: signed(pool, iss=red.key), WRONG_KEY),
    "expired": (lambda pool, red: signed(pool, exp=int(time.time()) - 120), "has expired"),
    "without an end": (lambda pool, red: signed(pool, exp=None), "no expiry"),
    "not yet valid": (lambda pool, red: signed(pool, nbf=int(time.time()) + 120), "not valid yet"),
    "over-long": (lambda pool, red: signed(pool, metadata=MARK * 6000), "longer than 128 KiB"),
}


async def test_bad_tokens(pool: PoolProcess, red: LocalServer) -> None:
    foreign = {"Origin": "https://app.example"}
    async with unharmed(pool), aiohttp.ClientSession() as http:
        for name, (forge, sentence) in BAD_TOKENS.items():
            token = forge(pool, red)
            for path in ("/rtc", "/rtc/v1"):
                status, said = await refusal(pool, token, path=path)
                assert status == 401, (name, path)
                assert sentence in said, (name, path)
                assert MARK not in said, (name, path)
                query = {} if token is None else {"access_token": token}
                url = f"http://127.0.0.1:{pool.port}{path}/validate"
                async with http.get(url, params=query, headers=foreign) as validation:
                    said = await validation.text()
                    assert validation.status == 401, (name, path)
                    assert sentence in said, (name, path)
                    assert MARK not in said, (name, path)
                    # Else a browser's page could not read why.
                    assert validation.headers["Access-Control-Allow-Origin"] == "*"
            url = f"http://127.0.0.1:{pool.port}/pool/events"
            async with http.get(url, headers={"Authorization": f"Bearer {token or ''}"}) as told:
                assert told.status == 401, name


async def test_a_token_of_a_server_administers_nothing(pool: PoolProcess, red: LocalServer) -> None:
    forged = [
        signed(pool, red.secret, iss=red.key, pool="admin"),
        signed(pool, red.secret, pool="admin"),
        pool.token("lobby", "mallory", room_admin=True),
    ]
    async with unharmed(pool), aiohttp.ClientSession() as http:
        for token, status in zip(forged, (401, 401, 403), strict=True):
            url = f"http://127.0.0.1:{pool.port}/pool/rotate"
            headers = {"Authorization": f"Bearer {token}"}
            async with http.post(url, headers=headers, json={"reason": "mine"}) as answer:
                assert answer.status == status
        assert await pool.rotations() == []


# ---- request heads ----------------------------------------------------------------------------


class Wire:
    """A TCP connection to the pool that says what no client library would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def to(cls, pool: PoolProcess) -> AsyncIterator[Wire]:
        reader, writer = await asyncio.open_connection("127.0.0.1", pool.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def say(self, data: bytes) -> None:
        """Send it all, unless the other side has hung up before."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    def reset(self) -> None:
        """Go, as a crash or a cut cable's end would look."""
        # Zero seconds of lingering make close(2) send RST (socket(7), SO_LINGER).
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def hears(self, seconds: float = PATIENCE) -> bytes:
        """All that comes until the other side ends the connection."""
        async with asyncio.timeout(seconds):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""


def head(pool: PoolProcess, *lines: str, query: str = "", token: str | None = None) -> bytes:
    """The head of a good upgrade, with more header lines."""
    shown = pool.token("lobby", "mallory") if token is None else token
    return "\r\n".join(
        [
            f"GET /rtc?protocol=16&sdk=python{query} HTTP/1.1",
            f"Host: 127.0.0.1:{pool.port}",
            f"Authorization: Bearer {shown}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}",
            *lines,
            "",
            "",
        ]
    ).encode()


async def test_a_head_as_large_as_a_real_offer_is_served(pool: PoolProcess) -> None:
    junk = f"&junk={'j' * 900_000}"
    async with unharmed(pool), entered(pool, "large", junk), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{pool.port}/rtc/validate?protocol=16{junk}"
        token = {"Authorization": f"Bearer {pool.token('lobby', 'large')}"}
        async with http.get(url, headers=token) as answer:
            assert answer.status == 200


async def test_heads_that_are_too_large(pool: PoolProcess) -> None:
    megabyte = MARK * (2**20 // len(MARK) + 1)
    async with unharmed(pool):
        for what, request in {
            "a line": head(pool, query=f"&junk={megabyte}"),
            "a line without an end": b"GET /rtc?junk=" + megabyte.encode(),
            "a token": head(pool, token=megabyte),
            "a header": head(pool, f"X-Junk: {megabyte}"),
            "a header without an end": head(pool)[:-4] + f"\r\nX-Junk: {megabyte}".encode(),
            "many headers": head(pool, *(f"X-{number}: {MARK}" for number in range(2000))),
        }.items():
            async with Wire.to(pool) as wire:
                await wire.say(request)
                assert (await wire.hears()).startswith(b"HTTP/1.1 431 "), what


async def test_what_is_not_http(pool: PoolProcess) -> None:
    source = random.Random(3)
    async with unharmed(pool):
        for request in (
            f"{MARK}\r\n\r\n".encode(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + MARK.encode(),  # TLS to a plain port
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            head(pool).replace(b" HTTP/1.1", b" HTTP/9.9"),
            source.randbytes(4096),
        ):
            async with Wire.to(pool) as wire:
                await wire.say(request)
                assert (await wire.hears()).startswith(b"HTTP/1.1 400 "), request[:40]


async def test_upgrades_that_are_not_quite_right(pool: PoolProcess) -> None:
    async with unharmed(pool):
        for good, bad in (
            (b"GET /rtc?", b"POST /rtc?"),
            (b"Sec-WebSocket-Key", b"X-Key"),
            (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 12"),
            (b"Authorization: Bearer", b"Authorization: Basic"),
            (b"/rtc?", b"/rtc/v2?"),
        ):
            async with Wire.to(pool) as wire:
                await wire.say(head(pool, "Connection: close").replace(good, bad))
                status = (await wire.hears()).partition(b"\r\n")[0]
                assert status.startswith(b"HTTP/1.1 4"), (bad, status)


async def test_joins_that_cannot_be_read(pool: PoolProcess) -> None:
    bomb = gzip.compress(bytes(64 * 2**20))
    requests = {
        "not base64": (MARK, "cannot unmarshal"),
        "not protobuf": (wrapped(random.Random(5).randbytes(200)), "cannot unmarshal"),
        "not gzip": (wrapped(b"no", compression=rtc.WrappedJoinRequest.GZIP), "cannot unmarshal"),
        "a bomb": (wrapped(bomb, compression=rtc.WrappedJoinRequest.GZIP), "too large"),
    }
    token = pool.token("lobby", "mallory")
    async with unharmed(pool):
        for what, (request, sentence) in requests.items():
            status, body = await refusal(pool, token, f"&join_request={request}", "/rtc/v1")
            assert status == 400, what
            assert sentence in body, what


def wrapped(request: bytes, **fields: Any) -> str:
    """A ``join_request`` parameter (livekit_rtc.proto, WrappedJoinRequest)."""
    message = rtc.WrappedJoinRequest(join_request=request, **fields)
    return base64.urlsafe_b64encode(message.SerializeToString()).decode()


async def test_half_an_upgrade_and_gone(pool: PoolProcess) -> None:
    whole = head(pool)
    async with unharmed(pool):
        for size in range(1, len(whole), len(whole) // 20):
            for reset in (False, True):
                async with Wire.to(pool) as wire:
                    await wire.say(whole[:size])
                    if reset:
                        wire.reset()
        async with Wire.to(pool) as wire:
            await wire.say(whole)  # all of it, and gone before the answer
            wire.reset()


async def test_half_an_upgrade_and_silence(pool: PoolProcess) -> None:
    whole = head(pool)

    async def silent() -> tuple[bytes, float]:
        async with Wire.to(pool) as wire:
            begun = time.monotonic()
            await wire.say(whole[: len(whole) // 2])
            return await wire.hears(25), time.monotonic() - begun

    async def dripping() -> tuple[bytes, float]:
        async with Wire.to(pool) as wire:
            begun = time.monotonic()
            hearing = asyncio.create_task(wire.hears(25))
            for byte in whole:
                if hearing.done():
                    break
                await wire.say(bytes([byte]))
                await asyncio.wait({hearing}, timeout=0.2)
            return await hearing, time.monotonic() - begun

    async with unharmed(pool):
        slow = asyncio.gather(dripping(), *(silent() for _ in range(50)))
        async with entered(pool, "meanwhile"):
            pass
        for said, seconds in await slow:
            assert said.startswith(b"HTTP/1.1 408 ")
            # The promise is 10 s; the rest is for a busy machine.
            assert 9 < seconds < 20


# ---- frames -----------------------------------------------------------------------------------


def masked(opcode: int, payload: bytes = b"", first: int = 0x80) -> bytes:
    """A client's frame, of which ``first`` holds the bits beside the opcode."""
    frame = encode(payload, opcode, MASK)
    return bytes([first | opcode]) + frame[1:]


BAD_FRAMES: dict[str, tuple[bytes, int]] = {
    "text": (masked(TEXT, b'{"ping": 1}'), 1003),
    "text in parts": (masked(TEXT, b'{"ping"', first=0), 1003),
    "no mask": (encode(b"\x72\x00", BINARY), 1002),
    "first reserved bit, as of a compressed one": (masked(BINARY, b"\x72\x00", 0xC0), 1002),
    "second reserved bit": (masked(BINARY, b"\x72\x00", 0xA0), 1002),
    "third reserved bit": (masked(BINARY, b"\x72\x00", 0x90), 1002),
    "unknown data frame": (masked(3, b"\x72\x00"), 1002),
    "unknown control frame": (masked(11, b"\x72\x00"), 1002),
    "continuation of nothing": (masked(CONTINUATION, b"\x72\x00"), 1002),
    "message in a message": (masked(BINARY, b"\x72\x00", 0) + masked(BINARY, b"\x72\x00"), 1002),
    "ping in parts": (masked(PING, b"x", first=0), 1002),
    "ping of 126 bytes": (masked(PING, bytes(126)), 1002),
    "close of 126 bytes": (masked(8, bytes(126)), 1002),
    "length that is negative": (b"\x82\xff" + b"\xff" * 8 + MASK, 1002),
    # What is held until it is whole must not be held for ever; 8 is a leave (livekit_rtc.proto).
    "leave without an end": (
        masked(BINARY, b"\x42\x00", 0) + masked(CONTINUATION, bytes(1000), 0) * 100,
        1009,
    ),
}


async def test_bad_frames(pool: PoolProcess) -> None:
    for what, (data, code) in BAD_FRAMES.items():
        async with unharmed(pool), entered(pool, "mallory") as connection:
            connection.transport.write(data)
            async with asyncio.timeout(PATIENCE):
                await connection.wait_closed()
            assert connection.close_code == code, what


async def test_frames_that_break_off(pool: PoolProcess) -> None:
    async with unharmed(pool):
        for size in (1, 2, 3, 8, 20, 60_000):
            for end in ("eof", "cut"):
                async with entered(pool, "mallory") as connection:
                    connection.transport.write(masked(BINARY, bytes(2**16))[:size])
                    if end == "eof":
                        connection.transport.write_eof()
                        async with asyncio.timeout(PATIENCE):
                            await connection.wait_closed()


async def test_random_bytes_instead_of_frames(pool: PoolProcess) -> None:
    source = random.Random(11)
    async with unharmed(pool):
        for _ in range(30):
            async with entered(pool, "mallory") as connection:
                connection.transport.write(source.randbytes(source.randint(1, 2000)))
                connection.transport.write_eof()
                async with asyncio.timeout(PATIENCE):
                    await connection.wait_closed()


async def test_messages_that_no_server_understands(pool: PoolProcess) -> None:
    source = random.Random(13)
    async with unharmed(pool):
        for _ in range(10):
            async with entered(pool, "mallory") as connection:
                for _ in range(20):
                    connection.transport.write(masked(BINARY, source.randbytes(50)))
                # The leave among them is one that the pool itself must read.
                connection.transport.write(masked(BINARY, b"\x42" + source.randbytes(50)))
                connection.transport.write_eof()
                async with asyncio.timeout(PATIENCE):
                    await connection.wait_closed()


async def test_frames_before_the_answer(pool: PoolProcess, red: LocalServer) -> None:
    async with unharmed(pool), Wire.to(pool) as wire:
        await red.freeze()
        try:
            await wire.say(head(pool))
            await wire.say(masked(BINARY, bytes(1000)) * 1000)
            assert await wire.hears() == b""  # cut off, and not kept until there is an answer
        finally:
            await red.thaw()
