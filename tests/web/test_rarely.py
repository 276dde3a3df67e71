"""Log lines at a bounded rate."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from livekit_pool.web.rarely import PERIOD, Rarely
from tests.turned_clock import run


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of each line, and forget them."""
    found = [vars(record)["fields"] for record in caplog.records]
    caplog.clear()
    return found


def test_the_first_is_told_at_once_and_the_others_as_one(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        rarely = Rarely()
        for _ in range(1000):
            rarely.event("Refused", why="old")
        rarely.event("Refused", why="new", times=3)
        assert lines(caplog) == [{"why": "old", "count": 1}, {"why": "new", "count": 3}]
        await asyncio.sleep(PERIOD - 1)
        assert lines(caplog) == []
        await asyncio.sleep(2)
        assert lines(caplog) == [{"why": "old", "count": 999}]
        rarely.event("Refused", why="old")
        rarely.event("Refused", why="new")
        assert lines(caplog) == [{"why": "new", "count": 1}]
        rarely.close()
        assert lines(caplog) == [{"why": "old", "count": 1}]
        rarely.event("Refused", why="old")
        assert lines(caplog) == [{"why": "old", "count": 1}]
        rarely.close()

    with caplog.at_level(logging.INFO, "livekit_pool"):
        run(main())
