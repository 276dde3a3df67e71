"""Probers, real LiveKit servers and certificates for the tests beside this file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from livekit_pool.local import LocalServer, find_server
from livekit_pool.upstream.probe import Prober
from tests.upstream.scripted import Certificate, make_certificate


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    """A prober as the pool makes it."""
    async with Prober() as prober:
        yield prober


@pytest.fixture
async def livekit(tmp_path: Path) -> AsyncIterator[LocalServer]:
    """A running LiveKit server."""
    async with LocalServer("red", program=find_server(), log=tmp_path / "red.log") as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A good certificate of 127.0.0.1, signed by itself."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "good")
