"""
Tokens that pass through the pool: a caller's to a server, and a server's back to the caller.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..exceptions import TokenError
from ..servers import Server
from .claims import TIMES, Claims
from .signing import KeyPair, decoded, encoded, sign

__all__ = ["news", "refreshed", "resign"]

_REFRESH_TTL = 600
"""Seconds that LiveKit's refresh tokens are valid at least (server: roommanager.go)."""

_OWN_CLAIMS = frozenset({"pool", "livekitPool"})

# What a LiveKit server carries over into its refresh tokens (server: pkg/service/roommanager.go).
# Where such a claim is missing there, it is gone; every other claim was only lost on the way.
_CARRIED = frozenset(
    {"sub", "name", "kind", "metadata", "attributes", "video", "roomConfig", "roomPreset"}
)

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
    return encoded(kept, server_secret)


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
        latest = decoded(server_token, KeyPair(key=server.key, secret=server.secret))
    except TokenError:
        latest = original
    if Claims(raw=latest).identity != Claims(raw=original).identity:
        latest = original
    merged = {
        name: value
        for name, value in original.items()
        if name not in _CARRIED and name not in TIMES
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
