"""Signed bodies: with LiveKit's own receivers on the other side, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import time

import jwt
import pytest
from livekit.api import AccessToken, TokenVerifier, WebhookReceiver

from livekit_pool import tokens
from livekit_pool.exceptions import TokenError
from livekit_pool.tokens import Claims, KeyPair, Refusal

PAIR = KeyPair(key="APIred", secret="red-secret-red-secret-red-secret-")
BODY = '{"event": "room_started", "id": "EV_1", "room": {"name": "Übung"}}'.encode()
NOW = 1_800_000_000


def livekits(body: bytes) -> str:
    """A token as LiveKit's SDK makes one for a body."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return AccessToken(PAIR.key, PAIR.secret).with_sha256(digest).to_jwt()


def test_livekits_receiver_takes_what_is_signed_here() -> None:
    receiver = WebhookReceiver(TokenVerifier(PAIR.key, PAIR.secret))
    event = receiver.receive(BODY.decode(), tokens.sign_body(BODY, PAIR))
    assert (event.event, event.room.name) == ("room_started", "Übung")


def test_the_token_is_livekits_own() -> None:
    token = tokens.sign_body(BODY, PAIR, now=NOW + 0.9)
    assert jwt.decode(token, options={"verify_signature": False}) == {
        "iss": PAIR.key,
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 300,
        "sha256": base64.b64encode(hashlib.sha256(BODY).digest()).decode(),
    }


def test_what_livekit_signs_is_taken_here() -> None:
    token = livekits(BODY)
    assert tokens.issuer(token) == PAIR.key
    tokens.check_body(tokens.verify(token, PAIR, time.time()), BODY)


@pytest.mark.parametrize("sha256", ["", None, 7, base64.b64encode(b"else").decode()])
def test_another_body_is_refused(sha256: object) -> None:
    with pytest.raises(TokenError, match="not the one that was signed") as caught:
        tokens.check_body(Claims(raw={"sha256": sha256}), BODY)
    assert caught.value.code == Refusal.WRONG_BODY


def unsigned(claims: object) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{part}.e30"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "no token",
        "a.b",
        "é.é.é",
        "e30.!.e30",
        "e30.//8.e30",
        unsigned([]),
        unsigned({}),
        unsigned({"iss": 7}),
        unsigned({"iss": "x" * tokens.MAX_TOKEN}),
        "e30." + base64.urlsafe_b64encode(b"[" * 60_000).decode() + ".e30",
    ],
)
def test_what_names_no_issuer_is_refused(token: str) -> None:
    with pytest.raises(TokenError) as caught:
        tokens.issuer(token)
    assert caught.value.code == Refusal.MALFORMED
