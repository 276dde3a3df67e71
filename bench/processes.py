"""Child processes of a benchmark: start them, pin them to a core, weigh them, end them."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.exceptions import BenchError, Missing
from tests.conftest import TOOLS, find_tool

__all__ = [
    "ENDS_CORES",
    "RELAY_CORES",
    "allow_sockets",
    "family",
    "free_port",
    "memory",
    "parent",
    "pinned",
    "running",
    "tool",
    "wait_until",
]

_CORES: Final = sorted(os.sched_getaffinity(0))
# A relay has one core for itself, and both its ends the others: a relay that is the bottleneck
# shows as one core used whole. With a single core there is nothing to divide.
RELAY_CORES: Final = frozenset(_CORES[-1:])
ENDS_CORES: Final = frozenset(_CORES[:-1] or _CORES)

_END_SECONDS: Final = 10.0


def tool(name: str) -> Path:
    """
    Find a program that the tests use too.

    Raises:
        Missing: it is not installed.
    """
    found = find_tool(name)
    if found is None:
        raise Missing(name, f"sudo apt-get install {TOOLS[name][1]}")
    return found


def free_port() -> int:
    """Find a TCP port on loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def allow_sockets(count: int) -> None:
    """
    Let this process and its children have so many sockets open each.

    Raises:
        BenchError: the machine does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BenchError(
            f"each process needs {count} open files, and this machine allows {hard}: "
            f"raise the hard limit (ulimit -Hn {count})"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@contextlib.contextmanager
def pinned(cores: frozenset[int] | None) -> Iterator[None]:
    """Let the processes started inside run on these cores only (None: on any)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], *, log: Path, cores: frozenset[int] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """
    Run a program in the folder of its log, and end it afterwards.

    Args:
        command: the program and its arguments.
        log: where both its outputs go.
        cores: what it may run on.
    """
    with log.open("ab") as output, pinned(cores):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def parent(pid: int) -> int:
    """
    Find a process's parent.

    Raises:
        OSError: there is no such process.
    """
    # Field 4 of stat; the name in field 2 may hold spaces and brackets (proc(5)).
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 1 :].split()[1])


def family(pid: int) -> list[int]:
    """List a process and all its descendants, itself first."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = parent(int(entry.name))
    found = [pid]
    for member in found:
        found.extend(child for child, its_parent in parents.items() if its_parent == member)
    return found


def memory(pids: Sequence[int]) -> int:
    """
    Weigh processes together, in bytes.

    The proportional set size (proc(5), smaps_rollup): pages that several of them share are
    counted once in all.
    """
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """
    Ask again until it is so.

    Raises:
        BenchError: it was not so within these seconds; `what` says what was waited for.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise BenchError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
