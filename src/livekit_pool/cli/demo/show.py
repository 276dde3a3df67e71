"""
Show: what the demo puts before its audience, on a terminal and where there is none.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ..output import Table

__all__ = ["LinesShow", "LiveShow", "Person", "Show"]

#: identity, state, messages sent, messages got, seconds since a message and since audio arrived.
Person = tuple[str, str, int, int, float | None, float | None]

#: Lines of the story that stay in sight.
_LINES = 12


class Show(Protocol):
    """Where the story is told. Lines may be told before it is entered."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, and leave standing what was shown last."""

    def line(self, text: str) -> None:
        """Tell what happens now."""

    def update(self, status: dict[str, Any] | None, people: Sequence[Person]) -> None:
        """Show how things are; ``status`` is None while the pool does not answer."""


class LinesShow:
    """Plain lines, each with the seconds since the first."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        """``to_stderr`` leaves standard output to the result."""
        self._began = time.monotonic()
        self._to_stderr = to_stderr

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def line(self, text: str) -> None:
        """Print the line."""
        click.echo(f"{time.monotonic() - self._began:5.1f} s  {text}", err=self._to_stderr)

    def update(self, status: dict[str, Any] | None, people: Sequence[Person]) -> None:
        """Print nothing: a log has no place for what changes five times a second."""


class LiveShow:
    """A table of the servers, one of the call, and the last lines of the story, kept up to date."""

    def __init__(self) -> None:
        """Prepare; takes the terminal when entered."""
        self._began = time.monotonic()
        self._story: deque[str] = deque(maxlen=_LINES)
        self._tables: list[RenderableType] = []
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._story.clear()  # it stands above
        self._live = Live(console=Console(highlight=False), auto_refresh=False)
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def line(self, text: str) -> None:
        """Add the line below the tables; before there are any, print it."""
        told = f"{time.monotonic() - self._began:5.1f} s  {text}"
        self._story.append(told)
        if self._live is None:
            click.echo(told)
        else:
            self._draw()

    def update(self, status: dict[str, Any] | None, people: Sequence[Person]) -> None:
        """Draw the tables anew."""
        servers = status["servers"] if status else []
        self._tables = [
            Table(
                header=f"revision {status['revision']}" if status else "the pool does not answer",
                columns=("SERVER", "ROLE", "HEALTH", "ROOMS", "PARTICIPANTS"),
                rows=[
                    [
                        one["name"],
                        one["role"],
                        one["health"],
                        str(one["rooms"]),
                        str(one["participants"]),
                    ]
                    for one in servers
                ],
            ).boxed(),
            Table(
                columns=("IN THE CALL", "STATE", "SENT", "GOT", "LAST MESSAGE", "LAST AUDIO"),
                rows=[
                    [identity, state, str(sent), str(got), _ago(message), _ago(audio)]
                    for identity, state, sent, got, message, audio in people
                ],
            ).boxed(),
        ]
        self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            story = [Text(line) for line in self._story]
            self._live.update(Group(*self._tables, *story), refresh=True)


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s ago"
