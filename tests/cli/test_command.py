"""What is common to all commands: exit codes, errors, flags, help."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from livekit_pool.cli import status as status_module
from livekit_pool.cli.command import command as group
from livekit_pool.config import SETTINGS
from tests.cli.conftest import Run
from tests.cli.scripted_pool import ScriptedPool


def test_each_setting_is_a_flag_of_serve_but_the_secret() -> None:
    serve = group.commands["serve"]
    flags = {flag for option in serve.params for flag in option.opts}
    wanted = {setting.flag for setting in SETTINGS if setting.flag}
    assert wanted | {"--config", "--env-file"} == flags
    assert "--secret" not in flags
    assert {"--host", "--port", "--workers", "--tls-cert", "--tls-key"} <= flags


@pytest.mark.parametrize("name", ["serve", "status", "rotate", "history", "state", "token", "demo"])
def test_each_command_has_help(command: Run, name: str) -> None:
    ran = command(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: livekit-pool {name} ")
    assert len(ran.out.splitlines()) > 4
    assert isinstance(group.commands[name], click.Command)


@pytest.mark.parametrize(
    "arguments",
    [("rotate",), ("rotate", "--reason"), ("nonsense",), ("status", "--nonsense"), ("token",)],
)
def test_bad_usage_is_exit_code_2(command: Run, arguments: tuple[str, ...]) -> None:
    ran = command(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert "Error: " in ran.err


def test_bad_configuration_is_exit_code_2_and_one_sentence(
    command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEKIT_POOL_PORT", "http")
    ran = command("status")
    assert ran.code == 2
    assert ran.err == ("livekit-pool: LIVEKIT_POOL_PORT must be a whole number from 0 to 65535.\n")


def test_a_flag_is_named_as_it_was_given(command: Run) -> None:
    ran = command("serve", "--probe-rooms-interval", "soon")
    assert ran.code == 2
    assert ran.err.startswith("livekit-pool: --probe-rooms-interval must be ")


def test_without_a_key_pair_it_says_where_to_get_one(command: Run) -> None:
    ran = command("status")
    assert ran.code == 2
    assert "set LIVEKIT_POOL_KEY and LIVEKIT_POOL_SECRET" in ran.err


def test_a_pool_that_does_not_answer_is_exit_code_3(
    command: Run, pool: ScriptedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEKIT_POOL_URL", "ws://127.0.0.1:1")
    ran = command("status")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == (
        "livekit-pool: The pool at http://127.0.0.1:1 does not answer: nothing listens there.\n"
    )


@pytest.mark.parametrize(
    "answer",
    [(200, b"<html>welcome</html>"), (404, b"404 page not found"), (502, {"message": "bad"})],
)
def test_something_else_that_answers_is_exit_code_3(
    command: Run, pool: ScriptedPool, answer: tuple[int, object]
) -> None:
    pool.answers["GET", "/pool/status"] = answer
    ran = command("status")
    assert ran.code == 3
    assert "is not a LiveKit Pool" in ran.err


def test_a_pool_of_another_key_pair_is_exit_code_2(command: Run, pool: ScriptedPool) -> None:
    error = {"code": "token_wrong_key", "message": "The token is signed with another key."}
    pool.answers["GET", "/pool/status"] = (401, {"error": error})
    ran = command("status")
    assert ran.code == 2
    assert "refuses this key pair" in ran.err


def test_a_refusal_is_exit_code_1_and_the_pools_sentence(command: Run, pool: ScriptedPool) -> None:
    error = {"code": "store_unavailable", "message": "The store does not answer."}
    pool.answers["GET", "/pool/status"] = (503, {"error": error})
    ran = command("status")
    assert (ran.code, ran.err) == (1, "livekit-pool: The store does not answer.\n")


def test_an_unexpected_error_is_one_sentence_without_its_text(
    command: Run, pool: ScriptedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("GET /rtc?access_token=secret")

    monkeypatch.setattr(status_module, "status_table", fail)
    ran = command("status")
    assert (ran.code, ran.out) == (1, "")
    assert "RuntimeError" in ran.err
    assert "LIVEKIT_POOL_DEBUG=1" in ran.err
    assert "secret" not in ran.err
    assert "Traceback" not in ran.err
    monkeypatch.setenv("LIVEKIT_POOL_DEBUG", "1")
    assert "Traceback" in command("status").err


def test_a_reader_who_has_seen_enough_is_no_error(command: Run) -> None:
    program = (
        "import sys, click\n"
        "from livekit_pool.cli.command import command, run\n"
        "command.add_command(click.Command('much', callback=lambda: click.echo('x' * 10**6)))\n"
        "sys.exit(run(['much']))\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.read(1)
    writer.stdout.close()
    with writer.stderr:
        assert writer.stderr.read() == b""
    assert writer.wait(10) == 0
