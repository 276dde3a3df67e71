"""
Access: who may call what under ``/pool``.

A caller shows a token signed with the pool's key, as ``Authorization: Bearer``. Its ``pool`` claim
says what it opens (`tokens.Kind`); a participant's token, which has none, opens only the events
and the reports.
Tokens are never logged: our server writes no access log (`http.HttpProtocol`), because on
LiveKit's paths and for ``/pool/events`` they travel in the query.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from fastapi import Query, Security
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..exceptions import ConfigurationError, TokenError
from ..tokens import Claims, KeyPair, Kind, verify

if TYPE_CHECKING:
    from ..config import Settings

__all__ = ["Access", "actor", "is_loopback"]

_bearer: Final = HTTPBearer(
    auto_error=False,
    scheme_name="pool token",
    description="A token signed with the pool's key: `livekit-pool token --admin` makes one.",
)
# Only for the OpenAPI document; `_shown` reads the header, and tells what is wrong with it.
_documented: Final = Security(_bearer)


class Access:
    """
    Checks callers against the pool's key pair; its methods are dependencies of routes.

    Each raises `TokenError` (401) for a token that is missing or refused, and answers 403 for a
    good one that does not open this.

    Raises:
        ConfigurationError: ``settings`` have no key pair.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.key or not settings.secret:  # an empty secret is one that everybody has
            raise ConfigurationError(
                "The pool has no key pair: set LIVEKIT_POOL_KEY and LIVEKIT_POOL_SECRET."
            )
        self._pair = KeyPair(key=settings.key, secret=settings.secret)
        self._loopback = is_loopback(settings.host)

    async def anybody(
        self,
        request: Request,
        access_token: Annotated[
            str | None,
            Query(description="The token, where no header can be sent, as with EventSource."),
        ] = None,
        _: object = _documented,
    ) -> Claims:
        """Any valid token, also a participant's, also in the query."""
        return verify(_shown(request, access_token), self._pair)

    async def bearer(self, request: Request, _: object = _documented) -> Claims:
        """Any valid token, also a participant's."""
        return verify(_shown(request), self._pair)

    async def viewer(self, request: Request, _: object = _documented) -> Claims:
        """A viewer or an admin."""
        return self._holder(request, Kind.VIEWER, Kind.ADMIN)

    async def admin(self, request: Request, _: object = _documented) -> Claims:
        """An admin."""
        return self._holder(request, Kind.ADMIN)

    async def token_maker(self, request: Request, _: object = _documented) -> None:
        """Who may ask for participants' tokens: anybody on this machine, else by token."""
        if not self.is_open_to(request):
            self._holder(request, Kind.TOKEN, Kind.ADMIN)

    def is_open_to(self, request: Request) -> bool:
        """
        Whether ``request`` comes from this machine, and from nobody behind it.

        Bound to a loopback address is not enough: a reverse proxy or a tunnel on this machine
        makes everybody's requests come from it (it adds Forwarded headers, or keeps the public
        Host), and so does a page of any web site in a browser here (its Origin tells).
        """
        headers = request.headers
        return (
            self._loopback
            and request.client is not None
            and is_loopback(request.client.host)
            and not any(n == "forwarded" or n.startswith("x-forwarded") for n in headers)
            and all(is_loopback(_host_of(origin)) for origin in headers.getlist("origin"))
            and all(is_loopback(_host_of(f"//{host}")) for host in headers.getlist("host"))
        )

    def _holder(self, request: Request, *kinds: Kind) -> Claims:
        claims = verify(_shown(request), self._pair)
        if claims.pool not in kinds:
            names = " or ".join(f'"pool": "{kind}"' for kind in kinds)
            raise HTTPException(403, f"This needs a token with the claim {names}.")
        return claims


def actor(claims: Claims) -> str:
    """The name under which the history keeps what the holder of ``claims`` did."""
    return claims.identity or str(claims.pool)


def is_loopback(host: str) -> bool:
    """Whether ``host``, an address (brackets allowed) or a name, can only be this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _shown(request: Request, access_token: str | None = None) -> str | None:
    """
    The token that the caller shows, None without one.

    In LiveKit's order (server: pkg/service/auth.go): the header if there is one, even a wrong
    one; else the query.
    """
    header = request.headers.get("authorization")
    if header is None:
        return access_token
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise TokenError("The Authorization header is not 'Bearer' and a token.")
    return token.strip()
