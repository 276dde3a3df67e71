"""The security rules that docs/firestore.md recommends do what it says of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from google.api_core.exceptions import PermissionDenied
from google.cloud.firestore_v1 import types
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient
from google.cloud.firestore_v1.services.firestore.transports import (
    FirestoreGrpcAsyncIOTransport,
)

from livekit_pool.stores.firestore import FirestoreStore
from livekit_pool.stores.firestore_values import value

from .emulator import Emulator
from .values import first_document, following, process_row, rotation_to

pytestmark = pytest.mark.needs("firestore")

PAGE = (Path(__file__).parents[2] / "docs" / "firestore.md").read_text()
STRICT, LENIENT = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
RULES = {
    "strict": STRICT,
    "lenient": STRICT.replace("      allow list, write: if false;\n", LENIENT),
}
PROJECT = "ruled"
DATABASE = f"projects/{PROJECT}/databases/(default)"
DOCUMENT = f"{DATABASE}/documents/system/livekitPool"
THEIRS: dict[str, Any] = {"activeServerIndex": 1, "lastError": "quota exceeded"}


class Client:
    """Somebody with an account of the application, or with none."""

    def __init__(self, emulator: Emulator, *, signed_in: bool) -> None:
        self.channel = grpc.aio.insecure_channel(emulator.address)
        self._api = FirestoreAsyncClient(
            transport=FirestoreGrpcAsyncIOTransport(channel=self.channel)
        )
        self._metadata = [("google-cloud-resource-prefix", DATABASE)]
        if signed_in:
            claims = {"sub": "alice", "user_id": "alice", "iat": 1, "aud": PROJECT}
            token = jwt.encode(claims, "", algorithm="none")
            self._metadata.append(("authorization", f"Bearer {token}"))

    async def get(self, name: str) -> None:
        request = types.GetDocumentRequest(name=name)
        await self._api.get_document(request, retry=None, timeout=10, metadata=self._metadata)

    async def write(self, name: str = DOCUMENT, **fields: Any) -> None:
        """Change some fields."""
        update = types.Write(
            update=types.Document(name=name, fields={k: value(v) for k, v in fields.items()}),
            update_mask=types.DocumentMask(field_paths=list(fields)),
        )
        await self._commit(update)

    async def delete(self) -> None:
        await self._commit(types.Write(delete=DOCUMENT))

    async def _commit(self, write: types.Write) -> None:
        request = types.CommitRequest(database=DATABASE, writes=[write])
        await self._api.commit(request, retry=None, timeout=10, metadata=self._metadata)


@pytest.fixture(params=sorted(RULES))
async def ruled(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[str, Emulator]]:
    """An emulator with these rules, and a pool's document and what is below it."""
    rules = tmp_path / "firestore.rules"
    rules.write_text(RULES[request.param])
    emulator = Emulator(rules)
    await asyncio.to_thread(emulator.start)
    url = f"firestore://{PROJECT}/system/livekitPool"
    async with FirestoreStore(url, emulator=emulator.address) as store:
        await store.create(first_document(), "a")
        document = following(first_document())
        await store.swap(1, document, "b", rotation_to(document))
        await store.beat(process_row("p1"))
    yield request.param, emulator
    emulator.kill()


async def test_who_may_do_what(ruled: tuple[str, Emulator]) -> None:
    kind, emulator = ruled
    anybody = Client(emulator, signed_in=False)
    alice = Client(emulator, signed_in=True)

    for client in (anybody, alice):
        await client.get(DOCUMENT)
        for name in (f"{DOCUMENT}/history/{2:016d}", f"{DOCUMENT}/processes/p1"):
            with pytest.raises(PermissionDenied):
                await client.get(name)
        for fields in (
            {"activeServer": "green"},
            {"revision": 100},
            THEIRS | {"paused": "yes"},
            THEIRS | {"activeServerIndex": 2},
            THEIRS | {"activeServerIndex": -1},
            THEIRS | {"activeServerIndex": "1"},
        ):
            with pytest.raises(PermissionDenied):
                await client.write(**fields)
        for name in (f"{DOCUMENT}/history/x", f"{DATABASE}/documents/system/another"):
            with pytest.raises(PermissionDenied):
                await client.write(name, **THEIRS)
        with pytest.raises(PermissionDenied):
            await client.delete()

    with pytest.raises(PermissionDenied):
        await anybody.write(**THEIRS)
    if kind == "lenient":
        await alice.write(**THEIRS)
    else:
        with pytest.raises(PermissionDenied):
            await alice.write(**THEIRS)
    await anybody.channel.close()
    await alice.channel.close()
