"""The file of an exported state: what is refused, and how."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from livekit_pool.exceptions import ConfigurationError
from livekit_pool.stores.state_json import state_from_json, state_to_json

from .states import state

Path = tuple[str | int, ...]

CONTENT = json.loads(state_to_json(state()))
# Nonsense of every kind; what a field may be is left out below.
NONSENSE: tuple[object, ...] = (
    True,
    -1,
    1.5,
    10**30,
    1e300,
    float("nan"),
    "",
    "\ud800",
    "x" * 2000,
    [1],
    {"a": {}},
    None,
)
COOL_DOWN = {"coolDownUntil", "spentMinutes"}
NULLABLE = {"lastError", "lastErrorTime", "paused", "drained", "coolDownCause", *COOL_DOWN}
ANY_TEXT = {"reason", "actor", "by", "lastError"}
LONG_TEXT = {"store", "room", "server", "activeServer"}
FRACTIONS = {"createdAt", "lastRotation", "lastErrorTime", "since", "at", "window", *COOL_DOWN}


def paths(content: Any, path: Path = ()) -> Iterator[Path]:
    """The way to each field, also of inner ones; of a list the first entry stands for all."""
    if path:
        yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from paths(value, (*path, key))
    if isinstance(content, list):
        yield from paths(content[0], (*path, 0))


PATHS = list(paths(CONTENT))
# All but the entries of lists and of what has a name that anybody may choose.
FIELDS = [
    path
    for path in PATHS
    if path[-1] != 0
    and path[:-1] != ("document", "servers")
    and (path[0], len(path)) != ("ledger", 2)
    if (path[0], len(path)) != ("ledger", 3)
]


def spoken(path: Path) -> str:
    """How a sentence calls a field."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:]


def edited(change: Callable[[Any], object], way: Path = ()) -> str:
    """The file, after somebody changed what is at the end of ``way``."""
    content = json.loads(json.dumps(CONTENT))
    inner = content
    for key in way:
        inner = inner[key]
    change(inner)
    return json.dumps(content)


def put(path: Path, value: object) -> str:
    """The file with ``value`` in a field."""
    return edited(lambda inner: inner.__setitem__(path[-1], value), path[:-1])


def refusal(text: str) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(ConfigurationError) as caught:
        state_from_json(text, "old.json")
    sentence = str(caught.value)
    assert sentence.startswith("old.json: ")
    assert sentence.endswith(".")
    assert sentence.isprintable()
    assert len(sentence) < 300
    return sentence


def may_be(path: Path, value: object) -> bool:
    """Whether a pool may have written it there."""
    field = path[-1]
    return (
        (value is None and field in NULLABLE)
        or (value == "" and field in ANY_TEXT)
        or (isinstance(value, str) and len(value) > 1000 and field in LONG_TEXT)
        or (value == 1.5 and field in FRACTIONS)
        or (value == {"a": {}} and field == "ledger")
    )


@pytest.mark.parametrize("path", PATHS, ids=spoken)
def test_nonsense_in_a_field_is_refused_by_name(path: Path) -> None:
    for value in NONSENSE:
        if may_be(path, value):
            continue
        sentence = refusal(put(path, value))
        # The nonsense of a list or an object may be found in what it holds.
        assert spoken(path) in sentence or isinstance(value, list | dict), (value, sentence)
        assert str(path[0]) in sentence


def test_what_a_pool_may_have_written_is_read() -> None:
    read = 0
    for path in PATHS:
        for value in NONSENSE:
            if may_be(path, value):
                state_from_json(put(path, value), "old.json")
                read += 1
    assert read > 20


@pytest.mark.parametrize("path", FIELDS, ids=spoken)
def test_a_missing_field_is_refused_by_name(path: Path) -> None:
    *way, last = path
    assert spoken(path) in refusal(edited(lambda inner: inner.pop(last), tuple(way)))


@pytest.mark.parametrize("way", sorted({path[:-1] for path in FIELDS}, key=str), ids=spoken)
def test_a_field_too_many_is_refused_by_name(way: Path) -> None:
    sentence = refusal(edited(lambda inner: inner.update(surplus=1), way))
    assert f"{spoken((*way, 'surplus'))} is not a field of version 1" in sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "this is not JSON; export the state again"),
        ("{", "this is not JSON; export the state again"),
        ("[" * 100_000, "this is not JSON; export the state again"),
        ("9" * 5000, "this is not JSON; export the state again"),
        ("[]", 'this is no exported state: "format" must be "livekit-pool state"'),
        ("{}", 'this is no exported state: "format" must be "livekit-pool state"'),
        (
            edited(lambda content: content.update(version=2)),
            "version is 2, this livekit-pool reads 1; use the one that wrote it",
        ),
        (
            edited(lambda content: content["document"].update(schema=2)),
            "document.schema is 2, this version reads 1",
        ),
        (
            edited(lambda content: content["document"].update(activeSince=10)),
            "document.activeSince is not what a pool writes there; put back what was exported",
        ),
        (
            edited(lambda content: content["placements"].append(content["placements"][0])),
            "placements[2].room comes twice",
        ),
        (
            edited(lambda content: content["history"].reverse()),
            "history[1].revision must be higher than the one before it",
        ),
        (
            edited(lambda content: content["ledger"]["p1"].update({"x\ny": 2**53})),
            "ledger.p1.'x\\ny' must be a whole number from 0 to 2**53 - 1",
        ),
        (
            edited(lambda content: content["ledger"].update({"\ud800": {}})),
            "ledger.'\\ud800' is not Unicode text",
        ),
    ],
)
def test_what_is_no_state_is_refused(text: str, sentence: str) -> None:
    assert refusal(text) == f"old.json: {sentence}."
