"""A missing tool skips visibly on a user's machine, and fails in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

HOOKS = Path(__file__).with_name("conftest.py").read_text()
SKIPPING = """
import pytest

@pytest.mark.needs("redis")
def test_with_redis():
    pass

def test_that_gives_up():
    pytest.skip("no reason")

@pytest.mark.xfail(strict=True)
def test_known_to_fail():
    assert False
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with our hooks, on a machine with no Redis."""
    pytester.makeconftest(HOOKS.replace('"redis-server"', '"no-such-command"'))
    pytester.makeini(
        "[pytest]\nmarkers = needs: x\nasyncio_default_fixture_loop_scope = function\n"
    )
    monkeypatch.delenv("CI", raising=False)
    return pytester


def test_missing_tool_is_skipped_with_the_line_that_installs_it(run: pytest.Pytester) -> None:
    run.makepyfile(SKIPPING)
    result = run.runpytest_inprocess("-ra")
    result.assert_outcomes(skipped=2, xfailed=1)
    result.stdout.fnmatch_lines("*needs redis: run 'sudo apt-get install *")


def test_skips_are_failures_in_ci(run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    run.makepyfile(SKIPPING)
    result = run.runpytest_inprocess("-ra")
    # A mark skips in setup, which pytest counts as an error.
    result.assert_outcomes(failed=1, errors=1, xfailed=1)


def test_a_file_that_skips_itself_fails_in_ci(
    run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    run.makepyfile("import pytest\npytest.importorskip('no_such_module')\ndef test(): pass\n")
    run.runpytest_inprocess().assert_outcomes(errors=1)


def test_a_missing_emulator_is_skipped_with_the_way_to_it(
    run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEKIT_POOL_TEST_FIRESTORE_JAR", str(run.path / "no-such.jar"))
    run.makepyfile(
        'import pytest\n@pytest.mark.needs("firestore")\ndef test_with_firestore(): pass\n'
    )
    result = run.runpytest_inprocess("-ra")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("*needs firestore: run *gcloud components*LIVEKIT_POOL_TEST_*")
