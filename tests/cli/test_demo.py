"""``demo``: the whole of it with real servers, and what it makes of a call that fails."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pytest

from livekit_pool.cli.demo.call import Participant, longest_gap
from livekit_pool.cli.demo.show import LinesShow, LiveShow
from livekit_pool.cli.demo.story import Result, Step, sum_up, what_is_missing
from tests.cli.conftest import Run
from tests.cli.scripted_pool import status

COMMAND = (sys.executable, "-c", "from livekit_pool.cli import main; main()", "demo")


# ---- with real servers ------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.timeout(150)
def test_the_call_survives_and_what_is_kept_can_be_joined(tmp_path: Path) -> None:
    log = tmp_path / "log"
    folder = tmp_path / "tmp"
    folder.mkdir()
    with log.open("w") as stderr:
        demo = subprocess.Popen(
            [*COMMAND, "--keep", "--json"],
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert demo.stdout is not None
        result, join = _json_values(demo.stdout, 2)
        shown = subprocess.run(
            [*COMMAND[:-1], "status", "--json"],
            env={
                "PATH": os.environ["PATH"],
                "LIVEKIT_POOL_URL": join["url"],
                "LIVEKIT_POOL_KEY": join["key"],
                "LIVEKIT_POOL_SECRET": join["secret"],
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0
    finally:
        demo.kill()
        demo.wait()
        assert demo.stdout is not None
        demo.stdout.close()
    assert json.loads(shown.stdout)["active"] == "red"
    assert result["survived"] is True
    assert result["wrong"] == []
    assert [(one["from"], one["to"], one["cause"]) for one in result["rotations"]] == [
        ("red", "green", "down"),
        ("green", "red", "manual"),
    ]
    assert [(one["from"], one["to"]) for one in result["steps"]] == [
        ("red", "green"),
        ("green", "red"),
    ]
    for step in result["steps"]:
        assert 0 < step["longest_gap"]["data"] < 20
        assert 0 < step["longest_gap"]["audio"] < 20
        assert step["messages"]["sent"] > 50
    assert "killing red, the active server (SIGKILL)" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert list(folder.iterdir()) == []


def _json_values(stream: IO[str], count: int) -> list[Any]:
    """The first ``count`` objects of a stream of indented JSON."""
    values: list[Any] = []
    text = ""
    while len(values) < count:
        line = stream.readline()
        assert line, text
        text += line
        if line == "}\n":
            values.append(json.loads(text))
            text = ""
    return values


@pytest.mark.real
@pytest.mark.timeout(90)
def test_a_killed_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*COMMAND],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "alice and bob are in a call" in line:
                break
        children = _descendants(demo.pid)
        assert len(children) == 3 + 1 + 2  # LiveKit servers, supervisor, workers
    finally:
        demo.kill()
        demo.wait()
        assert demo.stdout is not None
        demo.stdout.close()
    deadline = time.monotonic() + 10
    while any(_lives(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *_descendants(child))]


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_without_the_sdk_it_says_how_to_get_it(
    command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ran = command("demo")
    assert (ran.code, ran.out) == (1, "")
    assert "pip install 'livekit-pool[demo]'" in ran.err


# ---- what it makes of what it saw -------------------------------------------------------------


@dataclass
class Seen:
    """What a participant remembers, written by hand."""

    identity: str
    state: str = "connected"
    others: set[str] = field(default_factory=set)
    sent_at: list[float] = field(default_factory=list)
    got: set[int] = field(default_factory=set)
    messages: list[float] = field(default_factory=list)
    tones: list[float] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def receives(self, since: float) -> bool:
        return self.messages[-1] > since and self.tones[-1] > since


def call() -> tuple[Seen, Seen]:
    """Two who sent a message each second from 0 to 20 s, and got each at once, and the tone."""
    seconds = [float(second) for second in range(21)]
    alice, bob = (
        Seen(
            identity=name,
            others={other},
            sent_at=list(seconds),
            got=set(range(1, 22)),
            messages=list(seconds),
            tones=list(seconds),
        )
        for name, other in (("alice", "bob"), ("bob", "alice"))
    )
    for one in (alice, bob):
        one.seen["reconnected"] = 1
    return alice, bob


def both(pair: tuple[Seen, Seen]) -> tuple[Participant, Participant]:
    return cast(tuple[Participant, Participant], pair)


def result_of(pair: tuple[Seen, Seen], rotations: list[dict[str, Any]] | None = None) -> Result:
    result = Result(
        steps=[
            Step(what="a kill", from_="red", to="green", began=5, ended=9),
            Step(what="by hand", from_="green", to="red", began=12, ended=18),
        ],
        rotations=[{"from": "red", "to": "green"}, {"from": "green", "to": "red"}]
        if rotations is None
        else rotations,
    )
    sum_up(result, both(pair))
    return result


def test_a_call_without_loss() -> None:
    result = result_of(call())
    assert result.survived
    assert (result.sent, result.lost, result.data_gap, result.audio_gap) == (42, 0, 1, 1)
    assert [step.sent for step in result.steps] == [2 * 7, 2 * 9]
    assert list(result.lines())[-1] == (
        "The call survived: longest gap 1.00 s in data and 1.00 s in audio, 0 of 42 messages lost."
    )


def test_lost_messages_and_gaps_are_those_of_their_step() -> None:
    alice, bob = call()
    alice.got -= {8, 14, 15}  # sent by bob at 7, 13 and 14 s
    bob.tones = [at for at in bob.tones if not 13 < at < 17]
    alice.messages = [at for at in alice.messages if not 6 < at < 8.5]
    result = result_of((alice, bob))
    assert [step.lost for step in result.steps] == [1, 2]
    assert [step.data_gap for step in result.steps] == [3, 1]
    assert [step.audio_gap for step in result.steps] == [1, 4]
    assert (result.lost, result.data_gap, result.audio_gap) == (3, 3, 4)
    assert result.as_json()["messages"] == {"sent": 42, "lost": 3}


def test_what_was_sent_before_the_other_was_there_is_not_lost() -> None:
    alice, bob = call()
    alice.got -= {1, 2, 3}
    assert result_of((alice, bob)).lost == 0


@pytest.mark.parametrize(
    "rotations",
    [
        [],
        [{"from": "red", "to": "green"}],
        [{"from": "red", "to": "green"}, {"from": "green", "to": "blue"}],
        [{"from": "red", "to": "green"}] * 2 + [{"from": "green", "to": "red"}],
    ],
)
def test_a_history_that_is_not_one_entry_for_each_step(rotations: list[dict[str, Any]]) -> None:
    result = result_of(call(), rotations)
    assert not result.survived
    assert list(result.lines())[-1].startswith("The call did not survive: the history says ")


def test_a_story_cut_short_did_not_survive() -> None:
    assert not Result().survived
    assert list(Result().lines())[-1] == "The call did not survive: it was cut short."


def missing(pair: tuple[Seen, Seen], present: set[str] | None = None) -> list[str]:
    step = Step(what="red was killed", from_="red", to="green", began=5)
    before = {"alice": 0, "bob": 0}
    everybody = {"alice", "bob"} if present is None else present
    return what_is_missing(step, both(pair), before, 19.0, everybody)


def test_nothing_is_missing_from_a_call_that_is_whole() -> None:
    assert missing(call()) == []


def test_whatever_is_missing_is_said() -> None:
    pair = call()
    pair[0].seen["disconnected"] = 1
    assert missing(pair) == ["alice was disconnected"]
    pair = call()
    pair[1].seen["reconnected"] = 0
    assert missing(pair) == ["bob did not reconnect after red was killed"]
    pair = call()
    pair[0].others = set()
    assert missing(pair) == ["alice does not see bob after red was killed"]
    pair = call()
    pair[1].tones = pair[1].tones[:-2]
    assert missing(pair) == ["bob does not get alice's audio and messages after red was killed"]
    assert missing(call(), {"alice"}) == ["bob is missing from the room on green"]
    assert missing(call(), set()) == ["alice and bob are missing from the room on green"]


def test_the_longest_gap_counts_the_edges() -> None:
    assert longest_gap([1.0, 2.0, 2.5], 0.0, 3.0) == 1.0
    assert longest_gap([1.0, 2.0], 0.0, 7.0) == 5.0
    assert longest_gap([], 2.0, 6.0) == 4.0
    assert longest_gap([0.5, 9.0], 2.0, 6.0) == 4.0
    assert not math.isinf(longest_gap([], 0.0, 1.0))


# ---- how it is shown --------------------------------------------------------------------------


def test_lines_leave_standard_output_to_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    with LinesShow(to_stderr=True) as show:
        show.update(status(), [("alice", "connected", 1, 1, 0.1, None)])
        show.line("something happens")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(" s  something happens\n")
    assert err.count("\n") == 1


def test_the_live_table_shows_servers_call_and_story(capsys: pytest.CaptureFixture[str]) -> None:
    show = LiveShow()
    show.line("before")
    with show:
        show.line("killing red")
        show.update(status(), [("alice", "reconnecting", 17, 12, 0.1, None)])
        show.update(None, [("alice", "connected", 18, 12, 0.1, 0.2)])
    out = capsys.readouterr().out
    assert out.count("before") == 1
    assert "killing red" in out
    assert "the pool does not answer" in out
    assert "connected" in out
