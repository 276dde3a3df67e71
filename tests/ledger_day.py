"""
A day of a pool's participants, as a script drawn by chance: what truly happened, and who saw it.

The servers, the clients and the network are played; what counts is the real `Metering` of each
process, on a real store, by a clock that the script turns. Everything goes wrong that may: webhooks
are lost, repeated and late, servers and processes die, the store is away, rooms rotate.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from livekit_pool.core import minutes
from livekit_pool.core.budget import Usage
from livekit_pool.core.events import UsageSeen
from livekit_pool.core.health import Health
from livekit_pool.core.limits import Limits
from livekit_pool.driver import Driver
from livekit_pool.exceptions import NoAnswer, StoreError, StoreOutcomeUnknown, StoreUnavailable
from livekit_pool.metering import Metering
from livekit_pool.resets import MONTHLY
from livekit_pool.servers import Server
from livekit_pool.stores.base import HEARTBEAT, Ledger, ProcessRow, Store
from livekit_pool.upstream.occupancy import Occupancy, Present
from livekit_pool.upstream.probe import Prober

DAY = 86_400.0
MIDNIGHT = 1_796_083_200.0
"""The first of December 2026, UTC: in the middle of the day that is played the minutes reset."""

BEGIN, END = MIDNIGHT - DAY / 2, MIDNIGHT + DAY / 2
NAMES = ("red", "green", "blue")
LINGERS = 21.5
"""Seconds for which a server keeps a participant whose connection broke without a word."""

SKEW = {"red": 0.0, "green": 90.0, "blue": -45.0}
"""Seconds by which a server's clock is wrong."""

SERVERS = {
    name: Server(name=name, url=f"ws://{name}.test", key=name, secret="s" * 32) for name in NAMES
}


@dataclass(slots=True, eq=False)
class Person:
    """Somebody in a call; ``process`` has the connection, None for who came past the pool."""

    room: str
    until: float
    kind: str = "STANDARD"
    direct: bool = False
    server: str = ""
    sid: str = ""
    joined: float = 0.0
    process: Process | None = None


class PlayedDriver:
    """What `Metering` asks of a driver."""

    def __init__(self, day: Day, process: Process, *, leads: bool) -> None:
        self.process = process.name
        self.servers = SERVERS
        self.store = day.store
        self.store_ok = True
        self.probing = leads
        self.usage: Mapping[str, Usage] = {}
        self.limits = {name: Limits(reset=MONTHLY) for name in NAMES}
        self.machine = self
        self.direct: Callable[[], Mapping[str, int]] = dict
        self.coming: Callable[[], Mapping[str, int]] = dict
        self.store_listeners: list[Callable[[bool], None]] = []
        self._day = day
        self._people = process.people

    def now(self) -> float:
        return self._day.now + self._day.set_on

    def health(self, server: str) -> Health:
        return Health.UP if server in self._day.up else Health.DOWN

    def feed(self, event: UsageSeen) -> None:
        self.usage = event.usage

    def keep(self, work: object) -> None:
        """The day calls what would be called again and again."""

    def listen_store(self, listener: Callable[[bool], None]) -> None:
        self.store_listeners.append(listener)

    async def ledger(self) -> Ledger:
        ledger: Ledger = await self.store.ledger()
        return ledger

    def sessions(self) -> Mapping[str, int]:
        return Counter(person.server for person in self._people)

    @property
    def rows(self) -> Sequence[ProcessRow]:
        return self._day.rows()

    async def exchange(self) -> Sequence[ProcessRow]:
        return self._day.rows()


class Process:
    """One process of the pool: the real metering on a driver that does only what it is told."""

    def __init__(self, day: Day, host: str, *, leads: bool) -> None:
        self.host = host
        self.leads = leads
        self.name = f"p{next(day.numbers)}"
        self.people: set[Person] = set()
        self.driver = PlayedDriver(day, self, leads=leads)
        driver, prober = cast(Driver, self.driver), cast(Prober, day)
        self.metering = Metering(driver, prober, self.occupied, monotonic=lambda: day.now)

    def occupied(self, server: str) -> dict[str, int]:
        return dict(Counter(person.room for person in self.people if person.server == server))

    def row(self) -> ProcessRow:
        return ProcessRow(
            process=self.name,
            host=self.host,
            started=0.0,
            names=NAMES,
            fingerprint="",
            sessions=self.driver.sessions(),
            coming=self.driver.coming(),
            direct=self.driver.direct(),
        )


class AwayStore:
    """A store that is away as the script says, and sometimes loses its answer."""

    def __init__(self, store: Store, chance: random.Random) -> None:
        self._store = store
        self._chance = chance
        self.away = False
        self.heartbeat = store.heartbeat

    async def count(self, totals: Ledger) -> None:
        await self._call(self._store.count(totals))

    async def ledger(self) -> Ledger:
        if self.away:
            raise StoreUnavailable("away")
        return await self._store.ledger()

    async def fold(self, *arguments: Any) -> bool:
        return bool(await self._call(self._store.fold(*arguments)))

    async def _call(self, call: Coroutine[Any, Any, Any]) -> Any:
        if self.away:
            call.close()
            raise StoreUnavailable("away")
        done = await call
        if self._chance.random() < 0.01:
            raise StoreOutcomeUnknown("its answer was lost")
        return done


@dataclass(slots=True)
class Truth:
    """What was: server -> (joined, left) of all who count, by the server's clock."""

    stays: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def minutes(self, server: str, begin: float, end: float) -> float:
        return (
            sum(max(0.0, min(left, end) - max(at, begin)) for at, left in self.stays[server]) / 60
        )


class Day:
    """
    The script, and those who play in it.

    Attributes:
        now: the time, which is the store's.
        up: servers that live.
        active: where the pool sends people.
        counters: how often what happened.
    """

    def __init__(
        self, store: Store, seed: int, people: int, *, direct: float = 0.15, lost: float = 0.1
    ) -> None:
        """``direct`` and ``lost`` are the parts of people past the pool, and of lost webhooks."""
        self.chance = random.Random(seed)
        self._lost = lost
        self._direct = direct
        self.store = cast(Any, AwayStore(store, self.chance))
        self.now = BEGIN
        self.set_on = 0.0  # seconds by which the store's clock, which is the pool's, is wrong
        self.numbers = itertools.count(1)
        self.up = set(NAMES)
        self.active = "red"
        self.truth = Truth({name: [] for name in NAMES})
        self.counters: Counter[str] = Counter()
        self._rows: Sequence[ProcessRow] = ()
        self._rows_at = 0.0
        self._here: dict[str, set[Person]] = {name: set() for name in NAMES}
        self._due: list[tuple[float, int, Callable[[], Awaitable[None] | None]]] = []
        self.processes = [Process(self, "one", leads=True), Process(self, "one", leads=False)]
        self.processes += [Process(self, "two", leads=True), Process(self, "two", leads=False)]
        self._plan(people)

    # -- the script --

    def at(self, moment: float, what: Callable[[], Awaitable[None] | None]) -> None:
        heapq.heappush(self._due, (moment, next(self.numbers), what))

    def soon(self, least: float, most: float, what: Callable[[], Awaitable[None] | None]) -> None:
        self.at(self.now + self.chance.uniform(least, most), what)

    async def play(self) -> None:
        """From beginning to end; then everything that is still known is written."""
        while self._due and self._due[0][0] <= END:
            self.now, _, what = heapq.heappop(self._due)
            waiting = what()
            if waiting is not None:
                await waiting
        self.now = END
        self.store.away = False
        for process in self.processes:
            await self.repeated(process.metering.flush)
            await self.repeated(process.metering.read)
            process.metering.tell()
        for server in NAMES:
            for person in self._here[server]:
                self._count(person)

    async def repeated(self, call: Callable[[], Awaitable[None]]) -> None:
        for _ in range(20):
            with suppress(StoreOutcomeUnknown):
                await call()
                return
        raise AssertionError("the answer was lost twenty times in a row")

    def _plan(self, people: int) -> None:
        draw = self.chance
        for number in range(people):
            direct = draw.random() < self._direct
            # Fewer at the ends of the day, which is when nobody should be missed for lack of time.
            begins = BEGIN + DAY * draw.betavariate(2, 2)
            stays = min(draw.expovariate(1 / 1500), 4 * 3600) + 5
            person = Person(room=f"room-{number // 4}", until=begins + stays, direct=direct)
            self.at(begins, partial(self.arrive, person))
            if draw.random() < 0.03:
                recorder = Person(person.room, person.until, kind="EGRESS", direct=True)
                self.at(begins + 1, partial(self.arrive, recorder))
        for _ in range(6):
            self.at(draw.uniform(BEGIN, END), self.rotate)
        for _ in range(3):
            self.at(draw.uniform(BEGIN, END), self.server_dies)
        for _ in range(8):
            self.at(draw.uniform(BEGIN, END), self.process_dies)
        for _ in range(4):
            self.at(draw.uniform(BEGIN, END), self.process_restarts)
        for length in (60.0, 600.0, 2700.0):
            self.at(draw.uniform(BEGIN, END - length), partial(self.store_goes, length))
        for seconds in (7200.0, 40.0):
            self.at(draw.uniform(BEGIN, END), partial(self.clock_is_set, seconds))
        for process in self.processes:
            self._begin(process)

    # -- people --

    def arrive(self, person: Person) -> None:
        if self.now >= person.until:
            return
        server = self.active if not person.direct else self.chance.choice(sorted(self.up or NAMES))
        if server not in self.up or (not person.direct and not self.processes):
            self.soon(1, 3, lambda: self.arrive(person))  # it tries again until it is let in
            return
        person.server, person.sid = server, f"PA_{next(self.numbers)}"
        person.joined = self.now
        self._here[server].add(person)
        self.counters["joins"] += 1
        if not person.direct:
            self.connect(person, person.sid)
        self.at(person.until, partial(self.leave, person, person.sid))
        self.webhook("participant_joined", person)
        if self.chance.random() < 0.1 and not person.direct:
            self.soon(5, 1500, partial(self.break_off, person, person.sid))

    def connect(self, person: Person, sid: str) -> None:
        """Its signal connection begins, or goes on, through any process."""
        if person.sid != sid or person not in self._here[person.server]:
            return
        process = person.process = self.chance.choice(self.processes)
        process.people.add(person)
        process.metering.entered(person.server)
        joined = person.joined + SKEW[person.server]
        process.metering.began(person.server, sid, joined, now=person.joined == self.now)

    def disconnect(self, person: Person) -> None:
        process, person.process = person.process, None
        if process is not None:
            process.people.discard(person)
            process.metering.ended(person.server, person.sid)

    def break_off(self, person: Person, sid: str) -> None:
        """Its signal connection breaks, and is resumed; media goes on."""
        if person.sid == sid and person.process is not None:
            self.counters["resumes"] += 1
            self.disconnect(person)
            self.soon(0.3, 8, lambda: self.connect(person, sid))

    def leave(self, person: Person, sid: str) -> None:
        if person.sid != sid or person not in self._here[person.server]:
            return
        if not person.direct and self.chance.random() < 0.1:
            self.counters["vanished"] += 1
            self.disconnect(person)
            self.at(self.now + LINGERS, lambda: self.gone(person, sid))
        else:
            self.gone(person, sid)

    def gone(self, person: Person, sid: str) -> None:
        """It is not on its server any more."""
        if person.sid != sid or person not in self._here[person.server]:
            return
        self.disconnect(person)
        self._here[person.server].discard(person)
        self._count(person)
        self.webhook("participant_left", person)

    def _count(self, person: Person) -> None:
        if person.kind != "EGRESS":
            skew = SKEW[person.server]
            self.truth.stays[person.server].append((person.joined + skew, self.now + skew))

    def webhook(self, event: str, person: Person) -> None:
        """Lost, repeated, late; and it may find no process."""
        skew = SKEW[person.server]
        server, sid, kind = person.server, person.sid, person.kind
        joined, created = person.joined + skew, float(int(self.now + skew))

        def arrives() -> None:
            if self.processes:
                self.counters["webhooks"] += 1
                self.chance.choice(self.processes).metering.witness(
                    server, sid=sid, joined=joined, at=created, kind=kind
                )

        if self.chance.random() < self._lost:
            self.counters["webhooks lost"] += 1
            return
        for _ in range(1 + (self.chance.random() < 0.1)):
            late = self.chance.random() < 0.2
            self.soon(0, 45 if late else 1, arrives)

    # -- what goes wrong --

    def rotate(self) -> None:
        others = sorted(self.up - {self.active})
        if others:
            self.active = self.chance.choice(others)
            self.counters["rotations"] += 1
        for server in NAMES:
            if server != self.active:
                self.move_all_from(server)

    def move_all_from(self, server: str) -> None:
        for person in sorted(self._here[server], key=lambda each: each.sid):
            if not person.direct:
                self.gone(person, person.sid)
                self.soon(0.2, 1, partial(self.arrive, person))

    def server_dies(self) -> None:
        """Everybody on it is gone, and no webhook says so; who came by the pool comes back."""
        server = self.chance.choice(sorted(self.up))
        self.counters["servers died"] += 1
        self.up.discard(server)
        for person in sorted(self._here[server], key=lambda each: each.sid):
            self.disconnect(person)
            self._here[server].discard(person)
            self._count(person)
            self.soon(1, 4, partial(self.arrive, person))
        if server == self.active and self.up:
            self.active = self.chance.choice(sorted(self.up))
        self.soon(60, 1200, lambda: self.up.add(server))

    def process_dies(self) -> None:
        """What it had in memory is gone; its people resume elsewhere; another one begins."""
        dead = self.chance.choice(self.processes)
        self.counters["processes died"] += 1
        self._replace(dead)

    async def process_restarts(self) -> None:
        """It writes what it knows, and its people are sent to another process."""
        old = self.chance.choice(self.processes)
        self.counters["processes restarted"] += 1
        with suppress(StoreError):
            await old.metering.flush()
        self._replace(old)

    def _replace(self, old: Process) -> None:
        self.processes.remove(old)
        for person in sorted(old.people, key=lambda each: each.sid):
            person.process = None
            self.soon(0.3, 4, partial(self.connect, person, person.sid))
        new = Process(self, old.host, leads=old.leads)
        self.soon(1, 2, lambda: self._begin(new))

    def _begin(self, process: Process) -> None:
        if process not in self.processes:
            self.processes.append(process)
        process.driver.store_ok = not self.store.away
        work = process.metering
        self._again(process, 30, work.flush)
        self._again(process, 240, work.read)  # each 15 s in a pool: here it is what takes time
        asks = work.look if process.leads else work.ask_the_time
        self.soon(0, 2, asks)
        self._again(process, 30, asks)

    def _again(self, process: Process, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        async def once() -> None:
            if process in self.processes:
                with suppress(StoreError):
                    await work()
                self.at(self.now + seconds, once)

        self.soon(0, seconds, once)

    def clock_is_set(self, seconds: float) -> None:
        """That of the machines of the pool; the servers' are their own."""
        self.counters["clock set"] += 1
        self.set_on += seconds

    def store_goes(self, seconds: float) -> None:
        self.counters["outages"] += 1
        self.tell_of_store(ok=False)
        self.at(self.now + seconds, lambda: self.tell_of_store(ok=True))

    def tell_of_store(self, *, ok: bool) -> None:
        self.store.away = not ok
        for process in self.processes:
            process.driver.store_ok = ok
            for listener in process.driver.store_listeners:
                listener(ok)

    # -- what the pool asks --

    def rows(self) -> Sequence[ProcessRow]:
        """As they were at the last heartbeat."""
        if self.now >= self._rows_at + HEARTBEAT:
            self._rows_at = self.now
            self._rows = [process.row() for process in self.processes]
        return self._rows

    async def date(self, server: Server) -> float | None:
        if server.name not in self.up:
            return None
        return float(int(self.now + SKEW[server.name]))

    async def occupancy(self, server: Server) -> Occupancy:
        if server.name not in self.up:
            raise NoAnswer("down")
        # Recorders are not in these numbers.
        rooms = Counter(dict.fromkeys(sorted(each.room for each in self._here[server.name]), 0))
        for person in self._here[server.name]:
            rooms[person.room] += person.kind == "STANDARD"
        return Occupancy(rooms=rooms, clock=await self.date(server))

    async def present(self, server: Server, room: str) -> Sequence[Present]:
        if server.name not in self.up:
            raise NoAnswer("down")
        self.counters["rooms looked into"] += 1
        return [
            Present(sid=each.sid, joined=each.joined + SKEW[server.name], kind=each.kind)
            for each in self._here[server.name]
            if each.room == room
        ]


async def used_by(store: Store, server: str, begin: float, end: float) -> float:
    """Minutes that the ledger of ``store`` has of ``server``."""
    sums = (await store.ledger()).get(minutes.writer(server), {})
    return minutes.used(minutes.read(sums), begin, end)
