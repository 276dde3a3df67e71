"""
The spool: brings the events that the processes of a machine are sent to one of them.

LiveKit sends a room's events one after another, over whichever connection is free, so that each
may reach another worker. One worker, the holder, takes them all and passes them on: only so does a
room's order last while a receiver is away, and an event that comes twice is noticed.

It is an unlinked file that the processes inherited, with two record locks (``fcntl(2)``), which
belong to processes: one for each look into the file, one that the holder keeps. Nothing is left on
the disk, nobody else can reach it, what was put in outlives the worker that put it, and the kernel
frees the holder's place the moment it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from typing import Final

__all__ = ["Spool"]

LARGEST: Final = 32 * 2**20
"""Bytes that it holds at most: only while nobody holds it does anything stay in it."""

_FIRST: Final = 8  # where the first record begins: before it stands where the next one does
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
        """Be the holder no more."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _HOLDING)

    def put(self, record: bytes) -> bool:
        """Put ``record`` in behind all others; False if that cannot be done now."""
        framed = _LENGTH.pack(len(record)) + record
        with self._look() as may:
            if not may:
                return False
            end = self._end()
            if end + len(framed) > LARGEST:
                return False
            try:
                if os.pwrite(self._fd, framed, end) != len(framed):
                    return False
                self._set_end(end + len(framed))
            except OSError:  # the disk is full
                return False
        with contextlib.suppress(BlockingIOError):  # full: it is readable all the more
            os.write(self._wake_out, b".")
        return True

    def take(self) -> list[bytes] | None:
        """Take all records out, oldest first; None if they must wait. Only for the holder."""
        with self._look() as may:
            if not may:
                return None
            with contextlib.suppress(BlockingIOError):
                while os.read(self._wake_in, 4096):
                    pass
            data = os.pread(self._fd, self._end() - _FIRST, _FIRST)
            self._set_end(_FIRST)
            os.ftruncate(self._fd, _FIRST)
        records, at = [], 0
        while at < len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            records.append(data[at : at + length])
            at += length
        return records

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

    def _end(self) -> int:
        """Where the next record begins."""
        return int.from_bytes(os.pread(self._fd, _FIRST, 0)) or _FIRST

    def _set_end(self, end: int) -> None:
        # Only now is what was written before it there: a writer may be killed in the middle of it.
        os.pwrite(self._fd, end.to_bytes(_FIRST), 0)

    def close(self) -> None:
        """Let go of it in this process, for good; idempotent."""
        for fd in (self._fd, self._wake_in, self._wake_out):
            if fd >= 0:
                os.close(fd)
        self._fd = self._wake_in = self._wake_out = -1
