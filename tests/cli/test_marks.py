"""``drain``, ``undrain``, ``pause`` and ``resume``."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from livekit_pool.cli import marks
from livekit_pool.cli.status import status_table
from tests.cli.conftest import Run
from tests.cli.scripted_pool import ScriptedPool, process, server, status

MARK = {"by": "ann@host", "since": "2026-11-01T10:00:00Z", "reason": "update"}
ROTATION = {
    "revision": 8,
    "from": "red",
    "to": "green",
    "cause": "manual",
    "reason": "drained: update",
    "actor": "ann@host",
    "at": "2026-11-01T10:00:00Z",
}
DRAIN_RED, DRAIN_BLUE = "/pool/servers/red/drain", "/pool/servers/blue/drain"


def drained(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "revision": 8,
        "changed": True,
        "rotation": None,
        "server": {"name": name, "drained": MARK},
        **fields,
    }


def paused(**fields: Any) -> dict[str, Any]:
    return {"revision": 8, "changed": True, "rotation": None, "paused": MARK, **fields}


@pytest.fixture(autouse=True)
def marking(pool: ScriptedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "PERIOD", 0.01)
    pool.answers["POST", DRAIN_RED] = (200, drained("red", rotation=ROTATION))
    pool.answers["POST", DRAIN_BLUE] = (200, drained("blue"))
    pool.answers["POST", "/pool/pause"] = (200, paused())


def posted(pool: ScriptedPool) -> list[Any]:
    return [body for method, _, body in pool.asked if method == "POST"]


def seen(pool: ScriptedPool, *statuses: dict[str, Any]) -> None:
    """What the pool shows: first, before anything is done, then each of ``statuses``."""
    shown = [(200, status()), *((200, each) for each in statuses)]
    *pool.first["GET", "/pool/status"], pool.answers["GET", "/pool/status"] = shown


def left(participants: int, *revisions: int) -> dict[str, Any]:
    """So many participants are left on red; processes follow documents of these revisions."""
    names = ("red", "green")
    return status(
        server("red", role="drained", drained=MARK, participants=participants),
        server("green", role="active"),
        active="green",
        revision=8,
        processes=[process(str(n), *names, revision=n) for n in revisions or (8, 8)],
    )


# ---- drain --------------------------------------------------------------------------------------


def test_drain_sends_the_revision_it_saw(command: Run, pool: ScriptedPool) -> None:
    ran = command("drain", "blue", "--reason", "update")
    assert (ran.code, ran.out) == (0, "Drained blue, revision 8.\n")
    assert posted(pool) == [{"reason": "update", "expected_revision": 7}]
    assert pool.actors[-1].count("@") == 1  # who did it, for the document


def test_draining_the_active_server_tells_of_the_rotation(command: Run) -> None:
    ran = command("drain", "red", "--reason", "update")
    assert (ran.code, ran.out) == (0, "Drained red and rotated to green, revision 8.\n")


def test_draining_the_last_one_by_force_says_what_that_means(
    command: Run, pool: ScriptedPool
) -> None:
    pool.answers["POST", DRAIN_RED] = (200, drained("red"))
    ran = command("drain", "red", "--reason", "update", "--force")
    assert ran.code == 0
    assert "It stays the active server" in ran.out
    assert "new rooms are refused" in ran.out
    assert posted(pool) == [{"reason": "update", "expected_revision": 7, "force": True}]


def test_draining_again_says_who_did_it(command: Run, pool: ScriptedPool) -> None:
    pool.answers["POST", DRAIN_BLUE] = (200, drained("blue", changed=False, revision=7))
    ran = command("drain", "blue", "--reason", "mine")
    assert ran.code == 0
    assert ran.out.startswith("blue is drained already, by ann@host since 2026-11-0")
    assert ran.out.endswith(" (update): nothing to do.\n")


def test_json_is_what_the_pool_answered(command: Run) -> None:
    answer = json.loads(command("drain", "red", "--reason", "update", "--json").out)
    assert answer == drained("red", rotation=ROTATION)
    assert json.loads(command("pause", "--reason", "update", "--json").out) == paused()


def test_a_name_is_sent_as_a_name(command: Run, pool: ScriptedPool) -> None:
    pool.answers["GET", "/pool/status"] = (200, status(server("a?b"), server("red", role="active")))
    pool.answers["POST", "/pool/servers/a%3Fb/drain"] = (200, drained("a?b"))
    assert command("drain", "a?b", "--reason", "update").code == 0


@pytest.mark.parametrize("command_line", [("drain", "pink", "--reason", "r")])
def test_an_unknown_server_is_found_out_before_anything_is_done(
    command: Run, pool: ScriptedPool, command_line: tuple[str, ...]
) -> None:
    ran = command(*command_line)
    assert ran.code == 1
    assert "No server of the pool is called pink" in ran.err
    assert posted(pool) == []


def test_a_document_that_changed_meanwhile(command: Run, pool: ScriptedPool) -> None:
    error = {"code": "revision_conflict", "message": "The document moved on.", "revision": 9}
    pool.answers["POST", DRAIN_RED] = (409, {"error": error})
    ran = command("drain", "red", "--reason", "update")
    assert ran.code == 1
    assert "from revision 7 to 9" in ran.err


def test_a_refusal_is_the_pools_sentence(command: Run, pool: ScriptedPool) -> None:
    error = {"code": "no_server", "message": "No other server is available.", "revision": 7}
    pool.answers["POST", DRAIN_RED] = (409, {"error": error})
    ran = command("drain", "red", "--reason", "update")
    assert (ran.code, ran.err) == (1, "livekit-pool: No other server is available.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("drain", "red"),
        ("drain", "--reason", "r"),
        ("pause",),
        ("drain", "red", "--reason", "r", "--wait", "soon"),
        ("drain", "red", "--reason", "r", "--wait", "-1"),
        ("undrain",),
    ],
)
def test_bad_usage(command: Run, pool: ScriptedPool, arguments: tuple[str, ...]) -> None:
    assert command(*arguments).code == 2
    assert pool.asked == []


@pytest.mark.parametrize(
    ("arguments", "typed", "code", "posts"),
    [(("red",), b"y\n", 0, 1), (("red",), b"n\n", 1, 0), (("red", "--yes"), b"", 0, 1)],
)
def test_on_a_terminal_it_shows_the_servers_and_asks(
    pool: ScriptedPool, arguments: tuple[str, ...], typed: bytes, code: int, posts: int
) -> None:
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-c", "from livekit_pool.cli import main; main()"]  # noqa: RUF005
        + ["drain", *arguments, "--reason", "update"],
        env={**os.environ, **pool.environment, "TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        if typed:
            while b"Drain red, the active server, and rotate to green? [y/N]" not in shown:
                shown += os.read(ours, 4096)
            os.write(ours, typed)
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # EIO: nobody has the other end any more
                break
        assert asking.wait(10) == code
    finally:
        asking.kill()
        asking.wait()
        os.close(ours)
    assert (b"wss://blue.example.com" in shown) is bool(typed)
    assert len(posted(pool)) == posts


# ---- drain --wait -------------------------------------------------------------------------------


def test_drain_waits_until_nobody_is_left_and_says_only_what_changes(
    command: Run, pool: ScriptedPool
) -> None:
    seen(pool, left(2), left(2), left(2), left(1), left(1), left(0))
    ran = command("drain", "red", "--reason", "update", "--wait")
    assert (ran.code, ran.out.splitlines()) == (
        0,
        [
            "Drained red and rotated to green, revision 8.",
            "2 participants are left on red.",
            "1 participant is left on red.",
            "Nobody is left on red.",
        ],
    )


def test_drain_waits_for_those_who_came_past_the_pool(command: Run, pool: ScriptedPool) -> None:
    past = left(0)
    past["servers"][0]["burn_rate"] = 1.0
    seen(pool, past, left(0))
    ran = command("drain", "red", "--reason", "update", "--wait")
    assert ran.out.splitlines()[1:] == [
        "1 participant is left on red.",
        "Nobody is left on red.",
    ]


def test_drain_does_not_believe_a_process_that_has_not_heard_of_it(
    command: Run, pool: ScriptedPool
) -> None:
    seen(pool, left(0, 7, 8), left(3, 8, 9), left(0, 8, 9))
    ran = command("drain", "red", "--reason", "update", "--wait", "60")
    assert (ran.code, ran.out.splitlines()[1:]) == (
        0,
        [
            "1 of 2 processes has not heard of it yet.",
            "3 participants are left on red.",
            "Nobody is left on red.",
        ],
    )


def test_drain_does_not_wait_longer_than_it_is_told(command: Run, pool: ScriptedPool) -> None:
    seen(pool, left(2))
    ran = command("drain", "red", "--reason", "update", "--wait", "0.1")
    assert ran.code == 1
    assert ran.err == "livekit-pool: After 0.1 s, 2 participants are left on red.\n"
    assert ran.out.splitlines()[1:] == ["2 participants are left on red."]


def test_drain_does_not_wait_for_what_somebody_undid(command: Run, pool: ScriptedPool) -> None:
    back = left(2)
    back["servers"][0]["drained"] = None
    seen(pool, left(2), back)
    ran = command("drain", "red", "--reason", "update", "--wait")
    assert (ran.code, "red was undrained meanwhile" in ran.err) == (1, True)


def test_drain_does_not_mistake_who_has_not_heard_of_it_for_an_end_of_it(
    command: Run, pool: ScriptedPool
) -> None:
    deaf = left(0, 7, 8)
    deaf["revision"], deaf["servers"][0]["drained"] = 7, None
    seen(pool, deaf, left(0))
    ran = command("drain", "red", "--reason", "update", "--wait")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "Nobody is left on red.")


def test_json_waits_without_a_word_in_between(command: Run, pool: ScriptedPool) -> None:
    seen(pool, left(2), left(0))
    ran = command("drain", "red", "--reason", "update", "--wait", "--json")
    assert (ran.code, json.loads(ran.out)) == (0, drained("red", rotation=ROTATION))
    seen(pool, left(2))
    ran = command("drain", "red", "--reason", "update", "--wait", "0", "--json")
    assert (ran.code, json.loads(ran.out)) == (1, drained("red", rotation=ROTATION))


# ---- undrain, pause, resume ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (True, "blue may be chosen again, revision 9."),
        (False, "blue is not drained: nothing to do."),
    ],
)
def test_undrain(command: Run, pool: ScriptedPool, changed: bool, line: str) -> None:
    answer = drained("blue", changed=changed, revision=9, server={"name": "blue", "drained": None})
    pool.answers["POST", "/pool/servers/blue/undrain"] = (200, answer)
    ran = command("undrain", "blue")
    assert (ran.code, ran.out) == (0, f"{line}\n")
    assert json.loads(command("undrain", "blue", "--json").out) == answer
    assert posted(pool) == [{}, {}]


def test_undrain_of_an_unknown_server(command: Run, pool: ScriptedPool) -> None:
    error = {"code": "unknown_server", "message": "No server of the pool is named 'pink'."}
    pool.answers["POST", "/pool/servers/pink/undrain"] = (404, {"error": error})
    ran = command("undrain", "pink")
    assert (ran.code, ran.err) == (1, "livekit-pool: No server of the pool is named 'pink'.\n")


def test_pause(command: Run, pool: ScriptedPool) -> None:
    ran = command("pause", "--reason", "update")
    assert (ran.code, ran.out) == (0, "Automatic rotation is paused, revision 8.\n")
    assert posted(pool) == [{"reason": "update"}]  # whatever happens meanwhile, it shall pause


def test_pausing_again_says_who_did_it(command: Run, pool: ScriptedPool) -> None:
    pool.answers["POST", "/pool/pause"] = (200, paused(changed=False))
    ran = command("pause", "--reason", "mine")
    assert ran.out.startswith("It is paused already, by ann@host since ")
    assert ran.out.endswith(" (update): nothing to do.\n")


def test_pause_waits_until_every_process_has_heard_of_it(command: Run, pool: ScriptedPool) -> None:
    shown = [left(0, 7, 7), left(0, 7, 8), left(0, 7, 8), left(0, 8, 9)]
    *pool.first["GET", "/pool/status"], pool.answers["GET", "/pool/status"] = [
        (200, each) for each in shown
    ]
    ran = command("pause", "--reason", "update", "--wait")
    assert (ran.code, ran.out.splitlines()[1:]) == (
        0,
        [
            "2 of 2 processes have not heard of it yet.",
            "1 of 2 processes has not heard of it yet.",
            "Every process of the pool has heard of it.",
        ],
    )


def test_pause_does_not_wait_longer_than_it_is_told(command: Run, pool: ScriptedPool) -> None:
    pool.answers["GET", "/pool/status"] = (200, left(0, 7, 8))
    ran = command("pause", "--reason", "update", "--wait", "0")
    assert ran.code == 1
    assert ran.err == "livekit-pool: After 0 s, 1 of 2 processes has not heard of it yet.\n"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (True, "Automatic rotation goes on, revision 9."),
        (False, "Automatic rotation is not paused: nothing to do."),
    ],
)
def test_resume(command: Run, pool: ScriptedPool, changed: bool, line: str) -> None:
    answer = paused(changed=changed, revision=9, paused=None)
    pool.answers["POST", "/pool/resume"] = (200, answer)
    ran = command("resume")
    assert (ran.code, ran.out) == (0, f"{line}\n")
    assert json.loads(command("resume", "--json").out) == answer
    assert posted(pool) == [{}, {}]


def test_a_pool_that_does_not_answer(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEKIT_POOL_URL", "ws://127.0.0.1:9")
    for arguments in (("drain", "red", "--reason", "r"), ("pause", "--reason", "r"), ("resume",)):
        assert command(*arguments).code == 3


def test_status_warns_of_a_drained_active_server() -> None:
    shown = status(server("red", role="active", drained=MARK), server("green", role="drained"))
    lines = status_table(shown).plain().splitlines()
    assert any("red, is drained: new rooms are refused" in line for line in lines)
    assert "is drained: new rooms" not in status_table(status()).plain()
