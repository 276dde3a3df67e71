"""The limits of one HTTP connection, against a real uvicorn server, with raw sockets."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from livekit_pool.web.http import AT_SHUTDOWN, BodyWriter, HttpProtocol
from livekit_pool.web.upgrade import Head, plain_head
from tests.web.served import Connection, serving, until

OK = b"GET /%s HTTP/1.1\r\nhost: pool\r\nconnection: close\r\n\r\n"
UPGRADE = (
    b"GET /rtc?access_token=abc HTTP/1.1\r\nHost: pool\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
)


class App:
    """Answers with the sizes of what it was sent; holds answers to /held until released."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.reached: list[str] = []
        self.disconnected = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope["path"])
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                return
            body += message["body"]
            if not message["more_body"]:
                break
        if scope["path"] == "/held":
            await self.released.wait()
        text = b"%d %d" % (len(scope["query_string"]), len(body))
        headers = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


class Impatient(HttpProtocol):
    """Waits for no head."""

    head_time = 0.05


class LessImpatient(HttpProtocol):
    """Waits for no head, but for what follows at once, also where the machine is busy."""

    head_time = 0.5


class ImpatientWithBodies(HttpProtocol):
    """Waits for no body, and lets the refused take their time."""

    body_time = 0.05
    linger = 1000.0


class Small(HttpProtocol):
    """Takes small heads only."""

    head_size = 200


class Upgraded(asyncio.Protocol):
    """Stands where the relay stands: made by uvicorn for each upgrade."""

    made: list[Upgraded]

    def __init__(self, **_: Any) -> None:
        self.head: Head | None = None
        Upgraded.made.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def upgraded(self, head: Head) -> None:
        self.head = head
        self.transport.write(b"upgraded\n")

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"got %d\n" % len(data))


@pytest.fixture(autouse=True)
def _none_made() -> None:
    Upgraded.made = []


@pytest.fixture(autouse=True)
def _no_error_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client does is its own fault, not an error here."""
    yield
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert errors == []


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[HttpProtocol]]:
    """Every protocol object that is made."""
    made: list[weakref.ref[HttpProtocol]] = []
    original = HttpProtocol.__init__

    def init(self: HttpProtocol, *args: Any, **options: Any) -> None:
        made.append(weakref.ref(self))
        original(self, *args, **options)

    monkeypatch.setattr(HttpProtocol, "__init__", init)
    return made


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without the garbage collector, only what nothing refers to goes away."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def gone(reference: weakref.ref[HttpProtocol]) -> None:
    await until(lambda: reference() is None)


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:80]
    return int(answer[9:12])


async def test_requests_on_one_connection_are_answered() -> None:
    async with serving(App()) as served:
        connection = await served.connect()
        for length in (1, 2, 3):
            connection.writer.write(
                b"POST /?%s HTTP/1.1\r\nhost: pool\r\ncontent-length: 4\r\n\r\nbody"
                % (b"q" * length)
            )

            assert status(await connection.until(b"\r\n\r\n")) == 200
            assert await connection.until(b"4") == b"%d 4" % length
        connection.close()


GARBAGE = {
    "noise": b"\x00\xff\x16\x03garbage\r\n\r\n",
    "no method": b" / HTTP/1.1\r\n\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\n\r\n",
    "no such version": b"GET / HTTP/7.7\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "a path that is not ASCII": b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    "a path of 64 KiB": b"GET /" + b"a" * 65536 + b" HTTP/1.1\r\n\r\n",
    "a target that is no path": b"CONNECT pool:443 HTTP/1.1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "length and chunks": b"POST / HTTP/1.1\r\ncontent-length: 1\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("request_", GARBAGE.values(), ids=GARBAGE)
async def test_what_is_not_http_is_refused_and_the_next_client_is_served(request_: bytes) -> None:
    app = App()
    async with serving(app) as served:
        answer = await served.ask(request_)

        assert status(answer) == 400
        assert b"connection: close" in answer
        assert app.reached == []
        assert status(await served.ask(OK % b"next")) == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /rtc?access_token=" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: pool\r\n\r\n",
        b"GET /rtc?access_token=" + b"a" * 3_000_000,
        UPGRADE + b"X-Large: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1_001 + b"\r\n",
        UPGRADE + b"a: b\r\n" * 1_001 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50_000,
    ],
    ids=[
        "a line of 1 MB",
        "a line without end",
        "an upgrade",
        "many lines",
        "many lines of an upgrade",
        "lines without end",
    ],
)
async def test_a_head_that_is_too_large_is_refused(head: bytes) -> None:
    app = App()
    async with serving(app, ws=Upgraded) as served:
        assert status(await served.ask(head)) == 431
        assert app.reached == []
        assert Upgraded.made == []
        assert status(await served.ask(OK % b"next")) == 200


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\nhost: pool\r\n", UPGRADE], ids=["a request", "an upgrade"]
)
@pytest.mark.parametrize("behind", [b"", OK % b"behind"], ids=["alone", "with another"])
async def test_a_head_in_one_packet_is_measured_too(head: bytes, behind: bytes) -> None:
    app = App()
    async with serving(app, http=Small, ws=Upgraded) as served:
        answer = await served.ask(head + b"X-Large: " + b"a" * 200 + b"\r\n\r\n" + behind)

        assert status(answer) == 431
        assert answer.count(b"HTTP/1.1") == 1
        assert app.reached == []
        assert Upgraded.made == []


async def test_a_refused_client_that_sends_on_can_still_read_why() -> None:
    app = App()
    async with serving(app) as served:
        connection = await served.connect()
        connection.writer.write(b"GET /" + b"a" * 1_100_000)
        answer = await connection.until(b"too large.\n")
        for _ in range(16):  # a connection that was reset would fail here
            connection.writer.write(b"a" * 65536)
            await connection.writer.drain()
        connection.writer.write(b" HTTP/1.1\r\nhost: pool\r\n\r\n")

        assert status(answer) == 431
        assert await connection.rest() == b""
        assert app.reached == []


async def test_a_refused_client_that_does_not_close_is_cut_off() -> None:
    class Curt(HttpProtocol):
        linger = 0.05

    async with serving(App(), http=Curt) as served:
        connection = await served.connect()
        connection.writer.write(b"garbage\r\n\r\n")
        await connection.until(b"received.\n")
        await until(lambda: not served.server.server_state.connections)
        connection.close()


async def test_the_query_of_a_large_join_arrives_whole() -> None:
    app = App()
    async with serving(app) as served:
        answer = await served.ask(OK % (b"rtc/v1/validate?join_request=" + b"a" * 900_000))

        assert status(answer) == 200
        assert answer.endswith(b"\r\n\r\n%d 0" % (900_000 + len("join_request=")))
        assert app.reached == ["/rtc/v1/validate"]


async def test_a_body_in_the_same_packet_does_not_count_as_head() -> None:
    async with serving(App(), http=Small) as served:
        request = b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 5000\r\n\r\n"

        assert (await served.ask(request + b"b" * 5000)).endswith(b"0 5000")


UNFINISHED = {
    "a request line": b"GET /rt",
    "a head": b"GET / HTTP/1.1\r\nhost: po",
    "an upgrade": UPGRADE,
    "a second head": b"GET / HTTP/1.1\r\nhost: pool\r\n\r\nGET / HT",
}


@pytest.mark.parametrize("start", UNFINISHED.values(), ids=UNFINISHED)
async def test_half_a_head_is_refused_in_time(start: bytes) -> None:
    async with serving(App(), http=Impatient, ws=Upgraded) as served:
        answer = await served.ask(start)

        assert b"HTTP/1.1 408 " in answer
        assert Upgraded.made == []


UNFINISHED_BODIES = {
    "a body": b"POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\n12345",
    "a chunk": b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
}


@pytest.mark.parametrize("start", UNFINISHED_BODIES.values(), ids=UNFINISHED_BODIES)
async def test_half_a_body_is_refused_in_time_and_the_application_told(start: bytes) -> None:
    app = App()
    async with serving(app, http=ImpatientWithBodies) as served:
        connection = await served.connect()
        connection.writer.write(start)

        assert status(await connection.until(b"in time.\n")) == 408
        await until(app.disconnected.is_set)
        connection.close()


async def test_a_body_that_nobody_waits_for_any_more_is_not_answered_twice() -> None:
    async def early(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async with serving(early, http=ImpatientWithBodies, timeout_keep_alive=1000) as served:
        connection = await served.connect()
        connection.writer.write(UNFINISHED_BODIES["a body"])
        await connection.until(b"\r\n\r\n")
        connection.writer.write(b"67")

        assert await connection.rest() == b""


async def test_a_broken_body_is_not_refused_in_the_middle_of_its_answer() -> None:
    async def eager(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"so far", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serving(eager) as served:
        connection = await served.connect()
        connection.writer.write(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        await connection.until(b"so far\r\n")
        connection.writer.write(b"broken\r\n")

        assert await connection.rest() == b""


async def test_a_refused_client_may_leave_also_if_its_body_was_not_read() -> None:
    class Lazy(App):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "http"
            await self.released.wait()

    app = Lazy()
    async with serving(app, http=ImpatientWithBodies) as served:
        connection = await served.connect()
        head = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.writer.write(head + b"11170\r\n" + b"b" * 70_000 + b"\r\nbroken\r\n")
        await connection.until(b"received.\n")
        connection.close()
        await until(lambda: not served.server.server_state.connections)
        app.released.set()


async def test_who_sends_nothing_is_hung_up_on() -> None:
    async with serving(App(), http=Impatient) as served:
        assert await served.ask(b"") == b""


async def test_blank_lines_keep_no_connection_open() -> None:
    async with serving(App(), http=Impatient, timeout_keep_alive=1000) as served:
        connection = await served.connect()
        connection.writer.write(b"GET / HTTP/1.1\r\nhost: pool\r\n\r\n")
        await connection.until(b"0 0")
        connection.writer.write(b"\r\n")

        assert status(await connection.rest()) == 408


async def test_the_application_may_take_longer_than_a_head() -> None:
    app = App()
    async with serving(app, http=LessImpatient, timeout_keep_alive=1000) as served:
        connection = await served.connect()
        for _ in range(2):
            app.released.clear()
            connection.writer.write(b"GET /held HTTP/1.1\r\nhost: pool\r\n\r\n")
            for _ in range(3):  # as long as three heads may take
                await served.ask(b"GET")
            app.released.set()

            assert b"connection: close" not in await connection.until(b"0 0")
        connection.close()


async def test_a_body_that_the_application_does_not_read_yet_is_not_late() -> None:
    class Lazy(App):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await self.released.wait()
            await super().__call__(scope, receive, send)

    app = Lazy()

    class Eager(Impatient):
        body_time = 0.05

    async with serving(app, http=Eager) as served:
        connection = await served.connect()
        size = 4_000_000  # more than socket buffers hold
        connection.writer.write(
            b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % size
            + b"b" * size
        )
        for _ in range(3):
            await served.ask(b"GET")
        app.released.set()

        assert (await connection.rest()).endswith(b"0 %d" % size)


async def pipelined(served: Any, app: App, second: bytes) -> bytes:
    """What comes back for a request that is held, and ``second`` behind it."""
    connection: Connection = await served.connect()
    connection.writer.write(b"GET /held HTTP/1.1\r\nhost: pool\r\n\r\n")
    await until(lambda: app.reached)
    connection.writer.write(second)
    await connection.writer.drain()
    impatient = served.server.config.http is Impatient
    await served.ask(b"GET" if impatient else b"garbage\r\n\r\n")  # the second was seen too
    app.released.set()
    return await connection.rest()


BEHIND = {
    "garbage": b"garbage\r\n\r\n",
    "half a head": b"GET / HT",
    "an upgrade": UPGRADE + b"\r\n",
}


@pytest.mark.parametrize("second", BEHIND.values(), ids=BEHIND)
async def test_a_bad_request_does_not_spoil_the_answer_to_an_earlier_one(second: bytes) -> None:
    app = App()
    async with serving(app, http=Impatient, ws=Upgraded, timeout_keep_alive=1000) as served:
        answer = await pipelined(served, app, second)

        assert answer.count(b"HTTP/1.1 ") == 1
        assert status(answer) == 200
        assert answer.endswith(b"0 0")
        assert app.reached == ["/held"]
        assert Upgraded.made == []


async def test_all_earlier_requests_are_answered_before_the_refused_client_is_closed() -> None:
    app = App()
    async with serving(app, timeout_keep_alive=1000) as served:
        second = b"GET /?second HTTP/1.1\r\nhost: pool\r\n\r\n"
        answer = await pipelined(served, app, second + b"garbage\r\n\r\n")

        assert answer.count(b"HTTP/1.1 200") == 2
        assert answer.endswith(b"6 0")


@pytest.mark.parametrize("between", [b"", b"GET /?2 HTTP/1.1\r\nhost: pool\r\n\r\n"])
async def test_half_a_request_behind_others_lets_them_be_answered(between: bytes) -> None:
    app = App()
    async with serving(app, timeout_keep_alive=1000) as served:
        broken = b"POST /3 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nbroken\r\n"
        answer = await pipelined(served, app, between + broken)

        assert answer.count(b"HTTP/1.1 200") == (2 if between else 1)
        assert app.reached == (["/held", "/"] if between else ["/held"])


async def test_a_refused_client_can_not_make_up_for_it() -> None:
    app = App()
    async with serving(app, http=Impatient) as served:
        connection = await served.connect()
        connection.writer.write(b"GET / HTTP/1.1\r\nhost: po")
        assert status(await connection.until(b"in time.\n")) == 408
        connection.writer.write(b"ol\r\n\r\n")
        connection.close()
        await until(lambda: not served.server.server_state.connections)

        assert app.reached == []


async def test_an_upgrade_is_the_same_in_one_piece_or_in_two() -> None:
    whole = UPGRADE + b"X-Last: yes\r\n\r\n"
    async with serving(App(), ws=Upgraded) as served:
        at_once = await served.connect()
        at_once.writer.write(whole)
        await at_once.until(b"\n")
        in_two = await served.connect()
        await until(lambda: served.server.server_state.connections)
        in_two.writer.write(whole[:-1])
        (waiting,) = served.server.server_state.connections
        await until(lambda: isinstance(waiting, HttpProtocol) and waiting._uvicorns)
        in_two.writer.write(whole[-1:])
        await in_two.until(b"\n")

        first, second = Upgraded.made
        assert first.head == second.head == plain_head(whole) is not None
        at_once.close()
        in_two.close()


async def test_an_upgrade_where_there_is_nothing_to_upgrade_to_is_a_request() -> None:
    app = App()
    async with serving(app) as served:
        connection = await served.connect()
        connection.writer.write(UPGRADE + b"\r\n")
        answer = await connection.until(b"16 0")

        assert status(answer) == 200
        assert app.reached == ["/rtc"]
        connection.close()


async def test_a_connection_that_says_nothing_ends_with_the_server() -> None:
    async with serving(App()) as served:
        connection = await served.connect()
        await until(lambda: served.server.server_state.connections)
        served.server.should_exit = True

        assert await connection.rest() == b""


@pytest.mark.parametrize("pieces", [1, 2])
async def test_an_upgrade_gets_the_whole_head_and_no_clock(pieces: int) -> None:
    async with serving(App(), http=LessImpatient, ws=Upgraded) as served:
        connection = await served.connect()
        if pieces == 2:
            connection.writer.write(UPGRADE[:20])
            await until(lambda: Upgraded.made or served.server.server_state.connections)
        rest = UPGRADE[20:] if pieces == 2 else UPGRADE
        connection.writer.write(rest + b"X-Last: yes\r\n\r\n")
        await connection.until(b"\n")
        for _ in range(3):  # longer than a head may take
            await served.ask(b"GET")
        connection.writer.write(b"frames")

        assert await connection.until(b"\n") == b"got 6\n"
        (upgraded,) = Upgraded.made
        assert upgraded.head is not None
        assert upgraded.head.target == b"/rtc?access_token=abc"
        assert upgraded.head.fields[-1] == (b"x-last", b"yes")
        connection.close()


async def test_an_upgrade_with_a_large_offer_arrives_whole() -> None:
    async with serving(App(), ws=Upgraded) as served:
        connection = await served.connect()
        offer = b"a" * 900_000
        connection.writer.write(UPGRADE.replace(b"abc", offer) + b"\r\n")
        await connection.until(b"\n")

        (upgraded,) = Upgraded.made
        assert upgraded.head is not None
        assert upgraded.head.target == b"/rtc?access_token=" + offer
        connection.close()


@pytest.mark.usefixtures("no_collector")
async def test_after_an_upgrade_nothing_of_it_stays(
    seen: list[weakref.ref[HttpProtocol]],
) -> None:
    async with serving(App(), ws=Upgraded) as served:
        connection = await served.connect()
        connection.writer.write(UPGRADE + b"\r\n")
        await connection.until(b"\n")

        (reference,) = seen
        await gone(reference)
        connection.close()


@pytest.mark.usefixtures("no_collector")
async def test_after_a_connection_nothing_of_it_stays(
    seen: list[weakref.ref[HttpProtocol]],
) -> None:
    async with serving(App()) as served:
        connection = await served.connect()
        connection.writer.write(b"GET")
        connection.close()
        await until(lambda: seen)

        await gone(seen[0])


async def test_no_url_gets_into_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with serving(App(), access_log=True) as served:
            await served.ask(OK % b"rtc/validate?access_token=SECRET")
            await served.ask(b"GARBAGE /rtc?access_token=SECRET HTTP/1.1\r\n\r\n")

    assert caplog.records
    assert "SECRET" not in caplog.text


async def test_the_application_hears_of_a_stop_while_it_still_answers() -> None:
    app = App()

    async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        await receive()
        scope["state"][AT_SHUTDOWN] = app.released.set
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async with serving(with_lifespan) as served:
        connection = await served.connect()
        connection.writer.write(b"GET /held HTTP/1.1\r\nhost: pool\r\n\r\n")
        await until(lambda: app.reached)
        served.server.should_exit = True

        assert (await connection.rest()).endswith(b"0 0")


class Clock:
    """Stands where the event loop stands, for its clock: turned by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, asyncio.Handle, Callable[[], None]]] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.Handle:
        handle = asyncio.Handle(callback, (), asyncio.get_running_loop())
        self.timers.append((self.now + seconds, handle, callback))
        return handle

    def create_task(self, *args: Any) -> Any:
        return asyncio.get_running_loop().create_task(*args)

    def turn(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, handle, callback in due:
            if not handle.cancelled():
                callback()


class Wire(asyncio.Transport):
    """A connection without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return False


async def test_each_of_two_heads_has_its_own_time() -> None:
    clock, wire = Clock(), Wire()
    config = uvicorn.Config(App(), log_config=None, ws="none", timeout_keep_alive=1000)
    protocol = HttpProtocol(config, ServerState(), {}, cast(asyncio.AbstractEventLoop, clock))
    protocol.connection_made(wire)
    clock.turn(5)
    protocol.data_received(b"GET / HT")
    clock.turn(4.9)  # 10 s from the beginning of the connection are not over
    protocol.data_received(b"TP/1.1\r\n\r\nGET /")  # here the second one begins
    await until(lambda: wire.written)
    clock.turn(9.9)

    assert wire.written.count(b"HTTP/1.1 ") == 1
    assert not wire.closed

    clock.turn(0.2)

    assert wire.written.count(b"HTTP/1.1 408") == 1


async def test_a_piece_of_a_body_is_written_unless_the_client_does_not_read() -> None:
    class Slow(Wire):
        waiting = 0

        def get_write_buffer_size(self) -> int:
            return self.waiting

    wire = Slow()
    assert BodyWriter.of({}) is None
    config = uvicorn.Config(App(), log_config=None, ws="none")
    clock = cast(asyncio.AbstractEventLoop, Clock())
    protocol = HttpProtocol(config, ServerState(), {}, clock)
    protocol.connection_made(wire)
    protocol.data_received(b"GET / HT")
    writer = BodyWriter.of(cast(dict[str, Any], protocol.scope))
    assert writer is not None
    assert writer.write(BodyWriter.piece(b"x" * 17))
    assert wire.written == b"11\r\n" + b"x" * 17 + b"\r\n"
    wire.waiting = BodyWriter.most_waiting + 1
    assert not writer.write(b"more")
    wire.waiting = 0
    wire.close()
    assert not writer.write(b"more")
    assert b"more" not in wire.written
