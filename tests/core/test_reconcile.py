"""What becomes of a step when the store is back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.actions import (
    Announce,
    Note,
    NoteEvent,
    Probe,
)
from livekit_pool.core.document import Cause
from livekit_pool.core.events import (
    Loaded,
    Probed,
    ProbeOutcome,
    RowsSeen,
    Tick,
)
from livekit_pool.core.stepping import HEARING
from tests.core.samples import (
    AWAY,
    BACK,
    FAILED,
    MARK,
    NAMES,
    PASSED,
    REFUSED,
    SILENT,
    START,
    UNAUTHORIZED,
    away,
    back,
    document,
    drained,
    moved,
    notes_of,
    restore_of,
    step_of,
    stepped,
    swap_of,
    swaps_of,
)


def test_a_step_whose_server_was_left_meanwhile_ends_at_once() -> None:
    pool = stepped()
    newer = moved(pool.document, "blue")
    actions = pool.feed(Loaded(document=newer))
    assert notes_of(actions) == [NoteEvent.STEP_UNDONE]
    assert actions[-1] == Announce(document=newer, rotation=newer.rotation("red"))
    assert pool.machine.active_server == "blue"
    assert swaps_of(pool.feed(RowsSeen(lists=(NAMES,)), BACK)) == []


def test_a_rotation_to_the_server_of_the_step_undoes_nothing() -> None:
    pool = stepped()
    newer = moved(pool.document, "green")
    actions = pool.feed(Loaded(document=newer))
    assert (notes_of(actions), step_of(actions)) == ([], None)
    assert pool.machine.active_server == "green"


def test_red_green_red_ends_a_step_too() -> None:
    pool = stepped()
    pool.feed(Loaded(document=moved(moved(pool.document, "blue"), "red")))
    assert (pool.machine.step, pool.machine.active_server) == (None, "red")
    assert swaps_of(pool.feed(RowsSeen(lists=(NAMES,)), BACK)) == []


def test_another_lineage_ends_a_step() -> None:
    pool = stepped()
    other = replace(document(), lineage="K", created_at=START - 60, revision=2)
    pool.feed(Loaded(document=other))
    assert (pool.machine.step, pool.machine.active_server) == (None, "red")


def test_a_drain_of_another_server_ends_no_step() -> None:
    pool = stepped()
    newer = drained(pool.document, "blue")
    assert step_of(pool.feed(Loaded(document=newer))) == pool.machine.step
    assert pool.machine.active_server == "green"


def test_a_step_is_confirmed_by_a_fresh_probe() -> None:
    pool = stepped()
    assert back(pool) == [Probe(server="red")], "what was seen before says nothing"
    assert pool.feed(Tick()) == [Probe(server="red")], "until it is seen"
    swap = swap_of(pool.probed("red", REFUSED))
    assert swap.rotation is not None
    assert (swap.rotation.from_, swap.rotation.to) == ("red", "green")
    assert (swap.rotation.cause, swap.rotation.actor) == (Cause.DOWN, "pool p")
    assert swap.document.record("red").cooling(pool.now)
    assert pool.machine.active_server == "green", "meanwhile too"
    assert swaps_of(pool.feed(Tick())) == []
    announce = pool.won(swap)[-1]
    assert announce == Announce(document=swap.document, rotation=swap.rotation)
    assert pool.machine.step is None
    assert swaps_of(pool.feed(Tick()) + pool.probed("red", REFUSED)) == [], "one rotation"


def test_a_step_that_silence_confirms_is_a_timeout() -> None:
    pool = away()
    pool.probed("red", SILENT, times=3)
    pool.probed("blue", PASSED)
    back(pool)
    assert swaps_of(pool.probed("red", SILENT)) == []
    swap = swap_of(pool.probed("green", PASSED))
    assert swap.rotation is not None
    assert (swap.rotation.to, swap.rotation.cause) == ("green", Cause.TIMEOUT)


def test_a_probe_that_began_before_the_return_confirms_nothing() -> None:
    pool = stepped()
    began = pool.now
    back(pool)
    actions = pool.feed(Probed(server="red", outcome=REFUSED, began=began))
    assert actions == [Probe(server="red")]


def test_two_who_stepped_make_one_rotation() -> None:
    one, two = stepped(), stepped()
    back(one)
    back(two)
    first, second = swap_of(one.probed("red", REFUSED)), swap_of(two.probed("red", REFUSED))
    one.won(first)
    assert swaps_of(two.lost(second, first.document)) == []
    assert (two.machine.step, two.machine.active_server) == (None, "green")


def test_where_the_server_of_the_step_may_not_be_chosen_another_is() -> None:
    pool = stepped()
    back(pool, drained(pool.document, "green"))
    swap = swap_of(pool.probed("red", REFUSED))
    assert swap.rotation is not None
    assert (swap.rotation.to, swap.rotation.cause) == ("blue", Cause.DOWN)
    announce = pool.won(swap)[-1]
    assert (announce, pool.machine.active_server) == (
        Announce(document=swap.document, rotation=swap.rotation),
        "blue",
    )


def test_where_no_server_may_be_chosen_the_step_stays_and_it_is_said() -> None:
    pool = stepped()
    pool.probed("blue", REFUSED)
    back(pool, drained(pool.document, "green"))
    actions = pool.probed("red", REFUSED)
    assert (swaps_of(actions), notes_of(actions)) == ([], [NoteEvent.NO_SERVER])
    assert pool.machine.active_server == "green", "it serves, the active server does not"


def test_a_server_that_is_well_again_ends_the_step() -> None:
    pool = stepped()
    back(pool)
    assert pool.probed("red", PASSED) == [], "twice, as always"
    actions = pool.probed("red", PASSED)
    assert [(a.event, a.fields) for a in actions if isinstance(a, Note)] == [
        (NoteEvent.STEP_UNDONE, {"server": "green", "to": "red"})
    ]
    assert actions[-1] == Announce(document=document(), rotation=None)
    assert pool.machine.active_server == "red"
    assert pool.feed(Tick()) == []


def test_a_server_that_was_well_before_the_return_is_looked_at_again() -> None:
    pool = stepped()
    pool.probed("red", PASSED, times=2)
    assert pool.machine.active_server == "green", "a step is not taken back while it is away"
    assert back(pool) == [Probe(server="red")]
    assert pool.machine.active_server == "green"
    pool.probed("red", PASSED)
    assert pool.machine.active_server == "red"


@pytest.mark.parametrize("elsewhere", [({"red": True},), ({"red": False}, {"red": True})])
def test_a_server_that_is_up_elsewhere_is_not_left(elsewhere: tuple[dict[str, bool], ...]) -> None:
    pool = stepped()
    back(pool, elsewhere=elsewhere)
    pool.now += HEARING
    actions = pool.feed(Probed(server="red", outcome=FAILED))
    assert swaps_of(actions) == []
    assert notes_of(actions) == [NoteEvent.STEP_UNDONE]
    assert pool.machine.active_server == "red"


def test_what_others_see_is_waited_for() -> None:
    pool = stepped()
    returned = back(pool, elsewhere=({},))
    assert returned == [Probe(server="red")]
    assert pool.probed("red", REFUSED) == []
    assert pool.feed(RowsSeen(lists=(NAMES,), elsewhere=({"red": False},))) == []
    pool.now += HEARING
    assert swap_of(pool.feed(Tick())).document.active_server == "green"


def test_what_others_say_while_it_is_waited_for_counts() -> None:
    pool = stepped()
    back(pool, elsewhere=({},))
    pool.probed("red", REFUSED)
    pool.now += HEARING
    actions = pool.feed(RowsSeen(lists=(NAMES,), elsewhere=({"red": True},)))
    assert (swaps_of(actions), notes_of(actions)) == ([], [NoteEvent.STEP_UNDONE])


def test_who_says_nothing_in_time_does_not_hold_up_a_refusal() -> None:
    pool = stepped()
    back(pool, elsewhere=({},))
    pool.now += HEARING
    assert swap_of(pool.probed("red", REFUSED)).document.active_server == "green"


def test_that_the_store_is_there_may_be_said_again() -> None:
    pool = stepped()
    back(pool, elsewhere=({},))
    pool.probed("red", REFUSED)
    pool.now += HEARING
    assert swap_of(pool.feed(BACK)).document.active_server == "green"


def test_silence_confirms_a_step_only_once_another_machine_sees_it() -> None:
    pool = stepped()
    back(pool, elsewhere=({},))
    pool.now += HEARING
    pool.probed("red", SILENT, times=3)
    actions = pool.probed("green", PASSED)
    assert (swaps_of(actions), notes_of(actions)) == ([], [NoteEvent.UNWITNESSED])
    assert pool.machine.wants_witness
    assert pool.machine.active_server == "green"
    seen = RowsSeen(lists=(NAMES,), elsewhere=({"red": False},))
    swap = swap_of(pool.feed(seen))
    assert swap.rotation is not None
    assert (swap.rotation.to, swap.rotation.cause) == ("green", Cause.TIMEOUT)


def test_a_pause_set_meanwhile_ends_the_step() -> None:
    pool = stepped()
    paused = replace(pool.document, revision=2, paused=MARK)
    actions = back(pool, paused)
    assert (swaps_of(actions), notes_of(actions)) == ([], [NoteEvent.STEP_UNDONE])
    assert pool.machine.active_server == "red"
    actions = pool.probed("red", REFUSED)
    assert (swaps_of(actions), notes_of(actions)) == ([], [NoteEvent.FAULT_WHILE_PAUSED])


def test_what_the_store_lost_meanwhile_is_brought_back_before_a_step_is_confirmed() -> None:
    pool = stepped()
    pool.feed(Loaded(document=None), RowsSeen(lists=(NAMES,)))
    actions = pool.feed(BACK)
    assert swaps_of(actions) == []
    restore = restore_of(actions)
    assert restore.document == replace(pool.document, revision=2)
    pool.won(restore)
    assert pool.machine.active_server == "green"
    assert swap_of(pool.probed("red", REFUSED)).expected == 2


def test_a_step_survives_that_the_store_is_away_again() -> None:
    pool = stepped()
    back(pool)
    pool.feed(AWAY)
    pool.probed("red", REFUSED)
    assert (pool.machine.active_server, pool.machine.step is None) == ("green", False)
    assert back(pool) == [Probe(server="red")], "fresh since the last return"
    assert swap_of(pool.probed("red", REFUSED)).document.active_server == "green"


@pytest.mark.parametrize("outcome", [SILENT, FAILED, UNAUTHORIZED, PASSED])
@pytest.mark.parametrize("elsewhere", [(), ({},)])
def test_nothing_is_probed_without_a_pause(
    outcome: ProbeOutcome, elsewhere: tuple[dict[str, bool], ...]
) -> None:
    pool = stepped()
    back(pool, elsewhere=elsewhere)
    pool.feed(Probed(server="red", outcome=outcome))
    for _ in range(5):
        assert pool.feed(Tick()) == []
