"""Values to build tests from: a pool of three, and what one process may know of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from livekit_pool.core.actions import Action, Announce, Note, Probe, Restore, Step, Swap
from livekit_pool.core.document import Cause, Document, Mark, ServerRecord, new_document, rotated
from livekit_pool.core.events import (
    Event,
    Loaded,
    Probed,
    ProbeOutcome,
    RowsSeen,
    StoreSeen,
    SwapAnswered,
)
from livekit_pool.core.health import HealthBook, Settings
from livekit_pool.core.machine import PoolMachine
from livekit_pool.core.pending import PendingFaults
from livekit_pool.core.situation import Situation

NAMES = ("red", "green", "blue")
START = 1000.0
AWAY, BACK = StoreSeen(ok=False), StoreSeen(ok=True)
MARK = Mark(by="ann", since=START, reason="")
PASSED, REFUSED, SILENT, FAILED, UNAUTHORIZED = (
    ProbeOutcome.PASSED,
    ProbeOutcome.REFUSED,
    ProbeOutcome.SILENT,
    ProbeOutcome.FAILED,
    ProbeOutcome.UNAUTHORIZED,
)


def document(names: tuple[str, ...] = NAMES) -> Document:
    return new_document(lineage="L", names=names, actor="p0", now=START)


def book(outcomes: Mapping[str, ProbeOutcome], names: tuple[str, ...] = NAMES) -> HealthBook:
    """A book in which each server was probed once, just before `START`."""
    health = HealthBook(names, Settings())
    for server, outcome in outcomes.items():
        health.probed(Probed(server=server, outcome=outcome), START - 1.0)
    return health


def situation(
    shared: Document,
    health: HealthBook,
    *,
    names: tuple[str, ...] = NAMES,
    lists: tuple[tuple[str, ...], ...] | None = None,
    faults: PendingFaults | None = None,
    participants: int = 0,
    foreign_from: float | None = None,
    now: float = START,
) -> Situation:
    return Situation(
        names=names,
        actor="pool p",
        settings=Settings(),
        document=shared,
        health=health,
        faults=faults or PendingFaults(Settings()),
        lists=(names,) if lists is None else lists,
        participants=participants,
        active_from=-math.inf,
        foreign_from=foreign_from,
        now=now,
    )


def moved(shared: Document, to: str) -> Document:
    """``shared`` after somebody rotated by hand."""
    after, _ = rotated(
        shared, to=to, names=NAMES, cause=Cause.MANUAL, reason="moved", actor="ben", now=START
    )
    return after


def drained(shared: Document, server: str) -> Document:
    """``shared`` after somebody drained ``server``."""
    record = ServerRecord(drained=MARK)
    return replace(shared, revision=shared.revision + 1, servers={server: record})


class Pool:
    """One machine with a clock to turn by hand; every server of it has passed a probe."""

    def __init__(
        self,
        names: tuple[str, ...] = NAMES,
        shared: Document | None = None,
        outcomes: Mapping[str, ProbeOutcome] | None = None,
        lists: tuple[tuple[str, ...], ...] = (),
    ) -> None:
        """``lists`` are those of other processes."""
        self.now = START
        self.machine = PoolMachine(names, Settings(), "p")
        self.feed(Loaded(document=shared or document(names)), RowsSeen(lists=(names, *lists)))
        for server, outcome in (
            dict.fromkeys(names, PASSED) if outcomes is None else outcomes
        ).items():
            self.feed(Probed(server=server, outcome=outcome))

    @property
    def document(self) -> Document:
        assert self.machine.document is not None
        return self.machine.document

    def feed(self, *events: Event) -> list[Action]:
        """What the machine does about the last of ``events``, a hundredth of a second each."""
        actions: list[Action] = []
        for event in events:
            self.now += 0.01
            actions = self.machine.receive(event, self.now)
        return actions

    def probed(self, server: str, outcome: ProbeOutcome, times: int = 1) -> list[Action]:
        return self.feed(*[Probed(server=server, outcome=outcome)] * times)

    def won(self, swap: Swap | Restore) -> list[Action]:
        """The store applied ``swap``."""
        return self.feed(SwapAnswered(operation=swap.operation, won=True, document=swap.document))

    def lost(self, swap: Swap | Restore, shared: Document | None) -> list[Action]:
        """The store held another document, or none: ``shared``."""
        return self.feed(SwapAnswered(operation=swap.operation, won=False, document=shared))


def swap_of(actions: Iterable[Action]) -> Swap:
    """The one swap among ``actions``."""
    (swap,) = [action for action in actions if isinstance(action, Swap)]
    return swap


def swaps_of(actions: Iterable[Action]) -> list[Swap]:
    return [action for action in actions if isinstance(action, Swap)]


def restore_of(actions: Iterable[Action]) -> Restore:
    """The one restoration among ``actions``."""
    (restore,) = [action for action in actions if isinstance(action, Restore)]
    return restore


def notes_of(actions: Iterable[Action]) -> list[str]:
    return [action.event for action in actions if isinstance(action, Note)]


def step_of(actions: list[Action]) -> Step | None:
    """The step that the last announcement among ``actions`` tells of."""
    *_, announce = [action for action in actions if isinstance(action, Announce)]
    return announce.step


def probes_of(actions: list[Action]) -> list[str]:
    return [action.server for action in actions if isinstance(action, Probe)]


def away(shared: Document | None = None) -> Pool:
    """A pool whose servers are all up, and whose store is away."""
    pool = Pool(shared=shared)
    pool.feed(AWAY)
    return pool


def stepped(shared: Document | None = None) -> Pool:
    """A pool that stepped from red to green."""
    pool = away(shared)
    pool.probed("red", REFUSED)
    assert pool.machine.active_server == "green"
    return pool


def back(
    pool: Pool,
    shared: Document | None = None,
    elsewhere: tuple[dict[str, bool], ...] = (),
    health: dict[str, bool] | None = None,
) -> list[Action]:
    """The store is back: everything is read again before it is said so."""
    return pool.feed(
        Loaded(document=shared or pool.document),
        RowsSeen(lists=(NAMES,), elsewhere=elsewhere, health=health or {}),
        BACK,
    )
