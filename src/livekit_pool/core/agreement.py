"""
Agreement: whether the document that a process holds or the one found in the store stands.

Revisions only grow, so a store that holds an older document than a process does, or none, has
lost data; whoever notices brings back what it holds. Of two lineages the older one stands: the
younger was begun by somebody who found nothing. That is the same answer for every process,
whatever each of them holds, so that they come to agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from .document import Document, Mark, Rotation, ServerRecord, restored

__all__ = ["Finding", "Losses", "compare"]

_MENDING_PAUSE: Final = 10.0
"""Seconds between two repairs of what somebody wrote over a document."""

_OTHERS_FIRST: Final = _MENDING_PAUSE + 2.0
"""Seconds that processes which know what stood there have to write over nonsense."""

_PRECISION: Final = 0.001
"""Seconds: stores keep moments with different precision, all of them with a better one."""


class Finding(Enum):
    """What a document found in the store is to a process that holds one."""

    SAME = auto()
    NEWER = auto()  # to be followed
    FOREIGN = auto()  # the same, over which a foreign client has written
    OVERWRITTEN = auto()  # another of the same revision: somebody edited it
    OLDER = auto()  # or none at all: the store lost data
    LOWER = auto()  # of a lineage that stands, but of a revision that would be a step back
    DAMAGED = auto()  # the same, parts of which nobody can read


def compare(found: Document | None, held: Document) -> Finding:
    """Say what ``found`` is to a process that holds ``held``."""
    if found is None:
        return Finding.OLDER
    if found.lineage != held.lineage:
        if _age(found) > _age(held):
            return Finding.OLDER
        return Finding.NEWER if found.revision > held.revision else Finding.LOWER
    if found.revision != held.revision:
        return Finding.NEWER if found.revision > held.revision else Finding.OLDER
    return _edited(found, held)


def _edited(found: Document, held: Document) -> Finding:
    if not _alike(found, held):
        if held.revision > 0:
            return Finding.OVERWRITTEN
        # It is the original system's: what its clients write there stands, and nonsense does not.
        return Finding.SAME if found.repaired else Finding.NEWER
    if found.foreign_index is not None:
        return Finding.FOREIGN  # the answer to it writes all
    return Finding.DAMAGED if found.repaired else Finding.SAME


@dataclass(frozen=True, slots=True)
class _Loss:
    """
    What is to be written in the place of what.

    Attributes:
        patiently: what was found is what somebody edited. Were this process unable to read what it
            writes, mending would go on without end, so it is not mended at once again.
        waits: seconds before it is written: others may know better what to write.
    """

    found: Document | None
    content: Document
    reason: str
    patiently: bool = False
    waits: float = 0.0


class Losses:
    """What the store holds in place of what it should hold, if this process knows better."""

    def __init__(self) -> None:
        self._loss: _Loss | None = None
        self._waits_from: float | None = None  # when what others may know better was seen first
        self._waited_for: tuple[str, int] | None = None  # the document whose time is over
        self._mend_at = -math.inf

    def found(self, found: Document | None, held: Document | None) -> Finding:
        """Take in what the store holds now; returns what it is to who holds ``held``, if any."""
        finding = Finding.NEWER if held is None else compare(found, held)
        self._loss = _loss(finding, found, held)
        waits = self._loss is not None and self._loss.waits > 0 and found is not None
        if not waits or (found and self._waited_for not in (None, found.identity)):
            self._waits_from = self._waited_for = None
        return finding

    def set_clock(self, by: float) -> None:
        """The clock was set on by so many seconds."""
        self._mend_at += by
        if self._waits_from is not None:
            self._waits_from += by

    def wait_for_others(self, now: float, *, alone: bool) -> bool:
        """
        Whether others may know better what stood in the document that is followed.

        Args:
            alone: whether this process knows that there are none.
        """
        loss = self._loss
        if loss is None or loss.waits == 0 or alone:
            return False
        return self._waits_from is None or now < self._waits_from + loss.waits

    def remedy(
        self, held: Document, *, actor: str, now: float, alone: bool = False
    ) -> tuple[Document | None, Document, Rotation] | None:
        """
        What is to be written: in the place of what, the document, and the note for the history.

        None if nothing is, or not yet; ``alone`` is that of `wait_for_others`.
        """
        loss = self._loss
        if loss is None:
            return None
        if self._waits_from is None:
            self._waits_from = now
        if self.wait_for_others(now, alone=alone):
            return None
        if loss.patiently:
            if now < self._mend_at:
                return None
            self._mend_at = now + _MENDING_PAUSE
        self._loss = None
        if loss.waits > 0 and loss.found is not None:
            self._waited_for = loss.found.identity
        document, note = restored(
            loss.content,
            above=max(held.revision, 0 if loss.found is None else loss.found.revision),
            reason=loss.reason,
            actor=actor,
            now=now,
        )
        return loss.found, document, note


def _loss(finding: Finding, found: Document | None, held: Document | None) -> _Loss | None:
    edited = "the store held an older document, or an edited one"
    damaged = "parts of the document in the store were missing or nonsense"
    match finding:
        case Finding.OLDER if held is not None and found is None:
            return _Loss(found, held, "the store had lost the document")
        case Finding.OLDER | Finding.OVERWRITTEN if held is not None and found is not None:
            patiently = found.repaired or finding is Finding.OVERWRITTEN
            waits = _OTHERS_FIRST if held.repaired and finding is Finding.OVERWRITTEN else 0.0
            return _Loss(found, held, edited, patiently=patiently, waits=waits)
        case Finding.LOWER if found is not None:
            reason = "the store held an older lineage's document at a lower revision"
            return _Loss(found, found, reason)
        # One of the original system, at revision 0, is written when all processes have one list.
        case Finding.DAMAGED if held is not None and held.revision > 0:
            waits = _OTHERS_FIRST if held.repaired else 0.0
            return _Loss(found, held, damaged, patiently=True, waits=waits)
        case Finding.FOREIGN if held is not None and not held.repaired:
            pass  # the answer to it writes what is held
        case Finding.FOREIGN | Finding.NEWER if found and found.repaired and found.revision > 0:
            waits = 0.0 if held is None else _OTHERS_FIRST
            return _Loss(found, found, damaged, patiently=True, waits=waits)
    return None


def _age(document: Document) -> tuple[float, str]:
    # To the millisecond: stores keep moments with different precision.
    return round(document.created_at, 3), document.lineage


def _alike(one: Document, other: Document) -> bool:
    """Whether all that decides anything is the same in both, moments to the millisecond."""
    facts, moments = _matter(one)
    other_facts, other_moments = _matter(other)
    return facts == other_facts and all(
        abs(moment - as_kept) < _PRECISION
        for moment, as_kept in zip(moments, other_moments, strict=True)
    )


def _matter(document: Document) -> tuple[object, list[float]]:
    """What decides anything: what is the same in every store, and the moments beside it."""
    moments: list[float] = []

    def undated(mark: Mark | None) -> Mark | None:
        if mark is None:
            return None
        moments.append(mark.since)
        return replace(mark, since=0.0)

    def without_moments(record: ServerRecord) -> ServerRecord:
        until = record.cool_down_until
        if until is not None:
            moments.append(until)
        return replace(
            record,
            cool_down_until=None if until is None else 0.0,
            drained=undated(record.drained),
        )

    facts = (
        document.active_server,
        document.active_since,
        document.own_index,
        undated(document.paused),
        [(name, without_moments(record)) for name, record in sorted(document.servers.items())],
    )
    return facts, moments
