"""
The story: what happens in the demo, and whether the call survived it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from livekit import rtc

from ...exceptions import PoolError, ServerNotEligible
from .call import Participant, longest_gap
from .show import Show
from .stage import Stage

__all__ = ["Result", "Step", "sum_up", "tell", "what_is_missing"]

ROOM = "demo"
#: Seconds of calm before the first step and after each.
_CALM = 3.0
#: Seconds in which both must be back in the call.
_PATIENCE = 20.0
#: Seconds for a message under way to arrive after the last was sent.
_LAST = 2.0


@dataclass(slots=True, kw_only=True)
class Step:
    """
    One change of the active server.

    Attributes:
        what: what was done.
        from_, to: the server that was active, and the one that should be.
        began, ended: when, on the monotonic clock.
        data_gap, audio_gap: the longest gap of either participant, in seconds.
        sent, lost: messages of both, sent in this step and the calm after it.
        wrong: what did not come back, one phrase each.
    """

    what: str
    from_: str
    to: str
    began: float
    ended: float = 0.0
    data_gap: float = 0.0
    audio_gap: float = 0.0
    sent: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Result:
    """What the demo showed: its steps, the history of the pool, the messages, what went wrong."""

    steps: list[Step] = field(default_factory=list)
    rotations: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        """Whether the call did."""
        return not self.wrong and len(self.steps) == 2

    @property
    def data_gap(self) -> float:
        """The longest gap in messages, in seconds."""
        return max((step.data_gap for step in self.steps), default=0.0)

    @property
    def audio_gap(self) -> float:
        """The longest gap in audio, in seconds."""
        return max((step.audio_gap for step in self.steps), default=0.0)

    def as_json(self) -> dict[str, object]:
        """For programs; gaps in seconds."""
        return {
            "survived": self.survived,
            "wrong": self.wrong,
            "longest_gap": {"data": round(self.data_gap, 3), "audio": round(self.audio_gap, 3)},
            "messages": {"sent": self.sent, "lost": self.lost},
            "steps": [
                {
                    "what": step.what,
                    "from": step.from_,
                    "to": step.to,
                    "longest_gap": {
                        "data": round(step.data_gap, 3),
                        "audio": round(step.audio_gap, 3),
                    },
                    "messages": {"sent": step.sent, "lost": step.lost},
                }
                for step in self.steps
            ],
            "rotations": self.rotations,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        yield ""
        for step in self.steps:
            yield (
                f"  {step.what:<22} {f'{step.from_} -> {step.to}':<16} longest gap: "
                f"data {step.data_gap:.2f} s, audio {step.audio_gap:.2f} s; "
                f"{step.lost} of {step.sent} messages lost"
            )
        yield ""
        if self.survived:
            yield (
                f"The call survived: longest gap {self.data_gap:.2f} s in data and "
                f"{self.audio_gap:.2f} s in audio, {self.lost} of {self.sent} messages lost."
            )
        else:
            yield "The call did not survive: " + "; ".join(self.wrong or ["it was cut short"]) + "."


async def tell(stage: Stage, show: Show) -> Result:
    """
    Play it: a call, the active server killed, the rotation back by hand.

    Returns:
        What it showed; a call that did not survive is a result, not an error.
    """
    result = Result()
    alice, bob = both = (Participant("alice"), Participant("bob"))
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        showing = group.create_task(_keep_showing(stage, show, both))
        for one in both:
            stack.push_async_callback(one.leave)
        try:
            await _play(stage, show, alice, bob, result)
        except (PoolError, rtc.ConnectError, TimeoutError) as error:
            result.wrong.append(str(error) or type(error).__name__)
        showing.cancel()
    return result


async def _play(
    stage: Stage, show: Show, alice: Participant, bob: Participant, result: Result
) -> None:
    both = (alice, bob)
    for one in both:
        await one.join(stage.url, stage.participant_token(ROOM, one.identity))
    if not await _until(lambda: _together(alice, bob, time.monotonic() - 0.5)):
        result.wrong.append("the call was never established")
        return
    first = (await stage.status())["active"]
    show.line(f"alice and bob are in a call on {first}: audio, and a message each 50 ms from both")
    await asyncio.sleep(_CALM)

    second = _next_after(stage, first)
    with _step(result, f"{first} was killed", first, second) as step:
        show.line(f"killing {first}, the active server (SIGKILL)")
        await stage.servers[first].kill()
        await _see_through(stage, show, both, step)

    show.line(f"starting {first} again, and waiting until it is available")
    await stage.servers[first].start()
    if not await _until(lambda: _available(stage, first)):
        result.wrong.append(f"{first} did not become available again")
        return
    with _step(result, "rotated back by hand", second, first) as step:
        show.line(f"rotating by hand, back to {first}")
        if not await _until(lambda: _rotated(stage, first)):
            step.wrong.append(f"the pool did not rotate to {first}")
        await _see_through(stage, show, both, step)

    for one in both:
        await one.stop_sending()
    await _until(lambda: not any(_lost(*pair) for pair in _directions(both)), _LAST)
    result.rotations = await stage.rotations()
    sum_up(result, both)


@contextmanager
def _step(result: Result, what: str, from_: str, to: str) -> Iterator[Step]:
    step = Step(what=what, from_=from_, to=to, began=time.monotonic())
    result.steps.append(step)
    yield step
    step.ended = time.monotonic()
    result.wrong += step.wrong


async def _see_through(
    stage: Stage, show: Show, both: tuple[Participant, Participant], step: Step
) -> None:
    """Wait until everybody is back, let it be calm for a while, and note what is not right."""
    before = {one.identity: one.seen["reconnected"] for one in both}

    def back() -> bool:
        reconnected = all(one.seen["reconnected"] > before[one.identity] for one in both)
        return reconnected and _together(*both, step.began)

    if await _until(back):
        show.line(f"both are back, on {step.to}, after {time.monotonic() - step.began:.1f} s")
    await asyncio.sleep(_CALM)
    calm = time.monotonic() - 1
    present = await stage.present(step.to, ROOM)
    step.wrong += what_is_missing(step, both, before, calm, present)


def what_is_missing(
    step: Step,
    both: tuple[Participant, Participant],
    before: Mapping[str, int],
    since: float,
    present: set[str],
) -> list[str]:
    """
    What of the call did not come back, one phrase each.

    Args:
        step: what was done.
        both: who is in the call.
        before: how often each had reconnected when it was done, by identity.
        since: audio and messages must have arrived later than this.
        present: who is in the room, in the words of the server that is active now.
    """
    wrong = []
    for one, other in _directions(both):
        if one.seen["disconnected"]:
            wrong.append(f"{one.identity} was disconnected")
        elif one.seen["reconnected"] == before[one.identity]:
            wrong.append(f"{one.identity} did not reconnect after {step.what}")
        if other.identity not in one.others:
            wrong.append(f"{one.identity} does not see {other.identity} after {step.what}")
        if not one.receives(since):
            wrong.append(
                f"{one.identity} does not get {other.identity}'s audio and messages "
                f"after {step.what}"
            )
    absent = sorted({one.identity for one in both} - present)
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        wrong.append(f"{' and '.join(absent)} {verb} missing from the room on {step.to}")
    return wrong


def sum_up(result: Result, both: tuple[Participant, Participant]) -> None:
    """Count the messages and measure the gaps, and compare the history."""
    bounds = [*(step.began for step in result.steps[1:]), float("inf")]
    for step, next_began in zip(result.steps, bounds, strict=True):
        for one, other in _directions(both):
            step.data_gap = max(step.data_gap, longest_gap(one.messages, step.began, step.ended))
            step.audio_gap = max(step.audio_gap, longest_gap(one.tones, step.began, step.ended))
            numbers = {
                number
                for number, at in enumerate(other.sent_at, 1)
                if step.began <= at < next_began
            }
            step.sent += len(numbers)
            step.lost += len(numbers - one.got)
    result.sent = sum(len(one.sent_at) for one in both)
    result.lost = sum(_lost(*pair) for pair in _directions(both))
    expected = [(step.from_, step.to) for step in result.steps]
    found = [(rotation["from"], rotation["to"]) for rotation in result.rotations]
    if found != expected:
        told = ", ".join(f"{from_} -> {to}" for from_, to in found) or "no rotation"
        result.wrong.append(f"the history says {told}, instead of one entry for each step")


def _directions(both: tuple[Participant, Participant]) -> list[tuple[Participant, Participant]]:
    """Who receives, and from whom."""
    alice, bob = both
    return [(alice, bob), (bob, alice)]


def _together(alice: Participant, bob: Participant, since: float) -> bool:
    """Whether both are connected, see each other, and got audio and messages since then."""
    return all(
        one.state == "connected" and other.identity in one.others and one.receives(since)
        for one, other in _directions((alice, bob))
    )


def _lost(receiver: Participant, sender: Participant) -> int:
    """
    How many of the sender's messages never arrived.

    Counted from the first that did: who speaks before the other is there is not heard.
    """
    first = min(receiver.got, default=1)
    return len(set(range(first, len(sender.sent_at) + 1)) - receiver.got)


def _next_after(stage: Stage, name: str) -> str:
    """The server that the pool will choose after ``name``: the next in its order."""
    names = list(stage.servers)
    return names[(names.index(name) + 1) % len(names)]


async def _available(stage: Stage, name: str) -> bool:
    for server in (await stage.status())["servers"]:
        if server["name"] == name:
            return bool(server["role"] == "standby" and server["health"] == "up")
    return False


async def _rotated(stage: Stage, to: str) -> bool:
    try:
        await stage.rotate(to, "the demo rotates back by hand")
    except ServerNotEligible:
        # The worker that was asked has not heard yet that the server is up again.
        return False
    return True


async def _until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = _PATIENCE
) -> bool:
    """Whether ``condition`` came true in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)


async def _keep_showing(stage: Stage, show: Show, both: tuple[Participant, Participant]) -> None:
    """Feed the show until cancelled."""
    while True:
        try:
            status: dict[str, Any] | None = await stage.status()
        except PoolError:
            status = None
        now = time.monotonic()
        show.update(
            status,
            [
                (
                    one.identity,
                    one.state,
                    len(one.sent_at),
                    len(one.got),
                    _silence(one.messages, now),
                    _silence(one.tones, now),
                )
                for one in both
            ],
        )
        await asyncio.sleep(0.2)


def _silence(times: list[float], now: float) -> float | None:
    return now - times[-1] if times else None
