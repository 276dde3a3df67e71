"""
Prober: asks whether a LiveKit server is alive, and whether it takes tokens signed with its key.

How silence is found soon, and a far server is not condemned for being far: a probe waits 0.8 s,
so that three of them, the first begun at most 1 s after the server fell silent, end within 3.4 s.
But a new connection to another continent takes a second, and two if a packet is lost (a SYN is
sent again after 1 s: RFC 6298, section 2). So what a probe began outlives it. When the kept
connection leaves a request unanswered for half of the 0.8 s, a new connection is tried beside it,
and the probes that follow wait for both. Only a server that leaves a request unanswered for 2.4 s
and a new connection for 2 s is silent three times in a row.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Final, Self

import aiohttp

from ..core.document import Cause
from ..core.events import ProbeOutcome
from ..exceptions import NoAnswer
from ..servers import Server
from .attempt import Attempt, Seen, tracing
from .connection import Stage, open_session
from .full_room import is_full
from .join_probe import JoinProber, JoinResult, Witness
from .names import Names
from .occupancy import Occupancy, Present, date, occupancy, present
from .room_list import ListedRoom, Refused, listed_rooms
from .stalls import Stalls

__all__ = ["ProbeResult", "Prober"]

TIMEOUT: Final = 0.8
"""Seconds that a probe waits: a few round trips to another continent, or a packet sent again."""

ATTEMPT_TIMEOUT: Final = 2.5
"""Seconds after which a request that outlived its probe is given up, connecting included."""

SIGNED_TIMEOUT: Final = 2.0
"""Seconds for a signed room list. A server that falls silent just then is found silent by it and
two probes; all three must end within 4 s, and so it cannot have `ATTEMPT_TIMEOUT`."""

# An application's rooms do not have our name. (An empty list of names would mean all rooms.)
_NO_ROOM: Final = "livekit-pool/no-such-room"
_NAMES_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """
    What one probe saw.

    Attributes:
        server: its name.
        outcome: what it was.
        stage: how far the probe got.
        detail: a few words for a person, without secrets.
        duration: seconds that it took.
        stalled: this process could not listen for more than 0.25 s of that time, or could not
            ask at all: its silence says nothing of the server. own: what that was, in a few words.
        kind: of the limit, where it refused for one. retry_after: seconds after which it wants to
            be asked again, if it said so.
        at: when it ended, by this machine's clock, in seconds since the epoch.
    """

    server: str
    outcome: ProbeOutcome
    stage: Stage
    detail: str
    duration: float
    stalled: bool = False
    own: str = ""
    kind: Cause | None = None
    retry_after: float | None = None
    at: float = field(default_factory=time.time)

    def public(self) -> dict[str, object]:
        """Return it for ``GET /pool/status``, with ``at`` as RFC 3339 says."""
        return {
            "outcome": self.outcome.value,
            "stage": self.stage.value,
            "detail": self.detail,
            "duration": round(self.duration, 4),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.at)),
        }


class Prober:
    """
    Asks LiveKit servers how they are. One for each process, used as a context manager.

    Its methods may run at the same time, also for one server.
    """

    def __init__(
        self,
        *,
        timeout: float = TIMEOUT,
        signed_timeout: float = SIGNED_TIMEOUT,
        context: ssl.SSLContext | None = None,
        witness: Witness | None = None,
    ) -> None:
        """
        Connect to nothing yet.

        Args:
            timeout: seconds that a probe waits.
            signed_timeout: seconds that a signed probe, or a question about rooms, waits.
            context: how TLS is verified; by default against the system's authorities.
            witness: told how long the participant of a join probe was on a server.
        """
        self._timeout = timeout
        self._signed_timeout = signed_timeout
        self._context = context
        self._attempts: dict[str, list[Attempt]] = {}
        self._ending: set[asyncio.Task[Seen]] = set()
        self._joiner = JoinProber(context=context, witness=witness)
        self._stack = AsyncExitStack()
        self._kept: aiohttp.ClientSession
        self._fresh: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Open its sessions, in the running loop."""
        self._kept = await self._stack.enter_async_context(
            open_session(
                timeout=max(ATTEMPT_TIMEOUT, 3 * self._timeout),
                context=self._context,
                trace=tracing(),
            )
        )
        self._fresh = await self._stack.enter_async_context(
            open_session(timeout=self._signed_timeout, keep=False, context=self._context)
        )
        await self._stack.enter_async_context(self._joiner)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give up what is under way and close all connections; idempotent."""
        for url in list(self._attempts):
            self._give_up(url)
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._stack.aclose()

    # -- probes --

    async def probe(self, server: Server) -> ProbeResult:
        """
        Ask ``GET /``, on the kept connection if there is one; see the head of this file.

        200 with LiveKit's ``OK`` passes; LiveKit's 406, "not ready", does not. Nothing is raised.
        A kept connection that the server closed is no evidence: aiohttp itself repeats the GET on
        a new one (RFC 9112, section 9.3.1), whose answer is.
        """
        began = time.monotonic()
        Names.shared().meet(server.origin.host)
        with Stalls() as stalls:
            seen = await self._wait(server, began)
            own = _own(seen, stalls)
        return _result(server, seen, began, own)

    async def probe_signed(self, server: Server) -> ProbeResult:
        """
        Ask for a room that does not exist, over a new connection, with a token of the server's key.

        Tells a key or secret that the server does not take (UNAUTHORIZED), and a limit for which it
        refuses (LIMITED), from a server that is not well, and a LiveKit server from another one
        that says OK. What went wrong after the connection was made has the stage SIGNED. Nothing
        is raised.
        """
        began = time.monotonic()
        with Stalls() as stalls:
            try:
                await listed_rooms(self._fresh, server, [_NO_ROOM])
                seen = Seen(outcome=ProbeOutcome.PASSED, stage=Stage.SIGNED, detail="answered")
            except Refused as refused:
                seen = refused.seen
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                seen = Seen.after(error)
                if seen.stage is Stage.HTTP:
                    seen = replace(seen, stage=Stage.SIGNED)
            own = _own(seen, stalls)
        return _result(server, seen, began, own)

    async def probe_join(self, server: Server) -> JoinResult:
        """Join ``server`` with a hidden participant that leaves at once; see `join_probe`."""
        return await self._joiner.probe(server)

    # -- rooms --

    async def list_rooms(self, server: Server, names: Iterable[str]) -> Mapping[str, ListedRoom]:
        """
        Return those of ``names`` that are rooms on ``server``; asks nothing if there are none.

        Raises:
            NoAnswer: it did not answer, or not as it should.
        """
        wanted = list(names)
        found: dict[str, ListedRoom] = {}
        try:
            for start in range(0, len(wanted), _NAMES_AT_ONCE):
                part = wanted[start : start + _NAMES_AT_ONCE]
                found.update(await listed_rooms(self._fresh, server, part))
        except Refused as refused:
            detail = refused.seen.detail
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            detail = Seen.after(error).detail
        else:
            return {name: found[name] for name in wanted if name in found}
        raise NoAnswer(f"{server.name} did not list its rooms: {detail}")

    async def date(self, server: Server) -> float | None:
        """What time it is by the clock of ``server``, in whole seconds; None if it does not say."""
        return await date(self._fresh, server)

    async def occupancy(self, server: Server) -> Occupancy:
        """All rooms of ``server``, with their numbers of participants. Raises as `list_rooms`."""
        return await occupancy(self._fresh, server)

    async def present(self, server: Server, room: str) -> Sequence[Present]:
        """The participants of ``room`` on ``server``. Raises as `list_rooms`."""
        return await present(self._fresh, server, room)

    async def room_exists(self, server: Server, room: str) -> bool | None:
        """Whether ``server`` has ``room`` now; None if it cannot tell, as when it is down."""
        try:
            return room in await self.list_rooms(server, [room])
        except NoAnswer:
            return None

    async def is_full(self, server: Server, room: str) -> bool | None:
        """Whether ``room`` on ``server`` has as many in it as it may; None if it cannot tell."""
        try:
            return await is_full(self._fresh, server, room)
        except (Refused, aiohttp.ClientError, TimeoutError, OSError):
            return None

    # -- attempts --

    async def _wait(self, server: Server, began: float) -> Seen:
        """Wait for the first answer to any attempt under way; begin those that are due."""
        # What ended before this probe tells of a time before it.
        under_way = [a for a in self._attempts.get(server.url, []) if not a.task.done()]
        attempts = self._attempts[server.url] = under_way
        end, second = began + self._timeout, began + self._timeout / 2
        while (now := time.monotonic()) < end:
            if not attempts or (now >= second and all(a.reused for a in attempts)):
                # A second one finds the kept connection busy, and so opens a new one.
                attempts.append(Attempt(self._kept, server))
            await asyncio.wait(
                {attempt.task for attempt in attempts},
                timeout=(second if now < second else end) - now,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in [a for a in attempts if a.task.done()]:
                attempts.remove(attempt)
                # One that ran out of its own time was begun by an earlier probe: this one still
                # waits for another. One that was cancelled was so by a probe beside this one.
                if not attempt.task.cancelled() and not attempt.expired:
                    self._give_up(server.url)
                    return attempt.task.result()
        return self._silence(attempts)

    def _silence(self, attempts: list[Attempt]) -> Seen:
        stage = attempts[-1].stage if attempts else Stage.HTTP
        reached = {
            Stage.TCP: "no connection",
            Stage.TLS: "connected, but no answer to the TLS handshake",
            Stage.HTTP: "connected, but no answer",
        }[stage]
        return Seen(
            outcome=ProbeOutcome.SILENT, stage=stage, detail=f"{reached} within {self._timeout:g} s"
        )

    def _give_up(self, url: str) -> None:
        """Cancel the attempts that nobody waits for any more, and close their connections."""
        for attempt in self._attempts.pop(url, []):
            attempt.task.cancel()
            self._ending.add(attempt.task)
            attempt.task.add_done_callback(self._ending.discard)


def _own(seen: Seen, stalls: Stalls) -> str:
    if seen.own:
        return seen.detail
    return "the event loop stood still" if stalls.stalled else ""


def _result(server: Server, seen: Seen, began: float, own: str) -> ProbeResult:
    return ProbeResult(
        server=server.name,
        outcome=seen.outcome,
        stage=seen.stage,
        detail=seen.detail,
        duration=time.monotonic() - began,
        stalled=own != "",
        own=own,
        kind=seen.kind,
        retry_after=seen.retry_after,
    )
