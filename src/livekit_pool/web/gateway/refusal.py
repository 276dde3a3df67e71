"""Refusal: what a server's no to a join, or to its validation, means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from ...core.document import Cause
from ...core.faults import FORGIVABLE, REFUSALS, Blame, Surface, classify
from ...upstream.retry_after import http_date, retry_after
from .upstream import Answer

__all__ = ["Refusal"]

_WAITED_FOR: Final = REFUSALS | {Cause.CREDENTIALS}
_BALANCERS: Final = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """
    A refusal.

    Attributes:
        status: of HTTP.
        text: the body, which old servers fill with whole tokens: for the caller where it is the
            caller's affair, and never to be logged.
        blame: whose affair it is.
        cause: the kind of fault, exactly where it is the server's affair.
        row: name of the line of `core.faults.TABLE` that says so.
        retry_after: seconds after which the server wants to be asked again, if it said so.
    """

    status: int
    text: str = field(repr=False)
    blame: Blame
    cause: Cause | None
    row: str
    retry_after: float | None

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """Look ``answer`` up."""
        text = answer.body.decode("utf-8", "replace")
        found = classify(Surface.JOIN, status=answer.status, text=text)
        return cls(
            status=answer.status,
            text=text,
            blame=found.blame,
            cause=found.cause,
            row=found.row,
            retry_after=retry_after(answer.retry_after, http_date(answer.date)),
        )

    @property
    def detail(self) -> str:
        """What was seen, for people; nothing that the server wrote."""
        return f"a join was refused with HTTP {self.status}: {self.row}"

    @property
    def lasts(self) -> bool:
        """Whether to ask that server again would only be refused again: it said why itself."""
        return self.cause in _WAITED_FOR

    @property
    def doubtful(self) -> bool:
        """Whether it may as well be that one caller's affair, or one room's."""
        return (
            self.blame is Blame.ROOM or (self.cause in FORGIVABLE and self.status >= 400)
        ) and self.status not in _BALANCERS
