"""
The spool: brings the events that the processes of a machine are sent to one of them.

LiveKit sends a room's events one after another, over whichever connection is free, so that each
may reach another worker. One worker, the holder, takes them all and passes them on: only so does a
room's order last while a receiver is away, and an event that comes twice is noticed.

It is an unlinked file that the processes inherited, with two record locks (``fcntl(2)``), which
belong to processes: one for each look into the file, one that the holder keeps. Nothing is left on
the disk and nobody else can reach it. A record stays until the holder is done with it; when the
holder dies, the kernel makes room for another, who finds all that its predecessor had not finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

__all__ = ["Spool"]

LARGEST: Final = 64 * 2**20
"""Bytes that it holds at most."""

# Where the first record that is still needed begins, and where the next one will.
_HEAD: Final = struct.Struct("!QQ")
_FIRST: Final = _HEAD.size
_LENGTH: Final = struct.Struct("!I")
# Where in the file the two locks are; they may lie beyond its end.
_LOOKING, _HOLDING = 0, 1
_TRIES, _TRY_AGAIN = 40, 0.0005  # seconds


class Spool:
    """Records of bytes, put in by any process and taken out by the holder, in order."""

    def __init__(self) -> None:
        """
        Make it, empty; to be inherited by the processes that share it.

        Raises:
            OSError: the directory for temporary files cannot be written.
        """
        self._fd, path = tempfile.mkstemp(prefix="livekit-pool-webhooks-")
        os.unlink(path)
        self._wake_in, self._wake_out = os.pipe()
        for fd in (self._wake_in, self._wake_out):
            os.set_blocking(fd, False)
        self._set_head(_FIRST, _FIRST)
        # What only the holder knows. Positions count on when records are moved within the file.
        self._taken: int | None = None
        self._moved = 0
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def wake_fd(self) -> int:
        """Readable when something was put in; `take` makes it silent again."""
        return self._wake_in

    def try_hold(self) -> bool:
        """Become the holder if there is none; whether this process is it. Never waits."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _HOLDING)
        except OSError:  # held by another; or no locks left, and who cannot be sure does not hold
            return False
        return True

    def let_go(self) -> None:
        """Be the holder no more; what is not finished is for the next one."""
        self._taken, self._moved = None, 0
        self._kept.clear()
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _HOLDING)

    def put(self, record: bytes) -> bool:
        """Put ``record`` in behind all others; False if that cannot be done now."""
        framed = _LENGTH.pack(len(record)) + record
        with self._look() as may:
            if not may:
                return False
            first, end = self._head()
            if end + len(framed) > LARGEST:
                return False
            try:
                if os.pwrite(self._fd, framed, end) != len(framed):
                    return False
                self._set_head(first, end + len(framed))
            except OSError:  # the disk is full
                return False
        with contextlib.suppress(BlockingIOError):  # full: it is readable all the more
            os.write(self._wake_out, b".")
        return True

    def take(self) -> list[tuple[int, bytes]] | None:
        """
        What was put in since the last time, oldest first: each with its position, for `finish`.

        A new holder first gets all that its predecessor had not finished. None if it is to ask
        again. Only for the holder.
        """
        with self._look() as may:
            if not may:
                return None
            with contextlib.suppress(BlockingIOError):
                while os.read(self._wake_in, 4096):
                    pass
            first, end = self._head()
            start = first if self._taken is None else self._taken
            data = os.pread(self._fd, end - start, start)
            self._taken = end
        records, at = [], 0
        while at < len(data):
            position = self._moved + start + at
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            records.append((position, data[at : at + length]))
            self._kept[position] = None
            at += length
        return records

    def finish(self, position: int) -> None:
        """Be done with the record at ``position``. Only for the holder."""
        if self._taken is None or position not in self._kept:
            return  # another holds it by now
        del self._kept[position]
        oldest = next(iter(self._kept), None)
        needed = self._taken if oldest is None else oldest - self._moved
        with self._look() as may:
            if not may:
                return  # the next one that is finished makes room for this one too
            first, end = self._head()
            if needed == first:
                return
            # Only into room that nothing needs, by what is written there: this process may be
            # killed in the middle of it.
            if end - needed <= first - _FIRST:
                rest = os.pread(self._fd, end - needed, needed)
                if os.pwrite(self._fd, rest, _FIRST) == len(rest):
                    self._set_head(_FIRST, _FIRST + len(rest))
                    os.ftruncate(self._fd, _FIRST + len(rest))
                    self._moved += needed - _FIRST
                    self._taken -= needed - _FIRST
                    return
            self._set_head(needed, end)

    @contextlib.contextmanager
    def _look(self) -> Iterator[bool]:
        """
        Have the file for oneself, for as long as it takes to read or write it.

        Yields False if another has it for much longer than that: it has been stopped, and this
        process must not stand still with it.
        """
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOOKING)
            except OSError:
                time.sleep(_TRY_AGAIN)
                continue
            try:
                yield True
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _LOOKING)
            return
        yield False

    def _head(self) -> tuple[int, int]:
        first, end = _HEAD.unpack(os.pread(self._fd, _HEAD.size, 0))
        return first, end

    def _set_head(self, first: int, end: int) -> None:
        # Only now is what was written before it there: a writer may be killed in the middle of it.
        os.pwrite(self._fd, _HEAD.pack(first, end), 0)

    def close(self) -> None:
        """Let go of it in this process, for good; idempotent."""
        for fd in (self._fd, self._wake_in, self._wake_out):
            if fd >= 0:
                os.close(fd)
        self._fd = self._wake_in = self._wake_out = -1
