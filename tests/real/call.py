"""Participants of a real call, with LiveKit's Python SDK."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import numpy as np
from livekit import api, rtc
from livekit.rtc.participant import PublishDataError
from livekit.rtc.room import EventTypes

from tests.real.arrivals import Arrivals
from tests.real.until import until

# A message each 50 ms, as the issue measures.
MESSAGE_SECONDS = 0.05
SAMPLE_RATE = 48_000
TONE_HERTZ = 440
TONE_PEAK = 10_000
# Between what the decoder makes up while no packets come, which fades out, and the tone.
AUDIBLE_PEAK = 1_000

# The SDK's events that a test may want to see, and nothing that comes many times a second.
_EVENTS: tuple[EventTypes, ...] = (
    "connected",
    "disconnected",
    "reconnecting",
    "reconnected",
    "participant_connected",
    "participant_disconnected",
    "local_track_published",
    "local_track_republished",
    "track_published",
    "track_unpublished",
    "track_subscribed",
    "track_unsubscribed",
    "track_subscription_failed",
    "token_refreshed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    Something a participant saw.

    Attributes:
        at: seconds of the monotonic clock.
        name: the SDK's name of the event, or ``send_failed``.
        detail: whose it was, or why.
    """

    at: float
    name: str
    detail: str = ""


def make_token(
    key: str, secret: str, *, room: str, identity: str, minutes: float = 10, **grants: Any
) -> str:
    """A participant's token; ``grants`` are more of `api.VideoGrants`."""
    return (
        api.AccessToken(key, secret)
        .with_identity(identity)
        .with_ttl(timedelta(minutes=minutes))
        .with_grants(api.VideoGrants(room_join=True, room=room, **grants))
        .to_jwt()
    )


class Participant:
    """
    One participant: joins, speaks, sends numbered messages, and keeps a record of all it gets.

    Usable as an asynchronous context manager that leaves at the end.

    Attributes:
        identity: its identity in the room.
        room: the SDK's room.
        events: what it saw, in order.
        data: what it got from each sender, by the identity in the message: after a move the SDK
            does not know a message's sender for some seconds.
        audio: when it heard each sender's tone. Frames that hold no tone do not count: the SDK goes
            on handing out frames when no packets come.
        sent: number of the last message it tried to send.
    """

    def __init__(self, identity: str) -> None:
        """Prepare a participant; connects nowhere."""
        self.identity = identity
        self.room = rtc.Room()
        self.events: list[Event] = []
        self.data: dict[str, Arrivals] = defaultdict(Arrivals)
        self.audio: dict[str, Arrivals] = defaultdict(Arrivals)
        self.sent = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: asyncio.Task[None] | None = None
        for name in _EVENTS:
            self.room.on(name, self._recorder(name))
        self.room.on("data_received", self._on_data)
        self.room.on("track_subscribed", self._on_track)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.leave()

    # ---- what it does ----

    async def join(self, url: str, token: str, *, audio: bool = False, hear: bool = True) -> None:
        """
        Connect, and publish a tone if ``audio``.

        Args:
            url: of a LiveKit server or of the pool.
            token: an access token.
            audio: whether to publish a microphone that plays a tone.
            hear: whether to subscribe to what others publish.

        Raises:
            rtc.ConnectError: it could not connect.
        """
        await self.room.connect(url, token, rtc.RoomOptions(auto_subscribe=hear))
        if audio:
            source = rtc.AudioSource(SAMPLE_RATE, 1, queue_size_ms=100)
            track = rtc.LocalAudioTrack.create_audio_track("tone", source)
            await self.room.local_participant.publish_track(
                track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
            )
            self._run(self._play(source))

    def start_sending(self) -> None:
        """Send numbered messages from now on, one each 50 ms."""
        if self._sending is None:
            self._sending = self._run(self._send())

    async def stop_sending(self) -> None:
        """Send no more; messages under way may still arrive."""
        if self._sending is not None:
            self._sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sending
            self._sending = None

    async def leave(self) -> None:
        """Leave the room and end all that runs here."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sending = None
        await self.room.disconnect()

    # ---- what it saw ----

    @property
    def connected(self) -> bool:
        """Whether the SDK says that it is connected, and not while it reconnects."""
        return self.room.connection_state == rtc.ConnectionState.CONN_CONNECTED

    @property
    def seen(self) -> set[str]:
        """The identities of the others in the room, as this one sees it now."""
        return set(self.room.remote_participants)

    def count(self, name: str, *, since: float = -math.inf) -> int:
        """How many events of that name it saw since then."""
        return sum(event.name == name and event.at >= since for event in self.events)

    async def meets(self, *others: Participant | str, seconds: float = 10) -> None:
        """Wait until it is connected and sees exactly the ``others`` in its room."""
        wanted = {o.identity if isinstance(o, Participant) else o for o in others}
        await until(
            lambda: self.connected and self.seen == wanted,
            seconds=seconds,
            what=lambda: (
                f"{self.identity} meets {sorted(wanted)}; it sees {sorted(self.seen)}\n"
                f"{self.history()}"
            ),
        )

    async def reconnects(self, *, since: float, seconds: float = 10) -> None:
        """Wait until it is connected and has reconnected since that time, by resume or anew."""
        await until(
            lambda: self.connected and self.count("reconnected", since=since),
            seconds=seconds,
            what=lambda: f"{self.identity} reconnects\n{self.history()}",
        )

    async def hears(self, other: Participant, *, seconds: float = 10) -> None:
        """Wait until the other's tone arrives, in a packet later than this call."""
        begun = time.monotonic()
        await until(
            lambda: max(self.audio[other.identity].times, default=0.0) > begun,
            seconds=seconds,
            what=lambda: f"{self.identity} hears {other.identity}\n{self.history()}",
        )

    async def gets(self, other: Participant, *, seconds: float = 10) -> None:
        """Wait until a message arrives that the other sends after this call."""
        begun = other.sent
        await until(
            lambda: max(self.data[other.identity].numbers, default=0) > begun,
            seconds=seconds,
            what=lambda: f"{self.identity} gets messages of {other.identity}\n{self.history()}",
        )

    async def lost(self, other: Participant, *, seconds: float = 3) -> list[int]:
        """
        The other's messages that never came, of all since the first that did.

        To be asked once the other has stopped sending. Waits for late ones.
        """
        with contextlib.suppress(AssertionError):
            await until(
                lambda: not self.data[other.identity].missing(other.sent),
                seconds=seconds,
                what="the last messages",
            )
        return self.data[other.identity].missing(other.sent)

    def history(self) -> str:
        """Its events as lines, for the message of a failed test."""
        start = self.events[0].at if self.events else 0.0
        return "\n".join(
            f"{event.at - start:8.3f} {self.identity} {event.name} {event.detail}"
            for event in self.events
        )

    # ---- how ----

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _recorder(self, name: str) -> Any:
        def record(*arguments: object) -> None:
            self._record(name, _describe(name, arguments))

        return record

    def _record(self, name: str, detail: str) -> None:
        self.events.append(Event(at=time.monotonic(), name=name, detail=detail))

    def _on_data(self, packet: rtc.DataPacket) -> None:
        message = json.loads(packet.data)
        self.data[message["from"]].add(time.monotonic(), message["n"])

    def _on_track(
        self,
        track: rtc.Track,
        publication: rtc.RemoteTrackPublication,
        participant: rtc.RemoteParticipant,
    ) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            self._run(self._listen(track, self.audio[participant.identity]))

    async def _listen(self, track: rtc.Track, arrivals: Arrivals) -> None:
        stream = rtc.AudioStream(track, sample_rate=SAMPLE_RATE, num_channels=1)
        try:
            async for event in stream:
                samples = np.frombuffer(event.frame.data, dtype=np.int16)
                if samples.size and np.abs(samples).max() > AUDIBLE_PEAK:
                    arrivals.add(time.monotonic())
        finally:
            await stream.aclose()

    async def _play(self, source: rtc.AudioSource) -> None:
        # Ten milliseconds hold no whole number of periods of 440 Hz; a hundred do.
        samples = SAMPLE_RATE // 100
        seconds = np.arange(SAMPLE_RATE // 10) / SAMPLE_RATE
        tone = (TONE_PEAK * np.sin(2 * np.pi * TONE_HERTZ * seconds)).astype(np.int16)
        while True:
            for part in tone.reshape(-1, samples):
                frame = rtc.AudioFrame(part.tobytes(), SAMPLE_RATE, 1, samples)
                await source.capture_frame(frame)

    async def _send(self) -> None:
        while True:
            self.sent += 1
            payload = json.dumps({"from": self.identity, "n": self.sent})
            try:
                async with asyncio.timeout(2):
                    await self.room.local_participant.publish_data(payload, reliable=True)
            except (TimeoutError, PublishDataError) as error:
                self._record("send_failed", f"{self.sent} {type(error).__name__}")
            await asyncio.sleep(MESSAGE_SECONDS)


def _describe(name: str, arguments: tuple[object, ...]) -> str:
    """Whose event it was, or why."""
    if name == "disconnected":
        reasons = [int(argument) for argument in arguments if isinstance(argument, int)]
        return ", ".join(rtc.DisconnectReason.Name(reason) for reason in reasons)  # type: ignore[arg-type]
    return ", ".join(
        argument.identity for argument in arguments if isinstance(argument, rtc.Participant)
    )
