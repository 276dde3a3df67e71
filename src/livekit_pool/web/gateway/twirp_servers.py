"""TwirpServers: sends a call to one server, and judges what comes back."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from typing import Final, Self

import aiohttp

from ... import observe, tokens
from ...core.document import Cause
from ...core.events import FaultSource, ProbeOutcome
from ...core.faults import FORGIVABLE, Surface, classify
from ...servers import Server
from ...upstream.connection import Failure, open_session
from .twirp_answer import TwirpAnswer
from .twirp_call import TwirpCall
from .twirp_pool import TwirpPool
from .twirp_refusal import DENIED, TwirpRefusal

__all__ = ["Refused", "TwirpServers", "Unanswered"]

_CONNECT_TIMEOUT: Final = 2.5
_TOKEN_LIFE: Final = 300
_LOOK: Final = 0.1
"""Seconds between two looks at whether the server that is asked has been given up."""


class Unanswered(Exception):
    """A server did not answer. ``sent``: it may have got the call all the same."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__()
        self.sent = sent


class Refused(Exception):
    """
    A server did not carry out a call, for a reason that is its own.

    Attributes:
        why: in a few words.
        of_key: because it refuses the token that was made for it.
    """

    def __init__(self, why: str, *, of_key: bool) -> None:
        super().__init__(why)
        self.why = why
        self.of_key = of_key


class TwirpServers:
    """The connections that calls take; a context manager, entered once."""

    def __init__(self, pool: TwirpPool) -> None:
        self._pool = pool
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = open_session(timeout=10.0, connect_timeout=_CONNECT_TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, server: Server, call: TwirpCall) -> TwirpAnswer:
        """
        Send ``call`` to ``server`` and judge what comes back.

        Raises:
            Unanswered: nothing came back, or nothing of LiveKit's; it was reported as a fault.
            Refused: it refuses for a limit of its own, or refuses our key; the same.
            TwirpRefusal: the caller may not do this; or the server took too long.
        """
        revision = self._pool.revision
        try:
            answer = await self._exchange(server, call)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = Failure.of(error)
            late = isinstance(error, TimeoutError) and failure.sent
            silent = failure.outcome is ProbeOutcome.SILENT
            if late:
                # No evidence: some calls take long, and a server that hangs is found by probes,
                # long before this.
                raise TwirpRefusal(
                    "deadline_exceeded", "the LiveKit server did not answer in time"
                ) from None
            if not failure.own:
                cause = Cause.TIMEOUT if silent else Cause.DOWN
                self._fault(server, cause, f"a call failed: {failure.detail}", revision)
            raise Unanswered(sent=failure.sent) from None
        if answer.status != 200:
            self._judge(server, answer, revision)
        return answer

    async def _exchange(self, server: Server, call: TwirpCall) -> TwirpAnswer:
        """Send and receive; gives up as soon as ``server`` is confirmed down (`Unanswered`)."""
        exchange = asyncio.create_task(self._post(server, call))
        exchange.add_done_callback(_retrieve)
        try:
            while not exchange.done():
                await asyncio.wait({exchange}, timeout=_LOOK)
                if not exchange.done() and not self._pool.joinable(server.name):
                    raise Unanswered(sent=True)
            return exchange.result()
        finally:
            exchange.cancel()

    async def _post(self, server: Server, call: TwirpCall) -> TwirpAnswer:
        # The caller's token was good when it came. With times of its own a server whose clock is a
        # little off does not refuse it, which would count as that server's fault.
        claims = {name: value for name, value in call.claims.raw.items() if name != "nbf"}
        claims["exp"] = int(time.time()) + _TOKEN_LIFE
        token = tokens.resign(claims, server.key, server.secret)
        async with self._session.post(
            server.http_url + call.path,
            data=io.BytesIO(call.body),  # as bytes, a large one would be sent in one go
            headers={
                **call.headers,
                "Authorization": f"Bearer {token}",
            },
            skip_auto_headers=("Content-Type",),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=call.timeout, sock_connect=_CONNECT_TIMEOUT),
        ) as answer:
            return TwirpAnswer.of(answer.status, answer.headers, await answer.read())

    def _judge(self, server: Server, answer: TwirpAnswer, revision: int) -> None:
        """
        Sort out whose affair a refusal is; returns only if it is for the caller to read.

        Of a 401 or 403 nothing is passed on, because old servers put the token there.
        """
        code, message = answer.error
        text = message if code else answer.text
        found = classify(Surface.TWIRP, status=answer.status, code=code, text=text)
        if found.cause is None:
            if answer.status in (401, 403):
                # Grants are looked at only after the token was accepted, by the service itself.
                raise TwirpRefusal(code or "permission_denied", DENIED, status=answer.status)
            return
        observe.event(
            observe.UPSTREAM_REFUSED,
            logging.WARNING,
            server=server.name,
            status=answer.status,
            what=found.row,
        )
        detail = f"a call was refused with HTTP {answer.status}: {found.row}"
        self._fault(server, found.cause, detail, revision, answer.retry_after)
        if found.cause in FORGIVABLE:
            raise Unanswered(sent=True)
        raise Refused(found.row, of_key=found.cause is Cause.CREDENTIALS)

    def _fault(
        self,
        server: Server,
        cause: Cause,
        detail: str,
        revision: int,
        retry_after: float | None = None,
    ) -> None:
        self._pool.fault(
            server.name, cause, FaultSource.CALL, detail, revision, retry_after=retry_after
        )


def _retrieve(exchange: asyncio.Task[TwirpAnswer]) -> None:
    """Take note of an error that came when nobody waited any more, so that asyncio need not."""
    if not exchange.cancelled():
        exchange.exception()
