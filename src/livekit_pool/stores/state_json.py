"""
The file of an exported state: its form, and every check of one that is read.

What is in such a file decides where everybody is sent, and may have been edited by hand: nothing
in it is repaired. What is not as a pool writes it is refused with a sentence that names the field.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeGuard

from ..core.document import SCHEMA, Document, Rotation
from ..core.stored import (
    from_mapping,
    rfc3339,
    rotation_from_mapping,
    rotation_to_mapping,
    to_mapping,
)
from ..exceptions import ConfigurationError
from .base import Ledger, Placement, check_totals

__all__ = ["FORMAT", "VERSION", "State", "state_from_json", "state_to_json"]

FORMAT: Final = "livekit-pool state"
"""What the file says it is."""

VERSION: Final = 1
"""The version of its form that this program writes, and the only one it reads."""

# Not every store keeps greater numbers exactly.
_TOO_HIGH: Final = 2**53
# And the pool will count on from a revision.
_HIGHEST_REVISION: Final = 2**53 - 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """
    All that one pool remembers, but for its living processes.

    Attributes:
        store: URL of the store it was read from, without user info.
        exported_at: when, seconds since the epoch by that store's time.
        document: the document.
        history: all rotations, oldest first.
        placements: of all rooms, in the order of their names.
        ledger: all that was counted.
    """

    store: str
    exported_at: float
    document: Document
    history: tuple[Rotation, ...] = ()
    placements: tuple[Placement, ...] = ()
    ledger: Ledger = field(default_factory=dict)


class _Nonsense(Exception):
    """A field that is not as a pool writes it; completes a sentence that begins with the file."""


def state_to_json(state: State) -> str:
    """Write ``state`` as the text of a file."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "exported_at": rfc3339(state.exported_at),
        "store": state.store,
        "document": to_mapping(state.document),
        "history": [rotation_to_mapping(rotation) for rotation in state.history],
        "placements": [
            {"room": each.room, "server": each.server, "revision": each.revision}
            for each in state.placements
        ],
        "ledger": {writer: dict(sums) for writer, sums in state.ledger.items()},
    }
    return json.dumps(content, indent=2) + "\n"


def state_from_json(text: str, name: str) -> State:
    """
    Read the text of a file called ``name``.

    Raises:
        ConfigurationError: it is not a state that this version reads; names the field.
    """
    try:
        return _state(_content(text))
    except _Nonsense as nonsense:
        raise ConfigurationError(f"{name}: {nonsense}.") from None


def _content(text: str) -> Mapping[str, object]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise _Nonsense("this is not JSON; export the state again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _Nonsense(f'this is no exported state: "format" must be "{FORMAT}"')
    version = content.get("version")
    if not _is_whole(version, 1):
        raise _Nonsense(f"version must be a whole number such as {VERSION}")
    if version != VERSION:
        raise _Nonsense(
            f"version is {_brief(version)}, this livekit-pool reads {VERSION}; use the one that"
            " wrote it"
        )
    return content


def _state(content: Mapping[str, object]) -> State:
    _no_others(content, State.__dataclass_fields__.keys() | {"format", "version"}, "")
    return State(
        store=_text(content, "store", ""),
        exported_at=_moment(content),
        document=_document(content.get("document")),
        history=tuple(_history(content.get("history"))),
        placements=tuple(_placements(content.get("placements"))),
        ledger=_ledger(content.get("ledger")),
    )


def _document(stored: object) -> Document:
    if not isinstance(stored, dict):
        raise _Nonsense('document must be an object in braces, "{...}"')
    _text(stored, "activeServer", "document.")
    try:
        document, _ = from_mapping(stored, ())
    except ValueError:
        raise _Nonsense(
            f"document.schema is {_brief(stored.get('schema'))}, this version reads {SCHEMA}"
        ) from None
    # What reading had to repair, or did not know, is what would be written otherwise.
    _same(stored, to_mapping(document), "document")
    _revision(document.revision, "document.revision")
    return document


def _history(stored: object) -> Iterator[Rotation]:
    before = 0
    for path, entry in _objects(stored, "history"):
        try:
            rotation = rotation_from_mapping(entry)
        except ValueError:
            raise _Nonsense(f"{path}.from and {path}.to must be names of servers") from None
        _same(entry, rotation_to_mapping(rotation), path)
        _revision(rotation.revision, f"{path}.revision")
        if rotation.revision <= before:
            raise _Nonsense(f"{path}.revision must be higher than the one before it")
        before = rotation.revision
        yield rotation


def _placements(stored: object) -> Iterator[Placement]:
    rooms = set()
    for path, entry in _objects(stored, "placements"):
        _no_others(entry, {"room", "server", "revision"}, f"{path}.")
        room, server = _text(entry, "room", f"{path}."), _text(entry, "server", f"{path}.")
        if room in rooms:
            raise _Nonsense(f"{path}.room comes twice")
        rooms.add(room)
        revision = _revision(entry.get("revision"), f"{path}.revision")
        yield Placement(room=room, server=server, revision=revision)


def _ledger(stored: object) -> Ledger:
    if not isinstance(stored, dict):
        raise _Nonsense('ledger must be an object in braces, "{...}"')
    for writer, sums in stored.items():
        path = f"ledger.{_shown(writer)}"
        _encodable(writer, path)
        if not isinstance(sums, dict):
            raise _Nonsense(f'{path} must be an object in braces, "{{...}}"')
        for key, total in sums.items():
            _encodable(key, f"{path}.{_shown(key)}")
            try:
                if not _is_whole(total, 0):
                    raise ValueError
                check_totals({writer: {key: total}})
            except ValueError:
                raise _Nonsense(
                    f"{path}.{_shown(key)} must be a whole number from 0 to 2**53 - 1"
                ) from None
    return stored


def _moment(content: Mapping[str, object]) -> float:
    try:
        moment = datetime.fromisoformat(_text(content, "exported_at", ""))
        if moment.tzinfo is None:
            raise ValueError
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise _Nonsense("exported_at must be a time such as 2026-11-25T12:00:00.000Z") from None


# -- checks of single fields --


def _same(given: object, written: object, path: str) -> None:
    """Refuse the first field of ``given`` that is not what a pool writes for it."""
    if isinstance(written, dict) and isinstance(given, dict):
        _no_others(given, written.keys(), f"{path}.")
        for key, value in written.items():
            if key not in given:
                raise _Nonsense(f"{path}.{_shown(key)} is missing")
            _same(given[key], value, f"{path}.{_shown(key)}")
    # To Python true is 1: no field of ours is true or false.
    elif given != written or isinstance(given, bool) or _is_whole(given, _TOO_HIGH):
        raise _Nonsense(f"{path} is not what a pool writes there; put back what was exported")
    elif isinstance(given, str):
        _encodable(given, path)


def _no_others(given: Mapping[str, object], known: Collection[str], path: str) -> None:
    for key in given:
        if key not in known:
            raise _Nonsense(f"{path}{_shown(key)} is not a field of version {VERSION}")


def _objects(stored: object, path: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    if not isinstance(stored, list):
        raise _Nonsense(f'{path} must be a list in brackets, "[...]"')
    for position, entry in enumerate(stored):
        if not isinstance(entry, dict):
            raise _Nonsense(f'{path}[{position}] must be an object in braces, "{{...}}"')
        yield f"{path}[{position}]", entry


def _text(given: Mapping[str, object], key: str, path: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not value:
        raise _Nonsense(f"{path}{key} must be a text that is not empty")
    _encodable(value, f"{path}{key}")
    return value


def _encodable(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        raise _Nonsense(f"{path} is not Unicode text") from None


def _revision(value: object, path: str) -> int:
    if not _is_whole(value, 0) or value > _HIGHEST_REVISION:
        raise _Nonsense(f"{path} must be a whole number from 0 to {_HIGHEST_REVISION}")
    return value


def _is_whole(value: object, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _shown(key: str) -> str:
    """A key, fit for a sentence on one line."""
    return _brief(key if key.isprintable() else ascii(key))


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
