"""
What the commands share that change something by a person's word.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from ..exceptions import PoolError, RevisionConflict
from .output import is_terminal
from .status import status_table

__all__ = ["ask", "moved_on", "reason_option"]

reason_option = click.option(
    "--reason", required=True, help="Why, in one line: for the log and for who looks at the pool."
)


def ask(question: str, status: dict[str, Any]) -> None:
    """
    Show ``status`` and ask ``question``, if there is somebody to ask.

    Raises:
        PoolError: the answer is no.
    """
    if not (is_terminal() and sys.stdin.isatty()):
        return
    status_table(status).show()
    if not click.confirm(question):
        raise PoolError("Nothing was done.")


def moved_on(error: RevisionConflict, revision: int) -> PoolError:
    """What ``error`` means for who decided at ``revision``."""
    return PoolError(
        f"The document was changed meanwhile, from revision {revision} to {error.revision}: "
        "look at 'livekit-pool status', and decide again."
    )
