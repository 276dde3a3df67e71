"""Wait for a condition, never for luck."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

EVERY = 0.02


async def until(
    condition: Callable[[], Any], *, seconds: float, what: str | Callable[[], str]
) -> Any:
    """
    Ask ``condition`` again and again until its answer is true, and return that answer.

    Args:
        condition: a function, or a coroutine function.
        seconds: how long to ask, without the time in which this process stands still.
        what: what is expected, for the message; a function is asked when it is written.

    Raises:
        AssertionError: it is still not true; the message has ``what`` and its last answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        answer = await answer if inspect.isawaitable(answer) else answer
        if answer:
            return answer
        if time.monotonic() > deadline:
            wanted = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds} s: {wanted} (last: {answer!r})")
        slept = time.monotonic()
        await asyncio.sleep(EVERY)
        # While this process stood still, it asked nothing and heard nothing.
        deadline += max(0.0, time.monotonic() - slept - 2 * EVERY)
