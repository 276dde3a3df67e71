"""Both ends of a relay, as programs: the load on one side, a server's stand-in on the other."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.exceptions import BenchError, Missing
from bench.processes import ENDS_CORES, pinned
from bench.relays import Relay
from bench.signalling import ANSWER, JOIN, REQUEST

__all__ = ["PATH_V0", "Load", "Result", "StandIn", "build", "loading", "piped", "standing_in"]

_SOURCE: Final = Path(__file__).parent / "wire"
# What SDKs send on the older route, where the client makes no offer.
PATH_V0: Final = "/rtc?protocol=16&auto_subscribe=1&sdk=python&version=1.2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """
    What one order came to.

    Attributes:
        count: messages answered, or connections that saw their `join`.
        seconds: of wall time it took.
        relay_cpu: seconds of processor time, user and system, of the relay's processes meanwhile.
        load_cpu: the same of the load's own process.
        stand_in_cpu: the same of the server's stand-in.
        latencies: seconds from connect to `join`, where connections were made one after another.
    """

    count: int
    seconds: float
    relay_cpu: float = 0.0
    load_cpu: float = 0.0
    stand_in_cpu: float = 0.0
    latencies: Sequence[float] = ()

    @property
    def rate(self) -> float:
        """How many a second."""
        return self.count / self.seconds

    @property
    def rate_per_cpu(self) -> float:
        """How many for each second of processor time that the relay spent."""
        return self.count / max(self.relay_cpu, 0.01)

    @property
    def shares(self) -> str:
        """How much of a core each process used: the one with all of it is the bottleneck."""
        used = {"relay": self.relay_cpu, "load": self.load_cpu, "stand-in": self.stand_in_cpu}
        return ", ".join(f"{name} {cpu / self.seconds:.0%}" for name, cpu in used.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """A server's stand-in that runs: its address as ``host:port``, and its process."""

    address: str
    pid: int


class Load:
    """The clients: a program that carries out one order at a time."""

    def __init__(self, process: subprocess.Popen[str], stand_in: StandIn | None) -> None:
        self._process = process
        self._stand_in = stand_in

    def relay(
        self, relay: Relay, *, connections: int, seconds: float, warmup: float = 0.5
    ) -> Result:
        """Keep one message in flight on each connection, and count the answers."""
        return self._order(
            relay,
            do="relay",
            count=connections,
            seconds=seconds,
            warmup=warmup,
            request=_base64(REQUEST),
            answer=_base64(ANSWER),
        )

    def connect(self, relay: Relay, *, parallel: int, seconds: float, warmup: float) -> Result:
        """Connect, upgrade, wait for `join`, close; so many loops of it at once."""
        return self._order(relay, do="connect", parallel=parallel, seconds=seconds, warmup=warmup)

    def join(self, relay: Relay, *, path: str) -> float:
        """Join once and stay; the seconds from connect to `join`."""
        result = self._order(relay, do="connect", parallel=1, count=1, hold=True, path=path)
        return result.latencies[0]

    def open(self, relay: Relay, *, connections: int) -> None:
        """Open connections, each up to its `join`, and leave them open."""
        self._order(relay, do="open", count=connections, parallel=50)

    def close(self) -> None:
        """Close all that are open, without a goodbye."""
        self._send({"do": "close"})

    def _order(self, relay: Relay, **order: Any) -> Result:
        others = [] if self._stand_in is None else [self._stand_in.pid]
        answer = self._send(
            {
                "address": relay.address,
                "path": PATH_V0,
                "key": relay.key,
                "secret": relay.secret,
                "pids": [*relay.pids, *others],
                **order,
            }
        )
        if answer["failures"]:
            raise BenchError(f"{order['do']} through {relay.name}: {answer['failures']}")
        cpu: Mapping[str, float] = answer["cpu"]
        return Result(
            count=answer["count"],
            seconds=answer["seconds"],
            relay_cpu=sum(cpu.get(str(pid), 0.0) for pid in relay.pids),
            load_cpu=cpu.get("load", 0.0),
            stand_in_cpu=sum(cpu.get(str(pid), 0.0) for pid in others),
            latencies=answer.get("latencies", ()),
        )

    def _send(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the load program ended; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def build(folder: Path) -> Path:
    """
    Build the program that is both ends, into a folder.

    Raises:
        Missing: there is no Go.
        BenchError: it does not build; says why.
    """
    go = shutil.which("go")
    if go is None:
        raise Missing("Go", "sudo apt-get install golang-go")
    program = folder / "wire"
    # It needs nothing from outside, and is not to fetch another toolchain either.
    offline = {"GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "-mod=mod"}
    built = subprocess.run(
        [go, "build", "-o", program, "."],
        cwd=_SOURCE,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        raise BenchError(f"the load program does not build: {built.stderr.strip()}")
    return program


@contextlib.contextmanager
def standing_in(program: Path, *, port: int = 0) -> Iterator[StandIn]:
    """Run a server's stand-in; on any port, or on the given one."""
    orders = {
        "address": f"127.0.0.1:{port}",
        "join": _base64(JOIN),
        "request": _base64(REQUEST),
        "answer": _base64(ANSWER),
    }
    with piped(program, "serve") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(orders))
        process.stdin.close()
        line = process.stdout.readline()
        if not line:
            raise BenchError("the server's stand-in did not start; what it said stands above")
        yield StandIn(address=f"127.0.0.1:{json.loads(line)['port']}", pid=process.pid)


@contextlib.contextmanager
def loading(program: Path, stand_in: StandIn | None = None) -> Iterator[Load]:
    """Run the clients; results tell of the stand-in's use of the machine where it is given."""
    with piped(program, "load") as process:
        yield Load(process, stand_in)


@contextlib.contextmanager
def piped(
    program: Path, command: str, cores: frozenset[int] | None = ENDS_CORES
) -> Iterator[subprocess.Popen[str]]:
    """Run one of the commands of `wire`, with pipes for its orders and its answers."""
    with (
        pinned(cores),
        subprocess.Popen(
            [program, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
