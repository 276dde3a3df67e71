"""
The living processes of a pool as ``livekit-pool status`` shows them, and how their lists differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from .output import Table, duration, seconds_until

__all__ = ["differences", "everywhere", "process_table", "summary"]

COLUMNS = (
    "PROCESS",
    "MACHINE",
    "STARTED",
    "LAST SEEN",
    "PROBES",
    "PARTICIPANTS",
    "LIST",
    "SERVERS",
)
#: Digits of a list's fingerprint that are shown: enough to tell a few lists apart.
DIGITS = 8

_Process = Mapping[str, Any]


def summary(processes: Sequence[_Process]) -> str:
    """How many there are, and on how many machines if these are several: for one line."""
    hosts = len({process["host"] for process in processes})
    counted = _counted(len(processes), "process")
    return counted if hosts < 2 else f"{counted} on {_counted(hosts, 'machine')}"


def process_table(processes: Sequence[_Process]) -> Table:
    """A line for each process."""
    return Table(columns=COLUMNS, rows=[_row(process) for process in processes])


def everywhere(processes: Sequence[_Process]) -> set[str]:
    """Names of the servers that every process has: only these are chosen automatically."""
    if not processes:
        return set()
    return set[str].intersection(*(set(process["servers"]) for process in processes))


def differences(processes: Sequence[_Process]) -> list[str]:
    """
    What an operator should read of processes with different lists: a line for each of those lists.

    Each is compared with the list that most processes have.
    """
    names = {name for process in processes for name in process["servers"]}
    prints = Counter(str(process["fingerprint"]) for process in processes)
    usual_print, _ = prints.most_common(1)[0]
    usual = next(p["servers"] for p in processes if p["fingerprint"] == usual_print)
    lines = ["Processes have different lists of servers:"]
    ranked = sorted(processes, key=lambda p: (-prints[p["fingerprint"]], p["fingerprint"]))
    for fingerprint, group in groupby(ranked, key=lambda process: str(process["fingerprint"])):
        with_it = list(group)
        servers = with_it[0]["servers"]
        remark = _remark(servers, usual, names, is_usual=fingerprint == usual_print)
        lines.append(f"  {', '.join(servers)}{remark}: {_who(with_it)}")
    if lacking := sorted(names - everywhere(processes)):
        lines.append(f"Not chosen automatically until every process has it: {', '.join(lacking)}.")
    return lines


def _remark(
    servers: Sequence[str], usual: Sequence[str], names: Collection[str], *, is_usual: bool
) -> str:
    if lacking := sorted(set(names) - set(servers)):
        return f" (without {', '.join(lacking)})"
    if is_usual:
        return ""
    if list(servers) == list(usual):
        return " (with another URL, key or limit)"
    return " (in another order)" if set(servers) == set(usual) else ""


def _who(processes: Sequence[_Process]) -> str:
    """``machine1 (2 processes) and machine2 (1 process)``."""
    hosts = Counter(str(process["host"]) for process in processes)
    each = [f"{host} ({_counted(count, 'process')})" for host, count in sorted(hosts.items())]
    return each[0] if len(each) == 1 else f"{', '.join(each[:-1])} and {each[-1]}"


def _row(process: _Process) -> list[str]:
    return [
        process["process"],
        process["host"],
        f"{duration(-seconds_until(process['started']))} ago",
        f"{duration(-seconds_until(process['last_seen']))} ago",
        "yes" if process["probing"] else "no",
        str(process["participants"]),
        process["fingerprint"][:DIGITS],
        ", ".join(process["servers"]),
    ]


def _counted(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what}{'es' if what.endswith('s') else 's'}"
