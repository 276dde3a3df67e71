"""
Stage: what the demo runs on: three LiveKit servers and a pool in front, all on this machine.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp

from ...exceptions import NoAnswer, PoolError
from ...local import LocalServer, die_with_parent, environment, find_server, reserve_port
from ...servers import Origin
from ...tokens import KeyPair, participant_token, sign
from ..api import PoolApi

__all__ = ["NAMES", "Stage"]

NAMES = ("red", "green", "blue")
#: Seconds until the pool answers, on a busy machine.
_START_SECONDS = 20.0
#: Seconds in which the pool ends by itself.
_STOP_SECONDS = 12.0


class Stage:
    """
    Three LiveKit servers and the pool, as processes that do not outlive this one.

    Attributes:
        servers: the LiveKit servers by name, in the pool's order.
        url: the pool's URL for LiveKit's clients.
        pair: the pool's key pair.
        api: the pool's own API.
    """

    def __init__(self, folder: Path, servers: dict[str, LocalServer], port: int) -> None:
        """
        Prepare; starts nothing.

        Args:
            folder: for the pool's database and all logs.
            servers: the LiveKit servers.
            port: for the pool.
        """
        self.servers = servers
        self.pair = KeyPair(key="demo", secret=secrets.token_urlsafe(32))
        self.url = f"ws://127.0.0.1:{port}"
        self.api = PoolApi(Origin.parse(self.url), self.pair)
        self._folder = folder
        self._port = port
        self._pool: subprocess.Popen[bytes] | None = None
        self._keeps_logs = False

    @classmethod
    @asynccontextmanager
    async def built(cls, say: Callable[[str], None]) -> AsyncIterator[Self]:
        """
        Start everything, and end everything after the block.

        Raises:
            PoolError: there is no LiveKit server program here, or something did not start.
        """
        program = await asyncio.to_thread(find_server, say)
        async with AsyncExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="livekit-pool-demo-"))
            servers = {
                name: LocalServer(name, program=program, log=folder / f"{name}.log")
                for name in NAMES
            }
            port, held = reserve_port()
            stack.enter_context(held)
            stage = cls(folder, servers, port)
            stack.callback(stage._remove_folder)
            say(f"starting three LiveKit servers: {', '.join(NAMES)}")
            for server in servers.values():
                await stack.enter_async_context(server)
            say(f"starting the pool with two workers at {stage.url}")
            stack.push_async_callback(stage._stop_pool)
            await stage._start_pool()
            yield stage

    def participant_token(self, room: str, identity: str) -> str:
        """A token to join with, signed with the pool's key."""
        return participant_token(self.pair, identity=identity, room=room)

    async def status(self) -> dict[str, Any]:
        """The pool's status."""
        return await asyncio.to_thread(self.api.get, "/pool/status")

    async def rotations(self) -> list[dict[str, Any]]:
        """The pool's history, oldest first."""
        answer = await asyncio.to_thread(self.api.get, "/pool/history")
        return list(reversed(answer["rotations"]))

    async def rotate(self, to: str, reason: str) -> None:
        """Rotate by hand."""
        await asyncio.to_thread(self.api.post, "/pool/rotate", {"to": to, "reason": reason})

    async def present(self, server: str, room: str) -> set[str]:
        """Who is in ``room``, in the words of that LiveKit server itself; nobody if it is away."""
        one = self.servers[server].server
        grants = {"video": {"roomAdmin": True, "room": room}, "exp": int(time.time()) + 60}
        token = sign(grants, KeyPair(key=one.key, secret=one.secret))
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
                session.post(
                    f"{one.http_url}/twirp/livekit.RoomService/ListParticipants",
                    json={"room": room},
                    headers={"Authorization": f"Bearer {token}"},
                ) as answer,
            ):
                if answer.status != 200:
                    return set()
                body = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return set()
        return {one["identity"] for one in body.get("participants", [])}

    def command_line(self, arguments: str) -> str:
        """How to ask this pool from another shell, run from the same virtual environment."""
        return (
            f"LIVEKIT_POOL_URL={self.url} LIVEKIT_POOL_KEY={self.pair.key} "
            f"LIVEKIT_POOL_SECRET={self.pair.secret} livekit-pool {arguments}"
        )

    def keep_logs(self) -> Path:
        """Do not remove the folder of the logs at the end; where it is."""
        self._keeps_logs = True
        return self._folder

    # -- the pool's process --

    async def _start_pool(self) -> None:
        process = self._pool = self._launch_pool()
        deadline = time.monotonic() + _START_SECONDS
        while not await self._all_up():
            if process.poll() is not None or time.monotonic() > deadline:
                raise PoolError(f"The pool did not start: its log is {self.keep_logs()}/pool.log.")
            await asyncio.sleep(0.05)

    def _launch_pool(self) -> subprocess.Popen[bytes]:
        command, arrange = die_with_parent(
            [sys.executable, "-c", "from livekit_pool.cli import main; main()", "serve"]
        )
        with (self._folder / "pool.log").open("ab") as log:
            return subprocess.Popen(
                command,
                # Neither the caller's environment nor their folder, where a .env file of another
                # pool may lie.
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": str(self._folder),
                    "LIVEKIT_POOL_URL": self.url,
                    "LIVEKIT_POOL_PORT": str(self._port),
                    "LIVEKIT_POOL_KEY": self.pair.key,
                    "LIVEKIT_POOL_SECRET": self.pair.secret,
                    "LIVEKIT_POOL_WORKERS": "2",
                    "LIVEKIT_POOL_STORE": "sqlite:///livekit-pool.db",
                    **environment(self.servers.values()),
                },
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is for us, not for it.
                process_group=0,
                preexec_fn=arrange,
            )

    async def _all_up(self) -> bool:
        try:
            status = await self.status()
        except (NoAnswer, PoolError):
            return False
        return all(server["health"] == "up" for server in status["servers"])

    async def _stop_pool(self) -> None:
        if self._pool is None:
            return
        self._pool.terminate()
        try:
            await asyncio.to_thread(self._pool.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._pool.kill()
            self._pool.wait()

    def _remove_folder(self) -> None:
        if not self._keeps_logs:
            shutil.rmtree(self._folder, ignore_errors=True)
