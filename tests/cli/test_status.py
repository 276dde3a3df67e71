"""``status`` and ``history``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from livekit_pool.cli.status import status_table
from tests.cli.conftest import Run
from tests.cli.scripted_pool import ScriptedPool, process, server, status

WITHOUT_EXTRAS = ["SERVER", "URL", "ROLE", "HEALTH", "ROOMS", "PARTICIPANTS", "LAST PROBE"]


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def columns(answer: dict[str, Any]) -> list[str]:
    return status_table(answer).plain().splitlines()[1].replace("LAST PROBE", "LAST_PROBE").split()


def test_status_shows_each_server_on_a_line(command: Run, pool: ScriptedPool) -> None:
    ran = command("status")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "revision 7  active red  store sqlite:///livekit-pool.db  2 processes"
    assert lines[1].split("  ")[0] == "SERVER"
    assert lines[2].split() == ["red", "wss://red.example.com", "active", "up", "3", "12", "-"]
    assert len(lines) == 5
    assert pool.asked == [("GET", "/pool/status", None)]
    assert pool.refused == 0


def test_json_is_what_the_pool_answered(command: Run, pool: ScriptedPool) -> None:
    ran = command("status", "--json")
    assert json.loads(ran.out) == pool.answers["GET", "/pool/status"][1]


def test_extra_columns_only_where_there_is_something() -> None:
    assert [name.replace("_", " ") for name in columns(status())] == WITHOUT_EXTRAS
    cooling = server(
        "green", role="cooling", cause="down", health="down", cool_down_until=in_seconds(65.4)
    )
    table = status_table(status(server("red", role="active"), cooling)).plain()
    assert "COOL-DOWN LEFT  CAUSE" in table
    assert "1 min 5 s" in table
    drained = server(
        "blue", role="drained", drained={"by": "ann", "since": in_seconds(-9), "reason": "update"}
    )
    table = status_table(status(server("red", role="active"), drained)).plain()
    assert "DRAINED" in table
    assert "by ann: update" in table
    metered = server("red", role="active", minutes_used=410.53, minutes_budget=500.0)
    table = status_table(status(metered)).plain()
    assert "MINUTES" in table
    assert "410.5 of 500 " in table
    table = status_table(status(metered | {"runs_out": in_seconds(65.4)})).plain()
    assert "410.5 of 500, out in 1 min 5 s " in table


@pytest.mark.parametrize(
    ("probe", "shown"),
    [
        ({"outcome": "passed", "duration": 0.0012, "detail": ""}, "passed in 1.2 ms, 3 s ago"),
        (
            {"outcome": "passed", "duration": 0.0012, "detail": "answered"},
            "passed in 1.2 ms, 3 s ago",
        ),
        (
            {
                "outcome": "passed",
                "duration": 0.0012,
                "detail": "answered, but calls fail: connection reset",
            },
            "passed in 1.2 ms, but calls fail: connection reset, 3 s ago",
        ),
        (
            {"outcome": "refused", "duration": 0.1, "detail": "connection refused"},
            "refused: connection refused, 3 s ago",
        ),
        ({"outcome": "silent", "duration": 0.8, "detail": ""}, "silent, 3 s ago"),
    ],
)
def test_the_last_probe(probe: dict[str, Any], shown: str) -> None:
    one = server("red", role="active", last_probe={**probe, "at": in_seconds(-3)})
    assert status_table(status(one)).plain().splitlines()[2].endswith(shown)


@pytest.mark.parametrize(
    ("answer", "warning"),
    [
        (status(), None),
        (status(server("red", role="active")), None),
        (
            status(paused={"by": "ann", "since": "2026-11-01T10:00:00Z", "reason": "maintenance"}),
            "Automatic rotation is paused by ann since",
        ),
        (
            status(store={"url": "sqlite:///x.db", "ok": False, "detail": None}),
            "The store cannot be used: the pool works with what it read last.",
        ),
        (
            status(provisional={"instead_of": "one", "since": "2026-11-01T10:00:00Z"}),
            "red stands in for one since",
        ),
        (
            status(server("red", role="active", health="down"), server("green")),
            "The active server, red, is down.",
        ),
        (
            status(server("red", role="active"), server("green", health="down")),
            "No other server is available: there is nowhere to rotate to.",
        ),
        (
            status(
                server("red", role="active"), server("green", role="misconfigured"), server("b")
            ),
            "green refuses its key: correct the key and secret in the configuration.",
        ),
    ],
)
def test_warnings_are_lines_below(answer: dict[str, Any], warning: str | None) -> None:
    footer = status_table(answer).plain().splitlines()[2 + len(answer["servers"]) :]
    if warning is None:
        assert footer == []
    else:
        assert len(footer) == 1
        assert footer[0].startswith(warning)


def footer(answer: dict[str, Any]) -> list[str]:
    """The lines below the last table."""
    return list(status_table(answer).footer)


def test_what_is_wrong_with_the_store_is_said() -> None:
    store = {"url": "redis://x", "ok": False, "detail": "the Redis x does not answer."}
    assert footer(status(store=store)) == [
        "The store cannot be used: the pool works with what it read last.",
        "  The Redis x does not answer.",
    ]


def test_a_step_is_told_above_and_below() -> None:
    answer = status(provisional={"instead_of": "one", "since": "2026-11-01T10:00:00Z"})
    shown = status_table(answer)
    assert shown.header.split("  ")[1] == "active red (provisional)"
    (line,) = shown.footer
    assert line.endswith(
        ": a provisional step, which becomes a rotation when the store is back,"
        " if one is still down."
    )


def test_processes_are_counted_with_their_machines() -> None:
    names = ("red", "green")
    one, two = process("1", *names), process("2", *names, host="machine1")
    assert status_table(status(processes=[one])).header.endswith("  1 process")
    assert status_table(status(processes=[one, one])).header.endswith("  2 processes")
    assert status_table(status(processes=[one, one, two])).header.endswith(
        "  3 processes on 2 machines"
    )


def test_each_process_is_shown_if_one_asks(command: Run, pool: ScriptedPool) -> None:
    times = {"started": in_seconds(-125), "last_seen": in_seconds(-1)}
    processes = [
        process("a1", "red", "blue", probing=True, participants=4, **times),
        process("b2", "red", "blue", host="machine1", **times),
    ]
    pool.answers["GET", "/pool/status"] = (200, status(processes=processes))
    assert "PROCESS" not in command("status").out
    ran = command("status", "--processes")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[5:7] == [
        "",
        "PROCESS  MACHINE   STARTED        LAST SEEN  PROBES  PARTICIPANTS  LIST      SERVERS",
    ]
    assert lines[7:] == [
        "a1       machine0  2 min 5 s ago  1 s ago    yes     4             00000000  red, blue",
        "b2       machine1  2 min 5 s ago  1 s ago    no      0             00000000  red, blue",
    ]


def differing(*processes: dict[str, Any]) -> dict[str, Any]:
    return status(processes=list(processes), lists_differ=True)


def test_processes_are_shown_unasked_while_their_lists_differ() -> None:
    one = process("a1", "red", "green", "blue")
    two = process("b2", "red", "green", fingerprint="9" * 32)
    shown = status_table(differing(one, two)).plain().splitlines()
    assert shown[6].startswith("PROCESS")
    assert [line.split()[0] for line in shown[7:9]] == ["a1", "b2"]
    assert shown[9] == ""
    assert shown[10] == "Processes have different lists of servers:"


ALL = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (("red", "green"), "red, green (without blue)"),
        (("red", "blue", "green"), "red, blue, green (in another order)"),
        (ALL, "red, green, blue (with another URL, key or limit)"),
    ],
)
def test_how_lists_differ_is_told_by_machine(other: tuple[str, ...], told: str) -> None:
    usual = [process("a1", *ALL), process("b2", *ALL), process("c3", *ALL, host="machine1")]
    odd = process("d4", *other, host="machine2", fingerprint="9" * 32)
    lines = footer(differing(odd, *usual))
    assert lines[:3] == [
        "Processes have different lists of servers:",
        "  red, green, blue: machine0 (2 processes) and machine1 (1 process)",
        f"  {told}: machine2 (1 process)",
    ]
    lacking = ["Not chosen automatically until every process has it: blue."]
    assert lines[3:] == (lacking if "blue" not in other else [])


def test_a_server_that_most_do_not_have_yet_is_no_reason_to_call_theirs_odd() -> None:
    lines = footer(
        differing(
            process("a1", "red", "green"),
            process("b2", "red", "green"),
            process("c3", *ALL, fingerprint="9" * 32),
        )
    )
    assert lines[1:3] == [
        "  red, green (without blue): machine0 (2 processes)",
        "  red, green, blue: machine0 (1 process)",
    ]


def test_a_server_that_not_every_process_has_is_nowhere_to_rotate_to() -> None:
    servers = (server("red", role="active"), server("green", url=None))
    two = [process("a1", "red"), process("b2", "red", "green", fingerprint="9" * 32)]
    answer = status(*servers, processes=two, lists_differ=True)
    assert "No other server is available: there is nowhere to rotate to." in footer(answer)
    assert "green   (in other lists)" in status_table(answer).plain()


def test_watch_shows_it_again_waits_for_the_pool_and_ends_with_ctrl_c() -> None:
    with ScriptedPool() as pool:
        watching = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from livekit_pool.cli import main; main()",
                "status",
                "--watch",
            ],
            env={**os.environ, **pool.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 20
        while len(pool.asked) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        error = {"code": "not_ready", "message": "Not ready yet."}
        pool.answers["GET", "/pool/status"] = (503, {"error": error})
        # Until it has told that, and waits: Python loses an interrupt that comes in a finalizer.
        assert watching.stdout is not None
        told = ""
        while "Not ready yet." not in told:
            line = watching.stdout.readline()
            assert line, told
            told += line
        watching.send_signal(signal.SIGINT)
        rest, err = watching.communicate(timeout=10)
        out = told + rest
    assert (watching.returncode, err) == (0, "")
    assert out.startswith("revision 7  active red")
    assert "\n\nNot ready yet.\n" in out


def test_history_is_a_table_newest_first(command: Run, pool: ScriptedPool) -> None:
    rotations = [
        {
            "revision": revision,
            "from": "red",
            "to": "green",
            "cause": "manual",
            "reason": "an update",
            "actor": "ann@host",
            "at": "2026-11-01T10:00:00.250Z",
        }
        for revision in (9, 8)
    ]
    pool.answers["GET", "/pool/history"] = (200, {"rotations": rotations})
    ran = command("history", "--limit", "2")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["REVISION", "TIME", "FROM", "TO", "CAUSE", "ACTOR", "REASON"]
    assert [line.split()[0] for line in lines[1:]] == ["9", "8"]
    assert lines[1].endswith("red   green  manual  ann@host  an update")
    assert pool.asked == [("GET", "/pool/history?limit=2", None)]
    assert json.loads(command("history", "--json").out) == {"rotations": rotations}


def test_no_history_yet(command: Run, pool: ScriptedPool) -> None:
    pool.answers["GET", "/pool/history"] = (200, {"rotations": []})
    assert command("history").out == "No rotation yet.\n"
    assert json.loads(command("history", "--json").out) == {"rotations": []}
