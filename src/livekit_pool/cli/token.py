"""
``livekit-pool token``.
"""

from __future__ import annotations

import re
import time

import click

from ..config import Settings, find_key_pair
from ..tokens import DEFAULT_TTL, KeyPair, Kind, participant_token, pool_token
from .flags import CLIENT, json_flag, with_settings
from .output import print_json

__all__ = ["token"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TTL = re.compile(r"(\d{1,9})([smhd]?)")


class _Duration(click.ParamType[float]):
    """Seconds, or a number with the unit s, m, h or d."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = _TTL.fullmatch(str(value).strip())
        if match is None or int(match[1]) == 0:
            self.fail("must be a duration such as 90s, 30m, 6h or 7d", param, ctx)
        return float(int(match[1]) * _UNITS[match[2] or "s"])


@click.command()
@click.option("--room", help="A participant's token: the room to join.")
@click.option("--identity", help="Who joins; unique in the room.")
@click.option("--name", help="Name shown to others.")
@click.option("--admin", is_flag=True, help="A token for everything under /pool instead.")
@click.option("--viewer", is_flag=True, help="A token to look at status and history instead.")
@click.option(
    "--ttl", type=_Duration(), default=DEFAULT_TTL, metavar="DURATION", help="Default: 6h."
)
@json_flag
@with_settings(CLIENT)
def token(
    settings: Settings,
    *,
    room: str | None,
    identity: str | None,
    name: str | None,
    admin: bool,
    viewer: bool,
    ttl: float,
    as_json: bool,
) -> None:
    """
    Print a token, signed with the pool's key. Asks nobody: the pool need not run.

    Whoever has it can use it until it ends: treat it as a password.
    """
    if admin and viewer:
        raise click.UsageError("Give --admin or --viewer, not both.")
    if admin or viewer:
        if room or identity or name:
            raise click.UsageError("--room, --identity and --name are for a participant's token.")
    elif not room or not identity:
        raise click.UsageError("Give --room and --identity, or --admin, or --viewer.")
    settings = find_key_pair(settings)
    pair = KeyPair(key=settings.key, secret=settings.secret)
    now = time.time()
    made: dict[str, object]
    if admin or viewer:
        kind = Kind.ADMIN if admin else Kind.VIEWER
        made = {
            "token": pool_token(pair, kind, subject=kind.value, ttl=ttl, now=now),
            "pool": kind.value,
        }
    else:
        assert room is not None
        assert identity is not None
        made = {
            "token": participant_token(
                pair, identity=identity, room=room, name=name or "", ttl=ttl, now=now
            ),
            "url": settings.origin.ws_url,
            "room": room,
            "identity": identity,
        }
    if as_json:
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + ttl))
        print_json({**made, "expires_at": ends})
    else:
        click.echo(made["token"])
