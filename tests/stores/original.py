"""
Others than a pool at its Firestore document: a person, and a client of the original system.

Both use Google's plain client, in threads, and know nothing of this package.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

import pytest
from google.cloud import firestore

__all__ = ["Console", "OriginalClient"]


class Console:
    """
    A person who looks at the document and edits it, in a browser say.

    Usable as an asynchronous context manager.
    """

    def __init__(self, emulator: str, project: str, path: str = "system/livekitPool") -> None:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("FIRESTORE_EMULATOR_HOST", emulator)
            self._client = firestore.Client(project=project)
        self.document = self._client.document(path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._client.close)

    async def fields(self) -> dict[str, Any]:
        """What is in the document, in Google's types; empty if there is none."""
        snapshot = await asyncio.to_thread(self.document.get)
        return snapshot.to_dict() or {}

    async def edit(self, **fields: Any) -> None:
        """Change some fields."""
        await asyncio.to_thread(self.document.update, fields)

    async def remove(self, *names: str) -> None:
        """Take fields out."""
        await self.edit(**dict.fromkeys(names, firestore.DELETE_FIELD))

    async def write(self, fields: Mapping[str, Any]) -> None:
        """Write the whole document, whatever is there."""
        await asyncio.to_thread(self.document.set, dict(fields))

    async def delete(self) -> None:
        """Delete the document; what is below it stays."""
        await asyncio.to_thread(self.document.delete)


class OriginalClient(Console):
    """
    A client of the original system, with servers at positions from 0.

    It goes by `activeServerIndex`, follows it in snapshots, makes the document if there is none,
    and rotates by a write of index, time and error over whatever is there.

    Attributes:
        index: the position it is at; None before the first snapshot.
        seen: all positions that snapshots have shown it, in turn.
    """

    def __init__(self, emulator: str, project: str, count: int) -> None:
        super().__init__(emulator, project)
        self.index: int | None = None
        self.seen: list[int] = []
        self._count = count
        self._watch: Any = None
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        self._watch = await asyncio.to_thread(self.document.on_snapshot, self._on_snapshot)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._watch.unsubscribe)
        await asyncio.to_thread(self._watch.close)
        await super().__aexit__()

    def is_at(self, index: int) -> Callable[[], bool]:
        """Whether it has followed to that position."""

        def there() -> bool:
            if not self._watch.is_active:
                # Google's Python client gives a stream up for good where its others begin anew.
                self._watch = self.document.on_snapshot(self._on_snapshot)
            return self.index == index

        return there

    async def make(self) -> None:
        """Make the document as the original does on its first run."""
        await self.write(
            {
                "activeServerIndex": 0,
                "serverCount": self._count,
                "lastRotation": firestore.SERVER_TIMESTAMP,
                "createdAt": firestore.SERVER_TIMESTAMP,
            }
        )

    async def rotate(self, to: int, error: str) -> None:
        """Write that the server at another position is active."""
        await self.edit(
            activeServerIndex=to,
            lastRotation=firestore.SERVER_TIMESTAMP,
            lastError=error,
            lastErrorTime=firestore.SERVER_TIMESTAMP,
        )

    def _on_snapshot(self, snapshots: Any, changes: Any, moment: Any) -> None:
        for snapshot in snapshots:
            if snapshot.exists:
                index = snapshot.to_dict()["activeServerIndex"]
                # What it does with anything else is to write 0.
                assert type(index) is int
                assert 0 <= index < self._count
                with self._lock:
                    self.index = index
                    self.seen.append(index)
