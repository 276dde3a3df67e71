"""Limits: what an operator says that a server can take."""

from __future__ import annotations

from dataclasses import dataclass

from ..resets import MONTHLY, Reset

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    The configured limits of one server.

    Attributes:
        minutes: participant minutes from one reset to the next; None for no limit.
        max_participants: largest number of concurrent participants; None for no limit.
        reset: when its quota begins anew.
    """

    minutes: float | None = None
    max_participants: int | None = None
    reset: Reset = MONTHLY
