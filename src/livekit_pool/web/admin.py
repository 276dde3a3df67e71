"""
What an operator sees and does: status, history, rotate.
"""

from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..tokens import Claims
from .access import Access, actor
from .answers import REFUSALS, RotationAnswer

if TYPE_CHECKING:
    from ..pool import Pool

__all__ = ["router"]

LONGEST_REASON: Final = 500
"""Characters of a rotation's reason: a sentence for the log and the history, not a report."""


class History(BaseModel):
    """Rotations, newest first."""

    rotations: list[RotationAnswer]


class RotateRequest(BaseModel):
    """A rotation that somebody asks for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # One line, so that nobody can forge a second one in a log.
    reason: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_REASON),
        Field(pattern=r"^[^\x00-\x1f\x7f\u0085\u2028\u2029]*$", description="Why, in one line."),
    ]
    to: str | None = Field(
        default=None, description="Name of the server to rotate to; by default the pool chooses."
    )
    expected_revision: int | None = Field(
        default=None, description="Refuse (409) if the document is not at this revision."
    )
    force: bool = Field(
        default=False, description="Also to a server that is drained, down or misconfigured."
    )


class Unchanged(BaseModel):
    """``to`` is active already: nothing changed, and there is no rotation to tell of."""

    revision: int
    rotation: None = None


def router(pool: "Pool", access: Access) -> APIRouter:
    """The routes of this module, for ``pool``."""
    routes = APIRouter(prefix="/pool", tags=["operating"], responses=REFUSALS)

    @routes.get("/status", dependencies=[Depends(access.viewer)])
    async def status() -> dict[str, Any]:
        """The document, and each server's role, health and figures. For viewers and admins."""
        return await pool.status()

    @routes.get("/history", dependencies=[Depends(access.viewer)])
    async def history(
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        before: Annotated[int | None, Query(description="Only of lower revisions.")] = None,
    ) -> History:
        """The rotations, newest first. For viewers and admins."""
        rotations = await pool.history(limit, before)
        return History(rotations=[RotationAnswer.of(rotation) for rotation in rotations])

    @routes.post("/rotate")
    async def rotate(
        order: RotateRequest, claims: Annotated[Claims, Depends(access.admin)]
    ) -> RotationAnswer | Unchanged:
        """
        Rotate, also while the pool is paused. For admins.

        Answers the rotation; `{"revision", "rotation": null}` if `to` is active already; 409 with
        the document's `revision` if it is refused; 404 if there is no server `to`.
        """
        rotation = await pool.rotate(
            order.reason,
            actor=actor(claims),
            to=order.to,
            expected_revision=order.expected_revision,
            force=order.force,
        )
        if rotation is None:
            return Unchanged(revision=pool.document.revision)
        return RotationAnswer.of(rotation)

    return routes
