"""
Verifying: looks for itself at what clients report of a server.

It asks from the cheapest question on, until an answer shows a fault or all are answered well:
``GET /``, a signed call, a join of our own. The machine hears of the first two as of any probe. A
join that finds the server down or silent is repeated, since all the other questions were answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ..core.document import Cause
from ..core.events import FaultSource, ProbeOutcome
from ..core.faults import FORGIVABLE, KINDS, Blame, Classified, Surface, classify
from ..servers import Server
from ..upstream.join_probe import JoinResult
from ..upstream.probe import ProbeResult

__all__ = ["Found", "Joiner", "Looking", "Verifying"]

DEAF: Final = 1.0
"""Seconds after a stall of this process at which it looks again, twice at most."""

AGAIN: Final = (0.5, 1.0)
"""Seconds after a join that found a server down, or silent, at which it is joined again."""


class Looking(Protocol):
    """The probes of this process, of which the machine hears too."""

    async def look(self, server: str, *, signed: bool) -> ProbeResult:
        """Probe ``server``, or wait for such a probe that is under way; what it saw."""


class Joiner(Protocol):
    """Who joins servers."""

    async def probe_join(self, server: Server) -> JoinResult:
        """Join ``server`` and leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """
    What a verification found.

    Attributes:
        cause: the fault; None if there is none.
        source: whose evidence it is.
        detail: what was seen, for people; never a secret.
        retry_after: seconds after which the server wants to be asked again, if it said so.
        clear: whether anything can be said: a stall of this process, or a refusal for which our
            own request is to blame, says nothing of the server.
        deaf: whether it was a stall.
    """

    cause: Cause | None = None
    source: FaultSource = FaultSource.VERIFIED
    detail: str = ""
    retry_after: float | None = None
    clear: bool = True
    deaf: bool = False


_WELL: Final = Found()
_UNCLEAR: Final = Found(clear=False)
_DEAF: Final = Found(clear=False, deaf=True)


class Verifying:
    """Verifies by probes of ``looking``, and joins of ``joiner``."""

    def __init__(self, looking: Looking, joiner: Joiner) -> None:
        self._looking = looking
        self._joiner = joiner

    async def verify(self, server: Server, wanted: Callable[[], bool]) -> Found:
        """
        Look at ``server`` now: for about a second where it is well, for 11 s where it is silent.

        It is not joined where nobody wants to know it any more, as after a rotation.
        """
        for _ in range(2):
            found = await self._look(server, wanted)
            if not found.deaf:
                return found
            await asyncio.sleep(DEAF)
        return await self._look(server, wanted)

    async def _look(self, server: Server, wanted: Callable[[], bool]) -> Found:
        for signed in (False, True):
            seen = await self._looking.look(server.name, signed=signed)
            found = _of_probe(seen, signed=signed)
            if found is not _WELL:
                return found
        return await self._join(server) if wanted() else _UNCLEAR

    async def _join(self, server: Server) -> Found:
        first = _of_join(await self._joiner.probe_join(server))
        if first.cause not in FORGIVABLE:
            return first
        others = await asyncio.gather(*(self._join_after(server, pause) for pause in AGAIN))
        different = [found for found in others if found.cause not in FORGIVABLE]
        # One that was let in after all shows a server in trouble, perhaps, but none that is dead.
        return next((found for found in different if found.cause), _UNCLEAR) if different else first

    async def _join_after(self, server: Server, pause: float) -> Found:
        await asyncio.sleep(pause)
        return _of_join(await self._joiner.probe_join(server))


def _of_probe(seen: ProbeResult, *, signed: bool) -> Found:
    if seen.outcome is ProbeOutcome.SILENT and seen.stalled:
        return _DEAF
    if seen.outcome is ProbeOutcome.UNAUTHORIZED:
        # It may be our own clock: the machine has others asked before it believes this.
        return Found(cause=Cause.CREDENTIALS, source=FaultSource.PROBE, detail=seen.detail)
    if seen.outcome is ProbeOutcome.LIMITED:
        kind = seen.kind or Cause.RATE_LIMIT
        return Found(cause=kind, detail=seen.detail, retry_after=seen.retry_after)
    if seen.outcome in KINDS and not signed:
        # For the machine to judge: a silent one alone shows nobody down.
        return Found(cause=KINDS[seen.outcome], source=FaultSource.PROBE, detail=seen.detail)
    return _WELL


def _of_join(seen: JoinResult) -> Found:
    if seen.outcome is ProbeOutcome.PASSED:
        return _WELL
    if seen.outcome is ProbeOutcome.SILENT:
        return _DEAF if seen.stalled else Found(cause=Cause.TIMEOUT, detail=seen.detail)
    said = _classified(seen)
    if said is None:  # it said nothing that LiveKit says
        return Found(cause=Cause.DOWN, detail=seen.detail)
    if said.blame in (Blame.CALLER, Blame.NOBODY):
        return _UNCLEAR
    # The room is our own, and nobody is in it: "the room's" is the server's here.
    detail = seen.detail if seen.status is None else f"{seen.detail}: {said.row}"
    return Found(cause=said.cause or Cause.DOWN, detail=detail, retry_after=seen.retry_after)


def _classified(seen: JoinResult) -> Classified | None:
    """What a refusal, or a Leave in place of an answer, means."""
    if seen.status is not None:
        return classify(Surface.JOIN, status=seen.status, text=seen.text)
    if seen.reason:
        said = classify(Surface.LEAVE, code=seen.reason)
        return None if said.blame is Blame.NOBODY else said
    return None
