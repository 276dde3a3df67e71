"""
Real LiveKit servers on loopback: for the demo and the tests.

`find_server` finds the program or builds it once. `LocalServer` runs one, and can kill it, freeze
it and start it again on the same ports. ``python -m livekit_pool.local`` prints the program's path.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from livekit_pool.exceptions import PoolError
from livekit_pool.servers import Server

__all__ = [
    "LocalServer",
    "LocalServerError",
    "die_with_parent",
    "environment",
    "find_server",
    "reserve_port",
]

# The newest version that `go install` takes: later ones have replace lines in their go.mod.
BUILT_VERSION = "1.13.5"
# /rtc/v1 came with 1.9.10; what the gateway relies on was checked with 1.11.0 and later.
OLDEST_VERSION = (1, 11)
# Older ones cannot fetch the toolchain that the module's go.mod asks for.
OLDEST_GO = (1, 21)

_INSTALL_HINT = (
    "install it with LiveKit's own 'curl -sSL https://get.livekit.io | bash' on Linux, "
    "'brew install livekit' on macOS"
)
# Below the range from which Linux takes the ports of outgoing connections: such a port cannot be
# taken while its server is down, and a connection to it cannot meet itself on loopback.
_PORTS = range(20_000, 32_000)
_START_SECONDS = 15.0
# For the first 0.1 s after it begins to serve, LiveKit drops every request to stop for good
# (livekit-server 1.13.5, pkg/service/server.go: `running` is set after a pause).
_DEAF_SECONDS = 0.3
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class LocalServerError(PoolError):
    """A LiveKit server cannot be found, built or started here; says in one sentence why."""

    code = "local_server"


# ---- the program ------------------------------------------------------------------------------


def find_server(say: Callable[[str], None] = lambda line: None) -> Path:
    """
    Find a LiveKit server program, building one into the user's cache if need be.

    Takes ``livekit-server`` from the PATH if it is new enough, else the one in the cache, else
    builds it with Go, which takes about three minutes, once. Safe when called by several processes
    at the same time.

    Args:
        say: called with lines that tell the user what is going on.

    Raises:
        LocalServerError: there is none and it cannot be built.
    """
    on_path = shutil.which("livekit-server")
    if on_path and (_version([on_path, "--version"]) or (0,)) >= OLDEST_VERSION:
        return Path(on_path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "livekit-pool"
    program = cache / f"livekit-server-{BUILT_VERSION}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "building.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not program.exists():
                _build(program, say)
    return program


def _version(command: list[str]) -> tuple[int, ...] | None:
    """The first version number that ``command`` prints, None if it prints none."""
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", shown.stdout)
    return tuple(int(part) for part in found.groups(default="0")) if found else None


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _build(program: Path, say: Callable[[str], None]) -> None:
    """Build the program with Go; it appears under its name only when it is complete."""
    go = shutil.which("go")
    if go is None:
        raise LocalServerError(
            "LiveKit server is missing, and so is Go to build it (the PATH has neither "
            f"livekit-server {_text(OLDEST_VERSION)} or newer nor go): {_INSTALL_HINT}."
        )
    if (_version([go, "version"]) or (0,)) < OLDEST_GO:
        raise LocalServerError(
            "LiveKit server is missing, and Go is too old to build it (it needs "
            f"{_text(OLDEST_GO)} or newer): {_INSTALL_HINT}."
        )
    module = f"github.com/livekit/livekit-server/cmd/server@v{BUILT_VERSION}"
    say(f"building LiveKit server {BUILT_VERSION}: about three minutes, once (go install {module})")
    with tempfile.TemporaryDirectory(dir=program.parent, prefix="building-") as folder:
        # -v names each package on stderr as it is compiled, which is all the progress Go shows.
        with subprocess.Popen(
            [go, "install", "-v", module],
            env=os.environ | {"GOBIN": folder},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as building:
            last = _watch_build(building.stderr or (), say)
        if building.returncode != 0:
            raise LocalServerError(
                f"LiveKit server could not be built with Go ({last or 'it gave no reason'}): "
                f"{_INSTALL_HINT}."
            )
        (Path(folder) / "server").replace(program)
    say(f"built {program.name} into the cache")


def _watch_build(lines: Iterable[str], say: Callable[[str], None]) -> str:
    """Tell of the build's progress now and then; the last line that was not progress."""
    fetched = compiled = 0
    told, last = time.monotonic(), ""
    for line in map(str.strip, lines):
        if line.startswith("go: downloading"):
            fetched += 1
        elif line.startswith("go: ") or " " in line:
            last = line
        else:
            compiled += 1
        if time.monotonic() - told >= 10:
            told = time.monotonic()
            say(f"{fetched} modules fetched, {compiled} packages compiled")
    return last


# ---- ports ------------------------------------------------------------------------------------


def reserve_port() -> tuple[int, socket.socket]:
    """
    Find a port that is free on loopback for TCP and UDP, and hold it for one server.

    The held socket is bound and never listens. On Linux a server that sets SO_REUSEADDR, as Go's
    do, can still listen there, while other searches and outgoing connections pass the port by, also
    while the server is down. Elsewhere the port is only known to have been free a moment ago.

    Returns:
        The port, and the socket that holds it until it is closed.

    Raises:
        LocalServerError: a hundred tries found none.
    """
    for port in random.sample(_PORTS, 100):
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            held.bind(("127.0.0.1", port))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                datagrams.bind(("127.0.0.1", port))
        except OSError:
            held.close()
            continue
        if sys.platform == "linux":
            # Only now: with it the bind above would have succeeded beside another holder's.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            held.close()
        return port, held
    raise LocalServerError(f"no free port found on loopback from {_PORTS.start} to {_PORTS.stop}.")


# ---- one server -------------------------------------------------------------------------------


class LocalServer:
    """
    One LiveKit server on loopback, a child of this process that does not outlive it.

    Usable as an asynchronous context manager that starts and kills it.

    Attributes:
        name: its name in the pool.
        key: its API key.
        secret: its API secret, made here.
        port: TCP port of HTTP and signalling.
        media_port: UDP port of media. There is no ICE over TCP, for which LiveKit would listen on
            every interface.
        log: file that collects its output over all starts.
    """

    def __init__(
        self,
        name: str,
        *,
        program: Path,
        log: Path,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """
        Choose ports and a key pair; starts nothing.

        Args:
            name: its name in the pool.
            program: what `find_server` found.
            log: file to append its output to.
            settings: top-level entries of LiveKit's configuration file to add or replace, such as
                ``{"limit": {"num_tracks": 1}}``.
        """
        self.name = name
        self.key = f"key-{name}"
        self.secret = secrets.token_urlsafe(32)
        self.log = log
        self.port, self._port_held = reserve_port()
        self.media_port, self._media_port_held = reserve_port()
        self._program = program
        self._settings = settings or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._answered_at = 0.0
        self._at_exit: weakref.finalize[[subprocess.Popen[bytes]], LocalServer] | None = None

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self._process else "not running"
        return f"<LocalServer {self.name} {self.url} {state}>"

    @property
    def url(self) -> str:
        """Its ``ws://`` URL."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def server(self) -> Server:
        """The same, as a pool's configuration holds it."""
        return Server(name=self.name, url=self.url, key=self.key, secret=self.secret)

    @property
    def running(self) -> bool:
        """Whether its process lives, frozen or not."""
        return self._process is not None and self._process.poll() is None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """
        Start it, again on the same ports, and wait until ``GET /`` is 200.

        Raises:
            LocalServerError: it ended, or does not answer within 15 s; its log says why.
        """
        if self.running:
            return
        process = self._spawn()
        self._process = process
        self._at_exit = weakref.finalize(self, _end, process)
        deadline = time.monotonic() + _START_SECONDS
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
            while not await self._answers(session):
                if process.poll() is not None or time.monotonic() > deadline:
                    how = "ended at once" if process.poll() is not None else "does not answer"
                    await self.kill()
                    raise LocalServerError(
                        f"LiveKit server {self.name} {how}: its log is {self.log}."
                    )
                await asyncio.sleep(0.02)
        self._answered_at = time.monotonic()

    async def kill(self) -> None:
        """SIGKILL it, frozen or not, and wait until it is gone; nothing if it is not running."""
        if self._process is not None:
            await asyncio.to_thread(_end, self._process)
            self._forget()

    async def terminate(self) -> None:
        """
        Stop it the way LiveKit is stopped for good, and wait until it is gone.

        The first SIGTERM lets calls go on; the second ends them: participants are sent Leave with
        action DISCONNECT and reason SERVER_SHUTDOWN.
        """
        if self._process is None:
            return
        await self.ask_to_stop()
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, 10)
        finally:
            await self.kill()

    async def ask_to_stop(self) -> None:
        """SIGTERM it once, and wait until it knows: it goes on until nobody is in any room."""
        if self._process is None:
            return
        await asyncio.sleep(self._answered_at + _DEAF_SECONDS - time.monotonic())
        said = self._exits_requested()
        self._process.terminate()
        # LiveKit reads one signal at a time, and a second SIGTERM is lost while one is pending.
        deadline = time.monotonic() + 5
        while self.running and self._exits_requested() == said:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)

    async def freeze(self) -> None:
        """SIGSTOP it: its kernel goes on accepting connections and it answers none."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            # The signal is only on its way when kill(2) returns; WNOWAIT leaves its report be.
            await asyncio.to_thread(
                os.waitid, os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT
            )

    async def thaw(self) -> None:
        """SIGCONT it after `freeze`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    async def aclose(self) -> None:
        """Kill it and give up its ports."""
        await self.kill()
        self._port_held.close()
        self._media_port_held.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        # On the calling thread: PR_SET_PDEATHSIG watches the thread that forked, not the process.
        command, arrange = die_with_parent([self._program])
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                # Not the caller's environment: LIVEKIT_KEYS, NODE_IP and others would override.
                # Not arguments: `ps` shows those to everybody.
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": str(Path.home()),
                    "LIVEKIT_CONFIG": json.dumps(self._configuration()),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is for us, not for it.
                process_group=0,
                preexec_fn=arrange,
            )

    def _configuration(self) -> dict[str, object]:
        return {
            "port": self.port,
            "bind_addresses": ["127.0.0.1"],
            "rtc": {
                "tcp_port": 0,
                "udp_port": self.media_port,
                "use_external_ip": False,
                "node_ip": "127.0.0.1",
                "enable_loopback_candidate": True,
                "interfaces": {"includes": ["lo" if sys.platform == "linux" else "lo0"]},
            },
            "keys": {self.key: self.secret},
            "logging": {"level": "info"},
            **self._settings,
        }

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"http://127.0.0.1:{self.port}/") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _exits_requested(self) -> int:
        return self.log.read_bytes().count(b"exit requested")

    def _forget(self) -> None:
        if self._at_exit is not None:
            self._at_exit.detach()
        self._process = self._at_exit = None


def environment(servers: Iterable[LocalServer]) -> dict[str, str]:
    """The variables that make a pool of ``servers``, in their order."""
    return {
        f"LIVEKIT_SERVERS_{position}_{field}": value
        for position, server in enumerate(servers)
        for field, value in (
            ("NAME", server.name),
            ("URL", server.url),
            ("KEY", server.key),
            ("SECRET", server.secret),
        )
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def die_with_parent(
    command: Sequence[str | Path],
) -> tuple[list[str | Path], Callable[[], None] | None]:
    """
    How to start ``command`` so that no crash of ours leaves it behind.

    On Linux it is killed when the thread that started it ends, by setpriv(1) of util-linux, which
    turns into what it runs. Elsewhere there is no such thing.

    Returns:
        what to run in its place, and `subprocess.Popen`'s ``preexec_fn``: None, unless setpriv is
        missing. Code of ours between fork and exec may wait for ever for a lock that another
        thread held at the fork, and LiveKit's SDK brings many threads.
    """
    if sys.platform != "linux":
        return [*command], None
    if setpriv := shutil.which("setpriv"):
        return [setpriv, "--pdeathsig", "KILL", "--", *command], None
    # Found before the fork: after it the child may only make calls that take no lock.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return [*command], arrange


if __name__ == "__main__":
    try:
        print(find_server(lambda line: print(f"    {line}", file=sys.stderr, flush=True)))
    except LocalServerError as error:
        sys.exit(str(error))
