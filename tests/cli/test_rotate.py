"""``rotate``."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.scripted_pool import ScriptedPool, process, server, status

DONE = {
    "revision": 8,
    "from": "red",
    "to": "green",
    "cause": "manual",
    "reason": "update",
    "actor": "ann@host",
    "at": "2026-11-01T10:00:00Z",
}


@pytest.fixture(autouse=True)
def rotating(pool: ScriptedPool) -> None:
    pool.answers["POST", "/pool/rotate"] = (200, DONE)


def posted(pool: ScriptedPool) -> list[Any]:
    return [body for method, _, body in pool.asked if method == "POST"]


def test_it_sends_the_revision_it_saw(command: Run, pool: ScriptedPool) -> None:
    ran = command("rotate", "--reason", "update")
    assert (ran.code, ran.out) == (0, "Rotated from red to green, revision 8.\n")
    assert posted(pool) == [{"reason": "update", "expected_revision": 7}]
    assert pool.actors[-1].count("@") == 1  # who did it, for the history


def test_to_and_force_are_passed_on(command: Run, pool: ScriptedPool) -> None:
    assert command("rotate", "--reason", "update", "--to", "blue", "--force").code == 0
    assert posted(pool) == [
        {"reason": "update", "to": "blue", "expected_revision": 7, "force": True}
    ]


def test_json_is_the_rotation(command: Run) -> None:
    assert json.loads(command("rotate", "--reason", "update", "--json").out) == DONE


def test_a_server_that_is_active_already(command: Run, pool: ScriptedPool) -> None:
    pool.answers["POST", "/pool/rotate"] = (200, {"revision": 7, "rotation": None})
    ran = command("rotate", "--reason", "update", "--to", "red")
    assert (ran.code, ran.out) == (0, "red is the active server already: nothing to do.\n")


def test_from_is_a_precondition(command: Run, pool: ScriptedPool) -> None:
    ran = command("rotate", "--reason", "update", "--from", "green")
    assert ran.code == 1
    assert (
        ran.err == "livekit-pool: The active server is red, not green (--from): nothing was done.\n"
    )
    assert command("rotate", "--reason", "update", "--from", "red").code == 0
    assert len(posted(pool)) == 1


def test_an_unknown_server_is_found_out_before_anything_is_done(
    command: Run, pool: ScriptedPool
) -> None:
    ran = command("rotate", "--reason", "update", "--to", "pink")
    assert ran.code == 1
    assert "No server of the pool is called pink" in ran.err
    assert posted(pool) == []


@pytest.mark.parametrize(
    ("servers", "target"),
    [
        ([server("red", role="active"), server("green"), server("blue")], "green"),
        ([server("red", role="active"), server("green", health="down"), server("blue")], "blue"),
        ([server("red", role="active"), server("green", role="cooling"), server("blue")], "blue"),
        ([server("green"), server("red", role="active"), server("blue", role="drained")], "green"),
        ([server("red", role="active"), server("green", health="unknown")], None),
    ],
)
def test_a_dry_run_says_what_would_happen(
    command: Run, pool: ScriptedPool, servers: list[dict[str, Any]], target: str | None
) -> None:
    pool.answers["GET", "/pool/status"] = (200, status(*servers))
    ran = command("rotate", "--reason", "update", "--dry-run")
    if target is None:
        assert (ran.code, ran.out) == (1, "")
        assert "No server is available to rotate to from red." in ran.err
    else:
        assert (ran.code, ran.out) == (
            0,
            f"Would rotate from red to {target}, from revision 7 on.\n",
        )
        as_json = json.loads(command("rotate", "--reason", "x", "--dry-run", "--json").out)
        assert as_json == {"dry_run": True, "revision": 7, "from": "red", "to": target}
    assert posted(pool) == []


def test_a_server_that_not_every_process_has_is_not_what_a_rotation_would_choose(
    command: Run, pool: ScriptedPool
) -> None:
    processes = [process("a", "red", "green", "blue"), process("b", "red", "blue")]
    pool.answers["GET", "/pool/status"] = (200, status(processes=processes, lists_differ=True))
    ran = command("rotate", "--reason", "update", "--dry-run")
    assert ran.out == "Would rotate from red to blue, from revision 7 on.\n"


def test_a_document_that_changed_meanwhile(command: Run, pool: ScriptedPool) -> None:
    error = {"code": "revision_conflict", "message": "The document moved on.", "revision": 9}
    pool.answers["POST", "/pool/rotate"] = (409, {"error": error})
    ran = command("rotate", "--reason", "update")
    assert ran.code == 1
    assert "from revision 7 to 9" in ran.err


def test_a_refusal_is_the_pools_sentence(command: Run, pool: ScriptedPool) -> None:
    error = {"code": "no_server", "message": "No server may be chosen.", "revision": 7}
    pool.answers["POST", "/pool/rotate"] = (409, {"error": error})
    ran = command("rotate", "--reason", "update")
    assert (ran.code, ran.err) == (1, "livekit-pool: No server may be chosen.\n")


@pytest.mark.parametrize(
    ("arguments", "typed", "code", "posts"),
    [((), b"y\n", 0, 1), ((), b"n\n", 1, 0), ((), b"\n", 1, 0), (("--yes",), b"", 0, 1)],
)
def test_on_a_terminal_it_shows_the_servers_and_asks(
    pool: ScriptedPool, arguments: tuple[str, ...], typed: bytes, code: int, posts: int
) -> None:
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-c", "from livekit_pool.cli import main; main()"]  # noqa: RUF005
        + ["rotate", "--reason", "update", *arguments],
        env={**os.environ, **pool.environment, "TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    try:
        if typed:
            while b"Rotate from red to green? [y/N]" not in seen:
                seen += os.read(ours, 4096)
            os.write(ours, typed)
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # EIO: nobody has the other end any more
                break
        assert asking.wait(10) == code
    finally:
        asking.kill()
        asking.wait()
        os.close(ours)
    assert (b"wss://blue.example.com" in seen) is bool(typed)
    assert len(posted(pool)) == posts
