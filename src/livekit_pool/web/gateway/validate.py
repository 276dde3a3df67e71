"""
``/rtc/validate`` and ``/rtc/v1/validate``: why an upgrade was refused, in plain HTTP.

SDKs ask after a failed upgrade and go by this answer, which another process may have to give. So
it is found out anew, in the same way (server: pkg/service/rtcservice.go).
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ...rooms import Room
from ...stores.base import Placement
from ..addresses import client_address
from .gateway import Gateway
from .held import HeldInquiry
from .request import NOT_FORWARDED, VIA, BadRequest, SignalQuery, UpgradeRequest, bearer
from .upstream import Answer, Upstream

__all__ = ["router"]

_PATHS = ("/rtc/validate", "/rtc/v1/validate")

_PATIENCE = 2.5
"""Seconds; Rust's SDK waits 3 for this answer."""

_OF_THE_CONNECTION = frozenset({b"connection", b"upgrade", b"keep-alive", b"te", b"content-length"})


class _Answer:
    """Keeps the answer until it can be sent."""

    def __init__(self) -> None:
        self.response: Response = PlainTextResponse("internal error", 500)

    def refuse(self, status: int, text: str, retry_after: int | None = None) -> None:
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        self.response = PlainTextResponse(text, status, headers)

    def answer_leave(self, request: UpgradeRequest) -> None:
        # The upgrade is accepted, if only to say goodbye.
        self.response = PlainTextResponse("success")


class Validation(HeldInquiry):
    """What an upgrade with the same query would be answered, without making one."""

    __slots__ = ()

    GOOD = 200

    async def _accepted(
        self, room: Room, placement: Placement, upstream: Upstream, answer: Answer
    ) -> bool:
        upstream.transport.abort()
        self._door.refuse(200, answer.body.decode("utf-8", "replace"))
        return True


def router(gateway: Gateway) -> APIRouter:
    """The routes, for the application; CORS is the application's."""

    async def validate(request: Request) -> Response:
        answer = _Answer()
        try:
            asked = _request(request)
        except BadRequest as error:
            answer.refuse(error.status, error.text)
            return answer.response
        peer = request.client.host if request.client else ""
        client = client_address(peer, asked.forwarded_for, gateway.pool.settings.trusted_proxies)
        await Validation(gateway, answer, asked, client, patience=_PATIENCE).run()
        return answer.response

    return APIRouter(routes=[Route(path, validate, methods=["GET"]) for path in _PATHS])


def _request(request: Request) -> UpgradeRequest:
    query = SignalQuery.parse(request.scope["query_string"])
    headers = request.headers
    token = query.token
    if (authorization := headers.get("authorization")) is not None:
        token = bearer(authorization.encode("latin-1"))
    kept = tuple(
        (name, value)
        for name, value in request.headers.raw
        if name not in NOT_FORWARDED and name not in _OF_THE_CONNECTION
    )
    return UpgradeRequest(
        path=request.url.path.encode(),
        query=query,
        token=token,
        key=b"",
        forwarded_for=headers.get("x-forwarded-for", "").encode("latin-1"),
        via=",".join(headers.getlist(VIA.decode())).encode("latin-1"),
        headers=(*kept, (b"Connection", b"close")),
    )
