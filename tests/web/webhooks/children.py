"""Forked processes, as workers are."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A forked process that does ``work`` and then waits to be killed."""
    done_in, done_out = os.pipe()
    with warnings.catch_warnings():
        # From 3.12 on, if there are threads: but the child takes no lock that one may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(done_out, b".")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(done_out)
    try:
        assert os.read(done_in, 1) == b".", "the child failed"
        yield pid
    finally:
        kill(pid)
        os.close(done_in)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
