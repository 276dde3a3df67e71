"""
PoolApi: a running pool, asked over HTTP.
"""

from __future__ import annotations

import getpass
import http.client
import json
import socket
import ssl
from typing import Any, Self
from urllib.parse import urlencode

from ..config import Settings, find_key_pair
from ..exceptions import (
    ConfigurationError,
    NoAnswer,
    NoServer,
    PoolError,
    RevisionConflict,
    RotationRefused,
    ServerNotEligible,
    StoreError,
    UnknownServer,
)
from ..servers import Origin
from ..tokens import KeyPair, Kind, pool_token

__all__ = ["PoolApi", "actor"]

#: Seconds without an answer. A connection may wait 5 s for a worker, and a rotation for its store.
_TIMEOUT = 15.0
#: Seconds that a token made for one request is valid.
_TTL = 60.0

_REFUSALS: tuple[type[RotationRefused], ...] = (
    RevisionConflict,
    NoServer,
    ServerNotEligible,
    RotationRefused,
)


class PoolApi:
    """
    The pool's own HTTP API, with an admin's token made for each request.

    One connection for each request: commands ask once or twice, and a watching one must not
    hang on a worker that is gone.
    """

    def __init__(self, origin: Origin, pair: KeyPair) -> None:
        """
        Name the pool; asks nothing yet.

        Args:
            origin: where it listens.
            pair: its own key pair.
        """
        self._origin = origin
        self._pair = pair

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """
        The pool that ``settings`` speak of, with its configured key pair or the kept one.

        Raises:
            ConfigurationError: there is no key pair.
        """
        settings = find_key_pair(settings)
        return cls(settings.origin, KeyPair(key=settings.key, secret=settings.secret))

    @property
    def url(self) -> str:
        """Where it is asked."""
        return self._origin.http_url

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """``GET path``. Raises as `post` does."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(given)}" if given else path)

    def post(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        """
        ``POST path`` with the fields of ``body`` that are not None.

        Raises:
            NoAnswer: nothing answers there, or something that is not a pool.
            ConfigurationError: the key pair is not this pool's.
            PoolError: what the pool refuses with, as the error its code names.
        """
        given = {name: value for name, value in body.items() if value is not None}
        return self._ask("POST", path, json.dumps(given).encode())

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        token = pool_token(self._pair, Kind.ADMIN, subject=actor(), ttl=_TTL)
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = self._connection()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            status, data = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"The pool at {self.url} does not answer: {_why(error)}.") from None
        finally:
            connection.close()
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or (status >= 400 and not _is_error(answer)):
            raise NoAnswer(
                f"What answers at {self.url} is not a LiveKit Pool (HTTP {status}): "
                "set LIVEKIT_POOL_URL to the pool's address."
            )
        if status >= 400:
            raise self._error(status, answer["error"])
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._origin.host, self._origin.port
        if self._origin.secure:
            return http.client.HTTPSConnection(
                host, port, timeout=_TIMEOUT, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT)

    def _error(self, status: int, error: dict[str, Any]) -> PoolError:
        code, message = str(error["code"]), str(error["message"])
        if status == 401:
            return ConfigurationError(
                f"The pool at {self.url} refuses this key pair: set LIVEKIT_POOL_KEY and "
                "LIVEKIT_POOL_SECRET to the pool's, or run this where 'livekit-pool serve' keeps "
                "its pair."
            )
        for kind in _REFUSALS:
            if code == kind.code:
                return kind(message, revision=error.get("revision"))
        if code == UnknownServer.code:
            return UnknownServer(message)
        return StoreError(message) if code.startswith("store") else PoolError(message)


def _is_error(answer: dict[str, Any]) -> bool:
    error = answer.get("error")
    return isinstance(error, dict) and {"code", "message"} <= error.keys()


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, TimeoutError):
        return f"it was silent for {_TIMEOUT:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, socket.gaierror):
        return "there is no host of that name"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return "it closed the connection"


def actor() -> str:
    """Who asks, for the history: the user, and the machine they are on."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"  # a container may run under a number that has no name
    return f"{user}@{socket.gethostname()}"
