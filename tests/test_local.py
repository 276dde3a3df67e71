"""LiveKit servers on loopback: found or built, started, killed, frozen, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from livekit_pool.local import (
    LocalServer,
    LocalServerError,
    environment,
    find_server,
    reserve_port,
)

# ---- finding the program ----------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on its PATH but what a test puts into the folder, and no cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def put(folder: Path, name: str, script: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("version", ["1.11.0", "1.13.5", "2.0.1"])
def test_takes_a_new_enough_server_from_the_path(machine: Path, version: str) -> None:
    program = put(machine, "livekit-server", f"echo livekit-server version {version}")
    assert find_server() == program


@pytest.mark.parametrize("says", ["livekit-server version 1.10.1", "nothing of use", ""])
def test_passes_by_an_old_or_strange_server(machine: Path, tmp_path: Path, says: str) -> None:
    put(machine, "livekit-server", f"echo {says}")
    cached = tmp_path / "cache" / "livekit-pool" / "livekit-server-1.13.5"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_server() == cached


def test_without_go_says_what_is_missing(machine: Path) -> None:
    with pytest.raises(LocalServerError, match=r"neither livekit-server 1\.11 or newer nor go"):
        find_server()


def test_with_an_old_go_says_so(machine: Path) -> None:
    put(machine, "go", "echo go version go1.19.8 linux/amd64")
    with pytest.raises(LocalServerError, match=r"Go is too old to build it \(it needs 1\.21"):
        find_server()


def test_builds_once_into_the_cache(machine: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    put(
        machine,
        "go",
        f"""
        case $1 in
            version) echo go version go1.24.1 linux/amd64 ;;
            install) echo "$@" >>{runs}; echo one/package >&2; echo built >"$GOBIN/server" ;;
        esac
        """,
    )
    lines: list[str] = []
    program = find_server(lines.append)
    assert program.read_text() == "built\n"
    assert find_server() == program
    module = "github.com/livekit/livekit-server/cmd/server@v1.13.5"
    assert runs.read_text() == f"install -v {module}\n"
    assert "about three minutes, once" in lines[0]
    assert [entry.name for entry in program.parent.iterdir() if entry.is_dir()] == []


def test_a_failed_build_is_one_sentence_and_leaves_nothing(machine: Path, tmp_path: Path) -> None:
    script = (
        '[ "$1" = version ] && { echo go1.24; exit; }; echo "go: no such host here" >&2; exit 1'
    )
    put(machine, "go", script)
    with pytest.raises(LocalServerError, match="go: no such host here") as caught:
        find_server()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "livekit-pool").glob("livekit-server*"))


# ---- ports ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a port be held like this")
def test_a_held_port_is_left_to_the_server_it_is_held_for() -> None:
    port, held = reserve_port()
    with held:
        assert held.getsockname() == ("127.0.0.1", port)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)):  # as Go: with SO_REUSEADDR
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)


# ---- one server -------------------------------------------------------------------------------


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    program = await asyncio.to_thread(find_server)
    async with LocalServer("green", program=program, log=tmp_path / "green.log") as server:
        yield server


async def answer(server: LocalServer) -> int | type[BaseException]:
    """The status of ``GET /``, or the error instead of it."""
    timeout = aiohttp.ClientTimeout(total=5)
    url = f"http://127.0.0.1:{server.port}/"
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return response.status
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error)


@pytest.mark.real
async def test_killed_and_started_again_on_the_same_port(server: LocalServer) -> None:
    url = server.url
    assert await answer(server) == 200
    await server.kill()
    assert not server.running
    assert await answer(server) is aiohttp.ClientConnectorError
    await server.start()
    assert server.url == url
    assert await answer(server) == 200


@pytest.mark.real
async def test_frozen_it_accepts_and_does_not_answer(server: LocalServer) -> None:
    await server.freeze()
    assert server.running
    socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    got = await answer(server)
    assert isinstance(got, type)
    assert issubclass(got, TimeoutError)
    await server.thaw()
    assert await answer(server) == 200


@pytest.mark.real
async def test_a_frozen_server_can_be_killed(server: LocalServer) -> None:
    await server.freeze()
    await server.kill()
    assert not server.running


@pytest.mark.real
async def test_terminated_it_ends_by_its_own_forced_shutdown(server: LocalServer) -> None:
    await server.terminate()
    assert not server.running
    assert await answer(server) is aiohttp.ClientConnectorError


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's table of sockets")
async def test_listens_on_loopback_only(server: LocalServer) -> None:
    assert server._process is not None
    descriptors = Path(f"/proc/{server._process.pid}/fd").iterdir()
    own = {os.readlink(entry) for entry in descriptors}
    bound = {
        line.split()[1]
        for table in ("tcp", "tcp6", "udp", "udp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if f"socket:[{line.split()[9]}]" in own
    }
    loopback = "0100007F"  # 127.0.0.1 as the kernel prints it
    assert bound == {f"{loopback}:{port:04X}" for port in (server.port, server.media_port)}


@pytest.mark.real
async def test_what_it_says_on_a_wrong_setting(tmp_path: Path) -> None:
    program = await asyncio.to_thread(find_server)
    log = tmp_path / "x.log"
    server = LocalServer("green", program=program, log=log, settings={"no_such_setting": 1})
    with pytest.raises(LocalServerError, match=f"green ended at once: its log is {log}"):
        await server.start()
    assert not server.running
    assert "no_such_setting" in log.read_text()
    await server.aclose()


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a crash of ours leaves it behind")
def test_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = f"""
import asyncio, pathlib
from livekit_pool.local import LocalServer, find_server

async def main():
    server = LocalServer("x", program=find_server(), log=pathlib.Path({str(tmp_path)!r}) / "log")
    await server.start()
    print(server._process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
    try:
        deadline = time.monotonic() + 5
        while _lives(child):
            assert time.monotonic() < deadline, "the server outlived its parent"
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _lives(pid: int) -> bool:
    """Whether the process is there and more than a zombie that init has not yet reaped."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.real
async def test_secret_is_not_in_repr_arguments_or_log(server: LocalServer) -> None:
    assert server._process is not None
    arguments = Path(f"/proc/{server._process.pid}/cmdline")
    if arguments.exists():
        assert server.secret not in arguments.read_text()
    assert server.secret not in repr(server) + repr(server.server) + server.log.read_text()
    assert server.name in repr(server)


async def test_environment_of_a_pool(tmp_path: Path) -> None:
    servers = [
        LocalServer(name, program=Path("x"), log=tmp_path / name) for name in ("red", "green")
    ]
    for server in servers:
        await server.aclose()
    variables = environment(servers)
    assert variables["LIVEKIT_SERVERS_0_NAME"] == "red"
    assert variables["LIVEKIT_SERVERS_1_URL"] == servers[1].url
    assert variables["LIVEKIT_SERVERS_1_SECRET"] == servers[1].secret
    assert len(variables) == 8
    assert len({server.port for server in servers} | {s.media_port for s in servers}) == 4
