"""Documents, rows and a clock for the tests of stores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.document import Cause, Document, Mark, Rotation, ServerRecord
from livekit_pool.stores.base import ProcessRow

NOON = 1_800_000_000.0


class Clock:
    """The store's time, turned by hand."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += seconds


def first_document(revision: int = 1) -> Document:
    """A plain document, as a pool of two would create it."""
    return Document(
        lineage="lineage-1",
        revision=revision,
        active_server="red",
        active_since=revision,
        active_server_index=0,
        server_count=2,
        created_at=NOON,
        last_rotation=NOON,
        cause=Cause.CREATED,
        reason="created",
        actor="test",
    )


def rich_document() -> Document:
    """A document in which every field differs from its default."""
    return replace(
        first_document(),
        active_server="grün ☎",
        last_error='refused: "quota"\n',
        last_error_time=NOON + 0.125,
        window=1.5,
        paused=Mark(by="alice", since=NOON - 5, reason="maintenance"),
        servers={
            "grün ☎": ServerRecord(failures=3),
            "red": ServerRecord(
                cool_down_until=NOON + 40,
                cool_down_cause=Cause.DOWN,
                failures=2,
                drained=Mark(by="bob", since=NOON - 7, reason="old kernel"),
            ),
        },
    )


def following(document: Document, reason: str = "next") -> Document:
    """``document`` after one more change."""
    return replace(document, revision=document.revision + 1, reason=reason)


def rotation_to(document: Document) -> Rotation:
    """The rotation that led to ``document``."""
    return Rotation(
        revision=document.revision,
        from_="red",
        to=document.active_server,
        cause=Cause.MANUAL,
        reason=document.reason,
        actor="test",
        at=NOON,
        reports=2,
        window=0.5,
    )


def process_row(process: str) -> ProcessRow:
    """A row in which every field differs from its default."""
    return ProcessRow(
        process=process,
        host="host-1",
        started=NOON - 100,
        names=("red", "green"),
        fingerprint="f1",
        health={"red": {"health": "up", "at": NOON, "outcome": "ok", "detail": None}},
        sessions={"red": 3},
        coming={"red": 1},
        probing=True,
        revision=3,
        direct={"red": 2},
    )


def repairs(log: pytest.LogCaptureFixture) -> list[str]:
    """The repairs of documents that were logged, a sentence each."""
    return [
        record.__dict__["fields"]["repair"]
        for record in log.records
        if record.message == "Document repaired"
    ]
