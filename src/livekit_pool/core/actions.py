"""
What to do: the values that the machine hands to the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from .document import Document, Mark, Rotation

__all__ = [
    "Action",
    "Announce",
    "Answered",
    "Note",
    "NoteEvent",
    "Probe",
    "Refused",
    "Restore",
    "Step",
    "Swap",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """
    Replace the document at revision ``expected`` by ``document``; record ``rotation`` with it.

    Answer with `SwapAnswered` or `SwapFailed`; until then the machine asks for no other.
    """

    operation: str
    expected: int
    document: Document
    rotation: Rotation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """
    Put ``document`` in the place of ``found``, with ``note`` in the history.

    For a store that lost data. Answered as `Swap` is.
    """

    operation: str
    found: Document | None
    document: Document
    note: Rotation


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """
    Probe ``server`` at once, unless a probe of it is under way.

    ``signed`` asks for one that tries our key, after the other one.
    """

    server: str
    signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """
    `RotateAsked` or `MarkAsked` ``request`` is done.

    Attributes:
        revision: of the document in which it is done.
        rotation: the rotation that was made for it, or None.
        changed: whether anything had to change.
        mark: the drain or pause that the request is about, as it is set now.
    """

    request: str
    revision: int
    rotation: Rotation | None
    changed: bool
    mark: Mark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """
    `RotateAsked` or `MarkAsked` ``request`` is not done.

    ``code`` is that of an error in `livekit_pool.exceptions`; ``revision`` is the document's
    current one, 0 while there is no document.
    """

    request: str
    code: str
    message: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    A provisional change of the active server, of this process alone; see `stepping`.

    Attributes:
        server: where everybody is sent.
        since: when, in seconds since the epoch.
        lineage, active_since: of the document whose active server was left.
    """

    server: str
    since: float
    lineage: str
    active_since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """
    The document this process follows is now ``document``.

    ``rotation`` is there if its active server is another than before. It is None also when the
    server was left and came back unseen: then only ``document.active_since`` has moved. With a
    ``step``, everybody is sent to another server than the document's active one.
    """

    document: Document
    rotation: Rotation | None
    step: Step | None = None


class NoteEvent(StrEnum):
    """The constant names of notes."""

    SERVER_MISCONFIGURED = "LiveKit server refuses our key"
    ALL_SILENT = "All LiveKit servers silent"
    NO_SERVER = "No LiveKit server available"
    FAULT_WHILE_PAUSED = "Fault while paused"
    FOREIGN_WRITTEN_BACK = "Foreign rotation undone"
    LISTS_DIFFER = "Processes have different lists of servers"
    SPENT = "Minutes run out and no other LiveKit server is available"
    FULL = "LiveKit server full and no other has room for all"
    UNWITNESSED = "LiveKit server silent for this machine alone"
    STEPPED = "Provisional step: the store is away and the active server down"
    STEP_UNDONE = "Provisional step undone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something an operator should read in the log: ``event`` is a `NoteEvent`, told once."""

    event: str
    fields: Mapping[str, object]


Action = Swap | Restore | Probe | Answered | Refused | Announce | Note
