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
from .retry_after import retry_after

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
        if answer.status in (401, 403):
            # The body stays unread: old servers put the whole token into it.
            raise Refused(
                ProbeOutcome.UNAUTHORIZED,
                f"it refuses its API key or secret (HTTP {answer.status}); clocks that differ"
                " by minutes have the same effect",
            )
        if answer.status != 200:
            body = await answer.content.read(_BODY_LIMIT)
            kind = _limit(answer.status, body)
            if kind is not None:
                raise Refused(
                    ProbeOutcome.LIMITED,
                    f"it refuses for a limit ({kind.value}, HTTP {answer.status})",
                    kind=kind,
                    retry_after=retry_after(
                        answer.headers.get("Retry-After"), answer.headers.get("Date")
                    ),
                )
            raise Refused(
                ProbeOutcome.FAILED, f"it answered HTTP {answer.status} when asked for its rooms"
            )
        return await answer.read()


def _limit(status: int, body: bytes) -> Cause | None:
    """The limit that an answer to a call tells of, if it does."""
    try:
        error = json.loads(body)
        code, text = str(error["code"]), str(error["msg"])
    except (ValueError, RecursionError, TypeError, KeyError):
        code, text = "", body.decode("utf-8", "replace")
    cause = classify(Surface.TWIRP, status=status, code=code, text=text).cause
    return cause if cause in REFUSALS else None
