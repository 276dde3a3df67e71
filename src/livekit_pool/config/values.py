"""
The kinds of value a setting can have.

A kind is a function from what a source gives (text from the environment and from flags, any plain
value from YAML) to the value in `Settings`. It raises `ValueError` with the end of a sentence that
starts with the setting's name, and quotes nothing: people paste secrets into the wrong setting.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, tzinfo
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from ..resets import Reset
from ..servers import Origin

T = TypeVar("T")

Kind = Callable[[object], T]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

__all__ = [
    "Kind",
    "Network",
    "choice",
    "host",
    "integer",
    "networks",
    "number",
    "path",
    "reset",
    "store_url",
    "text",
    "url",
    "urls",
]


def text(value: object) -> str:
    """One line of text, without surrounding spaces."""
    if not isinstance(value, str):
        # YAML reads 0123 as a number and no as a bool, and the text would come out changed.
        raise ValueError("must be a text: put it in quotes")
    if not value.strip() or not value.strip().isprintable():
        raise ValueError("must be one line of text without control characters")
    return value.strip()


def number(*, above: float = -math.inf, at_most: float = math.inf, what: str) -> Kind[float]:
    """A finite number greater than ``above``; ``what`` names it, with its unit."""

    def parse(value: object) -> float:
        result = math.nan
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                result = float(value)
            except (ValueError, OverflowError):
                result = math.nan
        if not (math.isfinite(result) and above < result <= at_most):
            limit = f" and at most {at_most:g}" if math.isfinite(at_most) else ""
            raise ValueError(f"must be {what}, greater than {above:g}{limit}")
        return result

    return parse


def integer(low: int, high: int) -> Kind[int]:
    """A whole number from ``low`` to ``high``."""

    def parse(value: object) -> int:
        result: int | None = None
        if isinstance(value, int) and not isinstance(value, bool):
            result = value
        elif isinstance(value, str) and value.strip().isascii() and value.strip().isdecimal():
            result = int(value.strip()[:20])  # a longer one is out of every range anyway
        if result is None or not low <= result <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return result

    return parse


def choice(*names: str) -> Kind[str]:
    """One of a few words."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or value.strip().lower() not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return value.strip().lower()

    return parse


def host(value: object) -> str:
    """An address or host name to listen on, IPv6 with or without brackets."""
    name = value.strip().removeprefix("[").removesuffix("]") if isinstance(value, str) else ""
    bracketed = f"[{name}]" if ":" in name else name
    try:
        Origin.parse(f"http://{bracketed}:1")
    except ValueError:
        raise ValueError("must be an address or a host name, such as 127.0.0.1") from None
    return name


def url(value: object) -> str:
    """A ws, wss, http or https URL of an origin."""
    Origin.parse(text(value))
    return text(value)


def urls(value: object) -> tuple[str, ...]:
    """http or https URLs to post to, as a list or as text with commas."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError("must be URLs such as https://app.example.com/hook, separated by commas")
    found = tuple(_posted_to(item) for item in items)
    if len(set(found)) < len(found):
        raise ValueError("must not name a URL twice")
    return found


def _posted_to(value: object) -> str:
    given = text(value)
    if not given.lower().startswith(("http://", "https://")):
        raise ValueError("must hold only URLs that start with http:// or https://")
    if "#" in given or any(character.isspace() for character in given):
        raise ValueError("must not hold spaces or fragments: give URLs to post to")
    try:
        parts = urlsplit(given)
        authority = parts.netloc
        if "@" not in authority:
            Origin.parse(f"{parts.scheme}://{authority}")
    except ValueError:
        raise ValueError("must hold only URLs with a valid host and port") from None
    if "@" in authority:
        # The Authorization header, which they would go into, has the signature.
        raise ValueError("must not hold a user name or password: put a secret into the path")
    return given


def store_url(value: object) -> str:
    """The URL of a store. Which ones there are, and what they take, is for `stores` to say."""
    given = text(value)
    if "://" not in given:
        raise ValueError("must be a store's URL, such as sqlite:///livekit-pool.db or redis://host")
    return given


def path(value: object) -> Path:
    """A path of a file, relative to the working directory."""
    return value if isinstance(value, Path) else Path(text(value))


def networks(value: object) -> tuple[Network, ...]:
    """Networks in CIDR form, as a list or as text with commas."""
    items = value.split(",") if isinstance(value, str) else value
    fault = "must be networks such as 10.0.0.0/8, separated by commas"
    if not isinstance(items, list | tuple):
        raise ValueError(fault)
    try:
        return tuple(ipaddress.ip_network(text(item)) for item in items)
    except ValueError:
        raise ValueError(fault) from None


_RESET = (
    "must be a day of the month with a time zone if it is not UTC, such as 1 or"
    " '15 Europe/Berlin', or a moment with its offset, such as 2026-12-24T00:00:00+01:00"
)


def reset(value: object) -> Reset:
    """A day of the month, with a time zone or without; or one moment, as RFC 3339 writes it."""
    if isinstance(value, datetime):  # YAML reads moments itself, without an offset as UTC
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return Reset(at=moment.timestamp())
    if isinstance(value, bool | date) or not isinstance(value, str | int):
        raise ValueError(_RESET)
    day, _, zone = str(value).strip().partition(" ")
    if re.fullmatch("[0-9]{1,2}", day) and 1 <= int(day) <= 31:
        return Reset(day=int(day), zone=_zone(zone.strip()))
    try:
        moment = datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise ValueError(_RESET) from None
    if moment.tzinfo is None:
        raise ValueError(_RESET)
    return Reset(at=moment.timestamp())


def _zone(name: str) -> tzinfo:
    if name in ("", "UTC"):
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError where there is no such zone
        raise ValueError(_RESET) from None
    except KeyError:
        raise ValueError(
            "names a time zone that this machine does not know: give one such as Europe/Berlin,"
            " and install the package tzdata if there are none"
        ) from None
