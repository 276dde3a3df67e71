"""``python -m bench``: measure what the README promises, and print one table."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from bench.chromium import gap_in_audio
from bench.exceptions import BenchError, Missing
from bench.gaps import gap_in_data
from bench.incidents import Incident
from bench.joining import joining
from bench.listening import listening
from bench.options import Options
from bench.processes import allow_sockets
from bench.redis_store import idle_commands, swaps
from bench.relaying import connections, idle_memory, messages
from bench.table import Row, as_json, render
from bench.watching import watching
from livekit_pool.cli.demo.call import quiet_sdk
from livekit_pool.exceptions import PoolError
from tests.real.pool_process import PoolProcess

Measurement: TypeAlias = Callable[[Options], Coroutine[Any, Any, list[Row]]]

# By name, in the order in which they run, with what the table calls those without figures.
MEASUREMENTS: Final[Mapping[str, tuple[str, Measurement]]] = {
    "messages": ("relayed messages, against HAProxy", messages),
    "connections": ("new connections, against HAProxy", connections),
    "memory": ("memory for one idle connection, against HAProxy", idle_memory),
    "redis-swaps": ("swap, redis, operations a second", swaps),
    "redis-idle": ("commands of an idle pool to Redis, a second and process", idle_commands),
    "join": ("join until `join` arrives, real server", joining),
    "events": ("rotation until 10,000 listeners have it, redis", listening),
    "watch": ("SQLite: change seen by another process", watching),
    **{
        f"gap-{incident.name.lower()}": (
            f"longest data gap, Python SDK: {incident}",
            partial(gap_in_data, incident=incident),
        )
        for incident in Incident
    },
    **{
        f"chromium-{incident.name.lower()}": (
            f"gap in audio, Chromium: {incident}",
            partial(gap_in_audio, incident=incident),
        )
        for incident in (Incident.PLANNED, Incident.KILLED)
    },
}
# The most that one process opens: HAProxy has two sockets for each of 2,200 idle connections,
# and wants as many as its `maxconn` would take.
SOCKETS: Final = 16_500
# Processes that want a core at the same time, over the last minute.
BUSY: Final = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the measurements.

    Returns:
        0 where every promise that could be measured is kept, else 1.
    """
    asked = _parse(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="livekit-pool-bench-") as folder:
        options = Options(folder=Path(folder), pool=_pool(asked.command), quick=asked.quick)
        busy = os.getloadavg()[0]
        if busy > BUSY:
            options.say(
                f"other programs are at work here (load average {busy:.1f}): of these figures only "
                "those for each CPU second and those of memory mean much"
            )
        # Servers die here all the time, and the SDK would say so each time.
        with quiet_sdk():
            for name in _chosen(asked.only):
                rows += _measure(options, *MEASUREMENTS[name])
    print(json.dumps(as_json(rows), indent=2) if asked.json else render(rows))
    return int(any(row.wrong or row.kept is False for row in rows))


def _measure(options: Options, title: str, measurement: Measurement) -> list[Row]:
    """Run one measurement; what keeps it from its figures becomes a row of its own."""
    options.say(title)
    try:
        allow_sockets(SOCKETS)
        return asyncio.run(measurement(options))
    except Missing as missing:
        return [Row(what=title, left_out=str(missing))]
    # By AssertionError the harness of the tests says that a pool or a call is not as it should be.
    except (BenchError, PoolError, AssertionError) as error:
        options.say(f"went wrong: {error}")
        return [Row(what=title, left_out=_brief(error), wrong=True)]


def _brief(error: Exception) -> str:
    """What went wrong, without the log or the history that may follow it."""
    first, *rest = str(error).splitlines() or [type(error).__name__]
    return f"{first} {rest[0]}" if rest and first.endswith(":") else first


def _chosen(names: Sequence[str] | None) -> list[str]:
    return [
        name
        for name in MEASUREMENTS
        if names is None or any(name.startswith(beginning) for beginning in names)
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help=f"measure only this, or all that begin so; repeatable: {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few and short rounds: to see that it works"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--command",
        help="what serves the pool instead of 'livekit-pool serve' from beside this Python; "
        "gets the same environment, and --workers",
    )
    asked = parser.parse_args(arguments)
    for name in asked.only or ():
        if not _chosen([name]):
            parser.error(f"--only {name}: there are {', '.join(MEASUREMENTS)}")
    return asked


def _pool(command: str | None) -> Callable[..., PoolProcess]:
    if command is None:
        return PoolProcess
    return partial(PoolProcess, command=shlex.split(command))


if __name__ == "__main__":
    sys.exit(main())
