"""
What an operator sees and does: status, history, rotate, drain, pause.
"""

from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..tokens import Claims
from .access import Access, actor
from .answers import REFUSALS, MarkAnswer, RotationAnswer

if TYPE_CHECKING:
    from ..pool import Marked, Pool

__all__ = ["router"]

LONGEST_REASON: Final = 500
"""Characters of a reason: a sentence for the log and the history, not a report."""

# One line, so that nobody can forge a second one in a log.
Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_REASON),
    Field(pattern=r"^[^\x00-\x1f\x7f\u0085\u2028\u2029]*$", description="Why, in one line."),
]


class History(BaseModel):
    """Rotations, newest first."""

    rotations: list[RotationAnswer]


class Order(BaseModel):
    """What somebody asks for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expected_revision: int | None = Field(
        default=None, description="Refuse a change (409) if the document is not at this revision."
    )


class RotateRequest(Order):
    """A rotation that somebody asks for."""

    reason: Reason
    to: str | None = Field(
        default=None, description="Name of the server to rotate to; by default the pool chooses."
    )
    force: bool = Field(
        default=False, description="Also to a server that is drained, down or misconfigured."
    )


class PauseRequest(Order):
    """A pause that somebody asks for."""

    reason: Reason


class DrainRequest(PauseRequest):
    """A drain that somebody asks for."""

    force: bool = Field(default=False, description="Also the last available server.")


class DrainedServer(BaseModel):
    """A server, and whether it is drained."""

    name: str
    drained: MarkAnswer | None


class DrainAnswer(BaseModel):
    """What came of a drain, or of the end of one."""

    revision: int
    changed: bool = Field(description="Whether it was not so before.")
    rotation: RotationAnswer | None = Field(
        description="Away from the server, if it was the active one."
    )
    server: DrainedServer

    @classmethod
    def of(cls, server: str, marked: "Marked") -> Self:
        """The answer for ``marked``, which is about ``server``."""
        rotation = marked.rotation
        return cls(
            revision=marked.revision,
            changed=marked.changed,
            rotation=None if rotation is None else RotationAnswer.of(rotation),
            server=DrainedServer(name=server, drained=MarkAnswer.of(marked.mark)),
        )


class PauseAnswer(BaseModel):
    """What came of a pause, or of the end of one."""

    revision: int
    changed: bool = Field(description="Whether it was not so before.")
    rotation: None = None
    paused: MarkAnswer | None

    @classmethod
    def of(cls, marked: "Marked") -> Self:
        """The answer for ``marked``."""
        return cls(
            revision=marked.revision, changed=marked.changed, paused=MarkAnswer.of(marked.mark)
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

    @routes.post("/servers/{name}/drain")
    async def drain(
        name: str, order: DrainRequest, claims: Annotated[Claims, Depends(access.admin)]
    ) -> DrainAnswer:
        """
        Take a server out: nothing new is sent to it, until it is undrained. For admins.

        Rotates, with the same change, if it is the active server. Changes nothing if it is drained
        already. Answers 409 `no_server` for the last available server, unless `force` is given.
        """
        marked = await pool.drain(
            name,
            order.reason,
            actor=actor(claims),
            expected_revision=order.expected_revision,
            force=order.force,
        )
        return DrainAnswer.of(name, marked)

    @routes.post("/servers/{name}/undrain")
    async def undrain(
        name: str, claims: Annotated[Claims, Depends(access.admin)], order: Order | None = None
    ) -> DrainAnswer:
        """Let a server be chosen again, whoever drained it. For admins."""
        expected = None if order is None else order.expected_revision
        marked = await pool.undrain(name, actor=actor(claims), expected_revision=expected)
        return DrainAnswer.of(name, marked)

    @routes.post("/pause")
    async def pause(
        order: PauseRequest, claims: Annotated[Claims, Depends(access.admin)]
    ) -> PauseAnswer:
        """
        Stop automatic rotation, until it is resumed. For admins.

        What a person asks for, a rotation or a drain, works all the same.
        """
        marked = await pool.pause(
            order.reason, actor=actor(claims), expected_revision=order.expected_revision
        )
        return PauseAnswer.of(marked)

    @routes.post("/resume")
    async def resume(
        claims: Annotated[Claims, Depends(access.admin)], order: Order | None = None
    ) -> PauseAnswer:
        """Let the pool rotate by itself again, whoever paused it. For admins."""
        expected = None if order is None else order.expected_revision
        return PauseAnswer.of(await pool.resume(actor=actor(claims), expected_revision=expected))

    return routes
