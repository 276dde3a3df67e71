"""The stream, to real receivers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from livekit.api import TokenVerifier, WebhookReceiver

from livekit_pool import observe
from livekit_pool.local import reserve_port
from livekit_pool.web.rarely import Rarely
from livekit_pool.web.webhooks.event import parsed
from livekit_pool.web.webhooks.stream import Bounds, Fate, Stream, origin_of
from tests.web.served import until
from tests.web.webhooks.livekits import LEFT, POOL, body_of, event
from tests.web.webhooks.receiver import Receiver, receiving

QUICK = Bounds(first_pause=0.05, longest_pause=0.2, flush=0.5)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@contextlib.asynccontextmanager
async def stream_to(*receivers: Receiver, **bounds: Any) -> AsyncIterator[Stream]:
    """A stream, closed in the end."""
    rarely = Rarely()
    urls = [receiver.url for receiver in receivers]
    stream = Stream(urls, POOL, rarely, replace(QUICK, **bounds))
    try:
        yield stream
    finally:
        await stream.aclose()
        rarely.close()


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, which never holds what a URL may keep secret."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    for record in caplog.records:
        shown = f"{record.getMessage()} {vars(record).get('fields')}"
        assert "of-the-url" not in shown
        assert "standup" not in shown
        assert "/hook" not in shown


def told(log: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in log.records if record.getMessage() == name]


def put(stream: Stream, *ids: str) -> None:
    """Put events in; an id's first letter is its room."""
    for each in ids:
        stream.put(f"room {each[0]}", body_of(event(id=each)))


async def test_an_event_arrives_as_from_a_livekit_server(receiver: Receiver) -> None:
    async with stream_to(receiver) as stream:
        stream.put("room standup", body_of(LEFT))
        await receiver.has(1)
        await until(lambda: stream.fates == {Fate.DELIVERED: 1})
        assert stream.waiting == 0
    (got,) = receiver.got
    assert got.headers["Content-Type"] == "application/webhook+json"
    assert "Bearer" not in got.headers["Authorization"]
    verifying = WebhookReceiver(TokenVerifier(POOL.key, POOL.secret))
    assert verifying.receive(got.body.decode(), got.headers["Authorization"]).id == "EV_left"


async def test_a_room_is_in_order_and_rooms_are_parallel(receiver: Receiver) -> None:
    receiver.gate = asyncio.Event()
    async with stream_to(receiver) as stream:
        put(stream, "a1", "a2", "a3", "b1", "b2", "c1")
        await until(lambda: receiver.together == 3)
        receiver.gate.set()
        await receiver.has(6)
    for room in "abc":
        ids = [each for each in receiver.ids if each[0] == room]
        assert ids == sorted(ids)
    assert receiver.most_together == 3


async def test_no_more_than_so_many_together(receiver: Receiver) -> None:
    receiver.gate = asyncio.Event()
    async with stream_to(receiver, together=4) as stream:
        put(stream, *(f"{chr(number)}1" for number in range(ord("a"), ord("z") + 1)))
        await until(lambda: receiver.together == 4)
        receiver.gate.set()
        await receiver.has(26)
    assert receiver.most_together == 4


async def test_a_receiver_that_was_away_gets_all_in_order(
    receiver: Receiver, log: pytest.LogCaptureFixture
) -> None:
    await receiver.stop()
    async with stream_to(receiver) as stream:
        ids = [f"{room}{number}" for number in range(20) for room in "abcde"]
        put(stream, *ids)
        await until(lambda: stream.retries >= 3)
        assert stream.waiting == 100
        await receiver.start()
        await receiver.has(100)
        await until(lambda: stream.fates == {Fate.DELIVERED: 100})
    for room in "abcde":
        assert [each for each in receiver.ids if each[0] == room] == [
            each for each in ids if each[0] == room
        ]
    (away,) = told(log, observe.WEBHOOK_RECEIVER_AWAY)
    assert away == {"receiver": f"http://127.0.0.1:{receiver.port}", "detail": "connection refused"}
    (back,) = told(log, observe.WEBHOOK_RECEIVER_BACK)
    assert back["seconds"] > 0
    assert not told(log, observe.WEBHOOK_LOST)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_one_request_at_a_time_asks_whether_it_is_back(
    receiver: Receiver, status: int
) -> None:
    async with stream_to(receiver) as stream:
        receiver.answer = lambda event: status
        put(stream, "a1")
        await until(lambda: stream.retries)
        receiver.gate = asyncio.Event()
        put(stream, *(f"{chr(number)}1" for number in range(ord("b"), ord("z") + 1)))
        await until(lambda: receiver.together)
        await asyncio.sleep(0.3)  # a wait for what must not happen
        assert receiver.together == 1
        receiver.answer = lambda event: 200
        receiver.gate.set()
        await receiver.has(26)


async def test_many_that_fail_together_are_one_failure(receiver: Receiver) -> None:
    receiver.gate = asyncio.Event()
    receiver.answer = lambda event: 503
    async with stream_to(receiver, longest_pause=600.0) as stream:
        put(stream, *(f"{chr(number)}1" for number in range(ord("a"), ord("z") + 1)))
        await until(lambda: receiver.together == 26)
        receiver.answer = lambda event: 503 if len(receiver.got) < 27 else 200
        receiver.gate.set()
        await receiver.has(26)  # would be after minutes, were it 27 failures in a row


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_obeyed(receiver: Receiver, as_date: bool) -> None:
    at: list[float] = []

    def answer(event: dict[str, Any]) -> int | web.Response:
        at.append(time.time())
        after = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
        return web.Response(status=503, headers={"Retry-After": after}) if len(at) == 1 else 200

    receiver.answer = answer
    async with stream_to(receiver) as stream:
        put(stream, "a1")
        await receiver.has(1)
    assert at[1] - at[0] >= 0.9


async def test_only_its_room_waits_for_an_event_that_makes_it_fail(
    receiver: Receiver, log: pytest.LogCaptureFixture
) -> None:
    poison, at = True, []

    def answer(event: dict[str, Any]) -> int:
        if not poison or event["id"] != "a1":
            return 200
        at.append(time.monotonic())
        return 500

    receiver.answer = answer
    async with stream_to(receiver) as stream:
        put(stream, "a1", "a2", "b1", "b2", "b3")
        await until(lambda: stream.retries >= 3)
        assert receiver.ids == ["b1", "b2", "b3"]
        poison = False
        await receiver.has(5)
    assert receiver.ids[3:] == ["a1", "a2"]
    # The pauses are 0.025 to 0.05, 0.05 to 0.1, 0.1 to 0.2 s.
    assert at[1] - at[0] >= 0.02
    assert at[2] - at[0] >= 0.07
    assert not told(log, observe.WEBHOOK_RECEIVER_AWAY)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422, 501])
async def test_what_is_refused_for_good_is_not_tried_again(
    receiver: Receiver, log: pytest.LogCaptureFixture, status: int
) -> None:
    receiver.answer = lambda event: status if event["id"] == "a1" else 200
    async with stream_to(receiver) as stream:
        put(stream, "a1", "a2")
        await receiver.has(1)
        await until(lambda: stream.fates == {Fate.DELIVERED: 1, Fate.REFUSED: 1})
    assert len(receiver.got) == 2
    assert told(log, observe.WEBHOOK_LOST) == [
        {
            "receiver": f"http://127.0.0.1:{receiver.port}",
            "why": "refused",
            "status": status,
            "count": 1,
        }
    ]


async def test_a_redirection_is_not_followed(receiver: Receiver) -> None:
    async with receiving() as other:
        receiver.answer = lambda event: web.Response(status=307, headers={"Location": other.url})
        async with stream_to(receiver) as stream:
            put(stream, "a1")
            await until(lambda: stream.fates == {Fate.REFUSED: 1})
        assert not other.got


async def test_what_is_too_old_is_dropped_and_counted(
    receiver: Receiver, log: pytest.LogCaptureFixture
) -> None:
    await receiver.stop()
    async with stream_to(receiver, age=2.0) as stream:
        put(stream, "a1", "a2", "b1")
        await until(lambda: stream.fates == {Fate.OLD: 3})
        assert stream.waiting == 0
        await receiver.start()
        put(stream, "a3")
        await receiver.has(1)
    assert receiver.ids == ["a3"]
    assert sum(line["count"] for line in told(log, observe.WEBHOOK_LOST)) == 3
    assert {line["why"] for line in told(log, observe.WEBHOOK_LOST)} == {"old"}


async def test_it_holds_so_many(receiver: Receiver) -> None:
    await receiver.stop()
    async with stream_to(receiver, events=3) as stream:
        put(stream, "a1", "b1", "b2", "b3", "c1")
        assert (stream.waiting, stream.fates) == (3, {Fate.FULL: 2})
        await receiver.start()
        await receiver.has(3)
        put(stream, "c2")
        await receiver.has(4)
    assert sorted(receiver.ids) == ["a1", "b1", "b2", "c2"]


async def test_it_holds_so_many_bytes(receiver: Receiver) -> None:
    await receiver.stop()
    size = len(body_of(event(id="a1")))
    async with stream_to(receiver, size=2 * size) as stream:
        put(stream, "a1", "b1", "b2")
        assert stream.fates == {Fate.FULL: 1}
        await receiver.start()
        await receiver.has(2)
        await until(lambda: stream.waiting == 0)
        put(stream, "b3")
        await receiver.has(3)


async def test_a_stop_passes_on_what_it_can(
    receiver: Receiver, log: pytest.LogCaptureFixture
) -> None:
    async with receiving() as down:
        await down.stop()
        receiver.gate = asyncio.Event()
        async with stream_to(receiver, down) as stream:
            put(stream, *(f"a{number}" for number in range(10)))
            await until(lambda: receiver.together)
            receiver.gate.set()
            begun = time.monotonic()
    assert len(receiver.taken) == 10
    assert 0.4 < time.monotonic() - begun < 3
    assert stream.fates == {Fate.DELIVERED: 10, Fate.STOPPED: 10}
    assert sum(line["count"] for line in told(log, observe.WEBHOOK_LOST)) == 10
    await stream.aclose()  # again


async def test_a_stop_with_nothing_to_do_takes_no_time(receiver: Receiver) -> None:
    async with stream_to(receiver, flush=30.0) as stream:
        put(stream, "a1")
        await receiver.has(1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5


async def test_a_receiver_that_hangs_is_away(
    receiver: Receiver, log: pytest.LogCaptureFixture
) -> None:
    receiver.gate = asyncio.Event()
    async with stream_to(receiver, timeout=0.2) as stream:
        put(stream, "a1")
        await until(lambda: stream.retries >= 2)
        receiver.gate.set()
        await until(lambda: stream.fates == {Fate.DELIVERED: 1})
    assert told(log, observe.WEBHOOK_RECEIVER_AWAY)[0]["detail"] == "no answer in time"


async def test_what_is_no_http_is_no_answer(log: pytest.LogCaptureFixture) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    rarely = Rarely()
    stream = Stream(
        [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"],
        POOL,
        rarely,
        replace(QUICK, flush=0.0),
    )
    put(stream, "a1")
    await until(lambda: stream.retries >= 2)
    await stream.aclose()
    rarely.close()
    server.close()
    assert told(log, observe.WEBHOOK_RECEIVER_AWAY)


async def test_a_receiver_that_is_away_delays_no_other(receiver: Receiver) -> None:
    async with receiving() as down:
        await down.stop()
        async with stream_to(down, receiver) as stream:
            put(stream, "a1", "a2")
            await receiver.has(2)
            # It may have come before the stream has read that it did.
            await until(lambda: stream.retries and stream.waiting == 2)


async def test_it_says_when_no_receiver_needs_an_event_any_more(receiver: Receiver) -> None:
    done: list[str] = []
    async with receiving() as other:
        await other.stop()
        receiver.answer = lambda event: 404
        async with stream_to(receiver, other, events=2) as stream:
            for each in ("a1", "b1", "c1"):  # the last has no room at either
                stream.put(each, body_of(event(id=each)), partial(done.append, each))
            assert done == ["c1"]
            await until(lambda: stream.fates[Fate.REFUSED] == 2)
            assert done == ["c1"]
            await other.start()
            await until(lambda: len(done) == 3)
            await other.stop()
            stream.put("d1", body_of(event(id="d1")), partial(done.append, "d1"))
    assert sorted(done) == ["a1", "b1", "c1"]


async def test_nothing_is_held_for_nobody() -> None:
    async with stream_to() as stream:
        put(stream, "a1")
        assert (stream.waiting, stream.fates) == (0, {})


async def test_the_example_of_the_documents_receives_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    example = example.replace("the pool's key", POOL.key).replace("the pool's secret", POOL.secret)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/webhooks.md", "exec"), names)
    app = web.Application()
    app.router.add_post("/livekit-hook", names["hook"])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port, held = reserve_port()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    rarely = Rarely()
    stream = Stream([f"http://127.0.0.1:{port}/livekit-hook"], POOL, rarely, QUICK)
    stream.put("", parsed(body_of(LEFT)).passed_on(server="frankfurt", revision=7))
    await stream.aclose()
    rarely.close()
    await runner.cleanup()
    held.close()
    assert stream.fates == {Fate.DELIVERED: 1}
    assert capsys.readouterr().out == "participant_left standup frankfurt 7\n"


def test_of_a_url_only_its_origin_is_shown() -> None:
    assert origin_of("https://app.example:8443/secret?key=secret") == "https://app.example:8443"
    assert origin_of("http://[::1]:9/x") == "http://[::1]:9"
