"""What the tests of the command share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from livekit_pool.cli.command import run
from tests.cli.scripted_pool import ScriptedPool


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command in this process, in an empty folder, without variables of the caller's."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("LIVEKIT_"):
            monkeypatch.delenv(name)

    def ran(*arguments: str) -> Ran:
        capsys.readouterr()
        code = run(arguments)
        return Ran(code, *capsys.readouterr())

    return ran


@pytest.fixture
def pool(command: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedPool]:
    """A scripted pool that the command finds."""
    with ScriptedPool() as scripted:
        for name, value in scripted.environment.items():
            monkeypatch.setenv(name, value)
        yield scripted
