"""
Moving: a pool's state out of one store and into another.

`read_state` reads all that a pool remembers, `look` says what the store is like into which it is
to go, `Import` is what would be done there, and does it.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..core.document import Cause, Document, Rotation, restored, rotated
from ..core.stored import rfc3339
from ..exceptions import StoreError
from .base import Ledger, Placement, ProcessRow, Store, SwapOutcome
from .state_json import State

__all__ = ["Import", "Summary", "Target", "look", "read_state", "summary"]

_PAGE: Final = 500
"""Rotations asked for at once."""

_CHUNK: Final = 1000
"""Placements written at once, and told of to who waits."""

_ATTEMPTS: Final = 5

_IMPORTER: Final = "state import"
"""
Name by which the import holds rooms for a moment.

Always the same, so that what an interrupted import left is let go of by the next one.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    What a store holds that a state is to be written into.

    Attributes:
        url: its URL without user info.
        now: the store's time.
        document, history, placements, ledger: what it holds, in the same order as a `State`.
        living: rows of the processes that use it just now.
        keeps_placements: whether placements can be written there.
    """

    url: str
    now: float
    document: Document | None = None
    history: tuple[Rotation, ...] = ()
    placements: tuple[Placement, ...] = ()
    ledger: Ledger
    living: tuple[ProcessRow, ...] = ()
    keeps_placements: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """
    A state in figures; revision and active server are None where there is no document.

    Attributes:
        sums: of the ledger, one for each writer and key.
    """

    revision: int | None
    active: str | None
    rotations: int
    placements: int
    sums: int


def summary(of: State | Target) -> Summary:
    """Count what a state has."""
    return Summary(
        revision=of.document.revision if of.document else None,
        active=of.document.active_server if of.document else None,
        rotations=len(of.history),
        placements=len(of.placements),
        sums=len(_sums(of.ledger)),
    )


async def read_state(store: Store) -> State:
    """
    Read all that the pool of ``store`` remembers. Writes nothing.

    The document is read again at the end, and everything once more if it has changed meanwhile,
    so that no half of a rotation is in what is read.

    Raises:
        StoreError: the store holds no document, it changed each of five times, or as the methods
            of `Store` raise.
    """
    for _ in range(_ATTEMPTS):
        loaded = await store.load()
        if loaded.document is None:
            raise StoreError(
                f"The store {store.url} holds no document: there is nothing to export."
            )
        placements = await store.placements() if store.keeps_placements else ()
        state = State(
            store=store.url,
            exported_at=loaded.now,
            document=loaded.document,
            history=await _history(store),
            placements=tuple(sorted(placements, key=lambda each: each.room)),
            ledger=await store.ledger(),
        )
        if (await store.load()).document == loaded.document:
            return state
    raise StoreError(
        f"The document in {store.url} changed while it was read, {_ATTEMPTS} times in a row: "
        "stop the pool, or try again when it is quiet."
    )


async def look(store: Store) -> Target:
    """Read what ``store`` holds, and who uses it. Writes nothing; raises as `Store` does."""
    loaded = await store.load()
    placements = await store.placements() if store.keeps_placements else ()
    return Target(
        url=store.url,
        now=loaded.now,
        document=loaded.document,
        history=await _history(store),
        placements=tuple(placements),
        ledger=await store.ledger(),
        living=tuple(await store.rows()),
        keeps_placements=store.keeps_placements,
    )


async def _history(store: Store) -> tuple[Rotation, ...]:
    """All of it, oldest first."""
    found: list[Rotation] = []
    while page := await store.history(_PAGE, found[-1].revision if found else None):
        found += page
    return tuple(reversed(found))


class Import:
    """
    The writing of a state into a store.

    Everything is known before anything is written: `refusal` and `warnings` say what is against
    it, `document` and `note` what will be there. `run` may be repeated, also after it was
    interrupted anywhere: it goes on where that one ended, and counts nothing twice.

    Args:
        state: what is to be written.
        target: what `look` found in the store.
        names: the servers of this configuration, in order.
        actor: who asked for it, for the history.
        replace_: whether a document that is there may be replaced.

    Attributes:
        document: what the store will hold; what it holds already if ``resumed``.
        note: the entry for the history that goes with it.
        resumed: whether the document of this very file is there already, and unchanged.
    """

    def __init__(
        self,
        state: State,
        target: Target,
        *,
        names: Sequence[str],
        actor: str,
        replace_: bool = False,
    ) -> None:
        self._state = state
        self._target = target
        self._names = names
        self._replace = replace_
        # Names the file, so that the import of this very file is known again.
        self._reason = (
            f"imported: revision {state.document.revision} of {state.store[:200]}, "
            f"exported {rfc3339(state.exported_at)}"
        )
        there = target.document
        last = target.history[-1] if target.history else None
        self.resumed = (
            there is not None
            and last is not None
            and (there.lineage, there.revision) == (state.document.lineage, last.revision)
            and (last.cause, last.reason) == (Cause.RESTORED, self._reason)
        )
        if self.resumed:
            assert there is not None
            assert last is not None
            self.document, self.note = there, last
        else:
            self.document, self.note = self._made(actor)

    @property
    def after(self) -> Summary:
        """What the store will hold."""
        state, target = self._state, self._target
        noted = {self.note.revision}
        revisions = {each.revision for side in (state, target) for each in side.history}
        return Summary(
            revision=self.document.revision,
            active=self.document.active_server,
            rotations=len(revisions | noted),
            placements=len(state.placements if target.keeps_placements else target.placements),
            sums=len(_sums(state.ledger) | _sums(target.ledger)),
        )

    @property
    def refusal(self) -> str | None:
        """Why `run` would refuse, as a sentence; None if it would not."""
        target = self._target
        if target.living:
            hosts = ", ".join(sorted({row.host for row in target.living}))
            count = len(target.living)
            who = "1 process uses" if count == 1 else f"{count} processes use"
            return (
                f"{who} the store {target.url} (on {hosts}): stop the pool first. One that was "
                "killed counts as living for some seconds, in Firestore for 15 minutes."
            )
        if target.document is not None and not self._replace and not self.resumed:
            return (
                f"The store {target.url} holds a document already, at revision "
                f"{target.document.revision}: give --replace to put this one in its place."
            )
        return None

    @property
    def warnings(self) -> list[str]:
        """What is to be known before, a sentence each."""
        found = []
        active = self._state.document.active_server
        if active not in self._names:
            found.append(
                f"The active server, {active}, is not in this configuration's list of servers: "
                "the pool will rotate to another one when it starts."
            )
        others = sorted(self._state.document.servers.keys() - {active} - set(self._names))
        if others:
            found.append(
                "The file has what was set for servers that are not in this configuration's list: "
                f"{', '.join(others)}."
            )
        there = {rotation.revision: rotation for rotation in self._target.history}
        hidden = [each for each in self._state.history if there.get(each.revision, each) != each]
        if hidden:
            found.append(
                f"{len(hidden)} of the file's rotations are left out: the history in "
                f"{self._target.url} has others of the same revisions, and keeps them."
            )
        if not self._target.keeps_placements and self._state.placements:
            found.append(
                f"The store {self._target.url} keeps no placements: those of the file are not "
                "written. The pool asks the servers which rooms they have."
            )
            return found
        strangers = Counter(
            each.server for each in self._state.placements if each.server not in self._names
        )
        found += [
            f"Rooms placed on {server}, which is not in this configuration's list: {count}."
            for server, count in sorted(strangers.items())
        ]
        return found

    async def run(self, store: Store, progress: Callable[[int, int], None]) -> None:
        """
        Write it.

        Args:
            store: the one that ``target`` was read from.
            progress: called with how many placements are written, and of how many.

        Raises:
            StoreError: for `refusal`, because the store changed since ``target`` was read, or as
                the methods of `Store` raise; repeat the import then.
        """
        if (sentence := self.refusal) is not None:
            raise StoreError(sentence)
        if not self.resumed:
            # First: who starts a pool before the rest is there must find this document, and not
            # begin one of its own.
            await self._restore(store)
        await store.count(self._state.ledger)
        if store.keeps_placements:
            await self._place(store, progress)

    async def _restore(self, store: Store) -> None:
        swapped = await store.restore(
            self._target.document,
            self.document,
            secrets.token_hex(8),
            [*self._state.history, self.note],
        )
        if swapped.outcome is not SwapOutcome.WON:
            raise StoreError(
                f"The document in {self._target.url} was changed meanwhile: nothing was written. "
                "See that no process of the pool uses that store, and import again."
            )

    async def _place(self, store: Store, progress: Callable[[int, int], None]) -> None:
        wanted = {each.room: each for each in self._state.placements}
        for there in await store.placements():
            # Of the document that was replaced: where its revision is higher, or its room is not
            # in the file, it would stay.
            if wanted.get(there.room) != there:
                await store.lapse(there, 0.0)
        left: list[Placement] = []
        try:
            for start in range(0, len(self._state.placements), _CHUNK):
                chunk = self._state.placements[start : start + _CHUNK]
                left += await store.renew(chunk, _IMPORTER)
                progress(start + len(chunk), len(self._state.placements))
        finally:
            await store.leave(_IMPORTER)
        if left:
            raise StoreError(
                f"Somebody placed rooms in {self._target.url} meanwhile ({len(left)} differ): see "
                "that no process of the pool uses that store, and import again."
            )

    def _made(self, actor: str) -> tuple[Document, Rotation]:
        document, there, now = self._state.document, self._target.document, self._target.now
        above = max(_revisions(self._state, self._target), default=0)
        if there is None or there.active_server == document.active_server:
            return restored(document, above=above, reason=self._reason, actor=actor, now=now)
        # For everybody who was sent to the other one this is a rotation: what they saw there,
        # and where they were placed, is late.
        before = replace(document, revision=above, active_server=there.active_server)
        return rotated(
            before,
            to=document.active_server,
            names=self._names,
            cause=Cause.RESTORED,
            reason=self._reason,
            actor=actor,
            now=now,
        )


def _sums(ledger: Ledger) -> set[tuple[str, str]]:
    return {(writer, key) for writer, sums in ledger.items() for key in sums}


def _revisions(state: State, target: Target) -> Iterable[int]:
    """All revisions that anything was done at; the new one must be above them."""
    for document in (state.document, target.document):
        if document is not None:
            yield document.revision
    for side in (state, target):
        yield from (rotation.revision for rotation in side.history)
        yield from (placement.revision for placement in side.placements)
