"""
Flags: each setting of the configuration's table as an option, and the settings they give.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from ..config import SETTINGS, Setting, Settings, load

__all__ = ["CLIENT", "json_flag", "with_settings", "yes_flag"]

P = ParamSpec("P")
R = TypeVar("R")

#: The settings that say where a running pool is, and with which key pair it is asked.
CLIENT = ("pool_url", "key", "store")

json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_flag = click.option("--yes", is_flag=True, help="Do not ask.")


def with_settings(
    fields: Sequence[str] | None = None, *, need_servers: bool = False
) -> Callable[[Callable[Concatenate[Settings, P], R]], Callable[..., R]]:
    """
    Give a command the options of ``fields``, and the `Settings` they make as first argument.

    Args:
        fields: fields of `Settings`; every one that may be on the command line by default.
        need_servers: whether a list of servers is read, and has to be there.
    """
    offered = [
        setting
        for setting in SETTINGS
        if setting.flag is not None and (fields is None or setting.field in fields)
    ]

    def decorate(function: Callable[Concatenate[Settings, P], R]) -> Callable[..., R]:
        @functools.wraps(function)
        def wrapper(
            *args: Any, config_file: Path | None, env_file: Path | None, **kwargs: Any
        ) -> R:
            overrides = {setting.field: kwargs.pop(setting.field) for setting in offered}
            settings = load(
                env_file=env_file,
                config_file=config_file,
                overrides=overrides,
                need_servers=need_servers,
            )
            return function(settings, *args, **kwargs)

        options = [_option(setting) for setting in offered]
        options += [
            click.option(
                "--config", "config_file", type=Path, metavar="FILE", help="YAML file of settings."
            ),
            click.option(
                "--env-file",
                type=Path,
                metavar="FILE",
                help="File of variables, read instead of .env.local and .env.",
            ),
        ]
        decorated: Callable[..., R] = wrapper
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def _option(setting: Setting) -> Callable[[Callable[..., R]], Callable[..., R]]:
    assert setting.flag is not None
    doc = setting.doc
    if setting.default not in (None, "", ()):
        doc += f"  [{setting.variable}; default: {setting.default}]"
    else:
        doc += f"  [{setting.variable}]"
    # Its kind is checked by `load`, in the same words as for the other sources.
    return click.option(setting.flag, setting.field, metavar=setting.metavar, help=doc)
