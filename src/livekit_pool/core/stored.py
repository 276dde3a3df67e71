"""
The stored form of the document and of the history's entries, and their public form.

The first three keys of the document, with ``createdAt``, ``lastError`` and ``lastErrorTime``,
are those of the system this pool grew out of; their names and types stay as they were, so that
its clients can follow a document of this pool, and this pool a change that one of them writes.
Moments are seconds since the Unix epoch as float: a store with a type of its own converts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from .document import SCHEMA, Cause, Document, Mark, Rotation, ServerRecord
from .fields import LARGEST, Fields

__all__ = [
    "from_mapping",
    "rfc3339",
    "rotation_from_mapping",
    "rotation_to_json",
    "rotation_to_mapping",
    "to_mapping",
]


def to_mapping(document: Document) -> dict[str, object]:
    """
    Turn a document into its stored form: plain values under camelCase keys.

    ``indexWritten`` repeats ``activeServerIndex``: clients of the original system write only the
    latter, so a difference tells that one of them did, and not a process with another list.
    """
    return {
        "activeServerIndex": document.active_server_index,
        "serverCount": document.server_count,
        "lastRotation": document.last_rotation,
        "createdAt": document.created_at,
        "lastError": document.last_error,
        "lastErrorTime": document.last_error_time,
        "schema": document.schema,
        "lineage": document.lineage,
        "revision": document.revision,
        "activeServer": document.active_server,
        "activeSince": document.active_since,
        "indexWritten": document.own_index,
        "cause": document.cause.value,
        "reason": document.reason,
        "actor": document.actor,
        "window": document.window,
        "servers": {name: _record_to(record) for name, record in document.servers.items()},
        "paused": _mark_to(document.paused),
    }


def _record_to(record: ServerRecord) -> dict[str, object]:
    return {
        "coolDownUntil": record.cool_down_until,
        "coolDownCause": record.cool_down_cause.value if record.cool_down_cause else None,
        "spentMinutes": record.spent_minutes,
        "failures": record.failures,
        "drained": _mark_to(record.drained),
        **({"refusesJoins": True} if record.refuses_joins else {}),
    }


def _mark_to(mark: Mark | None) -> dict[str, object] | None:
    return None if mark is None else {"by": mark.by, "since": mark.since, "reason": mark.reason}


def from_mapping(
    mapping: Mapping[str, object], names: Sequence[str]
) -> tuple[Document, tuple[str, ...]]:
    """
    Read a document from its stored form, and repair what is missing or nonsense in it.

    No repair moves the active server as long as anything in ``mapping`` still names it, and none
    undoes a drain or a pause. A document of the original system, which has no ``schema``, is read
    as revision 0, with a lineage that every reader derives alike.

    Args:
        names: this process's servers, in order: what an index means where no name is stored. May
            be empty where one is.

    Returns:
        the document, and one sentence for each repair.

    Raises:
        ValueError: it is of another schema version, or holds nothing that a pool writes.
    """
    named = isinstance(mapping.get("activeServer"), str) and mapping["activeServer"]
    if not named and not (names and {"activeServerIndex", "indexWritten"} & mapping.keys()):
        raise ValueError("this is not the document of a pool: it names no active server")
    if (schema := mapping.get("schema", SCHEMA)) != SCHEMA and isinstance(schema, int | float):
        raise ValueError(f"the document is of schema {schema}, this version reads {SCHEMA}")
    fields = Fields(mapping)
    original = not {"schema", "lineage", "revision", "activeServer"} & mapping.keys()
    document = _read_original(fields, names) if original else _read(fields, names)
    repairs = tuple(fields.repairs)
    return replace(document, repaired=True) if repairs else document, repairs


def _read_original(fields: Fields, names: Sequence[str]) -> Document:
    count = fields.whole("serverCount", len(names) or 1, least=1)
    index = fields.position("activeServerIndex", min(count, len(names)))
    if index is None:
        index = fields.repaired("activeServerIndex", 0)  # as the original repairs it
    created = fields.number("createdAt", 0.0)
    return Document(
        lineage=_lineage_of(created),
        revision=0,
        active_server=names[index],
        active_since=0,
        active_server_index=index,
        server_count=count,
        created_at=created,
        last_rotation=fields.optional_number("lastRotation") or created,
        cause=Cause.CREATED,
        reason="document of the original system",
        actor="",
        last_error=fields.optional_text("lastError"),
        last_error_time=fields.optional_number("lastErrorTime"),
    )


def _read(fields: Fields, names: Sequence[str]) -> Document:
    if fields.mapping.get("schema") != SCHEMA:
        fields.repaired("schema", SCHEMA)
    count = fields.whole("serverCount", len(names) or 1, least=1)
    active, index, written = _read_active(fields, names, count)
    created = fields.number("createdAt", 0.0)
    lineage = fields.text("lineage", "") or fields.repaired("lineage", _lineage_of(created))
    since = fields.position("activeSince", LARGEST)
    # Where the revision is lost, what is known to have been one: it must not fall below it.
    revision = fields.whole("revision", since or 0)
    if since is None or since > revision:
        # Every fault seen before is late then: no rotation by accident.
        since = fields.repaired("activeSince", revision)
    return Document(
        lineage=lineage,
        revision=revision,
        active_server=active,
        active_since=since,
        active_server_index=index,
        server_count=count,
        created_at=created,
        last_rotation=fields.number("lastRotation", created),
        cause=fields.name("cause", Cause, Cause.CREATED),
        reason=fields.text("reason", ""),
        actor=fields.text("actor", ""),
        last_error=fields.optional_text("lastError"),
        last_error_time=fields.optional_number("lastErrorTime"),
        window=fields.number("window", 0.0),
        paused=_read_mark(fields, "paused"),
        servers=_read_records(fields),
        index_written=None if written == index else written,
    )


def _read_active(fields: Fields, names: Sequence[str], count: int) -> tuple[str, int, int]:
    """The active server's name, the index that is stored, and the index that this pool wrote."""
    index = fields.position("activeServerIndex", count)
    written = fields.position("indexWritten", count)
    stored = fields.mapping.get("activeServer")
    name = stored if isinstance(stored, str) else ""
    known = next((value for value in (written, index) if value is not None), None)
    if known is None:
        known = list(names).index(name) if name in names else 0
    if not name:
        name = fields.repaired("activeServer", names[known] if known < len(names) else names[0])
    if index is None:
        index = fields.repaired("activeServerIndex", known)
    if written is None:
        # Without it a foreign write cannot be told: the name says which server is active.
        written = fields.repaired("indexWritten", index)
    return name, index, written


def _read_records(fields: Fields) -> dict[str, ServerRecord]:
    stored = fields.inner("servers")
    if stored is None:
        return fields.repaired("servers", {})
    records = {}
    for name in stored.mapping:
        record = stored.inner(name)
        if record is None:
            stored.repaired(name, {})
            continue
        records[name] = ServerRecord(
            cool_down_until=record.optional_number("coolDownUntil"),
            cool_down_cause=record.optional_name("coolDownCause", Cause),
            spent_minutes=record.optional_number("spentMinutes"),
            refuses_joins=record.flag("refusesJoins"),
            failures=record.whole("failures", 0),
            drained=_read_mark(record, "drained"),
        )
    return records


def _read_mark(fields: Fields, key: str) -> Mark | None:
    stored = fields.mapping.get(key)
    if stored is None:
        return None
    if stored in (False, ""):  # 0 as well: whoever wrote that says that it is not set
        return fields.repaired(key, None)
    mark = fields.inner(key)
    if mark is None:  # somebody set it, whatever it says: it stays set
        return fields.repaired(key, Mark(by="unknown", since=0.0, reason="unknown"))
    return Mark(
        by=mark.text("by", "unknown"),
        since=mark.number("since", 0.0),
        reason=mark.text("reason", ""),
    )


def _lineage_of(created: float) -> str:
    return f"created-{created:.0f}"


def rotation_to_mapping(rotation: Rotation) -> dict[str, object]:
    """Turn an entry of the history into its stored form."""
    return {
        "revision": rotation.revision,
        "from": rotation.from_,
        "to": rotation.to,
        "cause": rotation.cause.value,
        "reason": rotation.reason,
        "actor": rotation.actor,
        "at": rotation.at,
        "reports": rotation.reports,
        "window": rotation.window,
    }


def rotation_from_mapping(mapping: Mapping[str, object]) -> Rotation:
    """
    Read an entry of the history; what is missing or nonsense in it is left empty.

    Raises:
        ValueError: it does not say between which servers it was.
    """
    fields = Fields(mapping)
    from_, to = fields.text("from", ""), fields.text("to", "")
    if not from_ or not to:
        raise ValueError("this is not a rotation: it names no servers")
    return Rotation(
        revision=fields.whole("revision", 0),
        from_=from_,
        to=to,
        cause=fields.name("cause", Cause, Cause.MANUAL),
        reason=fields.text("reason", ""),
        actor=fields.text("actor", ""),
        at=fields.number("at", 0.0),
        reports=fields.whole("reports", 1, least=1),
        window=fields.number("window", 0.0),
    )


# --- the public form -----------------------------------------------------------------------


def rotation_to_json(rotation: Rotation) -> dict[str, object]:
    """Turn a rotation into the form in which every public answer carries it."""
    return {
        "revision": rotation.revision,
        "from": rotation.from_,
        "to": rotation.to,
        "cause": rotation.cause.value,
        "reason": rotation.reason,
        "actor": rotation.actor,
        "at": rfc3339(rotation.at),
    }


def rfc3339(seconds: float) -> str:
    """Write a moment as RFC 3339 section 5.6 has it, in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
