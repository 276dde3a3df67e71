"""Servers that answer plain probes and fail calls: what log and status say of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from livekit_pool import observe
from livekit_pool.core.events import ProbeOutcome
from livekit_pool.driver.failing_calls import FailingCalls
from livekit_pool.upstream.connection import Stage
from livekit_pool.upstream.probe import ProbeResult
from tests.core.samples import FAILED, PASSED, REFUSED, SILENT, UNAUTHORIZED

NOTHING_MORE = "answered"


class Watch:
    """Failing calls of a pool that tells of three in a row, and the log."""

    def __init__(self, log: pytest.LogCaptureFixture) -> None:
        self.log = log
        self.calls = FailingCalls(fall=3)

    def called(
        self,
        *outcomes: ProbeOutcome,
        server: str = "red",
        aloud: bool = True,
        stalled: bool = False,
        detail: str = "no",
    ) -> None:
        for outcome in outcomes:
            result = probe(server, outcome, Stage.SIGNED, detail, stalled=stalled)
            self.calls.saw_call(result, aloud=aloud)

    def shows(self, server: str = "red", outcome: ProbeOutcome = PASSED) -> str:
        return self.calls.saw(probe(server, outcome, Stage.HTTP, NOTHING_MORE)).detail

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        found = [(each.message, each.__dict__["fields"]) for each in self.log.records]
        assert {each.levelno for each in self.log.records} <= {logging.WARNING}
        self.log.clear()
        return found


def probe(
    server: str, outcome: ProbeOutcome, stage: Stage, detail: str, *, stalled: bool = False
) -> ProbeResult:
    return ProbeResult(
        server=server, outcome=outcome, stage=stage, detail=detail, duration=0.1, stalled=stalled
    )


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Iterator[Watch]:
    with caplog.at_level(logging.INFO, logger="livekit_pool"):
        yield Watch(caplog)


def test_it_is_told_once_that_calls_fail_and_once_that_they_pass_again(watch: Watch) -> None:
    watch.called(FAILED, REFUSED)
    assert watch.told() == []
    watch.called(SILENT, detail="no answer in time")
    watch.called(FAILED, FAILED, FAILED, FAILED)
    fails = {"server": "red", "detail": "no answer in time"}
    assert watch.told() == [(observe.CALLS_FAIL, fails)]
    watch.called(PASSED, PASSED)
    assert watch.told() == [(observe.CALLS_BACK, {"server": "red"})]
    watch.called(FAILED, FAILED, FAILED)
    assert [event for event, _ in watch.told()] == [observe.CALLS_FAIL]


@pytest.mark.parametrize("answer", [PASSED, UNAUTHORIZED, ProbeOutcome.LIMITED])
def test_only_calls_that_fail_in_a_row_are_told(watch: Watch, answer: ProbeOutcome) -> None:
    for _ in range(3):
        watch.called(FAILED, FAILED, answer)
    watch.called(FAILED, FAILED, server="green")
    assert watch.told() == []


def test_a_refused_key_is_no_end_of_what_was_told(watch: Watch) -> None:
    watch.called(FAILED, FAILED, FAILED, UNAUTHORIZED)
    assert [event for event, _ in watch.told()] == [observe.CALLS_FAIL]
    watch.called(PASSED)
    assert [event for event, _ in watch.told()] == [observe.CALLS_BACK]


@pytest.mark.parametrize("outcome", [REFUSED, FAILED, SILENT])
def test_a_server_whose_plain_probes_fail_does_not_fail_calls_alone(
    watch: Watch, outcome: ProbeOutcome
) -> None:
    watch.called(FAILED, FAILED)
    assert watch.shows(outcome=outcome) == NOTHING_MORE
    watch.called(FAILED, FAILED)
    assert watch.told() == []


def test_silence_while_this_process_stood_still_is_none(watch: Watch) -> None:
    watch.called(SILENT, SILENT, SILENT, stalled=True)
    assert watch.shows() == NOTHING_MORE
    assert watch.told() == []
    watch.called(FAILED, FAILED, FAILED, stalled=True)
    assert len(watch.told()) == 1, "an answer is one all the same"


def test_one_process_of_a_machine_tells_it(watch: Watch) -> None:
    watch.called(FAILED, FAILED, FAILED, aloud=False)
    watch.called(PASSED, aloud=False)
    assert watch.told() == []
    watch.called(FAILED, FAILED, FAILED, aloud=False)
    watch.called(FAILED)
    assert len(watch.told()) == 1, "from now on it is this one that tells"


def test_a_plain_probe_shows_that_calls_fail_while_they_do(watch: Watch) -> None:
    assert watch.shows() == NOTHING_MORE
    watch.called(REFUSED, detail="connection reset")
    for _ in range(3):
        assert watch.shows() == "answered, but calls fail: connection reset"
    assert watch.shows("green") == NOTHING_MORE
    watch.called(FAILED, detail="it answered HTTP 502 when asked for its rooms")
    assert watch.shows().endswith(", but calls fail: it answered HTTP 502 when asked for its rooms")
    watch.called(PASSED)
    assert watch.shows() == NOTHING_MORE
