"""
The few LiveKit signal messages that the gateway reads or writes (livekit_rtc.proto).

Kinds are the field numbers of the ``oneof`` in ``SignalRequest`` and ``SignalResponse``.
"""

from __future__ import annotations

from typing import Final

from livekit.protocol import models, rtc

__all__ = [
    "GOODBYE",
    "JOIN",
    "LEAVE",
    "RECONNECT",
    "REFRESH_TOKEN",
    "REQUEST_LEAVE",
    "ROOM_MOVED",
    "UPDATE",
    "leave",
    "refresh_token",
]

JOIN: Final = 1
UPDATE: Final = 5
LEAVE: Final = 8
REFRESH_TOKEN: Final = 16
RECONNECT: Final = 19
ROOM_MOVED: Final = 24

REQUEST_LEAVE: Final = 8

GOODBYE: Final = rtc.SignalRequest(
    leave=rtc.LeaveRequest(reason=models.DisconnectReason.USER_UNAVAILABLE)
).SerializeToString()
"""What the gateway says to a server for a session it moves away: the participant is gone at
once, and an agent does not close over it (other reasons arrive as CLIENT_INITIATED, which does)."""


def leave(action: rtc.LeaveRequest.Action, reason: models.DisconnectReason) -> bytes:
    """
    A ``LeaveRequest`` for a client.

    ``can_reconnect`` is set as well for Android, which honours it instead of the action.
    Reason CLIENT_INITIATED must never be sent: it keeps Swift from coming back.
    """
    return rtc.SignalResponse(
        leave=rtc.LeaveRequest(
            action=action, reason=reason, can_reconnect=action != rtc.LeaveRequest.DISCONNECT
        )
    ).SerializeToString()


def refresh_token(token: str) -> bytes:
    """A ``refresh_token`` message: the client uses ``token`` for its next join or resume."""
    return rtc.SignalResponse(refresh_token=token).SerializeToString()
