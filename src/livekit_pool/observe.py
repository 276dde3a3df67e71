"""
Log events, by constant names.

An event's message is its name; all values travel as fields beside it, so that a program can
read them. No field ever holds a secret, a token, an identity or a room's name.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

__all__ = [
    "CALLS_BACK",
    "CALLS_FAIL",
    "CLOCK_JUMPED",
    "DRAINED",
    "HEALTH",
    "MINUTES_LOST",
    "MINUTES_UNWRITTEN",
    "MINUTES_WRITTEN",
    "NAMES_BACK",
    "NAMES_FAIL",
    "OWN_FAULT",
    "PAUSED",
    "READY",
    "REPORTS_DISMISSED",
    "REPORTS_VERIFIED",
    "REPORT_REFUSED",
    "RESTORED",
    "RESUMED",
    "ROTATED",
    "STALLED",
    "STORE_AWAY",
    "STORE_BACK",
    "STORE_CORRUPT",
    "TASK_FAILED",
    "UNDRAINED",
    "UPSTREAM_REFUSED",
    "WEBHOOK_LOST",
    "WEBHOOK_RECEIVER_AWAY",
    "WEBHOOK_RECEIVER_BACK",
    "WEBHOOK_REFUSED",
    "WEBHOOK_REPLAYED",
    "WEBHOOK_UNDECIDED",
    "WEBHOOK_UNKNOWN",
    "configure",
    "event",
]

ROTATED: Final = "LiveKit server rotated"
HEALTH: Final = "LiveKit server changed health"
CALLS_FAIL: Final = "LiveKit server fails calls"
CALLS_BACK: Final = "LiveKit server takes calls again"
READY: Final = "Pool ready"
REPORTS_DISMISSED: Final = "Clients' reports dismissed"
REPORT_REFUSED: Final = "Client's report refused"
REPORTS_VERIFIED: Final = "Clients' reports verified"
STALLED: Final = "Own event loop stalled"
OWN_FAULT: Final = "Own fault: no server is blamed"
CLOCK_JUMPED: Final = "Clock of this machine was set"
NAMES_FAIL: Final = "Host names not resolved"
NAMES_BACK: Final = "Host names resolved again"
STORE_AWAY: Final = "Store does not answer"
STORE_BACK: Final = "Store answers again"
STORE_CORRUPT: Final = "Store holds what is not this pool's"
MINUTES_UNWRITTEN: Final = "Minutes not written to the store, and kept"
MINUTES_WRITTEN: Final = "Minutes written to the store again"
MINUTES_LOST: Final = "Too many minutes counted while the store was away: some are lost"
RESTORED: Final = "Lost document restored"
DRAINED: Final = "LiveKit server drained"
UNDRAINED: Final = "LiveKit server undrained"
PAUSED: Final = "Automatic rotation paused"
RESUMED: Final = "Automatic rotation resumed"
TASK_FAILED: Final = "Task failed"
UPSTREAM_REFUSED: Final = "LiveKit server refused a call"
WEBHOOK_REFUSED: Final = "Webhook refused"
WEBHOOK_REPLAYED: Final = "Webhook came again"
WEBHOOK_UNKNOWN: Final = "Webhook of a kind that this version does not know"
WEBHOOK_UNDECIDED: Final = "Webhook of one of several servers with one key"
WEBHOOK_LOST: Final = "Webhook not passed on"
WEBHOOK_RECEIVER_AWAY: Final = "Webhook receiver does not answer"
WEBHOOK_RECEIVER_BACK: Final = "Webhook receiver answers again"

_logger: Final = logging.getLogger("livekit_pool")


def event(name: str, level: int = logging.INFO, **fields: object) -> None:
    """
    Log the event ``name`` with ``fields``; None values are left out.

    A field whose name is a Python keyword is given with an underscore behind it (``from_``).
    """
    if _logger.isEnabledFor(level):
        shown = {key.rstrip("_"): value for key, value in fields.items() if value is not None}
        _logger.log(level, name, extra={"fields": shown})


def failure(name: str, error: BaseException, **fields: object) -> None:
    """Log an unexpected error with its traceback; its text is not trusted to hold no secret."""
    _logger.error(
        name,
        exc_info=error if _logger.isEnabledFor(logging.DEBUG) else None,
        extra={"fields": {**fields, "error": type(error).__name__}},
    )


class _LineFormatter(logging.Formatter):
    """One line an event: time, level, name, ``key=value`` for each field, quoted where needed."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        parts = [
            f"{moment}.{int(record.msecs):03d}Z",
            f"{record.levelname:<7}",
            record.getMessage(),
        ]
        for key, value in getattr(record, "fields", {}).items():
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            if not text or any(c in text for c in ' "=') or not text.isprintable():
                text = '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'
            parts.append(f"{key}={text}")
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(level: str = "info") -> None:
    """Send this process's log to standard error, one line an event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _logger.setLevel(level.upper())
