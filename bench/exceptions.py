"""
What can stop a benchmark.

- ``BenchError``: it ran and went wrong
  - ``Missing``: a program it needs is not installed; its rows are left out
"""

from __future__ import annotations

__all__ = ["BenchError", "Missing"]


class BenchError(Exception):
    """A measurement that went wrong: no figure rather than a wrong one."""


class Missing(BenchError):
    """
    A program is not installed here.

    Args:
        program: its name, as a user knows it.
        install: the command that installs it.
    """

    def __init__(self, program: str, install: str) -> None:
        super().__init__(f"{program} is missing: install it with '{install}'")
        self.program = program
        self.install = install
