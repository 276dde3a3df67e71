"""
``POST /pool/webhook``: where the pool's LiveKit servers post their events.

The signature is checked against the body as it came, byte for byte, and the answer comes before
anybody has done anything with the event: a slow answer would hold up all events of its room, and
LiveKit drops what waits for more than 30 s (protocol: webhook/resource_url_notifier.go).
"""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.exceptions import HTTPException

from ...exceptions import TokenError
from ...tokens import Refusal, check_body
from ..answers import REFUSALS
from .desk import Desk, Outcome, Signed
from .event import NotAnEvent

__all__ = ["LARGEST_EVENT", "router"]

LARGEST_EVENT: Final = 2**20
"""
Bytes of an event. LiveKit's have a few kilobytes; metadata and attributes of a participant, which
are in them, may have 64 KiB each by default (server: ``limit`` in its configuration).
"""

BODY_TIME: Final = 10.0
"""Seconds for an event to arrive."""

_TOO_LARGE: Final = "The event is larger than 1 MiB."
_OUTCOMES: Final = {
    Refusal.MISSING: Outcome.UNSIGNED,
    Refusal.MALFORMED: Outcome.MALFORMED,
    Refusal.TOO_LONG: Outcome.MALFORMED,
    Refusal.WRONG_KEY: Outcome.WRONG_KEY,
    Refusal.WRONG_BODY: Outcome.WRONG_BODY,
    Refusal.EXPIRED: Outcome.EXPIRED,
    Refusal.NOT_YET_VALID: Outcome.NOT_YET_VALID,
}


def router(desk: Desk, *, body_time: float = BODY_TIME) -> APIRouter:
    """The route of this module."""
    routes = APIRouter(prefix="/pool", tags=["webhooks"], responses=REFUSALS)

    @routes.post("/webhook", response_class=Response)
    async def webhook(
        request: Request,
        authorization: Annotated[
            str, Header(description="The token that LiveKit signed the event with.")
        ] = "",
        server: Annotated[
            str | None,
            Query(description="Name of the server; needed where several have one key."),
        ] = None,
    ) -> Response:
        """
        An event, as LiveKit servers post them: a WebhookEvent, signed with the server's key.

        It is accepted, also the same one again, and also of a kind that is not known here.
        """
        try:
            _check_size(request.headers.get("content-length", ""))
            names, claims = desk.signer.verified(authorization, server)
            async with asyncio.timeout(body_time):
                body = await _body(request)
            check_body(claims, body)
            await desk.accept(Signed.of(names, claims, body))
        except TokenError as error:
            desk.count(_OUTCOMES[Refusal(error.code)])
            raise
        except TimeoutError:
            desk.count(Outcome.TOO_SLOW)
            raise HTTPException(408, "The event did not arrive in time.") from None
        except HTTPException:  # ours, or that of the application, which limits bodies too
            desk.count(Outcome.TOO_LARGE)
            raise HTTPException(413, _TOO_LARGE) from None
        except NotAnEvent as error:
            desk.count(Outcome.NOT_AN_EVENT)
            raise HTTPException(400, str(error)) from None
        # Without a body, Go's client keeps the connection for the next event.
        return Response()

    return routes


def _check_size(announced: str) -> None:
    if announced.isdecimal() and int(announced[:20]) > LARGEST_EVENT:
        raise HTTPException(413)


async def _body(request: Request) -> bytes:
    """Read the body, until it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_EVENT:
            raise HTTPException(413)
    return bytes(body)
