"""
Signer: which server of the pool an event comes from.

A server signs with its key, so the key tells. Where several servers have one key and one secret,
the address can tell (``/pool/webhook?server=NAME``); else the room does: its session's id, once it
has been seen, then the placement. What none of these tells stays open.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from ...exceptions import PoolError, TokenError
from ...servers import Server
from ...stores.base import Placement
from ...tokens import Claims, KeyPair, Refusal, issuer, verify
from .event import Event

__all__ = ["Signer"]

LONGEST_TOKEN: Final = 8192
"""Characters of an event's token; LiveKit's have some 300."""

_PLACEMENT_TIME: Final = 1.0  # seconds to ask for one
_SPARED: Final = 10.0  # seconds in which nobody asks again for one that did not come in time
_REMEMBERED: Final = 10_000  # sessions of rooms


class Signer:
    """The keys of the pool's servers, and what has been seen of those that share one."""

    def __init__(
        self,
        servers: Iterable[Server],
        placement: Callable[[str], Awaitable[Placement | None]],
    ) -> None:
        """``placement`` finds that of a room; it is asked only where servers share a key."""
        self._pairs: dict[str, dict[str, tuple[str, ...]]] = {}
        self._placement = placement
        self._sessions: OrderedDict[str, str] = OrderedDict()
        self._not_before = -math.inf
        for server in servers:
            secrets = self._pairs.setdefault(server.key, {})
            secrets[server.secret] = (*secrets.get(server.secret, ()), server.name)

    def verified(
        self, token: str, server: str | None = None, *, now: float | None = None
    ) -> tuple[tuple[str, ...], Claims]:
        """
        The servers that may have signed ``token``, and its claims; its body is not checked yet.

        Args:
            token: as it came, with or without ``Bearer``.
            server: the name that the address gives.

        Raises:
            TokenError: no server of the pool has signed it, or not this one, or not for now.
        """
        scheme, _, rest = token.partition(" ")
        if scheme.lower() == "bearer":
            token = rest
        token = token.strip()
        if not token:
            raise TokenError(
                "The event is not signed: LiveKit sends a token in the Authorization header.",
                code=Refusal.MISSING,
            )
        if len(token) > LONGEST_TOKEN:
            raise TokenError(
                f"The token is longer than {LONGEST_TOKEN} characters.", code=Refusal.TOO_LONG
            )
        key = issuer(token)
        for secret, names in self._pairs.get(key, {}).items():
            try:
                claims = verify(token, KeyPair(key=key, secret=secret), now)
            except TokenError as error:
                if error.code != Refusal.WRONG_KEY:
                    raise
                continue
            if server is None:
                return names, claims
            if server in names:
                return (server,), claims
            raise TokenError(
                "The event is signed with the key of another server than its address names.",
                code=Refusal.WRONG_KEY,
            )
        raise TokenError(
            "The event is not signed with the key of a server of this pool: webhook.api_key in "
            "LiveKit's configuration must be the key that the pool has for that server.",
            code=Refusal.WRONG_KEY,
        )

    async def server_of(self, event: Event, names: tuple[str, ...]) -> str | None:
        """The one of ``names`` that ``event`` comes from; None where that cannot be told."""
        if len(names) == 1:
            return names[0]
        known = self._sessions.get(event.room_sid) if event.room_sid else None
        if known in names:
            return known
        placed = await self._placed(event.room)
        if placed not in names:
            return None
        if event.room_sid:
            # A room that is moved lives on under its name; its session on this server does not.
            self._sessions[event.room_sid] = placed
            if len(self._sessions) > _REMEMBERED:
                self._sessions.popitem(last=False)
        return placed

    async def _placed(self, room: str) -> str | None:
        if not room or time.monotonic() < self._not_before:
            return None
        try:
            async with asyncio.timeout(_PLACEMENT_TIME):
                placement = await self._placement(room)
        except TimeoutError:  # all other events wait for this one
            self._not_before = time.monotonic() + _SPARED
            return None
        except PoolError:  # of its kinds: the store is away, or there is no document
            return None
        return None if placement is None else placement.server
