"""
The live rooms of this process, and their moves.

Participants of one room on two servers do not see each other, so a room moves whole. The store
holds a placement for each live room; everybody goes where it says. This module keeps what this
process knows of its rooms, moves them when the active server changed, and tells their sessions
when a placement moved, no matter which process moved it. It knows sessions only as `Session`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from ..core.actions import Announce
from ..driver import Driver
from ..exceptions import NoServer, StoreError
from ..stores.base import Placement, Settling, Stale
from .placing import STALE_PAUSE, Placing

__all__ = ["Room", "Rooms", "Session"]

LONGEST_WAIT: Final = 10.0
"""Seconds after which a room moves although some of its sessions are not settled."""

RENEW: Final = 20.0
"""Seconds between two renewals of this process's rooms; placements lapse after 60."""

MENDS: Final = 5.0
"""Seconds between two looks for split rooms, while no store tells where rooms are."""

AFTER_GAP: Final = 1.0
"""
Seconds that a join of a room without a placement waits after a gap in the store's notices: the
store may have lost the placement, and whoever holds the room is about to write it anew.
"""

ON_THE_MOVE: Final = 2.0
"""Seconds after a move during which participants may still be on their way."""


class Session(Protocol):
    """A participant's connection through this process, as far as rooms know it."""

    @property
    def server(self) -> str:
        """The server it is connected to."""

    @property
    def settled(self) -> bool:
        """Whether its client can bear to be moved."""

    def move(self, placement: Placement) -> None:
        """Send the client to ``placement``; called once."""


class Room:
    """
    A room with sessions, or joins under way, in this process.

    Attributes:
        placement: the newest placement this process knows.
        joining: joins under way.
        unsettled: sessions that are not settled yet.
        settling_until: the store's time until which others wait for those, as it was told.
    """

    __slots__ = (
        "held",
        "joining",
        "mover",
        "name",
        "placement",
        "sessions",
        "settling_until",
        "unsettled",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.placement: Placement | None = None
        self.sessions: set[Session] = set()
        self.joining = 0
        self.unsettled = 0
        self.settling_until = 0.0
        self.held = False  # whether the store has this process as a holder of the room
        self.mover: asyncio.Task[None] | None = None

    def hold(self, settling_until: float) -> None:
        """The store has this process as a holder, unsettled until then at the earliest."""
        self.held = True
        self.settling_until = max(self.settling_until, settling_until)

    def settles(self, now: float) -> bool:
        """Whether the store was told that others wait for joins and sessions that are here."""
        return self.held and bool(self.unsettled or self.joining) and self.settling_until > now


class Rooms:
    """The rooms of one process of the pool."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._placing = Placing(driver)
        self._watched = False  # the first notice of a watch is no gap
        self._gap_at = -math.inf
        self._stepping = False
        self._rooms: dict[str, Room] = {}
        self._learned: dict[
            int, float
        ] = {}  # active_since -> monotonic time this process heard of it
        self._moved_at: dict[str, float] = {}  # rooms that moved lately, by monotonic time
        self._agreeing = asyncio.Lock()
        self._writes: asyncio.Queue[tuple[str, Room]] = asyncio.Queue()
        self._listeners: list[Callable[[str], None]] = []
        driver.sessions = self.sessions
        driver.rooms = self.counts
        driver.listen(self._announced)
        driver.listen_health(self._health_changed)
        driver.listen_moves(self._heard)
        driver.listen_store(self._store_changed)

    def start(self) -> None:
        """Begin to renew and to write; the driver must be running."""
        self._driver.keep(self._renew)
        self._driver.keep(self._mend)
        self._driver.keep(self._write)

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with the name of each room that moved with joins of it under way."""
        self._listeners.append(listener)

    def __len__(self) -> int:
        return len(self._rooms)

    def __iter__(self) -> Iterator[Room]:
        return iter(list(self._rooms.values()))

    def sessions(self) -> Mapping[str, int]:
        """Server name -> participants connected through this process."""
        return Counter(session.server for room in self._rooms.values() for session in room.sessions)

    def counts(self) -> Mapping[str, int]:
        """Server name -> rooms with participants connected through this process."""
        return Counter(
            room.placement.server for room in self if room.sessions and room.placement is not None
        )

    def occupied(self, server: str) -> dict[str, int]:
        """Name of each room with sessions of this process on ``server`` -> how many."""
        counts = {
            room.name: sum(session.server == server for session in room.sessions) for room in self
        }
        return {name: count for name, count in counts.items() if count}

    # -- where a room is --

    async def resolve(self, name: str, known: Placement | None = None) -> Placement:
        """
        The placement that a join of room ``name`` must go to; makes or moves it where that is due.

        Args:
            known: where the client was sent last, by a token of this pool. It counts for a process
                that has never read a document, and where the store is away, if it is newer than
                what this process read.

        Raises:
            StoreError, NoAnswer: the store does not answer, and never did.
            NoServer: the room is nowhere yet, and the active server, being drained, gets no new
                ones.
        """
        driver = self._driver
        if driver.machine.document is None and known is not None and known.server in driver.servers:
            return known
        if known is not None and not driver.store_ok:
            self._believe(known)
        while True:
            document = await driver.fresh()
            room = self._rooms.get(name)
            if room is not None and room.sessions and room.placement is not None:
                # It is followed: whoever joins confirms it at the end, with the store.
                return await self._moved_if_due(room.placement)
            await self._wait_after_gap(name)
            if not driver.takes_rooms:
                if (there := await self._placing.find(name)) is None:
                    raise NoServer(f"{driver.active_server} is drained, and no other is available.")
                return await self._moved_if_due(there)
            answer = await self._placing.place(name, driver.active_server, document.revision)
            if isinstance(answer, Stale):
                before = driver.document.revision
                await self._read_again()
                if driver.document.revision == before:
                    await asyncio.sleep(STALE_PAUSE)
                continue
            if answer.revision > driver.document.revision:
                await self._read_again()
            self._learn(answer)
            return await self._moved_if_due(answer)

    def resolved_now(self, name: str) -> Placement | None:
        """What `resolve` would answer, if nothing has to be waited for; None if something has."""
        driver, placing = self._driver, self._placing
        document = driver.machine.document
        if document is None or not placing.prompt or driver.stalled() or not driver.takes_rooms:
            return None
        room = self._rooms.get(name)
        placement = room.placement if room is not None and room.sessions else None
        if placement is None:
            if time.monotonic() < self._gap_at + AFTER_GAP:
                return None
            placement = placing.place_now(name, document.active_server, document.revision)
            if placement is None or placement.revision > document.revision:
                return None
            self._learn(placement)
        return None if self._outdated(placement) else placement

    async def _read_again(self) -> None:
        """Read the document again; where the store does not answer, the last one counts."""
        if self._driver.store_ok:
            with contextlib.suppress(StoreError):
                await self._driver.reload()

    def _believe(self, known: Placement) -> None:
        """Others, who reach the store, have moved the room since this process read of it."""
        if known.revision > self._driver.document.revision and known.server in self._driver.servers:
            self._placing.adopt(known)
            self._learn(known)

    async def _wait_after_gap(self, name: str) -> None:
        left = self._gap_at + AFTER_GAP - time.monotonic()
        if left > 0 and self._placing.shared and await self._placing.find(name) is None:
            await asyncio.sleep(left)

    async def find(self, name: str) -> Placement | None:
        """
        The placement of room ``name``, if it has one.

        Raises:
            StoreError, NoAnswer: the store does not answer, and never did.
        """
        room = self._rooms.get(name)
        if not self._placing.shared and room is not None and room.placement is not None:
            return room.placement
        return await self._placing.find(name)

    async def servers(self) -> set[str]:
        """Names of the servers on which rooms are placed; of all, where nobody can tell."""
        return await self._placing.servers()

    async def holds(self, placement: Placement) -> bool:
        """
        Whether a join under way may still go by ``placement``; moves its room where that is due.

        Raises:
            StoreError: the store does not answer.
        """
        room = self._rooms.get(placement.room)
        known = room.placement if room is not None else None
        if known is not None and known.revision > placement.revision:
            return False
        return await self._moved_if_due(placement) == placement

    async def _moved_if_due(self, placement: Placement) -> Placement:
        """Where the room of ``placement`` is, after the move that is due, if one is."""
        if not self._outdated(placement):
            return placement
        name, down = placement.room, not self._driver.joinable(placement.server)
        if not down and not self._due(name, self._rooms.get(name)):
            return placement
        moved = await self._move(name, force=down)
        return moved.placement if isinstance(moved, Settling) else moved

    def on_the_move(self, name: str) -> bool:
        """Whether ``name`` moved so lately that some of its participants may not be back yet."""
        moved = self._moved_at.get(name)
        return moved is not None and time.monotonic() - moved < ON_THE_MOVE

    def _outdated(self, placement: Placement) -> bool:
        """
        Whether ``placement`` is older than the active server, and on another one.

        While a step stands in for the active server, whether it is on a dead one.
        """
        driver = self._driver
        if driver.machine.document is None or placement.server == driver.active_server:
            return False
        if not self._placing.shared and not driver.joinable(placement.server):
            return True  # by whatever revision it came there
        if driver.step is not None:
            return not driver.joinable(placement.server)
        return placement.revision < driver.document.active_since

    def _moment(self, name: str) -> float:
        """When ``name`` should move, as monotonic time: spread over the rotation's window."""
        document = self._driver.document
        since = document.active_since
        learned = self._learned.setdefault(since, time.monotonic())
        digest = hashlib.blake2b(f"{since}:{name}".encode(), digest_size=8).digest()
        return learned + document.window * (int.from_bytes(digest, "big") / 2**64)

    def _due(self, name: str, room: Room | None) -> bool:
        now = time.monotonic()
        if now < self._moment(name):
            return False
        return room is None or not room.unsettled or now >= self._deadline()

    def _deadline(self) -> float:
        since = self._driver.document.active_since
        return self._learned.setdefault(since, time.monotonic()) + LONGEST_WAIT

    async def _move(self, name: str, *, force: bool) -> Placement | Settling:
        room = self._rooms.get(name)
        revision = self._driver.document.active_since
        if not self._placing.shared and room is not None and room.placement is not None:
            revision = max(revision, room.placement.revision)  # a step has no revision of its own
        answer = await self._placing.move(
            name,
            self._driver.active_server,
            revision,
            self._driver.process,
            force=force or time.monotonic() >= self._deadline(),
        )
        if not isinstance(answer, Settling):
            if answer.revision > self._driver.document.revision:
                await self._read_again()
            self._heard(answer)
        return answer

    # -- sessions come and go --

    @contextlib.contextmanager
    def joining(self, name: str) -> Iterator[Room]:
        """A join of ``name`` is under way: the room is kept, and its holder is not given up."""
        room = self.begin_join(name)
        try:
            yield room
        finally:
            self.end_join(room)

    def begin_join(self, name: str) -> Room:
        """As `joining`, until `end_join`."""
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name)
        room.joining += 1
        return room

    def end_join(self, room: Room) -> None:
        """The join is over, be it well or not."""
        room.joining -= 1
        self._note_settled(room)
        self._forget_if_empty(room)

    async def confirm(self, room: Room, placement: Placement, settling: float) -> bool:
        """
        Bind a session to ``placement`` if it still holds, unsettled for ``settling`` seconds or
        up to one more.

        Raises:
            StoreError: the store does not answer.
        """
        if not await self.holds(placement):
            return False
        until = self._until(settling)
        now_there = await self._placing.confirm(placement, self._driver.process, until)
        if now_there is None:
            room.placement = None  # it lapsed: the room is to be placed anew
        else:
            self._learn(now_there)
            room.hold(until)
        return now_there == placement and not (
            self._outdated(placement) and not self._driver.joinable(placement.server)
        )

    def confirm_now(self, room: Room, placement: Placement, settling: float) -> bool:
        """As `confirm` where it succeeds without waiting; False if that is to be asked instead."""
        known = room.placement
        if known is None or known.revision > placement.revision or self._outdated(placement):
            return False
        until = self._until(settling)
        if not self._placing.confirm_now(placement, self._driver.process, until):
            return False
        if known is not placement:
            self._learn(placement)
        room.hold(until)
        return True

    def _until(self, settling: float) -> float:
        # A whole second, so that joins which come together say the same, and it is written once.
        return float(math.ceil(self._driver.now() + settling))

    def add(self, room: Room, session: Session, *, unsettled: bool) -> None:
        """``session`` is open."""
        room.sessions.add(session)
        if unsettled:
            room.unsettled += 1
        self._follow(room)

    def settled(self, room: Room, session: Session) -> None:
        """``session`` became settled: it is moved now if the room moved meanwhile."""
        self._less_unsettled(room)
        placement = room.placement
        if placement is not None and placement.server != session.server:
            session.move(placement)

    def remove(self, room: Room, session: Session, *, unsettled: bool) -> None:
        """``session`` is over, or was told to move."""
        room.sessions.discard(session)
        if unsettled:
            self._less_unsettled(room)
        self._forget_if_empty(room)

    def _less_unsettled(self, room: Room) -> None:
        room.unsettled -= 1
        self._note_settled(room)

    def _note_settled(self, room: Room) -> None:
        if room.held and room.sessions and not room.unsettled and not room.joining:
            self._writes.put_nowait(("settled", room))

    def _forget_if_empty(self, room: Room) -> None:
        if room.sessions or room.joining:
            return
        if self._rooms.get(room.name) is room:
            del self._rooms[room.name]
        if room.held:
            room.held = False
            self._writes.put_nowait(("release", room))

    async def _write(self) -> None:
        """Tell the store, in order, what became of this process's rooms."""
        while True:
            what, room = await self._writes.get()
            with contextlib.suppress(StoreError):
                if what == "settled":
                    # A join under way may be confirmed already: it writes this when it is over.
                    if not room.unsettled and not room.joining:
                        await self._placing.settled(room.name, self._driver.process)
                elif (again := self._rooms.get(room.name)) is not None:
                    again.held = True
                else:
                    await self._placing.release(room.name, self._driver.process)
                    # Who joined it meanwhile may have been confirmed before that.
                    if (again := self._rooms.get(room.name)) is not None and again.held:
                        await self._confirm_again(again)

    async def _confirm_again(self, room: Room) -> None:
        """Tell the store once more what it was told of ``room``, if it still is where it was."""
        if room.placement is not None:
            until = room.settling_until
            await self._placing.confirm(room.placement, self._driver.process, until)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW)
            # No notice is ever lost, they say; a split room would last.
            await self._agree()
            long_ago = time.monotonic() - 60
            self._moved_at = {k: at for k, at in self._moved_at.items() if at > long_ago}
            if (document := self._driver.machine.document) is not None:
                since = document.active_since
                self._learned = {k: at for k, at in self._learned.items() if k >= since}

    async def _mend(self) -> None:
        """While the store tells nothing: find rooms that others moved, and follow them."""
        while True:
            # By chance, lest two who are both cut off follow each other at once.
            await asyncio.sleep(MENDS * random.uniform(0.5, 1.5))
            lately = time.monotonic() - 2 * MENDS
            held = [p for p in self._held() if self._moved_at.get(p.room, -math.inf) < lately]
            for stray in await self._placing.strays(held):
                self._learn(stray, whatever=True)

    # -- moves --

    def _announced(self, announce: Announce) -> None:
        document = announce.document
        if self._stepping and announce.step is None:
            self._driver.spawn(self._tell_anew())
        self._stepping = announce.step is not None
        if document.active_since not in self._learned:
            self._learned[document.active_since] = time.monotonic()
        for room in self:
            self._follow(room)

    def _health_changed(self, server: str) -> None:
        # Also rooms that are elsewhere by now: some of their sessions may still be on it.
        for room in self:
            self._follow(room)

    def _heard(self, placement: Placement | None) -> None:
        """A placement moved, says the store; None: any may have."""
        if placement is None:
            if self._watched:
                self._gap_at = time.monotonic()
            self._watched = True
            self._driver.spawn(self._tell_anew())
            return
        self._moved_at[placement.room] = time.monotonic()
        self._learn(placement)

    def _store_changed(self, ok: bool) -> None:
        if ok:
            self._gap_at = time.monotonic()
            self._driver.spawn(self._tell_anew())
            return
        for room in self:
            if room.placement is not None:
                self._placing.remember(room.placement)

    async def _agree(self) -> None:
        """Tell the store where this process's rooms are, and hear of those that are elsewhere."""
        # One after the other: what one of them hears must be known to the next.
        async with self._agreeing:
            rooms = [room for room in self if room.sessions]
            try:
                elsewhere = await self._placing.agree(
                    self._held(), self._driver.process, joined=self._rooms.keys()
                )
            except StoreError as error:
                self._driver.store_failed(error)  # it is told again as soon as it is back
                return
            for placement in elsewhere:
                self._learn(placement, whatever=True)
            for room in rooms:
                self._release_if_gone(room)

    async def _tell_anew(self) -> None:
        """Agree with a store that may have forgotten who holds a room, and who settles in it."""
        await self._agree()
        for room in self:
            if room.settles(self._driver.now()):
                await self._confirm_again(room)
                # Meanwhile they may be settled, or gone.
                self._note_settled(room)
                self._release_if_gone(room)

    def _release_if_gone(self, room: Room) -> None:
        """What the store was just told of ``room`` may have come after the release."""
        if self._rooms.get(room.name) is not room:
            self._writes.put_nowait(("release", room))

    def _held(self) -> list[Placement]:
        """The placements of the rooms with sessions, as this process knows them."""
        return [room.placement for room in self if room.sessions and room.placement]

    def _learn(self, placement: Placement, *, whatever: bool = False) -> None:
        """
        Take in a placement, whoever told of it; tell the sessions that are elsewhere.

        One of a lower revision than the room's is old news, unless it counts ``whatever`` this
        process believes: the store's, after a time without it.
        """
        room = self._rooms.get(placement.room)
        if room is None:
            return
        former = room.placement
        if whatever or former is None or placement.revision >= former.revision:
            room.placement = placement
            self._tell(room)
            self._follow(room)
            if room.joining and former is not None and former.server != placement.server:
                for listener in self._listeners:
                    listener(room.name)

    def _tell(self, room: Room) -> None:
        placement = room.placement
        if placement is None:
            return
        for session in list(room.sessions):
            if session.server == placement.server:
                continue
            if session.settled or not self._driver.joinable(session.server):
                session.move(placement)

    def _follow(self, room: Room) -> None:
        """See to it that ``room`` moves if it should; one mover for each room."""
        if room.placement is None or not room.sessions:
            return
        self._tell(room)
        if self._outdated(room.placement) and (room.mover is None or room.mover.done()):
            room.mover = self._driver.spawn(self._move_when_due(room))

    async def _move_when_due(self, room: Room) -> None:
        driver = self._driver
        while (
            room.sessions
            and (placement := room.placement) is not None
            and self._outdated(placement)
        ):
            down = not driver.joinable(placement.server)
            wait = self._moment(room.name) - time.monotonic()
            if not down and wait > 0:
                await asyncio.sleep(min(wait, 0.2))
                continue
            if not down and room.unsettled and time.monotonic() < self._deadline():
                await asyncio.sleep(0.05)
                continue
            try:
                answer = await self._move(room.name, force=down)
            except StoreError:
                await asyncio.sleep(0.5)
                continue
            if isinstance(answer, Settling):
                await asyncio.sleep(min(0.1, max(0.01, answer.until - driver.now())))
