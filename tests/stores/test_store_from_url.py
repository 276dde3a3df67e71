"""A store is chosen by its URL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from livekit_pool.exceptions import ConfigurationError
from livekit_pool.stores import store_from_url
from livekit_pool.stores.firestore import FirestoreStore
from livekit_pool.stores.memory import MemoryStore
from livekit_pool.stores.sqlite import SqliteStore


@pytest.mark.parametrize(
    ("url", "kind", "shared"),
    [
        ("memory://", MemoryStore, False),
        ("sqlite:///livekit-pool.db", SqliteStore, True),
        ("SQLite:///livekit-pool.db", SqliteStore, True),
        ("firestore://project/system/livekitPool", FirestoreStore, True),
    ],
)
def test_the_scheme_chooses(url: str, kind: type, shared: bool) -> None:
    store = store_from_url(url)

    assert type(store) is kind
    assert store.shared is shared


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "is not a URL of a store"),
        ("livekit-pool.db", "is not a URL of a store"),
        ("s3cret:s3cret@://x", "is not a URL of a store"),
        ("mysql://user:s3cret@host/db", "a store that is not known, mysql://"),
        ("memory://s3cret", "takes nothing after it"),
        ("sqlite://", "is sqlite:///path"),
        ("sqlite:///", "is sqlite:///path"),
        ("sqlite://s3cret@host/path", "is sqlite:///path"),
        ("sqlite:///directory/", "is sqlite:///path"),
        ("sqlite:///:memory:", "use memory://"),
        ("sqlite:///x.db?password=s3cret", "takes no options"),
        ("sqlite:///a\0b", "takes no options"),
    ],
)
def test_what_cannot_be_one_is_refused_in_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as refusal:
        store_from_url(url)

    assert str(refusal.value).startswith("LIVEKIT_POOL_STORE")
    assert "s3cret" not in str(refusal.value)


def test_a_path_is_relative_or_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert repr(store_from_url("sqlite:///a/b.db")) == "<SqliteStore sqlite:///a/b.db closed>"
    assert store_from_url("sqlite:///a/b.db").url == "sqlite:///a/b.db"
    assert store_from_url("sqlite:////a/b.db").url == "sqlite:////a/b.db"


def test_nothing_is_imported_or_opened_before_it_is_needed(tmp_path: Path) -> None:
    program = """
import sys, threading
import livekit_pool.stores
assert "sqlite3" not in sys.modules
livekit_pool.stores.store_from_url("sqlite:///pool.db")
assert "sqlite3" in sys.modules
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=30)

    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.firestore_v1", None)

    with pytest.raises(ConfigurationError) as refusal:
        store_from_url("firestore://project/system/livekitPool")

    assert str(refusal.value) == (
        "LIVEKIT_POOL_STORE: firestore:// needs packages that are not installed: run"
        " pip install 'livekit-pool[firestore]' (in a clone: make install-firestore)."
    )
