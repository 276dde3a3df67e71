"""
Probing: asks the servers again and again whether they are well, and tells the machine.

One process of each machine does it for all of that machine, unless they could not hear of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from ..core.events import Probed, ProbeOutcome, SignedSight
from ..core.health import Health
from ..core.machine import PoolMachine
from ..exceptions import NoAnswer
from ..servers import Server
from ..upstream.connection import Stage
from ..upstream.join_probe import JoinResult
from ..upstream.probe import Prober, ProbeResult
from ..upstream.room_list import ListedRoom
from .failing_calls import FailingCalls
from .tasks import Tasks

__all__ = ["Probing"]

SLOWEST_PROBE: Final = 5.0
"""Longest pause in seconds between two probes of a server that is down."""

SIGNED_PAUSE: Final = 1.0
"""Seconds at least from one signed probe of a server to the next."""


class _Asker(Protocol):
    """Who wants to know."""

    def now(self) -> float:
        """The store's time, seconds since the epoch."""

    def stalled(self) -> bool:
        """Whether this process's loop has just been silent."""

    def own_fault(self, what: str, server: str) -> None:
        """This process, or its machine, is why a probe of ``server`` saw nothing."""

    def feed(self, event: Probed) -> None:
        """Take in what was seen."""


class Probing:
    """
    The probes of one process.

    Attributes:
        last: the newest probe of each server, as this process made it; the detail of a plain one
            tells also that calls fail, while they do.
        signed: the newest signed one of each, as `SignedSight` has it.
        leads: whether this process is the one that probes for its machine.
    """

    def __init__(
        self,
        servers: Mapping[str, Server],
        prober: Prober,
        asker: _Asker,
        tasks: Tasks,
        *,
        interval: float,
        signed_interval: float,
        may_lead: Callable[[], bool],
        deaf: Callable[[], bool],
        machine: PoolMachine,
    ) -> None:
        """
        Probe nothing yet.

        Args:
            deaf: whether this process cannot hear what the leading one sees.
            machine: says which servers are down, and of which a signed probe must be a join.
        """
        self.last: dict[str, ProbeResult] = {}
        self.signed: dict[str, SignedSight] = {}
        self.leads = False
        self._servers = servers
        self._prober = prober
        self._asker = asker
        self._tasks = tasks
        self._interval = interval
        self._signed_interval = signed_interval
        self._health = machine.health
        self._may_lead = may_lead
        self._deaf = deaf
        self._joins = machine.refuses_joins
        self._failing_calls = FailingCalls(machine.settings.fall)
        self._passed: dict[str, float] = {}  # server -> when its last passed probe began
        self._results: dict[tuple[str, bool], ProbeResult] = {}  # the newest of each kind
        self._signed: dict[str, float] = {}  # server -> when its last signed probe began
        self._under_way: dict[tuple[str, bool], asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to probe each server at its interval."""
        for name in self._servers:
            self._tasks.keep(partial(self._watch_over, name))

    def answered_since(self, server: str, moment: float) -> bool:
        """Whether ``server`` passed a probe that began after ``moment`` (monotonic time)."""
        return self._passed.get(server, 0.0) >= moment

    async def where(
        self, rooms: Sequence[str], *, occupied: bool = False
    ) -> Mapping[str, Sequence[str]]:
        """
        Ask the servers, but those seen down, for ``rooms``; only for ``occupied`` ones if so asked.

        Returns:
            for each room that any of them has the names of those servers: first those where
            somebody is in it, of several the one that made it last. Where a room moved to, it
            was made anew, so that everybody who asks gets the same answer.
        """
        asked = [
            server
            for name, server in self._servers.items()
            if self._health(name) is not Health.DOWN
        ]
        lists = await asyncio.gather(*(self._listed(server, rooms) for server in asked))
        found: dict[str, list[tuple[bool, float, str]]] = {}
        for server, listed in zip(asked, lists, strict=True):
            for name, room in listed.items():
                if occupied and not room.participants:
                    continue
                rank = (room.participants > 0, room.created, server.name)
                found.setdefault(name, []).append(rank)
        return {
            name: [server for _, _, server in sorted(ranks, reverse=True)]
            for name, ranks in found.items()
        }

    async def _listed(self, server: Server, rooms: Sequence[str]) -> Mapping[str, ListedRoom]:
        try:
            return await self._prober.list_rooms(server, rooms)
        except NoAnswer:
            return {}

    async def is_full(self, server: str, room: str) -> bool | None:
        """Whether ``room`` on ``server`` has as many in it as it may; None if it cannot tell."""
        return await self._prober.is_full(self._servers[server], room)

    def probe(self, server: str, *, signed: bool = False) -> asyncio.Task[None]:
        """
        Probe ``server`` at once, unless such a probe of it is under way.

        A signed one waits until `SIGNED_PAUSE` after the last: whoever brings a token that the
        server does not like could cause as many as he likes.
        """
        task = self._under_way.get((server, signed))
        if task is None or task.done():
            probing = self._probe_signed(server) if signed else self._probe(server, signed=False)
            task = self._under_way[server, signed] = self._tasks.spawn(probing)
        return task

    async def look(self, server: str, *, signed: bool = False) -> ProbeResult:
        """Probe ``server``, or wait for such a probe that is under way; what it saw."""
        await asyncio.shield(self.probe(server, signed=signed))
        return self._results[server, signed]

    async def _probe_signed(self, server: str) -> None:
        pause = self._signed.get(server, -SIGNED_PAUSE) + SIGNED_PAUSE - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        self._signed[server] = time.monotonic()
        await self._probe(server, signed=True)

    async def _probe(self, server: str, *, signed: bool) -> None:
        target = self._servers.get(server)
        if target is None:
            return
        began, began_at = time.monotonic(), self._asker.now()
        joins = signed and self._joins(server)
        ask = self._prober.probe_signed if signed else self._prober.probe
        result = await ask(target)
        call = signed and result.stage is Stage.SIGNED
        if call:
            self._failing_calls.saw_call(result, aloud=self.leads)
        elif not signed:
            result = self._failing_calls.saw(result)
        if joins and result.outcome is ProbeOutcome.PASSED:
            result, call = _of_join(await self._prober.probe_join(target)), False
        self.last[server] = self._results[server, signed] = result
        if result.outcome is ProbeOutcome.PASSED:
            self._passed[server] = began
        if signed:
            self.signed[server] = SignedSight(
                outcome=result.outcome, began=began_at, detail=result.detail, joined=joins
            )
        if result.own and result.outcome is ProbeOutcome.SILENT:
            self._asker.own_fault(result.own, server)
        self._asker.feed(
            Probed(
                server=server,
                outcome=result.outcome,
                stalled=result.stalled or self._asker.stalled(),
                detail=result.detail,
                began=began_at,
                signed=signed,
                joined=joins,
                call=call,
                kind=result.kind,
                retry_after=result.retry_after,
            )
        )

    async def _watch_over(self, server: str) -> None:
        """Probe ``server`` again and again while this process has to."""
        failures, next_signed = 0, 0.0
        while True:
            self.leads = self._may_lead()
            if not self.leads and not self._deaf():
                if self._health(server) is not Health.UP:
                    # Who saw it down must see for itself when it is back; and who has begun
                    # together with the others heard of some servers only.
                    await asyncio.shield(self.probe(server))
                await asyncio.sleep(self._interval / 2)
                continue
            began = time.monotonic()
            await asyncio.shield(self.probe(server))
            passed = self.last[server].outcome is ProbeOutcome.PASSED
            if passed and time.monotonic() >= next_signed:
                await asyncio.shield(self.probe(server, signed=True))
                next_signed = time.monotonic() + self._signed_interval
            failures = 0 if passed else failures + 1
            await asyncio.sleep(self._pause(server, passed, failures, time.monotonic() - began))

    def _pause(self, server: str, passed: bool, failures: int, took: float) -> float:
        if self._health(server) is Health.DOWN:
            if passed:  # on its way back: the next probe decides
                return self._interval / 2
            return float(min(self._interval * 2 ** min(failures // 3, 8), SLOWEST_PROBE))
        if not passed:  # its next failures decide whether it is down: do not wait for them
            return max(0.0, self._interval / 2 - took)
        return float(max(0.05, self._interval - took))


def _of_join(seen: JoinResult) -> ProbeResult:
    return ProbeResult(
        server=seen.server,
        outcome=seen.outcome,
        stage=Stage.SIGNED,
        detail=seen.detail,
        duration=seen.duration,
        stalled=seen.stalled,
        retry_after=seen.retry_after,
    )
