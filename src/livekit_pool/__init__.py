"""
LiveKit Pool: many independent LiveKit servers behind one address.

The names below are the public ones; all but the version are imported when first used, so that
the command starts without what only servers need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.document import Cause, Mark, Rotation
    from .exceptions import PoolError
    from .pool import Access, Marked, Pool
    from .servers import Server

__version__ = "0.1.0"

__all__ = [
    "Access",
    "Cause",
    "Mark",
    "Marked",
    "Pool",
    "PoolError",
    "Rotation",
    "Server",
    "__version__",
]

_HOMES = {
    "Access": "pool",
    "Cause": "core.document",
    "Mark": "core.document",
    "Marked": "pool",
    "Pool": "pool",
    "PoolError": "exceptions",
    "Rotation": "core.document",
    "Server": "servers",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)
