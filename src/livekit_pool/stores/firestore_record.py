"""
The pool's document in Firestore, and its history: how both change together.

A swap is one commit with a precondition on the document's update time: so it is lost against
whatever anybody wrote since, also a client of the original system, which knows no revision. No
transaction is used: their locks wait for one another.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.cloud.firestore_v1 import types

from ..core.document import Document, Rotation
from ..exceptions import StoreOutcomeUnknown, StoreUnavailable
from . import firestore_values as values
from .base import SwapOutcome, Swapped
from .firestore_client import Budget, Client, as_written
from .firestore_errors import Busy, Conflict
from .firestore_url import Address

__all__ = ["Record"]

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class _Snapshot:
    """
    The document as this store object has handed it out.

    Attributes:
        update_time: raw timestamp: when it was written.
        reconsidered: whether a swap that does not answer the foreign write in it was refused.
    """

    document: Document
    operation: str
    update_time: Any
    reconsidered: bool = False

    def is_at(self, lineage: str, revision: int) -> bool:
        return self.document.identity == (lineage, revision)


class Record:
    """
    The document at ``address``, as one store object sees it.

    Attributes:
        client: the connection; None while the store is not open.
    """

    def __init__(self, address: Address, names: Sequence[str]) -> None:
        self.client: Client | None = None
        self._address = address
        self._names = names
        self._known: _Snapshot | None = None
        self._repairs: tuple[str, ...] = ()

    @property
    def revision(self) -> int:
        """That of the document which was handed out last; 0 before."""
        return self._known.document.revision if self._known else 0

    def open(self) -> Client:
        """The connection. `StoreUnavailable` if there is none."""
        if self.client is None:
            raise StoreUnavailable(f"The store {self._address.url} is not open.")
        return self.client

    async def load(self) -> Document | None:
        """As `Store.load`."""
        found = await self._read(Budget())
        self._keep(found)
        return found.document if found else None

    async def create(self, document: Document, operation: str) -> Swapped:
        """As `Store.create`."""
        writes = [self._write_of(document, operation, None)]
        return await self._commit(writes, document, operation, None, Budget())

    async def swap(
        self, expected: int, document: Document, operation: str, rotation: Rotation | None
    ) -> Swapped:
        """As `Store.swap`."""
        budget, base = Budget(), self._known
        self.open()
        if base is None or not base.is_at(document.lineage, expected):
            base = await self._read(budget)
            if base is None or not base.is_at(document.lineage, expected):
                return self._answer(base, operation)
        if _overlooks(base, document, rotation):
            # It may have been made just before the foreign write was read: who made it shall
            # look again. Once: it may also know what it does, and write it back.
            return self._answer(base, operation)
        writes = [self._write_of(document, operation, base)]
        if rotation is not None:
            writes.append(self._entry_of(rotation))
        return await self._commit(writes, document, operation, base, budget)

    async def restore(
        self,
        found: Document | None,
        document: Document,
        operation: str,
        history: Sequence[Rotation],
    ) -> Swapped:
        """As `Store.restore`."""
        budget = Budget()
        base = await self._read(budget)
        there = base.document if base else None
        if (there and there.identity) != (found and found.identity) or (
            there is not None and found is not None and _has_news(there, found)
        ):
            return self._answer(base, operation)
        writes = [self._write_of(document, operation, base)]
        entries = {entry.update.name: entry for entry in map(self._entry_of, history)}
        if entries:
            known = await self.open().read(list(entries), budget)
            writes += [entry for name, entry in entries.items() if name not in known]
        return await self._commit(writes, document, operation, base, budget)

    async def history(self, limit: int, before: int | None) -> list[Rotation]:
        """As `Store.history`."""
        client = self.open()
        if limit <= 0:
            return []
        below = None if before is None else ("revision", "LESS_THAN", before)
        entries = await client.query(
            "history", Budget(), where=below, descending="revision", limit=limit
        )
        return [values.read_rotation(entry.fields) for entry in entries]

    async def _read(self, budget: Budget) -> _Snapshot | None:
        name = self._address.document
        found = await self.open().read([name], budget)
        if name not in found:
            return None
        raw = found[name]
        document, operation, repairs = values.read_document(raw.fields, self._names)
        if repairs != self._repairs:
            # Once, not at each load until the next swap writes a whole document again.
            self._repairs = repairs
            for repair in repairs:
                _LOG.warning("Document repaired", extra={"fields": {"repair": repair}})
        return _Snapshot(document, operation, raw.update_time)

    def _keep(self, snapshot: _Snapshot | None) -> None:
        """``snapshot`` is handed out: swaps that follow are made from it."""
        known = self._known
        if known is not None and snapshot is not None:
            snapshot.reconsidered = known.reconsidered and known.update_time == snapshot.update_time
        self._known = snapshot

    def _answer(self, found: _Snapshot | None, operation: str) -> Swapped:
        """What came of a write that was not done, or is done already."""
        self._keep(found)
        if found is not None:
            found.reconsidered = True  # whoever wrote is told of it now
        won = found is not None and found.operation == operation
        return Swapped(
            outcome=SwapOutcome.WON if won else SwapOutcome.LOST,
            document=found.document if found else None,
        )

    def _write_of(self, document: Document, operation: str, base: _Snapshot | None) -> types.Write:
        fields, mask = values.document_fields(document, operation)
        return types.Write(
            update=types.Document(name=self._address.document, fields=fields),
            # Other fields are somebody else's, and stay.
            update_mask=types.DocumentMask(field_paths=mask),
            current_document=as_written(base.update_time if base else None),
        )

    def _entry_of(self, rotation: Rotation) -> types.Write:
        # Without a precondition: where the document was deleted, its history has stayed.
        return types.Write(
            update=types.Document(
                name=self._address.below("history", f"{rotation.revision:016d}"),
                fields=values.rotation_fields(rotation),
            )
        )

    async def _commit(
        self,
        writes: Sequence[types.Write],
        document: Document,
        operation: str,
        base: _Snapshot | None,
        budget: Budget,
    ) -> Swapped:
        """Write the document in the place of ``base``, and find out what came of it."""
        while True:
            try:
                response = await self.open().commit(writes, budget)
            except Conflict:
                return self._answer(await self._read(budget), operation)
            except Busy:
                if budget.spent:
                    raise
                found = await self._read(budget)
                if not _is_unchanged(found, base):
                    return self._answer(found, operation)
                await asyncio.sleep(random.uniform(0.01, 0.1))
                continue
            except StoreOutcomeUnknown as error:
                found = await self._read_after(error, budget)
                # A write whose answer was lost may still come; and who has found a later revision
                # may have written the one before.
                if _is_decided(found, base, document, operation):
                    return self._answer(found, operation)
                raise
            update_time = response.write_results[0].update_time
            self._keep(_Snapshot(document, operation, update_time))
            return Swapped(outcome=SwapOutcome.WON, document=document)

    async def _read_after(self, error: Exception, budget: Budget) -> _Snapshot | None:
        try:
            return await self._read(budget)
        except StoreUnavailable:
            raise error from None


def _overlooks(base: _Snapshot, document: Document, rotation: Rotation | None) -> bool:
    """Whether ``document`` takes the place of a foreign write without an answer to it."""
    if base.reconsidered:
        return False
    if base.document.revision == 0:
        made_from = document.active_server if rotation is None else rotation.from_
        return base.document.active_server != made_from
    return base.document.foreign_index not in (None, document.active_server_index)


def _has_news(there: Document, found: Document) -> bool:
    """Whether a foreign client has written into what was ``found`` what is ``there`` now."""
    if there.revision == 0:
        # The original system's: nothing in it says what was there before.
        return there.active_server != found.active_server
    return there.foreign_index not in (None, found.foreign_index)


def _is_unchanged(found: _Snapshot | None, base: _Snapshot | None) -> bool:
    if found is None or base is None:
        return found is base
    return bool(found.update_time == base.update_time)


def _is_decided(
    found: _Snapshot | None, base: _Snapshot | None, document: Document, operation: str
) -> bool:
    """Whether ``found`` shows what came of writing ``document`` in the place of ``base``."""
    if found is None or _is_unchanged(found, base):
        return False
    there = found.document
    return found.operation == operation or (
        there.lineage == document.lineage and there.revision <= document.revision
    )
