"""
A participant over LiveKit's signal protocol alone, for tests whose timing must be exact.

It joins, resumes, and keeps all that it is told. It answers nothing: no offer, no ping, no Leave.
So it never has media, and a server never says that it is ACTIVE.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import jwt
from livekit.protocol import models, rtc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from livekit_pool.local import LocalServer
from tests.real.until import until

# The newest protocol that the pinned sources know: servers say Leave by action since 13
# (livekit_rtc.proto, LeaveRequest).
_PROTOCOL = 16
_OPEN_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """
    A message of the server's.

    Attributes:
        at: seconds of the monotonic clock.
        kind: name of the field of ``SignalResponse`` that it is.
        message: the whole.
    """

    at: float
    kind: str
    message: rtc.SignalResponse

    @classmethod
    def of(cls, payload: bytes) -> Told:
        """The message in one WebSocket message, told now."""
        message = rtc.SignalResponse.FromString(payload)
        return cls(at=time.monotonic(), kind=message.WhichOneof("message") or "", message=message)


class SignalClient:
    """
    One participant, over all connections that it makes one after another.

    Attributes:
        identity: its identity.
        token: the token it shows next: the newest it was given.
        told: what it was told on its newest connection, in order.
        before: what it was told on each connection before that, oldest first.
        ended: close code of its newest connection, None while that is open.
    """

    def __init__(self, url: str, token: str, *, version: int = 0) -> None:
        """``version`` 0 joins by ``/rtc``, 1 by ``/rtc/v1``; connects nowhere yet."""
        self.identity = str(claims_of(token)["sub"])
        self.token = token
        self.told: list[Told] = []
        self.before: list[list[Told]] = []
        self.ended: int | None = None
        self._url = url
        self._version = version
        self._connections: list[ClientConnection] = []
        self._reading: list[asyncio.Task[None]] = []
        self._connecting: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        state = f"ended {self.ended}" if self.ended is not None else "open"
        return f"<SignalClient {self.identity} {state} told {[told.kind for told in self.told]}>"

    # ---- what it does ----

    async def join(self) -> Told:
        """
        Connect anew with the newest token; the first message.

        Connections it has are left as they are.

        Raises:
            websockets.exceptions.InvalidStatus: it was refused.
        """
        return await self._connect(resume=False, token=self.token)

    async def resume(self, *, token: str | None = None) -> Told:
        """Connect to go on with its session, with ``token`` or the newest; the first message."""
        return await self._connect(resume=True, token=token or self.token)

    async def comes_back(self, *, seconds: float = 15) -> Told:
        """Wait to be told to reconnect, and do as SDKs do: close, and join. The first message."""
        leave = (await self.gets("leave", seconds=seconds)).message.leave
        assert leave.action == rtc.LeaveRequest.RECONNECT, leave
        await self.close()
        return await self.join()

    async def say_goodbye(self) -> None:
        """Leave for good."""
        leave = rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)
        await self._connections[-1].send(rtc.SignalRequest(leave=leave).SerializeToString())

    async def close(self) -> None:
        """Close its newest connection with the closing handshake."""
        await self._connections[-1].close()

    def cut(self) -> None:
        """Cut its newest connection."""
        self._connections[-1].transport.abort()

    async def aclose(self) -> None:
        """Cut whatever it has open, and give up what it waits for."""
        for task in (*self._connecting, *self._reading):
            task.cancel()
        await asyncio.gather(*self._connecting, *self._reading, return_exceptions=True)
        for connection in self._connections:
            connection.transport.abort()
            await connection.wait_closed()

    # ---- what it saw ----

    async def gets(self, kind: str, *, seconds: float = 10) -> Told:
        """Wait for the first message of that kind on the newest connection."""
        found: Told = await until(
            lambda: next((told for told in self.told if told.kind == kind), None),
            seconds=seconds,
            what=lambda: f"{self.identity} gets {kind}; it got {[t.kind for t in self.told]}",
        )
        return found

    async def ends(self, *, seconds: float = 10) -> int:
        """Wait until its newest connection is over; the close code, 1006 if there was none."""
        await until(
            lambda: self.ended is not None, seconds=seconds, what=f"{self.identity} is closed"
        )
        assert self.ended is not None
        return self.ended

    @property
    def all_told(self) -> list[Told]:
        """What it was told on all connections."""
        return [told for each in (*self.before, self.told) for told in each]

    @property
    def leaves(self) -> list[rtc.LeaveRequest]:
        """Each Leave it was told, on all connections."""
        return [told.message.leave for told in self.all_told if told.kind == "leave"]

    @property
    def location(self) -> dict[str, Any]:
        """The pool's own claim of the newest token: {revision, server}."""
        return dict(claims_of(self.token)["livekitPool"])

    # ---- how ----

    async def _connect(self, *, resume: bool, token: str) -> Told:
        task = asyncio.current_task()
        assert task is not None
        self._connecting.add(task)
        try:
            connection = await connect(
                self._target(resume=resume),
                additional_headers={"Authorization": f"Bearer {token}"},
                compression=None,
                ping_interval=None,
                proxy=None,
                max_size=None,
                open_timeout=_OPEN_SECONDS,
                close_timeout=2,
            )
        finally:
            self._connecting.discard(task)
        if self._connections:
            self.before.append(self.told)
        told: list[Told] = []
        self.told = told
        self.ended = None
        self._connections.append(connection)
        self._reading.append(asyncio.create_task(self._read(connection, told)))
        await until(
            lambda: told or self.ended is not None, seconds=10, what=f"{self.identity} is answered"
        )
        assert told, f"{self.identity} was let in and told nothing; close code {self.ended}"
        return told[0]

    def _target(self, *, resume: bool) -> str:
        sid = self._sid() if resume else ""
        if self._version == 0:
            query = {"protocol": str(_PROTOCOL), "sdk": "python", "auto_subscribe": "1"}
            if resume:
                query |= {"reconnect": "1", "sid": sid}
            return f"{self._url}/rtc?{urlencode(query)}"
        request = rtc.JoinRequest(
            client_info=models.ClientInfo(sdk=models.ClientInfo.PYTHON, protocol=_PROTOCOL),
            connection_settings=rtc.ConnectionSettings(auto_subscribe=True),
            reconnect=resume,
            participant_sid=sid,
        )
        wrapped = rtc.WrappedJoinRequest(join_request=request.SerializeToString())
        value = base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()
        return f"{self._url}/rtc/v1?{urlencode({'join_request': value})}"

    def _sid(self) -> str:
        joined = [told.message.join for told in self.all_told if told.kind == "join"]
        return joined[-1].participant.sid if joined else "PA_unknown"

    async def _read(self, connection: ClientConnection, told: list[Told]) -> None:
        try:
            async for payload in connection:
                assert isinstance(payload, bytes), "a text frame"
                told.append(Told.of(payload))
                if told[-1].kind == "refresh_token":
                    self.token = told[-1].message.refresh_token
        except ConnectionClosed:
            pass
        if told is self.told:
            self.ended = connection.close_code or 1006


class SignalClients:
    """Makes clients, and cuts them all off at the end; an asynchronous context manager."""

    def __init__(self) -> None:
        """Make none yet."""
        self._made: list[SignalClient] = []

    async def __aenter__(self) -> SignalClients:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._made:
            await client.aclose()

    def __call__(self, url: str, token: str, *, version: int = 0) -> SignalClient:
        """Make one."""
        client = SignalClient(url, token, version=version)
        self._made.append(client)
        return client


async def give_up(joining: asyncio.Task[Any]) -> None:
    """End a join that is under way, by closing its socket."""
    joining.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await joining


def claims_of(token: str) -> dict[str, Any]:
    """The claims of ``token``, whoever signed it."""
    return dict(jwt.decode(token, options={"verify_signature": False}))


def server_of(joined: Told, servers: Iterable[LocalServer]) -> str:
    """Name of the server that wrote this ``join``, by the node it says it is."""
    assert joined.kind == "join", joined.message
    node = joined.message.join.server_info.node_id
    return next(server.name for server in servers if node in server.log.read_text())
