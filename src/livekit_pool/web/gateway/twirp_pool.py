"""TwirpPool: what calls need of the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ...config import Settings
from ...core.document import Cause
from ...core.events import FaultSource
from ...servers import Server
from ...stores.base import Placement
from ...tokens import KeyPair

__all__ = ["TwirpPool"]


class TwirpPool(Protocol):
    """The part of `livekit_pool.pool.Pool` that sending calls on takes; documented there."""

    @property
    def settings(self) -> Settings: ...
    @property
    def servers(self) -> Mapping[str, Server]: ...
    @property
    def pair(self) -> KeyPair: ...
    @property
    def lineage(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def active_server(self) -> str: ...
    def joinable(self, server: str) -> bool: ...
    def retry_after(self) -> int: ...
    def can_leave(self, server: str) -> bool: ...
    def on_the_move(self, room: str) -> bool: ...
    async def place(self, room: str) -> Placement: ...
    async def placement(self, room: str) -> Placement | None: ...
    async def placed_servers(self) -> set[str]: ...
    async def wait_joinable(self, room: str | None, timeout: float) -> Placement | None: ...
    def fault(
        self,
        server: str,
        kind: Cause,
        source: FaultSource,
        detail: str = "",
        revision: int | None = None,
        *,
        retry_after: float | None = None,
    ) -> None: ...
