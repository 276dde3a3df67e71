"""A test in which the process dies is run once more, and no other test is."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

HOOKS = Path(__file__).with_name("conftest.py").read_text()
CRASHING = """
import os, pathlib
import pytest

def crash(times):
    tries = pathlib.Path("tries")
    tries.write_text(tries.read_text() + "." if tries.exists() else ".")
    if len(tries.read_text()) <= times:
        os.abort()

def test_before():
    pass

def test_that_crashes():
    crash({times})

def test_after():
    assert pathlib.Path("tries").read_text() == {tries!r}
"""
FAILING = """
import pathlib

def test_that_fails_once():
    tried = pathlib.Path("tried")
    if not tried.exists():
        tried.touch()
        assert False
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with our hooks."""
    pytester.makeconftest(HOOKS)
    pytester.makeini(
        "[pytest]\nmarkers = needs: x\nasyncio_default_fixture_loop_scope = function\n"
    )
    return pytester


def test_a_crash_is_tried_again_and_told(run: pytest.Pytester) -> None:
    run.makepyfile(CRASHING.format(times=1, tries=".."))
    result = run.runpytest_subprocess("-n", "1")
    assert result.parseoutcomes() == {"passed": 3, "crashed": 1}
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*the process of the tests died*", "CRASHED *.py::test_that_crashes"]
    )


def test_a_second_crash_is_a_failure(run: pytest.Pytester) -> None:
    run.makepyfile(CRASHING.format(times=2, tries=".."))
    result = run.runpytest_subprocess("-n", "1")
    assert result.parseoutcomes() == {"passed": 2, "crashed": 1, "failed": 1}
    assert result.ret == 1


def test_a_failure_is_not_tried_again(run: pytest.Pytester) -> None:
    run.makepyfile(FAILING)
    result = run.runpytest_subprocess("-n", "1")
    assert result.parseoutcomes() == {"failed": 1}
    assert "died" not in result.stdout.str()
