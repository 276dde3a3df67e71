"""The pool as a relay, against HAProxy: messages, new connections, memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench.load import Load, Result, build, loading, standing_in
from bench.options import Options
from bench.processes import memory
from bench.relays import Relay, haproxy, one_worker
from bench.table import Bound, Row
from livekit_pool.servers import Server

__all__ = ["connections", "idle_memory", "messages"]

_HAPROXY: Final = "HAProxy"
# Many short rounds rather than few long ones: what else the machine does then hits both.
_ROUNDS: Final = 7
_SECONDS: Final = 4.0
_CONNECTIONS: Final = 100
_PARALLEL: Final = 32
_IDLE: Final = 2_000
_IDLE_BEFORE: Final = 200
_SETTLE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """The load and what it can be pointed at: the stand-in itself, and a relay of each kind."""

    load: Load
    direct: Relay
    haproxy: Relay
    pool: Relay


@contextlib.asynccontextmanager
async def _bench(options: Options) -> AsyncIterator[_Bench]:
    program = build(options.folder)
    with (
        standing_in(program) as stand_in,
        loading(program, stand_in) as load,
        haproxy(stand_in.address, options.folder) as proxy,
    ):
        direct = Relay(
            name="no relay", address=stand_in.address, key=proxy.key, secret=proxy.secret
        )
        server = Server(
            name="stand-in",
            url=f"ws://{stand_in.address}",
            key="stand-in",
            secret="the-stand-in-checks-no-signatures",
        )
        async with one_worker(options, server) as pool:
            yield _Bench(load=load, direct=direct, haproxy=proxy, pool=pool)


async def messages(options: Options) -> list[Row]:
    """Messages of 200 bytes there and back, one in flight on each of 100 connections."""

    def measure(load: Load, relay: Relay, seconds: float) -> Result:
        return load.relay(relay, connections=_CONNECTIONS, seconds=seconds, warmup=0.5)

    return await _throughput(options, "relayed messages", 0.9, measure)


async def connections(options: Options) -> list[Row]:
    """Connect, upgrade with a token of its own, wait for `join`, close: 32 loops at once."""

    def measure(load: Load, relay: Relay, seconds: float) -> Result:
        return load.connect(relay, parallel=_PARALLEL, seconds=seconds, warmup=0.5)

    return await _throughput(options, "new connections", 0.4, measure)


async def _throughput(
    options: Options, what: str, target: float, measure: Callable[[Load, Relay, float], Result]
) -> list[Row]:
    """Measure HAProxy and the pool in turn, so that what else the machine does hits both."""
    results: dict[str, list[Result]] = {}
    seconds = 1.0 if options.quick else _SECONDS
    async with _bench(options) as bench:
        # Once, to show that both ends can do more than any relay asks of them.
        turns = [bench.haproxy, bench.pool] * options.rounds(_ROUNDS)
        for relay in [bench.direct, *turns]:
            result = measure(bench.load, relay, seconds)
            results.setdefault(relay.name, []).append(result)
            options.say(
                f"{what}, {relay.name}: {result.rate:,.0f} a second (of a core: {result.shares})"
            )
        reference, pool = results[bench.haproxy.name], results[bench.pool.name]
    return [
        _row(f"{what} a second", target, reference, pool, lambda result: result.rate),
        _row(
            f"{what} for each CPU second of the relay",
            target,
            reference,
            pool,
            lambda result: result.rate_per_cpu,
        ),
    ]


def _row(
    what: str,
    target: float,
    reference: Sequence[Result],
    pool: Sequence[Result],
    figure: Callable[[Result], float],
) -> Row:
    return Row(
        what=what,
        reference_name=_HAPROXY,
        reference=median(map(figure, reference)),
        pool=median(map(figure, pool)),
        target=target,
        bound=Bound.AT_LEAST,
    )


async def idle_memory(options: Options) -> list[Row]:
    """
    What each of 2,000 idle connections weighs, besides 200 that are open already.

    Those 200 have everything loaded and used once. They stay open: what a process keeps after
    connections are closed is used again by the next ones, which would seem to weigh nothing.
    """
    weights: dict[str, list[float]] = {}
    for _ in range(options.rounds(3)):
        async with _bench(options) as bench:
            for relay in (bench.haproxy, bench.pool):
                bench.load.open(relay, connections=_IDLE_BEFORE)
                before = await _settled(relay)
                bench.load.open(relay, connections=_IDLE)
                after = await _settled(relay)
                bench.load.close()
                weight = (after - before) / _IDLE
                weights.setdefault(relay.name, []).append(weight)
                options.say(
                    f"idle connections, {relay.name}: {weight / 1000:.2f} kB each "
                    f"({before / 1e6:.1f} MB with {_IDLE_BEFORE}, "
                    f"{after / 1e6:.1f} MB with {_IDLE:,} more)"
                )
            names = bench.haproxy.name, bench.pool.name
    reference, pool = (median(weights[name]) / 1000 for name in names)
    return [
        Row(
            what="memory for one idle connection",
            unit="kB",
            digits=2,
            reference_name=_HAPROXY,
            reference=reference,
            pool=pool,
            target=1.0,
            bound=Bound.AT_MOST,
        )
    ]


async def _settled(relay: Relay) -> int:
    """Weigh a relay in bytes once it has stopped changing, after ten seconds at the latest."""
    found = memory(relay.pids)
    for _ in range(10):
        await asyncio.sleep(1)
        before, found = found, memory(relay.pids)
        if abs(found - before) < _SETTLE_BYTES:
            break
    return found
