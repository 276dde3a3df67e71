"""
Several machines: pools that share one Redis, behind one TCP balancer, and what breaks between.

Each machine is one `livekit-pool serve` under a name of its own. Between it and Redis stands a
proxy that can cut it off; so can the path of its signalling to a server be cut.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from livekit_pool.local import LocalServer, die_with_parent
from tests.conftest import find_tool
from tests.real.call import Participant
from tests.real.pool_process import PoolProcess
from tests.real.until import until
from tests.stores.redis_server import RedisServer, free_port
from tests.stores.tcp_proxy import TcpProxy

SECRET = "one-secret-for-all-machines-of-a-pool"


class Machines:
    """
    The machines of one pool.

    Attributes:
        pools: what runs on each machine.
        stores: between each of them and that.
        url: where the balancer listens.
    """

    def __init__(
        self,
        pools: Sequence[PoolProcess],
        redis: RedisServer | None,
        stores: Sequence[TcpProxy],
        url: str,
    ) -> None:
        self.pools = pools
        self._redis = redis
        self.stores = stores
        self.url = url

    @property
    def redis(self) -> RedisServer:
        """The Redis that they share."""
        assert self._redis is not None
        return self._redis

    def token(self, room: str, identity: str) -> str:
        """A participant's token."""
        return self.pools[0].token(room, identity)

    async def join(self, who: Participant, room: str = "standup", **how: Any) -> None:
        """Join through the balancer."""
        await who.join(self.url, self.token(room, who.identity), **how)

    async def active(self) -> set[str]:
        """What the machines that run say is active."""
        return {str((await pool.status())["active"]) for pool in self.running}

    async def agree_on(self, server: str, *, seconds: float = 10) -> None:
        """Wait until every machine that runs says that ``server`` is active, and is no step."""

        async def agreed() -> bool:
            states = [await pool.status() for pool in self.running]
            return all(s["active"] == server and s["provisional"] is None for s in states)

        await until(agreed, seconds=seconds, what=lambda: f"all go to {server}\n{self.logs()}")

    async def step_to(self, server: str, *, seconds: float = 15) -> None:
        """Wait until every machine that runs has stepped to ``server``."""

        async def stepped() -> bool:
            states = [await pool.status() for pool in self.running]
            return all(s["active"] == server and s["provisional"] is not None for s in states)

        await until(stepped, seconds=seconds, what=lambda: f"all step to {server}\n{self.logs()}")

    async def history(self) -> list[dict[str, Any]]:
        """The rotations, which every machine that runs tells alike; without notes."""
        told = [await pool.rotations() for pool in self.running]
        assert all(each == told[0] for each in told)
        return [rotation for rotation in told[0] if rotation["from"] != rotation["to"]]

    async def room_is_whole(self, server: str, people: int, *, seconds: float = 20) -> None:
        """Wait until all say that one room, with so many participants, is on ``server`` alone."""

        async def whole() -> bool:
            for pool in self.running:
                servers = (await pool.status())["servers"]
                counts = {each["name"]: each["participants"] for each in servers}
                rooms = {each["name"]: each["rooms"] for each in servers}
                nobody = dict.fromkeys(counts, 0)
                if counts != {**nobody, server: people} or rooms != {**nobody, server: 1}:
                    return False
            return True

        await until(
            whole, seconds=seconds, what=lambda: f"one room, on {server} only\n{self.logs()}"
        )

    @property
    def running(self) -> list[PoolProcess]:
        """The machines whose pool runs."""
        return [pool for pool in self.pools if pool.running]

    def logs(self) -> str:
        """The ends of all logs, for the message of a failed test."""
        return "\n".join(f"-- {pool.log.parent.name}\n{pool.log_end(25)}" for pool in self.pools)

    def leaks(self) -> list[str]:
        """What no log may hold, and one does."""
        return [leak for pool in self.pools for leak in pool.leaks()]

    def freeze(self, number: int) -> None:
        """Stop all processes of a machine in the middle of whatever they do."""
        self._signal(number, signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """Let them go on."""
        self._signal(number, signal.SIGCONT)

    def _signal(self, number: int, what: signal.Signals) -> None:
        for pid in self.pools[number].pids():
            os.kill(pid, what)


@asynccontextmanager
async def machines(
    folder: Path,
    servers: Sequence[LocalServer],
    *,
    count: int = 3,
    start: bool = True,
    settings: Mapping[int, Mapping[str, str]] | None = None,
) -> AsyncIterator[Machines]:
    """
    ``count`` machines with one worker each, behind HAProxy.

    Args:
        start: whether to start them.
        settings: more environment variables for the machine of that number.
    """
    async with AsyncExitStack() as stack:
        redis = RedisServer(folder / "redis", keeps=True)
        stack.callback(redis.kill)
        pools, stores = [], []
        for number in range(count):
            store = await stack.enter_async_context(TcpProxy(redis.port))
            own = folder / f"machine{number}"
            own.mkdir()
            pool = PoolProcess(
                own,
                servers,
                workers=1,
                settings={
                    "LIVEKIT_POOL_MACHINE": f"machine{number}",
                    "LIVEKIT_POOL_STORE": f"redis://127.0.0.1:{store.port}?prefix=machines",
                    **((settings or {}).get(number) or {}),
                },
            )
            pool.secret = SECRET
            stack.push_async_callback(pool.aclose)
            pools.append(pool)
            stores.append(store)
        if start:
            await asyncio.gather(*(pool.start() for pool in pools))
        url = stack.enter_context(_balancer(folder, [pool.port for pool in pools]))
        yield Machines(pools, redis, stores, url)


class _balancer:
    """HAProxy in front of ``ports``, in turn; a context manager that tells its URL."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self._port = free_port()
        servers = "\n".join(
            f"  server m{n} 127.0.0.1:{port} check inter 500ms fall 2 rise 1"
            for n, port in enumerate(ports)
        )
        self._file = folder / "haproxy.cfg"
        self._file.write_text(
            "defaults\n"
            "  mode tcp\n"
            "  timeout connect 1s\n"
            "  timeout client 1h\n"
            "  timeout server 1h\n"
            "  timeout check 1s\n"
            "  option redispatch\n"
            "  retries 5\n"
            "listen pool\n"
            f"  bind 127.0.0.1:{self._port}\n"
            "  balance roundrobin\n"
            "  option httpchk GET /pool/readyz\n"
            f"{servers}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        command, arrange = die_with_parent([str(find_tool("haproxy")), "-db", "-f", self._file])
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=arrange,
        )
        deadline = time.monotonic() + 20
        while not self._listens():
            assert self._process.poll() is None, "HAProxy has ended"
            assert time.monotonic() < deadline, "HAProxy does not listen"
            time.sleep(0.01)
        return f"ws://127.0.0.1:{self._port}"

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
