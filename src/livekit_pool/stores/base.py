"""
The contract of a store: truth and notice in one object.

A store holds the document, the placements of live rooms, a row for each process of the pool,
the history of rotations, and the ledger. Every implementation passes
``tests/stores/test_contract.py``; where a docstring here and an implementation disagree, the
implementation is wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from ..core.document import Document, Rotation

__all__ = [
    "HEARTBEAT",
    "LIVING",
    "Changed",
    "Ledger",
    "Loaded",
    "Moved",
    "Placement",
    "ProcessRow",
    "Prompt",
    "Resync",
    "Settling",
    "Stale",
    "Store",
    "SwapOutcome",
    "Swapped",
    "check_fold",
    "check_restore",
    "check_swap",
    "check_totals",
]

HEARTBEAT = 2.0
"""Seconds between two heartbeats of a process, where writes cost next to nothing."""

LIVING = 3 * HEARTBEAT
"""
A process is living if its last heartbeat is at most that many seconds old, by the store's time.

One that has never beaten is living for as long after it last wrote itself down as a holder. A
store whose `Store.heartbeat` is longer multiplies it likewise.
"""

Ledger = Mapping[str, Mapping[str, int]]
"""
What was counted: writer -> key -> the sum that this writer has counted so far.

Writer and key are any texts. Because a sum only grows, writing it again, late, or from a copy
counts nothing twice. What the sums mean is for `livekit_pool.core.minutes` to say.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """
    What `Store.load` found.

    Attributes:
        document: the document, or None when the store has none.
        now: the store's time, seconds since the epoch.
    """

    document: Document | None
    now: float


class SwapOutcome(StrEnum):
    """How a swap ended. A lost answer is an exception, `StoreOutcomeUnknown`, not an outcome."""

    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped:
    """
    ``document`` is what the store holds now: the new one if won, another's if lost.

    It is None only if a `Store.swap` was lost because the store holds none any more: its data
    were lost.
    """

    outcome: SwapOutcome
    document: Document | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which server a live room is on, and the document revision at which it was put there."""

    room: str
    server: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """`Store.place` refused: the document is at ``revision`` now; load it and ask again."""

    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """`Store.move` refused: another process has unsettled sessions in the room until ``until``."""

    placement: Placement
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """
    What one process of the pool tells the others.

    Attributes:
        process: its identity, unique for its life.
        host: name of its machine.
        started, beat: store times of its start and its last heartbeat, which `Store.beat` sets.
        names: its servers, in its order. fingerprint: hash of its whole list, secrets excluded.
        health: server name -> {"health", "at", "outcome", "detail", ..., "signed"} as it sees them
            (JSON); ``signed`` is {"outcome", "began", "detail"} of its newest signed probe.
        sessions: server name -> number of participants connected through this process.
        coming: server name -> number of joins under way through it that have a seat there or want
            one, where the server takes a limited number.
        probing: whether it is the one that probes on its machine.
        revision: of the document that it follows; 0 before it has one.
        direct: server name -> number of participants that came past the pool, if it looks for them.
    """

    process: str
    host: str
    started: float
    names: tuple[str, ...]
    fingerprint: str
    health: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    sessions: Mapping[str, int] = field(default_factory=dict)
    coming: Mapping[str, int] = field(default_factory=dict)
    probing: bool = False
    revision: int = 0
    direct: Mapping[str, int] = field(default_factory=dict)
    beat: float = 0.0


@dataclass(frozen=True, slots=True)
class Changed:
    """The document may have changed: ``revision`` is its newest known revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A room's placement moved to another server or revision."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class Resync:
    """A gap may have hidden changes: read document and placements again."""


class Store(Protocol):
    """
    One pool's memory, shared by all its processes.

    Every method may raise `StoreUnavailable` (nothing was written) or, where it writes,
    `StoreOutcomeUnknown`; every method ends within a few seconds whatever happened to the
    store. Methods may be called concurrently from one event loop.
    """

    @property
    def url(self) -> str:
        """The store's URL without user info or password, fit to be shown."""

    @property
    def shared(self) -> bool:
        """Whether several processes can share it (False for ``memory://``)."""

    @property
    def remote(self) -> bool:
        """
        Whether it is a service of its own, which may lose its data while this process lives.

        Then a process that finds no document waits for those that may hold one.
        """

    @property
    def keeps_placements(self) -> bool:
        """
        Whether placements are shared by all processes of the pool.

        Where they are not (Firestore: a write for each join costs too much), the methods about
        placements work on this process's memory only: where a room is must be found out by
        asking the servers.
        """

    @property
    def heartbeat(self) -> float:
        """Seconds between two heartbeats of a process: `HEARTBEAT`, or more where writes cost."""

    async def __aenter__(self) -> Self:
        """Open the store, creating what it needs. `ConfigurationError` if it cannot be one."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it, as `aclose` does."""

    async def aclose(self) -> None:
        """Close the store; idempotent. Ends every `watch` of it."""

    # -- the document --

    async def load(self) -> Loaded:
        """Read the document. `StoreCorrupt` if what is there is not one."""

    async def create(self, document: Document, operation: str) -> Swapped:
        """Write the first document; ``LOST`` with what is there if there is one already."""

    async def swap(
        self, expected: int, document: Document, operation: str, rotation: Rotation | None = None
    ) -> Swapped:
        """
        Replace the document if it is at revision ``expected`` and of the same lineage.

        Atomic, also with ``rotation``, which is appended to the history exactly when won.
        ``operation`` is a fresh random name: repeating a swap whose answer was lost with the
        same ``operation`` answers ``WON`` if the first one was applied and is still the newest.

        Raises:
            ValueError: ``document.revision``, or that of ``rotation``, is not ``expected + 1``.
        """

    async def restore(
        self,
        found: Document | None,
        document: Document,
        operation: str,
        history: Sequence[Rotation] = (),
    ) -> Swapped:
        """
        Put ``document`` in the place of ``found``, whatever the lineages of the two.

        For data that the store lost, and for those that come from another store. Written only
        if what the store holds still is ``found``, by lineage and revision (None: it holds
        nothing), and in one step with those entries of ``history`` whose revisions the store's
        history lacks. ``operation`` is as in `swap`. Watchers of the document of another
        lineage are told by `Resync`.

        Raises:
            ValueError: ``document.revision`` is not greater than that of ``found``, or an entry
                of ``history`` is of a greater one.
        """

    async def history(self, limit: int = 50, before: int | None = None) -> Sequence[Rotation]:
        """Rotations, newest first; ``before`` pages to those of lower revisions."""

    def watch(self) -> AsyncIterator[Changed | Moved | Resync]:
        """
        Yield notices from now on; the first is always `Resync`.

        Notices may be merged or repeated, never lost: a gap is a `Resync`. A revision in a
        notice never decreases within one watch. Own changes are noticed too, or not: callers
        must not care. Ends when the store is closed.
        """

    # -- placements --

    async def placement(self, room: str) -> Placement | None:
        """The placement of ``room``, if it has one."""

    async def place(self, room: str, server: str, revision: int) -> Placement | Stale:
        """
        The existing placement of ``room``, or a new one on ``server``, in one atomic step.

        A new one is made only if the document is still at ``revision``; else `Stale`.
        """

    async def confirm(
        self, placement: Placement, process: str, settling_until: float
    ) -> Placement | None:
        """
        Bind a session of ``process`` to ``placement`` if that is still the room's placement.

        On success the process is recorded as a holder of the room with unsettled sessions
        until ``settling_until`` (store time; never shortened by a later confirm), and
        ``placement`` is returned. Otherwise nothing is written and the current placement
        (None if it lapsed) is returned: the join must start over.
        """

    async def settled(self, room: str, process: str) -> None:
        """``process`` has no unsettled session in ``room`` any more."""

    async def release(self, room: str, process: str) -> None:
        """``process`` has no session in ``room`` any more. The placement itself stays."""

    async def move(
        self, room: str, server: str, revision: int, process: str, *, force: bool = False
    ) -> Placement | Settling:
        """
        Move ``room`` to ``server`` at ``revision``, never to a lower or equal revision.

        Answers the placement that is there afterwards: the new one, or an existing one whose
        revision is not lower (somebody else was first). Unless ``force``, answers `Settling`
        and moves nothing while a *living* process other than ``process`` has unsettled sessions
        in the room. Creates the placement if the room has none. Who moves it forgets no holder.
        """

    async def renew(self, placements: Iterable[Placement], process: str) -> Sequence[Placement]:
        """
        ``process`` still has sessions in the room of each of ``placements``.

        Holders that were lost are written anew, and so is a placement that was: where the room
        has none, or one of a lower revision, the given one takes its place, and watchers are
        told. Not atomic as a whole; each room is.

        Returns:
            the placements that differ from the given ones: somebody moved those rooms.
        """

    async def placements(self) -> Sequence[Placement]:
        """All placements, in no order."""

    async def rooms(self) -> Mapping[str, int]:
        """Server name -> number of placed rooms that a living process holds."""

    async def lapsing(self, idle: float) -> Sequence[Placement]:
        """
        Placements that no process has held or renewed for ``idle`` seconds.

        What counts is the newest of their making, a move, a confirm, a renewal, and the moment at
        which a holder let go: a holder that has not renewed for so long holds nothing.
        """

    async def lapse(self, placement: Placement, idle: float) -> bool:
        """Delete ``placement`` if it is unchanged and still idle so long; whether it was."""

    # -- the ledger --

    async def count(self, totals: Ledger) -> None:
        """
        Merge ``totals`` into the ledger: of each writer's sums the higher one stays.

        Each writer's sums are merged in one step.

        Raises:
            ValueError: a sum is negative, or 2**53 or more.
        """

    async def ledger(self) -> Ledger:
        """All that was counted, by all writers."""

    async def fold(
        self,
        writer: str,
        key: str,
        expected: int,
        totals: Mapping[str, int],
        drop: Collection[str],
    ) -> bool:
        """
        Make what ``writer`` has counted shorter, in one step: put ``totals`` in the place of its
        sums of the same keys, and delete those of the keys in ``drop``.

        It is done only if the writer's sum of ``key`` still is ``expected`` (0 also where it has
        none). ``totals`` has another one for it: so it is done once, by one of those who try, and
        once by one who repeats it because the answer was lost. What is counted meanwhile stays,
        but for what is dropped.

        Returns:
            whether it was done by this call.

        Raises:
            ValueError: ``totals`` leave the sum of ``key`` as it is, or as `count` raises.
        """

    # -- processes --

    async def beat(self, row: ProcessRow) -> bool:
        """
        Write this process's row, with the store's time as its heartbeat.

        Returns:
            False if there was no row of this process before: it is the first, or the store lost
            them. A store that cannot tell at no cost says True.
        """

    async def leave(self, process: str) -> None:
        """Remove a process's row and its holders, as a planned stop does."""

    async def rows(self, within: float | None = None) -> Sequence[ProcessRow]:
        """Rows whose heartbeat is at most ``within`` seconds old: by default, the living ones."""


@runtime_checkable
class Prompt(Protocol):
    """
    What a `Store` may be besides: one that often answers without being waited for.

    A join asks it first, and saves the turns of the event loop that waiting takes.
    """

    def place_now(self, room: str, server: str, revision: int) -> Placement | None:
        """As `Store.place`; None if that is to be asked instead, and nothing was written."""

    def confirm_now(self, placement: Placement, process: str, settling_until: float) -> bool:
        """As `Store.confirm` where it succeeds; False if that is to be asked instead."""


def check_swap(expected: int, document: Document, rotation: Rotation | None) -> None:
    """Raise what `Store.swap` promises for revisions that do not follow ``expected``."""
    if document.revision != expected + 1:
        raise ValueError(f"revision {document.revision} does not follow {expected}")
    if rotation is not None and rotation.revision != document.revision:
        raise ValueError(f"a rotation at {rotation.revision} is not the change to {expected + 1}")


def check_restore(found: Document | None, document: Document, history: Sequence[Rotation]) -> None:
    """Raise what `Store.restore` promises for revisions that go back."""
    if found is not None and document.revision <= found.revision:
        raise ValueError(f"revision {document.revision} is not above {found.revision}")
    if any(rotation.revision > document.revision for rotation in history):
        raise ValueError(f"the history goes beyond revision {document.revision}")


def check_fold(writer: str, key: str, expected: int, totals: Mapping[str, int]) -> None:
    """Raise what `Store.fold` promises for one that could be done twice."""
    if totals.get(key, expected) == expected:
        raise ValueError(f"a fold at {key} {expected} must change it")
    check_totals({writer: totals})


def check_totals(totals: Ledger) -> None:
    """Raise what `Store.count` promises for sums that no store can keep exactly."""
    for sums in totals.values():
        for key, total in sums.items():
            if not 0 <= total < 2**53:
                raise ValueError(f"the sum of {key} is {total}: it must be 0 to 2**53 - 1")
