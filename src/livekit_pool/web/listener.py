"""
The one listening socket: bound here, or handed over by systemd.

The supervisor holds it for as long as it lives, whatever becomes of the workers that inherit it:
a connection that finds no worker waits in the socket's backlog instead of being refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections.abc import MutableMapping

from ..exceptions import ConfigurationError

__all__ = ["BACKLOG", "listen", "raise_file_limit", "shown"]

#: Connections that may wait for a worker. The kernel caps it (net.core.somaxconn, 4096 on Linux).
BACKLOG = 2048

#: Files open at once, at most: what Linux allows a process by default (fs.nr_open).
_MOST_FILES = 1_048_576

#: The first descriptor that systemd passes (sd_listen_fds(3), SD_LISTEN_FDS_START).
_FIRST_PASSED = 3


def listen(host: str, port: int, environ: MutableMapping[str, str] | None = None) -> socket.socket:
    """
    Return the listening socket for ``host`` and ``port``.

    If systemd passed this process a socket (``LISTEN_FDS``, ``LISTEN_PID``; sd_listen_fds(3)),
    that one is adopted and ``host`` and ``port`` say nothing; the two variables are removed from
    ``environ``, so that no child takes them for its own.

    One socket is shared by all workers, by inheritance. With SO_REUSEPORT each would have its own
    backlog, and the connections waiting in that of a dead worker would be reset.

    Args:
        host: name or address; a name is resolved, its first address is taken.
        port: 0 lets the system choose.
        environ: the environment, ``os.environ`` by default.

    Raises:
        ConfigurationError: names LIVEKIT_POOL_HOST or LIVEKIT_POOL_PORT and what to do.
    """
    environ = os.environ if environ is None else environ
    passed = _passed_by_systemd(environ)
    if passed is not None:
        return passed
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ConfigurationError(
            f"LIVEKIT_POOL_HOST {host!r} is not an address or a name of this machine; "
            "use 127.0.0.1 for this machine only, 0.0.0.0 for all its networks."
        ) from None
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A restart may bind although connections of the last life are in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigurationError(_why_not(error, host, port)) from None
    sock.setblocking(False)
    return sock


def shown(sock: socket.socket) -> str:
    """The address of ``sock`` as ``host:port`` (``[host]:port`` for IPv6), fit for a URL."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _passed_by_systemd(environ: MutableMapping[str, str]) -> socket.socket | None:
    """Adopt the socket that systemd passed to this very process, if it did."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = environ.pop("LISTEN_FDS", "0")
    for name in ("LISTEN_PID", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    if count == "0":
        return None
    if count != "1":
        raise ConfigurationError(
            f"systemd passes {count} sockets (LISTEN_FDS), but the pool listens on one: "
            "leave one ListenStream= line in its .socket unit."
        )
    wrong = ConfigurationError(
        "The socket that systemd passes (LISTEN_FDS) is not a listening TCP socket: "
        "give its .socket unit one ListenStream= line with a port."
    )
    try:
        sock = socket.socket(fileno=_FIRST_PASSED)
    except OSError:
        raise wrong from None
    if (
        sock.family not in (socket.AF_INET, socket.AF_INET6)
        or sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        raise wrong
    sock.setblocking(False)
    os.set_inheritable(sock.fileno(), False)
    return sock


def _why_not(error: OSError, host: str, port: int) -> str:
    """The sentence for a socket that could not be bound."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"LIVEKIT_POOL_PORT {port} is in use on {host}: stop the program that listens there, "
            "or choose another port."
        )
    if error.errno == errno.EACCES:
        return (
            f"LIVEKIT_POOL_PORT {port} needs privileges that this process lacks: "
            "choose a port above 1023, or let systemd pass the socket."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"LIVEKIT_POOL_HOST {host!r} is not an address of this machine; "
            "use 127.0.0.1 for this machine only, 0.0.0.0 for all its networks."
        )
    return (
        f"LIVEKIT_POOL_HOST {host!r} with LIVEKIT_POOL_PORT {port} cannot be bound: "
        f"{error.strerror}."
    )


def raise_file_limit() -> None:
    """Use as many files as we may: a session takes two, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
