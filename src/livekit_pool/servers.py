"""
Server: one member of the pool, and the checks on a list of them.

Pure: no I/O. `config` reads settings and builds these.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Self
from urllib.parse import urlsplit

from .exceptions import ConfigurationError
from .resets import MONTHLY, Reset

__all__ = ["MAX_NAME", "Origin", "Server", "checked", "fingerprint"]

MAX_NAME = 255
"""Longest name of a server, in characters: a host name has at most 253 (RFC 1035, 2.3.4)."""

# Underscores are not in RFC 1123, but container names have them and resolve.
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """
    Where an HTTP or WebSocket server listens: a URL reduced to what counts.

    Attributes:
        secure: whether TLS is spoken (``wss``, ``https``).
        host: lower-case host name or address, IPv6 without brackets.
        port: TCP port; that of the scheme (80, 443) where the URL names none.
    """

    secure: bool
    host: str
    port: int

    @classmethod
    @lru_cache(maxsize=256)  # asked for each join
    def parse(cls, url: str) -> Self:
        """
        Read a ``ws``, ``wss``, ``http`` or ``https`` URL that has no path but ``/``.

        Raises:
            ValueError: it is no such URL. The message completes a sentence that starts with the
                setting's name, and quotes nothing of the URL, which may hold a password.
        """
        scheme, separator, rest = url.partition("://")
        if not separator or scheme.lower() not in ("ws", "wss", "http", "https"):
            raise ValueError("must start with ws://, wss://, http:// or https://")
        if not url.isprintable() or any(character.isspace() for character in url):
            raise ValueError("must not hold spaces or control characters")
        if "?" in rest or "#" in rest:
            raise ValueError("must not have a query or a fragment: give only scheme, host and port")
        if "@" in rest:
            raise ValueError("must not hold a user name or password: give only host and port")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("must have a valid host and a port from 1 to 65535") from None
        if parts.path not in ("", "/"):
            raise ValueError("must not have a path: LiveKit lives at the root of its host")
        if not _is_host(host, bracketed=parts.netloc.startswith("[")):
            raise ValueError("must have a valid host name or address after ://")
        if port == 0:
            raise ValueError("must have a valid host and a port from 1 to 65535")
        secure = parts.scheme in ("wss", "https")
        return cls(secure=secure, host=host, port=port or (443 if secure else 80))

    @property
    def address(self) -> str:
        """``host:port``, always with the port, IPv6 in brackets."""
        return f"{self._bracketed}:{self.port}"

    @property
    def host_header(self) -> str:
        """Value of a ``Host`` header: without the port where it is the scheme's own."""
        return self._bracketed if self.port == (443 if self.secure else 80) else self.address

    @property
    def http_url(self) -> str:
        """``http`` or ``https`` URL, no trailing slash."""
        return f"http{'s' if self.secure else ''}://{self.host_header}"

    @property
    def ws_url(self) -> str:
        """``ws`` or ``wss`` URL, no trailing slash."""
        return f"ws{'s' if self.secure else ''}://{self.host_header}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """
    One LiveKit server of the pool.

    Nothing is checked when one is made: `checked` does that for the whole list, and the
    properties below count on it.

    Attributes:
        name: its identity. Empty until `checked` fills in the host of its URL (``host:port``
            if that is not unique). Name a server whose URL may change, or that may get a
            neighbour on its host: by a new name it is a new server.
        url: ``ws``, ``wss``, ``http`` or ``https`` URL of the server's origin.
        key: API key, the ``iss`` of tokens made for it.
        secret: API secret; never shown.
        weight: share of the load under later placement policies.
        minutes: monthly budget in participant minutes, None for no limit.
        max_participants: largest number of concurrent participants, None for no limit.
        reset: when its quota of minutes begins anew.
    """

    name: str = ""
    url: str
    key: str
    secret: str = field(repr=False)
    weight: float = 1.0
    minutes: float | None = None
    max_participants: int | None = None
    reset: Reset = MONTHLY

    @property
    def origin(self) -> Origin:
        """Its URL, parsed. `ValueError` if that was not checked and is wrong."""
        return Origin.parse(self.url)

    @property
    def host(self) -> str:
        """Lower-case host name or address, IPv6 without brackets."""
        return self.origin.host

    @property
    def port(self) -> int:
        """TCP port, 80 or 443 where the URL names none."""
        return self.origin.port

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken to it."""
        return self.origin.secure

    @property
    def host_header(self) -> str:
        """Value of the ``Host`` header of requests to it."""
        return self.origin.host_header

    @property
    def http_url(self) -> str:
        """``http`` or ``https`` URL of its origin, no trailing slash."""
        return self.origin.http_url

    @property
    def ws_url(self) -> str:
        """``ws`` or ``wss`` URL of its origin, no trailing slash."""
        return self.origin.ws_url


def checked(
    servers: Iterable[Server], *, labels: Sequence[Mapping[str, str]] = ()
) -> tuple[Server, ...]:
    """
    Check a pool's list of servers and give those without a name their default one.

    Args:
        servers: the list, in the order of choosing.
        labels: for each server, field name -> the setting it came from, such as
            ``{"url": "LIVEKIT_SERVERS_3_URL"}`` or ``{"url": "servers[3].url in pool.yaml"}``;
            what has none is called ``servers[3].url``.

    Raises:
        ConfigurationError: the list is empty, a server is incomplete or wrong, or two have one
            name or one host and port. The message names the setting and quotes no secret.
    """
    listed = tuple(servers)
    if not listed:
        raise ConfigurationError(
            "There is no server: set LIVEKIT_SERVERS_0_URL, LIVEKIT_SERVERS_0_KEY and "
            "LIVEKIT_SERVERS_0_SECRET."
        )

    def label(position: int, name: str) -> str:
        known = labels[position] if position < len(labels) else {}
        return known.get(name) or f"servers[{position}].{name}"

    for position, server in enumerate(listed):
        for name, fault in _faults(server):
            raise ConfigurationError(f"{label(position, name)} {fault}.")
    _check_unique(
        # A host name's closing dot changes nothing about where it leads.
        [server.origin.address.replace(".:", ":") for server in listed],
        [label(position, "url") for position in range(len(listed))],
        "are the same server ({}): keep one of them",
    )
    named = _named(listed)
    for position, server in enumerate(named):
        if len(server.name) > MAX_NAME:
            raise ConfigurationError(f"{label(position, 'name')} {_LONG_NAME}.")
    _check_unique(
        [server.name for server in named],
        [label(position, "name") for position in range(len(named))],
        "are both {}: names of servers must differ in more than upper and lower case",
    )
    return named


def fingerprint(servers: Iterable[Server]) -> str:
    """
    Hash names, URLs, keys, limits and resets of a list, in its order: 32 hexadecimal digits.

    Processes show it to each other, in the store, to tell whether they run on one list. Secrets
    are left out: LiveKit accepts short ones, and whoever reads the store could try them against
    the hash. Nothing is lost by it: a process with a wrong secret sees its own probes refused.
    """
    rows = [
        [
            server.name,
            server.origin.ws_url,
            server.key,
            float(server.weight),
            None if server.minutes is None else float(server.minutes),
            server.max_participants,
            # Only where it is set, so that processes of a version before it agree on the others.
            *([] if server.reset == MONTHLY else [server.reset.label]),
        ]
        for server in servers
    ]
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=True)
    return blake2b(text.encode(), digest_size=16, person=b"livekit-pool").hexdigest()


_LONG_NAME = f"must have at most {MAX_NAME} characters"


def _is_host(host: str, *, bracketed: bool) -> bool:
    if bracketed:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return False
        return True
    return len(host) <= MAX_NAME and _HOST.fullmatch(host) is not None and ".." not in host


def _faults(server: Server) -> Iterable[tuple[str, str]]:
    """Yield (field, what is wrong and what to do) for one server looked at by itself."""
    try:
        Origin.parse(server.url)
    except ValueError as error:
        yield "url", str(error)
    if not server.key or not server.key.isprintable() or " " in server.key:
        yield "key", "must be the server's API key, without spaces or control characters"
    if not server.secret or not server.secret.isprintable() or " " in server.secret:
        yield "secret", "must be the server's API secret, without spaces or control characters"
    if len(server.name) > MAX_NAME:
        yield "name", _LONG_NAME
    if not server.name.isprintable() or any(c.isspace() or c == "/" for c in server.name):
        # Names stand in paths of the HTTP API, where a slash would end them.
        yield "name", "must not hold spaces, control characters or a slash"
    if server.name in (".", ".."):
        yield "name", "must not be a dot or two: URLs give them a meaning of their own"
    if not (math.isfinite(server.weight) and server.weight > 0):
        yield "weight", "must be a number greater than 0"
    if server.minutes is not None and not (math.isfinite(server.minutes) and server.minutes > 0):
        yield "minutes", "must be a number of participant minutes greater than 0"
    if server.max_participants is not None and server.max_participants < 1:
        yield "max_participants", "must be a whole number of at least 1"


def _named(servers: Sequence[Server]) -> tuple[Server, ...]:
    """Fill in default names: the host, or host:port where anything else is called by the host."""
    hosts = Counter(server.origin.host for server in servers)
    taken = {server.name.casefold() for server in servers if server.name}
    return tuple(
        server if server.name else replace(server, name=_default_name(server.origin, hosts, taken))
        for server in servers
    )


def _default_name(origin: Origin, hosts: Mapping[str, int], taken: Container[str]) -> str:
    alone = hosts[origin.host] == 1 and origin.host not in taken
    return origin.host if alone else origin.address


def _check_unique(values: Sequence[str], labels: Sequence[str], fault: str) -> None:
    seen: dict[str, int] = {}
    for position, value in enumerate(values):
        first = seen.setdefault(value.casefold(), position)
        if first != position:
            raise ConfigurationError(
                f"{labels[first]} and {labels[position]} {fault.format(value)}."
            )
