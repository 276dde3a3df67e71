"""
Signed bodies: how LiveKit signs what it posts.

The token that travels beside such a body names no participant. It holds the body's SHA-256, so
that it is good for this one body (protocol: webhook/resource_url_notifier.go and verifier.go).
"""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Final

from ..exceptions import TokenError
from .claims import Claims
from .signing import MAX_TOKEN, KeyPair, Refusal, claims_of, payload, sign

__all__ = ["BODY_TTL", "check_body", "issuer", "sign_body"]

BODY_TTL: Final = 300
"""Seconds that the signature of a body is valid, as LiveKit makes it."""


def sign_body(body: bytes, pair: KeyPair, *, now: float | None = None) -> str:
    """Make the token that says that the holder of ``pair`` sent ``body``."""
    moment = int(time.time() if now is None else now)
    claims = {"iat": moment, "nbf": moment, "exp": moment + BODY_TTL, "sha256": _hash(body)}
    return sign(claims, pair)


def check_body(claims: Claims, body: bytes) -> None:
    """
    Check that ``claims``, of a token that was verified, are those of ``body``.

    Raises:
        TokenError: they are not; ``code`` is a `Refusal`.
    """
    if claims.raw.get("sha256") != _hash(body):
        raise TokenError("The body is not the one that was signed.", code=Refusal.WRONG_BODY)


def issuer(token: str) -> str:
    """
    Whose key ``token`` says it is signed with; proves nothing until it is verified with that.

    Raises:
        TokenError: it says nothing of that kind; ``code`` is a `Refusal`.
    """
    claimed: object = None
    if len(token) <= MAX_TOKEN:
        try:
            claimed = claims_of(payload(token)).raw.get("iss")
        except (ValueError, IndexError, RecursionError):
            claimed = None
    if not isinstance(claimed, str):
        raise TokenError("The token is not a JWT with an issuer.", code=Refusal.MALFORMED)
    return claimed


def _hash(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()
