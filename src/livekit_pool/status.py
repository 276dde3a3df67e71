"""
Status: the pool as a person wants to see it, from what one process and its neighbours know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .core import budget
from .core.budget import Usage
from .core.document import Mark
from .core.health import Health
from .core.stored import rfc3339
from .driver import Driver
from .exceptions import StoreError
from .metering import Metering
from .stores.base import ProcessRow

__all__ = ["status"]


async def status(driver: Driver, metering: Metering) -> dict[str, object]:
    """
    The answer of ``GET /pool/status``.

    Figures are sums over all living processes. While the store does not answer, over those that
    were living when it was read last, with this process's own as they are now.

    Raises:
        NoAnswer: there is no document yet.
    """
    if driver.store_ok:  # what is remembered may be old
        await driver.fresh()
    rows, rooms = await _read(driver)
    # After all that is waited for: a rotation meanwhile would be told by halves.
    document, step = driver.document, driver.step
    names = list(driver.servers)
    names += sorted({name for row in rows for name in row.names} - driver.servers.keys())
    return {
        "revision": document.revision,
        "active": driver.active_server,
        "provisional": None
        if step is None
        else {"instead_of": document.active_server, "since": rfc3339(step.since)},
        "paused": _mark(document.paused),
        "store": {
            "url": driver.store.url,
            "ok": driver.store_ok,
            "detail": driver.store_detail or None,
        },
        "lists_differ": len({row.fingerprint for row in rows}) > 1,
        "processes": [_process(row, driver) for row in rows],
        "servers": [
            _server(name, driver, rows, rooms.get(name, 0))
            | _minutes(name, driver, metering.usage(name, rows))
            for name in names
        ],
    }


async def _read(driver: Driver) -> tuple[Sequence[ProcessRow], Mapping[str, int]]:
    """The living processes' rows, with this one's as it is now; and the rooms of each server."""
    rows: Sequence[ProcessRow] = driver.rows
    rooms: Mapping[str, int] = driver.rooms()
    if driver.store_ok:
        try:
            rows = await driver.living()
            if driver.store.keeps_placements:
                rooms = await driver.store.rooms()
        except StoreError as error:
            driver.store_failed(error)
    own = replace(driver.row(), beat=driver.now())
    others = [row for row in rows if row.process != own.process]
    return sorted([*others, own], key=lambda row: (row.host, row.started, row.process)), rooms


def _process(row: ProcessRow, driver: Driver) -> dict[str, object]:
    return {
        "process": row.process,
        "host": row.host,
        "started": rfc3339(row.started),
        "last_seen": rfc3339(row.beat),
        "servers": list(row.names),
        "fingerprint": row.fingerprint,
        "same_list": row.fingerprint == driver.fingerprint,
        "probing": row.probing,
        "revision": row.revision,
        "participants": sum(row.sessions.values()),
    }


def _server(name: str, driver: Driver, rows: Sequence[ProcessRow], rooms: int) -> dict[str, object]:
    now, record = driver.now(), driver.machine.record(name)
    cooling = record.cooling(now)
    health, probe = _seen(name, driver, rows)
    server = driver.servers.get(name)
    return {
        "name": name,
        "url": server and server.url,
        "role": driver.machine.role(name, now).value,
        "health": health.value,
        "cool_down_until": rfc3339(record.cool_down_until)
        if cooling and record.cool_down_until
        else None,
        "cause": record.cool_down_cause if cooling else None,
        "drained": _mark(record.drained),
        "rooms": rooms,
        "participants": sum(row.sessions.get(name, 0) for row in rows),
        "last_probe": probe,
    }


def _minutes(name: str, driver: Driver, usage: Usage) -> dict[str, object]:
    """Minutes of participants; all null of a server that this process does not have."""
    keys = ("minutes_used", "minutes_left", "minutes_budget", "minutes_reset", "burn_rate")
    if name not in driver.servers:
        return dict.fromkeys((*keys, "runs_out"))
    now, limits = driver.now(), driver.machine.limits[name]
    left, runs_out = budget.left(usage, limits, now), budget.runs_out(usage, limits, now)
    return {
        "minutes_used": round(usage.used, 2),
        "minutes_left": None if left is None else round(left, 2),
        "minutes_budget": limits.minutes,
        "minutes_reset": None if usage.ends is None else rfc3339(usage.ends),
        "burn_rate": float(usage.participants),
        "runs_out": None if runs_out is None else rfc3339(runs_out),
    }


def _seen(
    name: str, driver: Driver, rows: Sequence[ProcessRow]
) -> tuple[Health, Mapping[str, object] | None]:
    """
    Health of a server and its last probe: as this machine sees it, else as others do.

    Of several views the machine's own counts, and of its processes the one that probes for it.
    """
    own = driver.last_probe.get(name)
    health, probe = driver.machine.health(name), own.public() if own else None
    ranked = sorted(
        (row for row in rows if row.probing and name in row.health),
        key=lambda row: (row.host != driver.host, row.process == driver.process),
    )
    if ranked and (ranked[0].host == driver.host or probe is None):
        other = dict(ranked[0].health[name])
        other.pop("signed", None)
        return Health(str(other.pop("health"))), other
    return health, probe


def _mark(mark: Mark | None) -> dict[str, object] | None:
    if mark is None:
        return None
    return {"by": mark.by, "since": rfc3339(mark.since), "reason": mark.reason}
