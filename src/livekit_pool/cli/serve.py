"""
``livekit-pool serve``.
"""

from __future__ import annotations

import click

from .. import observe, supervisor
from ..config import Settings
from .flags import with_settings

__all__ = ["serve"]


@click.command()
@with_settings(need_servers=True)
def serve(settings: Settings) -> int:
    """
    Run the pool.

    Ends with SIGTERM or Ctrl-C: clients are told to come back to the next process, within 10 s; a
    second one ends it at once. SIGHUP is ignored: a changed configuration takes a restart.
    A socket that systemd passes (socket activation) is used instead of HOST and PORT.

    Every setting is a flag, a variable, and a name in the YAML file (--a-b, LIVEKIT_POOL_A_B, a.b).
    The servers are LIVEKIT_SERVERS_0_URL, _KEY, _SECRET and so on, or the file's list "servers".
    """
    observe.configure(settings.log_level)
    return supervisor.run(settings)
