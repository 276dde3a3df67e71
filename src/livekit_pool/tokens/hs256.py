"""
JWS Compact Serialization with HMAC SHA-256 (RFC 7515, sections 3.1 and 5; RFC 7518, 3.2).

Each join verifies one token and signs another, and a library that does it for every algorithm
takes eight times as long over it: a fifth of all the time a join takes. So these two functions
are our own, for this one algorithm, and are tried against that library in both directions.
"""

from __future__ import annotations

import binascii
import hmac
import json
from functools import lru_cache
from typing import Final

__all__ = ["WrongSignature", "signed", "verified"]

_HEADER: Final = b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"  # {"alg":"HS256","typ":"JWT"}
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/!!!")  # what is base64 only becomes neither


class WrongSignature(ValueError):
    """The token is well-formed, and was signed with another secret."""


def signed(data: bytes, secret: bytes) -> str:
    """Sign ``data`` with ``secret``."""
    message = _HEADER + b"." + _encoded(data)
    return (message + b"." + _encoded(hmac.digest(secret, message, "sha256"))).decode()


def verified(token: str, secret: bytes) -> bytes:
    """
    Return the data that ``token`` carries, if it was signed with ``secret``.

    Raises:
        WrongSignature: it was signed with another secret.
        ValueError: it is not a token, or not one of this algorithm.
    """
    message, separator, signature = token.encode("ascii").rpartition(b".")
    header, dot, data = message.partition(b".")
    if not separator or not dot or b"." in data or not _is_ours(header):
        raise ValueError("not a JWS with HS256")
    expected = hmac.digest(secret, message, "sha256")
    if not hmac.compare_digest(_decoded(signature), expected):
        raise WrongSignature("signed with another secret")
    return _decoded(data)


@lru_cache(maxsize=64)  # nearly all tokens have one of a few headers
def _is_ours(header: bytes) -> bool:
    """Whether a header says HS256, and nothing that must be understood (RFC 7515, 4.1.11)."""
    if len(header) > 1024:
        return False
    try:
        fields = json.loads(_decoded(header))
    except (ValueError, RecursionError):
        return False
    if not isinstance(fields, dict) or "crit" in fields or fields.get("b64", True) is not True:
        return False
    return fields.get("alg") == "HS256"


def _encoded(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    """Undo `_encoded`; ``ValueError`` for anything that it does not make, but for unused bits."""
    return binascii.a2b_base64(
        text.translate(_FROM_URL) + b"=" * (-len(text) % 4), strict_mode=True
    )
