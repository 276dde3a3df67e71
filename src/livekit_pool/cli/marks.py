"""
``livekit-pool drain``, ``undrain``, ``pause`` and ``resume``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from ..config import Settings
from ..exceptions import PoolError, RevisionConflict, UnknownServer
from .api import PoolApi
from .deciding import ask, moved_on, reason_option
from .flags import CLIENT, json_flag, with_settings, yes_flag
from .output import local_time, print_json
from .status import next_standby

__all__ = ["drain", "pause", "resume", "undrain"]

#: Seconds between two looks while something is waited for.
PERIOD = 0.5
#: What ``--wait`` without a number means.
ENDLESS = 1e9


def _wait_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--wait",
        is_flag=False,
        flag_value=ENDLESS,
        type=click.FloatRange(min=0, max=ENDLESS),
        metavar="[SECONDS]",
        help=f"Come back when {what}; exit code 1 if that takes longer than SECONDS.",
    )


@click.command()
@click.argument("name")
@reason_option
@_wait_option("nobody is left on it")
@click.option("--force", is_flag=True, help="Also the last available server.")
@yes_flag
@json_flag
@with_settings(CLIENT)
def drain(
    settings: Settings,
    *,
    name: str,
    reason: str,
    wait: float | None,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """
    Take server NAME out: nothing new is sent to it, until it is undrained.

    If it is the active server, the pool rotates away from it. Sends the revision it was decided
    at, as rotate does. With --wait it prints how many participants are left on it, each time that
    changes.
    """
    api = PoolApi.of(settings)
    status = api.get("/pool/status")
    server = _server(status, name)
    if not yes and not server["drained"]:
        ask(_question(status, server), status)
    try:
        answer = api.post(
            f"/pool/servers/{quote(name, safe='')}/drain",
            {
                "reason": reason,
                "expected_revision": status["revision"],
                "force": force or None,
            },
        )
    except RevisionConflict as error:
        raise moved_on(error, status["revision"]) from None
    if as_json:
        print_json(answer)
    else:
        click.echo(_drained(answer, was_active=status["active"] == name))
    if wait is not None:
        _await_empty(api, name, answer["revision"], wait, quiet=as_json)


@click.command()
@click.argument("name")
@json_flag
@with_settings(CLIENT)
def undrain(settings: Settings, *, name: str, as_json: bool) -> None:
    """Let server NAME be chosen again, whoever drained it."""
    answer = PoolApi.of(settings).post(f"/pool/servers/{quote(name, safe='')}/undrain", {})
    if as_json:
        print_json(answer)
    elif answer["changed"]:
        click.echo(f"{name} may be chosen again, revision {answer['revision']}.")
    else:
        click.echo(f"{name} is not drained: nothing to do.")


@click.command()
@reason_option
@_wait_option("every process of the pool has heard of it")
@json_flag
@with_settings(CLIENT)
def pause(settings: Settings, *, reason: str, wait: float | None, as_json: bool) -> None:
    """
    Stop automatic rotation, until it is resumed.

    What a person asks for, by rotate or drain, works all the same.
    """
    api = PoolApi.of(settings)
    answer = api.post("/pool/pause", {"reason": reason})
    if as_json:
        print_json(answer)
    elif answer["changed"]:
        click.echo(f"Automatic rotation is paused, revision {answer['revision']}.")
    else:
        click.echo(f"It is paused already, {_set_by(answer['paused'])}: nothing to do.")
    if wait is not None:
        _await_heard(api, answer["revision"], wait, quiet=as_json)


@click.command()
@json_flag
@with_settings(CLIENT)
def resume(settings: Settings, *, as_json: bool) -> None:
    """Let the pool rotate by itself again, whoever paused it."""
    answer = PoolApi.of(settings).post("/pool/resume", {})
    if as_json:
        print_json(answer)
    elif answer["changed"]:
        click.echo(f"Automatic rotation goes on, revision {answer['revision']}.")
    else:
        click.echo("Automatic rotation is not paused: nothing to do.")


# --- what is said --------------------------------------------------------------------------


def _server(status: dict[str, Any], name: str) -> dict[str, Any]:
    for server in status["servers"]:
        if server["name"] == name:
            found: dict[str, Any] = server
            return found
    raise UnknownServer(f"No server of the pool is called {name}: see 'livekit-pool status'.")


def _question(status: dict[str, Any], server: dict[str, Any]) -> str:
    if server["name"] != status["active"]:
        return f"Drain {server['name']}?"
    where = next_standby(status) or "the next available server, if there is one"
    return f"Drain {server['name']}, the active server, and rotate to {where}?"


def _drained(answer: dict[str, Any], *, was_active: bool) -> str:
    name, revision, rotation = answer["server"]["name"], answer["revision"], answer["rotation"]
    if not answer["changed"]:
        return f"{name} is drained already, {_set_by(answer['server']['drained'])}: nothing to do."
    if rotation is not None:
        return f"Drained {name} and rotated to {rotation['to']}, revision {revision}."
    if was_active:
        return (
            f"Drained {name}, revision {revision}. It stays the active server, since no other is"
            " available: new rooms are refused until one is."
        )
    return f"Drained {name}, revision {revision}."


def _set_by(mark: dict[str, Any]) -> str:
    return f"by {mark['by']} since {local_time(mark['since'])} ({mark['reason']})"


# --- what is waited for --------------------------------------------------------------------


def _await_empty(api: PoolApi, name: str, revision: int, limit: float, *, quiet: bool) -> None:
    """Wait until every process knows of the drain and nobody is left on server ``name``."""

    def left(status: dict[str, Any]) -> str:
        server = _server(status, name)
        # Whoever answers may not have heard of the drain yet.
        if not server["drained"] and status["revision"] >= revision:
            raise PoolError(f"{name} was undrained meanwhile: it is not waited for any more.")
        # Those who came past the pool are in the rate at which minutes are used.
        participants = max(server["participants"], round(server["burn_rate"] or 0))
        if participants == 1:
            return f"1 participant is left on {name}"
        if participants:
            return f"{participants} participants are left on {name}"
        return _unheard(status, revision)

    _await(api, left, limit, quiet=quiet)
    if not quiet:
        click.echo(f"Nobody is left on {name}.")


def _await_heard(api: PoolApi, revision: int, limit: float, *, quiet: bool) -> None:
    """Wait until every process follows a document of ``revision`` or a newer one."""
    _await(api, lambda status: _unheard(status, revision), limit, quiet=quiet)
    if not quiet:
        click.echo("Every process of the pool has heard of it.")


def _unheard(status: dict[str, Any], revision: int) -> str:
    processes = status["processes"]
    lacking = sum(process["revision"] < revision for process in processes)
    if not lacking:
        return ""
    verb = "has" if lacking == 1 else "have"
    return f"{lacking} of {len(processes)} processes {verb} not heard of it yet"


def _await(
    api: PoolApi, missing: Callable[[dict[str, Any]], str], limit: float, *, quiet: bool
) -> None:
    """
    Look again and again until nothing is ``missing``; say what is, each time that changes.

    Raises:
        PoolError: something still is after ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    said = ""
    while what := missing(api.get("/pool/status")):
        if time.monotonic() >= deadline:
            raise PoolError(f"After {limit:g} s, {what}.")
        if what != said and not quiet:
            click.echo(f"{what[0].upper()}{what[1:]}.")
        said = what
        time.sleep(min(PERIOD, max(0.0, deadline - time.monotonic())))
