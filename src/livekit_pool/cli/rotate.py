"""
``livekit-pool rotate``.
"""

from __future__ import annotations

import click

from ..config import Settings
from ..exceptions import NoServer, PoolError, RevisionConflict, UnknownServer
from .api import PoolApi
from .deciding import ask, moved_on, reason_option
from .flags import CLIENT, json_flag, with_settings, yes_flag
from .output import print_json
from .status import next_standby

__all__ = ["rotate"]


@click.command()
@reason_option
@click.option("--to", metavar="SERVER", help="The next server. Default: the pool chooses.")
@click.option(
    "--from", "from_", metavar="SERVER", help="Do nothing unless this is the active server."
)
@click.option(
    "--force", is_flag=True, help="Also to a server that is drained, down or misconfigured."
)
@click.option("--dry-run", is_flag=True, help="Say what would happen, and do nothing.")
@yes_flag
@json_flag
@with_settings(CLIENT)
def rotate(
    settings: Settings,
    *,
    reason: str,
    to: str | None,
    from_: str | None,
    force: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """
    Make another server the active one, and move everybody there.

    Works also while the pool is paused. Sends the revision it was decided at: if somebody else,
    or the pool itself, changed the document meanwhile, nothing is done.
    """
    api = PoolApi.of(settings)
    status = api.get("/pool/status")
    active, revision = status["active"], status["revision"]
    if from_ is not None and from_ != active:
        raise PoolError(f"The active server is {active}, not {from_} (--from): nothing was done.")
    if to is not None and to not in (server["name"] for server in status["servers"]):
        raise UnknownServer(f"No server of the pool is called {to}: see 'livekit-pool status'.")
    target = to or next_standby(status)
    if dry_run:
        _tell_dry(active, target, revision, as_json)
        return
    if not yes and target != active:
        ask(f"Rotate from {active} to {target or 'the next available server'}?", status)
    try:
        answer = api.post(
            "/pool/rotate",
            {"reason": reason, "to": to, "expected_revision": revision, "force": force or None},
        )
    except RevisionConflict as error:
        raise moved_on(error, revision) from None
    if as_json:
        print_json(answer)
    elif "to" in answer:
        click.echo(
            f"Rotated from {answer['from']} to {answer['to']}, revision {answer['revision']}."
        )
    else:
        click.echo(f"{to} is the active server already: nothing to do.")


def _tell_dry(active: str, target: str | None, revision: int, as_json: bool) -> None:
    if target is None:
        raise NoServer(f"No server is available to rotate to from {active}.", revision=revision)
    if as_json:
        print_json({"dry_run": True, "revision": revision, "from": active, "to": target})
    elif target == active:
        click.echo(f"{active} is the active server already: there would be nothing to do.")
    else:
        click.echo(f"Would rotate from {active} to {target}, from revision {revision} on.")
