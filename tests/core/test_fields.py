"""Reading stored values, whatever they are."""

from __future__ import annotations

import math
from enum import StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livekit_pool.core.fields import Fields


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


NONSENSE: list[object] = [
    None,
    True,
    "x",
    -1,
    -0.5,
    math.nan,
    math.inf,
    1e300,
    10**400,
    [],
    {},
    b"1",
]


@pytest.mark.parametrize("value", NONSENSE)
def test_a_number_that_is_none_is_repaired(value: object) -> None:
    fields = Fields({"at": value})
    assert fields.number("at", 7.0) == 7.0
    assert fields.repairs == ["at is nonsense: 7.0 is taken"]


def test_numbers_may_be_stored_as_whole_ones_and_the_other_way_round() -> None:
    fields = Fields({"at": 3, "count": 4.0})
    assert fields.number("at", 0.0) == 3.0
    assert fields.whole("count", 0) == 4
    assert fields.repairs == []


@pytest.mark.parametrize("value", [*NONSENSE, 1.5, 1e17])
def test_a_whole_number_that_is_none_is_repaired(value: object) -> None:
    if value == 10**400:
        return
    fields = Fields({"count": value})
    assert fields.whole("count", 7) == 7
    assert fields.repairs == ["count is nonsense: 7 is taken"]


def test_a_missing_field_is_called_missing() -> None:
    fields = Fields({})
    assert fields.text("actor", "nobody") == "nobody"
    assert fields.repairs == ["actor is missing: 'nobody' is taken"]


def test_what_may_be_absent_is_no_repair() -> None:
    fields = Fields({"lastError": None})
    assert fields.optional_text("lastError") is None
    assert fields.optional_number("lastErrorTime") is None
    assert fields.optional_name("cause", Colour) is None
    assert fields.repairs == []


def test_nonsense_where_there_may_be_nothing_is_nothing() -> None:
    fields = Fields({"until": "soon", "cause": "green"})
    assert fields.optional_number("until") is None
    assert fields.optional_name("cause", Colour) is None
    assert len(fields.repairs) == 2


def test_a_name_is_one_of_the_known_ones() -> None:
    fields = Fields({"a": "blue", "b": "green", "c": 1})
    assert fields.name("a", Colour, Colour.RED) is Colour.BLUE
    assert fields.name("b", Colour, Colour.RED) is Colour.RED
    assert fields.name("c", Colour, Colour.RED) is Colour.RED
    assert len(fields.repairs) == 2


def test_a_position_lies_in_the_list() -> None:
    fields = Fields({"last": 2, "beyond": 3, "before": -1})
    assert fields.position("last", 3) == 2
    assert fields.position("beyond", 3) is None
    assert fields.position("before", 3) is None


def test_long_texts_are_cut() -> None:
    assert len(Fields({"reason": "x" * 5000}).text("reason", "")) == 1000


def test_inner_fields_name_their_path_and_share_the_repairs() -> None:
    fields = Fields({"servers": {"red": {"failures": "many"}}})
    servers = fields.inner("servers")
    assert servers is not None
    red = servers.inner("red")
    assert red is not None
    assert red.whole("failures", 0) == 0
    assert fields.repairs == ["servers.red.failures is nonsense: 0 is taken"]
    assert fields.inner("paused") is None


@settings(derandomize=True, database=None, deadline=None)
@given(st.dictionaries(st.just("key"), st.recursive(st.none() | st.text() | st.floats(), st.lists)))
def test_nothing_stored_breaks_a_reader(mapping: dict[str, object]) -> None:
    fields = Fields(mapping)
    assert isinstance(fields.text("key", ""), str)
    assert isinstance(fields.whole("key", 0), int)
    assert math.isfinite(fields.number("key", 0.0))
    assert fields.name("key", Colour, Colour.RED) in Colour
