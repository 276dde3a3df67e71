"""What is special about the Redis store: its URL, and what a Redis may refuse or forget."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from redis._parsers.base import BaseParser
from redis.asyncio import Redis
from redis.exceptions import RedisError

from livekit_pool.core.stored import to_mapping
from livekit_pool.exceptions import (
    ConfigurationError,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
)
from livekit_pool.stores.base import Changed, Moved, Placement, Resync, SwapOutcome, Swapped
from livekit_pool.stores.redis import RedisStore
from livekit_pool.stores.redis_calls import LIMIT
from livekit_pool.stores.redis_errors import misconfigured, refusal
from livekit_pool.stores.redis_parts import HISTORY_KEPT
from livekit_pool.stores.redis_watch import LOOKS
from tests.core.nonsense import NONSENSE, edited, is_legal, is_refused, is_told
from tests.real.authority import Authority
from tests.real.until import until

from .outages import BACK, BOUND, timed, works_again
from .redis_server import RedisServer, free_port
from .tcp_proxy import TcpProxy
from .values import (
    Clock,
    first_document,
    following,
    process_row,
    repairs,
    rich_document,
    rotation_to,
)

pytestmark = pytest.mark.needs("redis")

SECRET = "s3cret/?#@:"
QUOTED = "s3cret%2F%3F%23%40%3A"
DOCUMENT = "{livekit-pool}:document"
Notice = Changed | Moved | Resync


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A plain one."""
    with running(tmp_path / "redis") as server:
        yield server


@contextlib.contextmanager
def running(folder: Path, *settings: str, **options: Any) -> Iterator[RedisServer]:
    server = RedisServer(folder, *settings, **options)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    async with RedisStore(server.url, names=["red", "green"]) as store:
        yield store


@asynccontextmanager
async def watching(store: RedisStore) -> AsyncIterator[list[Notice]]:
    """What ``store`` tells, a list that grows."""
    notices: list[Notice] = []

    async def watch() -> None:
        async for notice in store.watch():
            notices.append(notice)  # noqa: PERF401  # it is looked at meanwhile

    task = asyncio.create_task(watch())
    await until(lambda: Resync() in notices, seconds=BACK, what="the first notice")
    try:
        yield notices
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def refused(url: str) -> str:
    """The sentence with which the store refuses that URL when it is opened."""
    with pytest.raises(ConfigurationError) as refusal:
        async with RedisStore(url):
            pass
    sentence = str(refusal.value)
    assert sentence.startswith("LIVEKIT_POOL_STORE: ")
    assert "\n" not in sentence
    assert "s3cret" not in sentence
    return sentence


def answered(text: str) -> RedisError:
    """What the client makes of an error that Redis answers."""
    error: RedisError = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    return error


async def works(store: RedisStore) -> None:
    """Everything that needs a right of its own."""
    async with store, watching(store) as notices:
        await store.create(first_document(), "a")
        placed = await store.place("standup", "red", 1)
        assert isinstance(placed, Placement)
        assert await store.confirm(placed, "p1", 0.0) == placed
        await store.beat(process_row("p1"))
        moved = Moved(Placement(room="standup", server="green", revision=2))
        assert await store.move("standup", "green", 2, "p1") == moved.placement
        await until(lambda: moved in notices, seconds=1, what="the move is told")
        await store.count({"p1": {"red": 1}})
        assert (await store.load()).document == first_document()


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://host", "redis://host:6379/0"),
            ("redis://user:s3cret@host:7000/3?prefix=b", "redis://host:7000/3?prefix=b"),
            ("redis://:s3cret@[::1]/", "redis://[::1]:6379/0"),
            ("redis://host?db=2&prefix=livekit-pool", "redis://host:6379/2"),
            ("rediss://u:s3cret@host?ssl_ca_certs=/ca.pem", "rediss://host:6379/0"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("unix://u:s3cret@/run/a%20b?db=4&prefix=c", "unix:///run/a%20b?db=4&prefix=c"),
        ],
    )
    def test_is_shown_without_user_and_password(self, url: str, shown: str) -> None:
        store = RedisStore(url)

        assert store.url == shown
        assert repr(store) == f"<RedisStore {shown} closed>"
        for part in vars(store).values():
            assert "s3cret" not in repr(part)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://",
            "redis:///3",
            "redis://host/x",
            "redis://host/-1",
            "redis://host/1/2",
            "redis://host:port",
            "redis://host:99999",
            "redis://host/1?db=2",
            "redis://host/1#2",
            "redis://host?prefix=",
            "redis://host?prefix={b}",
            "redis://host?prefix=a b",
            "redis://host?timeout=3",
            "redis://host?ssl_ca_certs=/ca.pem",
            "redis://host?db",
            "redis://[::1",
            "redis://user:s3cret#1@host",
            "redis://user:s3cret/1@host",
            "redis://user:s3cret?1@host",
            "unix://",
            "unix:///",
            "unix://relative/path",
            "unix:///path?db=x",
        ],
    )
    def test_that_names_none_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match=r"^LIVEKIT_POOL_STORE: .*Redis") as no:
            RedisStore(url)

        assert "s3cret" not in str(no.value)
        assert "/x" not in str(no.value)


class TestEntrance:
    async def test_with_a_password(self, tmp_path: Path) -> None:
        with running(tmp_path / "redis", f'requirepass "{SECRET}"') as server:
            place = f"127.0.0.1:{server.port}"
            await works(RedisStore(f"redis://:{QUOTED}@{place}"))
            await works(RedisStore(f"redis://default:{QUOTED}@{place}/3"))
            assert "refuses the user name or the password" in await refused(
                f"redis://:s3cret@{place}"
            )
            assert "asks for a password" in await refused(f"redis://{place}")
            assert f"redis://{place}/0" in await refused(f"redis://u:s3cret@{place}")

    async def test_with_a_password_that_nobody_asks_for(self, server: RedisServer) -> None:
        await works(RedisStore(f"redis://:s3cret@127.0.0.1:{server.port}"))

    async def test_as_a_user_with_the_rights_in_the_documents(self, tmp_path: Path) -> None:
        (rights,) = {
            line.split("ACL SETUSER livekit-pool ")[1]
            for line in Path("docs/settings.md").read_text().splitlines()
            if "ACL SETUSER livekit-pool " in line
        }
        rule = rights.replace(">PASSWORD", f">{SECRET}").replace("'", "")
        with running(tmp_path / "redis") as server:
            assert server.command("ACL", "SETUSER", "livekit-pool", *rule.split()) == "+OK"
            server.command("ACL", "SETUSER", "reader", "on", ">s3cret", "+@read", "~*")
            place = f"127.0.0.1:{server.port}"

            url = f"redis://livekit-pool:{QUOTED}@{place}"
            await works(RedisStore(url))
            server.command("ACL", "SETUSER", "livekit-pool", "-publish")
            async with RedisStore(url) as store:
                # Nothing is half done: others hear of it later, by their periodic look.
                answer = await store.swap(1, following(first_document()), "b")
                assert answer.outcome is SwapOutcome.WON
                assert isinstance(await store.move("standup", "blue", 3, "p1"), Placement)
            assert "does not let this user" in await refused(f"redis://reader:s3cret@{place}")
            assert "does not let this user" in await refused(
                f"redis://livekit-pool:{QUOTED}@{place}?prefix=another"
            )

    async def test_to_a_database_that_is_not_there(self, server: RedisServer) -> None:
        assert "has no database of that number" in await refused(f"{server.url}/16")
        assert "has no database of that number" in await refused(f"{server.url}/999999999")

    async def test_by_a_unix_socket(self, server: RedisServer) -> None:
        await works(RedisStore(f"unix://{server.socket}?db=1"))

        assert server.command("DBSIZE") == ":0"

    async def test_by_tls(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        certificate = authority.issue()
        settings = (
            f"tls-cert-file {certificate.path}",
            f"tls-key-file {certificate.key}",
            f"tls-ca-cert-file {authority.path}",
            "tls-auth-clients optional",
        )
        with running(tmp_path / "tls", *settings, tls=True) as secure:
            url = f"rediss://127.0.0.1:{secure.port}"
            trusting = f"{url}?ssl_ca_certs={authority.path}"

            await works(RedisStore(trusting))
            assert "not to be trusted" in await refused(url)
            assert "there is no file" in await refused(f"{url}?ssl_ca_certs=/no/such/file")
            assert "is not PEM" in await refused(f"{url}?ssl_ca_certs={Path(__file__)}")

            assert secure.command("CONFIG", "SET", "tls-auth-clients", "yes") == "+OK"
            # Redis hangs up; whether its reason arrives before that is a matter of luck.
            with pytest.raises((ConfigurationError, StoreUnavailable)):
                async with RedisStore(trusting) as store:
                    await store.load()
            own = authority.issue()
            await works(
                RedisStore(f"{trusting}&prefix=b&ssl_certfile={own.path}&ssl_keyfile={own.key}")
            )

    async def test_to_something_else(self) -> None:
        async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(hello, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]

            assert "does not answer as a Redis" in await refused(f"redis://127.0.0.1:{port}")
            assert "does not speak TLS" in await refused(f"rediss://127.0.0.1:{port}")

    async def test_to_nobody_is_no_mistake(self) -> None:
        async with RedisStore(f"redis://127.0.0.1:{free_port()}") as store:
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await store.load()
        async with RedisStore("redis://no-such-host.invalid") as store:
            with pytest.raises(StoreUnavailable):
                await store.load()


class TestRefusal:
    async def test_of_a_replica(self, tmp_path: Path, server: RedisServer) -> None:
        with running(tmp_path / "replica", f"replicaof 127.0.0.1 {server.port}") as replica:
            async with (
                TcpProxy(replica.port) as proxy,
                RedisStore(server.url) as primary,
                RedisStore(f"redis://127.0.0.1:{proxy.port}") as store,
            ):
                await primary.create(first_document(), "a")

                async def replicated() -> bool:
                    return (await store.load()).document is not None

                await until(replicated, seconds=20, what="the document is at the replica")
                with pytest.raises(StoreUnavailable, match="is a replica"):
                    await store.swap(1, following(first_document()), "b")
                with pytest.raises(StoreUnavailable, match="is a replica"):
                    await store.place("standup", "red", 1)
                assert (await store.load()).document == first_document()
                # A new connection may lead to the new primary: each refusal was followed by one.
                assert proxy.connections == 3

                replica.command("REPLICAOF", "NO", "ONE")
                answer = await store.swap(1, following(first_document()), "b")
                assert answer.outcome is SwapOutcome.WON

    async def test_for_want_of_memory(self, server: RedisServer, store: RedisStore) -> None:
        await store.create(first_document(), "a")
        server.command("CONFIG", "SET", "maxmemory", "1")

        with pytest.raises(StoreUnavailable, match="has no memory left"):
            await store.swap(1, following(first_document()), "b", rotation_to(first_document(2)))
        assert (await store.load()).document == first_document()
        assert await store.history() == []

        server.command("CONFIG", "SET", "maxmemory", "0")
        assert (await store.swap(1, following(first_document()), "b")).document is not None

    async def test_because_of_a_new_password(self, server: RedisServer, store: RedisStore) -> None:
        server.kill()
        with (server.folder / "redis.conf").open("a") as settings:
            settings.write("requirepass s3cret\n")
        server.start()

        with pytest.raises(StoreUnavailable, match="asks for a password"):
            await store.load()

    async def test_of_forgotten_scripts_is_not_noticed(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        await store.create(first_document(), "a")
        server.command("SCRIPT", "FLUSH")

        assert (await store.load()).document == first_document()
        assert (await store.swap(1, following(first_document()), "b")).outcome is SwapOutcome.WON

    @pytest.mark.parametrize(
        ("answer", "kind", "sentence"),
        [
            ("LOADING Redis is loading the dataset in memory", StoreUnavailable, "still reading"),
            ("MASTERDOWN Link with MASTER is down", StoreUnavailable, "lost its primary"),
            ("MISCONF Redis is configured to save RDB snapshots", StoreUnavailable, "cannot save"),
            ("BUSY Redis is busy running a script.", StoreUnavailable, "busy with a script"),
            ("NOREPLICAS Not enough good replicas", StoreUnavailable, "too few replicas"),
            ("CLUSTERDOWN The cluster is down", StoreUnavailable, "cluster that is down"),
            ("ERR max number of clients reached", StoreUnavailable, "too many clients"),
            ("NOVEL s3cret", StoreUnavailable, "refuses with NOVEL"),
            ("ERR s3cret", StoreUnavailable, "refuses with ERR"),
            ("ERR user_script:3: bad data script: 12ab, on @user_script:3.", StoreCorrupt, "not a"),
            (
                "ERR Error running script (call to f_1): @user_script:1: WRONGTYPE Operation",
                StoreCorrupt,
                "not a pool's",
            ),
            (
                "ERR Error running script (call to f_1): @user_script:1: -READONLY You can't",
                StoreUnavailable,
                "is a replica",
            ),
        ],
    )
    def test_is_told_in_a_sentence(
        self, answer: str, kind: type[StoreError], sentence: str
    ) -> None:
        told = refusal(answered(answer), "redis://host:1/0")

        assert type(told) is kind
        assert sentence in str(told)
        assert "s3cret" not in str(told)

    @pytest.mark.parametrize(
        ("answer", "sentence"),
        [
            ("MOVED 3999 127.0.0.1:6381", "is one of a Redis Cluster"),
            ("ERR SELECT is not allowed in cluster mode", "is one of a Redis Cluster"),
            ("ERR unknown command 'EVALSHA', with args", "Redis 6 or newer"),
        ],
    )
    def test_that_no_program_can_mend_is_about_the_setting(
        self, answer: str, sentence: str
    ) -> None:
        told = misconfigured(answered(answer), "redis://host:1/0")

        assert told is not None
        assert sentence in str(told)
        assert str(told).startswith("LIVEKIT_POOL_STORE: the Redis redis://host:1/0 ")


class TestSecrets:
    async def test_are_in_no_error_and_no_line_of_the_log(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        errors: list[BaseException] = []
        with running(tmp_path / "redis", f'requirepass "{SECRET}"') as server:
            for url in (
                f"redis://:wrong-s3cret@127.0.0.1:{server.port}",
                f"redis://:{QUOTED}@127.0.0.1:{server.port}",
            ):
                store = RedisStore(url)
                try:
                    async with store:
                        assert "s3cret" not in repr(store)
                        server.kill()
                        await store.place("standup", "red", 0)
                except (ConfigurationError, StoreError) as error:
                    errors.append(error)
        assert len(errors) == 2
        for each in errors:
            shown: BaseException | None = each
            while shown is not None:
                assert "s3cret" not in f"{shown!r} {shown}"
                shown = shown.__cause__
        assert "s3cret" not in caplog.text


class TestSharing:
    async def test_two_pools_do_not_meet(self, server: RedisServer) -> None:
        async with (
            RedisStore(server.url) as one,
            RedisStore(f"{server.url}?prefix=two") as two,
            RedisStore(f"{server.url}/1") as third,
            watching(two) as notices,
        ):
            await one.create(first_document(), "a")
            await one.move("standup", "red", 1, "p1")
            await one.beat(process_row("p1"))
            await one.count({"p1": {"red": 1}})

            for store in (two, third):
                assert (await store.load()).document is None
                assert await store.placements() == []
                assert await store.rows() == []
                assert await store.ledger() == {}
            await two.create(rich_document(), "b")
            await until(lambda: Changed(1) in notices, seconds=BACK, what="its own change is told")
            assert not any(isinstance(notice, Moved) for notice in notices)
            assert (await one.load()).document == first_document()

    async def test_every_key_is_under_the_prefix_and_in_one_slot(self, server: RedisServer) -> None:
        await works(RedisStore(f"{server.url}?prefix=mine"))

        keys = [line for line in server.command("KEYS", "*").split("\r\n") if "{" in line]
        assert len(keys) >= 8
        assert all(key.startswith("{mine}:") for key in keys)


class TestWatch:
    async def test_makes_up_for_a_lost_message(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        """As if it had been published while nobody was subscribed."""
        async with watching(store) as notices:
            await store.create(first_document(), "a")
            await until(lambda: Changed(1) in notices, seconds=BACK, what="the creation is told")
            server.command("HSET", DOCUMENT, "revision", "2", "operation", "b")
            await until(lambda: Changed(2) in notices, seconds=LOOKS + 5, what="a change")
            server.command("HSET", "{livekit-pool}:placements", "standup", "7 green")
            server.command("ZADD", "{livekit-pool}:moved", "5", "standup")
            server.command("HSET", "{livekit-pool}:moves", "last", "5")
            moved = Moved(Placement(room="standup", server="green", revision=7))
            await until(lambda: moved in notices, seconds=LOOKS + 5, what="a move")

    async def test_each_change_of_the_document_is_published_as_it_is_made(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        """Within the same script: nobody has to look for it."""
        first = first_document()
        second, third = following(first), following(following(first))
        async with Redis.from_url(server.url) as redis, redis.pubsub() as heard:
            await heard.subscribe("{livekit-pool}:notices")
            assert await heard.get_message(timeout=5.0), "it is subscribed"
            for change in (
                store.create(first, "a"),
                store.swap(1, second, "b", rotation_to(second)),
                store.restore(second, third, "c"),
            ):
                assert (await change).outcome is SwapOutcome.WON
                assert await heard.get_message(timeout=5.0), "it is told of"

    async def test_is_subscribed_again_after_a_cut(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        await store.create(first_document(), "a")
        async with watching(store) as notices:
            for _ in range(3):
                notices.clear()
                server.command("CLIENT", "KILL", "TYPE", "pubsub")
                await until(lambda: Resync() in notices, seconds=BACK, what="a Resync")
            await store.move("standup", "red", 1, "p1")
            # By the new subscription: the periodic look would take longer.
            await until(lambda: len(notices) > 1, seconds=LOOKS / 2, what="a move")

    async def test_gives_up_half_a_connection(self, server: RedisServer) -> None:
        async with (
            TcpProxy(server.port) as proxy,
            RedisStore(f"redis://127.0.0.1:{proxy.port}") as store,
            watching(store) as notices,
        ):
            assert proxy.connections == 1
            notices.clear()
            proxy.mute(only=1)

            await until(lambda: Resync() in notices, seconds=BACK, what="a new subscription")
            assert proxy.connections == 2
            await store.move("standup", "red", 1, "p1")
            await until(lambda: len(notices) > 1, seconds=LOOKS / 2, what="a move")

    async def test_tells_when_the_data_are_gone(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        async with watching(store) as notices:
            await store.create(first_document(5), "a")
            moved = Moved(Placement(room="standup", server="red", revision=5))
            assert await store.move("standup", "red", 5, "p1") == moved.placement
            await until(
                lambda: {Changed(5), moved} <= {*notices}, seconds=BACK, what="both are told"
            )
            notices.clear()
            server.command("FLUSHALL")
            await until(lambda: notices == [Resync()], seconds=LOOKS + 5, what="a Resync")
            assert (await store.load()).document is None

    @pytest.mark.parametrize(
        ("key", "field", "value"),
        [
            ("document", "revision", "4"),
            ("document", "revision", "nonsense"),
            ("document", "lineage", "another"),
            ("moves", "born", "another"),
            ("moves", "last", "1"),
        ],
    )
    async def test_tells_when_they_are_those_of_another_life(
        self, server: RedisServer, store: RedisStore, key: str, field: str, value: str
    ) -> None:
        async with watching(store) as early:
            await store.create(first_document(5), "a")
            for revision in (1, 2):
                await store.move("standup", f"server-{revision}", revision, "p1")
            moved = Moved(Placement(room="standup", server="server-2", revision=2))
            await until(lambda: moved in early, seconds=BACK, what="the moves are told")
            # Who was told of no revision yet must be told as well.
            async with watching(store) as late:
                late.clear()
                server.command("HSET", f"{{livekit-pool}}:{key}", field, value)
                await until(lambda: Resync() in late, seconds=LOOKS + 5, what="a Resync")

    async def test_tells_when_nonsense_becomes_other_nonsense(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        async with watching(store) as notices:
            await store.create(first_document(), "a")
            for operation in ("b", "c"):
                await until(lambda: len(notices) > 1, seconds=LOOKS + 5, what="it is told")
                notices[:] = [Resync()]
                server.command("HSET", DOCUMENT, "revision", "x", "operation", operation)
            await until(lambda: len(notices) > 1, seconds=LOOKS + 5, what="the last is told")

    async def test_tells_more_moves_than_one_look_has(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        """All at once, and without a hint."""
        moved = {Placement(room=f"room-{n}", server="red", revision=1) for n in range(1, 2501)}
        script = """
            local prefix = '{livekit-pool}:'
            for n = 1, 2500 do
              redis.call('HSET', prefix .. 'placements', 'room-' .. n, '1 red')
              redis.call('ZADD', prefix .. 'moved', n + 1, 'room-' .. n)
            end
            redis.call('HSET', prefix .. 'moves', 'last', 2501)
        """
        async with RedisStore(server.url) as other, watching(other) as notices:
            await store.move("room-1", "red", 1, "p1")
            await until(lambda: len(notices) > 1, seconds=BACK, what="the first move is told")
            notices.clear()
            view: set[Placement] = set()
            server.command("EVAL", script, "0")

            async def complete() -> bool:
                for notice in notices:
                    if isinstance(notice, Resync):
                        view.update(await other.placements())
                    elif isinstance(notice, Moved):
                        view.add(notice.placement)
                notices.clear()
                return view == moved

            await until(complete, seconds=BACK, what="all moves are told")


class TestDamage:
    @pytest.mark.parametrize("kind", NONSENSE)
    @pytest.mark.parametrize("field", to_mapping(rich_document()))
    async def test_of_a_field_by_hand_is_repaired_and_told(
        self,
        server: RedisServer,
        store: RedisStore,
        caplog: pytest.LogCaptureFixture,
        field: str,
        kind: str,
    ) -> None:
        if is_refused(field, kind):
            return  # that of another version: below
        document = replace(rich_document(), active_server="red", revision=9, active_since=4)
        await store.create(document, "a")
        stored = edited(to_mapping(document), field, kind)
        server.command("HSET", DOCUMENT, "content", json.dumps(stored))

        for _ in range(3):
            read = (await store.load()).document

        assert read is not None
        assert (read.lineage, read.revision) == (document.lineage, 9)
        named = (field, kind) == ("activeServer", "text")
        assert read.active_server == ("nonsense" if named else "red")
        told = repairs(caplog)
        # Lineage and revision stand beside the content too, so that no other one is legal.
        beside = field in ("lineage", "revision")
        assert is_told(told, field) is (beside or not is_legal(field, kind)), told
        # Once each, however often it is read.
        assert len(told) == len(set(told))
        answer = await store.swap(9, following(read), "b")
        assert answer.outcome is SwapOutcome.WON
        assert (await store.load()).document == following(read)

    @pytest.mark.parametrize("nonsense", ["nonsense", "", "-1", "1.5", "gone"])
    @pytest.mark.parametrize("field", ["lineage", "revision", "operation"])
    async def test_of_what_stands_beside_it_is_repaired(
        self, server: RedisServer, store: RedisStore, field: str, nonsense: str
    ) -> None:
        document = first_document(9)
        await store.create(document, "a")
        if nonsense == "gone":
            server.command("HDEL", DOCUMENT, field)
        else:
            server.command("HSET", DOCUMENT, field, nonsense)

        read = (await store.load()).document

        assert read is not None
        assert read.revision == 9
        assert isinstance(await store.place("standup", "red", 9), Placement)
        answer = await store.swap(9, following(read), "b", rotation_to(following(read)))
        assert answer.outcome is SwapOutcome.WON
        assert (await store.load()).document == following(read)
        assert server.command("HGET", DOCUMENT, "revision").endswith("\r\n10")

    async def test_of_what_stands_beside_it_makes_no_empty_store(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        await store.create(first_document(), "a")
        server.command("HDEL", DOCUMENT, "lineage", "revision")

        for answer in (
            await store.restore(None, rich_document(), "b"),
            await store.create(rich_document(), "c"),
        ):
            assert answer.outcome is SwapOutcome.LOST
            assert answer.document == first_document()

    async def test_of_the_active_servers_name_is_mended_by_its_position(
        self, server: RedisServer
    ) -> None:
        content = to_mapping(replace(first_document(), active_server_index=1))
        del content["activeServer"]
        async with RedisStore(server.url, names=["red", "green"]) as store:
            await store.create(first_document(), "a")
            server.command("HSET", DOCUMENT, "content", json.dumps(content))

            document = (await store.load()).document
            assert document is not None
            assert document.active_server == "green"

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("", "is not usable"),
            ("not JSON", "is not usable"),
            ("[]", "is not the document of a pool"),
            ("{}", "names no active server"),
            (json.dumps({**to_mapping(first_document()), "schema": 7}), "is of schema 7"),
            ("\udcff", "is not usable"),
        ],
    )
    async def test_beyond_repair_is_said_in_a_sentence(
        self, server: RedisServer, store: RedisStore, content: str, sentence: str
    ) -> None:
        await store.create(first_document(), "a")
        server.command("HSET", DOCUMENT, "content", content)

        with pytest.raises(StoreCorrupt, match=sentence):
            await store.load()
        with pytest.raises(StoreCorrupt, match=sentence):
            await store.create(first_document(), "b")
        with pytest.raises(StoreCorrupt, match=sentence):
            await store.restore(None, first_document(), "c")

    async def test_of_the_document_without_its_content(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        await store.create(first_document(), "a")
        server.command("HDEL", DOCUMENT, "content")

        with pytest.raises(StoreCorrupt, match="is gone"):
            await store.load()

    @pytest.mark.parametrize(
        "key", ["document", "history", "placements", "holders", "touched", "moves", "ledger"]
    )
    async def test_of_a_key_is_said_and_changes_nothing(
        self, server: RedisServer, store: RedisStore, key: str
    ) -> None:
        await store.create(first_document(), "a")
        server.command("DEL", f"{{livekit-pool}}:{key}")
        server.command("SET", f"{{livekit-pool}}:{key}", "somebody else's")
        second = following(first_document())

        calls: dict[str, Callable[[], Any]] = {
            "document": store.load,
            "history": lambda: store.swap(1, second, "b", rotation_to(second)),
            "placements": lambda: store.place("standup", "red", 1),
            "holders": lambda: store.release("standup", "p1"),
            "touched": lambda: store.place("standup", "red", 1),
            "moves": lambda: store.move("standup", "red", 2, "p1"),
            "ledger": lambda: store.count({"p1": {"red": 1}}),
        }
        with pytest.raises(StoreCorrupt, match="is not a pool's"):
            await calls[key]()

        assert server.command("GET", f"{{livekit-pool}}:{key}").endswith("somebody else's")
        if key == "history":
            assert (await store.load()).document == first_document()
        if key in ("touched", "moves"):
            assert await store.placement("standup") is None

    async def test_of_placements_rows_and_ledger(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        await store.beat(process_row("p1"))
        for key in ("placements", "processes", "ledger"):
            server.command("HSET", f"{{livekit-pool}}:{key}", "p1", "nonsense")

        for call in (store.placements, store.rows, store.ledger):
            with pytest.raises(StoreCorrupt, match="damaged"):
                await call()


class TestKeeping:
    async def test_a_history_that_is_long_loses_its_oldest(self, store: RedisStore) -> None:
        more = 50
        newest = first_document(HISTORY_KEPT + more)
        entries = [
            rotation_to(replace(newest, revision=number)) for number in range(1, newest.revision)
        ]
        await store.restore(None, newest, "a", entries)
        last = following(newest)
        await store.swap(newest.revision, last, "b", rotation_to(last))

        kept = await store.history(2 * HISTORY_KEPT)

        assert len(kept) == HISTORY_KEPT
        assert kept[0].revision == last.revision
        assert kept[-1].revision == more + 1

    async def test_a_rotation_takes_the_place_of_one_of_a_lost_document(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        second = following(first_document())
        for reason in ("lost", "kept"):
            server.command("DEL", DOCUMENT)
            await store.create(first_document(), "a")
            rotation = replace(rotation_to(second), reason=reason)
            await store.swap(1, second, reason, rotation)

        assert [entry.reason for entry in await store.history()] == ["kept"]

    async def test_who_is_dead_for_long_is_forgotten(
        self, server: RedisServer, clock: Clock
    ) -> None:
        async with RedisStore(server.url, clock=clock) as store:
            await store.create(first_document(), "a")
            placed = Placement(room="standup", server="red", revision=1)
            for process in ("dead", "living"):
                await store.beat(process_row(process))
                await store.renew([placed, replace(placed, room=f"of {process}")], process)
            assert server.command("HLEN", "{livekit-pool}:holders") == ":3"

            clock.turn(3599)
            await store.beat(process_row("living"))
            assert len(await store.rows(within=4000)) == 2
            clock.turn(2)
            await store.beat(process_row("living"))

            assert [row.process for row in await store.rows(within=4000)] == ["living"]
            assert server.command("HLEN", "{livekit-pool}:holders") == ":2"
            assert len(await store.placements()) == 3

    async def test_a_row_of_a_newer_version_is_read_as_far_as_it_is_known(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        await store.beat(process_row("p1"))
        row = {**asdict(process_row("p1")), "new": 1}
        server.command("HSET", "{livekit-pool}:processes", "p1", json.dumps(row))

        (read,) = await store.rows()

        assert replace(read, beat=0.0) == process_row("p1")


class TestCalls:
    async def test_one_that_is_cancelled_takes_nobody_elses_answer(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        await store.create(first_document(), "a")
        calls = [
            asyncio.create_task(store.place(f"room-{number}", f"server-{number}", 1))
            for number in range(300)
        ]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()

        for number, call in enumerate(calls):
            if number % 2:
                placed = Placement(room=f"room-{number}", server=f"server-{number}", revision=1)
                assert await call == placed
        # All on one connection: the other one asks.
        assert server.command("CLIENT", "LIST").count("id=") == 2

    @pytest.mark.parametrize("cut", [True, False])
    async def test_a_swap_whose_answer_was_lost_learns_that_it_won(
        self, server: RedisServer, cut: bool
    ) -> None:
        async with (
            TcpProxy(server.port) as proxy,
            RedisStore(f"redis://127.0.0.1:{proxy.port}") as store,
            RedisStore(server.url) as other,
        ):
            await store.create(first_document(), "a")
            proposal = following(first_document())

            async def applied() -> bool:
                return (await other.load()).document == proposal

            proxy.mute(only=1)
            swapping = asyncio.create_task(store.swap(1, proposal, "b", rotation_to(proposal)))
            await until(applied, seconds=BOUND, what="the swap is applied")
            if cut:
                await proxy.cut()

            answer = await timed(swapping)
            assert answer == Swapped(outcome=SwapOutcome.WON, document=proposal)
            assert await store.history() == [rotation_to(proposal)]

    async def test_a_long_one_to_a_frozen_redis_ends_in_time(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        """More than the buffers of both kernels take: it cannot even be sent."""
        rotation = replace(rotation_to(first_document()), reason="x" * 1000)
        entries = [rotation] * 20_000
        server.freeze()

        with pytest.raises(StoreError):
            await timed(store.restore(None, first_document(), "a", entries))

        server.thaw()
        await works_again(store)

    async def test_one_over_which_this_process_stood_still_is_answered(
        self, store: RedisStore
    ) -> None:
        await store.create(first_document(), "a")
        calling = asyncio.create_task(store.place("standup", "red", 1))
        await asyncio.sleep(0)

        time.sleep(LIMIT + 0.5)  # noqa: ASYNC251  # as if it had been stopped

        assert await calling == Placement(room="standup", server="red", revision=1)

    async def test_those_that_wait_end_with_the_store(self, server: RedisServer) -> None:
        async with TcpProxy(server.port) as proxy:
            store = RedisStore(f"redis://127.0.0.1:{proxy.port}")
            async with store:
                proxy.mute()
                calls = [asyncio.create_task(store.load()), asyncio.create_task(store.leave("p1"))]
                await asyncio.sleep(0)
                async with asyncio.timeout(1):
                    await store.aclose()
                    answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers[0], StoreUnavailable)
        assert isinstance(answers[1], StoreError)

    async def test_a_name_that_cannot_be_stored_is_the_callers_error(
        self, store: RedisStore
    ) -> None:
        with pytest.raises(ValueError, match="surrogates"):
            await store.placement("\ud800")

        assert (await store.load()).document is None

    async def test_names_may_be_anything_else(self, store: RedisStore) -> None:
        await store.create(first_document(), "a")
        names = ["", " ", "1", "7 green", "a\nb", "{x}:y", "\0", "☎" * 3000, "livekit-pool"]
        for number, name in enumerate(names):
            placed = Placement(room=name, server=name, revision=1)
            assert await store.place(name, name, 1) == placed
            assert await store.confirm(placed, f"p{name}", 0.0) == placed
            await store.beat(replace(process_row(f"p{name}"), names=(name,)))
            assert await store.rooms() == dict.fromkeys(names[: number + 1], 1)
        for name in names:
            await store.leave(f"p{name}")
        assert await store.rooms() == {}
        assert await store.rows() == []

    async def test_the_time_is_that_of_redis(self, server: RedisServer, store: RedisStore) -> None:
        seconds = int(server.command("TIME").split("\r\n")[2])

        assert (await store.load()).now == pytest.approx(seconds, abs=20)
