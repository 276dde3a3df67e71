"""Shared: a call of the store that serves all who ask for it at about the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

__all__ = ["Shared"]

_Result = TypeVar("_Result")


class Shared(Generic[_Result]):
    """
    Runs ``work`` for whoever asks.

    It begins after it was asked for: one that is under way may have read what is outdated by now.
    So who asks meanwhile shares the next one.
    """

    def __init__(self, work: Callable[[], Coroutine[object, object, _Result]]) -> None:
        self._work = work
        self._running: asyncio.Task[_Result] | None = None
        self._next: asyncio.Task[_Result] | None = None

    async def run(self) -> _Result:
        """The result of a run that begins from now on. Raises what ``work`` raises."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._after(self._running))
            self._next.add_done_callback(_seen)
        return await asyncio.shield(self._next)

    async def end(self) -> None:
        """Cancel what is under way."""
        for task in (self._next, self._running):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _after(self, under_way: asyncio.Task[_Result] | None) -> _Result:
        if under_way is not None:
            await asyncio.wait([under_way])
        self._running, self._next = self._next, None
        return await self._work()


def _seen(task: asyncio.Task[_Result]) -> None:
    """Whoever waits for ``task`` gets its error; it may be that nobody does."""
    if not task.cancelled():
        task.exception()
