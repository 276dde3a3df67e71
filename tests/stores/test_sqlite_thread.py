"""The database's thread: who is told what when things go wrong on it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from livekit_pool.exceptions import StoreCorrupt, StoreOutcomeUnknown, StoreUnavailable
from livekit_pool.stores.sqlite_thread import DatabaseThread


class Numbers:
    """A session with a table of numbers, and a record of what the thread did."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        self.db.execute("PRAGMA foreign_keys=ON")
        self.db.execute(
            "CREATE TABLE owed (number REFERENCES numbers DEFERRABLE INITIALLY DEFERRED)"
        )
        self.statements: list[str] = []
        self.db.set_trace_callback(self.statements.append)
        self.looked = threading.Event()
        self.sees: Exception | None = sqlite3.OperationalError("a look may fail")
        self.closed = False

    def look(self) -> None:
        self.looked.set()
        if self.sees is not None:
            raise self.sees

    def close(self) -> None:
        self.closed = True
        self.db.close()


class Gate:
    """Work that keeps the thread until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, db: sqlite3.Connection) -> None:
        self.entered.set()
        assert self.opened.wait(20)

    async def until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 20)


def insert(number: int) -> Callable[[sqlite3.Connection], int]:
    def work(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return work


def stored(db: sqlite3.Connection) -> list[int]:
    return [number for (number,) in db.execute("SELECT number FROM numbers ORDER BY number")]


@pytest.fixture
async def session() -> AsyncIterator[list[Numbers]]:
    """Where `start` puts the session it makes."""
    made: list[Numbers] = []
    yield made
    assert all(session.closed for session in made)


@pytest.fixture
async def thread(session: list[Numbers]) -> AsyncIterator[DatabaseThread]:
    """A thread that gives calls up after a short while."""
    thread = DatabaseThread("numbers.db", patience=20, limit=0.3)

    def make() -> Numbers:
        session.append(Numbers())
        return session[0]

    await thread.start(make)
    yield thread
    await thread.stop()


@pytest.fixture
async def patient(session: list[Numbers]) -> AsyncIterator[DatabaseThread]:
    """A thread whose calls wait."""
    thread = DatabaseThread("numbers.db", patience=20, limit=20)

    def make() -> Numbers:
        session.append(Numbers())
        return session[0]

    await thread.start(make)
    yield thread
    await thread.stop()


async def queued(
    thread: DatabaseThread, *works: Callable[[sqlite3.Connection], object]
) -> tuple[Gate, list[asyncio.Task[object]]]:
    """Writes that wait behind a closed gate, in this order."""
    gate = Gate()
    holding = asyncio.create_task(thread.read(gate))
    await gate.until_entered()
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(thread.write(w)) for w in works]
    await asyncio.sleep(0)
    return gate, [*tasks, holding]


async def test_writes_that_wait_share_a_transaction(
    patient: DatabaseThread, session: list[Numbers]
) -> None:
    gate, tasks = await queued(patient, *(insert(number) for number in range(20)))
    gate.opened.set()

    assert await asyncio.gather(*tasks) == [*range(20), None]
    assert session[0].statements.count("BEGIN IMMEDIATE") == 1
    assert session[0].statements.count("COMMIT") == 1
    assert await patient.read(stored) == list(range(20))


async def test_a_transaction_has_an_end(patient: DatabaseThread, session: list[Numbers]) -> None:
    gate, tasks = await queued(patient, *(insert(number) for number in range(600)))
    gate.opened.set()
    await asyncio.gather(*tasks)

    assert session[0].statements.count("COMMIT") == 3


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda db: insert(5)(db) and insert(1)(db), StoreCorrupt),
        (lambda db: insert(5)(db) and int("x"), ValueError),
        (lambda db: insert(5)(db) and db.execute("SELECT ?", ("\ud800",)), UnicodeEncodeError),
        (lambda db: insert(5)(db) and db.execute("SELECT x FROM nowhere"), StoreCorrupt),
    ],
)
async def test_a_write_that_fails_harms_no_other(
    patient: DatabaseThread,
    bad: Callable[[sqlite3.Connection], object],
    error: type[Exception],
) -> None:
    gate, tasks = await queued(patient, insert(1), bad, insert(2))
    gate.opened.set()

    first, failed, second, _ = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, second) == (1, 2)
    assert type(failed) is error
    assert await patient.read(stored) == [1, 2]


async def test_a_read_that_fails_harms_no_other(patient: DatabaseThread) -> None:
    with pytest.raises(StoreCorrupt, match=r"numbers\.db .*no such table"):
        await patient.read(lambda db: db.execute("SELECT x FROM nowhere"))

    assert await patient.read(stored) == []


async def test_an_error_at_the_end_of_a_write_leaves_its_outcome_unknown(
    patient: DatabaseThread,
) -> None:
    def owe(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO owed VALUES (77)")

    with pytest.raises(StoreOutcomeUnknown, match=r"numbers\.db failed at the end"):
        await patient.write(owe)

    assert await patient.write(insert(1)) == 1


async def test_a_disk_that_hangs_leaves_nobody_waiting(thread: DatabaseThread) -> None:
    gate = Gate()

    def hang(db: sqlite3.Connection) -> None:
        insert(1)(db)
        gate(db)

    writing = asyncio.create_task(thread.write(hang))
    await gate.until_entered()
    queued_up = asyncio.create_task(thread.write(insert(2)))

    with pytest.raises(StoreOutcomeUnknown):
        await writing
    with pytest.raises(StoreUnavailable):
        await queued_up
    with pytest.raises(StoreUnavailable):
        await thread.read(stored)

    gate.opened.set()
    # What was begun is written; what was answered "unavailable" never is.
    assert await thread.write(insert(3)) == 3
    assert await thread.read(stored) == [1, 3]


async def test_a_cancelled_write_that_waits_is_not_done(patient: DatabaseThread) -> None:
    gate, tasks = await queued(patient, insert(1), insert(2))
    tasks[0].cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert await patient.read(stored) == [2]


async def test_stopping_does_first_what_was_asked_before(
    patient: DatabaseThread, session: list[Numbers]
) -> None:
    # More than one transaction's worth.
    gate, tasks = await queued(patient, *(insert(number) for number in range(600)))
    stopping = asyncio.create_task(patient.stop())
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="not open"):
        await patient.write(insert(1000))
    gate.opened.set()
    await stopping

    assert session[0].closed
    assert await asyncio.gather(*tasks) == [*range(600), None]


async def test_a_session_that_cannot_be_made_is_told() -> None:
    def make() -> Numbers:
        raise StoreUnavailable("no session today")

    thread = DatabaseThread("numbers.db")
    with pytest.raises(StoreUnavailable, match="no session today"):
        await thread.start(make)
    await thread.stop()
    with pytest.raises(StoreUnavailable, match="not open"):
        await thread.read(stored)


async def test_a_session_that_is_made_too_late_is_closed() -> None:
    made = threading.Event()
    sessions: list[Numbers] = []

    def make() -> Numbers:
        assert made.wait(20)
        sessions.append(Numbers())
        return sessions[0]

    thread = DatabaseThread("numbers.db", limit=0.1)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await thread.start(make)
    made.set()
    await thread.stop()

    async with asyncio.timeout(10):
        while not (sessions and sessions[0].closed):  # noqa: ASYNC110  # the thread tells nobody
            await asyncio.sleep(0.01)


async def test_it_looks_again_after_a_look_that_failed(
    patient: DatabaseThread, session: list[Numbers]
) -> None:
    for _ in range(3):
        session[0].looked.clear()
        assert await asyncio.to_thread(session[0].looked.wait, 20)

    assert await patient.write(insert(1)) == 1


async def test_what_a_look_refuses_with_is_everybodys_answer(
    patient: DatabaseThread, session: list[Numbers]
) -> None:
    def replace(db: sqlite3.Connection) -> None:
        db.execute("INSERT OR REPLACE INTO numbers VALUES (1)")

    async def refused() -> bool:
        calls = (patient.write(replace), patient.read(stored))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refusals = {id(a) for a in answers if isinstance(a, StoreUnavailable)}
        assert {str(a) for a in answers if isinstance(a, Exception)} <= {"gone for lunch"}
        # Both, and each an error of its own.
        return len(refusals) == 2

    session[0].sees = StoreUnavailable("gone for lunch")
    async with asyncio.timeout(20):
        while not await refused():
            pass
    session[0].sees = None
    async with asyncio.timeout(20):
        while await refused():
            pass


async def test_a_thread_that_broke_keeps_nobody_waiting(
    thread: DatabaseThread, session: list[Numbers], caplog: pytest.LogCaptureFixture
) -> None:
    async def answer() -> str:
        try:
            return str(await thread.read(stored))
        except StoreUnavailable as error:
            return str(error)

    session[0].sees = AssertionError("a mistake of ours")
    async with asyncio.timeout(20):
        while "not open" not in await answer():
            pass
    assert [record.message for record in caplog.records] == ["Task failed"]


async def test_a_read_waits_for_a_lock(tmp_path: Path) -> None:
    """As a process takes it that mends the log after a crash."""
    path = tmp_path / "numbers.db"
    tried = threading.Event()

    class Locked(Numbers):
        def __init__(self) -> None:
            super().__init__()
            self.db = sqlite3.connect(path, isolation_level=None, timeout=0)

    def read(db: sqlite3.Connection) -> list[int]:
        tried.set()
        return stored(db)

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE numbers (number)")
        other.execute("INSERT INTO numbers VALUES (7)")
        other.execute("BEGIN EXCLUSIVE")
        thread = DatabaseThread("numbers.db", patience=20, limit=20)
        await thread.start(Locked)
        reading = asyncio.create_task(thread.read(read))
        assert await asyncio.to_thread(tried.wait, 20)
        other.execute("COMMIT")

        assert await reading == [7]
        await thread.stop()
