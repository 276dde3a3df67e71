"""
The driver: what acts on what the core decides.

`loop` feeds events to the machine and performs its actions, `writing` changes the document,
`probing` asks the servers, `asking` waits for rotations by hand, `neighbours` reads of the other
processes; `clock` has the store's time, `listeners` tells others what happened, and `tasks` keeps
all that running. It knows nothing of clients.
"""

from __future__ import annotations

from .loop import Driver

__all__ = ["Driver"]
