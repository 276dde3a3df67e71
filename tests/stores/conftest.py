"""Fixtures of the tests of stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .backends import (
    BACKENDS,
    PLACING_BACKENDS,
    SHARED_BACKENDS,
    Backend,
    SharedBackend,
    parameters,
)
from .values import Clock


@pytest.fixture
def clock() -> Clock:
    """The store's time in this test."""
    return Clock()


@pytest.fixture(params=parameters(BACKENDS))
async def backend(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[Backend]:
    """Each kind of store in turn, empty."""
    backend = BACKENDS[request.param](tmp_path, clock)
    yield backend
    await backend.aclose()


@pytest.fixture(params=parameters(SHARED_BACKENDS))
async def shared_backend(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[SharedBackend]:
    """Each kind of store that several processes can share, empty."""
    backend = SHARED_BACKENDS[request.param](tmp_path, clock)
    yield backend
    await backend.aclose()


@pytest.fixture(params=parameters(PLACING_BACKENDS))
async def placing_backend(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[Backend]:
    """Each kind of store whose users share placements, empty."""
    backend = PLACING_BACKENDS[request.param](tmp_path, clock)
    yield backend
    await backend.aclose()
