"""
Neighbours: what the other processes of the pool have and see, by their rows in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..core.events import ProbeOutcome, RowsSeen, SignedSight
from ..stores.base import HEARTBEAT, LIVING, ProcessRow, Store

__all__ = ["Neighbours", "seen_in", "signed_sight"]

LATE: Final = 1.5
"""Heartbeats since our last one after which those of others may be late for the same reason."""


class Neighbours:
    """
    The living processes' rows, as they were read last.

    A store that was away, that lost its rows, or whose clock was set, shows at first only those
    that have told it anew that they live. Who believed it would be alone for a moment: leave a
    server that others have, have nobody to ask what they see, count nobody's participants. So
    those that were there before go on counting for as long as a row lives; a process that died in
    that time counts as long.

    Attributes:
        rows: those rows, this process's own among them once it has one.
    """

    def __init__(
        self, store: Store, process: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is read yet; ``process`` is this process's identity."""
        self.rows: Sequence[ProcessRow] = ()
        self._store = store
        self._process = process
        self._monotonic = monotonic
        self._told_at: float | None = None
        self._begun = self._ended = 0  # heartbeats of ours, by their number
        self._own_beat: float | None = None  # as the store showed it last
        self._apart: float | None = None  # the store's clock from ours, by that
        self._shown: Sequence[ProcessRow] = ()  # by the store, at the last reading
        self._kept: dict[str, tuple[ProcessRow, float]] = {}  # and seconds left then, by process

    def begin(self) -> int:
        """This process's row is about to be written; returns which heartbeat that is."""
        self._begun += 1
        return self._begun

    def told(self, heartbeat: int, *, known: bool) -> bool:
        """
        The row of that ``heartbeat`` was written.

        Args:
            known: whether the store had it before.

        Returns:
            whether the store had forgotten it.
        """
        forgotten = self._told_at is not None and not known
        if self._is_late or forgotten:
            self._keep()
        if heartbeat > self._ended:
            gone = self._gone
            self._kept = {
                process: (row, left - gone)
                for process, (row, left) in self._kept.items()
                if left > gone
            }
            self._told_at, self._ended = self._monotonic(), heartbeat
        return forgotten

    def read(self, found: Sequence[ProcessRow]) -> Sequence[ProcessRow]:
        """Take in what the store showed; returns `rows`."""
        own = next((row for row in found if row.process == self._process), None)
        lost = self._told_at is not None and own is None
        if self._was_set(own) or lost or self._is_late:
            self._keep()
        self._shown, self.rows = found, self.living(found)
        for row in found:
            self._kept.pop(row.process, None)
        return self.rows

    def living(self, found: Sequence[ProcessRow]) -> Sequence[ProcessRow]:
        """``found`` in the store, with those that it may not have again yet."""
        there, gone = {row.process for row in found}, self._gone
        missing = [row for row, left in self._kept.values() if left > gone]
        return [*found, *(row for row in missing if row.process not in there)]

    def now(self, otherwise: float) -> float:
        """
        The store's time in which `rows` have their heartbeats, which may have been set back.

        ``otherwise`` is what it is where the store has shown no heartbeat of ours yet.
        """
        return otherwise if self._apart is None else self._monotonic() + self._apart

    def _was_set(self, own: ProcessRow | None) -> bool:
        """
        Whether the store's clock was set since the last reading, as its ``own`` row has it.

        By so much that it may hide who lives; for less, all are shown as ever.
        """
        if own is None or self._told_at is None or own.beat == self._own_beat:
            return False
        if self._begun > self._ended:
            return False  # it may be one whose answer is under way, or was lost
        before, self._apart, self._own_beat = self._apart, own.beat - self._told_at, own.beat
        return before is not None and abs(self._apart - before) > LATE * self._heartbeat

    @property
    def _heartbeat(self) -> float:
        return max(self._store.heartbeat, HEARTBEAT)

    @property
    def _is_late(self) -> bool:
        late = LATE * self._heartbeat
        return self._told_at is not None and self._monotonic() > self._told_at + late

    @property
    def _gone(self) -> float:
        """
        Seconds gone of what is left to those that are kept, since this process told of itself.

        A heartbeat at most: for the rest nobody could tell anything.
        """
        if self._told_at is None:
            return 0.0
        return min(self._monotonic() - self._told_at, self._heartbeat)

    def _keep(self) -> None:
        # Those only that the store showed: who is kept is not kept longer by being kept again.
        left = self._heartbeat * LIVING / HEARTBEAT + self._gone
        self._kept.update({row.process: (row, left) for row in self._shown})


def seen_in(rows: Sequence[ProcessRow], own: ProcessRow, now: float) -> RowsSeen:
    """
    What the living processes' ``rows`` say to the process of the row ``own``.

    Its own row counts as it is now, and whether or not the store has it yet. What a row says of
    health counts for `LIVING` seconds about ``now``, also in a store where rows live longer: its
    process may be gone with the very server that it saw up.
    """
    others = [row for row in rows if row.process != own.process]
    everybody = [*others, own]
    here: dict[str, bool] = {}
    signed: dict[str, SignedSight] = {}
    elsewhere: dict[str, dict[str, bool]] = {}
    for row in others:
        seen = elsewhere.setdefault(row.host, {}) if row.host != own.host else here
        # Who probes goes by that: between two of its probes others must not undo what it saw.
        told = row.probing and (row.host != own.host or not own.probing)
        if told and abs(now - row.beat) <= LIVING:
            seen.update(_sight(row))
        if row.host == own.host:
            for name, sight in _signed(row).items():
                if name not in signed or signed[name].began < sight.began:
                    signed[name] = sight
    return RowsSeen(
        lists=tuple(row.names for row in everybody),
        health=here,
        signed=signed,
        elsewhere=tuple(elsewhere[host] for host in sorted(elsewhere)),
        participants=sum(sum(row.sessions.values()) for row in everybody),
        agreed=len({row.fingerprint for row in everybody}) == 1,
    )


def _sight(row: ProcessRow) -> Mapping[str, bool]:
    return {
        name: seen.get("health") == "up"
        for name, seen in row.health.items()
        if seen.get("health") in ("up", "down")
    }


def signed_sight(seen: SignedSight) -> Mapping[str, object]:
    """What a row has under ``signed`` of a server, for `seen_in` of the others."""
    told: dict[str, object] = {"outcome": seen.outcome.value, "began": seen.began}
    return {**told, "detail": seen.detail, **({"joined": True} if seen.joined else {})}


def _signed(row: ProcessRow) -> Mapping[str, SignedSight]:
    """The newest signed probes that a row tells of; what it says otherwise tells of none."""
    found = {}
    for name, seen in row.health.items():
        match seen.get("signed"):
            case {"outcome": str(outcome), "began": int() | float() as began, **more}:
                if outcome in set(ProbeOutcome):
                    found[name] = SignedSight(
                        outcome=ProbeOutcome(outcome),
                        began=began,
                        detail=str(more.get("detail", "")),
                        joined=more.get("joined") is True,
                    )
    return found
