"""What a process saw of a server before it became the active one does not keep joins away."""

from __future__ import annotations

from livekit_pool.core.document import Cause, new_document, rotated
from livekit_pool.core.events import Loaded, Probed, ProbeOutcome, RowsSeen
from livekit_pool.core.health import OWN_LASTS, Settings
from livekit_pool.core.machine import PoolMachine

NAMES = ("red", "green")


def machine_that_saw_red_die() -> PoolMachine:
    machine = PoolMachine(NAMES, Settings(), "p")
    document = new_document(lineage="l", names=NAMES, actor="p", now=0.0, active="green")
    machine.receive(Loaded(document=document), 0.0)
    machine.receive(Probed(server="green", outcome=ProbeOutcome.PASSED, began=0.5), 0.6)
    machine.receive(Probed(server="red", outcome=ProbeOutcome.REFUSED, began=1.0), 1.1)
    return machine


def make_red_active(machine: PoolMachine, now: float) -> None:
    document = machine.document
    assert document is not None
    changed, _ = rotated(
        document, to="red", names=NAMES, cause=Cause.MANUAL, reason="back", actor="another", now=now
    )
    machine.receive(Loaded(document=changed), now)


def test_joins_go_to_a_server_that_others_made_active_since_it_was_seen_down() -> None:
    machine = machine_that_saw_red_die()
    assert not machine.joinable("red", 5.0)

    make_red_active(machine, 6.0)

    assert machine.joinable("red", 6.0)


def test_a_row_that_may_be_older_than_the_rotation_keeps_no_join_away() -> None:
    machine = machine_that_saw_red_die()
    make_red_active(machine, 6.0 + OWN_LASTS)
    machine.receive(RowsSeen(lists=(NAMES,), health={"red": False}), 8.0 + OWN_LASTS)

    assert machine.joinable("red", 8.0 + OWN_LASTS)


def test_the_active_server_that_is_seen_down_anew_takes_no_joins() -> None:
    machine = machine_that_saw_red_die()
    make_red_active(machine, 6.0)

    machine.receive(Probed(server="red", outcome=ProbeOutcome.REFUSED, began=7.0), 7.1)

    assert not machine.joinable("red", 7.1)


def test_a_rotation_of_a_clock_that_was_wrong_does_not_keep_a_dead_server_joinable() -> None:
    machine = machine_that_saw_red_die()
    document = machine.document
    assert document is not None
    changed, _ = rotated(
        document, to="red", names=NAMES, cause=Cause.MANUAL, reason="", actor="a", now=90_000.0
    )
    machine.receive(Loaded(document=changed), 6.0)
    assert machine.joinable("red", 6.5)

    machine.receive(Probed(server="red", outcome=ProbeOutcome.REFUSED, began=7.0), 7.1)

    assert not machine.joinable("red", 7.1)
