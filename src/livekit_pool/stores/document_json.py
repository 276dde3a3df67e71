"""Documents and rotations as JSON text, for stores that keep text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..core.document import Document, Rotation
from ..core.stored import (
    from_mapping,
    rotation_from_mapping,
    rotation_to_mapping,
    to_mapping,
)
from ..exceptions import StoreCorrupt

__all__ = ["document_from_json", "document_to_json", "rotation_from_json", "rotation_to_json"]


def document_to_json(document: Document) -> str:
    """Write ``document`` in its stored form."""
    return json.dumps(to_mapping(document))


def document_from_json(
    text: str, names: Sequence[str] = (), beside: Mapping[str, object] | None = None
) -> tuple[Document, tuple[str, ...]]:
    """
    Read a document, with a sentence for each repair; `StoreCorrupt` if it is beyond repair.

    Args:
        names: the pool's servers in order: what an index means where somebody took out the active
            server's name, which a pool always writes.
        beside: fields that the store keeps beside the text as well, and goes by.
    """
    try:
        mapping = _mapping(text)
        differing = {k: v for k, v in (beside or {}).items() if mapping.get(k) != v}
        document, repairs = from_mapping({**mapping, **differing}, names)
        kept = (f"{key} was edited: {value!r} is taken" for key, value in differing.items())
        return document, (*repairs, *kept)
    except ValueError as error:
        raise StoreCorrupt(f"What LIVEKIT_POOL_STORE holds is not usable: {error}.") from error


def rotation_to_json(rotation: Rotation) -> str:
    """Write ``rotation`` in its stored form."""
    return json.dumps(rotation_to_mapping(rotation))


def rotation_from_json(text: str) -> Rotation:
    """Read a rotation; `StoreCorrupt` if ``text`` is not one."""
    try:
        return rotation_from_mapping(_mapping(text))
    except ValueError as error:
        raise StoreCorrupt(f"The history in LIVEKIT_POOL_STORE is damaged: {error}.") from error


def _mapping(text: str) -> dict[str, object]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("this is not the document of a pool")
    return content
