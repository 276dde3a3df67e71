"""Counts what Firestore would charge for: https://cloud.google.com/firestore/pricing."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.cloud.firestore_v1 import types
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient

__all__ = ["Meter"]


class Meter:
    """
    Looks at the real calls of all stores of this process.

    Attributes:
        counted: ``writes``, ``deletes``, and ``reads``: a document that is read, sent to a
            listener, or asked for and not there; a query that finds nothing counts as one.
        calls: the calls, by name.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counted: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        for name, count in (
            ("commit", self._commit),
            ("batch_get_documents", self._read),
            ("run_query", self._query),
            ("listen", self._listen),
        ):
            self._look_at(monkeypatch, name, count)

    def reset(self) -> None:
        """Begin anew."""
        self.counted.clear()
        self.calls.clear()

    def called(self, name: str, times: int) -> bool:
        """Whether ``name`` was called so often since."""
        return self.calls[name] >= times

    def _look_at(self, monkeypatch: pytest.MonkeyPatch, name: str, count: Any) -> None:
        original = getattr(FirestoreAsyncClient, name)

        async def call(client: Any, request: Any, **settings: Any) -> Any:
            self.calls[name] += 1
            answer = await original(client, request, **settings)
            return count(request, answer)

        # Not a coroutine function in the original: it returns what is to be awaited.
        monkeypatch.setattr(FirestoreAsyncClient, name, call)

    def _commit(self, request: types.CommitRequest, answer: Any) -> Any:
        for write in request.writes:
            self.counted["deletes" if "delete" in write else "writes"] += 1
        return answer

    def _read(self, request: types.BatchGetDocumentsRequest, answer: Any) -> Any:
        self.counted["reads"] += len(request.documents)
        return answer

    async def _query(self, request: Any, answers: Any) -> AsyncIterator[Any]:
        found = 0
        async for answer in answers:
            found += "document" in answer
            yield answer
        self.counted["reads"] += max(1, found)

    def _listen(self, requests: Any, stream: Any) -> Any:
        return _Stream(stream, self.counted)


class _Stream:
    """A stream of a listener, counted."""

    def __init__(self, stream: Any, counted: Counter[str]) -> None:
        self._stream = stream
        self._counted = counted

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for response in self._stream:
            if "document_change" in response or "document_delete" in response:
                self._counted["reads"] += 1
            yield response

    def cancel(self) -> None:
        self._stream.cancel()
