"""Probes: what each way of being ill looks like from here, with real sockets and real LiveKit."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from livekit.api import CreateRoomRequest, LiveKitAPI

from livekit_pool.core.document import Cause
from livekit_pool.core.events import ProbeOutcome
from livekit_pool.local import LocalServer
from livekit_pool.servers import Server
from livekit_pool.upstream.connection import Stage
from livekit_pool.upstream.names import Names
from livekit_pool.upstream.probe import Prober, ProbeResult
from tests.real.until import until
from tests.upstream.scripted import (
    KEY,
    OK,
    SECRET,
    Certificate,
    Exchange,
    always,
    make_certificate,
    never,
    response,
    scripted,
)

PASSED, REFUSED, SILENT, FAILED, UNAUTHORIZED = (
    ProbeOutcome.PASSED,
    ProbeOutcome.REFUSED,
    ProbeOutcome.SILENT,
    ProbeOutcome.FAILED,
    ProbeOutcome.UNAUTHORIZED,
)


def at(port: int, scheme: str = "ws") -> Server:
    return Server(name="there", url=f"{scheme}://127.0.0.1:{port}", key=KEY, secret=SECRET)


@asynccontextmanager
async def unserved() -> AsyncIterator[int]:
    """A port that is bound, so that nobody else takes it, and refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@asynccontextmanager
async def dropping() -> AsyncIterator[int]:
    """A port at which SYNs are dropped: its backlog is full, which is what Linux does then."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        try:
            for _ in range(2):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


async def calmly(*asks: Callable[[], Awaitable[ProbeResult]]) -> list[ProbeResult]:
    """
    What each of ``asks`` sees, one after the other.

    All of it again, three times at most, where this process stood still meanwhile.
    """
    for _ in range(3):
        results = [await ask() for ask in asks]
        if not any(result.stalled for result in results):
            break
    return results


# ---- a real server ----------------------------------------------------------------------------


@pytest.mark.real
async def test_a_healthy_server_passes(prober: Prober, livekit: LocalServer) -> None:
    result = await prober.probe(livekit.server)
    assert (result.server, result.outcome, result.stage) == ("red", PASSED, Stage.HTTP)
    assert not result.stalled
    signed = await prober.probe_signed(livekit.server)
    assert (signed.outcome, signed.stage, signed.detail) == (PASSED, Stage.SIGNED, "answered")


@pytest.mark.real
async def test_a_killed_server_is_refused_at_once(prober: Prober, livekit: LocalServer) -> None:
    assert (await prober.probe(livekit.server)).outcome is PASSED
    await livekit.kill()
    result = await prober.probe(livekit.server)
    assert (result.outcome, result.stage) == (REFUSED, Stage.TCP)
    assert result.detail == "connection refused"
    assert (await prober.probe_signed(livekit.server)).outcome is REFUSED


@pytest.mark.real
async def test_a_frozen_server_is_silent_three_times_within_3_seconds(
    prober: Prober, livekit: LocalServer
) -> None:
    """With a probe each second that leaves time to rotate before 4 s are over (issue 3)."""
    assert (await prober.probe(livekit.server)).outcome is PASSED
    await livekit.freeze()
    results = await calmly(*[partial(prober.probe, livekit.server)] * 3)
    assert [result.outcome for result in results] == [SILENT] * 3
    assert [result.stage for result in results] == [Stage.HTTP] * 3
    assert sum(result.duration for result in results) < 2.8
    assert not any(result.stalled for result in results)
    await livekit.thaw()
    assert (await prober.probe(livekit.server)).outcome is PASSED


@pytest.mark.real
async def test_a_server_frozen_in_a_signed_probe_is_found_within_4_seconds(
    prober: Prober, livekit: LocalServer
) -> None:
    await livekit.freeze()
    probe = partial(prober.probe, livekit.server)
    results = await calmly(partial(prober.probe_signed, livekit.server), probe, probe)
    assert [result.outcome for result in results] == [SILENT] * 3
    assert results[0].stage is Stage.SIGNED
    assert sum(result.duration for result in results) < 3.9


@pytest.mark.real
@pytest.mark.parametrize(
    "wrong", [{"secret": "another-secret-0123456789012345678"}, {"key": "another-key"}]
)
async def test_a_wrong_key_or_secret_is_told_from_a_dead_server(
    prober: Prober, livekit: LocalServer, wrong: dict[str, Any]
) -> None:
    server = replace(livekit.server, **wrong)
    assert (await prober.probe(server)).outcome is PASSED
    result = await prober.probe_signed(server)
    assert (result.outcome, result.stage) == (UNAUTHORIZED, Stage.SIGNED)
    assert "key" in result.detail
    assert "ey" + "J" not in repr(result)
    assert server.secret not in repr(result)


@pytest.mark.real
async def test_rooms_that_exist_are_found(prober: Prober, livekit: LocalServer) -> None:
    async with LiveKitAPI(livekit.url, livekit.key, livekit.secret) as api:
        for name in ("standup", "retro"):
            await api.room.create_room(CreateRoomRequest(name=name))
    listed = await prober.list_rooms(livekit.server, ["standup", "nowhere"])
    assert listed.keys() == {"standup"}
    assert abs(listed["standup"].created - time.time()) < 60
    assert listed["standup"].participants == 0
    assert await prober.room_exists(livekit.server, "retro") is True
    assert await prober.room_exists(livekit.server, "nowhere") is False
    await livekit.kill()
    assert await prober.room_exists(livekit.server, "retro") is None


# ---- what a connection can do -----------------------------------------------------------------


async def test_a_refused_port(prober: Prober) -> None:
    async with unserved() as port:
        result = await prober.probe(at(port))
    assert (result.outcome, result.stage, result.stalled) == (REFUSED, Stage.TCP, False)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_dropped_packets_are_silence(prober: Prober, scheme: str) -> None:
    async with dropping() as port:
        results = await calmly(*[partial(prober.probe, at(port, scheme))] * 3)
    assert [result.outcome for result in results] == [SILENT] * 3
    assert [result.stage for result in results] == [Stage.TCP] * 3
    assert results[0].detail == "no connection within 0.8 s"
    assert sum(result.duration for result in results) < 2.8


async def test_an_answer_may_come_to_a_later_probe() -> None:
    """A connection from far away takes longer than a probe, and is not begun anew by each."""

    late = asyncio.Event()

    async def slow(_: Exchange) -> bytes | None:
        await late.wait()
        return OK

    async with scripted(slow) as far, Prober(timeout=0.3) as prober:
        assert (await prober.probe(far.server)).outcome is SILENT
        asyncio.get_running_loop().call_later(0.05, late.set)
        assert (await prober.probe(far.server)).outcome is PASSED
        assert far.connections == 1


async def test_an_old_answer_passes_no_probe() -> None:
    answer = asyncio.Event()

    async def once(exchange: Exchange) -> bytes | None:
        if len(far.seen) > 1:
            return await never(exchange)
        await answer.wait()
        return OK

    async with scripted(once) as far, Prober(timeout=0.2) as prober:
        assert (await prober.probe(far.server)).outcome is SILENT
        tasks = [task for task in asyncio.all_tasks() if task.get_name() == "probe scripted"]
        answer.set()
        await asyncio.wait(tasks)
        assert (await prober.probe(far.server)).outcome is SILENT


async def test_a_new_connection_that_leads_nowhere_is_given_up_for_another() -> None:
    async def script(exchange: Exchange) -> bytes | None:
        return await never(exchange) if exchange.connection == 1 else OK

    async with scripted(script) as server, Prober() as prober:
        outcomes = [(await prober.probe(server.server)).outcome for _ in range(4)]
    # The third ends at 2.4 s, the connection is given up at 2.5 s.
    assert outcomes[:2] == [SILENT, SILENT]
    assert outcomes[3] is PASSED


async def test_a_connection_that_was_forgotten_on_the_way_condemns_nobody(prober: Prober) -> None:
    """As behind a NAT that lost its table: the kept connection is dead, a new one is well."""

    async def script(exchange: Exchange) -> bytes | None:
        return OK if exchange.number == 1 else await never(exchange)

    async with scripted(script) as server:
        assert (await prober.probe(server.server)).outcome is PASSED
        assert (await prober.probe(server.server)).outcome is PASSED
        assert server.connections == 2


async def test_a_probe_survives_that_one_beside_it_found_the_answer(prober: Prober) -> None:
    async def script(exchange: Exchange) -> bytes | None:
        well = exchange.connection == 2 or (exchange.connection, exchange.number) == (1, 1)
        return OK if well else await never(exchange)

    async with scripted(script) as server:
        assert (await prober.probe(server.server)).outcome is PASSED
        both = await asyncio.gather(prober.probe(server.server), prober.probe(server.server))
        assert [result.outcome for result in both] == [PASSED, PASSED]


async def test_a_kept_connection_that_the_server_closes_is_no_evidence(prober: Prober) -> None:
    async def script(exchange: Exchange) -> bytes | None:
        return OK if exchange.number == 1 else None

    async with scripted(script) as server:
        results = [await prober.probe(server.server) for _ in range(2)]
        assert [result.outcome for result in results] == [PASSED, PASSED]
        assert [exchange.connection for exchange in server.seen] == [1, 1, 2]


async def test_a_server_that_closes_every_connection_is_refused(prober: Prober) -> None:
    async with scripted(always(None)) as server:
        result = await prober.probe(server.server)
    assert (result.outcome, result.stage) == (REFUSED, Stage.HTTP)


async def test_one_connection_serves_all_probes(prober: Prober) -> None:
    async with scripted(always(OK)) as server:
        for _ in range(3):
            assert (await prober.probe(server.server)).outcome is PASSED
        assert server.connections == 1


async def test_probes_of_one_server_at_the_same_time_all_end(prober: Prober) -> None:
    async with scripted(always(OK)) as server:
        results = await asyncio.gather(*(prober.probe(server.server) for _ in range(5)))
    assert [result.outcome for result in results] == [PASSED] * 5


async def test_a_name_that_does_not_resolve_is_silence_and_our_own_as_far_as_we_know(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    server = Server(name="there", url="wss://livekit.example", key=KEY, secret=SECRET)
    for result in (await prober.probe(server), await prober.probe_signed(server)):
        assert (result.outcome, result.stage, result.stalled) == (SILENT, Stage.TCP, True)
        assert result.detail == "its host name could not be resolved"


async def test_a_slow_resolver_neither_eats_a_probe_nor_keeps_others_waiting(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, hanging = socket.getaddrinfo, threading.Event()

    def slow(host: str, *rest: Any, **named: Any) -> Any:
        if host.endswith(".test"):
            hanging.wait(20)
        return look_up("127.0.0.1", *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    async with scripted(always(OK)) as server:
        port = server.server.port
        named = [
            Server(name=host, url=f"ws://{host}:{port}", key=KEY, secret=SECRET)
            # More than there are threads for a loop's own lookups.
            for host in (*(f"slow{number}.test" for number in range(40)), "quick.example")
        ]
        results = await asyncio.gather(*(prober.probe(each) for each in named))
        assert [(r.outcome, r.stalled) for r in results[:-1]] == [(SILENT, True)] * 40
        assert results[-1].outcome is PASSED
        hanging.set()
        await until(
            lambda: "slow0.test" not in Names.shared().failing, seconds=5, what="it is found"
        )
        # Found in the meantime, and good now.
        assert (await prober.probe(named[0])).outcome is PASSED


# ---- TLS --------------------------------------------------------------------------------------


@pytest.fixture
async def trusting(certificate: Certificate) -> AsyncIterator[Prober]:
    async with Prober(context=certificate.trusting()) as prober:
        yield prober


async def test_a_trusted_certificate_passes(trusting: Prober, certificate: Certificate) -> None:
    async with scripted(always(OK), tls=certificate.serving()) as server:
        assert (await trusting.probe(server.server)).outcome is PASSED


async def test_an_untrusted_certificate_is_refused(
    prober: Prober, certificate: Certificate
) -> None:
    async with scripted(always(OK), tls=certificate.serving()) as server:
        result, signed = (
            await prober.probe(server.server),
            await prober.probe_signed(server.server),
        )
    assert (result.outcome, result.stage) == (REFUSED, Stage.TLS)
    assert result.detail.startswith("its certificate is not trusted: self-signed certificate")
    assert (signed.outcome, signed.stage) == (REFUSED, Stage.TLS)
    assert server.seen == []


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    expired = make_certificate(tmp_path / "expired", end="20200102")
    async with (
        scripted(always(OK), tls=expired.serving()) as server,
        Prober(context=expired.trusting()) as prober,
    ):
        result = await prober.probe(server.server)
    assert (result.outcome, result.stage) == (REFUSED, Stage.TLS)
    assert result.detail == "its certificate is not trusted: certificate has expired"


async def test_a_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    other = make_certificate(tmp_path / "other", names="DNS:livekit.example")
    async with (
        scripted(always(OK), tls=other.serving()) as server,
        Prober(context=other.trusting()) as prober,
    ):
        result = await prober.probe(server.server)
    assert (result.outcome, result.stage) == (REFUSED, Stage.TLS)
    assert "not valid for '127.0.0.1'" in result.detail


@pytest.mark.real
async def test_a_server_without_tls_is_refused_as_one_with_tls(
    trusting: Prober, livekit: LocalServer
) -> None:
    result = await trusting.probe(at(livekit.port, "wss"))
    assert (result.outcome, result.stage) == (REFUSED, Stage.TLS)


async def test_a_tls_handshake_without_answer_is_silence_after_tcp(trusting: Prober) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = await trusting.probe(at(listener.getsockname()[1], "wss"))
    assert (result.outcome, result.stage) == (SILENT, Stage.TLS)
    assert result.detail == "connected, but no answer to the TLS handshake within 0.8 s"


# ---- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (response("500 Internal Server Error", b"boom"), "it answered with HTTP 500"),
        (response("406 Not Acceptable", b"Not Ready"), "it says that it is not ready (HTTP 406)"),
        (response("302 Found", b"", "Location: /"), "it answered with HTTP 302"),
        (
            response("200 OK", b"<h1>Welcome to nginx!</h1>"),
            "it answers, but not as a LiveKit server does",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "its answer is not HTTP"),
    ],
)
async def test_an_answer_that_is_not_a_healthy_livekits(
    prober: Prober, answer: bytes, detail: str
) -> None:
    async with scripted(always(answer)) as server:
        result = await prober.probe(server.server)
    assert (result.outcome, result.stage, result.detail) == (FAILED, Stage.HTTP, detail)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (response("200 OK", b'{"rooms":[]}'), PASSED),
        (response("200 OK", b"OK"), FAILED),
        (response("200 OK", b'{"rooms":{}}'), FAILED),
        (response("200 OK", b'{"rooms":[1]}'), FAILED),
        (response("200 OK", b"[]"), FAILED),
        (response("404 Not Found", b"404 page not found"), FAILED),
        (response("500 Internal Server Error"), FAILED),
        (response("403 Forbidden"), UNAUTHORIZED),
        (b"SSH-2.0-OpenSSH_9.2\r\n", FAILED),
    ],
)
async def test_answers_to_a_signed_probe(
    prober: Prober, answer: bytes, outcome: ProbeOutcome
) -> None:
    async with scripted(always(answer)) as server:
        assert (await prober.probe_signed(server.server)).outcome is outcome


@pytest.mark.parametrize(
    ("answer", "outcome"), [(None, REFUSED), (response("502 Bad Gateway", b"<h1>"), FAILED)]
)
async def test_a_call_that_fails_is_told_from_a_connection_that_does(
    prober: Prober, answer: bytes | None, outcome: ProbeOutcome
) -> None:
    async with scripted(always(answer)) as server:
        called = await prober.probe_signed(server.server)
    assert (called.outcome, called.stage) == (outcome, Stage.SIGNED)
    gone = await prober.probe_signed(server.server)
    assert (gone.outcome, gone.stage) == (REFUSED, Stage.TCP)


@pytest.mark.parametrize(
    ("answer", "kind", "retry_after"),
    [
        (response("429 Too Many Requests"), Cause.RATE_LIMIT, None),
        (response("429 Too Many Requests", b"", "Retry-After: 7"), Cause.RATE_LIMIT, 7.0),
        (
            response(
                "429 Too Many Requests", b'{"code":"resource_exhausted","msg":"quota exceeded"}'
            ),
            Cause.QUOTA,
            None,
        ),
        (response("403 Forbidden", b"free tier: minutes exceeded"), Cause.QUOTA, None),
    ],
)
async def test_a_limit_that_a_signed_probe_meets_is_told_from_a_wrong_key_and_a_dead_server(
    prober: Prober, answer: bytes, kind: Cause, retry_after: float | None
) -> None:
    async with scripted(always(answer)) as server:
        result = await prober.probe_signed(server.server)
    assert (result.outcome, result.kind) == (ProbeOutcome.LIMITED, kind)
    assert result.retry_after == retry_after
    assert kind.value in result.detail


async def test_a_signed_probe_asks_for_one_room_over_a_new_connection(prober: Prober) -> None:
    async def echo(exchange: Exchange) -> bytes | None:
        return OK if exchange.head.startswith("GET") else response("200 OK", b'{"rooms":[]}')

    async with scripted(echo) as server:
        await prober.probe(server.server)
        await prober.probe_signed(server.server)
        await prober.probe_signed(server.server)
        asked = server.seen[1:]
        assert [exchange.connection for exchange in asked] == [2, 3]
        assert asked[0].head.startswith("POST /twirp/livekit.RoomService/ListRooms HTTP/1.1")
        assert asked[0].body == b'{"names": ["livekit-pool/no-such-room"]}'


async def test_a_body_that_echoes_the_token_is_not_kept(prober: Prober) -> None:
    """LiveKit up to 1.13.5 does that."""

    async def echo(exchange: Exchange) -> bytes | None:
        token = exchange.head.partition("Bearer ")[2].partition("\r\n")[0]
        return response("401 Unauthorized", f"invalid token: {token}".encode())

    async with scripted(echo) as server:
        result = await prober.probe_signed(server.server)
        token = server.seen[0].head.partition("Bearer ")[2].partition("\r\n")[0]
    assert result.outcome is UNAUTHORIZED
    assert len(token) > 50
    assert token not in repr(result) + repr(result.public())


async def test_no_names_ask_nothing_because_that_would_mean_all_rooms(prober: Prober) -> None:
    async with scripted(always(response("200 OK", b'{"rooms":[{"name":"x"}]}'))) as server:
        assert await prober.list_rooms(server.server, []) == {}
        assert server.seen == []


async def test_many_names_are_asked_for_in_parts(prober: Prober) -> None:
    async def echo(exchange: Exchange) -> bytes | None:
        names = exchange.body.decode().partition("[")[2].rpartition("]")[0].split(", ")
        rooms = ",".join(f'{{"name":{name}}}' for name in names)
        return response("200 OK", f'{{"rooms":[{rooms}]}}'.encode())

    names = [f"room-{number}" for number in range(1001)]
    async with scripted(echo) as server:
        assert (await prober.list_rooms(server.server, names)).keys() == set(names)
        assert len(server.seen) == 3


# ---- ourselves --------------------------------------------------------------------------------


async def test_silence_while_the_own_loop_stood_still_is_marked(prober: Prober) -> None:
    async with scripted(never) as server:
        asyncio.get_running_loop().call_later(0.1, time.sleep, 0.4)
        result = await prober.probe(server.server)
        assert (result.outcome, result.stalled) == (SILENT, True)
        (result,) = await calmly(partial(prober.probe, server.server))
        assert not result.stalled


async def test_a_stall_at_the_end_of_a_probe_is_marked_too(prober: Prober) -> None:
    async with scripted(never) as server:
        asyncio.get_running_loop().call_later(0.75, time.sleep, 0.5)
        result = await prober.probe(server.server)
    assert (result.outcome, result.stalled) == (SILENT, True)


async def test_want_of_file_descriptors_is_no_evidence(prober: Prober) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with unserved() as port:
        with socket.socket() as next_free:
            lowest = next_free.fileno()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
            result = await prober.probe(at(port))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (result.outcome, result.stalled) == (SILENT, True)
    assert result.detail == "this process could not connect: EMFILE"


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with unserved() as port, scripted(always(OK)) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        async with Prober() as prober:
            assert (await prober.probe(server.server)).outcome is PASSED


async def test_closing_ends_what_is_under_way() -> None:
    async with scripted(never) as server, Prober(timeout=0.1) as prober:
        assert (await prober.probe(server.server)).outcome is SILENT
        await prober.aclose()
        await prober.aclose()
        names = {task.get_name() for task in asyncio.all_tasks()}
    assert "probe scripted" not in names


async def test_what_status_shows_of_a_probe() -> None:
    result = ProbeResult(
        server="red",
        outcome=SILENT,
        stage=Stage.TLS,
        detail="no answer",
        duration=0.80004,
        at=1767225600.0,
    )
    assert result.public() == {
        "outcome": "silent",
        "stage": "tls",
        "detail": "no answer",
        "duration": 0.8,
        "at": "2026-01-01T00:00:00Z",
    }


async def test_a_name_that_never_was_is_its_servers_affair_beside_one_given_by_address(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a server whose name was taken away would be active for ever."""
    look_up = socket.getaddrinfo

    def gone(host: str, *rest: Any, **named: Any) -> Any:
        if host == "gone.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", gone)
    nowhere = Server(name="nowhere", url="ws://gone.example:7880", key=KEY, secret=SECRET)
    async with scripted(always(OK)) as well:
        assert (await prober.probe(nowhere)).stalled, "it may be our own resolver"
        assert (await prober.probe(well.server)).outcome is PASSED
        (result,) = await calmly(partial(prober.probe, nowhere))
    assert (result.outcome, result.stalled) == (SILENT, False)


def test_the_same_under_uvloop(certificate: Certificate) -> None:
    """The loop that the pool runs on: its sockets and its clock differ."""

    async def see() -> list[tuple[ProbeOutcome, Stage, bool]]:
        context = certificate.trusting()
        async with (
            Prober(context=context) as prober,
            scripted(always(OK), tls=certificate.serving()) as well,
            scripted(never) as silent,
            unserved() as refused,
        ):
            with socket.create_server(("127.0.0.1", 0)) as mute:
                hanging = at(mute.getsockname()[1], "wss")
                servers = (well.server, silent.server, at(refused), hanging)
                results = await calmly(*(partial(prober.probe, server) for server in servers))
                asyncio.get_running_loop().call_later(0.1, time.sleep, 0.4)
                results.append(await prober.probe(silent.server))
        return [(result.outcome, result.stage, result.stalled) for result in results]

    assert uvloop.run(see()) == [
        (PASSED, Stage.HTTP, False),
        (SILENT, Stage.HTTP, False),
        (REFUSED, Stage.TCP, False),
        (SILENT, Stage.TLS, False),
        (SILENT, Stage.HTTP, True),
    ]
