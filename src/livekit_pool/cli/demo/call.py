"""
The call: two participants who speak and send numbered messages, and remember what arrived when.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import math
import sys
import time
from array import array
from collections import Counter
from collections.abc import Coroutine, Iterator
from itertools import pairwise
from typing import Any

from livekit import rtc

__all__ = ["MESSAGE_SECONDS", "Participant", "longest_gap", "quiet_sdk"]

#: Seconds between two messages.
MESSAGE_SECONDS = 0.05
_RATE = 48_000
_HERTZ = 440
_LOUD = 8000
#: Quieter than this is not the tone: what a decoder makes up when no packets come fades out.
_AUDIBLE = 1000
#: Seconds after which a message counts as not sent; while it reconnects, the SDK holds it back.
_SEND_SECONDS = 5.0


class Participant:
    """
    One who joins, plays a tone, sends numbered messages, and hears the others.

    Attributes:
        identity: who.
        state: ``connected``, ``reconnecting``, ``disconnected``, or ``away`` before it joined.
        sent_at: when each message was handed to the SDK; the first message is number 1.
        got: numbers of the messages that arrived.
        messages, tones: when each message, and each piece of the other's tone, arrived.
        seen: how often the SDK reported ``reconnected`` and ``disconnected``.
    """

    def __init__(self, identity: str) -> None:
        """Prepare; connects nowhere."""
        self.identity = identity
        self.state = "away"
        self.sent_at: list[float] = []
        self.got: set[int] = set()
        self.messages: list[float] = []
        self.tones: list[float] = []
        self.seen: Counter[str] = Counter()
        self._room = rtc.Room()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: asyncio.Task[None] | None = None
        self._room.on("reconnecting", lambda: self._became("reconnecting"))
        self._room.on("reconnected", lambda: self._became("connected", "reconnected"))
        self._room.on("disconnected", lambda *_: self._became("disconnected", "disconnected"))
        self._room.on("data_received", self._on_data)
        self._room.on("track_subscribed", self._on_track)

    async def join(self, url: str, token: str) -> None:
        """Join, play the tone, and send messages. Raises `rtc.ConnectError`."""
        await self._room.connect(url, token)
        self.state = "connected"
        source = rtc.AudioSource(_RATE, 1, queue_size_ms=100)
        track = rtc.LocalAudioTrack.create_audio_track("tone", source)
        await self._room.local_participant.publish_track(
            track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        )
        self._run(self._play(source))
        self._sending = self._run(self._send())

    @property
    def others(self) -> set[str]:
        """Who else is in the room, as this one sees it."""
        return set(self._room.remote_participants)

    def receives(self, since: float) -> bool:
        """Whether both messages and the tone arrived since then."""
        return all(times and times[-1] > since for times in (self.messages, self.tones))

    async def stop_sending(self) -> None:
        """Send no more messages; what is under way may still arrive."""
        if self._sending is not None:
            self._sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sending
            self._sending = None

    async def leave(self) -> None:
        """Leave the call."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._room.disconnect()

    # -- events --

    def _became(self, state: str, event: str | None = None) -> None:
        self.state = state
        if event is not None:
            self.seen[event] += 1

    def _on_data(self, packet: rtc.DataPacket) -> None:
        # The sender is in the message: just after a move the SDK does not know whose it is.
        message = json.loads(packet.data)
        if message["from"] != self.identity:
            self.messages.append(time.monotonic())
            self.got.add(message["n"])

    def _on_track(self, track: rtc.Track, *_: object) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            self._run(self._listen(track))

    # -- what runs --

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _listen(self, track: rtc.Track) -> None:
        stream = rtc.AudioStream(track, sample_rate=_RATE, num_channels=1)
        try:
            async for event in stream:
                # The SDK goes on handing out frames when no packets come: only the tone counts.
                if max(event.frame.data, default=0) > _AUDIBLE:
                    self.tones.append(time.monotonic())
        finally:
            await stream.aclose()

    async def _play(self, source: rtc.AudioSource) -> None:
        # A tenth of a second holds whole periods of the tone, and so can be repeated.
        tone = array(
            "h",
            (round(_LOUD * math.sin(2 * math.pi * _HERTZ * n / _RATE)) for n in range(_RATE // 10)),
        )
        piece = _RATE // 100
        frames = [
            rtc.AudioFrame(tone[start : start + piece].tobytes(), _RATE, 1, piece)
            for start in range(0, len(tone), piece)
        ]
        try:
            while True:
                for frame in frames:
                    await source.capture_frame(frame)
        finally:
            await source.aclose()

    async def _send(self) -> None:
        while True:
            self.sent_at.append(time.monotonic())
            message = json.dumps({"from": self.identity, "n": len(self.sent_at)})
            # One that could not be sent is missing on the other side, and counted there.
            with contextlib.suppress(TimeoutError, rtc.participant.PublishDataError):
                async with asyncio.timeout(_SEND_SECONDS):
                    await self._room.local_participant.publish_data(message, reliable=True)
            await asyncio.sleep(MESSAGE_SECONDS)


@contextlib.contextmanager
def quiet_sdk() -> Iterator[None]:
    """Keep the SDK from writing across what the demo shows."""
    logger, hook = logging.getLogger("livekit"), sys.unraisablehook

    def ignore_double_drop(raised: Any) -> None:
        # livekit 1.2.1: after a full reconnect it may give back the handle of a republished track
        # twice. The second time does nothing but raise this, in a destructor.
        if isinstance(raised.exc_value, AssertionError) and "FfiHandle" in repr(raised.object):
            return
        hook(raised)

    logger.disabled, sys.unraisablehook = True, ignore_double_drop
    try:
        yield
    finally:
        # The objects that are left must be given back while this still holds.
        gc.collect()
        logger.disabled, sys.unraisablehook = False, hook


def longest_gap(times: list[float], since: float, until: float) -> float:
    """The longest time in seconds, between ``since`` and ``until``, in which nothing arrived."""
    within = [since, *(at for at in times if since < at < until), until]
    return max(later - earlier for earlier, later in pairwise(within))
