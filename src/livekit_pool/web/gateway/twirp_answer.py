"""TwirpAnswer: what a server answered to a call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.responses import Response

from ...upstream.retry_after import http_date, retry_after

__all__ = ["TwirpAnswer"]

_HEADERS: Final = ("Content-Type", "Retry-After")


@dataclass(frozen=True, slots=True, kw_only=True)
class TwirpAnswer:
    """
    An answer, complete.

    Attributes:
        status: of HTTP; 200 is the only good one.
        headers: those that are passed on.
        retry_after: seconds after which the server wants to be asked again, if it said so.
        body: not to be logged: that of a 401 may hold a token.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    retry_after: float | None = None

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes) -> TwirpAnswer:
        """An answer with all of the server's headers."""
        kept = {name: headers[name] for name in _HEADERS if name in headers}
        wait = retry_after(headers.get("Retry-After"), http_date(headers.get("Date")))
        return cls(status=status, headers=kept, body=body, retry_after=wait)

    @property
    def error(self) -> tuple[str, str]:
        """Code and message of the Twirp error that it is, both empty if it is none."""
        if self.status == 200:
            return "", ""
        try:
            content = json.loads(self.body)
            code, message = content["code"], content.get("msg", "")
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            return "", ""
        return (code, message) if isinstance(code, str) and isinstance(message, str) else ("", "")

    @property
    def text(self) -> str:
        """The body, where it is no Twirp error; not to be logged either."""
        return self.body.decode("utf-8", "replace")

    def response(self) -> Response:
        """The same, for the caller."""
        return Response(self.body, self.status, dict(self.headers))
