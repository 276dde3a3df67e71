"""Events as LiveKit's servers send them, and the servers whose keys sign them."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any

import jwt

from livekit_pool.servers import Server
from livekit_pool.tokens import KeyPair
from tests.web.fake_pool import PAIR

RED = Server(name="red", url="ws://red", key="APIred", secret="red-secret-red-secret-red-secret-")
GREEN = Server(
    name="green", url="ws://green", key="APIgreen", secret="green-secret-green-secret-green-"
)
# Two that were set up from one file.
BLUE = Server(
    name="blue", url="ws://blue", key="APIone", secret="one-secret-one-secret-one-secret-"
)
CYAN = Server(
    name="cyan", url="ws://cyan", key="APIone", secret="one-secret-one-secret-one-secret-"
)
# A third, with the same key and another secret.
TEAL = Server(
    name="teal", url="ws://teal", key="APIone", secret="two-secret-two-secret-two-secret-"
)
SERVERS = (RED, GREEN, BLUE, CYAN, TEAL)
STRANGER = KeyPair(key="APIstranger", secret="stranger-secret-stranger-secret-")

LEFT: dict[str, Any] = {
    "event": "participant_left",
    "room": {"sid": "RM_one", "name": "standup", "creationTimeMs": "1800000000123"},
    "participant": {
        "sid": "PA_one",
        "identity": "alice",
        "state": "DISCONNECTED",
        "joinedAt": "1800000010",
        "joinedAtMs": "1800000010250",
        "name": "Alice Ünal",
        "disconnectReason": "CLIENT_INITIATED",
    },
    "id": "EV_left",
    "createdAt": "1800000070",
}
"""What 1.13.5 sends when somebody leaves."""


def event(kind: str = "room_started", id: str = "EV_1", **fields: Any) -> dict[str, Any]:
    """An event of that kind about room ``standup``."""
    return {"event": kind, "id": id, "room": {"sid": "RM_one", "name": "standup"}, **fields}


def body_of(data: object) -> bytes:
    """JSON as protojson writes it."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def signature(
    body: bytes, pair: Server | KeyPair = RED, *, algorithm: str = "HS256", **claims: object
) -> str:
    """The token that LiveKit would send with ``body``, but for other ``claims``; None: without."""
    now = int(time.time())
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    whole = {"iss": pair.key, "nbf": now, "exp": now + 300, "sha256": digest, **claims}
    whole = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(whole, pair.secret, algorithm=algorithm)


POOL = PAIR
"""What the pool signs with."""
