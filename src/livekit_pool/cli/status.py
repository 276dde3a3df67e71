"""
``livekit-pool status``.
"""

from __future__ import annotations

import time
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ..config import Settings
from ..exceptions import NoAnswer, PoolError
from .api import PoolApi
from .flags import CLIENT, json_flag, with_settings
from .output import Table, duration, is_terminal, local_time, print_json, seconds_until

__all__ = ["status", "status_table"]

COLUMNS = (
    "SERVER",
    "URL",
    "ROLE",
    "HEALTH",
    "ROOMS",
    "PARTICIPANTS",
    "COOL-DOWN LEFT",
    "CAUSE",
    "DRAINED",
    "MINUTES",
    "LAST PROBE",
)
OPTIONAL = frozenset({"COOL-DOWN LEFT", "CAUSE", "DRAINED", "MINUTES"})
#: Seconds between two looks of --watch.
PERIOD = 2.0


@click.command()
@click.option("--watch", is_flag=True, help=f"Show it again each {PERIOD:g} s, until Ctrl-C.")
@json_flag
@with_settings(CLIENT)
def status(settings: Settings, watch: bool, as_json: bool) -> None:
    """Show which server is active, and how all of them are."""
    api = PoolApi.of(settings)
    if watch:
        _watch(api, as_json)
        return
    answer = api.get("/pool/status")
    if as_json:
        print_json(answer)
    else:
        status_table(answer).show()


def status_table(answer: dict[str, Any]) -> Table:
    """The answer of ``GET /pool/status`` as a table."""
    paused = answer.get("paused")
    header = [
        f"revision {answer['revision']}",
        f"active {answer['active']}",
        f"store {answer['store']['url']}",
    ]
    if paused:
        header.append("PAUSED")
    return Table(
        header="  ".join(header),
        columns=COLUMNS,
        optional=OPTIONAL,
        rows=[_row(server) for server in answer["servers"]],
        footer=_warnings(answer),
    )


def _row(server: dict[str, Any]) -> list[str]:
    until, drained = server.get("cool_down_until"), server.get("drained")
    used, left = server.get("minutes_used"), server.get("minutes_left")
    minutes = "" if used is None else f"{used:g}" + ("" if left is None else f" of {used + left:g}")
    return [
        server["name"],
        server["url"],
        server["role"],
        server["health"],
        str(server["rooms"]),
        str(server["participants"]),
        duration(seconds_until(until)) if until else "",
        server.get("cause") or "",
        f"by {drained['by']}: {drained['reason']}" if drained else "",
        minutes,
        _probe(server.get("last_probe")),
    ]


def _probe(probe: dict[str, Any] | None) -> str:
    """``passed in 1.2 ms, 0 s ago``; what went wrong instead of the time it took, if it did."""
    if not probe:
        return ""
    outcome = str(probe.get("outcome", ""))
    if outcome == "passed":
        shown = f"{outcome} in {probe.get('duration', 0) * 1000:.1f} ms"
    else:
        shown = f"{outcome}: {probe['detail']}" if probe.get("detail") else outcome
    at = probe.get("at")
    return f"{shown}, {duration(-seconds_until(at))} ago" if at else shown


def _warnings(answer: dict[str, Any]) -> list[str]:
    lines = []
    paused = answer.get("paused")
    if paused:
        since = local_time(paused["since"])
        lines.append(
            f"Automatic rotation is paused by {paused['by']} since {since}: {paused['reason']}"
        )
    if not answer["store"]["ok"]:
        lines.append("The store does not answer: the pool works with what it read last.")
    servers = answer["servers"]
    active = next((one for one in servers if one["name"] == answer["active"]), None)
    others = [one for one in servers if one is not active]
    if active is None or active["health"] == "down":
        lines.append(f"The active server, {answer['active']}, is down.")
    if others and not any(one["role"] == "standby" and one["health"] == "up" for one in others):
        lines.append("No other server is available: there is nowhere to rotate to.")
    lines += [
        f"{one['name']} refuses its key: correct the key and secret in the configuration."
        for one in servers
        if one["role"] == "misconfigured"
    ]
    return lines


def _watch(api: PoolApi, as_json: bool) -> None:
    """Show it again and again; a pool that does not answer for a while is waited for."""
    try:
        if as_json:
            while True:
                print_json(api.get("/pool/status"), one_line=True)
                time.sleep(PERIOD)
        if not is_terminal():
            while True:
                _show_once(api)
                time.sleep(PERIOD)
        with Live(console=Console(highlight=False), auto_refresh=False) as live:
            last = None
            while True:
                try:
                    last = status_table(api.get("/pool/status")).boxed()
                    live.update(last, refresh=True)
                except NoAnswer as error:
                    known = [last] if last is not None else []
                    live.update(Group(*known, Text(str(error), style="bold red")), refresh=True)
                time.sleep(PERIOD)
    except KeyboardInterrupt:
        return


def _show_once(api: PoolApi) -> None:
    try:
        click.echo(status_table(api.get("/pool/status")).plain() + "\n")
    except PoolError as error:
        click.echo(f"{error}\n")
