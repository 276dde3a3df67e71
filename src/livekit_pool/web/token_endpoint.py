"""
LiveKit's standard token endpoint, at ``POST /pool/token``.

Request and response are those of ``livekit_token_source.proto`` in LiveKit's protocol repository,
in snake_case, so that every SDK's TokenSource works with it. All fields of the request are
optional; unknown ones are ignored, as LiveKit's own JSON decoding does, since a newer SDK may send
more than this version knows.
"""

import secrets
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from google.protobuf import json_format
from livekit.protocol.room import RoomConfiguration
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..exceptions import ConfigurationError
from .access import Access, is_loopback
from .answers import REFUSALS

if TYPE_CHECKING:
    from ..config import Settings
    from ..pool import Pool

__all__ = ["router"]

_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})


def _readable(config: dict[str, Any]) -> dict[str, Any]:
    """Refuse here what a LiveKit server would refuse at the join, where nobody sees why."""
    try:
        json_format.ParseDict(config, RoomConfiguration(), ignore_unknown_fields=True)
    except json_format.ParseError:
        # Its text quotes the value.
        raise ValueError("it is not LiveKit's RoomConfiguration") from None
    return config


class TokenRequest(BaseModel):
    """``TokenSourceRequest``."""

    model_config = ConfigDict(extra="ignore")

    room_name: str | None = Field(default=None, description="By default a new room.")
    participant_name: str | None = None
    participant_identity: str | None = Field(default=None, description="By default a new one.")
    participant_metadata: str | None = None
    participant_attributes: dict[str, str] | None = None
    room_config: Annotated[dict[str, Any], AfterValidator(_readable)] | None = Field(
        default=None, description="RoomConfiguration; agents to dispatch travel here."
    )


class TokenAnswer(BaseModel):
    """``TokenSourceResponse``, and where the pool is."""

    server_url: str = Field(description="What to connect to: the pool's own address.")
    participant_token: str
    room_name: str
    participant_name: str | None = None
    server: str = Field(description="Name of the active server.")
    revision: int = Field(description="Of the document.")


def router(pool: "Pool", settings: "Settings", access: Access) -> APIRouter:
    """The route of this module, for ``pool``."""
    routes = APIRouter(prefix="/pool", tags=["joining"], responses=REFUSALS)

    @routes.post(
        "/token",
        status_code=201,
        response_model_exclude_none=True,
        dependencies=[Depends(access.token_maker)],
    )
    async def token(
        request: Request, response: Response, wanted: TokenRequest | None = None
    ) -> TokenAnswer:
        """
        A participant's token, and the address to use it with.

        Open to programs on this machine where the pool listens on loopback; else it needs a token
        that carries `"pool": "token"` (or `"admin"`): an application's own server has one.
        """
        wanted = wanted or TokenRequest()
        local_url = _local_url(request, settings)
        # An empty name is none, as in protobuf.
        room = wanted.room_name or f"room-{secrets.token_hex(4)}"
        made = await pool.token(
            room=room,
            identity=wanted.participant_identity or f"participant-{secrets.token_hex(4)}",
            name=wanted.participant_name or None,
            metadata=wanted.participant_metadata or None,
            attributes=wanted.participant_attributes or None,
            room_config=wanted.room_config or None,
            url=local_url,
        )
        response.headers["Cache-Control"] = "no-store"
        return TokenAnswer(
            server_url=made.url,
            participant_token=made.token,
            room_name=room,
            participant_name=wanted.participant_name or None,
            server=made.server,
            revision=made.revision,
        )

    return routes


def _local_url(request: Request, settings: "Settings") -> str | None:
    """
    The address that this caller used, where the pool has none of its own and is only for this
    machine; None where the pool knows its address.

    Nowhere else is the Host header believed: its sender would choose where users are sent.

    Raises:
        ConfigurationError: the pool listens on every address and was not told its own.
    """
    if settings.pool_url is not None:
        return None
    if settings.host in _WILDCARDS:
        raise ConfigurationError(
            "LIVEKIT_POOL_URL is missing: set it to the address at which clients reach the pool."
        )
    try:
        address = urlsplit(f"//{request.headers.get('host', '')}")
        name, port = address.hostname or "", address.port
    except ValueError:
        return None
    if not is_loopback(settings.host) or not is_loopback(name):
        return None
    scheme = "wss" if request.url.scheme == "https" else "ws"
    host = f"[{name}]" if ":" in name else name
    return f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"
