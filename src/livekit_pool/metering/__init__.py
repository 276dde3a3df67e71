"""
Metering: who was on which server for how long, and how many minutes that leaves.

Three witnesses tell of the same stays: the gateway's own sessions, webhooks, and the servers'
lists of participants. `evidence` merges what they say until the store has it, `looking` asks the
servers, `metering` writes, reads, and tells the machine. What a stay is and how minutes are
counted is `livekit_pool.core.minutes`.
"""

from __future__ import annotations

from .metering import Metering

__all__ = ["Metering"]
