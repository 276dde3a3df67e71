"""How soon 10,000 listeners hear of a rotation, beside what Redis could do at best."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from bench.exceptions import BenchError, Missing
from bench.load import build, piped, standing_in
from bench.options import Options
from bench.processes import family, parent
from bench.table import Row
from tests.conftest import find_tool
from tests.real.pool_process import PoolProcess
from tests.stores.redis_server import RedisServer

__all__ = ["listening"]

_PROCESSES: Final = 4
# The first is active at the beginning.
_SERVERS: Final = ("red", "green")
_LISTENERS: Final = 2_500
_ROTATIONS: Final = 10
# So that one has settled everywhere before the next.
_BETWEEN_SECONDS: Final = 1.0
_PATIENCE: Final = 30.0
_ROTATED: Final = "event: rotation\nid: "
_FIRST: Final = "event: state\n"
_CHANNEL: Final = "bench"
# Of the size of a rotation.
_MESSAGE: Final = (
    'event: rotation\nid: {number}\ndata: {{"revision":{number},"from":"red","to":"green","cause":'
    '"manual","reason":"a benchmark","actor":"test","at":"2026-11-23T01:23:53.038Z"}}\n\n'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """
    What one message came to.

    Attributes:
        arrivals: for each listener, when it came, by the monotonic clock.
        numbers: what its ``id`` was, and for how many.
        cpu: seconds of processor time until all had it, by pid, and of the ``listeners``.
    """

    arrivals: Sequence[float]
    numbers: Mapping[str, int]
    cpu: Mapping[str, float]


class _Audience:
    """The listeners: a program with all their connections."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def open(self, address: str, request: bytes, count: int) -> None:
        """Add listeners at an address, and wait until each was told where the pool is."""
        self._say(
            do="open",
            address=address,
            request=base64.b64encode(request).decode(),
            count=count,
            marker=_FIRST,
        )
        self._answer()

    async def hear(self, tell: Callable[[], Any], pids: Sequence[int]) -> _Heard:
        """Let something be told, by ``tell``, and wait until all have heard it."""
        self._say(do="hear", marker=_ROTATED, seconds=_PATIENCE, pids=pids)
        self._line()
        _, answer = await asyncio.gather(tell(), asyncio.to_thread(self._answer))
        return _Heard(arrivals=answer["arrivals"], numbers=answer["numbers"], cpu=answer["cpu"])

    def _say(self, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the listeners ended; what they said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _answer(self) -> dict[str, Any]:
        answer = self._line()
        if answer["failures"]:
            raise BenchError(f"the listeners: {answer['failures']}")
        return answer


async def listening(options: Options) -> list[Row]:
    """A rotation asked of one of four processes, until the listeners of all have it."""
    if find_tool("redis") is None:
        raise Missing("redis-server", "sudo apt-get install redis-server")
    program = build(options.folder)
    listeners = options.rounds(_LISTENERS, quick=100)
    rounds = options.rounds(_ROTATIONS, quick=2)
    redis = RedisServer(options.new_folder())
    try:
        bare = await _bare(options, program, redis, listeners, rounds)
        pool = await _pool(options, program, redis, listeners, rounds)
    finally:
        redis.kill()
    count = f"{_PROCESSES * listeners:,} listeners on {_PROCESSES} processes have it, redis, p99"
    return [
        Row(what=f"rotation until {count}", unit="s", digits=2, pool=pool, target=1.0),
        Row(
            what="the same, beside bare pub/sub to as many",
            unit="s",
            digits=2,
            pool=pool,
            reference=bare,
            reference_name="Redis and Go",
            target=None,
        ),
    ]


# -- the pool --


async def _pool(
    options: Options, program: Path, redis: RedisServer, listeners: int, rounds: int
) -> float:
    """The p99 in seconds, from when the rotation was asked for."""
    async with _pools(options, program, redis.url) as pools:
        pids = [pid for pool in pools for pid in family(parent(pool.workers()[0]))]
        with piped(program, "listen", cores=None) as process:
            audience = _Audience(process)
            for pool in pools:
                address = f"127.0.0.1:{pool.port}"
                await asyncio.to_thread(audience.open, address, _request(pool), listeners)
            asked: list[float] = []
            written: list[float] = []
            for number in range(rounds):
                await asyncio.sleep(_BETWEEN_SECONDS)
                answer: dict[str, Any] = {}
                start = time.monotonic()

                async def rotate(
                    pool: PoolProcess = pools[number % _PROCESSES],
                    to: str = _SERVERS[(number + 1) % 2],
                    answer: dict[str, Any] = answer,
                ) -> None:
                    # By force: on a busy machine a probe may be late, which is not measured here.
                    answer |= await pool.rotate(reason="a benchmark", to=to, force=True)

                heard = await audience.hear(rotate, pids)
                if heard.numbers != {str(answer["revision"]): _PROCESSES * listeners}:
                    raise BenchError(f"rotation {answer['revision']} was heard as {heard.numbers}")
                # By the clock of Redis, which runs on this machine.
                at = datetime.fromisoformat(answer["at"]).timestamp()
                began = at - time.time() + time.monotonic()
                asked += [arrival - start for arrival in heard.arrivals]
                written += [arrival - began for arrival in heard.arrivals]
                _tell(options, "pool", start, heard)
    options.say(f"rotation, from when it was written: {_spread(written)}")
    options.say(f"rotation, from when it was asked for: {_spread(asked)}")
    return _p99(asked)


@contextlib.asynccontextmanager
async def _pools(options: Options, program: Path, store: str) -> AsyncIterator[list[PoolProcess]]:
    """Four processes of one pool, before two servers' stand-ins."""
    async with contextlib.AsyncExitStack() as stack:
        # Nor does the pool rotate by itself then.
        settings = {"LIVEKIT_POOL_STORE": store, "LIVEKIT_POOL_PROBE_TIMEOUT": "5"}
        for number, name in enumerate(_SERVERS):
            stand_in = stack.enter_context(standing_in(program))
            fields = {"NAME": name, "URL": f"ws://{stand_in.address}", "KEY": "k", "SECRET": "s"}
            settings |= {f"LIVEKIT_SERVERS_{number}_{key}": fields[key] for key in fields}
        pools = []
        for _ in range(_PROCESSES):
            pool = options.pool(options.new_folder(), [], workers=1, settings=settings)
            if pools:
                pool.secret = pools[0].secret
            pools.append(await stack.enter_async_context(pool))
        yield pools


def _request(pool: PoolProcess) -> bytes:
    token = pool.token("bench", "listener")
    return (
        f"GET /pool/events HTTP/1.1\r\nHost: 127.0.0.1:{pool.port}\r\n"
        f"Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
    ).encode()


# -- what it is compared with --


async def _bare(
    options: Options, program: Path, redis: RedisServer, listeners: int, rounds: int
) -> float:
    """The p99 in seconds, from when the message was published."""
    heard_after: list[float] = []
    with contextlib.ExitStack() as stack:
        audience = _Audience(stack.enter_context(piped(program, "listen", cores=None)))
        pids = []
        for _ in range(_PROCESSES):
            fan = stack.enter_context(_fan(program, redis.port))
            pids.append(fan[1])
            await asyncio.to_thread(audience.open, fan[0], b"", listeners)
        publisher = stack.enter_context(socket.create_connection(("127.0.0.1", redis.port)))
        for number in range(rounds):
            await asyncio.sleep(_BETWEEN_SECONDS)
            message = _MESSAGE.format(number=number).encode()
            command = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (
                len(_CHANNEL),
                _CHANNEL.encode(),
                len(message),
                message,
            )
            start = time.monotonic()

            async def publish(command: bytes = command) -> None:
                publisher.sendall(command)

            heard = await audience.hear(publish, pids)
            if heard.numbers != {str(number): _PROCESSES * listeners}:
                raise BenchError(f"message {number} was heard as {heard.numbers}")
            heard_after += [arrival - start for arrival in heard.arrivals]
            _tell(options, "pub/sub", start, heard)
    options.say(f"bare pub/sub: {_spread(heard_after)}")
    return _p99(heard_after)


@contextlib.contextmanager
def _fan(program: Path, redis_port: int) -> Iterator[tuple[str, int]]:
    """One process that passes messages on: where listeners come, and its pid."""
    orders = {
        "redis": f"127.0.0.1:{redis_port}",
        "channel": _CHANNEL,
        "hello": base64.b64encode(_FIRST.encode()).decode(),
    }
    with piped(program, "fan", cores=None) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(orders))
        process.stdin.close()
        line = process.stdout.readline()
        if not line:
            raise BenchError("a fan did not start; what it said stands above")
        yield f"127.0.0.1:{json.loads(line)['port']}", process.pid


# -- figures --


def _tell(options: Options, who: str, start: float, heard: _Heard) -> None:
    """Say how one message went, and who used the machine meanwhile."""
    own = heard.cpu["listeners"]
    others = sum(heard.cpu.values()) - own
    options.say(
        f"{who}: all had it after {max(heard.arrivals) - start:.3f} s "
        f"(processor time: {others:.2f} s in all processes that tell, {own:.2f} s in the listeners)"
    )


def _p99(seconds: Sequence[float]) -> float:
    return quantiles(seconds, n=100)[98]


def _spread(seconds: Sequence[float]) -> str:
    return (
        f"median {median(seconds):.3f} s, p99 {_p99(seconds):.3f} s, at most {max(seconds):.3f} s"
    )
