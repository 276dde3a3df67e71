"""
Tokens that the pool makes itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .claims import Kind, misshapen
from .signing import KeyPair, sign

__all__ = ["DEFAULT_TTL", "participant_token", "pool_token"]

DEFAULT_TTL = 6 * 3600.0
"""Seconds that a participant's token is valid, as in LiveKit's SDKs."""


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
    wrong = misshapen(claims)
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
