"""A receiver of webhooks: a real HTTP server that does what a test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from livekit_pool.local import reserve_port
from tests.web.served import until


@dataclass(frozen=True, slots=True)
class Got:
    """One request that it got."""

    headers: Mapping[str, str]
    body: bytes
    status: int

    @property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Receiver:
    """
    Listens on loopback, on the same port each time.

    Attributes:
        got: all requests, in order, with what they were answered.
        answer: the status for an event, or a response.
        most_together: requests that were under way at one time, at most.
    """

    def __init__(self, port: int) -> None:
        self.got: list[Got] = []
        self.answer: Callable[[dict[str, Any]], int | web.Response] = lambda event: 200
        self.gate: asyncio.Event | None = None
        self.port = port
        self.together = self.most_together = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?secret=of-the-url"

    @property
    def taken(self) -> list[dict[str, Any]]:
        """The events that it answered well, in order."""
        return [got.event for got in self.got if got.status < 300]

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [event["id"] for event in self.taken]

    async def has(self, number: int) -> None:
        """Wait until it has taken that many, and see that there are no more."""
        await until(lambda: len(self.taken) >= number)
        assert len(self.taken) == number, self.ids

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._post)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _post(self, request: web.Request) -> web.Response:
        self.together += 1
        self.most_together = max(self.together, self.most_together)
        try:
            body = await request.read()
            if self.gate is not None:
                await self.gate.wait()
            answer = self.answer(json.loads(body))
            if isinstance(answer, int):
                answer = web.Response(status=answer)
            self.got.append(Got(dict(request.headers), body, answer.status))
            return answer
        finally:
            self.together -= 1


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    port, held = reserve_port()
    receiver = Receiver(port)
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()
        held.close()
