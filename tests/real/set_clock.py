"""A machine's clock that a test can set, for all processes of one pool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["SetClock"]

# Python runs it first, in each process; whoever asks for the time of day gets what it says. It is
# not done below Python: with libfaketime 0.9.10 a worker took 1 to 7 s of processor time for what
# takes half a second, and its loop stood still for seconds.
_SITE = """
import time

def _turned(path={path!r}, right=time.time):
    with open(path) as file:
        return right() + float(file.read())

time.time = _turned
"""


class SetClock:
    """
    The time of day of every process that runs with `settings`, until it is set again.

    The monotonic clock runs on, as it does where somebody sets a machine's clock.

    Attributes:
        settings: the environment variables with which such a process must be started.
    """

    def __init__(self, folder: Path) -> None:
        """Right at first; ``folder`` is where the time is kept, and must be this pool's alone."""
        self._file = folder / "clock"
        (folder / "sitecustomize.py").write_text(_SITE.format(path=str(self._file)))
        self.settings: Mapping[str, str] = {"PYTHONPATH": str(folder)}
        self.set(0.0)

    def set(self, seconds: float) -> None:
        """Have it wrong by ``seconds`` from now on, slow where that is negative."""
        # A process that reads while it is written must not see half of it.
        written = self._file.with_suffix(".new")
        written.write_text(str(seconds))
        written.replace(self._file)
