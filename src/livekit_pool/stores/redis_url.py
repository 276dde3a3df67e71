"""Where a Redis is, and how to come in: the URL of ``LIVEKIT_POOL_STORE``."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)

from ..exceptions import ConfigurationError

__all__ = ["Address", "parse"]

_PORT = 6379
# What a pool's keys begin with where nobody says otherwise.
_PREFIX = "livekit-pool"
# Braces would end the hash tag that the prefix is.
_PREFIX_ALLOWED = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_FORMS = (
    "a Redis store is redis://[user[:password]@]host[:port][/db], the same with rediss:// for TLS,"
    " or unix:///path/to/redis.sock?db=0, each with ?prefix=name where it may not be"
    f" {_PREFIX}; in a user name or password write / ? # @ : as %2F %3F %23 %40 %3A"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """
    One Redis, the database in it, and the prefix of the pool's keys.

    Attributes:
        host, port: where it is, unless ``path`` says at which Unix socket.
        user, password: None where none is given.
        tls: whether to speak TLS, with certificates verified.
        ca_certs: file with the authorities to trust instead of the system's.
        certfile, keyfile: what to show to a Redis that asks for a certificate.
    """

    host: str = ""
    port: int = _PORT
    path: str = ""
    db: int = 0
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    prefix: str = _PREFIX
    tls: bool = False
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @property
    def shown(self) -> str:
        """The URL without user and password."""
        query = {"prefix": self.prefix} if self.prefix != _PREFIX else {}
        if self.path:
            query = {**({"db": str(self.db)} if self.db else {}), **query}
            place = f"unix://{quote(self.path)}"
        else:
            host = f"[{self.host}]" if ":" in self.host else self.host
            place = f"redis{'s' if self.tls else ''}://{host}:{self.port}/{self.db}"
        return f"{place}?{urlencode(query)}" if query else place

    def key(self, name: str) -> str:
        """The key, or channel, of that name."""
        return f"{{{self.prefix}}}:{name}"

    def check_files(self) -> None:
        """`ConfigurationError` if a file that TLS needs cannot be used."""
        if not self.tls:
            return
        for option, path in zip(_TLS_OPTIONS, self._tls_files, strict=True):
            if path and not Path(path).is_file():
                raise ConfigurationError(
                    f"LIVEKIT_POOL_STORE: there is no file {path}, which {option} names."
                )
        try:
            context = ssl.create_default_context(cafile=self.ca_certs)
            if self.certfile:
                context.load_cert_chain(self.certfile, self.keyfile)
        except (OSError, ssl.SSLError):
            raise ConfigurationError(
                f"LIVEKIT_POOL_STORE: {' or '.join(_TLS_OPTIONS)} names a file that is not PEM, or"
                " a key that does not belong to its certificate."
            ) from None

    def connection(self, limit: float) -> AbstractConnection:
        """
        Make a connection, not yet connected.

        Args:
            limit: seconds that connecting may take.
        """
        options: dict[str, Any] = {
            "db": self.db,
            "username": self.user,
            "password": self.password,
            # RESP 3: calls and the subscription share one connection.
            "protocol": 3,
            "decode_responses": True,
            # Whatever bytes somebody put there: they are read, and then refused in a sentence.
            "encoding_errors": "surrogateescape",
            "driver_info": None,
            # Who calls has the time limits: these would begin anew with each step.
            "socket_timeout": None,
            "socket_connect_timeout": limit,
        }
        if self.path:
            return UnixDomainSocketConnection(path=self.path, **options)
        place: dict[str, Any] = {"host": self.host, "port": self.port}
        if not self.tls:
            return Connection(**place, **options)
        ca_certs, certfile, keyfile = self._tls_files
        return SSLConnection(
            ssl_ca_certs=ca_certs, ssl_certfile=certfile, ssl_keyfile=keyfile, **place, **options
        )

    @property
    def _tls_files(self) -> tuple[str | None, str | None, str | None]:
        return self.ca_certs, self.certfile, self.keyfile


def parse(url: str) -> Address:
    """
    Read a URL.

    Raises:
        ConfigurationError: it names no Redis. Nothing of the URL is in the message, because any
            part of it may be of a password.
    """
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
        port = parts.port or _PORT
    except ValueError:
        raise _refused() from None
    if parts.fragment or "#" in url:
        raise _refused()
    tls = parts.scheme == "rediss"
    allowed = {"db", "prefix", *(_TLS_OPTIONS if tls else ())}
    if not options.keys() <= allowed:
        raise _refused(f"the URL of a Redis takes the options {', '.join(sorted(allowed))}")
    prefix = options.get("prefix", _PREFIX)
    if not _PREFIX_ALLOWED.fullmatch(prefix):
        raise _refused("the prefix of a Redis store is 1 to 100 letters, digits and . _ : -")
    place = _unix(parts, options) if parts.scheme == "unix" else _tcp(parts, options)
    return Address(
        **place,
        port=port,
        user=None if parts.username is None else unquote(parts.username) or None,
        password=None if parts.password is None else unquote(parts.password),
        prefix=prefix,
        tls=tls,
        ca_certs=options.get("ssl_ca_certs"),
        certfile=options.get("ssl_certfile"),
        keyfile=options.get("ssl_keyfile"),
    )


def _tcp(parts: SplitResult, options: dict[str, str]) -> dict[str, Any]:
    path = parts.path.removeprefix("/")
    if not parts.hostname or (path and "db" in options):
        raise _refused()
    return {"host": parts.hostname, "db": _db(path or options.get("db", "0"))}


def _unix(parts: SplitResult, options: dict[str, str]) -> dict[str, Any]:
    if parts.hostname or parts.path in ("", "/"):
        raise _refused()
    return {"path": unquote(parts.path), "db": _db(options.get("db", "0"))}


def _db(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _refused("the database of a Redis is a number from 0, as in redis://host:6379/0")
    return int(text)


def _refused(why: str = _FORMS) -> ConfigurationError:
    return ConfigurationError(f"LIVEKIT_POOL_STORE: {why}.")
