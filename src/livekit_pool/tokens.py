"""
LiveKit access tokens: verify, sign, re-sign.

A token is a JWT (RFC 7519) signed with HS256, and no other algorithm. Its ``iss`` says whose key
signed it. The claims are those of ``auth/grants.go`` in LiveKit's protocol repository, and are
handled here as raw dictionaries: the SDK's own token class drops what it does not know, and a
token that passes through the pool must lose nothing.

Two claims are the pool's own. ``pool`` (`Kind`) opens the pool's HTTP API; ``livekitPool``
({"revision", "server"}) is the news that travels with a client to its next join. Neither ever
reaches a LiveKit server, and neither is ever taken from one.

No error here quotes a token, a claim or a secret. The functions are pure but for the clock, which
``now`` (seconds since the epoch) replaces.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

import jwt

from .exceptions import TokenError
from .servers import Server

__all__ = [
    "DEFAULT_TTL",
    "LEEWAY",
    "MAX_TOKEN",
    "Claims",
    "KeyPair",
    "Kind",
    "Location",
    "Refusal",
    "claims_of",
    "news",
    "participant_token",
    "payload",
    "pool_token",
    "refreshed",
    "resign",
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

DEFAULT_TTL = 6 * 3600.0
"""Seconds that a participant's token is valid, as in LiveKit's SDKs."""

_REFRESH_TTL = 600
"""Seconds that LiveKit's refresh tokens are valid at least (server: roommanager.go)."""

_TOO_FAR = 2.0**53
_JWS = jwt.PyJWS(algorithms=["HS256"])
_HEADER = {"alg": "HS256", "typ": "JWT"}

_OWN_CLAIMS = frozenset({"pool", "livekitPool"})

# What a LiveKit server carries over into its refresh tokens (server: pkg/service/roommanager.go).
# Where such a claim is missing there, it is gone; every other claim was only lost on the way.
_CARRIED = frozenset(
    {"sub", "name", "kind", "metadata", "attributes", "video", "roomConfig", "roomPreset"}
)
_TIMES = frozenset({"iat", "nbf", "exp"})

# Grants over rooms, not within one. No permission update of LiveKit adds one to a participant
# (protocol: auth/grants.go, UpdateFromPermission), so none is taken from a server's word.
_WIDE_GRANTS = frozenset(
    {
        "roomCreate",
        "roomList",
        "roomRecord",
        "roomAdmin",
        "ingressAdmin",
        "destinationRoom",
    }
)

# Types of the claims as LiveKit decodes them (protocol: auth/grants.go). A server answers 401 for
# a wrong one (tried on 1.13.5), and a 401 for a token that we signed looks like that server's
# fault: so refuse it here. What is nested deeper, as in roomConfig, is left to the server.
_CLAIM_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "sub": str,
    "jti": str,
    "name": str,
    "kind": str,
    "metadata": str,
    "sha256": str,
    "roomPreset": str,
    "aud": (str, list),
    "kindDetails": list,
    "attributes": dict,
    "video": dict,
    "sip": dict,
    "agent": dict,
    "inference": dict,
    "observability": dict,
    "roomConfig": dict,
}
_GRANT_TYPES: Mapping[str, type] = {
    "room": str,
    "destinationRoom": str,
    "canPublishSources": list,
    **dict.fromkeys(
        (
            "roomCreate",
            "roomList",
            "roomRecord",
            "roomAdmin",
            "roomJoin",
            "canPublish",
            "canSubscribe",
            "canPublishData",
            "canUpdateOwnMetadata",
            "ingressAdmin",
            "hidden",
            "recorder",
            "agent",
            "canSubscribeMetrics",
            "canManageAgentSession",
        ),
        bool,
    ),
}


class Refusal(StrEnum):
    """Why a token is refused: the ``code`` of a `TokenError`."""

    MISSING = "token_missing"
    MALFORMED = "token_malformed"
    WRONG_KEY = "token_wrong_key"
    EXPIRED = "token_expired"
    NOT_YET_VALID = "token_not_yet_valid"
    TOO_LONG = "token_too_long"


class Kind(StrEnum):
    """
    What a pool token opens: the ``pool`` claim.

    ``admin`` may do everything, ``viewer`` may look, ``token`` may ask the token endpoint.
    """

    ADMIN = "admin"
    VIEWER = "viewer"
    TOKEN = "token"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A key (the ``iss`` of tokens signed with it) and its secret, which is never shown."""

    key: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """The ``livekitPool`` claim: where its bearer was last sent, by name, and at which revision."""

    revision: int
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """
    What a verified token says.

    Attributes:
        raw: the claims as they were signed; not to be changed, nor logged.
    """

    raw: Mapping[str, Any] = field(repr=False)

    @property
    def identity(self) -> str:
        """Who: ``sub``, else ``jti`` (protocol: auth/verifier.go), else empty."""
        return self.raw.get("sub") or self.raw.get("jti") or ""

    @property
    def grants(self) -> Mapping[str, Any]:
        """The ``video`` claim: what its bearer may do."""
        return self.raw.get("video") or {}

    @property
    def room(self) -> str:
        """The room that the grants are about, or empty."""
        return self.grants.get("room") or ""

    @property
    def expires(self) -> float:
        """When it ends, seconds since the epoch; it is accepted for `LEEWAY` more."""
        return float(self.raw["exp"])

    @property
    def pool(self) -> Kind | None:
        """What it opens of the pool's own API, None for a participant's token."""
        value = self.raw.get("pool")
        return next((kind for kind in Kind if kind == value), None)

    @property
    def location(self) -> Location | None:
        """Where its bearer was last sent, if the pool has told."""
        value = self.raw.get("livekitPool")
        if not isinstance(value, dict):
            return None
        revision, server = value.get("revision"), value.get("server")
        if (
            not isinstance(revision, int)
            or isinstance(revision, bool)
            or not isinstance(server, str)
        ):
            return None
        return Location(revision=revision, server=server)


def verify(token: str | None, pair: KeyPair, now: float | None = None) -> Claims:
    """
    Check a caller's token: signed with ``pair``, within its times, and what LiveKit can read.

    ``exp`` is required: a token without it would be valid for ever, and newer LiveKit refuses it.

    Raises:
        TokenError: it is refused; ``code`` is a `Refusal`.
    """
    if not token:
        _refuse(Refusal.MISSING, "No token: send one as 'Authorization: Bearer' or access_token.")
    claims = _decoded(token, pair)
    moment = time.time() if now is None else now
    expires = claims.get("exp")
    if expires is None:
        _refuse(Refusal.MALFORMED, "The token has no expiry: make it with an 'exp' claim.")
    if expires + LEEWAY <= moment:
        _refuse(Refusal.EXPIRED, "The token has expired.")
    starts = claims.get("nbf")
    if starts is not None and starts - LEEWAY > moment:
        _refuse(Refusal.NOT_YET_VALID, "The token is not valid yet: compare the machines' clocks.")
    return Claims(raw=claims)


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
    return _encoded({**claims, "iss": pair.key}, pair.secret)


def resign(
    claims: Mapping[str, Any], server_key: str, server_secret: str, *, now: float | None = None
) -> str:
    """
    Sign a caller's raw claims for the LiveKit server with that key and secret.

    Changes ``iss``, leaves out the pool's own claims, and moves an ``iat`` in the future (which
    LiveKit 1.11 refuses) to ``now``. All else arrives as it was signed.
    """
    kept = {name: value for name, value in claims.items() if name not in _OWN_CLAIMS}
    kept["iss"] = server_key
    issued = kept.get("iat")
    if issued is not None:
        moment = time.time() if now is None else now
        if issued > moment:
            kept["iat"] = int(moment)
    return _encoded(kept, server_secret)


def refreshed(
    server_token: str,
    server: Server,
    original: Mapping[str, Any],
    pair: KeyPair,
    *,
    revision: int,
    server_name: str,
    now: float | None = None,
) -> str:
    """
    Turn a refresh token of ``server`` into one that the client can show to the pool.

    The claims that LiveKit carries over (name, metadata, attributes, current permissions, ...)
    come from ``server_token``; the others, which it loses, from ``original``: the claims of the
    token the client joined with, or of the last one made here. Then the location is added, and
    the times are set by the pool's clock: valid from now, at least as long as the server said
    and never less than LiveKit's 10 minutes.

    A server is believed about its participant, not about the pool: another identity, the pool's
    own claims, and grants to administer rooms that the client did not have, are not taken from it.

    LiveKit signs with any one of its keys if it has several (server: roommanager.go). A token
    that ``server``'s secret does not verify is not read at all, since anybody could have written
    it. Then the client gets the original claims with new times: permissions changed in the
    meantime are missing from them, but a client without a fresh token could not come back.
    """
    latest: Mapping[str, Any]
    try:
        latest = _decoded(server_token, KeyPair(key=server.key, secret=server.secret))
    except TokenError:
        latest = original
    if Claims(raw=latest).identity != Claims(raw=original).identity:
        latest = original
    merged = {
        name: value
        for name, value in original.items()
        if name not in _CARRIED and name not in _TIMES
    }
    merged |= {name: value for name, value in latest.items() if name in _CARRIED}
    grants, former = merged.get("video"), original.get("video") or {}
    if isinstance(grants, dict):
        merged["video"] = {
            name: value
            for name, value in grants.items()
            if name not in _WIDE_GRANTS or former.get(name) == value
        }
    merged["exp"] = max(latest.get("exp") or 0, original.get("exp") or 0)
    return news(merged, pair, revision=revision, server_name=server_name, now=now)


def news(
    last: Mapping[str, Any],
    pair: KeyPair,
    *,
    revision: int,
    server_name: str,
    now: float | None = None,
) -> str:
    """
    Sign ``last``, a session's latest claims, with the location its client is sent to.

    Valid from now, until ``last`` was or for 10 minutes, whichever is later: the client of a
    live session must be able to come back with it. The ``pool`` claim is left out: a session that
    lasts must not make the right to administer the pool last.
    """
    moment = int(time.time() if now is None else now)
    claims = {name: value for name, value in last.items() if name not in ("iat", "nbf", "pool")}
    claims["nbf"] = moment
    claims["exp"] = max(last.get("exp") or 0, moment + _REFRESH_TTL)
    claims["livekitPool"] = {"revision": revision, "server": server_name}
    return sign(claims, pair)


def participant_token(
    pair: KeyPair,
    *,
    identity: str,
    room: str,
    name: str = "",
    metadata: str = "",
    attributes: Mapping[str, str] | None = None,
    room_config: Mapping[str, Any] | None = None,
    grants: Mapping[str, Any] | None = None,
    ttl: float = DEFAULT_TTL,
    now: float | None = None,
) -> str:
    """
    Make a token to join ``room`` as ``identity``.

    Args:
        pair: the pool's key pair.
        identity: who joins; unique in the room.
        room: name of the room.
        name: shown to others.
        metadata: text of the application's own.
        attributes: texts by name, of the application's own.
        room_config: protojson of ``RoomConfiguration``; applied when this join creates the room.
        grants: further keys of the ``video`` claim, such as ``{"canPublish": False}``; those
            left out are LiveKit's defaults.
        ttl: seconds that it is valid.

    Raises:
        ValueError: identity or room is empty, or LiveKit could not read one of the values.
    """
    if not identity or not room:
        raise ValueError("a token to join needs an identity and a room")
    optional = {
        "name": name,
        "metadata": metadata,
        "attributes": dict(attributes or {}),
        "roomConfig": dict(room_config or {}),
    }
    claims = {
        "sub": identity,
        "video": {**(grants or {}), "roomJoin": True, "room": room},
        **{claim: value for claim, value in optional.items() if value},
    }
    wrong = _misshapen(claims)
    if wrong is not None:
        raise ValueError(f"LiveKit cannot read the claim {wrong}")
    return sign({**claims, **_lifetime(ttl, now)}, pair)


def pool_token(
    pair: KeyPair,
    kind: Kind,
    *,
    subject: str = "",
    ttl: float = DEFAULT_TTL,
    now: float | None = None,
) -> str:
    """
    Make a token for the pool's own API.

    Args:
        pair: the pool's key pair.
        kind: what it opens.
        subject: who holds it: the actor that the history names.
        ttl: seconds that it is valid.
    """
    return sign({"sub": subject, "pool": str(kind), **_lifetime(ttl, now)}, pair)


def _lifetime(ttl: float, now: float | None) -> dict[str, int]:
    # Both are needed: TokenSource clients judge a token's age only if it has nbf and exp.
    moment = time.time() if now is None else now
    return {"nbf": int(moment), "exp": int(moment + ttl)}


def _secret_bytes(secret: str) -> bytes:
    # HMAC pads a key shorter than its block with zero bytes (RFC 2104, 2), so this changes no
    # signature. It keeps PyJWT from warning, at each token, of a server's short secret.
    return secret.encode().ljust(32, b"\0")


def _encoded(claims: Mapping[str, Any], secret: str) -> str:
    try:
        data = json.dumps(claims, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
        data = json.dumps(claims, separators=(",", ":")).encode()
    return _JWS.encode(data, _secret_bytes(secret), algorithm="HS256", headers=_HEADER)


def _decoded(token: str, pair: KeyPair) -> dict[str, Any]:
    """Verify signature, key and shape of ``token``, but not its times; `TokenError`."""
    if len(token) > MAX_TOKEN:
        _refuse(Refusal.TOO_LONG, f"The token is longer than {MAX_TOKEN // 1024} KiB.")
    if not token.isascii():
        _refuse(Refusal.MALFORMED, "The token is not a JWT.")
    try:
        data = _JWS.decode(token, _secret_bytes(pair.secret), algorithms=["HS256"])
    except jwt.InvalidSignatureError:
        _refuse(Refusal.WRONG_KEY, "The token is signed with a key that is not the pool's.")
    except jwt.PyJWTError:
        _refuse(Refusal.MALFORMED, "The token is not a JWT signed with HS256.")
    try:
        claims = _parsed(data)
    except (ValueError, RecursionError):
        _refuse(Refusal.MALFORMED, "The token's claims are not a JSON object.")
    if claims.get("iss") != pair.key:
        _refuse(Refusal.WRONG_KEY, "The token is signed with a key that is not the pool's.")
    wrong = _misshapen(claims)
    if wrong is not None:
        _refuse(Refusal.MALFORMED, f"LiveKit cannot read the token's claim {wrong}.")
    return claims


def _parsed(data: bytes) -> dict[str, Any]:
    claims = json.loads(data, parse_constant=_not_json)
    if not isinstance(claims, dict):
        raise ValueError("not an object")
    return claims


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")  # NaN and the infinities, which Python would accept


def _misshapen(claims: Mapping[str, Any]) -> str | None:
    """Return the name of a claim that LiveKit's types refuse, or None. Go reads null as absent."""
    for name, kind in _CLAIM_TYPES.items():
        value = claims.get(name)
        if value is not None and not isinstance(value, kind):
            return name
    for name in _TIMES:
        value = claims.get(name)
        if value is not None and (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not -_TOO_FAR < value < _TOO_FAR
        ):
            return name
    attributes = claims.get("attributes")
    if attributes and not all(
        value is None or isinstance(value, str) for value in attributes.values()
    ):
        return "attributes"
    for name, value in (claims.get("video") or {}).items():
        if value is not None and not isinstance(value, _GRANT_TYPES.get(name, object)):
            return f"video.{name}"
    sources = (claims.get("video") or {}).get("canPublishSources")
    if sources and not all(isinstance(source, str) for source in sources):
        return "video.canPublishSources"
    return None


def _refuse(code: Refusal, message: str) -> NoReturn:
    raise TokenError(message, code=code) from None
