"""
Bad settings, in the folder where a pool ran before: one sentence, and nothing there is touched.

Each goes through the installed command in a process of its own. `tests/cli/test_serve.py` has more
ways to be refused; here every file is compared.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from livekit_pool.local import reserve_port
from livekit_pool.stores.sqlite import SqliteStore
from tests.stores.redis_server import RedisServer
from tests.stores.values import first_document

COMMAND = Path(sys.executable).with_name("livekit-pool")
SECRET = "a-server-secret-that-must-never-be-seen"
POOL_SECRET = "the-pools-own-secret-that-must-not-be-seen"
PORT = "7870"
"""Only for settings that are refused before anything listens."""

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z INFO +\S")


def server(number: int, **changes: str) -> dict[str, str]:
    """The variables of one server; an empty value removes one."""
    fields = {
        "NAME": f"server-{number}",
        "URL": f"ws://127.0.0.{number + 2}:1",
        "KEY": f"key-{number}",
        "SECRET": SECRET,
    } | changes
    return {f"LIVEKIT_SERVERS_{number}_{name}": value for name, value in fields.items() if value}


def servers(count: int) -> dict[str, str]:
    """The variables of several."""
    return {name: value for number in range(count) for name, value in server(number).items()}


class Place:
    """The folder in which a pool ran before: its database, its key pair and its .env file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env_file = folder / ".env"
        self.database = folder / "livekit-pool.db"
        self.env_file.write_text(f"LIVEKIT_POOL_KEY=poolkey\nLIVEKIT_POOL_SECRET={POOL_SECRET}\n")
        with sqlite3.connect(self.database) as database:
            # Nobody's: what opens it must refuse it, and so every case but its own ends before.
            database.execute("CREATE TABLE kept (what TEXT)")
        database.close()
        (folder / "livekit-pool.key").write_text("LIVEKIT_POOL_KEY=k\nLIVEKIT_POOL_SECRET=short\n")

    def serve(self, variables: Mapping[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
        """Serve with these settings until it ends by itself."""
        return subprocess.run(
            [COMMAND, "serve", *flags],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def refused(self, variables: Mapping[str, str], *flags: str) -> str:
        """Serve with these settings; the one sentence with which that is refused."""
        before = self._content()
        ran = self.serve(variables, *flags)
        *lines, sentence = ran.stderr.splitlines()
        assert ran.returncode == 2, ran.stderr
        assert ran.stdout == ""
        # What only a worker finds out comes after the line that says what it would serve.
        assert all(LOG_LINE.match(line) for line in lines), ran.stderr
        assert re.fullmatch(r"livekit-pool: .*\.", sentence)
        for secret in (SECRET, POOL_SECRET):
            assert secret not in ran.stderr
        assert self._content() == before
        return sentence

    def _content(self) -> dict[str, bytes | str]:
        """What each file holds, and where each link leads."""
        return {
            path.name: os.readlink(path) if path.is_symlink() else path.read_bytes()
            for path in self.folder.iterdir()
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def port() -> Iterator[str]:
    number, held = reserve_port()
    with held:
        yield str(number)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        pytest.param({}, ["no server", "LIVEKIT_SERVERS_0_URL"], id="none"),
        pytest.param(server(0, URL=""), ["LIVEKIT_SERVERS_0_URL is missing"], id="no URL"),
        pytest.param(server(0, SECRET=""), ["LIVEKIT_SERVERS_0_SECRET is missing"], id="no secret"),
        pytest.param(
            {"LIVEKIT_URL": "ws://127.0.0.2:1", "LIVEKIT_API_KEY": "key"},
            ["LIVEKIT_API_SECRET is missing"],
            id="half of the only one",
        ),
        pytest.param(
            server(0) | server(1, NAME="Server-0"),
            ["LIVEKIT_SERVERS_0_NAME", "LIVEKIT_SERVERS_1_NAME"],
            id="two of one name",
        ),
        pytest.param(
            server(0, URL="ws://one.example") | server(1, URL="http://ONE.example.:80/"),
            ["LIVEKIT_SERVERS_0_URL", "LIVEKIT_SERVERS_1_URL"],
            id="two of one URL",
        ),
        pytest.param(server(0, URL="ftp://one.example"), ["LIVEKIT_SERVERS_0_URL"], id="ftp"),
        pytest.param(server(0, URL="one.example"), ["LIVEKIT_SERVERS_0_URL"], id="no scheme"),
        pytest.param(servers(21), ["LIVEKIT_SERVERS_20_", "at most 20"], id="21"),
        pytest.param(
            server(0) | {"LIVEKIT_POOL_KEY": "k", "LIVEKIT_POOL_SECRET": "x" * 31},
            ["LIVEKIT_POOL_SECRET", "at least 32"],
            id="short secret",
        ),
        *(
            pytest.param(
                server(0, URL=url) | own, ["LIVEKIT_SERVERS_0_URL is the pool's own"], id=f"{url}"
            )
            for url, own in (
                (f"ws://127.0.0.1:{PORT}", {}),
                (f"http://LOCALHOST:{PORT}/", {}),
                (f"ws://[::1]:{PORT}", {"LIVEKIT_POOL_HOST": "::"}),
                (f"ws://127.0.0.1:{PORT}", {"LIVEKIT_POOL_HOST": "0.0.0.0"}),
                ("https://pool.example", {"LIVEKIT_POOL_URL": "wss://pool.example:443"}),
            )
        ),
    ],
)
def test_settings(place: Place, variables: dict[str, str], named: list[str]) -> None:
    sentence = place.refused(variables)

    for name in named:
        assert name in sentence


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"LIVEKIT_SERVERS_0_NAME=\xff\xfe", "line 3, is not UTF-8"),
        (f"{SECRET} is my secret".encode(), "line 3, is not NAME=value"),
    ],
)
def test_an_env_file_that_cannot_be_understood(place: Place, line: bytes, named: str) -> None:
    with place.env_file.open("ab") as file:
        file.write(line + b"\n")

    assert f"{place.env_file}, {named}" in place.refused(server(0))


def test_an_env_file_that_cannot_be_read(place: Place) -> None:
    # Nobody can read it, root included, for whom permissions would not count.
    place.env_file.unlink()
    place.env_file.symlink_to(place.env_file)

    assert f"{place.env_file} cannot be read" in place.refused(server(0))


@pytest.mark.parametrize("content", [b"kept\n" * 1000, b"\0" * 4096, None])
def test_a_database_that_is_not_one(place: Place, port: str, content: bytes | None) -> None:
    if content is not None:  # else another program's
        place.database.write_bytes(content)

    sentence = place.refused(server(0) | {"LIVEKIT_POOL_PORT": port})

    assert f"LIVEKIT_POOL_STORE: {place.database} is " in sentence


def document_of_schema(place: Place, schema: int) -> None:
    """Keep a document of another version in the folder's database."""

    async def keep() -> None:
        place.database.unlink()
        async with SqliteStore(f"sqlite:///{place.database}") as store:
            await store.create(first_document(), "a")

    asyncio.run(keep())
    with closing(sqlite3.connect(place.database)) as db, db:
        db.execute(f"UPDATE document SET content = json_set(content, '$.schema', {schema})")
    with closing(sqlite3.connect(place.database)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def test_a_document_of_another_version(place: Place, port: str) -> None:
    document_of_schema(place, 2)

    ran = place.serve(server(0) | {"LIVEKIT_POOL_PORT": port})

    assert ran.returncode == 2
    assert "LIVEKIT_POOL_STORE" in ran.stderr.splitlines()[-1]
    assert "schema 2" in ran.stderr.splitlines()[-1]
    with closing(sqlite3.connect(place.database)) as db:
        assert json.loads(db.execute("SELECT content FROM document").fetchone()[0])["schema"] == 2


@pytest.mark.needs("redis")
@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://:{password}@127.0.0.1:{port}", "password"),
        ("redis://127.0.0.1:{port}", "password"),
        ("redis://:right@127.0.0.1:{port}/99", "99"),
        ("redis://nobody:{password}@127.0.0.1:{port}", "user"),
        ("redis://127.0.0.1:{port}/zero", "database"),
    ],
)
def test_a_redis_that_refuses(
    place: Place, port: str, tmp_path_factory: pytest.TempPathFactory, url: str, named: str
) -> None:
    redis = RedisServer(tmp_path_factory.mktemp("redis"), "requirepass right")
    try:
        store = url.format(port=redis.port, password=SECRET)
        sentence = place.refused(
            server(0) | {"LIVEKIT_POOL_PORT": port, "LIVEKIT_POOL_STORE": store}
        )
    finally:
        redis.kill()

    assert "LIVEKIT_POOL_STORE" in sentence
    assert named in sentence


def test_a_port_in_use(place: Place) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])

        sentence = place.refused(server(0) | {"LIVEKIT_POOL_PORT": taken})

        assert f"LIVEKIT_POOL_PORT {taken} is in use" in sentence
        with socket.create_connection(other.getsockname()):
            pass  # it still listens
