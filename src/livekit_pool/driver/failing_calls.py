"""
Failing calls: servers that answer plain probes and fail the calls of the server API.

That shows nobody down, since such a server lets people in. But somebody must hear of it.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import Final

from .. import observe
from ..core.events import ProbeOutcome
from ..core.faults import KINDS
from ..upstream.probe import ProbeResult

__all__ = ["FailingCalls"]

_BUT: Final = ", but calls fail: "


class FailingCalls:
    """
    Tells in the log when calls begin to fail, and when they pass again, once for each.

    Args:
        fall: failed calls in a row, with no plain probe missed among them, from which on it tells.
    """

    def __init__(self, fall: int) -> None:
        self._fall = fall
        self._failed: Counter[str] = Counter()  # server -> its failed calls in a row
        self._why: dict[str, str] = {}  # server -> what the newest of these saw
        self._told: set[str] = set()

    def saw_call(self, result: ProbeResult, *, aloud: bool) -> None:
        """
        A signed probe over a connection that was made ended.

        ``aloud`` says whether this process is the one that tells it for its machine.
        """
        server = result.server
        if result.outcome not in KINDS:
            self._forget(server)
            if result.outcome is ProbeOutcome.PASSED and server in self._told:
                self._told.remove(server)
                observe.event(observe.CALLS_BACK, logging.WARNING, server=server)
            return
        if result.outcome is ProbeOutcome.SILENT and result.stalled:
            return
        self._failed[server] += 1
        self._why[server] = result.detail
        if aloud and self._failed[server] >= self._fall and server not in self._told:
            self._told.add(server)
            observe.event(observe.CALLS_FAIL, logging.WARNING, server=server, detail=result.detail)

    def saw(self, result: ProbeResult) -> ProbeResult:
        """
        A plain probe ended.

        Returns:
            the same, with what calls meet in its detail, if they fail: whoever looks at the last
            probe would not hear of it, since there are many plain ones for each signed one.
        """
        if result.outcome in KINDS:
            self._forget(result.server)  # it is no longer calls alone
        why = self._why.get(result.server)
        return result if why is None else replace(result, detail=f"{result.detail}{_BUT}{why}")

    def _forget(self, server: str) -> None:
        self._failed.pop(server, None)
        self._why.pop(server, None)
