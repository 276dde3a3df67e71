"""
Settings, and the table of them.

Each field of `Settings` that a user can set is declared once, with its kind, default, unit and
meaning. `SETTINGS` is made from the fields; the names in all places follow from one rule: YAML
``a.b`` is ``LIVEKIT_POOL_A_B`` in the environment and ``--a-b`` on the command line.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..servers import Origin, Server
from .values import (
    Kind,
    Network,
    choice,
    host,
    integer,
    networks,
    number,
    path,
    store_url,
    text,
    url,
    urls,
)

__all__ = ["PREFIX", "SETTINGS", "Setting", "Settings", "is_loopback"]

PREFIX = "LIVEKIT_POOL_"
"""What every setting's variable starts with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """
    One thing that a user can set.

    Attributes:
        field: its attribute of `Settings`.
        name: its name in YAML; a dot is a level.
        kind: turns what a source gives into the value; `ValueError` completes a sentence that
            starts with the setting's name.
        default: the value where nobody sets it.
        doc: what it means, with its unit, for help texts and documentation.
        metavar: placeholder for its value in help texts.
        on_command_line: False for a secret, which every user of a machine could read there.
    """

    field: str
    name: str
    kind: Kind[object]
    default: object
    doc: str
    metavar: str
    on_command_line: bool

    @property
    def variable(self) -> str:
        """Its name in the environment and in .env files."""
        return PREFIX + self.name.replace(".", "_").upper()

    @property
    def flag(self) -> str | None:
        """Its name on the command line, if it has one there."""
        if not self.on_command_line:
            return None
        return "--" + self.name.replace(".", "-").replace("_", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    What a process of the pool runs with.

    Made by `load`; a test or a program may also make one itself, with every default in place.

    Attributes:
        servers: the pool's servers, checked and named, in order of choosing.
        key_origin: where the pool's key pair comes from: a setting's name or a file's path;
            None while there is no pair (``key`` and ``secret`` are empty).
        directory: the working directory that relative paths start from.
        warnings: what an operator should read but need not mend, one sentence each.

    All others are described, with their units, in `SETTINGS`. Times are in seconds.
    """

    servers: tuple[Server, ...] = ()
    pool_url: str | None = None
    key: str = ""
    secret: str = field(default="", repr=False)
    # Not shown either: a store's URL may hold a password.
    store: str = field(default="sqlite:///livekit-pool.db", repr=False)
    host: str = "127.0.0.1"
    port: int = 7870
    workers: int = 2
    machine: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    route: str = "gateway"
    trusted_proxies: tuple[Network, ...] = ()
    probe_interval: float = 1.0
    probe_timeout: float = 0.8
    probe_rooms_interval: float = 15.0
    rise: int = 2
    fall: int = 3
    cool_down_first: float = 5.0
    cool_down_limit_first: float = 30.0
    cool_down_max: float = 300.0
    rotation_interval: float = 10.0
    pace: float = 200.0
    minutes_share: float = 0.95
    join_timeout: float = 4.5
    # Nor these: their paths and queries may hold secrets.
    webhook_urls: tuple[str, ...] = field(default=(), repr=False)
    log_level: str = "info"
    key_origin: str | None = None
    directory: Path = Path()
    warnings: tuple[str, ...] = ()

    @property
    def origin(self) -> Origin:
        """
        Where clients, and this machine's command line, reach the pool.

        That of ``pool_url``, else the address it listens on, with loopback for a wildcard.
        """
        if self.pool_url is not None:
            return Origin.parse(self.pool_url)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return Origin(secure=self.tls_cert is not None, host=host.lower(), port=self.port)

    @property
    def key_file(self) -> Path:
        """
        Where a pair that serve makes is kept: beside the database, or in the working directory.

        ``sqlite:///x/pool.db`` -> ``x/pool.key``; ``livekit-pool.key`` for any other store.
        """
        scheme, _, location = self.store.partition(":///")
        if scheme != "sqlite" or not location:
            return self.directory / "livekit-pool.key"
        database = self.directory / location.partition("?")[0]
        beside = database.with_suffix(".key")
        return beside if beside != database else database.with_name(database.name + ".key")


_SECONDS = number(above=0, what="a number of seconds")
_DEFAULTS = {each.name: each.default for each in fields(Settings)}


def _setting(name: str, kind: Kind[Any], metavar: str, doc: str, field: str = "") -> Setting:
    field = field or name.replace(".", "_")
    return Setting(
        field=field,
        name=name,
        kind=kind,
        default=_DEFAULTS[field],
        doc=doc,
        metavar=metavar,
        on_command_line=field != "secret",
    )


# fmt: off
# One setting, one entry: name and kind on its first line, meaning below.
SETTINGS: tuple[Setting, ...] = (
    _setting("url", url, "URL",
        "The pool's own address as clients reach it (ws, wss, http or https). "
        "Default: the address it listens on.", field="pool_url"),
    _setting("key", text, "KEY",
        "The pool's own API key, the one that applications use. On loopback, serve makes a key "
        "pair where none is set."),
    _setting("secret", text, "SECRET",
        "The secret of the pool's API key, at least 32 characters."),
    _setting("store", store_url, "URL",
        "Where the pool's processes keep what they share: sqlite:///path for one machine, "
        "redis://host or firestore://project/... for several, memory:// for one process."),
    _setting("host", host, "HOST",
        "Address to listen on."),
    _setting("port", integer(0, 65535), "PORT",
        "Port to listen on; 0 for any."),
    _setting("workers", integer(1, 64), "N",
        "Processes that serve; with two, one takes over when the other dies. One with memory://."),
    _setting("machine", text, "NAME",
        "Name of this machine, by which processes tell whether they share a network. Default: its "
        "host name; needed only where several machines have the same."),
    _setting("tls.cert", path, "FILE",
        "Certificate chain (PEM) to speak TLS with."),
    _setting("tls.key", path, "FILE",
        "Private key (PEM) of that certificate."),
    _setting("route", choice("gateway", "direct"), "ROUTE",
        "How users reach the active server: 'gateway' is through the pool."),
    _setting("trusted_proxies", networks, "CIDR,...",
        "Networks whose X-Forwarded-For is believed; none by default."),
    _setting("probe.interval", _SECONDS, "SECONDS",
        "Seconds from one probe of a server to the next."),
    _setting("probe.timeout", _SECONDS, "SECONDS",
        "Seconds after which a probe without an answer counts as silence."),
    _setting("probe.rooms_interval", _SECONDS, "SECONDS",
        "Seconds from one signed room list, which tries a server's key, to the next."),
    _setting("rise", integer(1, 100), "N",
        "Probes passed in a row that make a server up."),
    _setting("fall", integer(1, 100), "N",
        "Probes failed in a row that make a server down."),
    _setting("cool_down.first", _SECONDS, "SECONDS",
        "Seconds that a server which went down is not chosen; doubles each time in a row."),
    _setting("cool_down.limit_first", _SECONDS, "SECONDS",
        "Seconds that a server which refused for a limit is not chosen, where it named no time; "
        "doubles each time in a row."),
    _setting("cool_down.max", _SECONDS, "SECONDS",
        "Seconds that a cool-down lasts at most."),
    _setting("rotation.interval", _SECONDS, "SECONDS",
        "Seconds at least between automatic rotations; a server that is down is left at once."),
    _setting("pace", number(above=0, what="a number of participants a second"), "N",
        "Participants a second that are moved in a rotation."),
    _setting("minutes.share", number(above=0, at_most=1, what="a part of 1, such as 0.95"), "PART",
        "Part of a server's minutes after which the pool looks for a quiet moment to rotate to the "
        "next one."),
    _setting("join.timeout", _SECONDS, "SECONDS",
        "Seconds that a join is held at most while a server is found for it; LiveKit's Rust SDKs "
        "give up after 5."),
    _setting("webhook.urls", urls, "URL,...",
        "Where the webhooks of all servers are passed on to, signed with the pool's key; nowhere "
        "by default."),
    _setting("log.level", choice("debug", "info", "warning", "error"), "LEVEL",
        "Least important kind of log line to write."),
)
"""Every setting there is, in the order of help texts and documentation."""
# fmt: on


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine and nothing beyond it."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
