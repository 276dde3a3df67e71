"""An HTTP client that calls an application without a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
from fastapi import FastAPI

from livekit_pool.config import Settings
from livekit_pool.web.app import create_app
from tests.web.fake_pool import SETTINGS, FakePool


def client_of(
    app: FastAPI | FakePool, *, address: str = "203.0.113.9", url: str = "https://pool.example"
) -> httpx.AsyncClient:
    """A client at ``address`` that knows the pool as ``url``."""
    if isinstance(app, FakePool):
        app = create_app(app.pool)
    transport = httpx.ASGITransport(app, client=(address, 40000))
    return httpx.AsyncClient(transport=transport, base_url=url)


def settings(**changes: Any) -> Settings:
    """Settings with the key pair of `fake_pool`, and ``changes``."""
    return replace(SETTINGS, **changes)


def error(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which must have the pool's form and a sentence."""
    detail = answer.json()["error"]
    assert detail["message"].endswith("."), detail
    return answer.status_code, detail["code"]
