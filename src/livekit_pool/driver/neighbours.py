"""
Neighbours: what the other processes of the pool have and see, by their rows in the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.events import ProbeOutcome, RowsSeen, SignedSight
from ..stores.base import LIVING, ProcessRow

__all__ = ["seen_in", "signed_sight"]


def seen_in(rows: Sequence[ProcessRow], own: ProcessRow, now: float) -> RowsSeen:
    """
    What the living processes' ``rows`` say to the process of the row ``own``.

    Its own row counts as it is now, and whether or not the store has it yet. What a row says of
    health counts for `LIVING` seconds from ``now`` back, also in a store where rows live longer:
    its process may be gone with the very server that it saw up.
    """
    others = [row for row in rows if row.process != own.process]
    everybody = [*others, own]
    here: dict[str, bool] = {}
    signed: dict[str, SignedSight] = {}
    elsewhere: dict[str, dict[str, bool]] = {}
    for row in others:
        seen = elsewhere.setdefault(row.host, {}) if row.host != own.host else here
        if row.probing and now - row.beat <= LIVING:
            seen.update(_sight(row))
        if row.host == own.host:
            for name, sight in _signed(row).items():
                if name not in signed or signed[name].began < sight.began:
                    signed[name] = sight
    return RowsSeen(
        lists=tuple(row.names for row in everybody),
        health=here,
        signed=signed,
        elsewhere=tuple(elsewhere[host] for host in sorted(elsewhere)),
        participants=sum(sum(row.sessions.values()) for row in everybody),
        agreed=len({row.fingerprint for row in everybody}) == 1,
    )


def _sight(row: ProcessRow) -> Mapping[str, bool]:
    return {
        name: seen.get("health") == "up"
        for name, seen in row.health.items()
        if seen.get("health") in ("up", "down")
    }


def signed_sight(seen: SignedSight) -> Mapping[str, object]:
    """What a row has under ``signed`` of a server, for `seen_in` of the others."""
    told: dict[str, object] = {"outcome": seen.outcome.value, "began": seen.began}
    return {**told, "detail": seen.detail, **({"joined": True} if seen.joined else {})}


def _signed(row: ProcessRow) -> Mapping[str, SignedSight]:
    """The newest signed probes that a row tells of; what it says otherwise tells of none."""
    found = {}
    for name, seen in row.health.items():
        match seen.get("signed"):
            case {"outcome": str(outcome), "began": int() | float() as began, **more}:
                if outcome in set(ProbeOutcome):
                    found[name] = SignedSight(
                        outcome=ProbeOutcome(outcome),
                        began=began,
                        detail=str(more.get("detail", "")),
                        joined=more.get("joined") is True,
                    )
    return found
