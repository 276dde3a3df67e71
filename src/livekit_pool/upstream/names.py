"""
Names: where the hosts of LiveKit servers are, so that a resolver's trouble is nobody's fault.

A resolver that is slow, dead or confused belongs to this machine. So each name is looked up in a
thread of its own, where it keeps no other waiting; nobody waits long for it; and while the resolver
gives no answer, the addresses that it gave last are good. Only when it finds other names, but says
that this one does not exist, or never found it, is that the affair of the server that has it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ["GOOD", "Address", "Names", "Unresolved"]

GOOD: Final = 5.0
"""Seconds for which an address is good: a server that moves is found again soon."""

PATIENCE: Final = 0.5
"""Seconds to wait for the resolver: less than a probe waits, which else would call it silence."""

HASTE: Final = 0.2
"""The same where there are addresses to fall back on."""

Address = tuple[socket.AddressFamily, Any]
"""Family and address as `socket.connect` takes them: the latter's parts vary with the former."""

_Lookup = Callable[[str], Sequence[Address]]

_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})


class Unresolved(OSError):
    """
    A host name could not be resolved.

    Attributes:
        own: the resolver finds no other name either, as far as is known: it says nothing of the
            server.
    """

    def __init__(self, *, own: bool) -> None:
        super().__init__("its host name could not be resolved")
        self.own = own


@dataclass(slots=True)
class _Name:
    """What is known of one name; times are monotonic."""

    addresses: Sequence[Address] = ()
    good_until: float = -math.inf
    found: float = -math.inf  # when the newest lookup that succeeded began
    failing: float | None = None  # when the first began of those that failed since, or do not end
    failed: bool = False  # whether one of those has ended, which a slow resolver's does not soon
    gone: bool = False  # whether the resolver said that there is no such name
    lookup: asyncio.Future[None] | None = None


@dataclass(slots=True)
class Names(AbstractResolver):
    """
    Resolves names for one event loop; `shared` is the one of the running loop.

    Args:
        lookup: asks the resolver; called in threads, raises OSError.
        clock: monotonic time, for tests.
    """

    lookup: _Lookup = field(default_factory=lambda: _look_up)
    clock: Callable[[], float] = time.monotonic
    _names: dict[str, _Name] = field(default_factory=dict)
    _literals: bool = False  # whether there are hosts that need no resolver

    @classmethod
    def shared(cls) -> Self:
        """Those of the running loop: all who connect, so that one's answer is another's witness."""
        loop = asyncio.get_running_loop()
        return _SHARED.setdefault(loop, cls())  # type: ignore[return-value]  # never subclassed

    @property
    def failing(self) -> tuple[str, ...]:
        """The names for which the resolver has no answer now."""
        return tuple(host for host, name in self._names.items() if name.failing is not None)

    def meet(self, host: str) -> None:
        """``host`` is asked for, perhaps without a lookup: one that is an address needs none."""
        self._literals |= _literal(host) is not None

    def forget(self, host: str) -> None:
        """A connection to ``host`` came to nothing: look it up again for the next one."""
        if (name := self._names.get(host)) is not None:
            name.good_until = -math.inf

    async def addresses(self, host: str, port: int) -> Sequence[Address]:
        """
        Where ``host`` is, for connections to ``port``; never an empty answer.

        Raises:
            Unresolved: nobody knows, or not in time.
        """
        literal = _literal(host)
        found = (literal,) if literal else await self._found(host)
        return [(family, (address[0], port, *address[2:])) for family, address in found]

    async def _found(self, host: str) -> Sequence[Address]:
        name = self._names.setdefault(host, _Name())
        if self.clock() < name.good_until:
            return name.addresses
        lookup = name.lookup
        if lookup is None:
            lookup = name.lookup = self._begin(host, name)
        if not name.addresses:
            await asyncio.wait([lookup], timeout=PATIENCE)
        elif name.failing is None:
            await asyncio.wait([lookup], timeout=HASTE)
        own = self._own(name)
        if name.addresses and (own or not name.gone):
            return name.addresses
        raise Unresolved(own=own)

    def _begin(self, host: str, name: _Name) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        began = self.clock()
        overdue = loop.call_later(PATIENCE, self._failed, name, began)

        def ended(found: Sequence[Address], gone: bool) -> None:
            overdue.cancel()
            name.lookup, name.failed, name.gone = None, not found, gone
            if found:
                name.addresses, name.found, name.failing = found, began, None
                name.good_until = self.clock() + GOOD
            else:
                self._failed(name, began)
            done.set_result(None)

        def work() -> None:
            found: Sequence[Address] = ()
            gone = False
            try:
                found = self.lookup(host)
            except (OSError, UnicodeError) as error:
                gone = getattr(error, "errno", None) in _NO_SUCH_NAME
            try:
                loop.call_soon_threadsafe(ended, found, gone)
            except RuntimeError:
                return  # the loop has ended before the resolver had an answer

        # Not one of the loop's threads, of which there are few; nor one that a program waits for.
        threading.Thread(target=work, name=f"resolve {host}", daemon=True).start()
        return done

    @staticmethod
    def _failed(name: _Name, began: float) -> None:
        if name.failing is None:
            name.failing = began

    def _own(self, name: _Name) -> bool:
        """Whether no other name was found by a lookup begun after this one began to fail."""
        since = name.failing
        if since is None or not name.failed:
            return True
        if len(self._names) == 1 and self._literals:
            # There is no other name to tell by. One that was never found, and does not exist, is
            # silent to this process whatever is well; servers that answer are the witnesses then.
            return bool(name.addresses) or not name.gone
        return all(other.found <= since for other in self._names.values() if other is not name)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The same in the form that aiohttp asks for."""
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in await self.addresses(host, port)
            if family in (socket.AF_UNSPEC, kind)
        ]

    async def close(self) -> None:
        """Nothing to close: others may share it."""


_SHARED: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Names]] = WeakKeyDictionary()


def _look_up(host: str) -> Sequence[Address]:
    found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [(family, address) for family, _, _, _, address in found]


def _literal(host: str) -> Address | None:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return (socket.AF_INET, (host, 0)) if version == 4 else (socket.AF_INET6, (host, 0, 0, 0))
