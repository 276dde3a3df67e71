"""
The signature: what is signed with a key pair, and whether a token was.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn

from ..exceptions import TokenError
from . import hs256
from .claims import Claims, misshapen

__all__ = [
    "LEEWAY",
    "MAX_TOKEN",
    "KeyPair",
    "Refusal",
    "claims_of",
    "decoded",
    "encoded",
    "payload",
    "sign",
    "verify",
]

LEEWAY = 60.0
"""Seconds that ``exp`` and ``nbf`` may be off, as LiveKit allows (protocol: auth/verifier.go)."""

MAX_TOKEN = 128 * 1024
"""
Longest token, in characters: 96 KiB of claims.

LiveKit itself sets no limit, and takes attributes of 64 KiB (``limit.max_attributes_size``) and
still larger metadata, so a narrow limit would refuse what works without a pool. This one keeps
the verification of any token, also a forged one, within a few milliseconds of the event loop.
"""


class Refusal(StrEnum):
    """Why a token is refused: the ``code`` of a `TokenError`."""

    MISSING = "token_missing"
    MALFORMED = "token_malformed"
    WRONG_KEY = "token_wrong_key"
    WRONG_BODY = "token_wrong_body"
    EXPIRED = "token_expired"
    NOT_YET_VALID = "token_not_yet_valid"
    TOO_LONG = "token_too_long"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A key (the ``iss`` of tokens signed with it) and its secret, which is never shown."""

    key: str
    secret: str = field(repr=False)


def verify(token: str | None, pair: KeyPair, now: float | None = None) -> Claims:
    """
    Check a caller's token: signed with ``pair``, within its times, and what LiveKit can read.

    ``exp`` is required: a token without it would be valid for ever, and newer LiveKit refuses it.

    Raises:
        TokenError: it is refused; ``code`` is a `Refusal`.
    """
    if not token:
        _refuse(Refusal.MISSING, "No token: send one as 'Authorization: Bearer' or access_token.")
    claims, data = _decoded(token, pair)
    moment = time.time() if now is None else now
    expires = claims.get("exp")
    if expires is None:
        _refuse(Refusal.MALFORMED, "The token has no expiry: make it with an 'exp' claim.")
    if expires + LEEWAY <= moment:
        _refuse(Refusal.EXPIRED, "The token has expired.")
    starts = claims.get("nbf")
    if starts is not None and starts - LEEWAY > moment:
        _refuse(Refusal.NOT_YET_VALID, "The token is not valid yet: compare the machines' clocks.")
    return Claims(raw=claims, data=data)


def payload(token: str) -> bytes:
    """
    Return the claims of ``token`` as the JSON bytes that were signed, far smaller than a dict.

    Checks no signature: only for a token that was verified or made here.
    """
    segment = token.split(".", 2)[1]
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def claims_of(data: bytes) -> Claims:
    """Undo `payload`: the claims of bytes that came from it."""
    return Claims(raw=_parsed(data))


def sign(claims: Mapping[str, Any], pair: KeyPair) -> str:
    """Sign ``claims`` with ``pair``: only ``iss`` is set, everything else stays as it is."""
    return encoded({**claims, "iss": pair.key}, pair.secret)


def encoded(claims: Mapping[str, Any], secret: str) -> str:
    try:
        data = _ENCODER.encode(claims).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
        data = json.dumps(claims, separators=(",", ":")).encode()
    return hs256.signed(data, secret.encode())


def decoded(token: str, pair: KeyPair) -> dict[str, Any]:
    """Verify signature, key and shape of ``token``, but not its times; `TokenError`."""
    return _decoded(token, pair)[0]


def _decoded(token: str, pair: KeyPair) -> tuple[dict[str, Any], bytes]:
    if len(token) > MAX_TOKEN:
        _refuse(Refusal.TOO_LONG, f"The token is longer than {MAX_TOKEN // 1024} KiB.")
    if not token.isascii():
        _refuse(Refusal.MALFORMED, "The token is not a JWT.")
    try:
        data = hs256.verified(token, pair.secret.encode())
    except hs256.WrongSignature:
        _refuse(Refusal.WRONG_KEY, "The token is signed with a key that is not the pool's.")
    except ValueError:
        _refuse(Refusal.MALFORMED, "The token is not a JWT signed with HS256.")
    try:
        claims = _parsed(data)
    except (ValueError, RecursionError):
        _refuse(Refusal.MALFORMED, "The token's claims are not a JSON object.")
    if claims.get("iss") != pair.key:
        _refuse(Refusal.WRONG_KEY, "The token is signed with a key that is not the pool's.")
    wrong = misshapen(claims)
    if wrong is not None:
        _refuse(Refusal.MALFORMED, f"LiveKit cannot read the token's claim {wrong}.")
    return claims, data


def _parsed(data: bytes) -> dict[str, Any]:
    text = data.decode("utf-8", "surrogatepass")
    if text.startswith("{"):
        claims, end = _DECODER.raw_decode(text)
        if text[end:].strip(" \t\n\r"):
            raise ValueError("more than an object")
    else:
        claims = _DECODER.decode(text)
    if not isinstance(claims, dict):
        raise ValueError("not an object")
    return claims


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")  # NaN and the infinities, which Python would accept


# Made once: `json.dumps` and `json.loads` make new ones for each call with options.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_DECODER: Final = json.JSONDecoder(parse_constant=_not_json)


def _refuse(code: Refusal, message: str) -> NoReturn:
    raise TokenError(message, code=code) from None
