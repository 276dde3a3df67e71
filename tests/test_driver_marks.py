"""Driver: drains and pauses of several processes on one store, and after a restart of all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from livekit_pool.core.actions import Answered
from livekit_pool.core.document import Cause
from livekit_pool.core.events import Change
from livekit_pool.core.health import Health, Settings
from livekit_pool.core.machine import Role
from livekit_pool.core.stored import rfc3339
from livekit_pool.driver import Driver
from livekit_pool.exceptions import NoServer, RevisionConflict, UnknownServer
from livekit_pool.metering import Metering
from livekit_pool.status import status
from livekit_pool.stores import store_from_url
from livekit_pool.upstream.probe import Prober
from tests.test_driver import SERVERS, FakeProber
from tests.web.served import until


class Slow:
    """A store whose rows come seldom, unless there is news."""

    heartbeat = 1000.0

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@contextlib.asynccontextmanager
async def process(path: Path, prober: FakeProber) -> AsyncIterator[Driver]:
    """A process of a pool on a SQLite file."""
    async with (
        store_from_url(f"sqlite:///{path}", names=("red", "green")) as store,
        Driver(
            SERVERS,
            Slow(store),
            cast(Prober, prober),
            Settings(),
            host="here",
            probe_interval=0.02,
        ) as driver,
    ):
        await until(lambda: all(driver.machine.health(s.name) is Health.UP for s in SERVERS))
        yield driver


@pytest.fixture
def prober() -> FakeProber:
    return FakeProber()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.db"


async def drain(driver: Driver, server: str, **fields: Any) -> Answered:
    return await driver.mark(Change.DRAIN, actor="ann", server=server, reason="update", **fields)


def logged(log: pytest.LogCaptureFixture, event: str) -> list[dict[str, object]]:
    return [r.__dict__["fields"] for r in log.records if r.message == event]


async def test_every_process_sees_a_mark_and_so_do_those_that_start_later(
    path: Path, prober: FakeProber, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with process(path, prober) as first, process(path, prober) as second:
        drained = await drain(first, "green")
        paused = await second.mark(Change.PAUSE, actor="ben", reason="a look")
        assert (drained.revision, paused.revision) == (2, 3)
        await until(lambda: {d.document.revision for d in (first, second)} == {3})
        marks = first.document.marks
        assert second.document.marks == marks
        assert (marks["green"].by, marks["green"].reason) == ("ann", "update")
        assert (marks[""].by, marks[""].reason) == ("ben", "a look")
        assert second.machine.role("green", second.now()) is Role.DRAINED

        # News of it is told before the next heartbeat, which would be long in coming.
        await until(lambda: _revisions(first) == {3})

    async with process(path, prober) as third:
        assert third.document.marks == marks
        shown = await status(third, Metering(third, cast(Prober, prober), lambda _: {}))
        assert shown["paused"] == {
            "by": "ben",
            "since": rfc3339(marks[""].since),
            "reason": "a look",
        }
        await third.mark(Change.UNDRAIN, actor="ann", server="green")
        await third.mark(Change.RESUME, actor="ben")
        assert third.document.marks == {}
    events = ("LiveKit server drained", "Automatic rotation paused")
    assert [logged(caplog, event) for event in events] == [
        [{"server": "green", "by": "ann", "reason": "update", "revision": 2}],
        [{"by": "ben", "reason": "a look", "revision": 3}],
    ]
    events = ("LiveKit server undrained", "Automatic rotation resumed")
    assert [logged(caplog, event) for event in events] == [
        [{"server": "green", "by": "ann", "revision": 4}],
        [{"by": "ben", "revision": 5}],
    ]


def _revisions(driver: Driver) -> set[int]:
    driver.spawn(_read(driver))
    return {row.revision for row in driver.rows if row.process != driver.process}


async def _read(driver: Driver) -> None:
    await driver.exchange()


async def test_many_who_drain_the_active_server_cause_one_rotation(
    path: Path, prober: FakeProber, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with process(path, prober) as first, process(path, prober) as second:
        answers = await asyncio.gather(
            *(drain(driver, "red") for driver in (first, second, first, second))
        )
        (rotation,) = await first.store.history(10)
    assert (rotation.from_, rotation.to, rotation.cause) == ("red", "green", Cause.MANUAL)
    assert (rotation.reason, rotation.actor, rotation.revision) == ("drained: update", "ann", 2)
    assert [answer.changed for answer in answers].count(True) == 1
    assert {answer.mark for answer in answers} == {answers[0].mark}
    assert len(logged(caplog, "LiveKit server rotated")) == 1
    assert len(logged(caplog, "LiveKit server drained")) == 1


async def test_two_who_drain_both_servers_at_once_leave_one(path: Path, prober: FakeProber) -> None:
    async with process(path, prober) as first, process(path, prober) as second:
        answers = await asyncio.gather(
            drain(first, "red"), drain(second, "green"), return_exceptions=True
        )
        assert sorted(isinstance(answer, NoServer) for answer in answers) == [False, True]
        assert len((await first.reload()).marks) == 1
        await first.mark(Change.DRAIN, actor="ann", server="green", reason="r", force=True)
        await first.mark(Change.DRAIN, actor="ann", server="red", reason="r", force=True)
        assert len(first.document.marks) == 2
        assert not first.takes_rooms


async def test_a_drained_server_is_not_chosen_however_well_it_is(
    path: Path, prober: FakeProber
) -> None:
    async with process(path, prober) as driver:
        await drain(driver, "green")
        prober.refusing = {"red"}
        await until(lambda: not driver.joinable("red"))
        await driver.mark(Change.PAUSE, actor="ann", reason="r")  # a decision has been taken by now
        assert driver.document.active_server == "red"
        assert driver.machine.retry_after(driver.now()) >= 1
        await driver.mark(Change.UNDRAIN, actor="ann", server="green")
        assert driver.document.active_server == "red"
        await driver.mark(Change.RESUME, actor="ann")
        await until(lambda: driver.document.active_server == "green")


async def test_what_somebody_undid_a_moment_ago_is_not_taken_for_set(
    path: Path, prober: FakeProber
) -> None:
    async with process(path, prober) as first, process(path, prober) as second:
        await drain(first, "green")
        await until(lambda: second.document.revision == 2)
        await first.mark(Change.UNDRAIN, actor="ann", server="green")
        assert (await drain(second, "green")).changed


async def test_what_is_refused(path: Path, prober: FakeProber) -> None:
    async with process(path, prober) as driver:
        with pytest.raises(UnknownServer):
            await drain(driver, "blue")
        with pytest.raises(RevisionConflict) as conflict:
            await drain(driver, "green", expected_revision=7)
        assert conflict.value.revision == 1
        assert driver.document.revision == 1
