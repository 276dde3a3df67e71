"""
Fields: reads stored values one by one, and keeps a sentence for each that it had to repair.

What is stored may have been written by another version, by a client of the original system, or
by a person with an editor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar

__all__ = ["LARGEST", "Fields"]

LARGEST: Final = 2**52
"""
Largest whole number that is read: no counting comes so far.

Half of what JSON's readers keep exactly (RFC 8259, section 6), which no store may come near.
"""

_LAST_MOMENT = 253402300799.0  # the last second of the year 9999: no calendar goes further
_LONGEST_TEXT = 1000

_Value = TypeVar("_Value")
_Name = TypeVar("_Name", bound=StrEnum)


class Fields:
    """
    The fields of ``mapping``; every reader answers a value of the right type.

    Attributes:
        repairs: a sentence for each field that was missing or nonsense.
    """

    def __init__(self, mapping: Mapping[str, object], path: str = "") -> None:
        self.mapping = mapping
        self.repairs: list[str] = []
        self._path = path

    def repaired(self, key: str, value: _Value) -> _Value:
        """Record that ``value`` is taken for the field ``key``; returns it."""
        stored = "nonsense" if key in self.mapping else "missing"
        self.repairs.append(f"{self._path}{key} is {stored}: {value!r} is taken")
        return value

    def text(self, key: str, default: str) -> str:
        """A text; the default where it is none."""
        value = self.mapping.get(key)
        return value[:_LONGEST_TEXT] if isinstance(value, str) else self.repaired(key, default)

    def optional_text(self, key: str) -> str | None:
        """A text, or None where none is stored."""
        return None if self.mapping.get(key) is None else self.text(key, "")

    def whole(self, key: str, default: int, *, least: int = 0) -> int:
        """A whole number that is at least ``least``, and no larger than anything is counted to."""
        value = _whole(self.mapping.get(key))
        if value is None or not least <= value <= LARGEST:
            return self.repaired(key, default)
        return value

    def position(self, key: str, count: int) -> int | None:
        """A position in a list of ``count``, or None, unrecorded: the caller knows the repair."""
        value = _whole(self.mapping.get(key))
        return value if value is not None and 0 <= value < count else None

    def number(self, key: str, default: float) -> float:
        """A moment or a duration in seconds, or a number of minutes; not negative."""
        value = self.mapping.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            with_fraction = float(min(value, 1e300)) if isinstance(value, int) else value
            if math.isfinite(with_fraction) and 0 <= with_fraction <= _LAST_MOMENT:
                return with_fraction
        return self.repaired(key, default)

    def optional_number(self, key: str) -> float | None:
        """As `number`; None where none is stored, or nonsense."""
        if self.mapping.get(key) is None:
            return None
        before = len(self.repairs)
        value = self.number(key, 0.0)
        return value if len(self.repairs) == before else None

    def flag(self, key: str) -> bool:
        """Whether it is set; not, where nothing is stored, or nonsense."""
        value = self.mapping.get(key)
        return value if isinstance(value, bool) else value is not None and self.repaired(key, False)

    def name(self, key: str, names: type[_Name], default: _Name) -> _Name:
        """One of the ``names``."""
        value = self.mapping.get(key)
        known = [name for name in names if name.value == value]
        return known[0] if known else self.repaired(key, default)

    def optional_name(self, key: str, names: type[_Name]) -> _Name | None:
        """One of the ``names``; None where none is stored, or nonsense."""
        value = self.mapping.get(key)
        known = [name for name in names if name.value == value]
        if not known and value is not None:
            self.repaired(key, None)
        return known[0] if known else None

    def inner(self, key: str) -> Fields | None:
        """The fields of the mapping under ``key``; None where there is none."""
        value = self.mapping.get(key)
        if not isinstance(value, Mapping):
            return None
        fields = Fields(value, f"{self._path}{key}.")
        fields.repairs = self.repairs
        return fields


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)  # stores and languages without whole numbers
    return value if isinstance(value, int) else None
