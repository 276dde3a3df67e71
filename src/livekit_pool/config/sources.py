"""
Where settings come from: the process environment, .env files, YAML.

Each value is kept with a label, the name an error calls it by: ``LIVEKIT_POOL_PORT in .env.local``.
No error quotes a line of a file: it may hold a secret.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from dotenv.parser import Binding, parse_stream

from ..exceptions import ConfigurationError

__all__ = ["Given", "read_env_file", "read_variables", "read_yaml"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A value as a source gives it, and what to call the setting it came from."""

    value: object = field(repr=False)
    label: str


def read_variables(
    env: Mapping[str, str], directory: Path, env_file: Path | None
) -> dict[str, Given]:
    """
    Gather the variables named ``LIVEKIT_...``, each from the first source that has it.

    The order is ``env``, ``.env.local``, ``.env``; an ``env_file`` replaces both files, so that
    what lies about in a directory does not mix with what was named. An empty variable counts as
    not set. Values are taken as written: ``${...}`` is not expanded, as secrets may hold it.

    Raises:
        ConfigurationError: a file cannot be read, or has a line that is not NAME=value.
    """
    found = {name: Given(value=value, label=name) for name, value in env.items()}
    if env_file is not None:
        files = [(directory / env_file, read_env_file(directory / env_file))]
    else:
        candidates = [directory / ".env.local", directory / ".env"]
        files = [(path, read_env_file(path, optional=True)) for path in candidates]
    kept = {name: given for name, given in found.items() if _counts(name, given.value)}
    for path, variables in files:
        shown = env_file if env_file is not None else path.name
        for name, value in variables.items():
            if _counts(name, value):
                kept.setdefault(name, Given(value=value, label=f"{name} in {shown}"))
    return kept


def _counts(name: str, value: object) -> bool:
    return name.startswith("LIVEKIT_") and bool(str(value).strip())


def read_env_file(path: Path, *, optional: bool = False) -> dict[str, str]:
    """
    Read a file of NAME=value lines, without touching the environment.

    Args:
        path: the file.
        optional: a file that is not there, or is a directory (a virtual environment may be
            called ``.env``), is read as empty.

    Raises:
        ConfigurationError: it cannot be read, is not UTF-8, or a line is not NAME=value.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        if optional:
            return {}
        raise ConfigurationError(f"{path} is not a file: give an existing one.") from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}): make it readable, or remove it."
        ) from None
    variables: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(_decoded(data, path), newline="")):
        if binding.error or (binding.key is not None and binding.value is None):
            raise ConfigurationError(
                f"{path}, line {_line(binding)}, is not NAME=value: mend it or comment it out."
            )
        if binding.key is not None and binding.value is not None:
            variables[binding.key] = binding.value
    return variables


def read_yaml(path: Path) -> dict[str, object]:
    """
    Read a YAML file that holds a mapping.

    Raises:
        ConfigurationError: it cannot be read, or is not YAML, or is something else in YAML.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigurationError(f"{path} is not a file: give --config an existing one.") from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}): make it readable."
        ) from None
    text = _decoded(data, path)
    try:
        content: object = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # The error itself quotes the lines around the fault.
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}," if mark is not None else ""
        raise ConfigurationError(f"{path}{line} is not YAML: mend it.") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigurationError(f"{path} is not YAML that can be read: mend it.") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigurationError(f"{path} must hold settings as 'name: value' lines.")
    return content


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}, line {line}, is not UTF-8: save it as UTF-8.") from None


def _line(binding: Binding) -> int:
    # The parser counts a statement from the end of the one before, blank lines included.
    text = binding.original.string
    blank = text[: len(text) - len(text.lstrip())]
    return binding.original.line + blank.count("\n")
