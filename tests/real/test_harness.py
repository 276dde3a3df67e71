"""The harness itself, against bare LiveKit servers: its meters run, and can fail."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from pathlib import Path

import pytest
from livekit import rtc

from livekit_pool.local import LocalServer
from tests.real.arrivals import Arrivals
from tests.real.browser.tab import Browser
from tests.real.call import Participant, make_token
from tests.real.node.rooms import rooms
from tests.real.pool_process import PoolProcess
from tests.real.until import until

ROOM = "standup"


def token(server: LocalServer, identity: str) -> str:
    return make_token(server.key, server.secret, room=ROOM, identity=identity)


# ---- arrivals ---------------------------------------------------------------------------------


def test_gaps_count_the_silence_at_the_edges() -> None:
    arrivals = Arrivals([1.0, 1.5, 3.0], [1, 2, 4])
    assert arrivals.longest_gap() == 1.5
    assert arrivals.longest_gap(since=1.0, until=1.6) == 0.5
    assert arrivals.longest_gap(since=0.0, until=7.0) == 4.0
    assert arrivals.longest_gap(since=4.0) == math.inf
    assert Arrivals().longest_gap() == math.inf


def test_missing_and_repeated_messages() -> None:
    arrivals = Arrivals([0, 0, 0, 0], [3, 4, 4, 7])
    assert arrivals.missing(9) == [5, 6, 8, 9]
    assert arrivals.repeated() == 1
    assert Arrivals().missing(2) == [1, 2]


# ---- Python SDK -------------------------------------------------------------------------------


async def test_a_call_in_python(livekit_servers: list[LocalServer]) -> None:
    server = livekit_servers[0]
    async with Participant("alice") as alice, Participant("bob") as bob:
        await alice.join(server.url, token(server, "alice"), audio=True)
        await bob.join(server.url, token(server, "bob"))
        await alice.meets(bob)
        await bob.meets(alice)
        alice.start_sending()
        await bob.gets(alice)
        await bob.hears(alice)
        begun = time.monotonic()
        await until(lambda: time.monotonic() > begun + 2, seconds=3, what="two seconds of call")
        ended = time.monotonic()
        await alice.stop_sending()
        assert await bob.lost(alice) == []
        assert bob.data["alice"].repeated() == 0
        assert bob.data["alice"].longest_gap(since=begun, until=ended) < 0.5
        assert bob.audio["alice"].longest_gap(since=begun, until=ended) < 0.5
        assert not bob.audio.keys() - {"alice"}
        assert bob.count("track_subscribed") == 1
        assert alice.count("disconnected") == 0


async def test_a_server_that_is_stopped_for_good_says_so(
    livekit_servers: list[LocalServer],
) -> None:
    server = livekit_servers[0]
    async with Participant("alice") as alice:
        await alice.join(server.url, token(server, "alice"))
        await server.terminate()
        await until(lambda: alice.count("disconnected"), seconds=5, what="alice is told")
        assert [e.detail for e in alice.events if e.name == "disconnected"] == ["SERVER_SHUTDOWN"]


async def test_a_frozen_server_is_a_gap_in_data_and_audio(
    livekit_servers: list[LocalServer],
) -> None:
    server = livekit_servers[0]
    async with Participant("alice") as alice, Participant("bob") as bob:
        await alice.join(server.url, token(server, "alice"), audio=True)
        await bob.join(server.url, token(server, "bob"))
        alice.start_sending()
        await bob.gets(alice)
        await bob.hears(alice)
        frozen = time.monotonic()
        await server.freeze()
        # What was under way still arrives, and the decoder fades out; then nothing may count.
        await asyncio.sleep(1.5)
        await server.thaw()
        thawed = time.monotonic()
        await bob.gets(alice)
        await bob.hears(alice)
        assert bob.data["alice"].longest_gap(since=frozen) > (thawed - frozen) * 0.8
        assert bob.audio["alice"].longest_gap(since=frozen) > (thawed - frozen) * 0.6


async def test_servers_know_nothing_of_each_other(livekit_servers: list[LocalServer]) -> None:
    red, green, _ = livekit_servers
    async with Participant("alice") as alice, Participant("bob") as bob:
        await alice.join(red.url, token(red, "alice"))
        await bob.join(green.url, token(green, "bob"))
        with pytest.raises(AssertionError, match=r"bob meets \['alice'\]; it sees \[\]"):
            await bob.meets(alice, seconds=0.5)


async def test_waits_for_a_participant_that_reconnects(livekit_servers: list[LocalServer]) -> None:
    server = livekit_servers[0]
    async with Participant("alice") as alice, Participant("bob") as bob:
        await alice.join(server.url, token(server, "alice"), audio=True)
        await bob.join(server.url, token(server, "bob"))
        await bob.hears(alice)
        begun = time.monotonic()
        with pytest.raises(AssertionError, match="alice reconnects"):
            await alice.reconnects(since=begun, seconds=0.2)
        await alice.room.simulate_scenario(rtc.SimulateScenarioKind.SIMULATE_FULL_RECONNECT)
        await alice.reconnects(since=begun)
        await bob.hears(alice)
        assert alice.count("reconnecting", since=begun) == 1
        assert bob.count("track_subscribed") == 2


# ---- Chromium ---------------------------------------------------------------------------------


@pytest.mark.needs("chromium")
async def test_a_call_with_chromium(livekit_servers: list[LocalServer], browser: Browser) -> None:
    server = livekit_servers[0]
    alice, carol = await browser.open_tab(), await browser.open_tab()
    async with Participant("bob") as bob:
        await alice.join(server.url, token(server, "alice"), identity="alice", audio=True)
        await carol.join(server.url, token(server, "carol"), identity="carol")
        await bob.join(server.url, token(server, "bob"), audio=True)
        await alice.meets("bob", "carol")
        await bob.meets("alice", "carol")
        await alice.start_sending()
        bob.start_sending()
        for tab, other in ((alice, "bob"), (carol, "alice"), (carol, "bob")):
            await tab.gets(other)
            await tab.hears(other)
        begun = time.monotonic()
        await asyncio.sleep(2)
        ended = time.monotonic()
        await carol.look()
        assert carol.data["alice"].longest_gap(since=begun, until=ended) < 0.6
        assert carol.audio["alice"].longest_gap(since=begun, until=ended) < 0.6
        await alice.stop_sending()
        await until(
            lambda: not bob.data["alice"].missing(alice.sent), seconds=3, what="bob gets all"
        )
        await alice.leave()
        assert alice.count("disconnected") == 1
        await carol.meets("bob")
        assert not [line for line in carol.console if line.startswith(("error", "uncaught"))]


@pytest.mark.needs("chromium")
async def test_a_frozen_server_is_a_gap_in_chromium(
    livekit_servers: list[LocalServer], browser: Browser
) -> None:
    server = livekit_servers[0]
    alice, carol = await browser.open_tab(), await browser.open_tab()
    await alice.join(server.url, token(server, "alice"), identity="alice", audio=True)
    await carol.join(server.url, token(server, "carol"), identity="carol")
    await alice.start_sending()
    await carol.gets("alice")
    await carol.hears("alice")
    frozen = time.monotonic()
    await server.freeze()
    await asyncio.sleep(1.5)
    await server.thaw()
    thawed = time.monotonic()
    await carol.gets("alice")
    await carol.hears("alice")
    for came in (carol.data["alice"], carol.audio["alice"]):
        assert came.longest_gap(since=frozen) > (thawed - frozen) * 0.8


# ---- Node -------------------------------------------------------------------------------------


@pytest.mark.needs("node")
async def test_rooms_with_node(livekit_servers: list[LocalServer]) -> None:
    server = livekit_servers[0]
    pair = (server.url, server.key, server.secret)
    assert await rooms(*pair, "create", "one") == {"room": "one"}
    assert await rooms(*pair, "list") == {"rooms": ["one"]}
    assert await rooms(*pair, "delete", "one") == {"deleted": "one"}
    assert await rooms(*pair, "list") == {"rooms": []}
    refused = await rooms(server.url, server.key, "wrong", "list")
    assert refused["error"]["status"] == 401


# ---- the pool's process -----------------------------------------------------------------------

# Stands in for `livekit-pool serve`: the parent starts two children and answers readyz.
STAND_IN = """
import http.server, os, signal, subprocess, sys, time

print("secret:", os.environ["SPILL"], flush=True)
children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            for _ in range(int(sys.argv[sys.argv.index("--workers") + 1]))]

def end(*_):
    for child in children:
        child.terminate()
    sys.exit(7)

signal.signal(signal.SIGTERM, end)
http.server.BaseHTTPRequestHandler.do_GET = lambda h: (h.send_response(200), h.end_headers())
address = ("127.0.0.1", int(os.environ["LIVEKIT_POOL_PORT"]))
http.server.HTTPServer(address, http.server.BaseHTTPRequestHandler).serve_forever()
"""


def stand_in(folder: Path, servers: list[LocalServer], script: str = STAND_IN) -> PoolProcess:
    return PoolProcess(
        folder,
        servers,
        settings={"SPILL": servers[1].secret + " " + token(servers[0], "x")},
        command=(sys.executable, "-c", script),
    )


async def test_pool_process_kills_and_starts_again(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    async with stand_in(tmp_path, livekit_servers) as pool:
        first, second = pool.workers()
        assert await pool.kill_worker(second) == second
        assert pool.workers() == [first]
        await pool.kill_everything()
        assert not pool.running
        await pool.start()
        assert len(pool.workers()) == 2
        assert len(await pool.kill_workers()) == 2
        assert pool.workers() == []
        assert await pool.stop() == 7


async def test_pool_process_finds_secrets_in_its_log(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    async with stand_in(tmp_path, livekit_servers) as pool:
        await pool.logs(r"secret: \S+")
        assert [leak.rpartition(" ")[0] for leak in pool.leaks()] == ["secret of", "token at"]
        assert pool.leaks()[0] == "secret of green"


async def test_pool_process_shows_the_log_of_one_that_ends(
    tmp_path: Path, livekit_servers: list[LocalServer]
) -> None:
    pool = stand_in(tmp_path, livekit_servers, "import sys; sys.exit('no such setting')")
    with pytest.raises(AssertionError, match="ended as it started:\nno such setting"):
        async with pool:
            pass
