"""Connections to a server, with real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from livekit_pool.servers import Server
from livekit_pool.upstream.names import Names, Unresolved
from livekit_pool.web.gateway.dialer import CONNECT, Dialer
from livekit_pool.web.gateway.upstream import Upstream
from tests.web.served import PATIENCE, until

REQUEST = b"GET /rtc HTTP/1.1\r\n\r\n"

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a scene in a loop of its own."""

    def run(scene: Callable[[], Awaitable[None]]) -> None:
        async def timed() -> None:
            async with asyncio.timeout(PATIENCE):
                await scene()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(timed())

    return run


class Side:
    """A listening socket of the test's, and what came."""

    def __init__(self, backlog: int = 100) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(backlog)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]

    def dialer(self, host: str = "127.0.0.1", scheme: str = "ws") -> Dialer:
        server = Server(url=f"{scheme}://{host}:{self.port}", key="k", secret="s")
        return Dialer(server, asyncio.get_running_loop(), ssl.create_default_context())

    async def accept(self) -> socket.socket:
        accepted, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        accepted.setblocking(False)
        return accepted


@contextlib.asynccontextmanager
async def a_side(backlog: int = 100) -> AsyncIterator[Side]:
    side = Side(backlog)
    with side.listener:
        yield side


async def received(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        if not piece:
            break
        data += piece
    return data


def upstream() -> Upstream:
    return Upstream(lambda: None)


async def ready(side: Side, dialer: Dialer) -> None:
    """Let ``dialer`` know the address, by a first connection."""
    first = upstream()
    await dialer.dial(first, REQUEST)
    (await side.accept()).close()
    await until(lambda: first.lost)
    assert dialer.ready


def test_the_request_is_sent_before_the_loop_has_the_socket(run: Any) -> None:
    async def scene() -> None:
        async with a_side() as side:
            dialer = side.dialer()
            await ready(side, dialer)
            line = upstream()
            dialer.dial_now(line, REQUEST)

            accepted, _ = side.listener.accept()  # nothing has been waited for
            assert accepted.recv(1000) == REQUEST
            await until(lambda: line.connected)
            accepted.send(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n")
            await until(lambda: line.answer)
            assert line.answer is not None
            assert line.answer.status == 400
            accepted.close()
            await until(lambda: line.lost)

    run(scene)


def test_a_server_that_refuses_is_an_answer_without_status(run: Any) -> None:
    async def scene() -> None:
        async with a_side() as side:
            dialer = side.dialer()
            await ready(side, dialer)
            side.listener.close()
            line = upstream()
            with contextlib.suppress(ConnectionRefusedError):  # at once, or a little later
                dialer.dial_now(line, REQUEST)
                await until(lambda: line.answer)
                assert line.answer is not None
                assert line.answer.status == 0
                assert isinstance(line.error, ConnectionRefusedError)
            assert not line.connected

    run(scene)


def test_what_cannot_be_sent_yet_is_sent_later(run: Any) -> None:
    async def scene() -> None:
        async with a_side(backlog=0) as side:
            dialer = side.dialer()
            await ready(side, dialer)
            # Nobody accepts: the system takes one connection, and lets all others wait.
            waiting = [upstream() for _ in range(4)]
            for line in waiting:
                dialer.dial_now(line, REQUEST)
            late = waiting[-1]
            await asyncio.sleep(0)
            assert not late.connected
            assert late.request == REQUEST or late.asked

            accepted = [await side.accept() for _ in waiting]
            for each in accepted:
                assert await received(each, len(REQUEST)) == REQUEST
            await until(lambda: all(line.connected for line in waiting))
            for line, each in zip(waiting, accepted, strict=True):
                line.abort()
                each.close()

    run(scene)


@pytest.mark.parametrize("adopted", [False, True], ids=["not yet the loop's", "the loop's"])
def test_a_join_given_up_before_it_is_connected_is_never_sent(run: Any, adopted: bool) -> None:
    """It would throw out whoever came back meanwhile."""

    async def scene() -> None:
        async with a_side(backlog=0) as side:
            dialer = side.dialer()
            await ready(side, dialer)
            first, late, last = lines = [upstream() for _ in range(3)]
            for number, line in enumerate(lines):  # the system takes one, and lets the others wait
                dialer.dial_now(line, b"%d" % number + REQUEST)
            if adopted:
                await until(lambda: late._made)
            assert not late.connected
            late.let_go()
            assert late.lost or late.transport.is_closing()

            accepted = [await side.accept() for _ in (first, last)]
            came = [await received(each, 1 + len(REQUEST)) for each in accepted]
            assert came == [b"0" + REQUEST, b"2" + REQUEST]
            await until(lambda: late.lost)
            first.abort()
            last.abort()
            for each in accepted:
                each.close()

    run(scene)


def test_who_is_given_up_before_the_loop_has_the_socket_is_cut(run: Any) -> None:
    async def scene() -> None:
        async with a_side() as side:
            dialer = side.dialer()
            await ready(side, dialer)
            line = upstream()
            dialer.dial_now(line, REQUEST)
            line.abort()

            accepted = await side.accept()
            with contextlib.suppress(ConnectionResetError):
                assert await received(accepted, 1000) in (b"", REQUEST)
            accepted.close()

    run(scene)


def test_a_large_request_arrives_whole(run: Any) -> None:
    async def scene() -> None:
        async with a_side() as side:
            dialer = side.dialer()
            await ready(side, dialer)
            line, large = upstream(), REQUEST + bytes(4 * 2**20)
            dialer.dial_now(line, large)

            accepted = await side.accept()
            assert await received(accepted, len(large)) == large
            accepted.close()
            await until(lambda: line.lost)

    run(scene)


def test_an_address_is_looked_up_again_after_a_while_and_after_a_failure(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        loop, ahead = asyncio.get_running_loop(), 0.0
        dialled: list[str] = []

        async with a_side() as side:
            moved = socket.create_server(("127.0.0.2", side.port))
            answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.1"])
            dialer = side.dialer("livekit.test")
            names = Names(
                lambda _: [(socket.AF_INET, (next(answers), 0))],
                clock=lambda: time.monotonic() + ahead,
            )
            monkeypatch.setattr(dialer, "_names", names)
            monkeypatch.setattr(dialer, "_loop", Patched(loop, lambda: ahead))

            async def dial() -> None:
                line = upstream()
                await dialer.dial(line, REQUEST)
                await until(lambda: line.connected)
                dialled.append(line.transport.get_extra_info("peername")[0])
                line.abort()

            assert not dialer.ready
            await dial()
            await dial()
            dialer.forget()
            assert not dialer.ready
            await dial()
            ahead = 5.0
            assert not dialer.ready
            await dial()
            moved.close()
            assert dialled == ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.1"]

    run(scene)


@pytest.mark.parametrize("port", ["listened on", "closed"])
def test_several_addresses_are_tried_in_turn(
    run: Any, monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    async def scene() -> None:
        async with a_side() as side:
            dialer = side.dialer("livekit.test")
            # Of both, only the second is listened on.
            both = [(socket.AF_INET, ("127.0.0.2", 0)), (socket.AF_INET, ("127.0.0.1", 0))]
            monkeypatch.setattr(dialer, "_names", Names(lambda _: both))
            line = upstream()
            if port == "closed":
                side.listener.close()
                with pytest.raises(ConnectionRefusedError):
                    await dialer.dial(line, REQUEST)
                return
            await dialer.dial(line, REQUEST)

            assert not dialer.ready
            accepted = await side.accept()
            assert await received(accepted, len(REQUEST)) == REQUEST
            line.abort()
            accepted.close()

    run(scene)


def test_a_resolver_that_is_silent_is_told_from_the_server(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with a_side() as side:
            dialer, end = side.dialer("livekit.test"), threading.Event()
            monkeypatch.setattr(dialer, "_names", Names(lambda _: [] * end.wait(20)))
            began = time.monotonic()
            with pytest.raises(Unresolved) as raised:
                await dialer.dial(upstream(), REQUEST)
            assert raised.value.own
            assert time.monotonic() - began < CONNECT
            end.set()

    run(scene)


def test_tls_is_never_done_at_once(run: Any) -> None:
    async def scene() -> None:
        async with a_side() as side:
            dialer = side.dialer(scheme="wss")
            dialling = asyncio.ensure_future(dialer.dial(upstream(), REQUEST))
            accepted = await side.accept()
            assert (await received(accepted, 1)) == b"\x16"  # a handshake (RFC 8446, 5.1)
            accepted.close()
            with pytest.raises(OSError):  # noqa: PT011  # what it is, is TLS's business
                await dialling
            assert not dialer.ready

    run(scene)


class Patched:
    """The loop, with another time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ahead: Callable[[], float]) -> None:
        self._loop = loop
        self._ahead = ahead

    def time(self) -> float:
        return self._loop.time() + self._ahead()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)
