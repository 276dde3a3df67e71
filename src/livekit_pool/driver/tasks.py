"""Tasks: work that runs as long as the driver does, and whose failures are never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Final

from .. import observe

__all__ = ["Tasks"]

AGAIN: Final = 1.0
"""Seconds after which work that failed unexpectedly begins again."""


class Tasks:
    """The tasks of one driver."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run ``work`` until it ends or all are ended; its failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run ``work`` again and again; when it fails, log it and begin again."""
        self.spawn(self._again_and_again(work))

    async def end(self) -> None:
        """Cancel all of them, and wait until they have ended."""
        ending = list(self._tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _again_and_again(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # the outermost frame of the work
                name = getattr(getattr(work, "func", work), "__name__", "")
                observe.failure(observe.TASK_FAILED, error, task=name.strip("_"))
            await asyncio.sleep(AGAIN)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            observe.failure(observe.TASK_FAILED, error, task=task.get_name())
