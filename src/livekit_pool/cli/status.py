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
from .processes import differences, everywhere, process_table, summary

__all__ = ["next_standby", "status", "status_table"]

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
#: In place of the URL of a server that the process that answers does not have.
NOT_OURS = "(in other lists)"
#: Seconds between two looks of --watch.
PERIOD = 2.0


@click.command()
@click.option("--watch", is_flag=True, help=f"Show it again each {PERIOD:g} s, until Ctrl-C.")
@click.option(
    "--processes",
    is_flag=True,
    help="Show the pool's processes too; they are shown anyway while their lists differ.",
)
@json_flag
@with_settings(CLIENT)
def status(settings: Settings, watch: bool, processes: bool, as_json: bool) -> None:
    """Show which server is active, and how all of them are."""
    api = PoolApi.of(settings)
    if watch:
        _watch(api, processes, as_json)
        return
    answer = api.get("/pool/status")
    if as_json:
        print_json(answer)
    else:
        status_table(answer, processes=processes).show()


def status_table(answer: dict[str, Any], *, processes: bool = False) -> Table:
    """
    The answer of ``GET /pool/status`` as a table.

    Args:
        processes: whether to show each process also while all have the same list of servers.
    """
    running = answer["processes"]
    header = [
        f"revision {answer['revision']}",
        f"active {answer['active']}" + (" (provisional)" if answer["provisional"] else ""),
        f"store {answer['store']['url']}",
        summary(running),
    ]
    if answer["paused"]:
        header.append("PAUSED")
    return Table(
        header="  ".join(header),
        columns=COLUMNS,
        optional=OPTIONAL,
        rows=[_row(server) for server in answer["servers"]],
        below=process_table(running) if processes or answer["lists_differ"] else None,
        footer=_warnings(answer),
    )


def _row(server: dict[str, Any]) -> list[str]:
    until, drained = server.get("cool_down_until"), server.get("drained")
    return [
        server["name"],
        server["url"] or NOT_OURS,
        server["role"],
        server["health"],
        str(server["rooms"]),
        str(server["participants"]),
        duration(seconds_until(until)) if until else "",
        server.get("cause") or "",
        f"by {drained['by']}: {drained['reason']}" if drained else "",
        _minutes(server),
        _probe(server.get("last_probe")),
    ]


def _minutes(server: dict[str, Any]) -> str:
    """``410.5 of 500``, and in how long the rest is out if it is before the reset."""
    budget, out = server.get("minutes_budget"), server.get("runs_out")
    if budget is None:
        return ""
    shown = f"{server['minutes_used']:.1f} of {budget:g}"
    return f"{shown}, out in {duration(seconds_until(out))}" if out else shown


def _probe(probe: dict[str, Any] | None) -> str:
    """
    ``passed in 1.2 ms, 0 s ago``; what went wrong instead of the time it took, if it did.

    That it answers, but fails calls, stands behind the time.
    """
    if not probe:
        return ""
    outcome = str(probe.get("outcome", ""))
    if outcome == "passed":
        _, but, why = str(probe.get("detail", "")).partition(", but ")
        shown = f"{outcome} in {probe.get('duration', 0) * 1000:.1f} ms{but}{why}"
    else:
        shown = f"{outcome}: {probe['detail']}" if probe.get("detail") else outcome
    at = probe.get("at")
    return f"{shown}, {duration(-seconds_until(at))} ago" if at else shown


def _warnings(answer: dict[str, Any]) -> list[str]:
    lines = _store_warnings(answer)
    if paused := answer["paused"]:
        since = local_time(paused["since"])
        lines.insert(
            0, f"Automatic rotation is paused by {paused['by']} since {since}: {paused['reason']}"
        )
    servers = answer["servers"]
    active = next((one for one in servers if one["name"] == answer["active"]), None)
    if active is None or active["health"] == "down":
        lines.append(f"The active server, {answer['active']}, is down.")
    if active is not None and active["drained"]:
        lines.append(
            f"The active server, {active['name']}, is drained: new rooms are refused until another"
            " server is available."
        )
    if len(servers) > (active is not None) and next_standby(answer) is None:
        lines.append("No other server is available: there is nowhere to rotate to.")
    lines += [
        f"{one['name']} refuses its key: correct the key and secret in the configuration."
        for one in servers
        if one["role"] == "misconfigured"
    ]
    return lines + (differences(answer["processes"]) if answer["lists_differ"] else [])


def _store_warnings(answer: dict[str, Any]) -> list[str]:
    store, step = answer["store"], answer["provisional"]
    lines = []
    if not store["ok"]:
        lines.append("The store cannot be used: the pool works with what it read last.")
        if detail := store["detail"]:
            lines.append(f"  {detail[0].upper()}{detail[1:]}")
    if step:
        lines.append(
            f"{answer['active']} stands in for {step['instead_of']} since"
            f" {local_time(step['since'])}: a provisional step, which becomes a rotation when the"
            f" store is back, if {step['instead_of']} is still down."
        )
    return lines


def next_standby(answer: dict[str, Any]) -> str | None:
    """
    The server that the pool would choose, as far as its status tells; None if there is none.

    Only to be shown: the pool decides, when it is asked.
    """
    servers = answer["servers"]
    names = [server["name"] for server in servers]
    start = names.index(answer["active"]) + 1 if answer["active"] in names else 0
    shared = everywhere(answer["processes"])
    for server in servers[start:] + servers[:start]:
        well = server["role"] == "standby" and server["health"] == "up"
        if well and server["name"] in shared:
            return str(server["name"])
    return None


def _watch(api: PoolApi, processes: bool, as_json: bool) -> None:
    """Show it again and again; a pool that does not answer for a while is waited for."""
    try:
        if as_json:
            while True:
                print_json(api.get("/pool/status"), one_line=True)
                time.sleep(PERIOD)
        if not is_terminal():
            while True:
                _show_once(api, processes)
                time.sleep(PERIOD)
        with Live(console=Console(highlight=False), auto_refresh=False) as live:
            last = None
            while True:
                try:
                    answer = api.get("/pool/status")
                    last = status_table(answer, processes=processes).boxed()
                    live.update(last, refresh=True)
                except NoAnswer as error:
                    known = [last] if last is not None else []
                    live.update(Group(*known, Text(str(error), style="bold red")), refresh=True)
                time.sleep(PERIOD)
    except KeyboardInterrupt:
        return


def _show_once(api: PoolApi, processes: bool) -> None:
    try:
        click.echo(status_table(api.get("/pool/status"), processes=processes).plain() + "\n")
    except PoolError as error:
        click.echo(f"{error}\n")
