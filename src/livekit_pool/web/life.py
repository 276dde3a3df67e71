"""
Life: what ties a worker process to its supervisor, seen from the worker.

Two pipes. Into one the worker writes (a beat each second; the sentence it dies with). The other is
never written to: its end means that the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from ..observe import event
from ..upstream.probe_lock import ProbeLock
from .webhooks.spool import Spool

__all__ = ["BEAT", "BEAT_PERIOD", "SENTENCE", "Life"]

ORPHANED: Final = "Worker ends because its supervisor is gone"

#: Seconds between two beats.
BEAT_PERIOD = 1.0
#: A beat: the event loop ran.
BEAT = b"."
#: What follows, to the end of the pipe, is why the worker refuses its configuration (UTF-8).
SENTENCE = b"!"

#: A worker whose supervisor is gone ends within this many seconds, whatever it is doing, so that
#: a new supervisor finds the port free.
_ORPHAN_GRACE = 0.8
#: A worker whose loop stands still for this long is ended by the kernel. The supervisor does that
#: sooner; this is for a worker that has none any more, and does not see that.
_STALL_LIMIT = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """
    A worker's ties to its supervisor.

    Attributes:
        beat_fd: end of the pipe to write beats to; non-blocking.
        end_fd: end of the pipe whose closing means that the supervisor is gone.
        probe_lock: shared by all workers of this supervisor: one of them probes.
        spool: shared by all workers of this supervisor: brings webhooks to one of them.
        number: which of the supervisor's workers this is, from 0; the same for its replacement.
    """

    beat_fd: int
    end_fd: int
    probe_lock: ProbeLock
    spool: Spool
    number: int = 0

    @contextlib.asynccontextmanager
    async def lived(self, stop: Callable[[], None]) -> AsyncIterator[None]:
        """
        Beat for as long as the block runs, and end with the supervisor.

        ``stop`` is called at most once, from the event loop: on SIGTERM, which is how a
        supervisor asks, or when the supervisor is gone. In the latter case the kernel ends the
        process (SIGALRM) if it has not ended by itself within 0.8 s.

        Effects: takes over the process's SIGTERM, SIGALRM and real-time interval timer.
        """
        loop = asyncio.get_running_loop()
        stopping = False

        def stop_once() -> None:
            nonlocal stopping
            if not stopping:
                stopping = True
                stop()

        orphaned = False

        def orphan() -> None:
            nonlocal orphaned
            orphaned = True
            loop.remove_reader(self.end_fd)
            signal.setitimer(signal.ITIMER_REAL, _ORPHAN_GRACE)
            event(ORPHANED, logging.WARNING, worker=self.number)
            stop_once()

        async def beat() -> None:
            while not orphaned:
                signal.setitimer(signal.ITIMER_REAL, _STALL_LIMIT)
                # A full pipe holds beats enough; a closed one is reported by the other pipe.
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    os.write(self.beat_fd, BEAT)
                await asyncio.sleep(BEAT_PERIOD)

        # Not Python's: a handler in Python would wait for the very loop that stands still.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        loop.add_signal_handler(signal.SIGTERM, stop_once)
        loop.add_reader(self.end_fd, orphan)
        beating = asyncio.create_task(beat(), name="heartbeat")
        try:
            yield
        finally:
            beating.cancel()
            loop.remove_reader(self.end_fd)
            if not orphaned:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def refuse(self, sentence: str) -> None:
        """
        Tell the supervisor why this worker cannot work with its configuration.

        The supervisor ends with this sentence if no worker can. Call it at most once, just
        before the process ends with exit code 2.
        """
        # Below PIPE_BUF a write is atomic and, in a pipe holding a few beats, never partial.
        with contextlib.suppress(OSError):
            os.write(self.beat_fd, SENTENCE + sentence.encode()[:4000])
