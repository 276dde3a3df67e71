"""
The shared document, its values, and the transitions between its revisions.

Every change of the document is made by a function of this module, so that the whole life of a
pool can be read here; `stored` has the form in which stores keep it. Times are seconds since
the Unix epoch as float (the store's time).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

__all__ = [
    "LONGEST_COOL_DOWN",
    "SCHEMA",
    "Cause",
    "Document",
    "Mark",
    "Rotation",
    "ServerRecord",
    "adopted",
    "drain_reason",
    "drained",
    "listed",
    "new_document",
    "paused",
    "restored",
    "resumed",
    "rotated",
    "trusted",
    "undrained",
    "written_back",
]

SCHEMA = 1

LONGEST_COOL_DOWN = 86_400.0
"""Seconds of the longest cool-down, but for a quota's, which ends with its reset."""


class Cause(StrEnum):
    """Why the active server changed, or why the document did (``created``, ``restored``)."""

    QUOTA = "quota"
    RATE_LIMIT = "rate_limit"
    CONNECTION_LIMIT = "connection_limit"
    PARTICIPANT_LIMIT = "participant_limit"
    TIMEOUT = "timeout"
    DOWN = "down"
    CREDENTIALS = "credentials"
    MANUAL = "manual"
    REMOVED = "removed"
    FOREIGN = "foreign"
    RESTORED = "restored"
    CREATED = "created"


# --- values --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a person set (drain, pause): nothing automatic undoes it."""

    by: str
    since: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """
    What all processes share about one server.

    Attributes:
        cool_down_until: not chosen before that moment; in the past when it has ended, None when
            there never was one.
        cool_down_cause: the cause of that cool-down.
        spent_minutes: the minutes that could be used of it, where that cool-down is for the ledger
            having counted as many; None where it has another reason.
        refuses_joins: whether it was left because it refuses our key on joins, though perhaps not
            on calls: until a join of our own passes, it is misconfigured.
        failures: cool-downs in a row, which double the next one.
        drained: set by an operator, or None.
    """

    cool_down_until: float | None = None
    cool_down_cause: Cause | None = None
    spent_minutes: float | None = None
    refuses_joins: bool = False
    failures: int = 0
    drained: Mark | None = None

    def cooling(self, now: float) -> bool:
        """
        Whether the server is in cool-down.

        One that ends long after any that is begun now is not believed: it was written by a clock
        that has been set back since. The reset of a quota may be any date.
        """
        until = self.cool_down_until
        if until is None or now >= until:
            return False
        return self.cool_down_cause is Cause.QUOTA or until - now <= 2 * LONGEST_COOL_DOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """
    A change of the active server.

    One with ``from_`` equal to ``to`` is a note in the history: a foreign rotation that was not
    followed, a document that was brought back. ``reports`` counts the faults that this one
    rotation answered. ``window`` is the time in seconds over which the processes spread the
    moves of their rooms.
    """

    revision: int
    from_: str
    to: str
    cause: Cause
    reason: str
    actor: str
    at: float
    reports: int = 1
    window: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """
    The shared record of the pool at one revision.

    Attributes:
        lineage: random name given when the document was created; two documents of different
            lineage have unrelated revisions.
        revision: its version; every change adds one.
        active_server: name of the active server.
        active_since: the revision at which it became active; a fault seen at a lower revision
            is late.
        active_server_index: position of the active server in the list of the process that wrote
            the document; written for the original system's clients, never read as identity.
        server_count: length of that list.
        last_rotation, cause, reason, actor: of the last change of the active server.
        window: pacing window in seconds of the last rotation.
        servers: records by server name; a missing name is ``ServerRecord()``.
        index_written: the index that this pool wrote last, where a foreign client has written
            another one over it since; None otherwise.
        repaired: whether something was missing or nonsense in the stored form that it was read
            from; two documents that differ in this alone are equal.
    """

    lineage: str
    revision: int
    active_server: str
    active_since: int
    active_server_index: int
    server_count: int
    created_at: float
    last_rotation: float
    cause: Cause
    reason: str
    actor: str
    last_error: str | None = None
    last_error_time: float | None = None
    window: float = 0.0
    paused: Mark | None = None
    servers: Mapping[str, ServerRecord] = field(default_factory=dict)
    schema: int = SCHEMA
    index_written: int | None = None
    repaired: bool = field(default=False, compare=False)

    @property
    def identity(self) -> tuple[str, int]:
        """Which document it is, for a store that compares and swaps: lineage and revision."""
        return self.lineage, self.revision

    @property
    def own_index(self) -> int:
        """The position that this pool wrote last."""
        return self.active_server_index if self.index_written is None else self.index_written

    @property
    def foreign_index(self) -> int | None:
        """The position a foreign client rotated to and that nobody has answered, or None."""
        return None if self.own_index == self.active_server_index else self.active_server_index

    def record(self, server: str) -> ServerRecord:
        """What is shared about ``server``."""
        return self.servers.get(server, ServerRecord())

    @property
    def marks(self) -> Mapping[str, Mark]:
        """What people set: the drains by server name, and the pause under ``""``."""
        drains = {
            name: record.drained
            for name, record in self.servers.items()
            if record.drained is not None
        }
        return drains if self.paused is None else {"": self.paused, **drains}

    def rotation(self, from_: str) -> Rotation:
        """The last change of the active server, told from here; its ``reports`` are not known."""
        return Rotation(
            revision=self.active_since,
            from_=from_,
            to=self.active_server,
            cause=self.cause,
            reason=self.reason,
            actor=self.actor,
            at=self.last_rotation,
            window=self.window,
        )


# --- transitions ---------------------------------------------------------------------------


def new_document(
    *,
    lineage: str,
    names: Sequence[str],
    actor: str,
    now: float,
    active: str | None = None,
    reason: str = "pool created",
    revision: int = 1,
) -> Document:
    """
    Make the first document of a pool.

    Args:
        lineage: a fresh random name.
        names: the servers, in order; at least one.
        actor: the process that makes it.
        active: the active server; the first one by default.
        revision: above those of a history that is there already.
    """
    first = names[0] if active is None else active
    return Document(
        lineage=lineage,
        revision=revision,
        active_server=first,
        active_since=revision,
        active_server_index=list(names).index(first),
        server_count=len(names),
        created_at=now,
        last_rotation=now,
        cause=Cause.CREATED,
        reason=reason,
        actor=actor,
    )


def rotated(
    document: Document,
    *,
    to: str,
    names: Sequence[str],
    cause: Cause,
    reason: str,
    actor: str,
    now: float,
    reports: int = 1,
    window: float = 0.0,
    left: ServerRecord | None = None,
) -> tuple[Document, Rotation]:
    """
    Make ``to`` the active server.

    Args:
        names: this process's list, for the position of ``to``.
        left: the new record of the server that is left; None leaves it as it is.

    Returns:
        the document one revision on, and the entry for the history. A cool-down of ``to`` ends
        now. ``lastError`` is set where a server failed.
    """
    rotation = Rotation(
        revision=document.revision + 1,
        from_=document.active_server,
        to=to,
        cause=cause,
        reason=reason,
        actor=actor,
        at=now,
        reports=reports,
        window=window,
    )
    servers = dict(document.servers)
    if left is not None:
        servers[document.active_server] = left
    if document.record(to).cooling(now):
        servers[to] = replace(document.record(to), cool_down_until=now)
    failed = cause not in (Cause.MANUAL, Cause.REMOVED, Cause.FOREIGN)
    changed = replace(
        document,
        revision=rotation.revision,
        active_server=to,
        active_since=rotation.revision,
        last_rotation=now,
        cause=cause,
        reason=reason,
        actor=actor,
        last_error=reason if failed else document.last_error,
        last_error_time=now if failed else document.last_error_time,
        window=window,
        servers=servers,
        repaired=False,
    )
    return _positioned(changed, names), rotation


def written_back(
    document: Document, *, names: Sequence[str], reason: str, actor: str, now: float
) -> tuple[Document, Rotation]:
    """
    Keep the active server although a foreign client rotated.

    Returns:
        the document one revision on, with the active server's index again, and the note for the
        history. Nothing else changes: no fault becomes late by it.
    """
    active = document.active_server
    note = Rotation(
        revision=document.revision + 1,
        from_=active,
        to=active,
        cause=Cause.FOREIGN,
        reason=reason,
        actor=actor,
        at=now,
    )
    changed = replace(
        document,
        revision=note.revision,
        active_server_index=document.own_index,
        index_written=None,
        repaired=False,
    )
    return _positioned(changed, names), note


def restored(
    document: Document, *, above: int, reason: str, actor: str, now: float
) -> tuple[Document, Rotation]:
    """
    Bring back ``document``, which the store lost, at a revision above its own and ``above``.

    Returns:
        the document, and the note for the history. The active server stays, and no fault
        becomes late by it.
    """
    note = Rotation(
        revision=max(document.revision, above) + 1,
        from_=document.active_server,
        to=document.active_server,
        cause=Cause.RESTORED,
        reason=reason,
        actor=actor,
        at=now,
    )
    return replace(document, revision=note.revision, repaired=False), note


def listed(document: Document, names: Sequence[str]) -> Document | None:
    """
    Write the positions anew after the list changed; the active server stays.

    Returns:
        the document one revision on, or None when its positions are those of ``names`` already.
    """
    changed = _positioned(document, names)
    if changed == document:
        return None
    return _next(changed)


def adopted(document: Document, names: Sequence[str]) -> Document:
    """
    Make a document of the original system, at revision 0, one of the pool; one revision on.

    The active server stays, since this revision: rooms that were placed before one of the
    original's clients rotated are not where they should be. From here on such a rotation can be
    told from what somebody edited, by the index that the pool wrote last.
    """
    changed = _next(_positioned(document, names))
    return replace(changed, active_since=changed.revision)


def drained(document: Document, *, server: str, mark: Mark) -> Document:
    """
    Take ``server`` out; the document one revision on.

    The active server stays, also if it is ``server``: whoever drains that one rotates instead,
    with the mark in the record of the server that is left. No fault becomes late by it.
    """
    return _recorded(document, server, replace(document.record(server), drained=mark))


def drain_reason(reason: str) -> str:
    """The reason of the rotation that leaves a server because it was drained."""
    return f"drained: {reason}"


def undrained(document: Document, *, server: str) -> Document:
    """Let ``server`` be chosen again; the document one revision on."""
    return _recorded(document, server, replace(document.record(server), drained=None))


def trusted(document: Document, *, server: str) -> Document:
    """Take joins of ``server`` for well again; the document one revision on."""
    return _recorded(document, server, replace(document.record(server), refuses_joins=False))


def paused(document: Document, *, mark: Mark) -> Document:
    """Stop automatic rotation; the document one revision on."""
    return replace(_next(document), paused=mark)


def resumed(document: Document) -> Document:
    """Let the pool rotate by itself again; the document one revision on."""
    return replace(_next(document), paused=None)


def _recorded(document: Document, server: str, record: ServerRecord) -> Document:
    servers = {**document.servers, server: record}
    return replace(_next(document), servers=servers)


def _next(document: Document) -> Document:
    return replace(document, revision=document.revision + 1, repaired=False)


def _positioned(document: Document, names: Sequence[str]) -> Document:
    if document.active_server not in names:
        return document  # its position is known to those who still have it
    return replace(
        document,
        active_server_index=list(names).index(document.active_server),
        server_count=len(names),
        index_written=None,
    )
