"""Load: gather the settings from flags, environment, .env files and YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..core.document import LONGEST_COOL_DOWN
from ..exceptions import ConfigurationError
from ..servers import Origin, Server
from .settings import PREFIX, SETTINGS, Settings, is_loopback
from .slots import did_you_mean, read_servers
from .sources import Given, read_variables, read_yaml

__all__ = ["DEBUG", "MIN_SECRET", "debugging", "load"]

DEBUG = "LIVEKIT_POOL_DEBUG"
"""Variable that makes the command show tracebacks; no setting, as it must work before they load."""

MIN_SECRET = 32
"""Shortest secret of the pool, in characters: an HS256 key has 256 bits (RFC 7518, 3.2)."""


def load(
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    env_file: Path | None = None,
    config_file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    need_servers: bool = True,
) -> Settings:
    """
    Gather the settings. Reads files, changes nothing.

    What is said explicitly beats what lies in a file, which beats the default. For each setting,
    and for each field of each server, the first of these that has it counts: ``overrides``
    (flags), the process environment, ``.env.local``, ``.env``, the YAML file, the default. An
    ``env_file`` is read instead of the two .env files. An empty variable counts as not set.

    Args:
        env: the process environment; ``os.environ`` by default.
        cwd: the working directory; where .env files are, and relative paths start.
        env_file: the file of ``--env-file``.
        config_file: the YAML file of ``--config``.
        overrides: field of `Settings` -> value; None counts as not given.
        need_servers: False for a command that only talks to a running pool: the servers are
            neither read nor missed, and ``servers`` is empty.

    Raises:
        ConfigurationError: something is missing, wrong or unreadable; one sentence that names it.
        TypeError: ``overrides`` has a name that is no setting.
    """
    directory = Path.cwd() if cwd is None else cwd
    variables = read_variables(os.environ if env is None else env, directory, env_file)
    content = read_yaml(directory / config_file) if config_file is not None else {}
    entries = content.pop("servers", None)
    given = _gathered(overrides or {}, variables, _flat(content, config_file))

    values: dict[str, Any] = {}
    for setting in SETTINGS:
        if setting.field not in given:
            continue
        source = given[setting.field]
        try:
            values[setting.field] = setting.kind(source.value)
        except ValueError as error:
            raise ConfigurationError(f"{source.label} {error}.") from None
    settings = Settings(**values, directory=directory, warnings=_unknown(variables))
    settings = _consistent(settings, given)
    if not need_servers:
        return settings
    listed = read_servers(variables, entries, config_file)
    _check_not_itself(settings, listed.servers, listed.url_labels)
    warnings = [*settings.warnings, *listed.warnings]
    if any(server.key == settings.key for server in listed.servers):
        warnings.append(
            f"{given['key'].label} is a server's key too: give the pool a pair of its own, or who "
            "has that server's secret may also be able to administer the pool."
        )
    return replace(settings, servers=listed.servers, warnings=tuple(warnings))


def debugging(env: Mapping[str, str] | None = None) -> bool:
    """Whether `DEBUG` is set in the process environment (``os.environ`` by default), and not 0."""
    return (os.environ if env is None else env).get(DEBUG, "") not in ("", "0")


def _gathered(
    overrides: Mapping[str, object], variables: Mapping[str, Given], yaml: Mapping[str, Given]
) -> dict[str, Given]:
    """Find each setting's first source: field -> what it gives."""
    unknown = overrides.keys() - {setting.field for setting in SETTINGS}
    if unknown:
        raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
    found: dict[str, Given] = {}
    for setting in SETTINGS:
        override = overrides.get(setting.field)
        if override is not None:
            found[setting.field] = Given(value=override, label=setting.flag or setting.field)
        elif setting.variable in variables:
            found[setting.field] = variables[setting.variable]
        elif setting.name in yaml:
            found[setting.field] = yaml[setting.name]
    return found


def _flat(content: Mapping[str, object], file: Path | None, prefix: str = "") -> dict[str, Given]:
    """Turn nested YAML into dotted names, all of them known ones."""
    names = {setting.name: setting for setting in SETTINGS}
    flat: dict[str, Given] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if name in names:
            if value is not None and value != "":
                flat[name] = Given(value=value, label=f"{name} in {file}")
        elif any(known.startswith(f"{name}.") for known in names):
            if isinstance(value, dict):
                flat |= _flat(value, file, f"{name}.")
            elif value is not None:
                raise ConfigurationError(f"{name} in {file} must have 'name: value' lines.")
        else:
            where = f"{prefix[:-1]} in {file}" if prefix else str(file)
            known = {n[len(prefix) :]: s for n, s in names.items() if n.startswith(prefix)}
            if not prefix:
                known["servers"] = SETTINGS[0]
            raise ConfigurationError(f"{where} has an unknown name{did_you_mean(key, known)}")
    return flat


def _unknown(variables: Mapping[str, Given]) -> tuple[str, ...]:
    """Warn of LIVEKIT_POOL_* that nothing reads: a newer version's, or misspelt."""
    known = [setting.variable.removeprefix(PREFIX) for setting in SETTINGS]
    warnings = []
    for name, given in sorted(variables.items()):
        rest = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and name != DEBUG and rest not in known:
            close = get_close_matches(rest, known, n=1)
            hint = f" (did you mean {PREFIX}{close[0]}?)" if close else ""
            warnings.append(f"{given.label} is not used{hint}.")
    return tuple(warnings)


def _consistent(settings: Settings, given: Mapping[str, Given]) -> Settings:
    """Check what no setting can tell by itself, and complete what follows from others."""

    def label(field: str) -> str:
        if field in given:
            return given[field].label
        return next(setting.variable for setting in SETTINGS if setting.field == field)

    pairs = (
        ("key", "secret"),
        ("secret", "key"),
        ("tls_cert", "tls_key"),
        ("tls_key", "tls_cert"),
    )
    for one, other in pairs:
        if getattr(settings, one) and not getattr(settings, other):
            raise ConfigurationError(
                f"{label(one)} is set but {label(other)} is missing: set both or neither."
            )
    if settings.secret and len(settings.secret) < MIN_SECRET:
        raise ConfigurationError(
            f"{label('secret')} must have at least {MIN_SECRET} characters: make one with "
            "'openssl rand -hex 32'."
        )
    if settings.route == "direct":
        raise ConfigurationError(
            f"{label('route')} cannot be 'direct': that route is not there yet; use 'gateway'."
        )
    if not settings.cool_down_first <= settings.cool_down_max <= LONGEST_COOL_DOWN:
        raise ConfigurationError(
            f"{label('cool_down_max')} must not be less than {label('cool_down_first')}, "
            f"nor more than {LONGEST_COOL_DOWN:.0f} seconds."
        )
    if any(_is_own_webhook(settings, url) for url in settings.webhook_urls):
        raise ConfigurationError(
            f"{label('webhook_urls')} holds the pool's own /pool/webhook: name your application's."
        )
    if settings.key:
        settings = replace(settings, key_origin=label("key"))
    if settings.store.startswith("memory:") and settings.workers > 1:
        warnings = settings.warnings
        if "workers" in given:
            warnings += (f"{label('workers')} is not used: memory:// means one worker.",)
        settings = replace(settings, workers=1, warnings=warnings)
    return settings


def _is_own_webhook(settings: Settings, url: str) -> bool:
    """Whether ``url`` is where this pool takes webhooks: what is sent there would come back."""
    parts = urlsplit(url)
    origin = Origin.parse(f"{parts.scheme}://{parts.netloc}")
    return parts.path.rstrip("/") == "/pool/webhook" and origin.address == settings.origin.address


def _check_not_itself(settings: Settings, servers: Sequence[Server], labels: Sequence[str]) -> None:
    """Refuse a server that is this pool: it would send everybody round in circles."""
    own = {(settings.origin.host, settings.origin.port)}
    hosts = {settings.host.lower()}
    if settings.host in ("0.0.0.0", "::", "localhost"):
        hosts |= {"localhost", "127.0.0.1", "::1"}
    elif is_loopback(settings.host):
        hosts.add("localhost")
    own |= {(host, settings.port) for host in hosts}
    for server, label in zip(servers, labels, strict=True):
        if (server.host, server.port) in own:
            raise ConfigurationError(
                f"{label} is the pool's own address: set it to a LiveKit server's."
            )
