"""TLS: the pool's own, and that of a server behind a TLS terminator."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from livekit.api import CreateRoomRequest, LiveKitAPI

from livekit_pool.local import LocalServer, reserve_port
from tests.real.authority import Authority, Certificate
from tests.real.call import Participant
from tests.real.forwarding import forwarded
from tests.real.meeting import meeting
from tests.real.node.rooms import rooms
from tests.real.pool_process import PoolProcess
from tests.real.until import until


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates here; no machine trusts it by itself."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def certificate(authority: Authority) -> Certificate:
    """A good one of 127.0.0.1."""
    return authority.issue()


# ---- the pool's own ---------------------------------------------------------------------------


async def test_a_call_through_a_pool_that_speaks_tls(
    tmp_path: Path,
    livekit_servers: list[LocalServer],
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # LiveKit's SDK, in this process, takes it for the list of whom to trust.
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    async with PoolProcess(tmp_path, livekit_servers, tls=certificate) as pool:
        async with meeting(pool) as call:
            await call.settled()

            await pool.rotate("planned", to="green")

            await call.is_on("green")
            await call.runs()
            assert call.alice.count("disconnected") == call.bob.count("disconnected") == 0
        assert f"url=wss://127.0.0.1:{pool.port}" in pool.log_text()
        assert not pool.leaks()


async def test_events_through_a_pool_that_speaks_tls(
    tmp_path: Path, livekit_servers: list[LocalServer], certificate: Certificate
) -> None:
    """They are written past the layers of the application, but not past TLS."""
    async with (
        PoolProcess(tmp_path, livekit_servers, workers=1, tls=certificate) as pool,
        aiohttp.ClientSession() as session,
        session.get(
            f"{pool.http_url}/pool/events",
            ssl=certificate.trusting(),
            headers={"Authorization": f"Bearer {pool.token('standup', 'alice')}"},
        ) as answer,
    ):

        async def event() -> str:
            async for line in answer.content:
                if line.startswith(b"event: "):
                    return line.decode().strip()
            return "the end"

        async with asyncio.timeout(20):
            assert await event() == "event: state"
            for target in ("green", "red"):
                await pool.rotate(to=target)
                assert await event() == "event: rotation"


@pytest.mark.needs("node")
async def test_the_server_sdk_and_a_pool_that_speaks_tls(
    tmp_path: Path,
    livekit_servers: list[LocalServer],
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(certificate.authority))
    async with PoolProcess(tmp_path, livekit_servers, tls=certificate) as pool:
        ours = (pool.url, pool.key, pool.secret)
        assert await rooms(*ours, "create", "one") == {"room": "one"}
        assert await rooms(*ours, "list") == {"rooms": ["one"]}


async def test_what_a_pool_with_tls_says_to_strangers(
    tmp_path: Path, livekit_servers: list[LocalServer], certificate: Certificate
) -> None:
    trusting = certificate.trusting()
    unset = {"LIVEKIT_POOL_URL": ""}
    async with (
        PoolProcess(tmp_path, livekit_servers, workers=1, settings=unset, tls=certificate) as pool,
        aiohttp.ClientSession() as http,
    ):
        workers = pool.workers()
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.get(f"{pool.http_url}/")
        # Who speaks no TLS is told nothing, and hung up on.
        reader, writer = await asyncio.open_connection("127.0.0.1", pool.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: pool\r\n\r\n")
        async with asyncio.timeout(5):
            assert not (await reader.read()).startswith(b"HTTP/")
        writer.close()
        async with http.get(f"{pool.http_url}/", ssl=trusting) as answer:
            assert (answer.status, await answer.text()) == (200, "OK")
        # Clients are given an address that says TLS.
        async with http.post(f"{pool.http_url}/pool/token", ssl=trusting, json={}) as answer:
            assert answer.status == 201
            assert (await answer.json())["server_url"] == pool.url
        assert pool.workers() == workers
        assert " ERROR " not in pool.log_text()


# ---- a server's -------------------------------------------------------------------------------


def server_of(status: dict[str, Any], name: str) -> dict[str, Any]:
    """A server in the answer of ``GET /pool/status``."""
    found: dict[str, Any] = next(each for each in status["servers"] if each["name"] == name)
    return found


async def test_a_server_behind_tls(
    tmp_path: Path, livekit_servers: list[LocalServer], certificate: Certificate
) -> None:
    port, held = reserve_port()
    held.close()
    settings = {
        "LIVEKIT_SERVERS_1_URL": f"wss://127.0.0.1:{port}",
        "SSL_CERT_FILE": str(certificate.authority),
    }
    async with (
        forwarded(port, to=livekit_servers[1].port, tls=certificate.serving()) as heads,
        PoolProcess(tmp_path, livekit_servers, settings=settings) as pool,
        meeting(pool) as call,
    ):
        await call.settled()

        await pool.rotate("to the one behind TLS", to="green")

        await call.is_on("green")
        await call.runs()
        assert server_of(await pool.status(), "green")["health"] == "up"
        # Each of both came this way, and the server's API is called over TLS as well.
        joins = [head for head in heads if head.startswith((b"GET /rtc?", b"GET /rtc/v1?"))]
        assert len(joins) == 2
        assert any(head.startswith(b"POST /twirp/") for head in heads)


@pytest.mark.parametrize(
    ("names", "trusted", "detail"),
    [
        pytest.param(
            "IP:127.0.0.1", False, "unable to get local issuer certificate", id="untrusted"
        ),
        pytest.param("DNS:other.example", True, "IP address mismatch", id="of another"),
    ],
)
async def test_a_server_whose_certificate_is_not_good(
    tmp_path: Path,
    livekit_servers: list[LocalServer],
    authority: Authority,
    names: str,
    trusted: bool,
    detail: str,
) -> None:
    port, held = reserve_port()
    held.close()
    settings = {"LIVEKIT_SERVERS_0_URL": f"wss://127.0.0.1:{port}"}
    if trusted:
        settings["SSL_CERT_FILE"] = str(authority.path)
    serving = authority.issue(names).serving()
    async with (
        forwarded(port, to=livekit_servers[0].port, tls=serving) as heads,
        PoolProcess(tmp_path, livekit_servers, settings=settings) as pool,
    ):

        async def is_down() -> dict[str, Any] | None:
            red = server_of(await pool.status(), "red")
            shown = red["health"] == "down" and detail in red["last_probe"]["detail"]
            return red if shown else None

        red = await until(is_down, seconds=15, what=lambda: f"red is down\n{pool.log_end()}")
        assert red["last_probe"]["detail"].startswith("its certificate is not trusted: ")
        assert red["last_probe"]["stage"] == "tls"
        rotations = await until(pool.rotations, seconds=10, what="red is left")
        assert [each["cause"] for each in rotations] == ["down"]
        assert "its certificate is not trusted" in rotations[0]["reason"]
        async with meeting(pool) as call:
            await call.is_on(rotations[0]["to"])
        # Nothing was said to it, and so no token either.
        assert heads == []


@pytest.mark.parametrize("asked", ["join", "call"])
async def test_a_certificate_that_is_replaced_by_a_bad_one(
    tmp_path: Path, livekit_servers: list[LocalServer], certificate: Certificate, asked: str
) -> None:
    port, held = reserve_port()
    held.close()
    (tmp_path / "stranger").mkdir()
    stranger = Authority(tmp_path / "stranger").issue()
    settings = {
        "LIVEKIT_SERVERS_0_URL": f"wss://127.0.0.1:{port}",
        "SSL_CERT_FILE": str(certificate.authority),
        # So that no probe sees it first.
        "LIVEKIT_POOL_PROBE_INTERVAL": "60",
        "LIVEKIT_POOL_PROBE_ROOMS_INTERVAL": "60",
    }
    red = livekit_servers[0]
    pool = PoolProcess(tmp_path, livekit_servers, settings=settings, workers=1)

    async def is_probed() -> bool:
        probes = [each["last_probe"] for each in (await pool.status())["servers"]]
        return all(probe and probe["stage"] == "signed" for probe in probes)

    try:
        async with forwarded(port, to=red.port, tls=certificate.serving()):
            await pool.start()
            await until(is_probed, seconds=10, what="all servers passed their probes")
        async with forwarded(port, to=red.port, tls=stranger.serving()) as heads:
            if asked == "join":
                async with Participant("alice") as alice:
                    await alice.join(pool.url, pool.token("standup", "alice"))
            else:
                async with LiveKitAPI(pool.url, pool.key, pool.secret) as lk:
                    await lk.room.create_room(CreateRoomRequest(name="standup"))

            # It was served, by another server, and the stranger was told nothing.
            (rotation,) = await pool.rotations()
            assert (rotation["from"], rotation["cause"]) == ("red", "down")
            assert heads == []
    finally:
        await pool.aclose()
