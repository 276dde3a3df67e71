"""Documents and rotations as JSON text, for stores that keep text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from math import isfinite

from ..core.document import Document, Rotation
from ..core.fields import LARGEST
from ..core.stored import (
    from_mapping,
    rotation_from_mapping,
    rotation_to_mapping,
    to_mapping,
)
from ..exceptions import StoreCorrupt

__all__ = ["document_from_json", "document_to_json", "rotation_from_json", "rotation_to_json"]


def document_to_json(document: Document) -> str:
    """
    Write ``document`` in its stored form: what `json.dumps` makes of `to_mapping`.

    It is written out here because a swap's speed is promised, and `json.dumps` would be the dearest
    part of it: this takes a third of that time. A test holds the two against each other.
    """
    text, number = encode_basestring_ascii, _number
    servers = paused = ""
    if document.servers or document.paused:
        mapping = to_mapping(document)
        servers, paused = json.dumps(mapping["servers"]), json.dumps(mapping["paused"])
    return (
        f'{{"activeServerIndex": {document.active_server_index}, '
        f'"serverCount": {document.server_count}, '
        f'"lastRotation": {number(document.last_rotation)}, '
        f'"createdAt": {number(document.created_at)}, '
        f'"lastError": {"null" if document.last_error is None else text(document.last_error)}, '
        f'"lastErrorTime": {number(document.last_error_time)}, '
        f'"schema": {document.schema}, '
        f'"lineage": {text(document.lineage)}, '
        f'"revision": {document.revision}, '
        f'"activeServer": {text(document.active_server)}, '
        f'"activeSince": {document.active_since}, '
        f'"indexWritten": {document.own_index}, '
        f'"cause": {text(document.cause)}, '
        f'"reason": {text(document.reason)}, '
        f'"actor": {text(document.actor)}, '
        f'"window": {number(document.window)}, '
        f'"servers": {servers or "{}"}, '
        f'"paused": {paused or "null"}}}'
    )


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
        usable = {k: v for k, v in (beside or {}).items() if _is_usable(k, v)}
        unusable = [key for key in beside or {} if key not in usable]
        differing = {k: v for k, v in usable.items() if mapping.get(k) != v}
        document, repairs = from_mapping({**mapping, **differing}, names)
        if differing or unusable:
            document = replace(document, repaired=True)
        kept = (f"{key} was edited: {value!r} is taken" for key, value in differing.items())
        lost = (f"{key} beside it is missing or nonsense" for key in unusable)
        return document, (*repairs, *kept, *lost)
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


def _is_usable(key: str, value: object) -> bool:
    """Whether the revision or the name of the lineage that a store keeps beside the text is one."""
    if key == "revision":
        return isinstance(value, int) and 0 <= value <= LARGEST
    return isinstance(value, str) and value != ""


# Most moments in a document are those of the document before.
@lru_cache(maxsize=64, typed=True)
def _number(value: float | None) -> str:
    return json.dumps(value) if value is None or not isfinite(value) else repr(value)


def _mapping(text: str) -> dict[str, object]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("this is not the document of a pool")
    return content
