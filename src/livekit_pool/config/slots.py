"""
The list of servers, put together from variables and YAML.

Position n is ``LIVEKIT_SERVERS_n_*`` in the environment and the n-th entry, from 0, of ``servers``
in YAML. The fields of one server may come from both, name by name; the environment wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..exceptions import ConfigurationError
from ..servers import Server, checked
from .sources import Given
from .values import Kind, integer, number, reset, text

__all__ = ["SLOTS", "Listed", "read_servers"]

SLOTS = 20
"""Servers that the environment can hold by itself, as in the system this pool grew out of."""

_REQUIRED = ("url", "key", "secret")
_FIELDS: Mapping[str, Kind[Any]] = {
    "url": text,
    "key": text,
    "secret": text,
    "name": text,
    "weight": number(above=0, what="a number"),
    "minutes": number(above=0, what="a number of participant minutes"),
    "max_participants": integer(1, 10**9),
    "reset": reset,
}
_VARIABLE = re.compile(r"LIVEKIT_SERVERS_(0|[1-9][0-9]{0,5})_([A-Z_]+)")
_PREFIX = "LIVEKIT_SERVERS_"
_SINGLE = {"url": "LIVEKIT_URL", "key": "LIVEKIT_API_KEY", "secret": "LIVEKIT_API_SECRET"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The servers, the label of each one's URL setting, and what to warn of."""

    servers: tuple[Server, ...]
    url_labels: tuple[str, ...]
    warnings: tuple[str, ...]


def read_servers(
    variables: Mapping[str, Given], entries: object = None, file: Path | None = None
) -> Listed:
    """
    Build the checked list of servers.

    Args:
        variables: from the environment and .env files.
        entries: what YAML has under ``servers``.
        file: the YAML file, for errors.

    Raises:
        ConfigurationError: there is none, one is incomplete or wrong, or there are too many.
    """
    rows = _yaml_rows(entries, file)
    in_file = len(rows)
    warnings: list[str] = []
    for variable, given in sorted(variables.items()):
        if not variable.startswith(_PREFIX):
            continue
        match = _VARIABLE.fullmatch(variable)
        if match is None or match[2].lower() not in _FIELDS:
            warnings.append(
                f"{given.label} is not used: names are {_PREFIX}0_ to {_PREFIX}{SLOTS - 1}_ with "
                f"{', '.join(name.upper() for name in _FIELDS)}."
            )
            continue
        position = int(match[1])
        if position >= max(SLOTS, in_file):
            raise ConfigurationError(
                f"{given.label} is one too many: the environment holds at most {SLOTS} servers, "
                f"0 to {SLOTS - 1}; list more in a YAML file and give it by --config."
            )
        rows.setdefault(position, {})[match[2].lower()] = given
    if rows:
        gaps = [str(position) for position in range(max(rows)) if position not in rows]
        if gaps:
            warnings.append(
                f"No server at {_PREFIX}{', '.join(gaps)}: the others keep their order."
            )
        names = [_slot_names(position, in_file) for position in sorted(rows)]
        ordered = [rows[position] for position in sorted(rows)]
    else:
        names = [_SINGLE]
        ordered = [
            {name: variables[known] for name, known in _SINGLE.items() if known in variables}
        ]
        if not ordered[0]:
            raise ConfigurationError(
                f"There is no server: set {_PREFIX}0_URL, {_PREFIX}0_KEY and {_PREFIX}0_SECRET "
                f"(then 1 to {SLOTS - 1}), or LIVEKIT_URL, LIVEKIT_API_KEY and "
                "LIVEKIT_API_SECRET for one, in the environment or in .env.local."
            )
    servers = [_server(row, known) for row, known in zip(ordered, names, strict=True)]
    labels = [{name: given.label for name, given in row.items()} for row in ordered]
    # A default name comes from the URL, so that is the setting to change.
    labels = [{"name": row["url"], **row} for row in labels]
    return Listed(
        servers=checked(servers, labels=labels),
        url_labels=tuple(row["url"] for row in labels),
        warnings=tuple(warnings),
    )


def _yaml_rows(entries: object, file: Path | None) -> dict[int, dict[str, Given]]:
    if entries is None:
        return {}
    if not isinstance(entries, list):
        raise ConfigurationError(f"servers in {file} must be a list: start each with '- url:'.")
    rows: dict[int, dict[str, Given]] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ConfigurationError(
                f"servers[{position}] in {file} must have 'name: value' lines: url, key, secret."
            )
        row = rows[position] = {}
        for name, value in entry.items():
            if name not in _FIELDS:
                raise ConfigurationError(
                    f"servers[{position}] in {file} has an unknown name"
                    f"{did_you_mean(name, _FIELDS)}"
                )
            if value is not None and value != "":
                row[name] = Given(value=value, label=f"servers[{position}].{name} in {file}")
    return rows


def did_you_mean(name: object, known: Mapping[str, object]) -> str:
    """
    Return the end of a sentence about an unknown ``name``.

    The name itself is quoted only if it is close to a known one: it may be a misplaced secret.
    """
    close = get_close_matches(str(name), known, n=1)
    if close:
        return f", {str(name)[:60]!r} (did you mean {close[0]!r}?)."
    return f": known are {', '.join(known)}."


def _slot_names(position: int, in_file: int) -> dict[str, str]:
    names = {name: f"{_PREFIX}{position}_{name.upper()}" for name in _REQUIRED}
    if position < in_file:
        names = {
            name: f"servers[{position}].{name} (or {variable})" for name, variable in names.items()
        }
    return names


def _server(row: Mapping[str, Given], names: Mapping[str, str]) -> Server:
    """Build one server; ``names`` says what a missing field would be called."""
    missing = [names[name] for name in _REQUIRED if name not in row]
    if missing:
        there = sorted(given.label for given in row.values())
        beside = f" beside {', '.join(there)}" if there else ""
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigurationError(
            f"{' and '.join(missing)} {verb} missing{beside}: a server needs URL, key and secret."
        )
    values: dict[str, Any] = {}
    for name, given in row.items():
        try:
            values[name] = _FIELDS[name](given.value)
        except ValueError as error:
            raise ConfigurationError(f"{given.label} {error}.") from None
    return Server(**values)
