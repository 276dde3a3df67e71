"""The messages that benchmarks send: real LiveKit signalling, of ordinary sizes."""

from __future__ import annotations

from typing import Final

from livekit.protocol import models, rtc

__all__ = ["ANSWER", "JOIN", "MESSAGE_BYTES", "REQUEST"]

MESSAGE_BYTES: Final = 200

# Replaced by the stand-in with the digits of the token's identity and room, which are as long:
# a gateway that keeps something for each participant is to keep as much as in earnest.
_PARTICIPANT: Final = "@" * 8
_ROOM: Final = "#" * 6


def _join() -> bytes:
    """What a LiveKit server says first: SignalResponse{join} (livekit_rtc.proto)."""
    participant = models.ParticipantInfo(
        sid=f"PA_{_PARTICIPANT}",
        identity=f"participant-{_PARTICIPANT}",
        name=f"participant-{_PARTICIPANT}",
        state=models.ParticipantInfo.JOINED,
        joined_at=1_767_225_600,
        permission=models.ParticipantPermission(
            can_subscribe=True, can_publish=True, can_publish_data=True
        ),
    )
    codecs = ("audio/opus", "video/VP8", "video/H264", "video/VP9", "video/AV1", "audio/red")
    join = rtc.JoinResponse(
        room=models.Room(
            sid=f"RM_{_ROOM}",
            name=f"room-{_ROOM}",
            empty_timeout=300,
            departure_timeout=20,
            creation_time=1_767_225_600,
            enabled_codecs=[models.Codec(mime=mime) for mime in codecs],
        ),
        participant=participant,
        server_version="1.13.5",
        server_info=models.ServerInfo(version="1.13.5", protocol=16, node_id="ND_stand_in"),
        ice_servers=[rtc.ICEServer(urls=["stun:127.0.0.1:3478"])],
        subscriber_primary=True,
        ping_interval=5,
        ping_timeout=15,
        fast_publish=True,
    )
    return rtc.SignalResponse(join=join).SerializeToString()


def _trickle(message: type[rtc.SignalRequest] | type[rtc.SignalResponse]) -> bytes:
    """An ICE candidate, the commonest message, filled up to the wanted size."""
    start = '{"candidate":"candidate:1 1 udp 2130706431 127.0.0.1 7882 typ host","sdpMid":"0","x":"'
    for filling in range(MESSAGE_BYTES):
        trickle = rtc.TrickleRequest(candidateInit=f'{start}{"x" * filling}"}}')
        text = message(trickle=trickle).SerializeToString()
        if len(text) == MESSAGE_BYTES:
            return text
    raise AssertionError("no filling gives the size")


JOIN: Final = _join()
REQUEST: Final = _trickle(rtc.SignalRequest)
ANSWER: Final = _trickle(rtc.SignalResponse)
