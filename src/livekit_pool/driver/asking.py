"""Asking: what somebody asked the machine for, and waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ..core.actions import Answered, Refused
from ..core.events import MarkAsked, RotateAsked
from ..exceptions import (
    NoAnswer,
    NoServer,
    PoolError,
    RevisionConflict,
    RotationRefused,
    ServerNotEligible,
    StoreOutcomeUnknown,
    StoreUnavailable,
    UnknownServer,
)

__all__ = ["Asking"]

WAITS: Final = 10.0
"""Seconds after which an answer is given up."""

_REFUSALS: Final = {error.code: error for error in (RevisionConflict, NoServer, ServerNotEligible)}
_OTHER_ERRORS: Final = {
    error.code: error for error in (UnknownServer, StoreUnavailable, StoreOutcomeUnknown)
}


class Asking:
    """The requests under way of one process."""

    def __init__(self, process: str, feed: Callable[[RotateAsked | MarkAsked], None]) -> None:
        """``process`` makes the names of requests unique; ``feed`` brings them to the machine."""
        self._process = process
        self._feed = feed
        self._requests: dict[str, asyncio.Future[Answered]] = {}
        self._counter = 0

    async def ask(self, asked: RotateAsked | MarkAsked) -> Answered:
        """
        Ask the machine, under a name of its own, and wait.

        Raises:
            RotationRefused, UnknownServer: it is not done, and why.
            StoreUnavailable: the store did not answer; nothing was written.
            StoreOutcomeUnknown: it did not answer in time; the change may be written.
        """
        self._counter += 1
        request = f"{self._process}-ask-{self._counter}"
        answer: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._requests[request] = answer
        try:
            self._feed(replace(asked, request=request))
            async with asyncio.timeout(WAITS):
                return await answer
        except TimeoutError:
            raise StoreOutcomeUnknown(
                "the store did not answer in time: see the history before you ask again"
            ) from None
        finally:
            del self._requests[request]

    def answered(self, action: Answered | Refused) -> None:
        """The machine's answer to one of them."""
        answer = self._requests.get(action.request)
        if answer is None or answer.done():
            return
        if isinstance(action, Answered):
            answer.set_result(action)
        else:
            answer.set_exception(_refusal(action))

    def end(self) -> None:
        """Nobody will answer any more."""
        for answer in self._requests.values():
            if not answer.done():
                answer.set_exception(NoAnswer("the pool is stopping"))


def _refusal(action: Refused) -> PoolError:
    """The error that the machine's code stands for."""
    if (other := _OTHER_ERRORS.get(action.code)) is not None:
        return other(action.message)
    error = _REFUSALS.get(action.code, RotationRefused)
    return error(action.message, revision=action.revision)
