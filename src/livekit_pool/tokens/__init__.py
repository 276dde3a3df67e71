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

from .bodies import BODY_TTL, check_body, issuer, sign_body
from .claims import Claims, Kind, Location
from .making import DEFAULT_TTL, participant_token, pool_token
from .passing import news, refreshed, resign
from .signing import LEEWAY, MAX_TOKEN, KeyPair, Refusal, claims_of, payload, sign, verify

__all__ = [
    "BODY_TTL",
    "DEFAULT_TTL",
    "LEEWAY",
    "MAX_TOKEN",
    "Claims",
    "KeyPair",
    "Kind",
    "Location",
    "Refusal",
    "check_body",
    "claims_of",
    "issuer",
    "news",
    "participant_token",
    "payload",
    "pool_token",
    "refreshed",
    "resign",
    "sign",
    "sign_body",
    "verify",
]
