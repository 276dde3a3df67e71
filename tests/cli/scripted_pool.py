"""A pool that answers what a test says: a real HTTP server on loopback."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from livekit_pool.tokens import KeyPair, Kind, verify

PAIR = KeyPair(key="poolkey", secret="p" * 40)


def server(name: str, **fields: Any) -> dict[str, Any]:
    """One server of ``GET /pool/status``, up and on standby unless ``fields`` say otherwise."""
    return {
        "name": name,
        "url": f"wss://{name}.example.com",
        "role": "standby",
        "health": "up",
        "cool_down_until": None,
        "cause": None,
        "drained": None,
        "rooms": 0,
        "participants": 0,
        "minutes_used": 0.0,
        "minutes_left": None,
        "minutes_budget": None,
        "minutes_reset": None,
        "burn_rate": 0.0,
        "runs_out": None,
        "last_probe": None,
        **fields,
    }


def process(name: str, *servers: str, **fields: Any) -> dict[str, Any]:
    """A process of ``GET /pool/status`` with those servers, on machine0 unless told otherwise."""
    return {
        "process": name,
        "host": "machine0",
        "started": "2026-11-01T10:00:00Z",
        "last_seen": "2026-11-01T10:05:00Z",
        "servers": list(servers),
        "fingerprint": "0" * 32,
        "same_list": True,
        "probing": False,
        "revision": 7,
        "participants": 0,
        **fields,
    }


def status(*servers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """
    An answer of ``GET /pool/status``: of red (active), green and blue by default.

    Two processes have all of the servers.
    """
    shown = list(servers) or [
        server("red", role="active", rooms=3, participants=12),
        server("green"),
        server("blue"),
    ]
    names = [one["name"] for one in shown]
    return {
        "revision": 7,
        "active": "red",
        "provisional": None,
        "paused": None,
        "store": {"url": "sqlite:///livekit-pool.db", "ok": True, "detail": None},
        "lists_differ": False,
        "processes": [process("1" * 16, *names, probing=True), process("2" * 16, *names)],
        "servers": shown,
        **fields,
    }


class ScriptedPool:
    """
    It, as a context manager that serves.

    Attributes:
        answers: (method, path without query) -> (HTTP status, JSON, or bytes as they are).
        first: the same, with lists of what is answered before that, once each.
        asked: method, path with query and body of each request that showed an admin's token.
        refused: how many requests did not.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {
            ("GET", "/pool/status"): (200, status())
        }
        self.first: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.actors: list[str] = []
        self.refused = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which the command finds it."""
        return {
            "LIVEKIT_POOL_URL": f"ws://127.0.0.1:{self._server.server_port}",
            "LIVEKIT_POOL_KEY": PAIR.key,
            "LIVEKIT_POOL_SECRET": PAIR.secret,
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        pool = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Log nothing."""

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: Any) -> None:
                claims = verify(self.headers["Authorization"].removeprefix("Bearer "), PAIR)
                if claims.pool is not Kind.ADMIN:
                    pool.refused += 1
                pool.actors.append(claims.identity)
                pool.asked.append((self.command, self.path, body))
                route = self.command, self.path.partition("?")[0]
                first = pool.first.get(route)
                code, answer = first.pop(0) if first else pool.answers[route]
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler
