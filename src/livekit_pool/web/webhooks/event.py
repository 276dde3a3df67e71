"""
What a LiveKit server posts: a ``WebhookEvent`` (protocol: livekit_webhook.proto) as JSON.

Zero values are left out and 64-bit numbers are texts, as protojson writes them. Nothing that this
version does not know is refused or lost: a newer server may send more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["KNOWN_KINDS", "Event", "NotAnEvent", "parsed"]

KNOWN_KINDS: Final = frozenset(
    {
        "room_started",
        "room_finished",
        "participant_joined",
        "participant_left",
        "participant_connection_aborted",
        "track_published",
        "track_unpublished",
        "egress_started",
        "egress_updated",
        "egress_ended",
        "ingress_started",
        "ingress_ended",
    }
)
"""The kinds of event of LiveKit 1.13.5 (protocol: webhook/consts.go)."""


class NotAnEvent(Exception):
    """A body that is no event; the message is a sentence, and quotes nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    One event.

    Attributes:
        data: all of it, as it was parsed; not to be changed, nor logged.
        kind: what happened, such as ``participant_joined``.
        id: unique, the same when it is sent again; empty from servers that give none.
        created_at: seconds since the epoch, by the server's clock; 0 if it does not say.
        room, room_sid: name of the room it is about, and its session's id; may be empty.
        participant_sid: who it is about, empty if nobody.
        joined_ms: milliseconds since the epoch when that participant joined; 0 if unsaid.
        participant_kind: ``STANDARD``, ``AGENT``, ``EGRESS``, ...
    """

    data: Mapping[str, Any] = field(repr=False)
    kind: str
    id: str = ""
    created_at: int = 0
    room: str = field(default="", repr=False)
    room_sid: str = ""
    participant_sid: str = ""
    joined_ms: int = 0
    participant_kind: str = "STANDARD"

    @property
    def sequence(self) -> str:
        """What it must stay in order with: its room, else its egress or ingress, else nothing."""
        if self.room:
            return f"room {self.room}"
        for name, key in (("egressInfo", "egressId"), ("ingressInfo", "ingressId")):
            if identity := _text(_part(self.data, name), key):
                return f"{name} {identity}"
        return ""

    def passed_on(self, *, server: str | None, revision: int) -> bytes:
        """The event as JSON, with the name of its server and the document's revision added."""
        whole = {**self.data, "server": server, "revision": revision}
        try:
            return _ENCODER.encode(whole).encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
            return json.dumps(whole, separators=(",", ":")).encode()


def parsed(body: bytes) -> Event:
    """
    Read an event.

    Raises:
        NotAnEvent: it is none.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is the former
        raise NotAnEvent("The body is not JSON.") from None
    if not isinstance(data, dict):
        raise NotAnEvent("The body must be a JSON object: LiveKit's WebhookEvent.")
    kind = _text(data, "event")
    if not kind:
        raise NotAnEvent("event is missing: it says what happened.")
    room, participant = _part(data, "room"), _part(data, "participant")
    name = _text(room, "name")
    for other in ("egressInfo", "ingressInfo"):
        name = name or _text(_part(data, other), "roomName")
    return Event(
        data=data,
        kind=kind,
        id=_text(data, "id"),
        created_at=_int64(data, "createdAt"),
        room=name,
        room_sid=_text(room, "sid"),
        participant_sid=_text(participant, "sid"),
        joined_ms=_int64(participant, "joinedAtMs") or _int64(participant, "joinedAt") * 1000,
        participant_kind=_text(participant, "kind") or "STANDARD",
    )


# Made once: `json.dumps` makes a new one for each call with options.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def _part(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _int64(data: Mapping[str, Any], name: str) -> int:
    """A 64-bit number of protojson: a text, or a number; 0 if it is neither."""
    value = data.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdecimal():
        number = int(value)
    else:
        return 0
    return number if 0 <= number < 2**63 else 0
