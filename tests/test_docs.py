"""
The documents say what is there: each setting, command, flag, path, field and error, and no more.

What a test finds missing it names, as the line to add where that can be told.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import unquote

import click
import pytest
import yaml

import livekit_pool
from livekit_pool import exceptions, observe
from livekit_pool.cli.command import command
from livekit_pool.cli.flags import CLIENT
from livekit_pool.config import SETTINGS, Setting, Settings, load
from livekit_pool.config.loading import DEBUG
from livekit_pool.core.actions import NoteEvent
from livekit_pool.core.document import Cause, new_document
from livekit_pool.core.events import ProbeOutcome
from livekit_pool.core.health import Health
from livekit_pool.core.machine import Role
from livekit_pool.core.stored import from_mapping, to_mapping
from livekit_pool.exceptions import PoolError
from livekit_pool.pool import Pool
from livekit_pool.servers import Server
from livekit_pool.tokens import Kind, Refusal
from livekit_pool.upstream.connection import Stage
from livekit_pool.upstream.probe import ProbeResult
from livekit_pool.web import answers, app
from livekit_pool.web.gateway import request, twirp_refusal, validate
from tests import faults_table
from tests.conftest import FIRESTORE_JAR
from tests.web.fake_pool import FakePool

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
HTTP_API = "docs/http-api.md"


def text(name: str) -> str:
    """A document, by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """What stands under a heading of a document, down to the next of its level or above."""
    document = text(name)
    found = re.search(rf"^(#+) {re.escape(heading)}$", document, re.MULTILINE)
    assert found, f"{name} has no heading {heading!r}"
    rest = document[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def in_code(document: str) -> set[str]:
    """All that a document sets as code within its lines."""
    prose = re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", prose))


def blocks(document: str, kind: str) -> list[str]:
    """The fenced blocks of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL)


# -- settings --


def row(setting: Setting) -> str:
    """The line of a setting in the table of docs/settings.md."""
    flag = f"`{setting.flag}`" if setting.flag else "none"
    default = "none" if setting.default in (None, "", ()) else f"`{setting.default}`"
    return f"| `{setting.variable}` | {flag} | `{setting.name}` | {default} | {setting.doc} |"


def test_each_setting_has_its_line() -> None:
    found = re.findall(r"^\| `LIVEKIT_POOL_.*$", section("docs/settings.md", "The pool"), re.M)
    assert found == [row(setting) for setting in SETTINGS]


def test_no_document_names_a_variable_that_nothing_reads() -> None:
    known = {setting.variable for setting in SETTINGS} | {DEBUG, FIRESTORE_JAR}
    for path in [*DOCUMENTS, ROOT / ".env.example"]:
        named = set(re.findall(r"LIVEKIT_POOL_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))
        assert named <= known, path


def test_each_field_of_a_server_is_there() -> None:
    fields = set(Server.__dataclass_fields__)
    told = section("docs/settings.md", "The servers")
    found = re.findall(r"^\| `LIVEKIT_SERVERS_n_([A-Z_]+)` \| `(\w+)` \|", told, re.MULTILINE)
    assert {name for _, name in found} == fields
    assert all(variable == name.upper() for variable, name in found)


def test_the_examples_of_settings_are_read(tmp_path: Path) -> None:
    (example,) = blocks(text("docs/settings.md"), "yaml")
    (tmp_path / "pool.yaml").write_text(example)
    secrets = {
        f"LIVEKIT_SERVERS_{position}_SECRET": f"secret-{position}"
        for position, server in enumerate(yaml.safe_load(example)["servers"])
        if "secret" not in server
    }
    settings = load(env=secrets, cwd=tmp_path, config_file=Path("pool.yaml"))
    assert len(settings.servers) == len(yaml.safe_load(example)["servers"])
    assert settings.warnings == ()


def test_the_example_of_an_env_file_is_read(tmp_path: Path) -> None:
    filled = re.sub(
        r"^(\w+_(KEY|SECRET))=$", r"\1=\1-0123456789-0123456789", text(".env.example"), flags=re.M
    )
    (tmp_path / ".env.local").write_text(filled)
    settings = load(env={}, cwd=tmp_path)
    assert len(settings.servers) == filled.count("_URL=") - 1
    assert settings.warnings == ()


# -- the command --


def commands() -> dict[str, click.Command]:
    """The subcommands, by name; those of a group, such as ``state``, with the group's before."""
    found: dict[str, click.Command] = {}
    for name, each in command.commands.items():
        inner = each.commands if isinstance(each, click.Group) else {"": each}
        found |= {f"{name} {rest}".strip(): one for rest, one in inner.items()}
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_each_command_and_flag_is_there(name: str) -> None:
    told = section("docs/cli.md", f"livekit-pool {name}")
    documented = set(re.findall(r"--[a-z][a-z-]*", told))
    flags = {
        flag
        for parameter in commands()[name].params
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag.startswith("--")
    }
    # What says where the pool is stands in a section for all commands that ask one.
    shared = {s.flag for s in SETTINGS if s.field in CLIENT} | {"--config", "--env-file"}
    of_settings = {setting.flag for setting in SETTINGS}
    if name == "serve":
        assert flags - of_settings - shared == documented - of_settings - shared
    else:
        assert documented - shared == flags - shared
        assert (shared <= flags) == ("](#where-the-pool-is)" in told), name


def test_the_flags_of_all_commands_are_there() -> None:
    told = section("docs/cli.md", "Where the pool is")
    shared = {setting.flag for setting in SETTINGS if setting.field in CLIENT}
    assert shared | {"--config", "--env-file"} == set(re.findall(r"--[a-z][a-z-]*", told))


def test_no_document_names_a_command_that_is_not_there() -> None:
    for path in DOCUMENTS:
        document = path.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:bin/|`|\$ )livekit-pool ([a-z]+)", document))
        assert named <= command.commands.keys(), path


def test_each_exit_code_is_there() -> None:
    for number, meaning in re.findall(r"(\d) ([a-z ]+)", str(command.epilog)):
        assert f"| {number} | {meaning.strip().split()[0]}" in text("docs/cli.md").lower()


def log_lines() -> Iterator[str]:
    """The constant names of log events that something writes."""
    package = Path(livekit_pool.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    for name, value in vars(observe).items():
        if name.isupper() and any(f"observe.{name}" in source for source in sources.values()):
            yield str(value)
    yield from (note.value for note in NoteEvent)
    for path in (package / "supervisor.py", package / "web" / "life.py"):
        yield from re.findall(r"^[A-Z_]+: Final = \"([A-Z][^\"]+)\"$", sources[path], re.MULTILINE)
    for source in sources.values():
        yield from re.findall(r"_LOG\.\w+\(\s*\"([^\"]+)\"", source)


def test_each_log_line_is_there() -> None:
    told = section("docs/cli.md", "Log lines")
    found = set(log_lines())
    assert {"LiveKit server rotated", "Worker died and is replaced", "Document repaired"} <= found
    assert set(re.findall(r"^\| `([^`]+)` \|", told, re.MULTILINE)) == found


# -- the HTTP API --


def paths() -> set[str]:
    """``METHOD /path`` of all that is served."""
    served = app.create_app(FakePool().pool).openapi()["paths"]
    own = {f"{method.upper()} {path}" for path, methods in served.items() for method in methods}
    signalling = {f"GET {path.decode()}" for path in request.SIGNAL_PATHS}
    return own | signalling | {f"GET {path}" for path in validate._PATHS}


def test_each_path_is_there_and_no_other() -> None:
    told = text(HTTP_API)
    documented = set(re.findall(r"(?:`|^## )((?:GET|POST|HEAD) /[^`\s]*)", told, re.MULTILINE))
    unlisted = {"GET /", "HEAD /", "POST /twirp/...", "GET /pool/docs", "GET /pool/openapi.json"}
    assert documented == paths() | unlisted


@pytest.mark.parametrize(
    ("schema", "heading"),
    [
        ("TokenRequest", "POST /pool/token"),
        ("TokenAnswer", "POST /pool/token"),
        ("RotateRequest", "POST /pool/rotate"),
        ("RotationAnswer", "POST /pool/rotate"),
        ("History", "GET /pool/history"),
    ],
)
def test_each_field_is_there(schema: str, heading: str) -> None:
    schemas = app.create_app(FakePool().pool).openapi()["components"]["schemas"]
    fields = set(schemas[schema]["properties"])
    told = section(HTTP_API, heading)
    missing = {field for field in fields if f"`{field}`" not in told and f'"{field}"' not in told}
    assert not missing


async def test_the_examples_of_answers_are_like_real_ones() -> None:
    settings = Settings(
        servers=(Server(name="one", url="ws://127.0.0.1:9", key="key", secret="secret"),),
        key="APIpool",
        secret="s" * 40,
        store="memory://",
    )
    async with Pool(settings) as pool:
        real: dict[str, Any] = await pool.status()
    (example,) = (
        json.loads(each) for each in blocks(section(HTTP_API, "GET /pool/status"), "json")
    )
    assert example.keys() == real.keys()
    assert example["store"].keys() == real["store"].keys()
    assert example["processes"][0].keys() == real["processes"][0].keys()
    assert example["servers"][0].keys() == real["servers"][0].keys()
    fields = set(ProbeResult.public(PROBE))
    assert example["servers"][0]["last_probe"].keys() == fields


PROBE = ProbeResult(
    server="one", outcome=ProbeOutcome.PASSED, stage=Stage.HTTP, detail="answered", duration=0.1
)


def codes() -> set[str]:
    """Every ``error.code`` that an answer may have."""
    found = {error.code for error in vars(exceptions).values() if _is_error(error)}
    source = Path(app.__file__).read_text(encoding="utf-8")
    unexpected = set(re.findall(r'"Something went wrong here.", "(\w+)"', source))
    assert unexpected == {"internal"}
    return found | {str(code) for code in Refusal} | set(answers._CODES.values()) | unexpected


def _is_error(value: object) -> TypeGuard[type[PoolError]]:
    return isinstance(value, type) and issubclass(value, PoolError)


def test_each_error_is_there_and_no_other() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|\s*(\d*)\s*\|", section(HTTP_API, "Errors"), re.MULTILINE)
    documented = {code: status for cell, status in rows for code in re.findall(r"`(\w+)`", cell)}
    assert documented.keys() == codes()
    for error in filter(_is_error, vars(exceptions).values()):
        status = next(
            (number for kind, number in answers._STATUSES if issubclass(error, kind)), 500
        )
        assert documented[error.code] in ("", str(status)), error
    for number, code in answers._CODES.items():
        assert documented[code] == str(number)


def test_each_of_twirps_errors_is_there() -> None:
    told = in_code(section(HTTP_API, "Errors"))
    # `internal` stands for what nobody expected, and is in the table above.
    assert set(twirp_refusal._STATUSES) <= told


@pytest.mark.parametrize(
    "word", [*Kind, *Role, *Health, *(cause for cause in Cause if cause is not Cause.CREATED)]
)
def test_each_word_of_an_answer_is_there(word: str) -> None:
    assert re.search(rf'[`"]{word}[`"]', text(HTTP_API))


# -- the other documents --


def test_the_tables_of_faults_are_those_of_the_code() -> None:
    assert text("docs/faults.md") == faults_table.written(text("docs/faults.md")), (
        "python -m tests.faults_table writes them anew"
    )


def test_the_example_of_a_document_has_its_fields() -> None:
    (example,) = (json.loads(block) for block in blocks(text("docs/how-it-works.md"), "json"))
    document = new_document(lineage="one", names=["one"], actor="pool", now=0.0)
    assert example.keys() == to_mapping(document).keys()
    document, repairs = from_mapping(example, ["one", "two", "three"])
    assert not repairs
    assert to_mapping(document) == example


def test_each_public_name_is_there() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", text("docs/python.md"), re.MULTILINE)
    assert sorted([*rows, "__version__"]) == sorted(livekit_pool.__all__)
    for example in blocks(text("docs/python.md"), "python"):
        compile(example, "docs/python.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_each_package_has_its_reason() -> None:
    project = tomllib.loads(text("pyproject.toml"))
    needed = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
    ]
    groups = [*needed, *project["dependency-groups"].values()]
    packages = {re.split(r"[<>=;\[ ]", each)[0] for group in groups for each in group}
    told = section("CONTRIBUTING.md", "Dependencies")
    assert not {package for package in packages if f"`{package}`" not in told}
    table = set(re.findall(r"^\| `([\w-]+)`", told, re.MULTILINE))
    assert table == {re.split(r"[<>=;\[]", each)[0] for group in needed for each in group}


def test_each_part_of_the_package_is_there() -> None:
    package = Path(livekit_pool.__file__).parent
    parts = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in package.iterdir()
        if not path.name.startswith("_") and path.suffix in ("", ".py") and path.name != "py.typed"
    }
    told = section("CONTRIBUTING.md", "Layout")
    table = told.partition("Elsewhere")[0]
    assert set(re.findall(r"^\| `([\w./]+)` \|", table, re.MULTILINE)) == parts
    for path in re.findall(r"^\| `([\w./]+)` \|", told.partition("Elsewhere")[2], re.MULTILINE):
        assert (ROOT / path).exists(), path


def test_each_target_of_make_is_there_and_no_other() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", text("Makefile"), re.MULTILINE))
    named = set()
    for path in DOCUMENTS:
        named |= set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", path.read_text(), re.MULTILINE))
    assert named <= targets
    table = section("CONTRIBUTING.md", "Commands")
    assert set(re.findall(r"^\| `make ([a-z-]+)`", table, re.M)) == targets - {"help"}


def anchors(document: str) -> set[str]:
    """What a link into a document may end with, as GitHub makes it of headings."""
    prose = re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_tests_that_are_named_are_there() -> None:
    for name in re.findall(r"`((?:tests/[\w/]*)?test_\w+\.py)`", text("docs/failure-model.md")):
        path = ROOT / name if "/" in name else ROOT / "tests/real" / name
        assert path.exists(), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_in_json_are_json(path: Path) -> None:
    for block in blocks(path.read_text(encoding="utf-8"), "json"):
        json.loads(block)


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    assert "### Added" in section("CHANGELOG.md", "Unreleased")
