"""What all tests share: tools that may be missing, and CI, where nothing may be missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

NODE = Path(__file__).parent / "real" / "node"

# Tool: the commands any one of which will do, and the packages that bring it on Debian.
TOOLS = {
    "chromium": (("chromium", "chromium-browser", "google-chrome"), "chromium nodejs npm"),
    "node": (("node",), "nodejs npm"),
    "haproxy": (("haproxy",), "haproxy"),
    "redis": (("redis-server",), "redis-server"),
}
# These also need npm's packages, which `make test` installs.
NEED_NPM_PACKAGES = {"chromium", "node"}


def find_tool(tool: str) -> Path | None:
    """The path of one of the `TOOLS`, None where it is missing."""
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
                    install = f"sudo apt-get install {TOOLS[tool][1]}"
                    item.add_marker(
                        pytest.mark.skip(f"needs {tool}: run '{install}' and 'make test'")
                    )


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
