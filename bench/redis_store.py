"""What the Redis store costs: a swap beside a bare SET, and what an idle pool asks of Redis."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from redis.asyncio import Redis

from bench.exceptions import BenchError
from bench.options import Options
from bench.processes import tool
from bench.table import Bound, Row
from livekit_pool.core.document import Cause, Document
from livekit_pool.local import LocalServer, find_server
from livekit_pool.stores.base import SwapOutcome
from livekit_pool.stores.document_json import document_to_json
from livekit_pool.stores.redis import RedisStore
from tests.stores.redis_server import RedisServer

__all__ = ["idle_commands", "swaps"]

# In each turn.
_AT_ONCE: Final = 100
_WORKERS: Final = 2
_SETTLE_SECONDS: Final = 5.0
_IDLE_SECONDS: Final = 30.0
# Of one command, in bytes; a process tells all that it sees in one.
_LONGEST_LINE: Final = 2**22


async def swaps(options: Options) -> list[Row]:
    """Swaps a second of one client, in turn with SETs of the same document."""
    with _redis(options) as server:
        async with (
            RedisStore(server.url) as store,
            Redis(port=server.port, single_connection_client=True) as plain,
        ):
            document = _document()
            await store.create(document, "bench")
            swapping = _Swapping(store, document)
            content = document_to_json(document)
            line = await store._calls._get_line()
            ways: dict[str, Callable[[Document], Awaitable[object]]] = {
                "redis-py": lambda _: plain.set("bare", content),
                "line": lambda _: line.call("SET", "bare", content),
                "swap": swapping.once,
            }
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(options.rounds(200, 40)):
                for name, once in ways.items():
                    seconds[name].append(await _time(once, swapping.proposals()))
    line_rate, beside_line = _middle(seconds["line"], seconds["swap"])
    plain_rate, beside_plain = _middle(seconds["redis-py"], seconds["swap"])
    return [
        Row(
            what="swap, redis, operations a second",
            reference_name="bare SET on the same connection",
            reference=line_rate,
            pool=beside_line,
            target=0.5,
            bound=Bound.AT_LEAST,
        ),
        Row(
            what="the same, beside another client",
            reference_name="bare SET by redis-py",
            reference=plain_rate,
            pool=beside_plain,
            target=None,
        ),
    ]


def _middle(bare: list[float], swapped: list[float]) -> tuple[float, float]:
    """
    Operations a second of the two turns, one after the other, whose ratio is the median of all.

    What else the machine does changes within a second, and meets such a pair alike.
    """
    pairs = sorted(zip(bare, swapped, strict=True), key=lambda pair: pair[0] / pair[1])
    one, other = pairs[len(pairs) // 2]
    return _AT_ONCE / one, _AT_ONCE / other


async def idle_commands(options: Options) -> list[Row]:
    """Commands a second that each process of a pool sends, when nobody uses the pool."""
    folder = options.new_folder()
    with _redis(options) as server:
        async with (
            LocalServer(
                "real", program=find_server(options.say), log=folder / "livekit.log"
            ) as livekit,
            options.pool(
                folder,
                [livekit],
                workers=_WORKERS,
                settings={"LIVEKIT_POOL_STORE": server.url},
            ),
        ):
            await asyncio.sleep(_SETTLE_SECONDS)
            seconds, sent = await _listen(server, 5.0 if options.quick else _IDLE_SECONDS)
    options.say(f"in {seconds:.0f} s, from {_WORKERS} processes: {dict(sent)}")
    if not sent.get("evalsha"):
        raise BenchError("the pool does not use this Redis")
    return [
        Row(
            what="commands of an idle pool to Redis, a second and process",
            digits=2,
            pool=sum(sent.values()) / seconds / _WORKERS,
            target=2.0,
            bound=Bound.AT_MOST,
        )
    ]


class _Swapping:
    """Swaps a document for the next one again and again."""

    def __init__(self, store: RedisStore, document: Document) -> None:
        self._store = store
        self._document = document

    def proposals(self) -> list[Document]:
        """The next documents; none is the store's before it is swapped in."""
        revision = self._document.revision
        return [
            replace(self._document, revision=revision + number) for number in range(1, _AT_ONCE + 1)
        ]

    async def once(self, proposal: Document) -> None:
        revision = proposal.revision
        answer = await self._store.swap(revision - 1, proposal, f"bench-{revision}")
        if answer.outcome is not SwapOutcome.WON:
            raise BenchError("a swap without a rival was lost")
        self._document = proposal


async def _time(once: Callable[[Document], Awaitable[object]], given: list[Document]) -> float:
    begin = time.perf_counter()
    for document in given:
        await once(document)
    return time.perf_counter() - begin


@contextmanager
def _redis(options: Options) -> Iterator[RedisServer]:
    tool("redis")
    server = RedisServer(options.new_folder())
    try:
        yield server
    finally:
        server.kill()


async def _listen(server: RedisServer, seconds: float) -> tuple[float, Counter[str]]:
    """
    How often each command is sent in so many seconds, and how long that was.

    Redis counts what clients send and what scripts run in one figure, for every command there is.
    MONITOR tells them apart, by the source ``lua``; it alone would not do, since it leaves out
    what it holds to be an administrator's. What is asked here is asked at the Unix socket, which
    no pool uses, and it bounds the time in both accounts: Redis does one thing after the other.
    """
    reader, writer = await asyncio.open_unix_connection(str(server.socket), limit=_LONGEST_LINE)
    writer.write(b"MONITOR\r\n")
    await reader.readline()
    before = await asyncio.to_thread(_calls, server)
    await _run_by_scripts(reader)
    begin = time.monotonic()
    await asyncio.sleep(seconds)
    after = await asyncio.to_thread(_calls, server)
    lasted = time.monotonic() - begin
    scripts = await _run_by_scripts(reader)
    writer.close()
    # The first question and its end are in the second answer.
    asked_here = Counter(info=1, quit=1)
    return lasted, after - before - scripts - asked_here


async def _run_by_scripts(monitor: asyncio.StreamReader) -> Counter[str]:
    """How often scripts ran each command, of what MONITOR tells up to the next question."""
    run: Counter[str] = Counter()
    while True:
        told = (await monitor.readline()).decode(errors="replace")
        source, _, words = told.partition("[")[2].partition("] ")
        command = words.split('"')[1].lower()
        if source.endswith(" lua"):
            run[command] += 1
        elif " unix:" in source and command == "info":
            return run


def _calls(server: RedisServer) -> Counter[str]:
    """How often each command was run so far, be it by a client or a script."""
    calls: Counter[str] = Counter()
    for line in server.command("INFO", "commandstats").splitlines():
        name, _, figures = line.removeprefix("cmdstat_").partition(":calls=")
        if figures:
            calls[name] = int(figures.split(",")[0])
    return calls


def _document() -> Document:
    return Document(
        lineage="bench",
        revision=1,
        active_server="frankfurt.example.com",
        active_since=1,
        active_server_index=0,
        server_count=3,
        created_at=time.time(),
        last_rotation=time.time(),
        cause=Cause.CREATED,
        reason="created",
        actor="bench",
    )
