"""
The web application: routes, CORS, and how errors leave.

Everything of the pool's own lives under ``/pool``; every other path is LiveKit's, and the routes
for those come from the gateway. Two things of LiveKit's are here: ``/``, and CORS.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__, observe
from . import admin, docs, events, report, token_endpoint
from .access import Access
from .answers import REFUSALS, RETRY_AFTER, error_answer, handlers, refused
from .http import AT_SHUTDOWN
from .webhooks import route as webhook_route
from .webhooks.desk import Desk

if TYPE_CHECKING:
    from ..config import Settings
    from ..pool import Pool
    from .webhooks.spool import Spool

__all__ = ["LARGEST_BODY", "create_app"]

LARGEST_BODY: Final = 10 * 2**20
"""Bytes of a request's body: LiveKit's ``max_api_request_body_size``."""

# What less is enough for, so that nobody makes the pool read more: bytes, and how to say it.
_LARGEST: Final = {"/pool/report": (report.LARGEST_BODY, "64 KiB")}

_LIVEKIT_METHODS: Final = ("OPTIONS", "HEAD", "GET", "POST", "PATCH", "DELETE")


def create_app(
    pool: Pool,
    settings: Settings | None = None,
    routers: Iterable[APIRouter] = (),
    spool: Spool | None = None,
) -> FastAPI:
    """
    Make the application that serves ``pool``.

    Neither opens nor closes the pool: that is for whoever made it. Serve it with
    `http.HttpProtocol`, which limits request heads and ends the streams of events at a stop.

    Args:
        pool: an open pool.
        settings: by default the pool's.
        routers: further routes: those of LiveKit's paths.
        spool: brings the webhooks of all processes that share it to one of them.

    Raises:
        ConfigurationError: the settings have no key pair.
    """
    settings = pool.settings if settings is None else settings
    access = Access(settings)
    told = events.Events(pool)
    desk = Desk(pool, settings, spool)
    refused_reports = report.Refusals()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Callable[[], None]]]:
        desk.open()
        try:
            yield {AT_SHUTDOWN: told.close}
        finally:
            told.close()
            refused_reports.rarely.close()
            await desk.aclose()

    app = FastAPI(
        title="LiveKit Pool",
        summary="The pool's own HTTP API, beside LiveKit's.",
        version=__version__,
        openapi_url="/pool/openapi.json",
        # FastAPI's pages load scripts from a CDN, so where the pool has no way out they stay
        # blank, and where it has one they run a stranger's code beside the pool's API: see docs.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # LiveKit answers 404
        # Its spans and logs would hold URLs, and so tokens; and errors, with what is in them.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
        middleware=[Middleware(_LiveKitPaths), Middleware(_Boundary)],
        exception_handlers=handlers(),
        lifespan=lifespan,
    )
    app.include_router(_health(pool))
    app.include_router(admin.router(pool, access))
    app.include_router(events.router(told, access))
    app.include_router(report.router(pool, access, refused_reports))
    app.include_router(token_endpoint.router(pool, settings, access))
    app.include_router(webhook_route.router(desk))
    app.include_router(docs.router(app))
    for router in routers:
        app.include_router(router)
    return app


def _health(pool: Pool) -> APIRouter:
    """Whether this process is alive, and whether it can serve."""
    routes = APIRouter()

    # JS asks by HEAD whether it is online (livekit-client: RTCEngine.ts), so the answer is about
    # this process: it does not depend on any server behind it.
    @routes.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def root() -> PlainTextResponse:
        return PlainTextResponse("OK")

    @routes.get("/pool/livez", tags=["health"])
    async def livez() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @routes.get("/pool/readyz", tags=["health"], responses={503: REFUSALS[503]})
    async def readyz() -> Any:
        """This process has a document to go by, whether or not the store answers; 503 if not."""
        if pool.ready:
            return {"status": "ok"}
        return error_answer(
            503,
            "not_ready",
            "This process cannot read the pool's document: its store does not answer.",
            headers={"Retry-After": str(RETRY_AFTER)},
        )

    return routes


class _LiveKitPaths:
    """
    LiveKit's ways with URLs: CORS, and a doubled slash at the beginning.

    CORS is open, as LiveKit's is (server: pkg/service/server.go): tokens protect, not origins. It
    is open on LiveKit's paths and on what an application's page asks, the token endpoint and the
    reports, only; nobody needs the rest of the pool's API from another site's page.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = CORSMiddleware(
            app,
            allow_origins=["*"],
            allow_methods=_LIVEKIT_METHODS,
            allow_headers=["*"],
            expose_headers=["*"],
            max_age=86400,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path.startswith("//"):
            path = scope["path"] = path[1:]
            scope["raw_path"] = scope["raw_path"][1:]
        app = self._open if _is_open(path) else self._app
        await app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in ("/", "/pool/token", "/pool/report") or path.startswith(("/rtc", "/twirp/"))


class _Boundary:
    """
    What no request passes: a body that is too large, and an error that nobody caught.

    An error's text may hold anything, so neither the caller nor the log at its usual level gets
    it; that is why it does not go on to Starlette and uvicorn, which log all of it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, _limited(scope, receive), sent)
        except ClientDisconnect:
            pass
        except Exception as error:  # the outermost frame of a request
            observe.failure(observe.TASK_FAILED, error, task="request")
            if started:
                # Only by breaking off can the caller be told that this is not all.
                raise _BrokenOff from None
            answer: Response = refused(scope["path"], 500, "Something went wrong here.", "internal")
            await answer(scope, receive, send)


class _BrokenOff(Exception):
    """A response cannot be completed; the error behind it has been logged."""


def _limited(scope: Scope, receive: Receive) -> Receive:
    """``receive``, answering 413 as soon as the body is, or says that it is, too large."""
    largest, shown = _LARGEST.get(scope["path"], (LARGEST_BODY, "10 MiB"))
    size = 0
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    announced = max((int(value) for value in lengths if value.isdigit()), default=0)

    async def limited() -> Message:
        nonlocal size
        if announced > largest:
            raise HTTPException(413, f"The body is larger than {shown}.")
        message = await receive()
        size += len(message.get("body", b""))
        if size > largest:
            raise HTTPException(413, f"The body is larger than {shown}.")
        return message

    return limited
