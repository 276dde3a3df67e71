"""
TwirpCall: one call of LiveKit's server API, and what the pool must know of it to send it on.

Services and messages are those of LiveKit's protocol repository (livekit_room.proto and its
siblings); their descriptors say which field names the room, so no list of methods is kept here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from livekit.protocol import agent_dispatch, egress, ingress, room, sip

from ...tokens import Claims

__all__ = ["TwirpCall"]

_PATH: Final = re.compile(r"livekit\.([A-Za-z]+)/([A-Za-z]+)", re.ASCII)

_INPUTS: Final[Mapping[str, Descriptor]] = {
    f"{service.full_name}/{method.name}": method.input_type
    for module in (agent_dispatch, egress, ingress, room, sip)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

# Their grant is roomAdmin for one room, which the server compares with the room in the body
# (server: pkg/service/auth.go, EnsureAdminPermission): so the token alone says which it is.
_ROOM_ADMIN_SERVICES: Final = frozenset({"RoomService", "AgentDispatchService"})
_ACROSS_ROOMS: Final = frozenset({"CreateRoom", "DeleteRoom", "ListRooms"})

# A server answers these well, or after 3 s with "no response from servers", for participants who
# are not there (tried with 1.13.5). The others say at once that somebody was not found.
_BLIND: Final = frozenset(
    {"ListParticipants", "MutePublishedTrack", "PerformRpc", "SendData", "UpdateSubscriptions"}
)

# They answer when somebody picked up the telephone (protocol: livekit_sip.proto).
_DIALLING: Final = frozenset({"SIP/CreateSIPParticipant", "SIP/TransferSIPParticipant"})

# What a participant's token holds, and what opens no call (protocol: auth/grants.go, VideoGrant).
_OF_PARTICIPANTS: Final = frozenset(
    {
        "roomJoin",
        "room",
        "destinationRoom",
        "canPublish",
        "canPublishSources",
        "canPublishData",
        "canSubscribe",
        "canSubscribeMetrics",
        "canUpdateOwnMetadata",
        "hidden",
        "recorder",
        "agent",
    }
)
_OTHER_GRANTS: Final = ("sip", "agent", "inference", "observability")

# CreateDispatch makes the room too (server: pkg/service/agent_dispatch_service.go).
_CREATING: Final = frozenset(
    {("RoomService", "CreateRoom"), ("AgentDispatchService", "CreateDispatch")}
)

_TIMEOUT: Final = 10.0
_DIALLING_TIMEOUT: Final = 65.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TwirpCall:
    """
    One call.

    Attributes:
        service: such as ``RoomService``.
        method: such as ``ListRooms``.
        claims: who calls; verified.
        body: the request's message, as it came.
        headers: those of the caller's that matter to a server.
        room: the room that it is about, None if it is about none.
    """

    service: str
    method: str
    claims: Claims
    body: bytes = field(repr=False)
    headers: Mapping[str, str]
    room: str | None

    @staticmethod
    def split(path: str) -> tuple[str, str] | None:
        """Service and method of a path after ``/twirp/``, None if it is not one of LiveKit's."""
        match = _PATH.fullmatch(path)
        return (match[1], match[2]) if match else None

    @classmethod
    def read(
        cls, service: str, method: str, claims: Claims, body: bytes, headers: Mapping[str, str]
    ) -> TwirpCall:
        """Find out which room it is about. A body that cannot be read is the server's to refuse."""
        of_claims = service in _ROOM_ADMIN_SERVICES and method not in _ACROSS_ROOMS
        found = (claims.room if of_claims else "") or _room(
            f"livekit.{service}/{method}", body, _is_json(headers)
        )
        return cls(
            service=service,
            method=method,
            claims=claims,
            body=body,
            headers=headers,
            room=found or None,
        )

    @property
    def may_be_allowed(self) -> bool:
        """Whether the caller's token opens anything of the server API at all."""
        granted = {name for name, value in self.claims.grants.items() if value}
        beside = any(self.claims.raw.get(name) for name in _OTHER_GRANTS)
        return beside or not granted <= _OF_PARTICIPANTS

    @property
    def path(self) -> str:
        """Where it goes on any server."""
        return f"/twirp/livekit.{self.service}/{self.method}"

    @property
    def is_json(self) -> bool:
        """Whether its messages are JSON; else they are protobuf."""
        return _is_json(self.headers)

    @property
    def creates_room(self) -> bool:
        """Whether the room need not exist before."""
        return (self.service, self.method) in _CREATING

    @property
    def lists_rooms(self) -> bool:
        """Whether it is about the rooms of all servers."""
        return (self.service, self.method) == ("RoomService", "ListRooms")

    @property
    def is_repeatable(self) -> bool:
        """Whether it changes nothing, and so may be sent again when its outcome is unknown."""
        return self.method.startswith(("List", "Get"))

    @property
    def is_blind(self) -> bool:
        """Whether its answer hides that a participant is not there."""
        return self.service == "RoomService" and self.method in _BLIND

    @property
    def dials(self) -> bool:
        """Whether its answer waits for a person."""
        return f"{self.service}/{self.method}" in _DIALLING

    @property
    def timeout(self) -> float:
        """Seconds that its answer may take: as long as LiveKit's SDKs wait."""
        return _DIALLING_TIMEOUT if self.dials else _TIMEOUT


def _is_json(headers: Mapping[str, str]) -> bool:
    content_type = headers.get("Content-Type", "")
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _room(name: str, body: bytes, is_json: bool) -> str:
    """The room that a message names, empty if it names none or cannot be read."""
    message = _INPUTS.get(name)
    if message is None:
        return ""
    fields = ("name",) if name == "livekit.RoomService/CreateRoom" else ("room", "room_name")
    wanted = next((field for field in fields if field in message.fields_by_name), None)
    if wanted is None:
        return ""
    value: object
    try:
        if is_json:
            content = json.loads(body)
            # protojson reads both spellings, and so does LiveKit.
            value = content.get(wanted) or content.get("roomName" if "_" in wanted else wanted)
        else:
            value = getattr(GetMessageClass(message).FromString(body), wanted)
    except (ValueError, RecursionError, AttributeError, DecodeError):
        return ""
    return value if isinstance(value, str) else ""
