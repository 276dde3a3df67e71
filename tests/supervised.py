"""
A supervisor with workers that need no pool: the program that test_supervisor.py runs.

    python -m tests.supervised PORT WORKERS KIND [PATIENCE]

KIND says what the workers are (a function of this module); PATIENCE is a JSON object of the fields
of `Patience`. Workers of kind ``serve`` answer over HTTP:

    /        who answers: {"pid", "number", "probing"}
    /slow    the same, a second later
    /stall   never, and nothing else is answered meanwhile
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from typing import Any

import uvicorn

from livekit_pool import observe, supervisor
from livekit_pool.config import Settings
from livekit_pool.exceptions import ConfigurationError
from livekit_pool.web.life import Life

#: Told by a worker of kind ``stubborn`` from the moment on that no signal ends it.
STUBBORN = "Worker is stubborn"


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


def serve(settings: object, sock: socket.socket, life: Life) -> None:
    """Serve until asked to stop."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await asyncio.sleep(1)
        elif scope["path"] == "/stall":
            time.sleep(60)  # noqa: ASYNC251  the point of it
        probing = life.probe_lock.try_acquire()
        body = json.dumps({"pid": os.getpid(), "number": life.number, "probing": probing})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body.encode()})

    async def main() -> None:
        server = _Server(
            uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
        )

        def stop() -> None:
            server.should_exit = True

        async with life.lived(stop):
            await server.serve(sockets=[sock])

    asyncio.run(main())


def stubborn(settings: object, sock: socket.socket, life: Life) -> None:
    """Serve, whatever one asks."""

    async def main() -> None:
        async with life.lived(lambda: None):
            observe.event(STUBBORN, pid=os.getpid())
            await asyncio.Event().wait()

    asyncio.run(main())


def crash(settings: object, sock: socket.socket, life: Life) -> None:
    """Die at the start."""
    raise RuntimeError("the text of an unexpected error may hold a secret")


def refuse(settings: object, sock: socket.socket, life: Life) -> None:
    """Refuse the configuration."""
    raise ConfigurationError(
        "LIVEKIT_POOL_STORE names a file that is not a database. Choose another!"
    )


def first_refuses(settings: object, sock: socket.socket, life: Life) -> None:
    """Only the first worker refuses it."""
    (refuse if life.number == 0 else serve)(settings, sock, life)


def unforkable(settings: object, sock: socket.socket, life: Life) -> None:
    """Serve, once a fork has succeeded: the first three fail (see below)."""
    serve(settings, sock, life)


def _fail_three_forks() -> None:
    fork, failures = os.fork, iter(range(3))

    def failing() -> int:
        for _ in failures:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    os.fork = failing


if __name__ == "__main__":
    port, workers, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    observe.configure("debug" if kind != "crash" else "info")
    if kind == "unforkable":
        _fail_three_forks()
    settings = Settings(port=port, workers=workers, key="key", secret="s" * 32)
    patience = supervisor.Patience(**json.loads(sys.argv[4] if sys.argv[4:] else "{}"))
    try:
        code = supervisor.run(settings, worker_main=globals()[kind], patience=patience)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        code = 2
    # Whoever comes back here twice has let a worker out of its frame.
    restored = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    sys.stdout.write(f"end, signals restored: {restored}\n")
    sys.exit(code)
