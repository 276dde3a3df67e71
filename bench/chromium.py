"""How long a page with livekit-client hears nothing when its server is left."""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import Final

from bench.incidents import ROOM, Incident, Stage, standing
from bench.options import Options
from bench.processes import tool
from bench.table import Bound, Row
from tests.real.browser.tab import Browser, Tab
from tests.real.until import until

__all__ = ["gap_in_audio"]

_TRIALS: Final = 5
# Who publishes nothing waits 2 s after a full reconnect in any case: livekit-client's own floor.
_TARGETS: Final = {"both publish audio": 0.8, "one publishes nothing": 2.7}
_RETURN_SECONDS: Final = 30.0


async def gap_in_audio(options: Options, incident: Incident) -> list[Row]:
    """The longest time without audio packets, as getStats tells of them."""
    program = tool("chromium")
    trials = options.rounds(_TRIALS)
    rows = []
    for who, target in _TARGETS.items():
        found = []
        for number in range(trials):
            async with Browser(program) as browser, standing(options) as stage:
                tabs = [await browser.open_tab(), await browser.open_tab()]
                gap = await _trial(stage, incident, tabs, both=who.startswith("both"))
            found.append(gap)
            options.say(f"{incident}, {who}, {number + 1} of {trials}: {gap:.2f} s")
        rows.append(
            Row(
                what=f"gap in audio, Chromium, {who}, median of {trials}: {incident}",
                unit="s",
                digits=2,
                pool=median(found),
                target=target,
                bound=Bound.AT_MOST,
            )
        )
    return rows


async def _trial(stage: Stage, incident: Incident, tabs: list[Tab], *, both: bool) -> float:
    """One call, one incident: the longest gap in seconds."""
    publishing = {"alice": True, "bob": both}
    for tab, (identity, audio) in zip(tabs, publishing.items(), strict=True):
        token = stage.pool.token(ROOM, identity)
        await tab.join(stage.pool.url, token, identity=identity, audio=audio)
    alice, bob = tabs
    # Who hears whom: a participant that publishes nothing hears, and is not heard.
    ways = [(bob, "alice"), (alice, "bob")] if both else [(bob, "alice")]
    await alice.meets("bob")
    await bob.meets("alice")
    for tab, other in ways:
        await tab.hears(other)
    await stage.settle()
    struck = await stage.strike(incident)

    async def back() -> bool:
        return all([(await tab.look()).count("reconnected", since=struck) for tab in tabs])

    await until(
        back,
        seconds=_RETURN_SECONDS,
        what=lambda: "both are back\n" + "\n".join(tab.history() for tab in tabs),
    )
    await alice.meets("bob", seconds=_RETURN_SECONDS)
    await bob.meets("alice", seconds=_RETURN_SECONDS)
    for tab, other in ways:
        await tab.hears(other, seconds=_RETURN_SECONDS)
    # One second more, in which a gap that is still to come would show.
    await asyncio.sleep(1)
    ended = time.monotonic()
    gap = 0.0
    for tab, other in ways:
        await tab.look()
        # Packets are counted each 100 ms: without a margin the end itself would be a gap.
        gap = max(gap, tab.audio[other].longest_gap(since=struck - 1, until=ended))
    for tab in tabs:
        await tab.leave()
    await stage.check()
    return gap
