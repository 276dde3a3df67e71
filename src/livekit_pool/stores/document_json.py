"""Documents and rotations as JSON text, for stores that keep text."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..core.document import Cause, Document, Mark, Rotation, ServerRecord
from ..exceptions import StoreCorrupt

__all__ = ["document_from_json", "document_to_json", "rotation_from_json", "rotation_to_json"]


def document_to_json(document: Document) -> str:
    return json.dumps(asdict(document))


def document_from_json(text: str) -> Document:
    """Read a document; `StoreCorrupt` if ``text`` is not one."""
    try:
        content = json.loads(text)
        servers = {name: _record(record) for name, record in content["servers"].items()}
        paused = content["paused"]
        return Document(
            **{
                **content,
                "servers": servers,
                "paused": Mark(**paused) if paused else None,
                "cause": Cause(content["cause"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreCorrupt("What LIVEKIT_POOL_STORE holds is not a pool's document.") from error


def rotation_to_json(rotation: Rotation) -> str:
    return json.dumps(asdict(rotation))


def rotation_from_json(text: str) -> Rotation:
    """Read a rotation; `StoreCorrupt` if ``text`` is not one."""
    try:
        content = json.loads(text)
        return Rotation(**{**content, "cause": Cause(content["cause"])})
    except (ValueError, TypeError, KeyError) as error:
        raise StoreCorrupt("What LIVEKIT_POOL_STORE holds is not a pool's history.") from error


def _record(content: dict[str, Any]) -> ServerRecord:
    cause, drained = content["cool_down_cause"], content["drained"]
    return ServerRecord(
        **{
            **content,
            "cool_down_cause": Cause(cause) if cause else None,
            "drained": Mark(**drained) if drained else None,
        }
    )
