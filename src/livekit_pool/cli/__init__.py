"""
The command ``livekit-pool``: thin over the HTTP API, the supervisor and the configuration.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 the pool does not answer.
"""

from .command import main

__all__ = ["main"]
