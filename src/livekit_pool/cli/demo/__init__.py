"""
``livekit-pool demo``: three local LiveKit servers, the pool, and a call that outlives its server.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
from typing import TYPE_CHECKING

import click

from ...exceptions import PoolError
from ..flags import json_flag
from ..output import is_terminal, print_json
from .show import LinesShow, LiveShow, Show

if TYPE_CHECKING:
    from .stage import Stage

__all__ = ["demo"]


@click.command()
@click.option(
    "--keep",
    is_flag=True,
    help="Stay up afterwards, and print the URL, key and secret to join with, until Ctrl-C.",
)
@json_flag
def demo(keep: bool, as_json: bool) -> int:
    """
    Show it: kill the active one of three LiveKit servers in the middle of a call.

    Starts everything on this machine and on loopback only, takes less than a minute, and leaves
    nothing behind. Ends with the longest gap and the number of messages lost; exit code 0 if the
    call survived, 1 if not.
    """
    if importlib.util.find_spec("livekit.rtc") is None:
        raise PoolError(
            "The demo's two participants need LiveKit's Python SDK: "
            "pip install 'livekit-pool[demo]'."
        )
    show: Show = LiveShow() if is_terminal() and not as_json else LinesShow(to_stderr=as_json)
    return asyncio.run(_demo(show, keep, as_json))


async def _demo(show: Show, keep: bool, as_json: bool) -> int:
    # Only now: without the SDK they could not be imported.
    from .call import quiet_sdk
    from .stage import Stage
    from .story import tell

    async with Stage.built(show.line) as stage:
        with quiet_sdk(), show:
            result = await tell(stage, show)
        if as_json:
            print_json(result.as_json())
        else:
            for line in result.lines():
                click.echo(line)
        if not result.survived:
            logs = stage.keep_logs()
            click.echo(f"The logs of the pool and the servers are in {logs}.", err=True)
        if keep:
            await _stay(stage, as_json)
    return 0 if result.survived else 1


async def _stay(stage: Stage, as_json: bool) -> None:
    """Print how to join, and wait for Ctrl-C."""
    join = {"url": stage.url, "key": stage.pair.key, "secret": stage.pair.secret}
    if as_json:
        print_json(join)
    else:
        click.echo("\nThe pool stays up. Join with any LiveKit client or SDK, and then rotate:\n")
        for name, value in join.items():
            variable = {"url": "LIVEKIT_URL", "key": "LIVEKIT_API_KEY"}.get(
                name, "LIVEKIT_API_SECRET"
            )
            click.echo(f"  {variable}={value}")
        click.echo(f"\n  {stage.command_line('rotate --reason again')}\n\nCtrl-C ends it.")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
