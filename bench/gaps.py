"""How long two participants with the Python SDK get no data when their server is left."""

from __future__ import annotations

import asyncio
import contextlib
import time
from statistics import median
from typing import Final

from bench.incidents import ROOM, Incident, Stage, standing
from bench.options import Options
from bench.table import Bound, Row
from tests.real.call import Participant
from tests.real.until import until

__all__ = ["gap_in_data"]

_TRIALS: Final = 10
_TARGETS: Final = {Incident.PLANNED: 0.5, Incident.KILLED: 0.6, Incident.FROZEN: 4.5}
_RETURN_SECONDS: Final = 30.0


async def gap_in_data(options: Options, incident: Incident) -> list[Row]:
    """Both send a message each 50 ms and speak; the longer silence of the two counts."""
    trials = options.rounds(_TRIALS, quick=2)
    found = []
    for number in range(trials):
        async with standing(options) as stage:
            gap, lost = await _trial(stage, incident)
        found.append(gap)
        options.say(f"{incident}, {number + 1} of {trials}: {gap:.2f} s, {lost} messages lost")
    return [
        Row(
            what=f"longest data gap, Python SDK, median of {trials}: {incident}",
            unit="s",
            digits=2,
            pool=median(found),
            target=_TARGETS[incident],
            bound=Bound.AT_MOST,
        )
    ]


async def _trial(stage: Stage, incident: Incident) -> tuple[float, int]:
    """One call, one incident: the longest gap in seconds, and how many messages never came."""
    async with contextlib.AsyncExitStack() as stack:
        pair = [await stack.enter_async_context(Participant(name)) for name in ("alice", "bob")]
        for one in pair:
            token = stage.pool.token(ROOM, one.identity)
            await one.join(stage.pool.url, token, audio=True)
            one.start_sending()
        ways = [(pair[0], pair[1]), (pair[1], pair[0])]
        for one, other in ways:
            await one.meets(other)
            await one.gets(other)
            await one.hears(other)
        await stage.settle()
        struck = await stage.strike(incident)
        await until(
            lambda: all(one.count("reconnected", since=struck) for one in pair),
            seconds=_RETURN_SECONDS,
            what=lambda: "both are back\n" + "\n".join(one.history() for one in pair),
        )
        for one, other in ways:
            await one.meets(other, seconds=_RETURN_SECONDS)
            await one.gets(other, seconds=_RETURN_SECONDS)
        # One second more, in which a gap that is still to come would show.
        await asyncio.sleep(1)
        ended = time.monotonic()
        # From a second before, so that the message before the incident counts as well.
        gap = max(
            one.data[other.identity].longest_gap(since=struck - 1, until=ended)
            for one, other in ways
        )
        for one in pair:
            await one.stop_sending()
        lost = sum([len(await one.lost(other)) for one, other in ways])
        await stage.check()
        return gap, lost
