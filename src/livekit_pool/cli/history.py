"""
``livekit-pool history``.
"""

from __future__ import annotations

import click

from ..config import Settings
from .api import PoolApi
from .flags import CLIENT, json_flag, with_settings
from .output import Table, local_time, print_json

__all__ = ["history"]


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    default=20,
    show_default=True,
    help="How many, at most.",
)
@json_flag
@with_settings(CLIENT)
def history(settings: Settings, limit: int, as_json: bool) -> None:
    """List the rotations, newest first."""
    answer = PoolApi.of(settings).get("/pool/history", limit=limit)
    if as_json:
        print_json(answer)
        return
    rotations = answer["rotations"]
    if not rotations:
        click.echo("No rotation yet.")
        return
    Table(
        columns=("REVISION", "TIME", "FROM", "TO", "CAUSE", "ACTOR", "REASON"),
        rows=[
            [
                str(one["revision"]),
                local_time(one["at"]),
                one["from"],
                one["to"],
                one["cause"],
                one["actor"],
                one["reason"],
            ]
            for one in rotations
        ],
    ).show()
