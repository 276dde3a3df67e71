"""
What remembers: one contract (`base`), several stores, chosen by URL.

The value of ``LIVEKIT_POOL_STORE`` is such a URL. A store's module is imported only when its
scheme is asked for, so that nobody needs the packages of a store they do not use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import cast

from ..exceptions import ConfigurationError
from .base import Store

__all__ = ["store_from_url"]

# scheme -> "module:Class"; the class is called with the whole URL and the servers' names.
_STORES = {
    "firestore": "livekit_pool.stores.firestore:FirestoreStore",
    "memory": "livekit_pool.stores.memory:MemoryStore",
    "redis": "livekit_pool.stores.redis:RedisStore",
    "rediss": "livekit_pool.stores.redis:RedisStore",
    "unix": "livekit_pool.stores.redis:RedisStore",
    "sqlite": "livekit_pool.stores.sqlite:SqliteStore",
}
# scheme -> the extra of this package that brings what it needs, and the module that shows it.
_EXTRAS = {"firestore": ("firestore", "google.cloud.firestore_v1")}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


def store_from_url(url: str, *, names: Sequence[str] = ()) -> Store:
    """
    Make the store that ``url`` names; nothing is opened until the store is entered.

    Args:
        url: ``sqlite:///path`` (relative to the working directory), ``sqlite:////path``
            (absolute), ``redis://``, ``rediss://`` or ``unix://`` (a Redis),
            ``firestore://PROJECT/system/livekitPool`` or ``memory://``.
        names: the pool's servers, in order, for documents that name none.

    Raises:
        ConfigurationError: the scheme is unknown, a package for it is not installed, or the store
            refuses the rest of the URL. The message never holds more of the URL than its scheme:
            it may carry a password.
    """
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    known = " or ".join(f"{name}://" for name in sorted(_STORES, reverse=True))
    if not separator or not _SCHEME.fullmatch(scheme):
        raise ConfigurationError(
            f"LIVEKIT_POOL_STORE is not a URL of a store: it must begin with {known},"
            " as in sqlite:///livekit-pool.db."
        )
    if scheme not in _STORES:
        raise ConfigurationError(
            f"LIVEKIT_POOL_STORE names a store that is not known, {scheme}://: use {known}."
        )
    if scheme in _EXTRAS:
        _check_extra(scheme, *_EXTRAS[scheme])
    module, _, name = _STORES[scheme].partition(":")
    return cast(Store, getattr(import_module(module), name)(url, names=names))


def _check_extra(scheme: str, extra: str, module: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"LIVEKIT_POOL_STORE: {scheme}:// needs packages that are not installed: run"
            f" pip install 'livekit-pool[{extra}]' (in a clone: make install-{extra})."
        ) from None
