"""A state in which every field differs from its default."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from livekit_pool.core.document import Document, Rotation
from livekit_pool.stores.base import Ledger, Placement
from livekit_pool.stores.state_json import State

from .values import NOON, first_document, rich_document, rotation_to

NAMES = ("red", "grün ☎", "blue")
LEDGER: Ledger = {"p1": {"red:2027-01": 12_000, "blue:2027-01": 7}, "p2": {"red:2027-01": 30}}
PLACEMENTS = (
    Placement(room="daily ☀", server="red", revision=3),
    Placement(room="standup", server="grün ☎", revision=7),
)


def history(last: int) -> tuple[Rotation, ...]:
    """Rotations at revisions 2 to ``last``."""
    return tuple(
        rotation_to(replace(first_document(revision), reason=f"because {revision}"))
        for revision in range(2, last + 1)
    )


def rich() -> Document:
    """A document after eight changes."""
    return replace(rich_document(), revision=9, active_since=7)


def state(**changes: Any) -> State:
    """A state in which nothing is as it is by default."""
    given = {
        "store": "sqlite:///old.db",
        "exported_at": NOON + 0.5,
        "document": rich(),
        "history": history(9),
        "placements": PLACEMENTS,
        "ledger": LEDGER,
    }
    return State(**{**given, **changes})
