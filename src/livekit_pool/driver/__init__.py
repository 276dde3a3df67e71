"""
The driver: what acts on what the core decides.

`loop` feeds events to the machine and performs its actions, `probing` asks the servers,
`neighbours` tells the other processes of this one and reads of them, `tasks` keeps all that
running. It knows nothing of clients.
"""

from __future__ import annotations

from .loop import Driver

__all__ = ["Driver"]
