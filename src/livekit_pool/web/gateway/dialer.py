"""
Dialer: connections to one LiveKit server, made with as little as possible in between.

Where there is neither TLS nor a choice of addresses, the socket is made, connected and written to
here, and only then becomes one of the event loop's: to a server on the same machine the request
is on its way at once, and in every case the two futures, the lookup and the turns of the loop are
saved that ``create_connection`` takes for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from ...upstream.names import GOOD, Address, Names

if TYPE_CHECKING:
    from ...servers import Server
    from .upstream import Upstream

__all__ = ["CONNECT", "Dialer"]

CONNECT: Final = 2.0
"""Seconds for a connection to a server, TLS included."""

_UNDER_WAY: Final = frozenset({0, errno.EINPROGRESS})


class Dialer:
    """
    Connects to one server, from one event loop.

    Attributes:
        host_header: value of the ``Host`` header of requests to it.
    """

    def __init__(
        self, server: Server, loop: asyncio.AbstractEventLoop, tls: ssl.SSLContext
    ) -> None:
        """``tls`` is how a server with a ``wss`` URL is verified."""
        origin = server.origin
        self._loop = loop
        self._libuv = not isinstance(loop, asyncio.BaseEventLoop)
        self.host_header: Final = origin.host_header.encode()
        self._host = origin.host
        self._port = origin.port
        self._tls = tls if origin.secure else None
        self._names = Names.shared()
        self._addresses: Sequence[Address] = ()
        self._good_until = 0.0

    def __repr__(self) -> str:
        return f"<Dialer {self._host}:{self._port}>"

    @property
    def ready(self) -> bool:
        """Whether it is known where to connect to, and that this is all there is to do."""
        return self._loop.time() < self._good_until

    async def dial(self, upstream: Upstream, request: bytes) -> None:
        """
        Connect ``upstream`` and send ``request``; both may still be under way on return.

        Raises:
            TimeoutError: it did not answer within `CONNECT`.
            OSError: it cannot be connected to.
        """
        if self.ready:
            self.dial_now(upstream, request)
            return
        async with asyncio.timeout(CONNECT):
            self._addresses = await self._names.addresses(self._host, self._port)
            if self._tls is None and len(self._addresses) == 1:
                self._good_until = self._loop.time() + GOOD
                self.dial_now(upstream, request)
                return
            await self._connect(upstream)
        upstream.transport.write(request)
        upstream.asked = True

    def forget(self) -> None:
        """The connection came to nothing: the address is looked up again for the next one."""
        self._good_until = 0.0
        self._names.forget(self._host)

    async def _connect(self, upstream: Upstream) -> None:
        """Connect to the first of the addresses that takes it."""
        failure: OSError | None = None
        for _, where in self._addresses:
            try:
                await self._loop.create_connection(
                    lambda: upstream,
                    where[0],
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
            except OSError as error:
                failure = failure or error
            else:
                return
        raise failure or OSError("it has no address")

    def dial_now(self, upstream: Upstream, request: bytes) -> None:
        """
        As `dial`, where the dialer is `ready`.

        Raises:
            OSError: it cannot be connected to.
        """
        family, where = self._addresses[0]
        # The type in C: `socket.socket` makes enumerations of what it is asked for several times.
        sock = socket.SocketType(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
        try:
            failure = sock.connect_ex(where)
            if failure not in _UNDER_WAY:
                raise OSError(failure, os.strerror(failure))
            # What is still on its way to another machine is sent when it is there, by the loop.
            with contextlib.suppress(BlockingIOError):
                request = request[sock.send(request) :]
            upstream.request = request
            adopting = self._loop.create_connection(
                lambda: upstream, sock=cast(socket.socket, sock)
            )
            # Run up to its first wait; it goes on when the loop has taken the socket in. As a task
            # it could be cut off in between, with the request sent and nobody to say goodbye.
            waiter: asyncio.Future[Any] = adopting.send(None)
        except BaseException:
            sock.close()
            raise
        if self._libuv:
            # It owns the descriptor from now on. The object, if it still had it when it goes, would
            # close it a second time: perhaps another one that has got its number.
            sock.detach()
        upstream.asked = True
        upstream.since = self._loop.time()
        waiter.add_done_callback(lambda _: _finish(adopting, upstream))


def _finish(adopting: Any, upstream: Upstream) -> None:
    try:
        adopting.send(None)
    except StopIteration:
        pass
    except Exception as error:  # whatever it was, the connection is none
        upstream.connection_lost(error)
