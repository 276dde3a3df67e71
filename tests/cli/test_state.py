"""``livekit-pool state``: from one SQLite file into another, through the command."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
import pytest

from livekit_pool.cli import state as state_module
from livekit_pool.exceptions import StoreUnavailable
from livekit_pool.stores.base import Store
from livekit_pool.stores.moving import look, read_state
from livekit_pool.stores.sqlite import SqliteStore
from livekit_pool.stores.state_json import State, state_from_json, state_to_json
from tests.cli.conftest import Ran, Run
from tests.stores.redis_server import RedisServer
from tests.stores.states import state
from tests.stores.test_moving import fill
from tests.stores.values import first_document, process_row

T = TypeVar("T")
# As everywhere, but with names that a configuration may have.
STATE = state_from_json(state_to_json(state()).replace(r"gr\u00fcn \u260e", "grün"), "states")
PLACEMENTS = STATE.placements
# Words that stand in the configuration as secrets, and must stand nowhere else.
SECRETS = ("secret-of-red", "secret-of-the-pool-0123456789-0123456789")


def in_store(url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        async with SqliteStore(url) as store:
            return await work(store)

    return asyncio.run(run())


def held(url: str) -> State:
    """All that a store holds, without where and when that was read."""
    return replace(in_store(url, read_state), store="", exported_at=0.0)


@pytest.fixture
def configured(command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command beside a configuration with the servers of the file, and a pool in old.db."""
    names = ("red", "grün", "blue")
    lines = [f"LIVEKIT_POOL_SECRET={SECRETS[1]}", "LIVEKIT_POOL_KEY=APIpool"]
    lines.append("LIVEKIT_POOL_STORE=sqlite:///old.db")
    for number, name in enumerate(names):
        lines += [
            f"LIVEKIT_SERVERS_{number}_NAME={name}",
            f"LIVEKIT_SERVERS_{number}_URL=wss://server-{number}.example.com",
            f"LIVEKIT_SERVERS_{number}_KEY=APIkey",
            f"LIVEKIT_SERVERS_{number}_SECRET={SECRETS[0]}",
        ]
    Path(".env.local").write_text("\n".join(lines))
    in_store("sqlite:///old.db", lambda store: fill(store, STATE))

    def ran(*arguments: str) -> Ran:
        done = command("state", *arguments)
        for secret in SECRETS:
            assert secret not in done.out + done.err
        assert "Traceback" not in done.err
        return done

    return ran


@pytest.fixture
def exported(configured: Run) -> str:
    """The name of a file with what is in old.db."""
    assert configured("export", "--output", "state.json").code == 0
    return "state.json"


NEW = ("--store", "sqlite:///new.db")


# -- export --


def test_export_writes_one_json_document(configured: Run) -> None:
    ran = configured("export")
    assert ran.code == 0
    content = json.loads(ran.out)
    assert (content["format"], content["version"]) == ("livekit-pool state", 1)
    assert content["store"] == "sqlite:///old.db"
    assert content["document"]["revision"] == 9
    assert ran.err == (
        "Exported from sqlite:///old.db: revision 9, active server grün; "
        "rotations: 8, placements: 2, ledger sums: 3.\n"
    )


def test_export_to_a_file_which_only_its_owner_may_read(configured: Run) -> None:
    ran = configured("export", "--output", "state.json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Exported from sqlite:///old.db: revision 9")
    assert stat.S_IMODE(Path("state.json").stat().st_mode) == 0o600
    # What differs is the moment at which it was written.
    again = {**json.loads(configured("export").out), "exported_at": ""}
    assert {**json.loads(Path("state.json").read_text()), "exported_at": ""} == again
    assert not list(Path().glob(".state.json.*"))


def test_export_never_writes_over_a_file_without_force(configured: Run) -> None:
    Path("state.json").write_text("precious")
    ran = configured("export", "--output", "state.json")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "livekit-pool: state.json exists: name another file, or give --force to replace it.\n"
    )
    assert Path("state.json").read_text() == "precious"
    assert configured("export", "--output", "state.json", "--force").code == 0
    assert json.loads(Path("state.json").read_text())["version"] == 1
    assert stat.S_IMODE(Path("state.json").stat().st_mode) == 0o600
    assert configured("export", "--force").code == 2


def test_export_says_where_it_cannot_write(configured: Run) -> None:
    ran = configured("export", "--output", "nowhere/state.json")
    assert ran.code == 1
    assert ran.err == (
        "livekit-pool: nowhere/state.json cannot be written: No such file or directory.\n"
    )


def test_export_says_that_the_pool_runs(configured: Run) -> None:
    in_store("sqlite:///old.db", lambda store: store.beat(process_row("p1")))
    ran = configured("export", "--output", "state.json")
    assert ran.code == 0
    assert "Processes that use this store: 1." in ran.err
    assert "p1" not in Path("state.json").read_text().replace('"p1": {', "")


def test_export_makes_no_database(configured: Run) -> None:
    ran = configured("export", "--store", "sqlite:///mistyped.db")
    assert ran.code == 2
    assert "mistyped.db does not exist" in ran.err
    assert not Path("mistyped.db").exists()


def test_export_of_a_database_without_a_document(configured: Run) -> None:
    in_store("sqlite:///empty.db", look)
    ran = configured("export", "--store", "sqlite:///empty.db")
    assert (ran.code, ran.out) == (1, "")
    assert "holds no document: there is nothing to export" in ran.err


@pytest.mark.parametrize("arguments", [("export",), ("import", "state.json", "--yes")])
def test_a_store_in_memory_is_refused(exported: str, configured: Run, arguments: Any) -> None:
    ran = configured(*arguments, "--store", "memory://")
    assert (ran.code, ran.out) == (2, "")
    assert "LIVEKIT_POOL_STORE is memory://" in ran.err


# -- import --


def test_a_round_trip_equals_the_original(exported: str, configured: Run) -> None:
    ran = configured("import", exported, *NEW, "--yes")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("Imported into sqlite:///new.db, revision 10.\n")
    there, before = held("sqlite:///new.db"), held("sqlite:///old.db")
    note = there.history[-1]
    assert (note.cause, note.from_, note.to) == ("restored", "grün", "grün")
    assert note.reason.startswith("imported: revision 9 of sqlite:///old.db, exported 20")
    assert replace(there, history=there.history[:-1]) == replace(
        before, document=replace(before.document, revision=10)
    )


@pytest.mark.needs("redis")
def test_a_pool_goes_into_redis_and_back(exported: str, configured: Run, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis")
    try:
        there = ("--store", redis.url)
        ran = configured("import", exported, *there, "--yes")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.endswith(f"Imported into {redis.url}/0, revision 10.\n")
        assert configured("export", *there, "--output", "again.json").code == 0
    finally:
        redis.kill()
    assert configured("import", "again.json", *NEW, "--yes").code == 0

    back, before = held("sqlite:///new.db"), held("sqlite:///old.db")
    assert [note.cause for note in back.history[-2:]] == ["restored"] * 2
    assert replace(back, history=back.history[:-2]) == replace(
        before, document=replace(before.document, revision=11)
    )


def test_what_it_would_do_is_shown_first(exported: str, configured: Run) -> None:
    in_store("sqlite:///new.db", lambda store: store.create(first_document(20), "op"))
    ran = configured("import", exported, *NEW, "--replace", "--dry-run")
    header, *table, end = ran.out.splitlines()
    assert header.startswith("state.json, exported 20")
    assert header.endswith("from sqlite:///old.db, into sqlite:///new.db")
    assert table[0].split() == ["THERE", "FILE", "AFTER"]
    assert [line.split()[-3:] for line in table[1:]] == [
        ["20", "9", "21"],
        ["red", "grün", "grün"],
        ["0", "8", "9"],
        ["0", "2", "2"],
        ["0", "3", "3"],
    ]
    assert end == "A dry run: nothing was written."


def test_the_same_as_json(exported: str, configured: Run) -> None:
    ran = configured("import", exported, *NEW, "--yes", "--json")
    assert (ran.code, ran.err) == (0, "")
    answer = json.loads(ran.out)
    assert answer["written"] is True
    assert answer["there"]["revision"] is None
    assert answer["file"]["store"] == "sqlite:///old.db"
    assert answer["after"] == {
        "revision": 10,
        "active": "grün",
        "rotations": 9,
        "placements": 2,
        "sums": 3,
    }
    assert answer["warnings"] == []


@pytest.mark.parametrize("flags", [(), ("--dry-run",), ("--dry-run", "--yes"), ("--json",)])
def test_without_yes_nothing_is_written(
    exported: str, configured: Run, flags: tuple[str, ...]
) -> None:
    """There is no terminal here; and not even an empty database is made."""
    ran = configured("import", exported, *NEW, *flags)
    assert (ran.code, ran.err) == (0, "")
    assert not Path("new.db").exists()
    if "--json" in flags:
        assert json.loads(ran.out)["written"] is False
    else:
        assert "A dry run: nothing was written." in ran.out
        assert ("give --yes" in ran.out) == (flags == ())
    in_store("sqlite:///new.db", look)
    assert configured("import", exported, *NEW, *flags).code == 0
    assert in_store("sqlite:///new.db", look).document is None


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 1)])
def test_on_a_terminal_it_asks(
    exported: str, configured: Run, monkeypatch: pytest.MonkeyPatch, answer: bool, code: int
) -> None:
    monkeypatch.setattr(state_module, "is_terminal", lambda: True)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []

    def confirm(text: str) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(click, "confirm", confirm)
    ran = configured("import", exported, *NEW)
    assert asked == ["Write this to sqlite:///new.db?"]
    assert ran.code == code
    assert Path("new.db").exists() == answer
    assert configured("import", exported, *NEW, "--dry-run").code == 0
    assert len(asked) == 1


def test_what_changes_while_it_asks_is_not_written_over(
    exported: str, configured: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(_: str) -> bool:
        # In a process of its own, as this one's loop is the command's.
        subprocess.run(
            [sys.executable, "-c", f"import {__name__} as t; t.create_first('sqlite:///new.db')"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
        )
        return True

    monkeypatch.setattr(state_module, "is_terminal", lambda: True)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", create)
    ran = configured("import", exported, *NEW)
    assert ran.code == 1
    assert "was changed meanwhile" in ran.err
    assert held("sqlite:///new.db").document == first_document()


def create_first(url: str) -> None:
    """Make the first document in a store."""
    in_store(url, lambda store: store.create(first_document(), "op"))


def test_standard_input_is_read(
    exported: str, configured: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Path(exported).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    ran = configured("import", "-", *NEW, "--yes")
    assert ran.code == 0
    assert ran.out.startswith("standard input, exported 20")
    assert held("sqlite:///new.db").document.revision == 10


def test_importing_twice_changes_nothing(exported: str, configured: Run) -> None:
    configured("import", exported, *NEW, "--yes")
    before = held("sqlite:///new.db")
    ran = configured("import", exported, *NEW, "--yes")
    assert ran.code == 0
    assert "The document of this file is there already." in ran.out
    assert held("sqlite:///new.db") == before


def test_it_refuses_while_the_pool_runs(exported: str, configured: Run) -> None:
    in_store("sqlite:///new.db", lambda store: store.beat(process_row("p1")))
    for flags in ((), ("--yes", "--replace"), ("--yes", "--json")):
        ran = configured("import", exported, *NEW, *flags)
        assert ran.code == 1
        assert ran.err.startswith("livekit-pool: 1 process uses the store sqlite:///new.db (on ")
        assert ("THERE" in ran.out) == ("--json" not in flags)
    assert in_store("sqlite:///new.db", look).document is None


def test_it_refuses_to_replace_a_document_unless_told_to(exported: str, configured: Run) -> None:
    in_store("sqlite:///new.db", lambda store: store.create(first_document(20), "op"))
    ran = configured("import", exported, *NEW, "--yes")
    assert ran.code == 1
    assert ran.err == (
        "livekit-pool: The store sqlite:///new.db holds a document already, at revision 20: "
        "give --replace to put this one in its place.\n"
    )
    assert held("sqlite:///new.db").document == first_document(20)
    assert configured("import", exported, *NEW, "--yes", "--replace").code == 0
    there = held("sqlite:///new.db")
    assert (there.document.revision, there.history[-1].from_) == (21, "red")


def test_an_interrupted_import_is_repeated(
    exported: str, configured: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew = SqliteStore.renew

    async def gone(*_: object) -> None:
        raise StoreUnavailable("The database is locked by others.")

    monkeypatch.setattr(SqliteStore, "renew", gone)
    ran = configured("import", exported, *NEW, "--yes")
    assert (ran.code, ran.err) == (1, "livekit-pool: The database is locked by others.\n")
    monkeypatch.setattr(SqliteStore, "renew", renew)
    assert in_store("sqlite:///new.db", look).placements == ()
    assert configured("import", exported, *NEW, "--yes").code == 0
    assert held("sqlite:///new.db").placements == PLACEMENTS
    assert held("sqlite:///new.db").document.revision == 10


def test_many_placements_are_told_of(configured: Run) -> None:
    one = PLACEMENTS[0]
    many = tuple(replace(one, room=f"room-{number:04}") for number in range(1500))
    Path("many.json").write_text(state_to_json(replace(STATE, placements=many)))
    ran = configured("import", "many.json", *NEW, "--yes")
    assert ran.code == 0
    assert ran.err == ("Placements written: 1,000 of 1,500.\nPlacements written: 1,500 of 1,500.\n")
    assert held("sqlite:///new.db").placements == many


def test_names_that_the_configuration_does_not_have_are_told(
    exported: str, configured: Run
) -> None:
    changed = Path(".env.local").read_text().replace("=grün", "=green")
    Path(".env.local").write_text(changed)
    ran = configured("import", exported, *NEW)
    assert "The active server, grün, is not in this configuration's list of servers" in ran.out
    assert json.loads(configured("import", exported, *NEW, "--json").out)["warnings"]


# -- bad input --


@pytest.mark.parametrize("text", ["", "{}", '{"format": "livekit-pool state", "version": 2}', "\0"])
def test_a_bad_file_is_exit_code_2_and_writes_nothing(configured: Run, text: str) -> None:
    Path("bad.json").write_text(text)
    ran = configured("import", "bad.json", *NEW, "--yes", "--replace")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("livekit-pool: bad.json: ")
    assert not Path("new.db").exists()


def test_nonsense_in_any_field_is_exit_code_2(exported: str, configured: Run) -> None:
    """One field at a time; which values are nonsense is tested beside the reader of the file."""
    content = json.loads(Path(exported).read_text())
    fields: list[tuple[Any, ...]] = [(key,) for key in content] + [
        ("document", key) for key in content["document"]
    ]
    fields += [("history", 3, key) for key in content["history"][3]]
    fields += [("placements", 1, key) for key in content["placements"][1]]
    for *way, last in fields:
        edited = json.loads(Path(exported).read_text())
        inner = edited
        for key in way:
            inner = inner[key]
        inner[last] = True
        Path("bad.json").write_text(json.dumps(edited))
        ran = configured("import", "bad.json", *NEW, "--yes")
        assert (ran.code, ran.out) == (2, ""), last
        assert str(last) in ran.err
        assert ran.err.count("\n") == 1
    assert len(fields) > 30
    assert not Path("new.db").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.json", "missing.json cannot be read: No such file or directory."),
        (".", ". cannot be read: Is a directory."),
        ("bytes.json", "bytes.json: this is not JSON; export the state again."),
    ],
)
def test_a_file_that_cannot_be_read(configured: Run, name: str, sentence: str) -> None:
    Path("bytes.json").write_bytes(b"\xff\xfe")
    ran = configured("import", name, *NEW, "--yes")
    assert (ran.code, ran.err) == (2, f"livekit-pool: {sentence}\n")


def test_a_target_that_cannot_be_is_exit_code_2(exported: str, configured: Run) -> None:
    Path("text.db").write_text("no database at all, but long enough to look like something" * 20)
    with closing(sqlite3.connect("other.db")) as db:
        db.execute("CREATE TABLE other (x)")
    for url in ("sqlite:///text.db", "sqlite:///other.db", "sqlite:///nowhere/x.db", "ftp://x"):
        ran = configured("import", exported, "--store", url, "--yes")
        assert (ran.code, ran.out) == (2, ""), url
        assert "LIVEKIT_POOL_STORE" in ran.err or "--store" in ran.err


def test_without_servers_it_says_so(exported: str, configured: Run) -> None:
    Path(".env.local").write_text("LIVEKIT_POOL_STORE=sqlite:///old.db")
    ran = configured("export")
    assert ran.code == 2
    assert "LIVEKIT_SERVERS_0_URL" in ran.err
