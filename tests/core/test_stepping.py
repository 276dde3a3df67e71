"""A dead active server while the store is away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.actions import (
    Announce,
    Note,
    NoteEvent,
    Probe,
    Restore,
    Step,
    Swap,
)
from livekit_pool.core.document import Cause, ServerRecord
from livekit_pool.core.events import (
    Event,
    FaultSeen,
    FaultSource,
    Loaded,
    Probed,
    ProbeOutcome,
    RotateAsked,
    RowsSeen,
    Tick,
)
from livekit_pool.core.machine import Role
from livekit_pool.core.situation import FRESH
from tests.core.samples import (
    AWAY,
    MARK,
    NAMES,
    PASSED,
    REFUSED,
    SILENT,
    START,
    UNAUTHORIZED,
    Pool,
    away,
    back,
    document,
    moved,
    notes_of,
    probes_of,
    step_of,
    stepped,
    swap_of,
)

COOLING = ServerRecord(cool_down_until=START + 60, cool_down_cause=Cause.DOWN, failures=1)


def test_a_refused_probe_is_enough_for_a_step() -> None:
    pool = away()
    actions = pool.probed("red", REFUSED)
    step = Step(server="green", since=pool.now, lineage="L", active_since=1)
    assert [(a.event, a.fields) for a in actions if isinstance(a, Note)] == [
        (NoteEvent.STEPPED, {"server": "red", "to": "green"})
    ]
    assert actions[-1] == Announce(document=document(), rotation=None, step=step)
    assert pool.machine.step == step
    assert pool.feed(Tick()) == [], "once"


def test_silence_is_enough_for_a_step_if_another_server_answers() -> None:
    pool = away()
    assert probes_of(pool.probed("red", SILENT, times=3)) == ["green", "blue"]
    assert pool.machine.step is None
    assert step_of(pool.probed("blue", PASSED)) == pool.machine.step
    assert pool.machine.active_server == "green"


def test_the_silence_of_all_is_no_reason_for_a_step() -> None:
    pool = away()
    for _ in range(4):
        for server in NAMES:
            pool.probed(server, SILENT)
    assert pool.machine.step is None


@pytest.mark.parametrize(
    "event",
    [
        *(
            FaultSeen(server="red", revision=1, kind=kind, source=source)
            for kind in (Cause.QUOTA, Cause.RATE_LIMIT, Cause.CREDENTIALS, Cause.DOWN)
            for source in (FaultSource.JOIN, FaultSource.SOCKET, FaultSource.VERIFIED)
        ),
        Probed(server="red", outcome=ProbeOutcome.LIMITED, signed=True, kind=Cause.QUOTA),
        Probed(server="red", outcome=ProbeOutcome.UNAUTHORIZED, signed=True),
    ],
)
def test_a_server_that_refuses_and_is_not_dead_is_no_reason_for_a_step(event: Event) -> None:
    pool = away()
    for _ in range(5):
        pool.feed(event, *[Probed(server=name, outcome=PASSED) for name in NAMES])
    assert (pool.machine.step, pool.machine.active_server) == (None, "red")
    assert not pool.machine.can_leave("red", pool.now), "who is refused is told so"


def test_while_the_store_is_there_nobody_steps() -> None:
    pool = Pool()
    swap_of(pool.probed("red", REFUSED))
    assert pool.machine.step is None


def test_while_the_store_is_away_nothing_is_written() -> None:
    pool = away()
    events: list[Event] = [
        Loaded(document=None),
        RowsSeen(lists=(("blue", "green", "red"),)),
        RotateAsked(request="r", reason="", actor="ann"),
        Probed(server="red", outcome=REFUSED),
    ]
    actions = [action for event in events for action in pool.feed(event)]
    assert [action for action in actions if isinstance(action, Swap | Restore)] == []


def test_while_paused_a_step_is_not_made() -> None:
    pool = away(replace(document(), paused=MARK))
    actions = pool.probed("red", REFUSED)
    assert notes_of(actions) == [NoteEvent.FAULT_WHILE_PAUSED]
    assert pool.machine.step is None
    assert pool.machine.active_server == "red"


@pytest.mark.parametrize("record", [COOLING, ServerRecord(drained=MARK)])
def test_a_step_goes_over_what_the_document_takes_out(record: ServerRecord) -> None:
    pool = away(replace(document(), servers={"green": record}))
    pool.probed("red", REFUSED)
    assert pool.machine.active_server == "blue"


def test_a_cool_down_that_has_ended_is_no_obstacle() -> None:
    pool = away(replace(document(), servers={"green": replace(COOLING, cool_down_until=START)}))
    pool.probed("red", REFUSED)
    assert pool.machine.active_server == "green"


@pytest.mark.parametrize("outcome", [REFUSED, UNAUTHORIZED])
def test_a_step_goes_over_what_would_be_left_at_once(outcome: ProbeOutcome) -> None:
    pool = away()
    pool.feed(Probed(server="green", outcome=outcome))
    pool.probed("red", REFUSED)
    assert pool.machine.active_server == "blue"


def test_a_step_wraps_to_the_first_of_the_list() -> None:
    pool = away(moved(document(), "blue"))
    pool.probed("blue", REFUSED)
    assert pool.machine.active_server == "red"


def test_when_the_server_of_a_step_dies_the_next_one_is_stepped_to() -> None:
    pool = stepped()
    actions = pool.probed("green", REFUSED)
    assert notes_of(actions) == [NoteEvent.STEPPED]
    step = step_of(actions)
    assert step is not None
    assert (step.server, step.active_since) == ("blue", 1)
    assert notes_of(pool.probed("blue", REFUSED)) == [NoteEvent.NO_SERVER]
    assert pool.machine.active_server == "blue", "nowhere to go"
    pool.probed("red", PASSED, times=2)
    assert pool.machine.active_server == "red", "the active server is one of the list"


@pytest.mark.parametrize("to", ["green", "blue"])
def test_a_server_in_trouble_is_left_for_as_long_as_it_asks_also_after_a_step(to: str) -> None:
    pool = away()
    asks = FaultSeen(
        server="red",
        revision=1,
        kind=Cause.DOWN,
        source=FaultSource.JOIN,
        detail="HTTP 503",
        retry_after=90.0,
    )
    pool.feed(asks)
    pool.probed("red", REFUSED)
    back(pool)
    if to == "blue":
        pool.probed("green", REFUSED)
    swap = swap_of(pool.probed("red", REFUSED))
    assert swap.document.active_server == to
    until = swap.document.record("red").cool_down_until
    assert until == pytest.approx(swap.document.last_rotation + 90, abs=1)


def test_a_step_may_lead_back_to_the_active_server() -> None:
    pool = stepped()
    pool.probed("blue", REFUSED)
    pool.probed("red", PASSED, times=2)
    pool.probed("green", REFUSED)
    assert pool.machine.active_server == "red"
    actions = back(pool)
    assert (step_of(actions), notes_of(actions)) == (None, [])
    assert pool.machine.active_server == "red"


def test_a_probe_that_began_before_the_step_says_nothing_of_its_server() -> None:
    pool = away()
    began = pool.now
    pool.probed("red", REFUSED)
    assert pool.feed(Probed(server="green", outcome=REFUSED, began=began)) == []
    assert pool.machine.active_server == "green"
    pool.probed("green", REFUSED)
    assert pool.machine.active_server == "blue"


def test_where_there_is_nowhere_to_go_everybody_stays_and_it_is_said() -> None:
    pool = away()
    pool.probed("green", REFUSED)
    pool.probed("blue", REFUSED)
    actions = pool.probed("red", REFUSED)
    assert (len(actions), notes_of(actions)) == (1, [NoteEvent.NO_SERVER])
    assert pool.machine.active_server == "red"


def test_old_evidence_is_looked_at_again_before_a_step() -> None:
    pool = Pool(shared=replace(document(), paused=MARK))
    pool.probed("red", REFUSED)
    # Somebody ends the pause, and the store is away before it could be acted upon.
    pool.machine.document = document()
    pool.now += FRESH
    assert pool.feed(AWAY) == [Probe(server="red")]
    assert pool.machine.step is None
    assert step_of(pool.probed("red", REFUSED))


def test_all_processes_step_to_the_same_server_whatever_they_see_first() -> None:
    shared = replace(document(), servers={"green": ServerRecord(drained=MARK)})
    steps = []
    for order in (("red", "green", "blue"), ("blue", "green", "red"), ("red",)):
        pool = Pool(shared=shared, outcomes={})
        pool.feed(AWAY)
        for server in order:
            pool.probed(server, REFUSED if server == "red" else PASSED)
        steps.append(pool.machine.active_server)
    assert steps == ["blue"] * 3


def test_roles_follow_the_step() -> None:
    pool = stepped()
    roles = {name: pool.machine.role(name, pool.now) for name in NAMES}
    assert roles == {"red": Role.STANDBY, "green": Role.ACTIVE, "blue": Role.STANDBY}
    assert pool.document.active_server == "red"


def test_while_away_nothing_is_probed_without_a_pause() -> None:
    pool = away()
    pool.probed("green", REFUSED)
    pool.probed("blue", REFUSED)
    pool.probed("red", REFUSED)
    for _ in range(5):
        pool.now += 2 * FRESH
        assert pool.feed(Tick()) == [], "the regular probes go on"
