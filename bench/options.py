"""What every measurement is told."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.real.pool_process import PoolProcess

__all__ = ["Options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    How to measure.

    Attributes:
        folder: for logs, stores and programs; thrown away at the end.
        pool: makes the pool to be measured; takes what `PoolProcess` takes.
        quick: fewer and shorter rounds: to see that it works, not for figures to publish.
    """

    folder: Path
    pool: Callable[..., PoolProcess] = PoolProcess
    quick: bool = False

    def new_folder(self) -> Path:
        """Make an empty folder, so that no pool finds what another one left."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def rounds(self, usual: int, quick: int = 1) -> int:
        """How often to repeat something."""
        return quick if self.quick else usual

    def say(self, line: str) -> None:
        """Tell the user what is going on; on standard error, so that the table stands alone."""
        print(f"    {line}", file=sys.stderr, flush=True)
