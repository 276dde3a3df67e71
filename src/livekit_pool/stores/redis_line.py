"""One connection to Redis, on which calls follow each other without waiting for answers."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from .redis_errors import is_answer

__all__ = ["Line", "LineLost"]


class LineLost(Exception):
    """The connection ended before the answer came; what was sent may have been done."""


class Line:
    """
    A connected connection, and who waits for its answers.

    Redis answers in the order in which it was asked. So calls share one connection, and one that
    is cancelled does no harm: its answer is dropped when it comes.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        """``connection`` is connected, and from now on nobody else's."""
        self._connection = connection
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._lost = False
        self._why: Exception | None = None
        self._reader = asyncio.create_task(self._read())

    def __repr__(self) -> str:
        return f"<Line {'lost' if self._lost else 'open'}, {len(self._waiting)} waiting>"

    @property
    def lost(self) -> bool:
        """Whether it has ended."""
        return self._lost

    async def call(self, *command: str | int) -> Any:
        """
        Ask for the answer to ``command``.

        Raises:
            LineLost: the connection ended.
            RedisError: the answer is an error.
            ValueError: a text in ``command`` cannot be written as UTF-8.
        """
        packed = self._connection.pack_command(*command)
        if self._lost:
            raise LineLost
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        try:
            # The whole command is handed over before this waits, so that the order is the same.
            await self._connection.send_packed_command(packed, check_health=False)
        except BaseException as error:
            # Half a command may be on its way: what followed would be read as its rest.
            answer.cancel()
            self.abandon()
            if isinstance(error, RedisError):
                raise LineLost from error
            raise
        return await answer

    def abandon(self) -> None:
        """End it: whoever waits for an answer is told that it is lost. Idempotent."""
        if self._lost:
            return
        self._lost = True
        self._reader.cancel()
        while self._waiting:
            lost = LineLost()
            lost.__cause__ = self._why
            _fail(self._waiting.popleft(), lost)

    async def aclose(self) -> None:
        """End it, and see the connection closed."""
        self.abandon()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        try:
            while True:
                answer = await self._next()
                if not self._waiting:
                    break  # nobody asked: it says goodbye
                waiting = self._waiting.popleft()
                if isinstance(answer, RedisError):
                    _fail(waiting, answer)
                elif not waiting.done():
                    waiting.set_result(answer)
        except (RedisError, OSError) as error:
            self._why = error
        finally:
            await self._connection.disconnect(nowait=True)
            self.abandon()

    async def _next(self) -> Any:
        try:
            return await self._connection.read_response(timeout=math.inf, disconnect_on_error=False)
        except RedisError as error:
            if is_answer(error):
                return error
            raise


def _fail(waiting: asyncio.Future[Any], error: Exception) -> None:
    if not waiting.done():
        waiting.set_exception(error)
