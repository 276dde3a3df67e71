"""
Answers: the JSON that everything under ``/pool`` speaks, refusals included.

A refusal is ``{"error": {"code", "message", ...}}``. Outside ``/pool`` the pool is a LiveKit
server, so a refusal there is a line of text, as LiveKit's is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, Self

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..core.document import Mark, Rotation
from ..exceptions import (
    NoAnswer,
    PoolError,
    RotationRefused,
    StoreCorrupt,
    StoreError,
    TokenError,
    TooManyReports,
    UnknownServer,
)

__all__ = [
    "REFUSALS",
    "RETRY_AFTER",
    "ErrorAnswer",
    "ErrorDetail",
    "MarkAnswer",
    "RotationAnswer",
    "code_of",
    "error_answer",
    "handlers",
    "is_pools_own",
    "refused",
    "rfc3339",
]

RETRY_AFTER: Final = 2
"""Seconds after which to ask again while the store, or the document, is away."""

# What FastAPI says of a body that is not even text, or is nested too deeply.
_FASTAPI_NOT_JSON: Final = "There was an error parsing the body"

_Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]

_CODES: Final[Mapping[int, str]] = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "too_large",
    503: "not_ready",
}

_STATUSES: Final[tuple[tuple[type[PoolError], int], ...]] = (
    (TokenError, 401),
    (UnknownServer, 404),
    (RotationRefused, 409),
    (TooManyReports, 429),
    (StoreCorrupt, 500),
    (StoreError, 503),
    (NoAnswer, 503),
)


class ErrorDetail(BaseModel):
    """Why a request was refused."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(description="Stable; for programs.")
    message: str = Field(description="One sentence; for people.")
    revision: int | None = Field(
        default=None, description="Of the document, where a rotation was refused (409)."
    )


class ErrorAnswer(BaseModel):
    """A refusal."""

    error: ErrorDetail


REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": ErrorAnswer, "description": "Refused: `error` says why."},
    503: {"model": ErrorAnswer, "description": "Not now: try again after `Retry-After` seconds."},
}
"""What every route under ``/pool`` may answer instead, for the OpenAPI document."""


class RotationAnswer(BaseModel):
    """A rotation, as it appears everywhere."""

    revision: int
    from_: str = Field(alias="from", description="Name of the server that was active.")
    to: str = Field(description="Name of the active server.")
    cause: str
    reason: str
    actor: str
    at: str = Field(description="RFC 3339, UTC.")

    @classmethod
    def of(cls, rotation: Rotation) -> Self:
        """The answer for ``rotation``."""
        return cls.model_validate(
            {
                "revision": rotation.revision,
                "from": rotation.from_,
                "to": rotation.to,
                "cause": str(rotation.cause),
                "reason": rotation.reason,
                "actor": rotation.actor,
                "at": rfc3339(rotation.at),
            }
        )

    def json_line(self) -> str:
        """As one line of JSON, with the names that the API uses."""
        return self.model_dump_json(by_alias=True)


class MarkAnswer(BaseModel):
    """What a person set: a drain or a pause."""

    by: str
    since: str = Field(description="RFC 3339, UTC.")
    reason: str

    @classmethod
    def of(cls, mark: Mark | None) -> Self | None:
        """The answer for ``mark``, if there is one."""
        if mark is None:
            return None
        return cls(by=mark.by, since=rfc3339(mark.since), reason=mark.reason)


def rfc3339(moment: float) -> str:
    """Seconds since the epoch as RFC 3339 with milliseconds, UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def is_pools_own(path: str) -> bool:
    """Whether ``path`` is of the pool's own API, as opposed to LiveKit's."""
    return path == "/pool" or path.startswith("/pool/")


def error_answer(
    status: int,
    code: str,
    message: str,
    *,
    headers: Mapping[str, str] | None = None,
    revision: int | None = None,
) -> JSONResponse:
    """A refusal in the pool's form."""
    detail: dict[str, object] = {"code": code, "message": message}
    if revision is not None:
        detail["revision"] = revision
    return JSONResponse({"error": detail}, status, headers=headers)


def code_of(status: int) -> str:
    """The code of a refusal with ``status`` that has none of its own."""
    return _CODES.get(status, "error")


def refused(path: str, status: int, message: str, code: str = "") -> Response:
    """
    A refusal in the form that belongs to ``path``.

    ``code`` is by default the one that goes with ``status``.
    """
    if is_pools_own(path):
        return error_answer(status, code or code_of(status), message)
    return PlainTextResponse(f"{message}\n", status)


async def _on_pool_error(request: Request, error: PoolError) -> Response:
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="livekit-pool"'
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER)
    if isinstance(error, TooManyReports):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if not is_pools_own(request.url.path):
        return PlainTextResponse(f"{error}\n", status, headers=headers)
    revision = error.revision if isinstance(error, RotationRefused) else None
    return error_answer(status, error.code, str(error), headers=headers, revision=revision)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    message = error.detail
    if message == _FASTAPI_NOT_JSON:
        message = "The body is not JSON."
    elif message == HTTPStatus(error.status_code).phrase:  # the framework's own, not ours
        message = {
            404: f"There is no {path} here." if is_pools_own(path) else "404 page not found",
            405: f"{request.method} is not allowed here.",
        }.get(error.status_code, message)
    answer = refused(path, error.status_code, message)
    answer.headers.update(error.headers or {})
    return answer


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    return refused(request.url.path, 400, _sentence(error))


def _sentence(error: RequestValidationError) -> str:
    """One sentence that names the first wrong field; never what was in it."""
    first = error.errors()[0]
    place, *names = first["loc"]
    field = ".".join(str(name) for name in names)
    if first["type"] == "json_invalid":
        return "The body is not JSON."
    if place == "body" and not field:
        return "The body must be a JSON object, sent with Content-Type: application/json."
    if first["type"] == "missing":
        return f"{field} is missing."
    return f"{field} is wrong: {first['msg'][:1].lower()}{first['msg'][1:]}."


def handlers() -> dict[int | type[Exception], _Handler]:
    """What FastAPI is to do with each kind of error that a route raises."""
    return {
        PoolError: _on_pool_error,
        HTTPException: _on_http_exception,
        RequestValidationError: _on_invalid_request,
    }
