"""
The store that keeps the original system's document: Google Cloud Firestore.

    <document>                     the pool's document
    <document>/history/<revision>  its rotations
    <document>/processes/<process> a row for each process
    <document>/ledger/<writer>     what each has counted

Placements are not kept: see `Store.keeps_placements`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, Self

from google.cloud.firestore_v1 import types

from ..core.document import Document, Rotation
from ..exceptions import ConfigurationError, StoreOutcomeUnknown, StoreUnavailable
from . import firestore_values as values
from .base import (
    Changed,
    Ledger,
    Loaded,
    Moved,
    Placement,
    ProcessRow,
    Resync,
    Settling,
    Stale,
    Swapped,
    check_fold,
    check_restore,
    check_swap,
    check_totals,
)
from .firestore_client import Budget, Client, as_written, open_client
from .firestore_errors import Busy, Conflict, Refused
from .firestore_record import Record
from .firestore_url import parse, unescaped
from .firestore_watch import DocumentWatch
from .notices import Notices
from .placements import Placements

__all__ = ["FirestoreStore"]

_LOG = logging.getLogger(__name__)

_HEARTBEAT: Final = 300.0
"""Each heartbeat is a write, and 20,000 a day are free."""

# Seconds that an unplanned end leaves a row behind: longer than anybody asks for.
_FORGOTTEN: Final = 86_400.0
# How many documents one step of tidying up takes at most.
_AT_ONCE: Final = 400

_REQUEST_TIME: Final = types.DocumentTransform.FieldTransform(
    field_path="beat",
    set_to_server_value=types.DocumentTransform.FieldTransform.ServerValue.REQUEST_TIME,
)


class FirestoreStore:
    """
    `Store` in a document of Firestore, and in collections below it.

    Args:
        url: ``firestore://PROJECT/system/livekitPool[?database=NAME]``.
        names: the pool's servers, in order: what the index in an original document means.
        clock: the store's time, seconds since the epoch; by default Firestore's.
        emulator: host and port of Google's emulator, to be used in the place of Firestore; by
            default what ``FIRESTORE_EMULATOR_HOST`` says, as with Google's own clients.

    Raises:
        ConfigurationError: it is no such URL.
    """

    def __init__(
        self,
        url: str,
        *,
        names: Sequence[str] = (),
        clock: Callable[[], float] | None = None,
        emulator: str | None = None,
    ) -> None:
        self._address = parse(url)
        self._names = tuple(names)
        self._clock = clock
        self._emulator = emulator
        self._notices = Notices()
        self._watch: DocumentWatch | None = None
        self._record = Record(self._address, self._names)
        self._rooms = Placements(3 * _HEARTBEAT, lambda moved: self._notices.moved(moved))

    def __repr__(self) -> str:
        return f"<FirestoreStore {self.url} {'open' if self._record.client else 'closed'}>"

    @property
    def url(self) -> str:
        """The URL: it has no place for a secret."""
        return self._address.url

    @property
    def shared(self) -> bool:
        """Always True."""
        return True

    @property
    def remote(self) -> bool:
        """Always True."""
        return True

    @property
    def keeps_placements(self) -> bool:
        """Always False: a write for each join costs too much."""
        return False

    @property
    def heartbeat(self) -> float:
        """300: each is a write that may cost money."""
        return _HEARTBEAT

    async def __aenter__(self) -> Self:
        if self._record.client is None:
            client = await open_client(self._address, self._clock, self._emulator)
            try:
                await client.read([self._address.document], Budget())
            except Refused as error:
                await client.close()
                raise ConfigurationError(str(error)) from error
            except StoreUnavailable:
                pass  # it may come: a pool that is running does without it for a time, too
            self._notices, self._record.client = Notices(), client
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; calls under way end with `StoreUnavailable`."""
        self._notices.close()
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.stop()
        client, self._record.client = self._record.client, None
        if client is not None:
            await client.close()

    # -- the document --

    async def load(self) -> Loaded:
        document = await self._record.load()
        return Loaded(document=document, now=self._now())

    async def create(self, document: Document, operation: str) -> Swapped:
        return await self._record.create(document, operation)

    async def swap(
        self, expected: int, document: Document, operation: str, rotation: Rotation | None = None
    ) -> Swapped:
        check_swap(expected, document, rotation)
        return await self._record.swap(expected, document, operation, rotation)

    async def restore(
        self,
        found: Document | None,
        document: Document,
        operation: str,
        history: Sequence[Rotation] = (),
    ) -> Swapped:
        check_restore(found, document, history)
        return await self._record.restore(found, document, operation, history)

    async def history(self, limit: int = 50, before: int | None = None) -> Sequence[Rotation]:
        return await self._record.history(limit, before)

    def watch(self) -> AsyncIterator[Changed | Moved | Resync]:
        notices, client = self._notices, self._record.client
        if client is None:
            return notices.watch()
        if self._watch is None:
            document = self._address.document
            self._watch = DocumentWatch(client, document, self._names, notices)
        return _from_its_beginning(self._watch, notices)

    # -- placements: in this process only --

    async def placement(self, room: str) -> Placement | None:
        self._open()
        return self._rooms.get(room)

    async def place(self, room: str, server: str, revision: int) -> Placement | Stale:
        now = self._now()
        if existing := self._rooms.get(room):
            return existing
        current = self._record.revision
        if current != revision:
            return Stale(revision=current)
        wanted = Placement(room=room, server=server, revision=revision)
        return self._rooms.put(wanted, now)

    async def confirm(
        self, placement: Placement, process: str, settling_until: float
    ) -> Placement | None:
        return self._rooms.confirm(placement, process, settling_until, self._now())

    async def settled(self, room: str, process: str) -> None:
        self._open()
        self._rooms.settled(room, process)

    async def release(self, room: str, process: str) -> None:
        self._rooms.release(room, process, self._now())

    async def move(
        self, room: str, server: str, revision: int, process: str, *, force: bool = False
    ) -> Placement | Settling:
        wanted = Placement(room=room, server=server, revision=revision)
        return self._rooms.move(wanted, process, force, self._now())

    async def renew(self, placements: Iterable[Placement], process: str) -> Sequence[Placement]:
        return self._rooms.renew(placements, process, self._now())

    async def placements(self) -> Sequence[Placement]:
        self._open()
        return self._rooms.all()

    async def rooms(self) -> Mapping[str, int]:
        return self._rooms.held(self._now())

    async def lapsing(self, idle: float) -> Sequence[Placement]:
        return self._rooms.lapsing(idle, self._now())

    async def lapse(self, placement: Placement, idle: float) -> bool:
        return self._rooms.lapse(placement, idle, self._now())

    # -- the ledger --

    async def count(self, totals: Ledger) -> None:
        check_totals(totals)
        budget, unknown = Budget(), None
        while totals:
            again: Exception
            try:
                await self._merge(totals, budget)
                return
            except (Conflict, Busy):
                again = Busy("Firestore has too many writes to the ledger at once.")
            except StoreOutcomeUnknown as error:
                again = unknown = error  # a sum that is written twice counts once
            except StoreUnavailable as error:
                raise unknown or error from None
            if budget.spent:
                raise unknown or again
            await asyncio.sleep(random.uniform(0.05, 0.2))

    async def ledger(self) -> Ledger:
        found = await self._open().query("ledger", Budget())
        return {_name_of(entry): values.read_sums(entry.fields) for entry in found}

    async def fold(
        self,
        writer: str,
        key: str,
        expected: int,
        totals: Mapping[str, int],
        drop: Collection[str],
    ) -> bool:
        check_fold(writer, key, expected, totals)
        client, budget = self._open(), Budget()
        name, dropped = self._address.below("ledger", writer), set(drop)
        while True:
            entry = (await client.read([name], budget)).get(name)
            sums = {} if entry is None else values.read_sums(entry.fields)
            if sums.get(key, 0) != expected:
                return False
            left = {each: total for each, total in sums.items() if each not in dropped}
            write = types.Write(
                update=types.Document(name=name, fields=values.sums_fields(left | dict(totals))),
                current_document=as_written(entry.update_time if entry else None),
            )
            try:
                await client.commit([write], budget)
            except (Conflict, Busy):
                if budget.spent:
                    raise Busy("Firestore has too many writes to the ledger at once.") from None
                await asyncio.sleep(random.uniform(0.05, 0.2))
            else:
                return True

    # -- processes --

    async def beat(self, row: ProcessRow) -> bool:
        client = self._open()
        fields = values.row_fields(row)
        name = self._address.below("processes", row.process)
        write = types.Write(update=types.Document(name=name, fields=fields))
        if self._clock is None:
            write.update_transforms = [_REQUEST_TIME]
        else:
            beat = values.value(values.timestamp(self._clock()))
            write.update.fields["beat"] = beat
        await client.write([write], Budget())
        self._rooms.beat(row.process, client.now())
        return True  # to know would be a read

    async def leave(self, process: str) -> None:
        client, budget = self._open(), Budget()
        self._rooms.leave(process, client.now())
        # Nobody else tidies up after those who ended without a word.
        forgotten = values.timestamp(max(0.0, client.now() - _FORGOTTEN))
        rows = await client.query(
            "processes", budget, where=("beat", "LESS_THAN", forgotten), limit=_AT_ONCE
        )
        names = {self._address.below("processes", process), *(row.name for row in rows)}
        await client.write([types.Write(delete=name) for name in names], budget)

    async def rows(self, within: float | None = None) -> Sequence[ProcessRow]:
        client = self._open()
        age = 3 * _HEARTBEAT if within is None else within
        # What time it is, to the second, is enough to ask; the answer says it exactly.
        oldest = values.timestamp(max(0.0, client.now() - age - 1.0))
        found = await client.query(
            "processes", Budget(), where=("beat", "GREATER_THAN_OR_EQUAL", oldest)
        )
        rows = (values.read_row(entry.fields) for entry in found)
        return [row for row in rows if row is not None and abs(client.now() - row.beat) <= age]

    # -- steps of the above --

    def _open(self) -> Client:
        return self._record.open()

    async def _merge(self, totals: Ledger, budget: Budget) -> None:
        """Try once to merge ``totals`` into the ledger. Raises as `Client.commit` does."""
        client = self._open()
        writers = {self._address.below("ledger", writer): writer for writer in totals}
        there = await client.read(list(writers), budget)
        writes = []
        for name, writer in writers.items():
            entry = there.get(name)
            old = None if entry is None else values.read_sums(entry.fields)
            new = _merged(old or {}, totals[writer])
            if new != old:
                update = types.Document(name=name, fields=values.sums_fields(new))
                as_it_was = as_written(entry.update_time if entry else None)
                writes.append(types.Write(update=update, current_document=as_it_was))
        if writes:
            await client.commit(writes, budget)

    def _now(self) -> float:
        """The store's time."""
        return self._open().now()


def _merged(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, int]:
    """Of each key the higher sum."""
    return dict(old) | {key: max(total, old.get(key, 0)) for key, total in new.items()}


def _name_of(raw: Any) -> str:
    """What a document below the pool's is called by the pool."""
    return unescaped(raw.name.rpartition("/")[2])


async def _from_its_beginning(
    watch: DocumentWatch, notices: Notices
) -> AsyncGenerator[Changed | Moved | Resync, None]:
    # Who reads the document after the first notice misses nothing: the stream shows what follows.
    await watch.begun.wait()
    async with aclosing(notices.watch()) as following:
        async for notice in following:
            yield notice
