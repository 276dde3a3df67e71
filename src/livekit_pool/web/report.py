"""
What clients report of a server, at ``POST /pool/report``.

Whoever has a token may report, from any page: the token protects, and a report only makes the pool
look for itself. The text of an error is classified and forgotten: it may quote anything.
"""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from .. import observe
from ..exceptions import PoolError
from ..tokens import Claims
from .access import Access
from .addresses import neighbourhood
from .answers import REFUSALS, code_of
from .rarely import Rarely

if TYPE_CHECKING:
    from ..pool import Pool

__all__ = ["LARGEST_BODY", "Refusals", "router"]

LARGEST_BODY: Final = 64 * 1024
"""Bytes of a report: far more than the longest text, however it is escaped."""

LONGEST_ERROR: Final = 4096
"""Characters of an error's text: the beginning of it is enough."""

_LONGEST_NAME: Final = 300

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ReportRequest(BaseModel):
    """Somebody says that a server failed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    server: Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME)] = Field(
        description="Name of the server, as it came with the token or the events."
    )
    revision: Annotated[int, Field(ge=0)] = Field(
        description="The document's when that server was told: a late report is known by it."
    )
    error: Annotated[str, Field(min_length=1, max_length=LONGEST_ERROR)] = Field(
        description="The SDK's error as text, its beginning if it is long."
    )
    code: Annotated[str, Field(max_length=_LONGEST_NAME)] | int | None = Field(
        default=None,
        description="What the SDK has beside the text: an HTTP status; a Twirp code; the name or"
        " number of a DisconnectReason. Of a ConnectionError of livekit-client its status, else"
        " ConnectionErrorReason[error.reason].",
    )


class ReportAnswer(BaseModel):
    """What becomes of a report."""

    status: str = Field(
        description="`verifying` (202): the pool looks for itself. `already_handled`: that server"
        " has been left since. `not_its_fault`: what happened is no server's fault. `dismissed`:"
        " the pool has just found that server well."
    )
    revision: int = Field(description="Of the document.")
    active: str = Field(description="Name of the server that everybody is sent to now.")


def router(pool: "Pool", access: Access, refusals: "Refusals") -> APIRouter:
    """The route of this module, for ``pool``; what it refuses is counted in ``refusals``."""
    routes = APIRouter(
        prefix="/pool", tags=["joining"], responses=REFUSALS, route_class=refusals.route()
    )

    @routes.post("/report", responses={202: {"model": ReportAnswer}})
    async def report(
        told: ReportRequest,
        claims: Annotated[Claims, Depends(access.bearer)],
        request: Request,
        response: Response,
    ) -> ReportAnswer:
        """
        Report that a server failed. For any token of the pool's key, also a participant's.

        A report alone changes nothing: the pool verifies it, and rotates by what it then sees.
        429 with `Retry-After` if there are too many; 404 if there is no such server; 409 with the
        document's `revision` if the document was never at the reported one.
        """
        answer = await pool.report(
            server=told.server,
            revision=told.revision,
            error=told.error,
            code=told.code,
            reporter=_reporter(claims),
            address=neighbourhood(request.client.host if request.client else ""),
        )
        response.status_code = 202 if answer.status == "verifying" else 200
        return ReportAnswer(status=answer.status, revision=answer.revision, active=answer.active)

    return routes


def _reporter(claims: Claims) -> str:
    """Who reports: an identity is unique in its room only."""
    return "\n".join((claims.pool or "", claims.room, claims.identity))


class Refusals:
    """
    The reports that were refused.

    Attributes:
        counts: how many there were, by the code of their error.
        rarely: for what is logged of them: why, and nothing else.
    """

    def __init__(self) -> None:
        self.counts: Final[Counter[str]] = Counter()
        self.rarely: Final = Rarely()

    def count(self, code: str) -> None:
        """Count one that is refused with ``code``, and log it."""
        self.counts[code] += 1
        self.rarely.event(observe.REPORT_REFUSED, why=code)

    def route(self) -> type[APIRoute]:
        """Make a kind of route whose refusals are counted."""
        refusals = self

        class Counted(APIRoute):
            def get_route_handler(self) -> _Handler:
                handler = super().get_route_handler()

                async def counted(request: Request) -> Response:
                    try:
                        return await handler(request)
                    except RequestValidationError:
                        refusals.count(code_of(400))
                        raise
                    except HTTPException as error:
                        refusals.count(code_of(error.status_code))
                        raise
                    except PoolError as error:
                        refusals.count(error.code)
                        raise

                return counted

        return Counted
