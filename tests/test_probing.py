"""Probing: what the machine, and whoever looks, hears of the probes of one process."""

from __future__ import annotations

from typing import Any, cast

import pytest

from livekit_pool.core.events import Probed, ProbeOutcome, RowsSeen
from livekit_pool.core.health import Settings
from livekit_pool.core.machine import PoolMachine
from livekit_pool.driver.probing import Probing
from livekit_pool.driver.tasks import Tasks
from livekit_pool.servers import Server
from livekit_pool.upstream.connection import Stage
from livekit_pool.upstream.join_probe import JoinResult
from livekit_pool.upstream.probe import Prober, ProbeResult
from tests.core.samples import FAILED, PASSED, REFUSED, SILENT
from tests.web.served import until

RED = Server(name="red", url="ws://red.test", key="key-red", secret="s" * 32)


class World:
    """
    One process and its server; it stands for the prober and for who wants to know, too.

    Attributes:
        plain, signed: outcome and stage of each probe. joining: of each join.
        joins: whether a signed probe must join.
        leads: whether this process probes for its machine.
        heard: what the machine was told.
        rounds: how much of it, each time when the next probe was due.
    """

    def __init__(self) -> None:
        self.plain = (PASSED, Stage.HTTP)
        self.signed = (PASSED, Stage.SIGNED)
        self.joining = PASSED
        self.joins = False
        self.leads = True
        self.rounds: list[int] = []
        self.heard: list[Probed] = []
        self.tasks = Tasks()
        self.machine = machine = PoolMachine(("red",), Settings(), "p")
        machine.refuses_joins = lambda server: self.joins  # type: ignore[method-assign]
        self.probing = Probing(
            {"red": RED},
            cast(Prober, self),
            cast(Any, self),
            self.tasks,
            interval=0.1,
            signed_interval=15.0,
            may_lead=self.may_lead,
            deaf=lambda: False,
            machine=machine,
        )

    def may_lead(self) -> bool:
        self.rounds.append(len(self.heard))
        return self.leads

    async def probe(self, _: Server) -> ProbeResult:
        return self._seen(*self.plain)

    async def probe_signed(self, _: Server) -> ProbeResult:
        return self._seen(*self.signed)

    def _seen(self, outcome: ProbeOutcome, stage: Stage) -> ProbeResult:
        detail = "answered" if outcome is PASSED else "it broke off"
        return ProbeResult(server="red", outcome=outcome, stage=stage, detail=detail, duration=0.1)

    async def probe_join(self, _: Server) -> JoinResult:
        return JoinResult(server="red", outcome=self.joining, detail="nobody opens")

    def now(self) -> float:
        return 1000.0

    def stalled(self) -> bool:
        return False

    def own_fault(self, what: str, server: str) -> None:
        raise AssertionError(what, server)

    def feed(self, event: Probed) -> None:
        self.heard.append(event)

    async def sees(self, *, signed: bool) -> Probed:
        await self.probing.probe("red", signed=signed)
        return self.heard[-1]


@pytest.mark.parametrize("outcome", [PASSED, REFUSED, FAILED, SILENT])
async def test_only_what_a_call_met_over_a_connection_is_the_calls(outcome: ProbeOutcome) -> None:
    for stage, is_call in ((Stage.SIGNED, True), (Stage.TCP, False), (Stage.TLS, False)):
        world = World()
        world.signed, world.plain = (outcome, stage), (outcome, Stage.HTTP)
        assert (await world.sees(signed=True)).call is is_call
        assert not (await world.sees(signed=False)).call


async def test_a_join_is_no_call() -> None:
    world = World()
    world.joins, world.joining = True, REFUSED
    seen = await world.sees(signed=True)
    assert (seen.outcome, seen.joined, seen.call) == (REFUSED, True, False)
    await world.sees(signed=False)
    assert world.probing.last["red"].detail == "answered", "calls pass"


async def test_what_calls_meet_stands_beside_the_plain_probe_that_passed() -> None:
    world = World()
    world.signed = (REFUSED, Stage.SIGNED)
    await world.sees(signed=True)
    assert (await world.sees(signed=False)).outcome is PASSED
    assert world.probing.last["red"].detail == "answered, but calls fail: it broke off"


async def test_a_connection_that_is_refused_is_not_said_to_be_the_calls() -> None:
    world = World()
    world.signed = (REFUSED, Stage.TCP)
    await world.sees(signed=True)
    await world.sees(signed=False)
    assert world.probing.last["red"].detail == "answered"


@pytest.mark.parametrize("told", [{}, {"red": False}, {"red": True}])
async def test_who_does_not_probe_for_the_machine_asks_what_it_did_not_hear_of(
    told: dict[str, bool],
) -> None:
    """A pool's workers begin together, and the first rows may tell of some servers only."""
    world = World()
    world.leads = False
    world.machine.receive(RowsSeen(lists=(), health=told), 1000.0)
    world.probing.start()
    try:
        await until(lambda: len(world.rounds) > 2)
        assert world.rounds[:3] == ([0, 0, 0] if told.get("red") else [0, 1, 2])
    finally:
        await world.tasks.end()
