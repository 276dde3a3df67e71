"""
The worker: one process that serves the pool on the supervisor's socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from ..exceptions import ConfigurationError
from ..pool import Pool
from .app import create_app
from .gateway import twirp, validate
from .gateway.gateway import Gateway
from .http import HttpProtocol
from .life import Life
from .listener import BACKLOG

if TYPE_CHECKING:
    from ..config import Settings
    from .webhooks.spool import Spool

__all__ = ["WorkerServer", "check", "serve_worker"]

#: Seconds an idle HTTP connection is kept: longer than the 60 s after which balancers close
#: theirs, so that it is they who close, and no request meets a connection that just went away.
_KEEP_ALIVE = 75
#: Seconds in which connections may end by themselves in a planned stop; the supervisor waits 10.
_GRACEFUL = 5


def check(settings: Settings) -> None:
    """
    Check what only the web server would find out, before any worker is forked.

    Raises:
        ConfigurationError: the certificate or its key cannot be read, or do not fit.
    """
    if settings.tls_cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_cert, settings.tls_key, password=_no_password
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            "LIVEKIT_POOL_TLS_CERT and LIVEKIT_POOL_TLS_KEY do not name a readable certificate "
            f"with its key, both in PEM form without a password: {reason}."
        ) from None


def serve_worker(settings: Settings, sock: socket.socket, life: Life) -> None:
    """
    Serve the pool on ``sock`` until the supervisor says stop, or is gone.

    Raises:
        ConfigurationError: the store cannot be one, and the like; no worker could serve this.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, sock, life))


class WorkerServer(uvicorn.Server):
    """uvicorn's server, which leaves signals to `Life`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield

    def stop(self) -> None:
        """Say goodbye to all clients and end."""
        self.should_exit = True


async def _serve(settings: Settings, sock: socket.socket, life: Life) -> None:
    main = asyncio.current_task()
    assert main is not None
    server: WorkerServer | None = None
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        if server is None:
            main.cancel()
        else:
            server.stop()

    try:
        async with life.lived(stop), Pool(settings, may_probe=life.probe_lock.try_acquire) as pool:
            server = WorkerServer(_uvicorn(settings, pool, Gateway(pool), life.spool))
            await server.serve(sockets=[sock])
    except asyncio.CancelledError:
        # Asked to stop before the pool was there: nothing has been served, nobody waits.
        if not stopped:
            raise


def _uvicorn(
    settings: Settings, pool: Pool, gateway: Gateway, spool: Spool | None
) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(pool, settings, (validate.router(gateway), twirp.router(pool)), spool),
        http=HttpProtocol,
        ws=gateway.connection,  # type: ignore[arg-type]  # uvicorn only calls it
        loop="none",  # the loop is ours already
        lifespan="on",
        log_config=None,
        access_log=False,  # its lines would hold tokens: they travel in URLs
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACEFUL,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


def _no_password() -> str:
    """Asked for by OpenSSL when a key is encrypted; without this it would ask the terminal."""
    raise ValueError("the key is encrypted")
