"""Participants in headless Chromium, with livekit-client, driven through Playwright."""

from __future__ import annotations

import math
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from playwright.async_api import Browser as Chromium
from playwright.async_api import ConsoleMessage, Page, async_playwright

from tests.real.arrivals import Arrivals
from tests.real.call import Event
from tests.real.until import until

HERE = Path(__file__).parent
CLIENT = HERE.parent / "node/node_modules/livekit-client/dist/livekit-client.umd.js"
# Chromium takes an intact microphone from the first two; the rest keeps it quiet and quick, and
# all its traffic on this machine.
FLAGS = (
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--allow-loopback-in-peer-connection",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """
    A Chromium, and a server on loopback that gives it the page.

    Usable only as an asynchronous context manager.
    """

    def __init__(self, chromium: Path) -> None:
        """Prepare a browser that runs ``chromium``; starts nothing."""
        self._program = chromium
        self._stack = AsyncExitStack()
        self._chromium: Chromium | None = None
        self._page_url = ""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._page_url = await _serve_page(stack)
            playwright = await stack.enter_async_context(async_playwright())
            self._chromium = await playwright.chromium.launch(
                executable_path=self._program, args=[*FLAGS, "--headless=new"]
            )
            stack.push_async_callback(self._chromium.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def open_tab(self) -> Tab:
        """A new page, in a profile of its own, that has not joined anything."""
        assert self._chromium is not None
        context = await self._chromium.new_context(permissions=["microphone"])
        page = await context.new_page()
        tab = Tab(page)
        await page.goto(self._page_url)
        await tab.look()
        return tab


class Tab:
    """
    One participant in a page; the same words as `tests.real.call.Participant` has.

    Its record is what the page knew at the last `look`, with times of this process's monotonic
    clock.

    Attributes:
        identity: its identity in the room, empty until it joins.
        events: what it saw, in order.
        data: what it got from each sender.
        audio: when packets of each sender's audio had come, looked at each 100 ms, so that a gap
            is reported up to 100 ms too long.
        seen: the identities of the others in the room.
        state: livekit-client's ConnectionState.
        sent: number of the last message it tried to send. It sends none while it reconnects.
        console: what the page and the SDK wrote to the console.
    """

    def __init__(self, page: Page) -> None:
        """Wrap a page that shows page.html."""
        self.identity = ""
        self.events: list[Event] = []
        self.data: dict[str, Arrivals] = {}
        self.audio: dict[str, Arrivals] = {}
        self.seen: set[str] = set()
        self.state = ""
        self.sent = 0
        self.console: list[str] = []
        self._page = page
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.console.append(f"uncaught: {error.message}"))

    async def join(self, url: str, token: str, *, identity: str, audio: bool = False) -> None:
        """
        Connect, and publish Chromium's fake microphone if ``audio``.

        Raises:
            playwright.async_api.Error: livekit-client could not connect.
        """
        self.identity = identity
        await self._page.evaluate(
            "([url, token, options]) => participant.join(url, token, options)",
            [url, token, {"audio": audio}],
        )
        await self.look()

    async def fails_to_join(self, url: str, token: str) -> dict[str, Any]:
        """
        Try to connect, for 2 s; what a page reports of livekit-client's error.

        ``error`` and ``code`` are as docs/http-api.md says, ``reasonName`` as the error has it.

        Raises:
            playwright.async_api.Error: it could connect.
        """
        return dict(
            await self._page.evaluate(
                "([url, token]) => participant.failsToJoin(url, token)", [url, token]
            )
        )

    async def reports(self, pool: str, token: str, told: dict[str, Any]) -> dict[str, Any]:
        """Send a report to the pool at the ``http://`` URL; what it answers."""
        return dict(
            await self._page.evaluate(
                "([pool, token, told]) => participant.reports(pool, token, told)",
                [pool, token, told],
            )
        )

    async def start_sending(self) -> None:
        """Send numbered messages from now on, one each 50 ms."""
        await self._page.evaluate("participant.startSending()")

    async def stop_sending(self) -> None:
        """Send no more; messages under way may still arrive."""
        await self._page.evaluate("participant.stopSending()")
        await self.look()

    async def leave(self) -> None:
        """Leave the room and close the page."""
        await self._page.evaluate("participant.leave()")
        await self.look()
        await self._page.context.close()

    async def look(self) -> Self:
        """Fetch the page's record."""
        asked = time.monotonic()
        report = await self._page.evaluate("participant.report()")
        # The page's clock against ours, taken in the middle of the question and its answer.
        start = (asked + time.monotonic()) / 2 - report["now"] / 1000
        self.state = report["state"]
        self.seen = set(report["seen"])
        self.sent = report["sent"]
        self.events = [
            Event(at=start + event["at"] / 1000, name=event["name"], detail=event["detail"])
            for event in report["events"]
        ]
        self.data = {
            sender: Arrivals([start + at / 1000 for _, at in came], [n for n, _ in came])
            for sender, came in report["data"].items()
        }
        self.audio = {
            sender: Arrivals([start + at / 1000 for at in times])
            for sender, times in report["audio"].items()
        }
        return self

    def count(self, name: str, *, since: float = -math.inf) -> int:
        """How many events of that name it had seen since then, at the last look."""
        return sum(event.name == name and event.at >= since for event in self.events)

    async def meets(self, *others: str, seconds: float = 10) -> None:
        """Wait until it is connected and sees exactly the ``others`` in its room."""

        async def met() -> bool:
            await self.look()
            return self.state == "connected" and self.seen == set(others)

        await until(
            met,
            seconds=seconds,
            what=lambda: (
                f"{self.identity} meets {sorted(others)}; it sees {sorted(self.seen)}\n"
                f"{self.history()}"
            ),
        )

    async def reconnects(self, *, since: float, seconds: float = 10) -> None:
        """Wait until it is connected and has reconnected since that time, by resume or anew."""

        async def back() -> bool:
            await self.look()
            return self.state == "connected" and self.count("reconnected", since=since) > 0

        await until(
            back,
            seconds=seconds,
            what=lambda: f"{self.identity} reconnects\n{self.history()}",
        )

    async def hears(self, other: str, *, seconds: float = 10) -> None:
        """Wait until a packet of the other's audio arrives, later than this call."""
        begun = time.monotonic()

        async def heard() -> bool:
            await self.look()
            return max(self.audio.get(other, Arrivals()).times, default=0.0) > begun

        await until(
            heard, seconds=seconds, what=lambda: f"{self.identity} hears {other}\n{self.history()}"
        )

    async def gets(self, other: str, *, seconds: float = 10) -> None:
        """Wait until a message of the other's arrives, later than this call."""
        begun = time.monotonic()

        async def got() -> bool:
            await self.look()
            return max(self.data.get(other, Arrivals()).times, default=0.0) > begun

        await until(
            got,
            seconds=seconds,
            what=lambda: f"{self.identity} gets messages of {other}\n{self.history()}",
        )

    def history(self) -> str:
        """Its events and the console as lines, for the message of a failed test."""
        start = self.events[0].at if self.events else 0.0
        lines = [
            f"{event.at - start:8.3f} {self.identity} {event.name} {event.detail}"
            for event in self.events
        ]
        return "\n".join(lines + self.console)

    def _on_console(self, message: ConsoleMessage) -> None:
        self.console.append(f"{message.type}: {message.text}")


async def _serve_page(stack: AsyncExitStack) -> str:
    """Serve the page and livekit-client on loopback until the stack unwinds; the page's URL."""
    files = {"/": HERE / "page.html", "/page.js": HERE / "page.js", "/livekit-client.js": CLIENT}

    async def give(request: web.Request) -> web.FileResponse:
        return web.FileResponse(files[request.path])

    async def nothing(request: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()
    app.add_routes([web.get(path, give) for path in files])
    # Else its 404 would be an error on the console of every page.
    app.add_routes([web.get("/favicon.ico", nothing)])
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}/"
