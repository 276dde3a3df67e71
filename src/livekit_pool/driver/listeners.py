"""Listeners: who is told what, and that none of them keeps others from being told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from .. import observe

__all__ = ["Listeners"]

_News = TypeVar("_News")


class Listeners(Generic[_News]):
    """Those who want to hear one kind of news."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[_News], None]] = []

    def add(self, listener: Callable[[_News], None]) -> Callable[[], None]:
        """Call ``listener`` with all news from now on; returns what undoes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, news: _News) -> None:
        """Call all of them; what one does wrong is logged, and keeps none from being told."""
        for listener in list(self._listeners):
            try:
                listener(news)
            except Exception as error:  # the outermost frame of what others do with the news
                observe.failure(observe.TASK_FAILED, error, task="listener")
