"""
What was wrong in the system that this pool grew out of: a test for each of its twenty defects.

The numbers are those under which they were written down. Mostly several processes of a pool are on
one SQLite file here, with servers that do what the test says; the same with real servers and SDKs
is in `tests/real`.

Two do not concern what a pool does. 1: the module that everybody thought was at work was imported
nowhere, and its copy was; so it is looked for modules that nobody imports. 20: the users were told
to open free accounts under several names; that is a matter of what the documents say, and so it is
looked for there.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

import livekit_pool
from livekit_pool import tokens
from livekit_pool.config import load
from livekit_pool.core.document import Cause, Rotation
from livekit_pool.core.events import FaultSource, ProbeOutcome
from livekit_pool.core.faults import Blame, Surface, classify
from livekit_pool.core.health import Health, Settings
from livekit_pool.core.machine import Role
from livekit_pool.driver import Driver
from livekit_pool.driver.raised import Raised
from livekit_pool.driver.reports import Report, Standing
from livekit_pool.exceptions import PoolError, StoreUnavailable
from livekit_pool.metering import Metering
from livekit_pool.resets import Reset
from livekit_pool.servers import Server
from livekit_pool.status import status
from livekit_pool.stores import store_from_url
from livekit_pool.stores.memory import MemoryStore
from livekit_pool.upstream.connection import Stage
from livekit_pool.upstream.join_probe import JoinResult
from livekit_pool.upstream.probe import Prober, ProbeResult
from tests import test_driver_store
from tests.ledger_day import MIDNIGHT, Day, used_by
from tests.rooms_setting import Setting, scene
from tests.web.asking import client_of, error
from tests.web.fake_pool import MAKER, PARTICIPANT, VIEWER, FakePool
from tests.web.served import until

NAMES = ("red", "green", "blue")
PASSED, REFUSED, SILENT = ProbeOutcome.PASSED, ProbeOutcome.REFUSED, ProbeOutcome.SILENT


def server(name: str) -> Server:
    return Server(
        name=name, url=f"ws://{name}.test", key=f"key-{name}", secret=f"secret-{name}-" * 4
    )


class Servers:
    """
    Servers that answer probes, and joins of the pool's own, as the test says.

    Attributes:
        answers: name -> what their probes see; the others pass.
        joins: how often they were joined.
    """

    def __init__(self) -> None:
        self.answers: dict[str, ProbeOutcome] = {}
        self.joins = 0

    async def probe(self, server: Server) -> ProbeResult:
        await asyncio.sleep(0)
        outcome = self.answers.get(server.name, PASSED)
        return ProbeResult(
            server=server.name,
            outcome=outcome,
            stage=Stage.HTTP,
            detail="" if outcome is PASSED else f"connection {outcome}",
            duration=0.0,
            stalled=False,
        )

    probe_signed = probe

    async def probe_join(self, server: Server) -> JoinResult:
        await asyncio.sleep(0)
        self.joins += 1
        outcome = self.answers.get(server.name, PASSED)
        return JoinResult(server=server.name, outcome=outcome, detail="")


@pytest.fixture
def servers() -> Servers:
    return Servers()


class Passing:
    """A store that passes everything on to another one."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Gated(Passing):
    """One whose watch begins when the test says so."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.gate = asyncio.Event()

    async def watch(self) -> AsyncIterator[Any]:
        await self.gate.wait()
        async for notice in self._store.watch():
            yield notice


class Forbidden(Passing):
    """One that may be read and not written, as the original's was by its own rules."""

    async def swap(self, *_: object) -> Any:
        raise StoreUnavailable("permission denied")


Start = Callable[..., contextlib.AbstractAsyncContextManager[Driver]]


@pytest.fixture
def start(tmp_path: Path, servers: Servers) -> Start:
    """Starts a process of the pool, with these servers in this order, all of them well."""

    @contextlib.asynccontextmanager
    async def started(
        names: Sequence[str | Server] = NAMES,
        wrapped: Callable[[Any], Any] = lambda store: store,
        settings: Settings | None = None,
    ) -> AsyncIterator[Driver]:
        listed = [name if isinstance(name, Server) else server(name) for name in names]
        url = f"sqlite:///{tmp_path / 'pool.db'}"
        async with (
            store_from_url(url, names=[each.name for each in listed]) as store,
            Driver(
                listed,
                wrapped(store),
                cast(Prober, servers),
                settings or Settings(),
                host="here",
                probe_interval=0.02,
            ) as driver,
        ):
            await until(lambda: all(driver.machine.health(s.name) is Health.UP for s in listed))
            yield driver

    return started


async def agree(active: str, *drivers: Driver) -> None:
    """Wait until all follow one document with that active server."""
    await until(
        lambda: (
            {driver.document.active_server for driver in drivers} == {active}
            and len({driver.document.revision for driver in drivers}) == 1
        )
    )


async def looked(*drivers: Driver) -> None:
    """Wait until each has seen every server once more, and so has decided by what it knows."""
    before = [(driver, dict(driver.last_probe)) for driver in drivers]
    await until(
        lambda: all(
            driver.last_probe[name] is not probe
            for driver, seen in before
            for name, probe in seen.items()
        )
    )


async def rotations(driver: Driver) -> list[tuple[str, str, Cause]]:
    """From, to and cause of all rotations, oldest first."""
    history = await driver.store.history(500)
    return [(each.from_, each.to, each.cause) for each in reversed(history)]


def test_defect_01_every_module_is_at_work() -> None:
    """What the commands and the package import, and what that imports, is all that there is."""
    root = Path(livekit_pool.__file__).parent
    modules = {
        ".".join(("livekit_pool", *path.relative_to(root).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in root.rglob("*.py")
    }
    reached, found = set[str](), ["livekit_pool", "livekit_pool.cli"]
    while found:
        name = found.pop()
        if name not in modules or name in reached:
            continue
        reached.add(name)
        found += [name.rpartition(".")[0], *imported_by(name, modules[name])]
    assert modules.keys() - reached == set()


def imported_by(name: str, path: Path) -> Iterator[str]:
    """The names that a module imports, of modules and of what is in them."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - max(0, node.level - 1)]
            origin = ".".join([*base, node.module or ""]).strip(".") if node.level else node.module
            yield str(origin)
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and str(node.value).startswith("livekit_pool."):
            yield str(node.value).partition(":")[0]  # by its name, when it is first needed


async def test_defect_02_a_documented_rotation_by_hand_rotates(
    start: Start, tmp_path: Path
) -> None:
    """With the variables that the original's users have, and nothing else."""
    environment = {
        f"LIVEKIT_SERVERS_{index}_{field}": value
        for index, name in enumerate(("one", "two"))
        for field, value in {
            "URL": f"wss://{name}.example.com",
            "KEY": f"key-{name}",
            "SECRET": f"secret-{name}-" * 4,
        }.items()
    }
    listed = load(env=environment, cwd=tmp_path).servers
    async with start(listed) as driver:
        rotation = await driver.rotate("Manual rotation", actor="ann")
        assert rotation is not None
        assert (rotation.from_, rotation.to) == ("one.example.com", "two.example.com")


async def test_defect_03_processes_that_see_it_together_rotate_once(
    start: Start, servers: Servers
) -> None:
    async with start() as one, start() as two, start() as three:
        servers.answers["red"] = REFUSED
        await until(lambda: one.document.active_server != "red")
        await agree("green", one, two, three)
        await looked(one, two, three)
        assert await rotations(one) == [("red", "green", Cause.DOWN)]


async def test_defect_04_late_errors_of_the_server_that_was_left_rotate_nothing(
    start: Start,
) -> None:
    async with start() as one, start() as two:
        seen_at = one.document.revision
        await one.rotate("by hand", actor="ann")
        await agree("green", one, two)
        for driver in (one, two):
            for source in (FaultSource.JOIN, FaultSource.SOCKET, FaultSource.CALL):
                for kind in (Cause.DOWN, Cause.TIMEOUT, Cause.QUOTA, Cause.RATE_LIMIT):
                    driver.fault("red", kind, source, "late", revision=seen_at)
        await looked(one, two)
        await two.rotate("and back", actor="ann", to="red")
        await agree("red", one, two)
        for driver in (one, two):  # it is active again: what was seen of it before is still late
            for _ in range(10):
                driver.fault("red", Cause.QUOTA, FaultSource.JOIN, "late", revision=seen_at)
        await looked(one, two)
        assert [to for _, to, _ in await rotations(one)] == ["green", "red"]


async def test_defect_05_a_rotation_between_reading_and_watching_is_not_swallowed(
    start: Start,
) -> None:
    gates: list[Gated] = []

    def gated(store: Any) -> Gated:
        gates.append(Gated(store))
        return gates[0]

    async with start(wrapped=gated) as late, start() as one:
        await one.rotate("by hand", actor="ann")
        assert late.document.active_server == "red", "it has read, and does not watch yet"
        gates[0].gate.set()
        await agree("green", late, one)


async def test_defect_06_who_may_not_write_follows_all_the_same(start: Start) -> None:
    impatient = Settings(patience=0.3)
    async with start(wrapped=Forbidden, settings=impatient) as unable, start() as able:
        with pytest.raises(PoolError):
            await unable.rotate("by hand", actor="ann")
        heard: list[Rotation | None] = []
        unable.listen(lambda announce: heard.append(announce.rotation))
        await able.rotate("by hand", actor="ben")
        await agree("green", unable, able)
        # And nobody is blind after a rotation, however near the next one is.
        await able.rotate("again", actor="ben")
        await agree("blue", unable, able)
        assert [rotation.to for rotation in heard if rotation is not None] == ["green", "blue"]


async def test_defect_07_without_the_document_nobody_rotates_alone(servers: Servers) -> None:
    async with test_driver_store.Store() as store:
        one, two = (
            test_driver_store.driver_of(store, cast(Any, prober)) for prober in (servers, servers)
        )
        async with one, two:
            await until(lambda: len(one.last_probe) == len(two.last_probe) == 2)
            store.lose_all()
            servers.answers["red"] = REFUSED
            await agree("green", one, two)
            stored = (await store.load()).document
            assert stored is not None
            assert stored.active_server == "green"
            assert stored.lineage == one.document.lineage


async def test_defect_08_servers_that_are_full_are_not_gone_through_again_and_again(
    start: Start,
) -> None:
    async with start() as driver:
        for expected in ("green", "blue", "blue", "blue", "blue"):
            active = driver.document.active_server
            driver.fault(active, Cause.QUOTA, FaultSource.JOIN, "quota exceeded")
            await agree(expected, driver)
            await looked(driver)
        assert [to for _, to, _ in await rotations(driver)] == ["green", "blue"]
        now = driver.now()
        assert {driver.machine.role(name, now) for name in ("red", "green")} == {Role.EXHAUSTED}
        assert driver.machine.retry_after(now) >= 1


async def test_defect_09_the_next_server_is_one_that_may_be_chosen(
    start: Start, servers: Servers
) -> None:
    async with start() as driver:
        servers.answers["green"] = REFUSED
        await until(lambda: not driver.joinable("green"))
        driver.fault("red", Cause.QUOTA, FaultSource.JOIN, "minutes exceeded")
        await agree("blue", driver)
        servers.answers = {"blue": REFUSED}
        await until(lambda: driver.document.active_server != "blue")
        # Green has recovered; red, whose turn it would be, is exhausted.
        assert await rotations(driver) == [
            ("red", "blue", Cause.QUOTA),
            ("blue", "green", Cause.DOWN),
        ]


async def test_defect_10_one_room_moves_nobody_else(start: Start) -> None:
    full = classify(
        Surface.JOIN,
        status=500,
        text="could not establish signal connection: connection closed by media",
    )
    assert (full.blame, full.cause) == (Blame.ROOM, None)
    async with start() as driver:
        for _ in range(20):  # one room's joins fail and fail, all others are answered
            for _ in range(2):
                driver.fault("red", Cause.DOWN, FaultSource.JOIN, "refused with status 500")
            await looked(driver)
            driver.join_answered("red")
        assert await rotations(driver) == []


@pytest.mark.parametrize("text", ["timeout", "network error", "websocket error", "quota exceeded"])
async def test_defect_11_one_users_bad_network_rotates_nothing(
    start: Start, servers: Servers, text: str
) -> None:
    async with start() as driver:
        seen = classify(Surface.CLIENT, text=text)
        standings = set()
        for number in range(200):
            report = Report(
                server="red",
                revision=1,
                error=seen,
                reporter=f"user {number}",
                address="203.0.113.9",
            )
            standings.add((await driver.reports.take(report)).status)
        assert Standing.VERIFYING in standings
        await until(lambda: servers.joins > 0)
        await looked(driver)
        assert await rotations(driver) == []
        assert servers.joins <= 2, "it is looked at once for all of them"


@pytest.mark.parametrize(
    ("error", "code", "cause"),
    [
        # livekit-client's and the Rust core's words, none of which the original looks for.
        ("could not establish signal connection: room connection has timed out", None, "timeout"),
        ("could not establish signal connection", None, "down"),
        ("engine: signal failure: timed out", None, "timeout"),
        ("", 3, "down"),  # SERVER_SHUTDOWN is a number
        ("", "SIGNAL_CLOSE", "down"),
        ("", 7, "down"),  # JOIN_FAILURE
    ],
)
def test_defect_12_what_todays_sdks_say_is_understood(
    error: str, code: str | int | None, cause: str
) -> None:
    raised = Raised.of(error, code)
    seen = classify(Surface.CLIENT, status=raised.status, code=raised.code, text=raised.text)
    assert seen.cause == cause


def test_defect_12_a_quota_is_read_where_no_client_hears_of_it() -> None:
    """SDKs keep status and body of a refused join to themselves; the gateway sees both."""
    for status_, text in ((429, "quota exceeded"), (403, "free tier minutes exceeded")):
        assert classify(Surface.JOIN, status=status_, text=text).cause is Cause.QUOTA
    assert classify(Surface.JOIN, status=429).cause is Cause.RATE_LIMIT
    assert classify(Surface.JOIN, status=503, text="insufficient capacity").cause is (
        Cause.CONNECTION_LIMIT
    )


async def test_defect_13_a_rolling_restart_is_no_quota_and_a_kick_nobodys_fault(
    start: Start,
) -> None:
    assert classify(Surface.LEAVE, code="SERVER_SHUTDOWN").cause is Cause.DOWN
    for reason in ("PARTICIPANT_REMOVED", "ROOM_DELETED", "DUPLICATE_IDENTITY"):
        seen = classify(Surface.LEAVE, code=reason)
        assert (seen.blame, seen.cause) == (Blame.CALLER, None)
    async with start() as driver:
        for _ in range(50):
            driver.fault("red", Cause.DOWN, FaultSource.SHUTDOWN, "the server shuts down")
        await looked(driver)  # and it answers again
        await looked(driver)
        assert await rotations(driver) == []
        assert driver.machine.role("red", driver.now()) is Role.ACTIVE


async def test_defect_14_a_server_that_swallows_everything_is_left(
    start: Start, servers: Servers
) -> None:
    async with start() as driver:
        servers.answers["red"] = SILENT
        await agree("green", driver)
        assert await rotations(driver) == [("red", "green", Cause.TIMEOUT)]


@scene()
async def test_defect_15_not_everybody_comes_back_at_the_same_moment(pool: Setting) -> None:
    sessions = [await pool.a.join_settled(f"room{number}") for number in range(40)]
    await pool.rotate("green", window=20.0)
    moved = []
    for _ in range(4):
        await asyncio.sleep(5)
        moved.append(sum(bool(session.moves) for session in sessions))
    assert 0 < moved[0] < moved[1] < moved[2] < moved[3]


async def test_defect_15_a_rotations_window_is_as_long_as_the_pace_demands(start: Start) -> None:
    async with start() as driver:
        driver.sessions = lambda: {"red": 2000}
        rotation = await driver.rotate("by hand", actor="ann")
        assert rotation is not None
        assert rotation.window == 2000 / Settings().pace


async def test_defect_16_a_server_is_its_name_and_not_its_place_in_a_list(start: Start) -> None:
    async with start(("red", "green", "blue")) as one, start(("blue", "green", "red")) as two:
        await one.rotate("by hand", actor="ann", to="green")
        await agree("green", one, two)
        await two.rotate("by hand", actor="ben", to="blue")
        await agree("blue", one, two)
        async with start(("green", "blue")) as shorter:  # an older list, in another order
            assert shorter.document.active_server == "blue"
            await looked(one, two, shorter)
            assert [to for _, to, _ in await rotations(one)] == ["green", "blue"]


def test_defect_16_a_gap_in_the_numbers_ends_no_list(tmp_path: Path) -> None:
    environment = {
        f"LIVEKIT_SERVERS_{index}_{field}": value
        for index in (0, 2, 7)
        for field, value in {
            "URL": f"wss://s{index}.example.com",
            "KEY": f"key-{index}",
            "SECRET": "s" * 40,
        }.items()
    }
    listed = load(env=environment, cwd=tmp_path).servers
    assert [each.name for each in listed] == ["s0.example.com", "s2.example.com", "s7.example.com"]


async def test_defect_17_nobody_gets_a_servers_secret(start: Start, servers: Servers) -> None:
    pair = tokens.KeyPair(key="APIpool", secret="pool-secret-" * 4)
    access = tokens.participant_token(pair, room="standup", identity="alice")
    claims = tokens.verify(access, pair)
    assert claims.raw["exp"] - time.time() <= 6 * 3600 + 60
    async with start() as driver:
        metering = Metering(driver, cast(Prober, servers), lambda _: {})
        shown = json.dumps(await status(driver, metering)) + access + repr(driver.servers)
        rows = json.dumps([row.fingerprint for row in await driver.store.rows()])
    for name in NAMES:
        assert f"ws://{name}.test" in shown
        assert server(name).secret not in shown + rows
        with pytest.raises(PoolError):
            tokens.verify(access, tokens.KeyPair(key=f"key-{name}", secret=server(name).secret))


@pytest.mark.parametrize(
    "path", ["/pool/rotate", "/pool/pause", "/pool/resume", "/pool/servers/green/drain"]
)
async def test_defect_18_not_anybody_may_write(path: str) -> None:
    pool = FakePool()
    async with client_of(pool) as client:
        for headers in (PARTICIPANT, VIEWER, MAKER):
            answer = await client.post(path, json={"reason": "r"}, headers=headers)
            assert error(answer) == (403, "forbidden")
        assert (await client.post(path, json={"reason": "r"})).status_code == 401
    assert pool.calls == []


async def test_defect_19_minutes_are_counted_and_come_back_when_they_do() -> None:
    ending = datetime.fromtimestamp(Reset().end(MIDNIGHT + 3600) or 0, UTC)
    assert (ending.day, ending.hour, ending.minute) == (1, 0, 0)
    assert ending.timestamp() > MIDNIGHT + 3600

    async with MemoryStore() as store:
        day = Day(cast(Any, store), seed=0, people=0)
        day.now = MIDNIGHT + 6 * 3600.0
        one, two = day.processes[:2]
        for process in (one, two):  # both see the same participant: it is counted once
            process.metering._clocks.heard("red", day.now)
            process.metering.entered("red")
            process.metering.began("red", "PA_1")
        day.now += 90 * 60
        for process in (one, two):
            process.metering.ended("red", "PA_1")
            await process.metering.flush()
        month = MIDNIGHT, MIDNIGHT + 30 * 86_400
        assert await used_by(cast(Any, store), "red", *month) == pytest.approx(90, abs=0.1)
        assert await used_by(cast(Any, store), "green", *month) == 0


def test_defect_20_the_documents_say_whose_allowance_it_is() -> None:
    readme = " ".join((Path(__file__).parents[1] / "README.md").read_text().split())
    assert "LiveKit Cloud's free allowance is one for each user" in readme
    assert "more projects add nothing" in readme
