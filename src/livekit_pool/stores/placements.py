"""
Placements in one process's memory: of `memory`, and of stores for which a write costs too much.

Nothing here waits, so that each call is one atomic step on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .base import Placement, Settling

__all__ = ["Placements"]


@dataclass(slots=True)
class _Room:
    """A placed room; ``touched`` is when a process last had something to do with it."""

    placement: Placement
    touched: float


@dataclass(slots=True)
class _Holder:
    """One process in one room; ``settling_until`` is 0.0 when all its sessions are settled."""

    renewed: float
    settling_until: float = 0.0


class Placements:
    """
    The rooms of a pool, and who holds them; each method is as that of `Store`.

    Args:
        living: seconds since its last heartbeat for which a process is living.
        moved: called with each placement that moved.

    ``now`` is the store's time.
    """

    def __init__(self, living: float, moved: Callable[[Placement], None]) -> None:
        self._living_for = living
        self._moved = moved
        self._rooms: dict[str, _Room] = {}
        # room -> process -> holder
        self._holders: dict[str, dict[str, _Holder]] = {}
        # process -> its last heartbeat
        self._beats: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def get(self, room: str) -> Placement | None:
        """The placement of ``room``, if it has one."""
        found = self._rooms.get(room)
        return found.placement if found else None

    def all(self) -> list[Placement]:
        """All of them."""
        return [room.placement for room in self._rooms.values()]

    def put(self, placement: Placement, now: float) -> Placement:
        """Place a room, whatever was there; nobody is told."""
        self._rooms[placement.room] = _Room(placement, touched=now)
        return placement

    def confirm(
        self, placement: Placement, process: str, settling_until: float, now: float
    ) -> Placement | None:
        """Make ``process`` a holder of the room, if ``placement`` still is where it is."""
        current = self.get(placement.room)
        if current is None or current != placement:
            return current
        self._hold(placement.room, process, now, settling_until)
        return placement

    def settled(self, room: str, process: str) -> None:
        """``process`` has no unsettled session in ``room`` any more."""
        if holder := self._holders.get(room, {}).get(process):
            holder.settling_until = 0.0

    def release(self, room: str, process: str, now: float) -> None:
        """``process`` has no session in ``room`` any more."""
        holders = self._holders.get(room, {})
        if holders.pop(process, None) is None:
            return
        if not holders:
            del self._holders[room]
        if placed := self._rooms.get(room):
            placed.touched = now

    def move(
        self, wanted: Placement, process: str, force: bool, now: float
    ) -> Placement | Settling:
        """Put ``wanted`` in the place of a lower one."""
        existing = self.get(wanted.room)
        if existing is not None:
            if existing.revision >= wanted.revision:
                return existing
            until = self._unsettled_until(wanted.room, process, now)
            if until is not None and not force:
                return Settling(placement=existing, until=until)
        self._moved(self.put(wanted, now))
        return wanted

    def renew(
        self, placements: Iterable[Placement], process: str, now: float
    ) -> Sequence[Placement]:
        """``process`` holds them; those that were lost are written anew."""
        others = []
        for placement in placements:
            there = self.get(placement.room)
            if there is None or there.revision < placement.revision:
                self._moved(self.put(placement, now))
            elif there != placement:
                others.append(there)
            self._hold(placement.room, process, now, 0.0)
        return others

    def held(self, now: float) -> Mapping[str, int]:
        """Server name -> number of rooms that a living process holds."""
        counts: dict[str, int] = {}
        for name, room in self._rooms.items():
            holders = self._holders.get(name, {})
            if any(self._living(process, holder, now) for process, holder in holders.items()):
                server = room.placement.server
                counts[server] = counts.get(server, 0) + 1
        return counts

    def lapsing(self, idle: float, now: float) -> Sequence[Placement]:
        """Those with which nobody had to do for ``idle`` seconds."""
        return [room.placement for room in self._rooms.values() if now - room.touched >= idle]

    def lapse(self, placement: Placement, idle: float, now: float) -> bool:
        """Delete ``placement`` if it is unchanged and idle; whether it was."""
        room = self._rooms.get(placement.room)
        if room is None or room.placement != placement or now - room.touched < idle:
            return False
        del self._rooms[placement.room]
        self._holders.pop(placement.room, None)
        return True

    def beat(self, process: str, now: float) -> None:
        """``process`` is living."""
        self._beats[process] = now

    def leave(self, process: str, now: float) -> None:
        """``process`` is gone, and holds nothing."""
        self._beats.pop(process, None)
        for room in list(self._holders):
            self.release(room, process, now)

    def _hold(self, room: str, process: str, now: float, settling_until: float) -> None:
        holder = self._holders.setdefault(room, {}).setdefault(process, _Holder(now))
        holder.renewed = now
        holder.settling_until = max(holder.settling_until, settling_until)
        if placed := self._rooms.get(room):
            placed.touched = now

    def _living(self, process: str, holder: _Holder, now: float) -> bool:
        # A process that has not beaten yet is given the time of a heartbeat to do so.
        return abs(now - self._beats.get(process, holder.renewed)) <= self._living_for

    def _unsettled_until(self, room: str, process: str, now: float) -> float | None:
        return max(
            (
                holder.settling_until
                for other, holder in self._holders.get(room, {}).items()
                if other != process
                and holder.settling_until > now
                and self._living(other, holder, now)
            ),
            default=None,
        )
