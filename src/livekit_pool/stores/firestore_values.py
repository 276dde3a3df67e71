"""
Firestore's values, and the pool's records as documents of Firestore.

The original system's moments are timestamps, as its clients write and read them. A timestamp has
microseconds, and the pool compares its own moments exactly: so each is beside it in seconds,
which count as long as they say the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from google.cloud.firestore_v1.types import ArrayValue, MapValue, Value

from ..core.document import Document, Rotation
from ..core.stored import (
    from_mapping,
    rotation_from_mapping,
    rotation_to_mapping,
    to_mapping,
)
from ..exceptions import StoreCorrupt
from .base import ProcessRow
from .firestore_url import escaped, unescaped

__all__ = [
    "document_fields",
    "plain",
    "read_document",
    "read_rotation",
    "read_row",
    "read_sums",
    "rotation_fields",
    "row_fields",
    "seconds",
    "sums_fields",
    "timestamp",
    "value",
]

_MOMENTS: Final = ("lastRotation", "createdAt", "lastErrorTime")
_SECONDS: Final = "seconds"
# What the original's clients miss where there has been no error yet.
_ABSENT_IF_NONE: Final = ("lastError", "lastErrorTime")
_MICROSECOND: Final = 1e-6
_KINDS: Final[Mapping[type, str]] = {
    bool: "boolean_value",
    int: "integer_value",
    float: "double_value",
    str: "string_value",
    datetime: "timestamp_value",
}


def value(content: object) -> Value:
    """``content``, made of what JSON is made of and of moments, as a value of Firestore."""
    if content is None:
        return Value(null_value=0)
    if kind := _KINDS.get(type(content)):
        return Value({kind: content})
    if isinstance(content, Mapping):
        return Value(map_value=MapValue(fields=_fields(content)))
    if isinstance(content, Sequence):
        return Value(array_value=ArrayValue(values=[value(item) for item in content]))
    raise TypeError(f"no value for a {type(content).__name__}")


def _fields(content: Mapping[str, object]) -> dict[str, Value]:
    return {escaped(key): value(item) for key, item in content.items()}


def plain(fields: Mapping[str, Any]) -> dict[str, object]:
    """
    Read the fields of a raw protocol buffer: what JSON is made of.

    Moments come as seconds since the epoch; what a pool never writes (bytes, references, places)
    comes as a list, which no field of a pool is.
    """
    return {unescaped(key): _plain(item) for key, item in fields.items()}


def _plain(raw: Any) -> object:
    match kind := raw.WhichOneof("value_type"):
        case "boolean_value" | "integer_value" | "double_value" | "string_value":
            content: object = getattr(raw, kind)
            return content
        case "timestamp_value":
            return seconds(raw.timestamp_value)
        case "map_value":
            return plain(raw.map_value.fields)
        case "array_value":
            return [_plain(item) for item in raw.array_value.values]
        case "null_value" | None:
            return None
    return [kind]


def seconds(raw: Any) -> float:
    """Seconds since the epoch of a raw ``google.protobuf.Timestamp``."""
    return float(raw.seconds + raw.nanos / 1e9)


def timestamp(moment: float) -> datetime:
    """A moment as Firestore keeps it: to the microsecond."""
    return datetime.fromtimestamp(moment, tz=UTC)


# --- the document ----------------------------------------------------------------------------


def document_fields(document: Document, operation: str) -> tuple[dict[str, Value], list[str]]:
    """
    Put ``document`` into its stored form; ``operation`` tells who wrote it.

    Returns:
        the fields, and the names of all that a pool may write: those without a value are absent.
    """
    content = to_mapping(document) | {"operation": operation}
    exact = {key: content[key] for key in _MOMENTS if content[key] is not None}
    for key, moment in exact.items():
        assert isinstance(moment, float | int)
        content[key] = timestamp(moment)
    content[_SECONDS] = exact
    names = list(content)
    for key in _ABSENT_IF_NONE:
        if content[key] is None:
            del content[key]
    return _fields(content), names


def read_document(
    fields: Mapping[str, Any], names: Sequence[str]
) -> tuple[Document, str, tuple[str, ...]]:
    """
    Read a document, the operation that wrote it, and a sentence for each repair.

    Raises:
        StoreCorrupt: it is of another schema version, or beyond repair.
    """
    content = plain(fields)
    exact = content.pop(_SECONDS, None)
    for key in _MOMENTS:
        moment, written = content.get(key), exact.get(key) if isinstance(exact, dict) else None
        # Another difference than the timestamp's rounding: somebody else wrote the timestamp.
        if (
            isinstance(moment, float)
            and isinstance(written, float)
            and abs(moment - written) <= 2 * _MICROSECOND
        ):
            content[key] = written
    operation = content.pop("operation", None)
    try:
        document, repairs = from_mapping(content, names)
    except ValueError as error:
        raise StoreCorrupt(
            f"The document that LIVEKIT_POOL_STORE names is not usable: {error}."
        ) from error
    return document, operation if isinstance(operation, str) else "", repairs


# --- what is below it ------------------------------------------------------------------------


def rotation_fields(rotation: Rotation) -> dict[str, Value]:
    """An entry of the history."""
    return _fields(rotation_to_mapping(rotation))


def read_rotation(fields: Mapping[str, Any]) -> Rotation:
    """Read an entry of the history; `StoreCorrupt` if it is none."""
    try:
        return rotation_from_mapping(plain(fields))
    except ValueError as error:
        raise StoreCorrupt(f"The history in LIVEKIT_POOL_STORE is damaged: {error}.") from error


def row_fields(row: ProcessRow) -> dict[str, Value]:
    """A process's row, without its heartbeat."""
    return _fields(
        {
            "process": row.process,
            "host": row.host,
            "started": row.started,
            "names": list(row.names),
            "fingerprint": row.fingerprint,
            # As text: nobody searches in them, and what is in them is free.
            "health": json.dumps({name: dict(seen) for name, seen in row.health.items()}),
            "sessions": json.dumps(dict(row.sessions)),
            "coming": json.dumps(dict(row.coming)),
            "probing": row.probing,
            "revision": row.revision,
            "direct": json.dumps(dict(row.direct)),
        }
    )


def read_row(fields: Mapping[str, Any]) -> ProcessRow | None:
    """Read a process's row; None if it is none, by somebody's hand."""
    content: dict[str, Any] = plain(fields)
    try:
        return ProcessRow(
            process=content["process"],
            host=content["host"],
            started=float(content["started"]),
            names=tuple(content["names"]),
            fingerprint=content["fingerprint"],
            health=json.loads(content["health"]),
            sessions=json.loads(content["sessions"]),
            coming=json.loads(content.get("coming", "{}")),
            probing=content["probing"],
            revision=content.get("revision", 0),  # a row of an older version has none
            direct=json.loads(content.get("direct", "{}")),
            beat=float(content["beat"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def sums_fields(sums: Mapping[str, int]) -> dict[str, Value]:
    """One writer's sums in the ledger."""
    return {"sums": value(sums)}


def read_sums(fields: Mapping[str, Any]) -> dict[str, int]:
    """Read one writer's sums; what is no sum is left out."""
    sums = plain(fields).get("sums")
    if not isinstance(sums, dict):
        return {}
    return {key: int(total) for key, total in sums.items() if isinstance(total, int | float)}
