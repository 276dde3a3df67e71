"""TwirpRefusal: the pool's own refusal of a call, in the form that LiveKit's SDKs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, Self

from starlette.responses import Response

__all__ = ["DENIED", "TwirpRefusal"]

DENIED: Final = "permissions denied"
"""What LiveKit says to a caller without the grant (server: pkg/service/auth.go)."""

# Twirp specification, "Error Codes": the status that goes with each.
_STATUSES: Final[Mapping[str, int]] = {
    "bad_route": 404,
    "deadline_exceeded": 408,
    "failed_precondition": 412,
    "internal": 500,
    "malformed": 400,
    "unauthenticated": 401,
    "unavailable": 503,
}


class TwirpRefusal(Exception):
    """
    A call is not carried out, or what became of it is not known.

    Attributes:
        code: a Twirp error code.
        message: one sentence for a person, without secrets.
    """

    def __init__(
        self, code: str, message: str, *, status: int | None = None, retry_after: int | None = None
    ) -> None:
        """``status`` is by default the one of ``code``; ``retry_after`` is in seconds."""
        super().__init__(message)
        self.code = code
        self.message = message
        self._status = _STATUSES[code] if status is None else status
        self._retry_after = retry_after

    @classmethod
    def unavailable(cls, message: str, retry_after: int) -> Self:
        """Not now: try again after ``retry_after`` seconds."""
        return cls("unavailable", message, retry_after=retry_after)

    def response(self) -> Response:
        """The answer. Node's SDK reads the body only under exactly this content type."""
        headers = {"Content-Type": "application/json"}
        if self._retry_after is not None:
            headers["Retry-After"] = str(self._retry_after)
        body = json.dumps({"code": self.code, "msg": self.message}, separators=(",", ":"))
        return Response(body, self._status, headers)
