"""
The stream: the events of all servers, passed on to each receiver that the operator names.

A receiver gets them as from one LiveKit server: LiveKit's own headers, signed with the pool's key.
The events of a room reach it one after another in the order in which they came here, those of
different rooms in parallel. What it does not take is tried again until it is too old: while the
receiver itself is not there, with one request at a time, whichever room's; where it fails at one
event, only that event's room waits.

LiveKit's own queues lose events without a word. These are bounded too, and count and log each loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from ... import __version__, observe
from ...tokens import KeyPair, sign_body
from ...upstream.connection import Failure, open_session
from ..rarely import Rarely

__all__ = ["Bounds", "Fate", "Stream", "origin_of"]

CONTENT_TYPE: Final = "application/webhook+json"
"""As LiveKit sends it (protocol: webhook/consts.go)."""

_AWAY: Final = frozenset({429, 502, 503, 504})  # whoever answers so says: nobody is there, wait
_LATER: Final = frozenset({408, 425})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """
    What the stream holds for one receiver, and for how long.

    Attributes:
        events: events that wait at most.
        size: bytes of them at most.
        age: seconds after which one that still waits is dropped.
        together: requests under way at most.
        timeout: seconds for one request; connect: for TCP and TLS of it.
        first_pause, longest_pause: seconds until it is tried again, doubling; each is drawn from
            the upper half of that, so that several processes do not come together.
        flush: seconds in which a planned stop still tries to pass on what waits.
    """

    events: int = 10_000
    size: int = 32 * 2**20
    age: float = 600.0
    together: int = 32
    timeout: float = 10.0
    connect: float = 3.0
    first_pause: float = 1.0
    longest_pause: float = 30.0
    flush: float = 2.0


class Fate(StrEnum):
    """What became of an event at a receiver."""

    DELIVERED = "delivered"
    REFUSED = "refused"  # with a status that will not change: 4xx, 3xx, 501
    FULL = "full"  # too many wait already
    OLD = "old"  # it waited for too long
    STOPPED = "stopped"  # the pool stopped before


class Stream:
    """
    Passes events on to receivers.

    Attributes:
        fates: how many events, times receivers, met each `Fate`.
        retries: how many requests did not get through and were, or will be, tried again.
    """

    def __init__(
        self, urls: Iterable[str], pair: KeyPair, rarely: Rarely, bounds: Bounds | None = None
    ) -> None:
        """Prepare; nothing is opened before the first event. ``pair`` is the pool's."""
        self.fates: Counter[Fate] = Counter()
        self.retries = 0
        self._bounds = bounds or Bounds()
        self._session: aiohttp.ClientSession | None = None
        self._flush_until: float | None = None
        self._rarely = rarely
        self._receivers = [_Receiver(url, pair, self) for url in urls]

    @property
    def waiting(self) -> int:
        """Events that wait, times receivers."""
        return sum(receiver.waiting for receiver in self._receivers)

    def put(self, sequence: str, body: bytes, done: Callable[[], None] = lambda: None) -> None:
        """
        Pass ``body`` on after all that was put with the same ``sequence``; never waits.

        ``done`` is called when no receiver needs it any more; not for what a stop leaves behind.
        """
        if self._receivers and self._session is None:
            self._session = open_session(
                timeout=self._bounds.timeout, connect_timeout=self._bounds.connect
            )
        passing = _Passing(body, len(self._receivers), done)
        for receiver in self._receivers:
            receiver.put(sequence, passing)
        if not self._receivers:
            done()

    async def flush(self) -> None:
        """Wait until nothing waits, in all calls together for `Bounds.flush` at most."""
        now = _now()
        if self._flush_until is None:
            self._flush_until = now + self._bounds.flush
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._flush_until):
                await asyncio.gather(*(receiver.emptied() for receiver in self._receivers))

    async def aclose(self) -> None:
        """`flush`, then drop what still waits; idempotent."""
        if self._session is None:
            return
        await self.flush()
        await asyncio.gather(*(receiver.stop() for receiver in self._receivers))
        await self._session.close()
        self._session = None

    # -- for the receivers --

    @property
    def bounds(self) -> Bounds:
        """The bounds."""
        return self._bounds

    async def post(self, url: str, body: bytes, token: str) -> tuple[int, str]:
        """Post ``body``; the answer's status and its ``Retry-After``."""
        assert self._session is not None
        headers = {
            "Authorization": token,
            "Content-Type": CONTENT_TYPE,
            "User-Agent": f"LiveKit-Pool/{__version__}",
        }
        async with self._session.post(
            url, data=body, headers=headers, allow_redirects=False
        ) as answer:
            # Read, as far as it is short, only for the connection to be kept.
            with contextlib.suppress(aiohttp.ClientError):
                await answer.content.read(2**14)
            return answer.status, answer.headers.get("Retry-After", "")

    def fate(self, receiver: str, fate: Fate, status: int | None = None, count: int = 1) -> None:
        """Count what became of an event, and log it if it is lost."""
        self.fates[fate] += count
        if fate is Fate.DELIVERED:
            return
        self._rarely.event(
            observe.WEBHOOK_LOST, times=count, receiver=receiver, why=str(fate), status=status
        )


@dataclass(slots=True)
class _Passing:
    """A body, and for how many receivers it still waits."""

    body: bytes
    left: int
    done: Callable[[], None]

    def settled(self) -> None:
        """One of them needs it no more."""
        self.left -= 1
        if self.left == 0:
            self.done()


@dataclass(slots=True)
class _Waiting:
    passing: _Passing
    since: float
    tries: int = 0

    @property
    def body(self) -> bytes:
        return self.passing.body


class _Receiver:
    """One receiver, and what waits for it."""

    def __init__(self, url: str, pair: KeyPair, stream: Stream) -> None:
        self._url = url
        self._name = origin_of(url)
        self._pair = pair
        self._stream = stream
        self._sequences: dict[str, deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._size = 0
        self.waiting = 0
        self._free = asyncio.Semaphore(stream.bounds.together)
        # While it is away: since when, how often it was tried, when it may be tried again.
        self._away_since: float | None = None
        self._failures = 0
        self._not_before = 0.0
        self._trial = asyncio.Lock()

    def put(self, sequence: str, passing: _Passing) -> None:
        bounds = self._stream.bounds
        if self.waiting >= bounds.events or self._size + len(passing.body) > bounds.size:
            self._stream.fate(self._name, Fate.FULL)
            passing.settled()
            return
        self.waiting += 1
        self._size += len(passing.body)
        queue = self._sequences.get(sequence)
        if queue is not None:
            queue.append(_Waiting(passing, _now()))
            return
        self._sequences[sequence] = deque([_Waiting(passing, _now())])
        task = asyncio.create_task(self._deliver(sequence), name="webhooks")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def emptied(self) -> None:
        """Wait until nothing waits."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self) -> None:
        """Drop what waits."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.waiting:
            self._stream.fate(self._name, Fate.STOPPED, count=self.waiting)
        self._sequences.clear()
        self.waiting = self._size = 0

    async def _deliver(self, sequence: str) -> None:
        """Deliver one sequence, in order, until nothing of it waits."""
        queue = self._sequences[sequence]
        try:
            while queue:
                try:
                    fate, status = await self._delivered(queue[0])
                except Exception as error:  # the outermost frame of this task
                    observe.failure(observe.TASK_FAILED, error, task="webhooks")
                    fate, status = Fate.REFUSED, None
                self._stream.fate(self._name, fate, status)
                self.waiting -= 1
                settled = queue.popleft()
                self._size -= len(settled.body)
                settled.passing.settled()
        finally:
            # Nothing was awaited since it was found empty, so nothing came in between.
            self._sequences.pop(sequence, None)

    async def _delivered(self, event: _Waiting) -> tuple[Fate, int | None]:
        """Post ``event`` until it is taken, refused, or too old."""
        while True:
            async with self._turn() as trial:
                if _now() - event.since >= self._stream.bounds.age:
                    return Fate.OLD, None
                status = await self._post(event.body, trial=trial)
            if status is not None and status < 300:
                return Fate.DELIVERED, status
            if status is not None and not _worth_trying_again(status):
                return Fate.REFUSED, status
            self._stream.retries += 1
            if self._away_since is None:
                event.tries += 1
                await asyncio.sleep(self._pause(event.tries))

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        """
        Wait until a request may be made; while the receiver is away, one at a time.

        Yields whether it is a trial, made to see whether the receiver is back.
        """
        async with self._free:
            if self._away_since is None:
                yield False
                return
            async with self._trial:
                await asyncio.sleep(max(0.0, self._not_before - _now()))
                yield True

    async def _post(self, body: bytes, *, trial: bool) -> int | None:
        """Post once; the answer's status, None if there was none."""
        token = sign_body(body, self._pair)  # anew each time: it is valid for some minutes only
        try:
            status, retry_after = await self._stream.post(self._url, body, token)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._is_away(Failure.of(error).detail, trial=trial)
            return None
        if status in _AWAY:
            self._is_away(f"it answered {status}", retry_after, trial=trial)
        else:
            self._is_there()
        return status

    def _is_away(self, detail: str, retry_after: str = "", *, trial: bool) -> None:
        if self._away_since is not None and not trial:
            return  # under way since before it was known: says nothing new
        self._failures += 1
        pause = self._pause(self._failures)
        asked = _seconds(retry_after)
        if asked is not None:
            pause = max(pause, min(asked, self._stream.bounds.age))
        self._not_before = _now() + pause
        if self._away_since is None:
            self._away_since = _now()
            observe.event(
                observe.WEBHOOK_RECEIVER_AWAY, logging.WARNING, receiver=self._name, detail=detail
            )

    def _is_there(self) -> None:
        if self._away_since is None:
            return
        observe.event(
            observe.WEBHOOK_RECEIVER_BACK,
            receiver=self._name,
            seconds=_now() - self._away_since,
            waiting=self.waiting,
        )
        self._away_since = None
        self._failures = 0

    def _pause(self, failures: int) -> float:
        bounds = self._stream.bounds
        longest = min(bounds.first_pause * 2 ** min(failures - 1, 30), bounds.longest_pause)
        drawn: float = longest * random.uniform(0.5, 1.0)
        return drawn


def origin_of(url: str) -> str:
    """What may be shown of a receiver's URL: its path and query may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _worth_trying_again(status: int) -> bool:
    """As LiveKit decides (go-retryablehttp: DefaultRetryPolicy), and for two more."""
    return status in _LATER or status == 429 or (status >= 500 and status != 501)


def _seconds(retry_after: str) -> float | None:
    """Seconds to wait as ``Retry-After`` says (RFC 9110, 10.2.3); None if it says nothing."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:6])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
