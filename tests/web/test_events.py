"""The stream of events, over a real connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest
from fastapi import APIRouter

from livekit_pool.core.document import Mark, drained, paused
from livekit_pool.exceptions import StoreUnavailable
from livekit_pool.web import events
from livekit_pool.web.app import create_app
from livekit_pool.web.events import Events, Listener, News, Told
from livekit_pool.web.http import BodyWriter
from tests.web.fake_pool import (
    MAKER,
    PARTICIPANT,
    VIEWER,
    FakePool,
    document,
    rotation,
)
from tests.web.served import Served, serving, until


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a browser would see it."""

    name: str
    id: str
    data: Any


class Stream:
    """A listener: what comes, in order."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.lines = response.aiter_lines()

    async def block(self) -> list[str]:
        """The lines up to the next empty one; none at the end of the stream."""
        found: list[str] = []
        async with asyncio.timeout(10):
            async for line in self.lines:
                if not line:
                    break
                found.append(line)
        return found

    async def event(self) -> Event | None:
        """The next event, without comments and settings; None at the end."""
        while block := await self.block():
            fields = dict(line.split(": ", 1) for line in block)
            if "event" in fields:
                return Event(fields["event"], fields["id"], json.loads(fields["data"]))
        return None


@pytest.fixture
def pool() -> FakePool:
    return FakePool()


@pytest.fixture
async def served(pool: FakePool) -> AsyncIterator[Served]:
    async with serving(create_app(pool.pool), timeout_graceful_shutdown=10) as served:
        yield served


@asynccontextmanager
async def listening(
    served: Served, headers: Mapping[str, str] = VIEWER, **params: str
) -> AsyncIterator[Stream]:
    async with (
        httpx.AsyncClient(base_url=served.url, timeout=10) as client,
        client.stream("GET", "/pool/events", headers=headers, params=params) as response,
    ):
        yield Stream(response)


def state(revision: int, active: str) -> Event:
    return Event("state", str(revision), {"revision": revision, "active": active})


def rotated(revision: int, from_: str, to: str) -> Event:
    data = {
        "revision": revision,
        "from": from_,
        "to": to,
        "cause": "manual",
        "reason": "maintenance",
        "actor": "olga",
        "at": "2027-01-15T08:00:00.250Z",
    }
    return Event("rotation", str(revision), data)


async def test_a_new_listener_gets_the_state_and_then_rotations(
    pool: FakePool, served: Served
) -> None:
    async with listening(served) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["cache-control"] == "no-store"
        assert await stream.event() == state(7, "green")
        pool.announce(document(8, "blue"), rotation(8, "green", "blue"))
        assert await stream.event() == rotated(8, "green", "blue")
        pool.announce(document(9, "blue"))  # a drain, say
        assert await stream.event() == state(9, "blue")


@pytest.mark.parametrize("headers", [VIEWER, MAKER, PARTICIPANT])
async def test_any_valid_token_will_do_also_in_the_query(
    served: Served, headers: dict[str, str]
) -> None:
    async with listening(served, headers) as stream:
        assert await stream.event() == state(7, "green")
    token = headers["Authorization"].removeprefix("Bearer ")
    async with listening(served, {}, access_token=token) as stream:
        assert await stream.event() == state(7, "green")
    async with listening(served, {}) as stream:
        assert stream.response.status_code == 401
    async with listening(served, {}, access_token="nonsense") as stream:
        assert stream.response.status_code == 401


async def test_a_listener_that_returns_gets_what_it_missed(pool: FakePool, served: Served) -> None:
    pool.announce(document(8, "blue"), rotation(8, "green", "blue"))
    pool.announce(document(9, "red"), rotation(9, "blue", "red"))
    pool.announce(document(10, "red"))
    async with listening(served, {**VIEWER, "Last-Event-ID": "7"}) as stream:
        assert await stream.event() == rotated(8, "green", "blue")
        assert await stream.event() == rotated(9, "blue", "red")
        assert await stream.event() == state(10, "red")
    async with listening(served, {**VIEWER, "Last-Event-ID": "8"}) as stream:
        assert await stream.event() == rotated(9, "blue", "red")


@pytest.mark.parametrize("known", ["7", "4000000000", "", "x", "-1", "٣", "9" * 5000])
async def test_a_listener_that_missed_nothing_gets_the_state(served: Served, known: str) -> None:
    async with listening(served, {**VIEWER, "Last-Event-ID": known.encode()}) as stream:  # type: ignore[dict-item]  # httpx takes bytes
        assert await stream.event() == state(7, "green")


async def test_who_knows_more_than_this_process_is_told_nothing_older(
    pool: FakePool, served: Served
) -> None:
    """Another process told it of revision 8, of which this one has not heard yet."""
    async with listening(served, {**VIEWER, "Last-Event-ID": "8"}) as stream:
        await until(lambda: ("fresh", {"revision": 8}) in pool.calls)
        pool.announce(document(8, "blue"), rotation(8, "green", "blue"))
        pool.announce(document(9, "red"), rotation(9, "blue", "red"))
        assert await stream.event() == state(8, "blue")
        assert await stream.event() == rotated(9, "blue", "red")


async def test_without_the_history_the_state_still_comes(pool: FakePool, served: Served) -> None:
    pool.error = StoreUnavailable("it does not answer")
    async with listening(served, {**VIEWER, "Last-Event-ID": "3"}) as stream:
        assert await stream.event() == state(7, "green")


async def test_nothing_older_comes_after_something_newer(pool: FakePool, served: Served) -> None:
    async with listening(served) as stream:
        assert await stream.event() == state(7, "green")
        pool.announce(document(9, "red"), rotation(9, "blue", "red"))
        pool.announce(document(8, "blue"), rotation(8, "green", "blue"))
        pool.announce(document(9, "red"), rotation(9, "blue", "red"))
        pool.announce(document(8, "blue"))
        pool.announce(document(10, "green"), rotation(10, "red", "green"))
        assert await stream.event() == rotated(9, "blue", "red")
        assert await stream.event() == rotated(10, "red", "green")


async def test_a_history_that_is_ahead_of_the_document_is_told_once(
    pool: FakePool, served: Served
) -> None:
    pool.past = [rotation(8, "green", "blue")]
    async with listening(served, {**VIEWER, "Last-Event-ID": "7"}) as stream:
        assert await stream.event() == rotated(8, "green", "blue")
        pool.announce(document(8, "blue"), rotation(8, "green", "blue"))
        pool.announce(document(9, "red"), rotation(9, "blue", "red"))
        assert await stream.event() == rotated(9, "blue", "red")


async def test_a_drain_or_a_pause_is_a_state(pool: FakePool, served: Served) -> None:
    async with listening(served) as stream:
        assert await stream.event() == state(7, "green")
        mark = Mark(by="olga", since=0.0, reason="update")
        out = drained(pool.document, server="blue", mark=mark)
        pool.announce(out)
        assert await stream.event() == state(8, "green")
        pool.announce(paused(out, mark=mark))
        assert await stream.event() == state(9, "green")


async def test_a_step_without_a_revision_is_a_state(pool: FakePool, served: Served) -> None:
    async with listening(served) as stream:
        assert await stream.event() == state(7, "green")
        pool.announce(document(7, "blue"))
        assert await stream.event() == state(7, "blue")
        pool.announce(document(7, "green"))
        assert await stream.event() == state(7, "green")


async def test_a_document_of_another_lineage_is_believed(pool: FakePool, served: Served) -> None:
    async with listening(served) as stream:
        assert await stream.event() == state(7, "green")
        pool.announce(document(2, "blue", lineage="two"))
        assert await stream.event() == state(2, "blue")
        pool.announce(document(3, "red", lineage="two"), rotation(3, "blue", "red"))
        assert await stream.event() == rotated(3, "blue", "red")
        pool.announce(document(9, "green", lineage="three"))  # 4 to 8 were never this one's
        assert await stream.event() == state(9, "green")
    assert pool.calls == [("fresh", {"revision": 0})], "no history"


async def test_rotation_and_newer_state_come_both(pool: FakePool, served: Served) -> None:
    async with listening(served) as stream:
        assert await stream.event() == state(7, "green")
        pool.announce(document(9, "blue"), rotation(8, "green", "blue"))
        assert await stream.event() == rotated(8, "green", "blue")
        assert await stream.event() == state(9, "blue")


async def test_rotations_that_reached_this_process_as_one_are_told_one_by_one(
    pool: FakePool, served: Served
) -> None:
    async with listening(served) as stream:
        assert await stream.event() == state(7, "green")
        there_and_back = [rotation(9, "blue", "green"), rotation(8, "green", "blue")]
        pool.past = [rotation(12, "red", "blue"), *there_and_back, rotation(6, "red", "green")]
        pool.announce(document(10, "green"))
        assert await stream.event() == rotated(8, "green", "blue")
        assert await stream.event() == rotated(9, "blue", "green")
        assert await stream.event() == state(10, "green")


async def test_without_the_history_what_was_announced_is_told(
    pool: FakePool, served: Served
) -> None:
    async with listening(served) as stream:
        assert await stream.event() == state(7, "green")
        pool.error = StoreUnavailable("it does not answer")
        pool.announce(document(10, "red"), rotation(10, "green", "red"))
        assert await stream.event() == rotated(10, "green", "red")


async def test_a_change_without_a_gap_asks_no_history(pool: FakePool, served: Served) -> None:
    async with listening(served) as stream:
        await stream.event()
        for revision in (8, 9):
            pool.announce(document(revision, "red"))
            assert await stream.event() == state(revision, "red")
    assert pool.calls == [("fresh", {"revision": 0})], "no history"


async def test_without_a_document_the_stream_waits(
    pool: FakePool, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_NO_DOCUMENT_PAUSE", 0.01)
    pool.announce(None)
    async with listening(served) as stream:
        assert await stream.block() == ["retry: 1000"]
        pool.announce(document(1, "green"))
        assert await stream.event() == state(1, "green")


async def test_silence_is_filled_with_comments(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PING_INTERVAL", 0.01)
    async with listening(served) as stream:
        await stream.event()
        assert await stream.block() == [": ping"]
        assert await stream.block() == [": ping"]


async def test_silence_is_filled_where_nothing_goes_past_the_layers(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PING_INTERVAL", 0.01)
    told = Events(pool.pool)
    texts = told.stream(None)
    assert (await anext(texts)).startswith("retry: ")
    assert (await anext(texts)).startswith("event: state\n")
    assert [await anext(texts), await anext(texts)] == [": ping\n\n", ": ping\n\n"]
    await texts.aclose()
    told.close()


async def test_a_stop_ends_every_stream(pool: FakePool, served: Served) -> None:
    async with listening(served) as one, listening(served) as two:
        await one.event()
        await two.event()
        served.server.should_exit = True
        assert await one.event() is None
        assert await two.event() is None


async def test_a_stop_is_heard_also_beside_routers_with_a_life_of_their_own(
    pool: FakePool,
) -> None:
    lived: list[str] = []

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        lived.append("begun")
        yield
        lived.append("ended")

    app = create_app(pool.pool, routers=[APIRouter(lifespan=lifespan)])
    async with serving(app) as served, listening(served) as stream:
        await stream.event()
        assert lived == ["begun"]
        served.server.should_exit = True
        assert await stream.event() is None
    assert lived == ["begun", "ended"]


async def test_a_closed_pool_ends_every_stream_and_a_new_one_may_begin(
    pool: FakePool, served: Served
) -> None:
    async with listening(served) as stream:
        await stream.event()
        pool.stop()
        assert await stream.event() is None
    async with listening(served) as stream:
        assert await stream.event() == state(7, "green")
        pool.announce(document(8, "blue"), rotation(8, "green", "blue"))
        assert await stream.event() == rotated(8, "green", "blue")


async def test_who_listens_after_the_stop_is_sent_away() -> None:
    told = Events(FakePool().pool)
    told.close()

    texts = [text async for text in told.stream(None)]

    assert texts[-1].startswith("event: state")


async def test_a_slow_listener_gets_the_state_instead_of_all_it_missed(pool: FakePool) -> None:
    told = Events(pool.pool)
    with told.listener() as slow, told.listener() as fast:
        last = 7 + events.QUEUE
        for revision in range(8, last + 2):
            pool_document = document(revision, "blue" if revision % 2 else "green")
            news = News(document=pool_document, rotations=(rotation(revision, "green", "blue"),))
            slow.put(news)
            fast.put(news)
            assert await fast.next() is news

        left = await slow.next()
        slow.close()
        assert left is not None
        assert (left.document.revision, left.rotations) == (last + 1, ())
        assert await slow.next() is None
    told.close()


class Wire:
    """A way to a client, past the layers; ``open`` says whether the client reads."""

    def __init__(self) -> None:
        self.written = b""
        self.open = True

    def write(self, piece: bytes) -> bool:
        if self.open:
            self.written += piece
        return self.open


def wired() -> tuple[Wire, Listener]:
    """A listener with a way past the layers."""
    wire = Wire()
    return wire, Listener(cast(BodyWriter, wire))


def rotated_to(revision: int) -> News:
    """News of a rotation."""
    return News(document(revision, "blue"), (rotation(revision, "green", "blue"),))


async def waiting(listener: Listener) -> asyncio.Task[News | None]:
    """The task of a stream that has sent all it had, and waits."""
    task = asyncio.create_task(listener.next())
    await asyncio.sleep(0)
    return task


async def test_who_waits_is_written_to_at_once_and_once() -> None:
    wire, listener = wired()
    stream = await waiting(listener)
    news = rotated_to(8)
    listener.put(news)
    _, text, _ = news.after(Told())
    assert text.startswith("event: rotation\nid: 8\n")
    assert wire.written == b"%x\r\n%s\r\n" % (len(text), text.encode())
    listener.put(rotated_to(8))
    assert wire.written.count(b"event: ") == 1
    listener.close()
    assert await stream is None  # nothing was queued


async def test_nothing_overtakes_what_the_stream_still_sends() -> None:
    wire, listener = wired()
    news = [rotated_to(revision) for revision in (8, 9, 10)]
    listener.put(news[0])  # the stream is elsewhere: sending, or asleep until the client reads
    stream = await waiting(listener)
    assert await stream is news[0]
    listener.put(news[1])  # it sends the first one just now
    stream = await waiting(listener)
    assert await stream is news[1]
    assert wire.written == b""
    stream = await waiting(listener)
    listener.put(news[2])
    assert b"id: 10\n" in wire.written
    stream.cancel()


async def test_what_a_client_is_too_slow_for_is_queued() -> None:
    wire, listener = wired()
    stream = await waiting(listener)
    wire.open = False
    news = rotated_to(8)
    listener.put(news)
    wire.open = True
    listener.put(rotated_to(9))  # before the stream has woken
    assert wire.written == b""
    assert await stream is news
    assert listener.told == Told()  # the stream tells it, and notes that
    assert [news.document.revision for news in listener._waiting] == [9]


async def test_a_comment_is_written_only_between_pieces() -> None:
    wire, listener = wired()
    listener.ping()  # the stream is elsewhere: sending
    assert wire.written == b""
    stream = await waiting(listener)
    listener.ping()
    assert wire.written == b"8\r\n: ping\n\n\r\n"
    wire.open = False
    listener.put(rotated_to(8))
    wire.open = True
    listener.ping()
    assert wire.written == b"8\r\n: ping\n\n\r\n"
    stream.cancel()


async def test_the_text_for_all_who_were_told_the_same_is_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    event = events._event

    def making(name: str, revision: int, data: str) -> str:
        made.append(revision)
        return event(name, revision, data)

    monkeypatch.setattr(events, "_event", making)
    both = [wired(), wired()]
    streams = [await waiting(listener) for _, listener in both]
    news = rotated_to(8)
    for _, listener in both:
        listener.put(news)
    assert made == [8]
    assert both[0][0].written == both[1][0].written != b""
    for stream in streams:
        stream.cancel()


async def test_many_listeners_let_others_have_their_turn(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_AT_ONCE", 2)
    told = Events(pool.pool)
    with ExitStack() as listening_ones:
        listeners = [listening_ones.enter_context(told.listener()) for _ in range(5)]
        telling = asyncio.create_task(told._tell(rotated_to(8)))
        await asyncio.sleep(0)
        reached = [bool(listener._waiting) for listener in listeners]
        assert reached.count(True) == 2
        # While it goes on, one comes and one leaves.
        listening_ones.enter_context(told.listener())
        told._listeners.discard(listeners[reached.index(False)])
        await telling
        assert all(listener._waiting for listener in listeners)
    told.close()


async def test_a_listener_that_does_not_read_holds_nobody_up(
    pool: FakePool, served: Served
) -> None:
    connection = await served.connect()
    connection.writer.write(
        b"GET /pool/events HTTP/1.1\r\nhost: pool\r\nauthorization: %s\r\n\r\n"
        % VIEWER["Authorization"].encode()
    )
    await connection.until(b"event: state\n")
    async with listening(served) as stream:
        assert await stream.event() == state(7, "green")
        reason = "r" * 100_000  # so that socket buffers are soon full
        for revision in range(8, 200):
            long = rotation(revision, "green", "blue")
            object.__setattr__(long, "reason", reason)
            pool.announce(document(revision, "blue"), long)
            received = await stream.event()
            assert received is not None
            assert received.id == str(revision)
    connection.writer.transport.abort()


async def test_a_listener_that_leaves_is_forgotten(pool: FakePool) -> None:
    told = Events(pool.pool)
    texts = told.stream(None)
    await anext(texts)
    assert told.listeners == 1

    await texts.aclose()

    assert told.listeners == 0
    told.close()
