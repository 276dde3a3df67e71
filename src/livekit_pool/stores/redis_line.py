"""One connection to Redis: calls follow each other without waiting for answers, beside messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hiredis import Reader
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse, RedisError

from .redis_errors import is_answer

__all__ = ["Line", "LineLost", "LineSilent", "pack"]

# Bytes on their way up to which sending cannot have to wait: asyncio takes 64 KiB without.
_NEVER_WAITS = 2**15
# Seconds for answers that have come and were not read yet.
_GRACE = 0.1
# Bytes read at once.
_AT_ONCE = 2**16
_NOTHING = object()


class LineLost(Exception):
    """The connection ended before the answer came; what was sent may have been done."""


class LineSilent(LineLost):
    """The same, because there was no answer in time."""


@dataclass(slots=True)
class _Waiting:
    """Who waits for an answer: since when, and for what a command."""

    answer: asyncio.Future[Any]
    since: float
    size: int


class Line:
    """
    A connected connection, and who waits for its answers.

    Redis answers in the order in which it was asked. So calls share one connection, and one that
    is cancelled does no harm: its answer is dropped when it comes. One that is not answered in
    time ends it, because those behind it would wait in vain as well.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        limit: float,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Take a connection that is connected, and from now on nobody else's.

        Args:
            limit: seconds that an answer may take.
            heard: called for each message of a subscription, and when the connection has ended.
        """
        self._connection = connection
        # redis-py has no public way to throw away what could not be sent, and to close at once;
        # nor to read what is there in one go, which halves the price of an answer and a message.
        self._writer = connection._writer
        self._stream = connection._reader
        self._limit = limit
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        # One timer for all: each call with one of its own would cost as much as the call.
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: _Waiting | None = None
        self._lost = False
        self._why: Exception | None = None
        self._reader = asyncio.create_task(self._read())

    def __repr__(self) -> str:
        return f"<Line {'lost' if self._lost else 'open'}, {len(self._waiting)} waiting>"

    @property
    def lost(self) -> bool:
        """Whether it has ended."""
        return self._lost

    @property
    def closed(self) -> bool:
        """Whether nothing is left of it."""
        return self._reader.done()

    async def call(self, *command: str | int) -> Any:
        """
        Ask for the answer to ``command``.

        Raises:
            LineLost, LineSilent: the connection ended.
            RedisError: the answer is an error.
            ValueError: a text in ``command`` cannot be written as UTF-8.
        """
        return await self.send(b"*%d\r\n%b" % (len(command), pack(command)))

    async def send(self, packed: bytes) -> Any:
        """The same for a command that is packed already, as `pack` does it."""
        if self._lost:
            raise LineLost
        waiting = _Waiting(self._loop.create_future(), self._loop.time(), len(packed))
        self._waiting.append(waiting)
        self._bytes += waiting.size
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit, self._look)
        # The whole command is handed over before this waits, so that the order is the same.
        sending = self._connection.send_packed_command(packed, check_health=False)
        try:
            if self._bytes < _NEVER_WAITS:
                await sending
            else:
                async with asyncio.timeout(self._limit):
                    await sending
        except BaseException as error:
            # Half a command may be on its way: what followed would be read as its rest.
            waiting.answer.cancel()
            self.abandon()
            if isinstance(error, TimeoutError):
                raise LineSilent from None
            if isinstance(error, Exception):
                # uvloop, say, raises RuntimeError where the other side has just cut it off.
                raise LineLost from error
            raise
        return await waiting.answer

    def abandon(self, lost: type[LineLost] = LineLost) -> None:
        """End it: whoever waits for an answer is told that it is lost. Idempotent."""
        if self._lost:
            return
        self._lost = True
        if asyncio.current_task() is not self._reader:
            self._reader.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._writer is not None:
            self._writer.transport.abort()
        while self._waiting:
            error = lost()
            error.__cause__ = self._why
            _fail(self._waiting.popleft().answer, error)

    async def aclose(self) -> None:
        """End it, and see the connection closed."""
        self.abandon()
        await asyncio.wait([self._reader])

    def _look(self) -> None:
        """Look whether the first of those that wait has waited too long."""
        self._timer = None
        if not self._waiting:
            return
        first, now = self._waiting[0], self._loop.time()
        due = first.since + self._limit
        if now < due:
            self._timer = self._loop.call_at(due, self._look)
        elif first is not self._overdue:
            # Was it this process that stood still? Then the answer has come, and is read first.
            self._overdue = first
            self._timer = self._loop.call_later(_GRACE, self._look)
        else:
            self.abandon(LineSilent)

    async def _read(self) -> None:
        parser = Reader(
            encoding="utf-8",
            errors=self._connection.encoder.encoding_errors,
            protocolError=InvalidResponse,
            replyError=self._connection._parser.parse_error,
            notEnoughData=_NOTHING,
        )
        try:
            while self._stream is not None and (received := await self._stream.read(_AT_ONCE)):
                parser.feed(received)
                while (answer := parser.gets()) is not _NOTHING:
                    if _is_message(answer):
                        self._heard()
                    elif self._waiting:
                        self._answer(answer)
                    else:
                        return  # nobody asked: it says goodbye
        except (RedisError, OSError) as error:
            self._why = error
        finally:
            self.abandon()
            self._heard()
            with contextlib.suppress(RedisError):
                await self._connection.disconnect()

    def _answer(self, answer: Any) -> None:
        """Give it to the first who waits."""
        if isinstance(answer, RedisError) and not is_answer(answer):
            raise answer
        waiting = self._waiting.popleft()
        self._bytes -= waiting.size
        if isinstance(answer, RedisError):
            _fail(waiting.answer, answer)
        elif not waiting.answer.done():
            waiting.answer.set_result(answer)


def pack(words: Iterable[str | int]) -> bytes:
    """
    Write words of a command as RESP has them, after the line that says how many they are.

    Raises:
        ValueError: one of them cannot be written as UTF-8.
    """
    packed = []
    for word in words:
        text = str(word)
        size = len(text) if text.isascii() else len(_encoded(text))
        packed.append(f"${size}\r\n{text}\r\n")
    return _encoded("".join(packed))


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _is_message(answer: Any) -> bool:
    """Whether it is no answer, but what was published; none of a script's answers looks so."""
    return isinstance(answer, list) and answer[:1] == ["message"] and answer[2:] == [""]


def _fail(waiting: asyncio.Future[Any], error: Exception) -> None:
    if not waiting.done():
        waiting.set_exception(error)
