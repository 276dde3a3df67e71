"""
ProbeLock: lets exactly one process of a family be the one that probes.

A lock on an unlinked file that the processes inherited: nothing is left on the disk, no name can
be taken by somebody else, and the kernel passes the lock on the moment its holder dies, however
it dies.
"""

from __future__ import annotations

import fcntl
import os
import tempfile

__all__ = ["ProbeLock"]


class ProbeLock:
    """
    A lock that at most one of the processes forked after its making holds.

    It is a POSIX record lock (``fcntl(2)``, "Advisory record locking"): it belongs to a process,
    not to a file description, so a fork does not inherit it, and the kernel drops it with the
    process. (``flock`` would be shared by all the children of a fork.)
    """

    def __init__(self) -> None:
        """
        Make the lock; nobody holds it yet.

        Raises:
            OSError: the directory for temporary files cannot be written.
        """
        self._fd, path = tempfile.mkstemp(prefix="livekit-pool-probe-")
        os.unlink(path)

    def try_acquire(self) -> bool:
        """
        Take the lock if it is free; never waits.

        Returns:
            Whether this process holds it now. Stays True for a holder until it closes the lock
            or dies; cheap enough (one system call) to be asked before each round of probes.
        """
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # EACCES or EAGAIN, by system: held by another. Anything else (no locks left): who
            # cannot be sure of holding it does not hold it.
            return False
        return True

    def close(self) -> None:
        """Let go of the lock in this process, for good; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
