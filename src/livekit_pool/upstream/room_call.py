"""Calls of one server's RoomService, made with a token signed with that server's own key."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import aiohttp

from .. import tokens
from ..core.document import Cause
from ..core.events import ProbeOutcome
from ..core.faults import REFUSALS, Surface, classify
from ..servers import Server
from .attempt import Seen
from .connection import Stage
from .retry_after import http_date, retry_after

__all__ = ["Called", "Refused", "called", "number", "objects"]

_TOKEN_LIFE: Final = 300
"""Seconds. The token has neither ``nbf`` nor ``iat``, so that clocks may differ by 5 minutes."""

_BODY_LIMIT: Final = 4096


class Called(NamedTuple):
    """The body of an answer; and when it was given, by the server's clock, if that said so."""

    body: bytes
    date: float | None


class Refused(Exception):
    """A server answered, but not as it should. Holds nothing of what it said."""

    def __init__(
        self,
        outcome: ProbeOutcome,
        detail: str,
        *,
        kind: Cause | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.seen = Seen(
            outcome=outcome,
            stage=Stage.SIGNED,
            detail=detail,
            kind=kind,
            retry_after=retry_after,
        )


async def called(
    session: aiohttp.ClientSession,
    server: Server,
    method: str,
    message: Mapping[str, object],
    grants: Mapping[str, object],
) -> Called:
    """
    Call ``method`` with ``message`` and return the answer, both in protobuf's JSON.

    Args:
        grants: the token's ``video`` claim (server: pkg/service/auth.go says what is needed).

    Raises:
        Refused: it answered something else.
        aiohttp.ClientError, TimeoutError, OSError: it did not answer.
    """
    token = tokens.sign(
        {"exp": int(time.time()) + _TOKEN_LIFE, "video": grants},
        tokens.KeyPair(key=server.key, secret=server.secret),
    )
    async with session.post(
        f"{server.http_url}/twirp/livekit.RoomService/{method}",
        json=message,
        headers={"Authorization": f"Bearer {token}"},
        allow_redirects=False,
    ) as answer:
        if answer.status != 200:
            raise _refused(
                answer.status,
                await answer.content.read(_BODY_LIMIT),
                retry_after(
                    answer.headers.get("Retry-After"), http_date(answer.headers.get("Date"))
                ),
            )
        return Called(await answer.read(), http_date(answer.headers.get("Date")))


def objects(body: bytes, key: str) -> Sequence[Mapping[str, Any]]:
    """
    The messages under ``key`` of an answer's ``body``.

    Raises:
        Refused: it is not what a LiveKit server answers.
    """
    try:
        content = json.loads(body)
        found = content.get(key) if isinstance(content, dict) else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Refused(ProbeOutcome.FAILED, "it answers, but not as a LiveKit server does")
    return found


def number(message: Mapping[str, Any], *keys: str) -> float:
    """
    The number under the first of ``keys`` that has one; 0 where none does, or it is none.

    64-bit numbers are strings in JSON, and zeroes are left out: protobuf's JSON mapping. Some
    servers write the fields' original names.
    """
    try:
        found = float(next((message[key] for key in keys if message.get(key)), 0))
    except (TypeError, ValueError):
        return 0.0
    return found if math.isfinite(found) else 0.0


def _refused(status: int, body: bytes, retry_after: float | None) -> Refused:
    """What an answer other than 200 says. Of the body, where old servers put the token, no word."""
    if (kind := _limit(status, body)) is not None:
        return Refused(
            ProbeOutcome.LIMITED,
            f"it refuses for a limit ({kind.value}, HTTP {status})",
            kind=kind,
            retry_after=retry_after,
        )
    if status in (401, 403, 451):
        return Refused(
            ProbeOutcome.UNAUTHORIZED,
            f"it refuses its API key or secret (HTTP {status}); clocks that differ by minutes"
            " have the same effect",
        )
    return Refused(ProbeOutcome.FAILED, f"it answered HTTP {status} when asked for its rooms")


def _limit(status: int, body: bytes) -> Cause | None:
    """The limit that an answer to a call tells of, if it does."""
    try:
        error = json.loads(body)
        code, text = str(error["code"]), str(error["msg"])
    except (ValueError, RecursionError, TypeError, KeyError):
        code, text = "", body.decode("utf-8", "replace")
    cause = classify(Surface.TWIRP, status=status, code=code, text=text).cause
    return cause if cause in REFUSALS else None
