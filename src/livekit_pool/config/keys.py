"""
The pool's own key pair where none was configured.

``serve`` on loopback makes one and keeps it in `Settings.key_file`; the command line finds it
there. The file has two NAME=value lines, fit to be copied into a .env file.
"""

from __future__ import annotations

import os
import secrets
import string
from dataclasses import replace
from pathlib import Path

from ..exceptions import ConfigurationError
from .loading import MIN_SECRET
from .settings import Settings, is_loopback
from .sources import read_env_file

__all__ = ["ensure_key_pair", "find_key_pair"]

_KEY = "LIVEKIT_POOL_KEY"
_SECRET = "LIVEKIT_POOL_SECRET"


def ensure_key_pair(settings: Settings) -> Settings:
    """
    Return ``settings`` with a key pair: the configured one, the kept one, or a new one.

    A new pair is written to `Settings.key_file` (mode 0600) in one step, so that of several
    processes starting at once all get the same pair, and an existing file is never overwritten.
    With ``memory://`` too: without the file the command line could not find the pair.
    ``key_origin`` says where the pair is.

    Raises:
        ConfigurationError: there is no pair and the pool listens beyond loopback, where it must
            not depend on a file that somebody else could have put there; or the file is not a
            key pair, or cannot be made.
    """
    if settings.key:
        return settings
    if not is_loopback(settings.host):
        raise ConfigurationError(
            f"{_KEY} and {_SECRET} are missing: set them, since the pool listens beyond loopback "
            "and makes a pair of its own only there."
        )
    path = settings.key_file
    if not path.exists():
        _create(path)
    return _kept(settings, path)


def find_key_pair(settings: Settings) -> Settings:
    """
    Return ``settings`` with the configured key pair, or the one that serve keeps. Makes none.

    Raises:
        ConfigurationError: there is none, or the file is not a key pair.
    """
    if settings.key:
        return settings
    path = settings.key_file
    if not path.exists():
        raise ConfigurationError(
            f"There is no key pair: set {_KEY} and {_SECRET}, or run this where "
            f"'livekit-pool serve' keeps its pair ({path})."
        )
    return _kept(settings, path)


def _create(path: Path) -> None:
    """Write a new pair to ``path`` unless it exists by then."""
    alphabet = string.ascii_letters + string.digits
    key = "API" + "".join(secrets.choice(alphabet) for _ in range(12))
    content = f"{_KEY}={key}\n{_SECRET}={secrets.token_urlsafe(32)}\n"
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # A link appears whole or not at all, and never replaces a file, as a rename would.
            os.link(draft, path)
        finally:
            os.unlink(draft)
    except FileExistsError:
        return  # another process was first: its pair counts
    except OSError as error:
        raise ConfigurationError(
            f"The pool's key pair cannot be kept in {path} ({error.strerror}): set {_KEY} and "
            f"{_SECRET}, or make that directory writable."
        ) from None


def _kept(settings: Settings, path: Path) -> Settings:
    variables = read_env_file(path)
    key, secret = variables.get(_KEY, ""), variables.get(_SECRET, "")
    if not key or len(secret) < MIN_SECRET:
        raise ConfigurationError(
            f"{path} is not a key pair of the pool: remove it, or set {_KEY} and {_SECRET}."
        )
    warnings = settings.warnings
    if path.stat().st_mode & 0o077:
        warnings += (f"{path} can be read by others: run 'chmod 600' on it.",)
    return replace(settings, key=key, secret=secret, key_origin=str(path), warnings=warnings)
