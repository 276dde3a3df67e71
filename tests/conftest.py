"""What all tests share: tools that may be missing, and CI, where nothing may be missing."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

NODE = Path(__file__).parent / "real" / "node"

# Tool: the commands any one of which will do, and the packages that bring it on Debian.
TOOLS = {
    "chromium": (("chromium", "chromium-browser", "google-chrome"), "chromium nodejs npm"),
    "node": (("node",), "nodejs npm"),
    "haproxy": (("haproxy",), "haproxy"),
    "redis": (("redis-server",), "redis-server"),
    "ip": (("ip",), "iproute2"),
}
# These also need npm's packages, which `make test` installs.
NEED_NPM_PACKAGES = {"chromium", "node"}


# Google's emulator of Firestore is a Java program that comes with Google's own tools only.
FIRESTORE_JAR = "LIVEKIT_POOL_TEST_FIRESTORE_JAR"
FIRESTORE_HINT = (
    "needs firestore: run 'sudo apt-get install default-jre-headless' and 'gcloud components"
    f" install cloud-firestore-emulator', or name the emulator's jar in {FIRESTORE_JAR}"
)


# Making a network namespace takes root's rights.
NAMESPACES_HINT = (
    "needs namespaces: run 'sudo apt-get install iproute2' and the tests as root, on Linux"
)


def find_firestore() -> tuple[Path, Path] | None:
    """Java, and the emulator's jar: the one that is named, or the one of the Google Cloud SDK."""
    java, gcloud = shutil.which("java"), shutil.which("gcloud")
    named = os.environ.get(FIRESTORE_JAR)
    if named:
        jar = Path(named)
    elif gcloud:
        sdk = Path(gcloud).resolve().parents[1]
        jar = sdk / "platform" / "cloud-firestore-emulator" / "cloud-firestore-emulator.jar"
    else:
        return None
    return (Path(java), jar) if java and jar.is_file() else None


def find_tool(tool: str) -> Path | None:
    """
    The path of one of the `TOOLS`, or of the Firestore emulator; None where it is missing.

    That of ``namespaces`` is the command that makes them.
    """
    if tool == "firestore":
        emulator = find_firestore()
        return emulator[1] if emulator else None
    if tool == "namespaces":
        return find_tool("ip") if sys.platform == "linux" and os.geteuid() == 0 else None
    if tool in NEED_NPM_PACKAGES and not (NODE / "node_modules").is_dir():
        return None
    # Debian keeps servers in sbin, which is not on every user's PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    found = (shutil.which(command, path=path) for command in TOOLS[tool][0])
    return next((Path(command) for command in found if command), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose tools are missing, and say how to get those."""
    for item in items:
        for mark in item.iter_markers("needs"):
            for tool in mark.args:
                if find_tool(tool) is None:
                    item.add_marker(pytest.mark.skip(_hint(tool)))


def _hint(tool: str) -> str:
    if tool == "firestore":
        return FIRESTORE_HINT
    if tool == "namespaces":
        return NAMESPACES_HINT
    return f"needs {tool}: run 'sudo apt-get install {TOOLS[tool][1]}' and 'make test'"


def _skipping_fails() -> bool:
    return bool(os.environ.get("CI"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything is installed, so that a skipped test would be one that nobody runs."""
    report = yield
    if _skipping_fails() and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be skipped: {report.longreprtext}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself."""
    report = yield
    if _skipping_fails() and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be skipped: {report.longreprtext}"
    return report


# ---- a process that stands still ----------------------------------------------------------------


def pytest_collection_finish() -> None:
    """
    Leave what was collected out of every garbage collection.

    The thousands of tests make each full one take 0.15 s, in the middle of what a test looks at.
    """
    gc.collect()
    gc.freeze()


# ---- a process that crashes ---------------------------------------------------------------------

# LiveKit's Python SDK runs native code in the process of the tests, and once in many runs that
# aborts (others report it of the end of calls with audio: livekit/agents, issues 6056 and 6149).
# `make test` runs the tests in a worker of pytest-xdist, which puts another in its place. Only such
# a crash is tried again, once, and is told at the end; a test that fails has failed.
_CRASHED: str = "crashed"  # an outcome of ours
_crashed: list[str] = []


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport, sched: Any) -> None:
    """Run a test in which the process died once more, in a new process."""
    if crashitem not in _crashed:
        sched.mark_test_pending(crashitem)
        report.outcome = _CRASHED  # type: ignore[assignment]
    _crashed.append(crashitem)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """How such a test is shown, and counted."""
    return (_CRASHED, "C", "CRASHED") if report.outcome == _CRASHED else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests in which the process died."""
    if _crashed:
        terminalreporter.section("the process of the tests died, and the test was run again")
        for name in _crashed:
            terminalreporter.line(f"CRASHED {name}")
