"""The pool as a user runs it: `livekit-pool serve`, a process with workers."""

from __future__ import annotations

import asyncio
import datetime
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import jwt

from livekit_pool.local import LocalServer, die_with_parent, environment, reserve_port
from tests.real.authority import Certificate
from tests.real.call import make_token
from tests.real.until import until

COMMAND = (str(Path(sys.executable).with_name("livekit-pool")), "serve")
READY_SECONDS = 20.0
STOP_SECONDS = 15.0


class PoolProcess:
    """
    One `livekit-pool serve` on loopback with its workers, started again on the same port.

    Usable as an asynchronous context manager that starts it and stops it.

    Attributes:
        port: the port it serves.
        key: the pool's key.
        secret: the pool's secret.
        servers: the list of servers that it starts with next time, in order.
        settings: the other environment variables that it starts with next time.
        log: file with all that it and its workers write.
    """

    def __init__(
        self,
        folder: Path,
        servers: Iterable[LocalServer],
        *,
        workers: int = 2,
        settings: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
        tls: Certificate | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        """
        Prepare a pool; starts nothing.

        Args:
            folder: where it runs, and so keeps its database and log.
            servers: the pool's servers, in order.
            workers: number of worker processes.
            settings: more environment variables, or other values for those set here.
            command: what to run; ``--workers`` and its number are appended.
            tls: its certificate; without one it speaks no TLS.
            host: the address that it serves.
        """
        self.port, self._held = reserve_port()
        self.key = "poolkey"
        self.secret = secrets.token_urlsafe(32)
        self.log = folder / "pool.log"
        self._folder = folder
        self._command = [*command, "--workers", str(workers)]
        self._tls = tls
        self._host = host
        if tls is not None:
            self._command += ["--tls-cert", str(tls.path), "--tls-key", str(tls.key)]
        self.servers = list(servers)
        self.settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: set[int] = set()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def url(self) -> str:
        """Its ``ws://`` URL, ``wss://`` with TLS."""
        return f"{'ws' if self._tls is None else 'wss'}://{self._host}:{self.port}"

    @property
    def http_url(self) -> str:
        """Its ``http://`` URL, ``https://`` with TLS."""
        return self.url.replace("ws", "http", 1)

    @property
    def environment(self) -> dict[str, str]:
        """The environment it runs with, and nothing of the caller's but PATH and HOME."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder),
            "LIVEKIT_POOL_URL": self.url,
            "LIVEKIT_POOL_HOST": self._host,
            "LIVEKIT_POOL_PORT": str(self.port),
            "LIVEKIT_POOL_KEY": self.key,
            "LIVEKIT_POOL_SECRET": self.secret,
            **environment(self.servers),
            **self.settings,
        }

    # ---- starting, stopping, killing ----

    async def start(self, *, seconds: float = READY_SECONDS) -> None:
        """
        Start it and wait until ``/pool/readyz`` is 200.

        Raises:
            AssertionError: it ended, or is not ready in time; the message has the end of its log.
        """
        self.launch()
        await until(
            self._ready_or_gone, seconds=seconds, what=lambda: f"readyz is 200\n{self.log_end()}"
        )
        assert self.running, f"the pool ended as it started:\n{self.log_end()}"

    def launch(self) -> None:
        """Start it and wait for nothing."""
        assert not self.running, "the pool runs already"
        command, arrange = die_with_parent(self._command)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Whatever it leaves behind can then be found, and ended, by its session.
                start_new_session=True,
                preexec_fn=arrange,
            )
        self._sessions.add(self._process.pid)

    async def stop(self) -> int:
        """SIGTERM it as an operator does and wait; its exit code. Its processes must be gone."""
        assert self._process is not None
        family = self._family()
        self._process.terminate()
        code = await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        await until(
            lambda: not [pid for pid in family if _parent(pid) is not None],
            seconds=2,
            what="the workers are gone too",
        )
        return code

    async def kill_worker(self, pid: int | None = None) -> int:
        """SIGKILL one worker, any one if ``pid`` is None, and wait until it is gone; its pid."""
        pid = self.workers()[0] if pid is None else pid
        await self._kill([pid])
        return pid

    async def kill_workers(self) -> list[int]:
        """SIGKILL all workers at once; their pids."""
        pids = self.workers()
        await self._kill(pids)
        return pids

    async def kill_everything(self) -> None:
        """SIGKILL the supervisor and its workers, the supervisor first."""
        assert self._process is not None
        family = self._family()
        self._process.kill()
        await self._kill(family)
        await asyncio.to_thread(self._process.wait, STOP_SECONDS)

    async def aclose(self) -> None:
        """End whatever of it still runs, and give up the port."""
        if self._process is not None:
            with_it = self._family()
            self._process.kill()
            self._process.wait()
            await self._kill(with_it)
        self._held.close()

    # ---- what there is to see ----

    @property
    def running(self) -> bool:
        """Whether the supervisor lives."""
        return self._process is not None and self._process.poll() is None

    async def all_told(self) -> None:
        """
        Wait until every worker has told of itself after now, by a heartbeat.

        Then it has begun, has seen all servers that answer, and knows what others told before.
        """
        now, workers = datetime.datetime.now(datetime.UTC), len(self.workers())

        async def all_have() -> bool:
            rows = (await self.status())["processes"]
            told = [datetime.datetime.fromisoformat(row["last_seen"]) for row in rows]
            return sum(at > now for at in told) == workers

        await until(all_have, seconds=10, what="all workers have told of themselves")

    def workers(self) -> list[int]:
        """The pids of the worker processes, oldest first."""
        assert self._process is not None
        children = [pid for pid in self._family() if _parent(pid) == self._process.pid]
        # multiprocessing's own helper is not a worker.
        return [pid for pid in children if "resource_tracker" not in _arguments(pid)]

    def pids(self) -> list[int]:
        """The pids of all that runs of it, the supervisor first."""
        assert self._process is not None
        return [self._process.pid, *self._family()]

    def log_text(self) -> str:
        """All that it wrote so far, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_end(self, lines: int = 30) -> str:
        """The last lines of its log, for the message of a failed test."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    async def logs(self, pattern: str, *, seconds: float = 10) -> re.Match[str]:
        """Wait until its log has a match for the regular expression, and return that."""
        match: re.Match[str] = await until(
            lambda: re.search(pattern, self.log_text()),
            seconds=seconds,
            what=lambda: f"the pool's log has {pattern!r}\n{self.log_end()}",
        )
        return match

    def leaks(self) -> list[str]:
        """What its log must never hold and does: secrets, by their owner's name, and tokens."""
        text = self.log_text()
        owned = {"pool": self.secret} | {server.name: server.secret for server in self.servers}
        found = [f"secret of {name}" for name, secret in owned.items() if secret in text]
        # A JWT's header begins with {" and so its base64 with eyJ.
        tokens = re.findall(r"eyJ[\w-]{10,}\.[\w-]+", text)
        return found + [f"token at {text.index(token)}" for token in tokens]

    # ---- its API ----

    def token(self, room: str, identity: str, **grants: Any) -> str:
        """A participant's token, signed with the pool's key."""
        return make_token(self.key, self.secret, room=room, identity=identity, **grants)

    async def status(self) -> dict[str, Any]:
        """What ``GET /pool/status`` answers."""
        return await self.request("GET", "/pool/status")

    async def active(self) -> str:
        """The name of the active server."""
        return str((await self.status())["active"])

    async def rotations(self) -> list[dict[str, Any]]:
        """What ``GET /pool/history`` answers, newest first."""
        return list((await self.request("GET", "/pool/history"))["rotations"])

    async def rotate(self, reason: str = "a test asked", **fields: Any) -> dict[str, Any]:
        """``POST /pool/rotate``; ``fields`` are ``to`` and others of the request's."""
        return await self.request("POST", "/pool/rotate", json={"reason": reason} | fields)

    async def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """
        One request with an admin's token.

        Raises:
            AssertionError: its status is not 2xx; the message has the answer.
        """
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.request(
                method,
                f"{self.http_url}{path}",
                ssl=self._trust,
                headers={"Authorization": f"Bearer {self._admin_token()}"},
                **options,
            ) as answer,
        ):
            body = await answer.text()
            assert answer.ok, f"{method} {path}: {answer.status} {body}"
            return dict(await answer.json())

    # ---- how ----

    @property
    def _trust(self) -> ssl.SSLContext | bool:
        return True if self._tls is None else self._tls.trusting()

    def _admin_token(self) -> str:
        claims = {"iss": self.key, "sub": "test", "pool": "admin", "exp": 4_000_000_000}
        return jwt.encode(claims, self.secret, algorithm="HS256")

    async def _ready_or_gone(self) -> bool:
        if not self.running:
            return True
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session,
                session.get(f"{self.http_url}/pool/readyz", ssl=self._trust) as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _family(self) -> list[int]:
        """The pids of all that any of its starts left alive but the supervisors, oldest first."""
        pids = [pid for pid in _processes() if pid not in self._sessions]
        return [pid for pid in pids if _session(pid) in self._sessions]

    async def _kill(self, pids: Iterable[int]) -> None:
        pids = list(pids)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        await until(
            lambda: all(_parent(pid) is None for pid in pids), seconds=5, what=f"{pids} are gone"
        )


# What Linux tells of a process in /proc; see proc_pid_stat(5).


def _processes() -> list[int]:
    return sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str]:
    """Its fields from the state on (the name before may hold anything); empty if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [] if fields[0] in "ZX" else fields


def _parent(pid: int) -> int | None:
    """Its parent's pid; None if it is gone, or a zombie."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _session(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[3]) if fields else None


def _arguments(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""
