"""
What somebody's hand may leave in a field of the document, and where it is no nonsense.

Of each value that is not `legal`, a repair that names the field must be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["GONE", "NONSENSE", "edited", "is_legal", "is_refused", "is_told"]

GONE: Final = "gone"
"""The kind of nonsense that is no value: the field is missing."""

NONSENSE: Final[Mapping[str, object]] = {
    "text": "nonsense",
    "negative": -1,
    "fraction": 2.5,
    "yes": True,
    "list": [1, {"a": None}],
    "map": {"nonsense": {"deep": 1}},
    "nothing": None,
    GONE: None,
}

_LEGAL: Final[Mapping[str, tuple[str, ...]]] = {
    # Free texts; a name may be that of a server which only others have.
    "lineage": ("text",),
    "activeServer": ("text",),
    "reason": ("text",),
    "actor": ("text",),
    # Moments and durations.
    "lastRotation": ("fraction",),
    "createdAt": ("fraction",),
    "window": ("fraction",),
    # What need not be there.
    "lastError": ("text", "nothing", GONE),
    "lastErrorTime": ("fraction", "nothing", GONE),
    "paused": ("nothing", GONE),
    # To Python, and so to JSON as it is read here, True is 1.
    "schema": ("yes",),
}


def is_legal(field: str, kind: str) -> bool:
    """Whether a pool may have written nonsense of that ``kind`` into ``field`` itself."""
    return kind in _LEGAL.get(field, ())


def is_refused(field: str, kind: str) -> bool:
    """Whether it makes the document one of another schema version, which is not read at all."""
    return field == "schema" and kind in ("negative", "fraction", "not a number")


def edited(stored: Mapping[str, object], field: str, kind: str) -> dict[str, object]:
    """``stored`` with nonsense of that ``kind`` in ``field``."""
    return {
        **{key: value for key, value in stored.items() if key != field},
        **({} if kind == GONE else {field: NONSENSE[kind]}),
    }


def is_told(repairs: Iterable[str], field: str) -> bool:
    """Whether one of the ``repairs`` names ``field``, or what is in it."""
    return any(repair.startswith((f"{field} ", f"{field}.")) for repair in repairs)
