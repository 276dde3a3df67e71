"""
The live rooms of a process: `live` moves them and tells their sessions, `placing` knows where
each of them is.
"""

from __future__ import annotations

from .live import Room, Rooms, Session

__all__ = ["Room", "Rooms", "Session"]
