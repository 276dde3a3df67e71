"""
The head of a WebSocket upgrade request (RFC 6455, section 4.1), and a short way to read one.

SDKs send the whole head at once and in plain form. Such a head is read here in a fraction of the
time that a parser takes which must be ready for anything, piece by piece. Whatever is not plain,
be it allowed or not, is that parser's.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ["Head", "plain_head"]

_FIRST: Final = b"GET "
_VERSION: Final = b" HTTP/1.1"
_END: Final = b"\r\n\r\n"

# RFC 9110, 5.5: what a field's value may hold. A request line holds less: it is looked at again.
_TEXT: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")  # RFC 9110, 5.6.2

# Where one of these is, there is a body, or something is to be said before the answer.
_NOT_PLAIN: Final = frozenset({b"content-length", b"transfer-encoding", b"expect", b"trailer"})


class Head(NamedTuple):
    """A request's head: ``target`` as it was sent; the fields' names in lower case, in order."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]


def plain_head(data: bytes) -> Head | None:
    """The head of a WebSocket upgrade if ``data`` is one, whole, in plain form, and no more."""
    if not data.startswith(_FIRST) or data.find(_END) != len(data) - 4:
        return None
    lines = data[:-4].split(b"\r\n")
    target = lines[0][4:-9]
    plain = (
        # What is no text is the ends of these lines, and nothing else.
        data.translate(None, _TEXT) == b"\r\n" * (len(lines) + 1)
        and lines[0].endswith(_VERSION)
        and target.startswith(b"/")
        and target.isascii()
        and b" " not in target
        and b"\t" not in target
    )
    fields = _fields(lines) if plain else None
    return None if fields is None else Head(b"GET", target, fields)


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]] | None:
    """The fields of an upgrade in the lines after the first; None if it is none, or not plain."""
    fields = []
    connections = upgrades = 0
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        lower = _name(name)
        if lower is None or not colon:
            return None
        value = value.strip(b" \t")
        fields.append((lower, value))
        # One of each, as it should be: a second one, or another, leaves the sum at another number.
        if lower == b"connection":
            connections += 1 if _says_upgrade(value) else 2
        elif lower == b"upgrade":
            upgrades += 1 if value.lower() == b"websocket" else 2
    return fields if connections == upgrades == 1 else None


@lru_cache(maxsize=256)  # names are few
def _name(name: bytes) -> bytes | None:
    """The name of a field in lower case; None if it is none, or makes the request no plain one."""
    lower = name.lower()
    return None if _TOKEN.fullmatch(name) is None or lower in _NOT_PLAIN else lower


def _says_upgrade(connection: bytes) -> bool:
    return b"upgrade" in (option.strip() for option in connection.lower().split(b","))
