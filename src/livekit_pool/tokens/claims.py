"""
The claims of an access token, and the types that LiveKit gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["TIMES", "Claims", "Kind", "Location", "misshapen"]

TIMES = frozenset({"iat", "nbf", "exp"})
"""Claims that are a NumericDate: seconds since the epoch (RFC 7519, 2)."""

_TOO_FAR = 2.0**53  # seconds; what JSON numbers hold exactly, and far beyond any date

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


class Kind(StrEnum):
    """
    What a pool token opens: the ``pool`` claim.

    ``admin`` may do everything, ``viewer`` may look, ``token`` may ask the token endpoint.
    """

    ADMIN = "admin"
    VIEWER = "viewer"
    TOKEN = "token"


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
        data: the JSON bytes of them that were signed, if it was a token that was verified.
    """

    raw: Mapping[str, Any] = field(repr=False)
    data: bytes = field(default=b"", repr=False)

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


def misshapen(claims: Mapping[str, Any]) -> str | None:
    """Return the name of a claim that LiveKit's types refuse, or None. Go reads null as absent."""
    for name, value in claims.items():
        kind = _CLAIM_TYPES.get(name)
        if kind is None:
            if name in TIMES and value is not None and not _is_a_time(value):
                return name
        elif value is not None and not isinstance(value, kind):
            return name
    attributes = claims.get("attributes")
    if attributes and not all(
        value is None or isinstance(value, str) for value in attributes.values()
    ):
        return "attributes"
    grants = claims.get("video")
    return _misshapen_grant(grants) if grants else None


def _misshapen_grant(grants: Mapping[str, Any]) -> str | None:
    for name, value in grants.items():
        if value is not None and not isinstance(value, _GRANT_TYPES.get(name, object)):
            return f"video.{name}"
    sources = grants.get("canPublishSources")
    if sources and not all(isinstance(source, str) for source in sources):
        return "video.canPublishSources"
    return None


def _is_a_time(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -_TOO_FAR < value < _TOO_FAR
    )
