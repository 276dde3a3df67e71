"""A call of one server's RoomService, made with a token signed with that server's own key."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Final

import aiohttp

from .. import tokens
from ..core.document import Cause
from ..core.events import ProbeOutcome
from ..core.faults import REFUSALS, Surface, classify
from ..servers import Server
from .attempt import Seen
from .connection import Stage
from .retry_after import http_date, retry_after

__all__ = ["Refused", "called"]

_TOKEN_LIFE: Final = 300
"""Seconds. The token has neither ``nbf`` nor ``iat``, so that clocks may differ by 5 minutes."""

_BODY_LIMIT: Final = 4096


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
) -> bytes:
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
        return await answer.read()


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
