"""Three real LiveKit servers, a pool in front of them, and a browser: each test has its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from livekit_pool.local import LocalServer, find_server
from tests.conftest import find_tool
from tests.real.browser.tab import Browser
from tests.real.pool_process import PoolProcess

NAMES = ("red", "green", "blue")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is `real`."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def livekit_program() -> Path:
    """The LiveKit server program."""
    return find_server()


@pytest.fixture
async def livekit_servers(
    tmp_path: Path, livekit_program: Path
) -> AsyncIterator[list[LocalServer]]:
    """Three running LiveKit servers that know nothing of each other: red, green and blue."""
    async with AsyncExitStack() as stack:
        servers = [
            LocalServer(name, program=livekit_program, log=tmp_path / f"{name}.log")
            for name in NAMES
        ]
        for server in servers:
            stack.push_async_callback(server.aclose)
        await asyncio.gather(*(server.start() for server in servers))
        yield servers


@pytest.fixture
async def pool(tmp_path: Path, livekit_servers: list[LocalServer]) -> AsyncIterator[PoolProcess]:
    """A pool of the three, with two workers, as `livekit-pool serve` starts it."""
    async with PoolProcess(tmp_path, livekit_servers) as pool:
        yield pool


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Chromium with livekit-client; its test is marked ``needs("chromium")``."""
    chromium = find_tool("chromium")
    assert chromium is not None
    async with Browser(chromium) as browser:
        yield browser
