"""``serve`` with real processes: what it says, and what it refuses to run with."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from livekit_pool.local import reserve_port
from tests.cli.conftest import Run
from tests.upstream.scripted import make_certificate

COMMAND = (sys.executable, "-c", "from livekit_pool.cli import main; main()")
SECRET = "a-server-secret-that-must-never-be-seen"
POOL_SECRET = "the-pools-own-secret-of-enough-length"


def servers(*numbers: int, **changed: str) -> dict[str, str]:
    """Variables of LiveKit servers that refuse every connection."""
    variables: dict[str, str] = {}
    for number in numbers:
        variables |= {
            f"LIVEKIT_SERVERS_{number}_NAME": f"server-{number}",
            f"LIVEKIT_SERVERS_{number}_URL": f"ws://127.0.0.{number + 2}:1",
            f"LIVEKIT_SERVERS_{number}_KEY": "key",
            f"LIVEKIT_SERVERS_{number}_SECRET": SECRET,
        }
    return variables | {f"LIVEKIT_SERVERS_{name}": value for name, value in changed.items()}


def environment(folder: Path, **variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, until it ends."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(folder, **variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@contextmanager
def serving(folder: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """``serve`` while the block runs; its log is the file ``log``."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "serve", *arguments],
            env=environment(folder, **variables),
            cwd=folder,
            stderr=log,
            stdout=log,
            text=True,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 20
        while (folder / "log").read_text().count(" Pool ready ") < 1:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def port() -> Iterator[str]:
    number, held = reserve_port()
    with held:
        yield str(number)


def test_it_serves_and_the_other_commands_find_it(tmp_path: Path, port: str) -> None:
    variables = servers(0, 1) | {"LIVEKIT_POOL_PORT": port}
    with serving(tmp_path, **variables) as process:
        asked = run(tmp_path, "status", "--json", **variables)
        assert (asked.returncode, asked.stderr) == (0, "")
        status = json.loads(asked.stdout)
        assert [one["name"] for one in status["servers"]] == ["server-0", "server-1"]
        assert status["store"]["ok"] is True
        history = run(tmp_path, "history", **variables)
        assert (history.returncode, history.stdout) == (0, "No rotation yet.\n")
        # Both servers are down, and the pool says so.
        rotated = run(tmp_path, "rotate", "--reason", "test", **variables)
        assert (rotated.returncode, rotated.stdout) == (1, "")
        assert rotated.stderr.startswith("livekit-pool: ")
        process.terminate()
        assert process.wait(15) == 0
    log = (tmp_path / "log").read_text()
    key_file = tmp_path / "livekit-pool.key"
    assert f"Listening url=ws://127.0.0.1:{port} servers=server-0,server-1 " in log
    assert f"store=sqlite:///livekit-pool.db key_pair={key_file} workers=2" in log
    assert "Traceback" not in log
    assert SECRET not in log
    pair = dict(line.split("=", 1) for line in key_file.read_text().splitlines())
    assert pair["LIVEKIT_POOL_SECRET"] not in log
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert run(tmp_path, "status", **variables).returncode == 3


def test_port_0_is_any_port_and_the_log_says_which(tmp_path: Path) -> None:
    variables = servers(0)
    with serving(tmp_path, "--port", "0", "--store", "memory://", "--workers", "2", **variables):
        log = (tmp_path / "log").read_text()
        match = re.search(r"Listening url=(ws://127\.0\.0\.1:(\d+)) .* workers=1\n", log)
        assert match is not None
        assert match[2] != "0"
        assert "--workers is not used: memory:// means one worker." in log
        assert run(tmp_path, "status", "--url", match[1], **variables).returncode == 0


def test_tls(tmp_path: Path, port: str) -> None:
    certificate = make_certificate(tmp_path / "tls")
    variables = servers(0) | {"LIVEKIT_POOL_PORT": port}
    with serving(
        tmp_path,
        *("--tls-cert", str(certificate.path), "--tls-key", str(certificate.key)),
        **variables,
    ):
        assert f"Listening url=wss://127.0.0.1:{port} " in (tmp_path / "log").read_text()
        url = ("status", "--url", f"https://127.0.0.1:{port}")
        trusting = run(tmp_path, *url, **variables, SSL_CERT_FILE=str(certificate.path))
        assert trusting.returncode == 0, trusting.stderr
        distrusting = run(tmp_path, *url, **variables)
        assert distrusting.returncode == 3
        assert "its certificate is not trusted" in distrusting.stderr


REFUSED = [
    pytest.param({}, [], "LIVEKIT_SERVERS_0_URL", id="no server"),
    pytest.param(
        servers(0) | {"LIVEKIT_SERVERS_0_SECRET": ""}, [], "LIVEKIT_SERVERS_0_SECRET", id="half"
    ),
    pytest.param(
        servers(0, 1, **{"1_NAME": "server-0"}), [], "LIVEKIT_SERVERS_1_NAME", id="two of a name"
    ),
    pytest.param(
        servers(0, 1, **{"1_URL": "ws://127.0.0.2:1"}),
        [],
        "LIVEKIT_SERVERS_1_URL",
        id="two of a URL",
    ),
    pytest.param(
        servers(0, **{"0_URL": "ftp://example.com"}), [], "LIVEKIT_SERVERS_0_URL", id="scheme"
    ),
    pytest.param(servers(*range(21)), [], "LIVEKIT_SERVERS_20_", id="21 servers"),
    pytest.param(
        servers(0, **{"0_URL": "ws://localhost:7870"}), [], "LIVEKIT_SERVERS_0_URL", id="itself"
    ),
    pytest.param(
        servers(0) | {"LIVEKIT_POOL_KEY": "key", "LIVEKIT_POOL_SECRET": "short"},
        [],
        "LIVEKIT_POOL_SECRET",
        id="short secret",
    ),
    pytest.param(servers(0), ["--env-file", "absent.env"], "absent.env", id="no .env file"),
    pytest.param(servers(0), ["--env-file", "binary"], "binary", id=".env not text"),
    pytest.param(servers(0), ["--config", "binary"], "binary", id="YAML not text"),
    pytest.param(servers(0), ["--host", "203.0.113.1"], "LIVEKIT_POOL_HOST", id="not our address"),
    pytest.param(servers(0), ["--host", "0.0.0.0"], "LIVEKIT_POOL_KEY", id="no key off loopback"),
    pytest.param(servers(0), ["--store", "nosql://x"], "LIVEKIT_POOL_STORE", id="unknown store"),
    pytest.param(
        servers(0), ["--store", "sqlite:///binary"], "LIVEKIT_POOL_STORE", id="not a database"
    ),
    pytest.param(
        servers(0),
        ["--tls-cert", "binary", "--tls-key", "binary"],
        "LIVEKIT_POOL_TLS_CERT",
        id="TLS",
    ),
    pytest.param(
        servers(0), ["--tls-cert", "binary"], "LIVEKIT_POOL_TLS_KEY", id="half a certificate"
    ),
]


@pytest.mark.parametrize(("variables", "arguments", "named"), REFUSED)
def test_bad_configuration_is_one_sentence(
    tmp_path: Path, port: str, variables: dict[str, str], arguments: list[str], named: str
) -> None:
    binary = bytes(range(256)) * 40
    (tmp_path / "binary").write_bytes(binary)
    if "localhost:7870" not in str(variables):
        variables = variables | {"LIVEKIT_POOL_PORT": port}
    ran = run(tmp_path, "serve", *arguments, **variables)
    assert ran.returncode == 2, ran.stderr
    sentence = ran.stderr.splitlines()[-1]
    assert sentence.startswith("livekit-pool: ")
    assert named in sentence
    assert sentence.endswith(".")
    assert ran.stderr.count(named) == 1
    assert " ERROR " not in ran.stderr
    assert "Traceback" not in ran.stderr
    assert SECRET not in ran.stderr
    assert ran.stdout == ""
    assert (tmp_path / "binary").read_bytes() == binary


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        ran = run(tmp_path, "serve", "--port", taken, **servers(0))
    assert ran.returncode == 2
    assert ran.stderr == (
        f"livekit-pool: LIVEKIT_POOL_PORT {taken} is in use on 127.0.0.1: "
        "stop the program that listens there, or choose another port.\n"
    )
    assert list(tmp_path.iterdir()) == []  # no key pair for a pool that does not run


def test_nothing_of_a_refused_configuration_is_shown_by_the_command(command: Run) -> None:
    ran = command("serve", "--key", "key")
    assert ran.code == 2
    assert ran.err == (
        "livekit-pool: --key is set but LIVEKIT_POOL_SECRET is missing: set both or neither.\n"
    )
