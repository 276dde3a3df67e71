"""What is special about the SQLite store: its file, and the locks of other processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from livekit_pool.core.stored import to_mapping
from livekit_pool.exceptions import ConfigurationError, StoreCorrupt, StoreUnavailable
from livekit_pool.stores import sqlite_tables as tables
from livekit_pool.stores.base import Changed, Placement, Resync, Settling, SwapOutcome
from livekit_pool.stores.sqlite import SqliteStore
from livekit_pool.stores.sqlite_file import open_database
from livekit_pool.stores.sqlite_watch import Another, WatchedDatabase
from tests.core.nonsense import NONSENSE, edited, is_legal, is_refused, is_told

from .backends import SqliteBackend
from .values import (
    Clock,
    first_document,
    following,
    process_row,
    repairs,
    rich_document,
    rotation_to,
)

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.db"


def store_at(path: Path) -> SqliteStore:
    return SqliteStore(f"sqlite:///{path}")


async def refusal(path: Path) -> str:
    """The sentence with which the store refuses what is at ``path``."""
    with pytest.raises(ConfigurationError) as refused:
        async with store_at(path):
            pass
    sentence = str(refused.value)
    assert sentence.startswith("LIVEKIT_POOL_STORE: ")
    assert str(path.parent) in sentence
    assert "\n" not in sentence
    return sentence


class TestFile:
    async def test_is_for_its_owner_only(self, path: Path) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")

            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {"pool.db": 0o600, "pool.db-wal": 0o600, "pool.db-shm": 0o600}

    async def test_is_relative_to_where_the_url_was_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here, there = tmp_path / "here", tmp_path / "there"
        here.mkdir()
        there.mkdir()
        monkeypatch.chdir(here)
        store = SqliteStore("sqlite:///pool.db")
        monkeypatch.chdir(there)

        async with store:
            await store.load()

        assert [file.name for file in here.iterdir()] == ["pool.db"]
        assert list(there.iterdir()) == []

    @pytest.mark.parametrize("name", ["a b", "%41", "ü&x=y", "#1", "?mode=memory"])
    async def test_may_be_in_an_odd_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        directory = tmp_path / name
        directory.mkdir()
        monkeypatch.chdir(directory)

        async with SqliteStore("sqlite:///100%41.db") as store:
            await store.create(first_document(), "a")
            assert await anext(store.watch()) == Resync()

        assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["100%41.db"]

    async def test_may_be_an_empty_one(self, path: Path) -> None:
        path.touch()

        async with store_at(path) as store:
            assert (await store.create(first_document(), "a")).outcome is SwapOutcome.WON

    async def test_is_made_by_many_at_once(self, tmp_path: Path) -> None:
        for number in range(10):
            async with AsyncExitStack() as stack:
                path = tmp_path / f"{number}.db"
                opening = (stack.enter_async_context(store_at(path)) for _ in range(8))
                stores = await asyncio.gather(*opening)
                answers = await asyncio.gather(
                    *(store.create(first_document(), f"{n}") for n, store in enumerate(stores))
                )
            outcomes = [answer.outcome for answer in answers]
            assert outcomes.count(SwapOutcome.WON) == 1

    async def test_is_made_by_many_processes_at_once(self, tmp_path: Path, clock: Clock) -> None:
        backend = SqliteBackend(tmp_path, clock)
        try:
            workers = [await backend.worker("places") for _ in range(8)]
            for worker in workers:
                await worker.ready()
            assert backend.problems() == []
        finally:
            await backend.aclose()

    def test_is_looked_at_in_one_piece_while_another_makes_it(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        intruded = False

        class Intruded(sqlite3.Connection):
            """Another process makes the tables between two questions of the first look."""

            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                nonlocal intruded
                if sql == "PRAGMA user_version" and not intruded:
                    intruded = True
                    with contextlib.suppress(StoreUnavailable):
                        open_database(path, 0).close()
                return super().execute(sql, *arguments)

        connect = partial(sqlite3.connect, factory=Intruded)
        monkeypatch.setattr(sqlite3, "connect", connect)

        open_database(path, 5).close()

        assert intruded

    async def test_opened_twice_in_one_process_keeps_its_lock(self, path: Path) -> None:
        """Without it, the next process to close the file would remove the log in use."""
        async with store_at(path) as store:
            first = first_document()
            await store.create(first, "a")
            log = path.with_name("pool.db-wal").stat().st_ino
            async with store_at(path):
                pass

            program = (
                f"import sqlite3; sqlite3.connect({str(path)!r}).execute('PRAGMA user_version')"
            )
            await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", program], check=True, timeout=30
            )

            assert path.with_name("pool.db-wal").stat().st_ino == log

    async def test_that_is_gone_is_not_written_any_more(self, path: Path) -> None:
        """Another process would begin a new one, and the pool would be two."""
        elsewhere = path.with_name("elsewhere.db")

        async def refused() -> int:
            calls = (store.rows(), store.place("standup", "red", 1))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            refusals = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
            assert all("was removed or replaced" in str(refusal) for refusal in refusals)
            return len(refusals)

        async with store_at(path) as store, asyncio.timeout(20):
            await store.create(first_document(), "a")
            path.rename(elsewhere)
            while await refused() < 2:
                pass
            path.touch()
            assert await refused() == 2
            elsewhere.rename(path)
            while await refused() > 0:
                pass
            second = following(first_document())
            assert (await store.swap(1, second, "b")).outcome is SwapOutcome.WON


class TestRefusal:
    async def test_of_a_file_that_is_no_database(self, path: Path) -> None:
        path.write_text("LIVEKIT_URL=wss://example.com\n" * 100)
        before = path.read_bytes()

        assert "is not an SQLite database" in await refusal(path)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    async def test_of_a_database_of_another_program(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE customers (name)")
        before = path.read_bytes()

        assert "is a database of another program" in await refusal(path)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    async def test_of_an_empty_database_marked_by_another_program(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA application_id=7")
        before = path.read_bytes()

        assert "is a database of another program" in await refusal(path)
        assert path.read_bytes() == before

    async def test_of_the_schema_before_is_upgraded(self, path: Path) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("DROP TABLE ledger")
            db.execute("PRAGMA user_version=1")

        async with store_at(path) as store:
            await store.count({"p1": {"red": 1}})

            assert await store.ledger() == {"p1": {"red": 1}}
            assert (await store.load()).document == first_document()

    async def test_of_another_schema(self, path: Path) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version=99")
        before = path.read_bytes()

        assert "has schema 99, this livekit-pool needs 2" in await refusal(path)
        assert path.read_bytes() == before

    async def test_of_a_damaged_database(self, path: Path) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
        content = path.read_bytes()
        damaged = content[:100] + b"\xff" * 3996 + content[4096:]
        path.write_bytes(damaged)

        assert "is a damaged database" in await refusal(path)
        assert path.read_bytes() == damaged

    async def test_of_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        path = tmp_path / "missing" / "pool.db"

        assert f"the directory {path.parent} does not exist" in await refusal(path)
        assert list(tmp_path.iterdir()) == []

    async def test_of_a_file_as_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        assert "does not exist" in await refusal(tmp_path / "file" / "pool.db")

    async def test_of_a_directory(self, path: Path) -> None:
        path.mkdir()

        assert "is not a file" in await refusal(path)
        assert list(path.iterdir()) == []

    async def test_of_a_pipe(self, path: Path) -> None:
        os.mkfifo(path)

        assert "is not a file" in await refusal(path)

    async def test_of_a_log_without_its_database(self, path: Path) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
            wal = path.with_name("pool.db-wal")
            path.unlink()
            before = wal.read_bytes()

            assert "is gone but pool.db-wal beside it is not" in await refusal(path)
            assert wal.read_bytes() == before
            assert not path.exists()


# Opens a store as somebody who owns nothing, and says how that went.
POWERLESS = f"""
import asyncio, os, sys
from livekit_pool.stores import store_from_url
store = store_from_url(sys.argv[1])
if os.geteuid() == 0:
    os.setegid({NOBODY})
    os.seteuid({NOBODY})
async def main():
    try:
        async with store:
            await store.rows()
            print("opened")
    except Exception as error:
        print(type(error).__name__, error)
asyncio.run(main())
"""


class TestPermission:
    @pytest.fixture
    def directory(self) -> Iterator[Path]:
        """A directory that everybody can reach, which those of pytest are not."""
        directory = Path(tempfile.mkdtemp(prefix="livekit-pool-test-"))
        directory.chmod(0o777)
        yield directory
        directory.chmod(0o777)
        shutil.rmtree(directory)

    def opening(self, path: Path) -> str:
        arguments = [sys.executable, "-c", POWERLESS, f"sqlite:///{path}"]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    def test_is_there_where_it_is_given(self, directory: Path) -> None:
        assert self.opening(directory / "pool.db") == "opened\n"

    def test_to_make_a_file(self, directory: Path) -> None:
        directory.chmod(0o555)

        said = self.opening(directory / "pool.db")

        assert said.startswith("ConfigurationError LIVEKIT_POOL_STORE: ")
        assert "cannot be made: Permission denied" in said
        assert list(directory.iterdir()) == []

    @pytest.mark.parametrize(("file_mode", "directory_mode"), [(0o444, 0o777), (0, 0o777)])
    async def test_to_write(self, directory: Path, file_mode: int, directory_mode: int) -> None:
        await self.refused(directory, file_mode, directory_mode)

    async def test_to_make_the_files_beside_it(self, directory: Path) -> None:
        await self.refused(directory, 0o666, 0o555)

    async def refused(self, directory: Path, file_mode: int, directory_mode: int) -> None:
        path = directory / "pool.db"
        async with store_at(path) as store:
            await store.create(first_document(), "a")
        path.chmod(file_mode)
        directory.chmod(directory_mode)

        said = self.opening(path)

        assert said.startswith("ConfigurationError LIVEKIT_POOL_STORE: ")
        assert "must be readable and writable" in said

    def test_to_enter_the_directory(self, directory: Path) -> None:
        inner = directory / "inner"
        inner.mkdir()
        inner.chmod(0)

        said = self.opening(inner / "pool.db")

        assert said.startswith("ConfigurationError LIVEKIT_POOL_STORE: ")
        assert "Permission denied" in said


class TestDamage:
    """Found while the store is open: an error, and what is stored stays as it was."""

    async def test_of_the_document(self, path: Path) -> None:
        async with store_at(path) as store:
            for content in ("{", "[]", "{}", '"text"'):
                with closing(sqlite3.connect(path)) as db, db:
                    db.execute(
                        "INSERT OR REPLACE INTO document VALUES (1, 'lineage-1', 1, 'a', ?)",
                        (content,),
                    )
                with pytest.raises(StoreCorrupt, match="LIVEKIT_POOL_STORE"):
                    await store.load()
                with pytest.raises(StoreCorrupt):
                    await store.create(first_document(), "b")
                with closing(sqlite3.connect(path)) as db:
                    assert db.execute("SELECT content FROM document").fetchall() == [(content,)]

    async def test_of_the_file(self, path: Path) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        damaged = path.read_bytes()

        with pytest.raises((StoreCorrupt, ConfigurationError), match="LIVEKIT_POOL_STORE"):
            async with store_at(path) as store:
                await store.load()
        # But for the counters in the file's header.
        assert path.read_bytes()[100:] == damaged[100:]

    async def test_that_can_be_repaired_is_logged_once(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE document SET content = json_remove(content, '$.servers')")

            assert (await store.load()).document == first_document()
            assert (await store.load()).document == first_document()

        assert [record.message for record in caplog.records] == ["Document repaired"]

    async def test_of_each_field_is_told(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        document = replace(rich_document(), active_server="red", revision=9, active_since=4)
        good = to_mapping(document)

        def write(content: dict[str, object]) -> None:
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE document SET content = ?", (json.dumps(content),))

        async with SqliteStore(f"sqlite:///{path}", names=["red", "green"]) as store:
            await store.create(document, "a")
            for field, kind in itertools.product(good, NONSENSE):
                if is_refused(field, kind):
                    continue
                write(edited(good, field, kind))
                caplog.clear()

                for _ in range(2):
                    read = (await store.load()).document

                told = repairs(caplog)
                # Lineage and revision have columns too, so that no other one is legal.
                beside = field in ("lineage", "revision")
                expected = beside or not is_legal(field, kind)
                assert is_told(told, field) is expected, (field, kind, told)
                assert len(told) == len(set(told)), "once each"
                assert read is not None
                named = (field, kind) == ("activeServer", "text")
                assert read.active_server == ("nonsense" if named else "red"), (field, kind)
                assert (read.lineage, read.revision) == (document.lineage, 9), (field, kind)
                write(good)
                assert (await store.load()).document == document

    @pytest.mark.parametrize(("field", "value"), [("revision", "99"), ("lineage", "'x'")])
    async def test_what_the_columns_say_counts(self, path: Path, field: str, value: str) -> None:
        """Swaps go by them: a document that says otherwise could never be changed."""
        async with store_at(path) as store:
            first = first_document()
            await store.create(first, "a")
            with closing(sqlite3.connect(path)) as db, db:
                db.execute(f"UPDATE document SET content = json_set(content, '$.{field}', {value})")

            assert (await store.load()).document == first
            lost = await store.swap(5, replace(first, revision=6), "b")
            assert lost.document == first
            assert (await store.swap(1, following(first), "c")).outcome is SwapOutcome.WON

    async def test_of_the_history_leaves_the_document_alone(self, path: Path) -> None:
        """A rotation that cannot be written down does not happen."""
        async with store_at(path) as store:
            first = first_document()
            await store.create(first, "a")
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("INSERT INTO history VALUES (2, 'damaged')")

            second = following(first)
            with pytest.raises(StoreCorrupt):
                await store.swap(1, second, "b", rotation_to(second))
            assert (await store.load()).document == first
            with pytest.raises(StoreCorrupt, match="history"):
                await store.history()

    async def test_of_the_tables(self, path: Path) -> None:
        async with store_at(path) as store:
            with closing(sqlite3.connect(path)) as db:
                db.execute("DROP TABLE placements")

            with pytest.raises(StoreCorrupt, match="no such table"):
                await store.place("standup", "red", 1)


HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0.1)
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE moves SET seq = seq + 100")
print("held", flush=True)
sys.stdin.readline()
db.execute("COMMIT")
"""


@asynccontextmanager
async def lock_held(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process is in the middle of a write, and stopped; it is killed in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(path), stdin=PIPE, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


class TestLock:
    async def test_held_by_a_stopped_process_ends_a_write_in_time(self, path: Path) -> None:
        async with store_at(path) as store:
            first = first_document()
            await store.create(first, "a")
            async with lock_held(path) as process:
                async with asyncio.timeout(15):
                    with pytest.raises(StoreUnavailable, match="locked by others"):
                        await store.swap(1, following(first), "b")
                    with pytest.raises(StoreUnavailable):
                        await store.place("standup", "red", 1)
                assert process.returncode is None

            # With that process its lock is gone, and nothing of what failed was written.
            assert (await store.load()).document == first
            assert await store.placements() == []
            assert (await store.swap(1, following(first), "c")).outcome is SwapOutcome.WON

    @pytest.mark.parametrize("write", ["beat", "place"])
    async def test_does_not_keep_readers_waiting(self, path: Path, write: str) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
            async with lock_held(path):
                writing: asyncio.Future[object]
                if write == "beat":
                    writing = asyncio.ensure_future(store.beat(process_row("p1")))
                else:
                    writing = asyncio.ensure_future(store.place("retro", "red", 1))
                reads = 0
                while not writing.done() and reads < 5:
                    await store.load()
                    await store.placement("standup")
                    reads += 1
                assert not writing.done()
                with pytest.raises(StoreUnavailable):
                    await writing
        assert reads == 5

    async def test_that_is_released_lets_waiting_writes_through(self, path: Path) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
            async with lock_held(path) as process:
                writing = [asyncio.create_task(store.place(f"r{n}", "red", 1)) for n in range(5)]
                await store.load()
                assert not any(write.done() for write in writing)
                process.send_signal(signal.SIGCONT)
                assert process.stdin is not None
                process.stdin.write(b"\n")

                for number, placement in enumerate(await asyncio.gather(*writing)):
                    assert placement == Placement(room=f"r{number}", server="red", revision=1)

    async def test_held_at_the_opening_is_waited_for_in_vain(self, path: Path) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
        async with lock_held(path):
            async with asyncio.timeout(5):
                with pytest.raises(StoreUnavailable, match="locked by others"):
                    async with store_at(path):
                        pass
        async with store_at(path) as store:
            assert (await store.load()).document == first_document()

    async def test_held_at_the_opening_is_waited_for(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
        tried = threading.Event()
        sleep = time.sleep

        def told_sleep(seconds: float) -> None:
            tried.set()
            sleep(seconds)

        monkeypatch.setattr(time, "sleep", told_sleep)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            store = store_at(path)
            opening = asyncio.create_task(store.__aenter__())
            assert await asyncio.to_thread(tried.wait, 10)
            db.execute("COMMIT")
            await opening
        assert (await store.load()).document == first_document()
        await store.aclose()


class TestProcesses:
    async def test_who_is_dead_for_long_is_forgotten(self, path: Path, clock: Clock) -> None:
        async with SqliteStore(f"sqlite:///{path}", clock=clock) as store:
            await store.create(first_document(), "a")
            for process in ("p1", "p2"):
                await store.beat(process_row(process))
                placement = await store.place(f"of {process}", "red", 1)
                assert isinstance(placement, Placement)
                await store.confirm(placement, process, clock.now)
            clock.turn(3600)
            await store.beat(process_row("p2"))
            assert len(await store.rows(within=1e9)) == 2

            clock.turn(1)
            await store.beat(process_row("p2"))

            assert [row.process for row in await store.rows(within=1e9)] == ["p2"]
            with closing(sqlite3.connect(path)) as db:
                holders = db.execute("SELECT room, process FROM holders").fetchall()
            assert holders == [("of p2", "p2")]

    async def test_a_name_that_cannot_be_stored_is_the_callers_error(self, path: Path) -> None:
        async with store_at(path) as store:
            await store.create(first_document(), "a")
            calls = (store.place(room, "red", 1) for room in ("a", "\ud800", "b"))

            first, refused, second = await asyncio.gather(*calls, return_exceptions=True)

            assert isinstance(refused, ValueError)
            # Nor does it leave the lock behind.
            with pytest.raises(ValueError, match="surrogates"):
                await store.place("\ud800", "red", 1)
            await store.beat(process_row("p1"))
            assert [first, second] == [
                Placement(room=room, server="red", revision=1) for room in ("a", "b")
            ]


async def test_a_change_by_any_program_is_noticed(path: Path) -> None:
    """Not only what this code writes: the notice comes from the file."""
    async with store_at(path) as store:
        await store.create(first_document(), "a")
        watch = store.watch()
        await anext(watch)

        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE document SET revision = 7")

        async with asyncio.timeout(5):
            while await anext(watch) != Changed(7):
                pass


def test_a_move_is_told_once(path: Path) -> None:
    told: list[tuple[int | Another | None, list[Placement]]] = []
    watched = WatchedDatabase(path, 5, lambda revision, moved: told.append((revision, [*moved])))
    with closing(open_database(path, 5)) as db:
        moved = Placement(room="standup", server="green", revision=2)
        tables.move(db, 0.0, moved, "p1", False)
        watched.look()
        tables.leave(db, 0.0, "p1")
        tables.beat(db, 0.0, process_row("p1"))
        watched.look()
        tables.create(db, first_document(), "a")
        watched.look()
        watched.look()
    watched.close()

    assert told == [(None, [moved]), (1, [])]


def test_a_revision_that_is_set_back_is_another_document(path: Path) -> None:
    """Who has heard of no revision yet would take a lower one for old news."""
    told: list[int | Another | None] = []
    watched = WatchedDatabase(path, 5, lambda revision, _: told.append(revision))
    with closing(open_database(path, 5)) as db:
        tables.create(db, first_document(), "a")
        for revision in (7, 8, 6):
            with db:
                db.execute("UPDATE document SET revision = ?", (revision,))
            watched.look()
    watched.close()
    assert told == [7, 8, Another.DOCUMENT]


async def test_a_store_that_was_made_before_a_fork_works_after_it(path: Path) -> None:
    program = f"""
import asyncio, os
from livekit_pool.stores import store_from_url
store = store_from_url("sqlite:///{path}")
async def main():
    async with store:
        await store.rooms()
child = os.fork()
asyncio.run(main())
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True, timeout=30)


async def test_settling_is_decided_by_what_is_stored(path: Path) -> None:
    """A process that starts later, and knows nothing, asks the same question."""
    async with store_at(path) as store:
        await store.create(first_document(), "a")
        placement = await store.place("standup", "red", 1)
        assert isinstance(placement, Placement)
        await store.beat(process_row("p1"))
        until = (await store.load()).now + 3600
        await store.confirm(placement, "p1", until)

    async with store_at(path) as later:
        await later.beat(process_row("p1"))
        answer = await later.move("standup", "green", 2, "p2")
    assert answer == Settling(placement=placement, until=until)


async def test_a_row_of_a_newer_version_is_read_as_far_as_it_is_known(path: Path) -> None:
    async with store_at(path) as store:
        await store.beat(process_row("newer"))
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE processes SET content = json_set(content, '$.quota', 5)")

        assert [row.process for row in await store.rows()] == ["newer"]
