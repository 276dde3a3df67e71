"""
Calls to Redis that end in time, and say what is known of them.

The client's own retries are off: they would send a write twice, and call the second answer the
only one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ..exceptions import StoreOutcomeUnknown, StoreUnavailable
from .redis_errors import (
    code_of,
    connection_refused,
    misconfigured,
    refusal,
    turns_away,
)
from .redis_line import Line, LineLost, LineSilent, pack
from .redis_parts import Script
from .redis_url import Address

__all__ = ["LIMIT", "Calls"]

LIMIT = 1.5
"""Seconds after which an answer, or a connection in the making, is given up."""


class Calls:
    """
    Calls scripts and commands over one connection, made when the first call needs it.

    Args:
        address: the Redis.
        known: scripts that it is told of with each new connection.
        limit: seconds for an answer, and for a connection. A call is tried again, once and within
            that time, if it may be and the connection was cut; after silence only if the caller is
            patient. So it ends in three limits, and almost always in one.
    """

    def __init__(
        self, address: Address, known: Iterable[Script] = (), limit: float = LIMIT
    ) -> None:
        self._address = address
        self._place = address.shown
        self._scripts = tuple(known)
        # The keys of each script, as the connection takes them.
        self._keys: dict[Script, bytes] = {}
        self._limit = limit
        self._open = False
        self._heard: Callable[[], None] = lambda: None
        self._subscribed: Callable[[], None] = lambda: None
        self._line: Line | None = None
        # It, and those before it that are not closed yet.
        self._lines: list[Line] = []
        self._connecting: asyncio.Task[Line] | None = None

    def __repr__(self) -> str:
        return f"<Calls to {self._place}, {self._line or 'no line'}>"

    def start(self, heard: Callable[[], None], subscribed: Callable[[], None]) -> None:
        """
        From now on calls are made; nothing is connected yet.

        Args:
            heard: called for each message on the channel, and when the connection has ended.
            subscribed: called when another connection gets the messages from now on.
        """
        self._open = True
        self._heard, self._subscribed = heard, subscribed

    async def aclose(self) -> None:
        """Refuse further calls, and end those that wait; idempotent."""
        self._open = False
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        lines, self._lines, self._line = self._lines, [], None
        await asyncio.gather(*(line.aclose() for line in lines))

    async def check(self, script: Script, *values: str | int) -> bool:
        """
        Try whether the setting is right, with a script that only reads.

        Returns:
            whether it ran; if not, whoever calls will be told why.

        Raises:
            ConfigurationError: Redis says that it is not.
        """
        try:
            await self._run(await self._get_line(), script, values)
        except RedisError as error:
            if wrong := misconfigured(error, self._place):
                raise wrong from None
        except (TimeoutError, LineLost):
            return False
        else:
            return True
        return False

    async def read(self, script: Script, *values: str | int) -> Any:
        """
        Run a script that writes nothing.

        Raises:
            StoreUnavailable, StoreCorrupt: as `refusal` tells, or there was no answer in time.
        """
        answer, _ = await self._call(script, values, writes=False, repeats=True)
        return answer

    async def write(
        self,
        script: Script,
        *values: str | int,
        repeats: bool = True,
    ) -> Any:
        """
        Run a script that writes.

        Args:
            repeats: whether doing it a second time changes nothing, its answer included.

        Raises:
            StoreUnavailable, StoreCorrupt: nothing was written.
            StoreOutcomeUnknown: it may have been.
        """
        answer, _ = await self._call(script, values, writes=True, repeats=repeats)
        return answer

    async def write_patiently(self, script: Script, *values: str | int) -> tuple[Any, bool]:
        """
        Run a script that writes, and once more after silence too.

        Returns:
            the answer, and whether it may have been done before: then the answer is the second.

        Raises:
            as `write` does.
        """
        return await self._call(script, values, writes=True, repeats=True, patient=True)

    async def _call(
        self,
        script: Script,
        values: tuple[str | int, ...],
        *,
        writes: bool,
        repeats: bool,
        patient: bool = False,
    ) -> tuple[Any, bool]:
        place = self._place
        if not self._open:
            raise StoreUnavailable(f"The Redis {place} is not open.")
        now = asyncio.get_running_loop().time
        begun, sent = now(), False
        while True:
            line = None
            try:
                line = await self._get_line()
                return await self._run(line, script, values), sent
            except RedisError as error:
                if line is None:
                    raise self._lost(sent and writes, connection_refused(error, place)) from None
                if turns_away(error):
                    line.abandon()
                raise self._lost(sent and writes, refusal(error, place)) from None
            except TimeoutError as error:
                raise self._lost(sent and writes, connection_refused(error, place)) from None
            except LineLost as lost:
                again = repeats and not sent and (patient or not isinstance(lost, LineSilent))
                sent = True
                if not again or now() - begun > 1.1 * self._limit:
                    break
        raise self._lost(writes, StoreUnavailable(f"The Redis {place} does not answer."))

    def _lost(self, maybe_written: bool, error: Exception) -> Exception:
        if not maybe_written:
            return error
        return StoreOutcomeUnknown(
            f"The Redis {self._place} (LIVEKIT_POOL_STORE) has not said whether it wrote."
        )

    async def _run(self, line: Line, script: Script, values: tuple[str | int, ...]) -> Any:
        keys = self._keys.get(script)
        if keys is None:
            names = [self._address.key(name) for name in script.keys]
            keys = self._keys[script] = pack([len(names), *names])
        known, given = 3 + len(script.keys) + len(values), pack(values)
        try:
            return await line.send(b"*%d\r\n%b%b%b" % (known, script.called, keys, given))
        except RedisError as error:
            if code_of(error) != "NOSCRIPT":
                raise
        # Somebody made it forget its scripts: it has done nothing yet.
        return await line.send(b"*%d\r\n%b%b%b" % (known, script.whole, keys, given))

    async def _get_line(self) -> Line:
        """The line; all who find none wait for the same new one."""
        if self._line is not None and not self._line.lost:
            return self._line
        if not self._open:
            raise LineLost
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        # Who gives up does not end it for the others.
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> Line:
        async with asyncio.timeout(self._limit):
            connection = await _connected_to(self._address, self._limit)
            line = Line(connection, self._limit, self._heard)
            self._lines = [line, *(each for each in self._lines if not each.closed)]
            try:
                await asyncio.gather(
                    line.call("SUBSCRIBE", self._address.key("notices")),
                    # A Redis that was restarted knows none: all at once, so that each call is one
                    # trip, and a call that was sent has found its script.
                    *(line.call("SCRIPT", "LOAD", script.text) for script in self._scripts),
                )
            except LineLost as lost:
                raise RedisConnectionError("lost at once") from lost
            except BaseException:
                line.abandon()
                raise
        self._line = line
        self._subscribed()
        return line

    def _connected(self, task: asyncio.Task[Line]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # those who waited were told


async def _connected_to(address: Address, limit: float) -> AbstractConnection:
    connection = address.connection(limit)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # not typed there
    except BaseException:
        with contextlib.suppress(RedisError, OSError):
            await connection.disconnect(nowait=True)
        raise
    return connection
