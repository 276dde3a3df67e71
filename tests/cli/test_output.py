"""Tables and times."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from livekit_pool.cli.output import Table, duration, print_json

TABLE = Table(
    header="revision 7",
    columns=("SERVER", "CAUSE", "LAST PROBE"),
    optional=frozenset({"CAUSE"}),
    rows=[["red", "", "passed in 1.2 ms, 1 s ago"], ["a-long-name.example.com", "", ""]],
    footer=["Something is wrong."],
)


def boxed(width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(TABLE.boxed())
    return out.getvalue().splitlines()


def test_plain_text_is_aligned_and_leaves_out_what_is_empty() -> None:
    assert TABLE.plain().splitlines() == [
        "revision 7",
        "SERVER                   LAST PROBE",
        "red                      passed in 1.2 ms, 1 s ago",
        "a-long-name.example.com  -",
        "Something is wrong.",
    ]


@pytest.mark.parametrize("width", [40, 120])
def test_a_box_has_one_line_for_each_row_however_narrow(width: int) -> None:
    lines = boxed(width)
    assert len(lines) == 1 + 3 + 2 + 1 + 1  # header, head with borders, rows, border, footer
    assert all(len(line) <= width for line in lines)
    assert "CAUSE" not in "".join(lines)


def test_values_are_no_markup() -> None:
    table = Table(columns=("REASON",), rows=[["[red]x[/nonsense]"]])
    out = io.StringIO()
    Console(file=out, width=60).print(table.boxed())
    assert "[red]x[/nonsense]" in out.getvalue()


def test_an_optional_column_is_there_when_one_row_fills_it() -> None:
    table = Table(columns=("A", "B"), rows=[["1", ""], ["2", "x"]], optional=frozenset({"B"}))
    assert table.plain() == "A  B\n1  -\n2  x"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_json_keeps_what_people_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"reason": "Überlast"}, one_line=True)
    out = capsys.readouterr().out
    assert out == '{"reason": "Überlast"}\n'
    assert json.loads(out) == {"reason": "Überlast"}
