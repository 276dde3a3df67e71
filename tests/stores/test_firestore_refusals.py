"""What the Firestore store makes of a Firestore that refuses, and of credentials that are none."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from grpc import StatusCode

from livekit_pool.exceptions import ConfigurationError, StoreOutcomeUnknown, StoreUnavailable
from livekit_pool.stores.firestore import FirestoreStore
from livekit_pool.stores.firestore_client import open_client
from livekit_pool.stores.firestore_url import parse

from .redis_server import free_port
from .values import first_document, process_row

URL = "firestore://my-project/system/livekitPool?database=my-database"
SENTENCES = {
    StatusCode.PERMISSION_DENIED: (
        "refuses the pool's account: give it the role roles/datastore.user, and enable the"
        " Firestore API; or there is no project of that ID"
    ),
    StatusCode.UNAUTHENTICATED: "does not take the application default credentials",
    StatusCode.NOT_FOUND: "project my-project has no Firestore database my-database",
    StatusCode.FAILED_PRECONDITION: "must be a Firestore database in native mode",
    StatusCode.INVALID_ARGUMENT: "must be a Firestore database in native mode",
}
PASSING = [
    StatusCode.UNAVAILABLE,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.INTERNAL,
]


class Refusing(grpc.GenericRpcHandler):
    """
    A Firestore that answers every call with an error.

    Attributes:
        reads, writes: what it answers.
        calls: how many there were, by the call's name.
    """

    def __init__(self, reads: StatusCode, writes: StatusCode | None = None) -> None:
        self.reads = reads
        self.writes = writes or reads
        self.calls: dict[str, int] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        name = str(details.method).rpartition("/")[2]
        self.calls[name] = self.calls.get(name, 0) + 1
        code = self.writes if name == "Commit" else self.reads

        async def refuse(requests: Any, context: Any) -> None:
            await context.abort(code, "s3cret words of the server\nand more")

        return grpc.stream_stream_rpc_method_handler(refuse)


@asynccontextmanager
async def refusing(reads: StatusCode, writes: StatusCode | None = None) -> AsyncIterator[Any]:
    """Its address, and itself."""
    handler = Refusing(reads, writes)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", handler
    finally:
        await server.stop(None)


@pytest.mark.parametrize("code", list(SENTENCES), ids=lambda code: code.name)
async def test_what_a_setting_must_mend_ends_the_start_in_a_sentence(code: StatusCode) -> None:
    async with refusing(code) as (address, _):
        with pytest.raises(ConfigurationError, match=SENTENCES[code]) as refusal:
            async with FirestoreStore(URL, emulator=address):
                pass

    assert str(refusal.value).startswith("LIVEKIT_POOL_STORE: ")
    assert "s3cret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("code", [*SENTENCES, *PASSING], ids=lambda code: code.name)
async def test_later_a_refusal_is_an_outage(code: StatusCode) -> None:
    async with (
        refusing(StatusCode.UNAVAILABLE) as (address, handler),
        FirestoreStore(URL, emulator=address) as store,
    ):
        handler.reads = handler.writes = code
        for call in (store.load(), store.rows(), store.history(), store.ledger()):
            with pytest.raises(StoreUnavailable) as refusal:
                await call
            assert "s3cret" not in str(refusal.value)
            if code in SENTENCES:
                assert SENTENCES[code] in str(refusal.value)


@pytest.mark.parametrize("code", SENTENCES, ids=lambda code: code.name)
async def test_so_is_one_of_a_write_that_asks_for_nothing(code: StatusCode) -> None:
    async with (
        refusing(StatusCode.UNAVAILABLE) as (address, handler),
        FirestoreStore(URL, emulator=address) as store,
    ):
        handler.reads = handler.writes = code
        with pytest.raises(StoreUnavailable, match=SENTENCES[code]):
            await store.beat(process_row("one"))


@pytest.mark.parametrize("code", PASSING, ids=lambda code: code.name)
async def test_what_may_pass_does_not_end_the_start(code: StatusCode) -> None:
    async with refusing(code) as (address, _), FirestoreStore(URL, emulator=address):
        pass


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.UNKNOWN])
async def test_a_write_that_ends_in_doubt_is_not_known(code: StatusCode) -> None:
    async with (
        refusing(StatusCode.UNAVAILABLE, code) as (address, handler),
        FirestoreStore(URL, emulator=address) as store,
    ):
        with pytest.raises(StoreOutcomeUnknown):
            await store.create(first_document(), "a")
        assert handler.calls["Commit"] == 1, "it was repeated, and may be lost against itself"

        with pytest.raises(StoreOutcomeUnknown):
            await store.beat(process_row("p1"))


@pytest.mark.parametrize("code", [StatusCode.PERMISSION_DENIED, StatusCode.RESOURCE_EXHAUSTED])
async def test_a_write_that_is_refused_was_not_done(code: StatusCode) -> None:
    async with (
        refusing(StatusCode.UNAVAILABLE, code) as (address, _),
        FirestoreStore(URL, emulator=address) as store,
    ):
        with pytest.raises(StoreUnavailable):
            await store.beat(process_row("p1"))


async def test_a_start_needs_no_connection() -> None:
    begin = time.monotonic()
    async with FirestoreStore(URL, emulator=f"127.0.0.1:{free_port()}") as store:
        with pytest.raises(StoreUnavailable):
            await store.load()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.beat(process_row("p1"))

    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("content", [None, "{}", "s3cret", '{"type": "service_account"}'])
async def test_without_credentials_it_does_not_start(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.json"
    if content is not None:
        key.write_text(content)
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))

    with pytest.raises(ConfigurationError) as refusal:
        async with FirestoreStore(URL):
            pass

    assert "set GOOGLE_APPLICATION_CREDENTIALS to the key file" in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


async def test_nor_where_google_provides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    # No question to the network outside.
    monkeypatch.setenv("NO_GCE_CHECK", "true")

    with pytest.raises(ConfigurationError, match="application default credentials"):
        async with FirestoreStore(URL):
            pass


async def test_a_key_file_is_all_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "my-project",
        "private_key": key.decode(),
        "client_email": "pool@my-project.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:9/token",
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(account))
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))

    client = await open_client(parse(URL))  # which sends nothing yet

    await client.close()
