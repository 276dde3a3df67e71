"""
What must hold in any interleaving where servers have minutes, and they are used up.

The model is that of ``test_model.py``, with a ledger beside the document: what is used of each
server is one truth, of which each process hears when it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from livekit_pool.core import decisions
from livekit_pool.core.actions import Swap
from livekit_pool.core.budget import Usage
from livekit_pool.core.choice import Candidate
from livekit_pool.core.document import Cause, Document, Rotation
from livekit_pool.core.events import RotateAsked, UsageSeen
from livekit_pool.core.health import Settings
from livekit_pool.core.limits import Limits
from livekit_pool.core.machine import PoolMachine
from livekit_pool.core.situation import Situation
from tests.core.model import PoolModel, numbers
from tests.core.samples import NAMES
from tests.core.test_model import SEARCH, THOROUGH
from tests.core.world import AUTOMATIC, SETTINGS, Process

SHARE = 100 * SETTINGS.minutes_share


def metered(names: tuple[str, ...], settings: Settings, process: str) -> PoolMachine:
    return PoolMachine(names, settings, process, dict.fromkeys(names, Limits(minutes=100.0)))


class MeteredModel(PoolModel):
    """Every server has a hundred minutes."""

    make: Callable[..., PoolMachine] = staticmethod(metered)

    def __init__(self) -> None:
        self.used = dict.fromkeys(NAMES, 0.0)
        super().__init__()

    # --- what may happen -------------------------------------------------------------------

    @rule(server=st.sampled_from(NAMES), used=st.sampled_from([50.0, 94.9, 95.0, 100.0]))
    def minutes_are_used(self, server: str, used: float) -> None:
        self.used[server] = max(used, self.used[server])
        self.guilty |= server == self.document.active_server and self.used[server] >= SHARE

    @rule(number=numbers)
    def ledger_is_read(self, number: int) -> None:
        self.tell(self.processes[number])

    @rule()
    def active_is_used_up(self) -> None:
        """A story: everybody hears of it at once."""
        self.minutes_are_used(self.document.active_server, 95.0)
        for process in self.processes:
            self.tell(process)

    @rule()
    def minutes_begin_anew(self) -> None:
        """The reset, whose moment everybody knows beforehand."""
        self.used = dict.fromkeys(NAMES, 0.0)
        for process in self.processes:
            self.tell(process)

    def tell(self, process: Process) -> None:
        usage = {name: Usage(used=used) for name, used in self.used.items()}
        self.feed(process, UsageSeen(usage=usage))

    # --- what must hold --------------------------------------------------------------------

    def write(self, document: Document, rotation: Rotation | None) -> None:
        super().write(document, rotation)
        if rotation is not None and rotation.from_ != rotation.to:
            self.guilty |= self.used[rotation.to] >= SHARE

    def spent(self, process: Process, server: str) -> bool:
        """Whether ``process`` knows that the share of ``server`` is used up."""
        told = process.machine.usage.get(server)
        return told is not None and told.used >= SHARE

    def fit(self, process: Process, server: str) -> bool:
        return super().fit(process, server) and not self.spent(process, server)

    def check_choice(self, process: Process, swap: Swap) -> None:
        super().check_choice(process, swap)
        rotation = swap.rotation
        if rotation is None or rotation.from_ == rotation.to:
            return
        asked = self.requests.get(rotation.actor)
        named = asked is not None and isinstance(asked[1], RotateAsked) and asked[1].to is not None
        by_step = process.step is not None and process.step.server == rotation.to
        if not named and not by_step:
            assert not self.spent(process, rotation.to), "a server past its share was chosen"
        if rotation.cause is Cause.QUOTA:
            left = swap.document.record(rotation.from_)
            assert left.cool_down_cause is Cause.QUOTA
            assert rotation.cause in AUTOMATIC

    def all_comes_to_rest(self) -> None:
        super().all_comes_to_rest()
        for process in self.processes:
            self.tell(process)
        self.settle()
        spent = self.used[self.document.active_server] >= SHARE
        for process in self.processes:
            assert not (spent and self.targets(process)), "minutes ran out unheeded"


@pytest.mark.timeout(0 if THOROUGH.max_examples > 300 else 120)
def test_the_properties_hold() -> None:
    run_state_machine_as_test(MeteredModel, settings=THOROUGH)


def broken(reason: str) -> None:
    """Expect that the properties do not hold, for a ``reason`` that the model gives."""
    with pytest.raises(AssertionError, match=reason):
        run_state_machine_as_test(MeteredModel, settings=SEARCH)


def test_without_the_look_at_the_ledger_a_spent_server_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def candidate(self: Situation, server: str) -> Candidate:
        return replace(original(self, server), over=False)

    original = Situation.candidate
    monkeypatch.setattr(Situation, "candidate", candidate)
    broken("a server past its share was chosen")


def test_without_its_step_minutes_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = tuple(step for step in decisions._STEPS if step is not decisions._leave_spent)
    monkeypatch.setattr(decisions, "_STEPS", steps)
    broken("minutes ran out unheeded")


def test_without_the_look_at_pause_a_spent_server_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpaused(situation: Situation) -> Any:
        free = replace(situation, document=replace(situation.document, paused=None))
        return leave_spent(free)

    leave_spent = decisions._leave_spent
    steps = tuple(unpaused if step is leave_spent else step for step in decisions._STEPS)
    monkeypatch.setattr(decisions, "_STEPS", steps)
    broken("an automatic rotation while paused")
