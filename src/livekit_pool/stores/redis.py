"""
The store that several machines share: a Redis, or what speaks like one, from version 6 on.

Every method is one script inside Redis (`redis_scripts`), by the time of Redis. Changes are told
by pub/sub as hints, on which each process looks; it looks every 2 s in any case, so that a lost
message costs seconds. What survives a restart of Redis is for the settings of Redis to say.
"""

from __future__ import annotations

import json
import logging
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, fields, replace
from types import TracebackType
from typing import Any, Self

from ..core.document import Document, Rotation
from ..exceptions import StoreCorrupt, StoreOutcomeUnknown
from . import redis_scripts as scripts
from . import redis_url
from .base import (
    HEARTBEAT,
    LIVING,
    Changed,
    Ledger,
    Loaded,
    Moved,
    Placement,
    ProcessRow,
    Resync,
    Settling,
    Stale,
    SwapOutcome,
    Swapped,
    check_fold,
    check_restore,
    check_swap,
    check_totals,
)
from .document_json import (
    document_from_json,
    document_to_json,
    rotation_from_json,
    rotation_to_json,
)
from .notices import Notices
from .redis_calls import Calls
from .redis_parts import Script
from .redis_watch import Seen, Watcher, placement_from, seen_from

__all__ = ["RedisStore"]

_LOG = logging.getLogger(__name__)

# Rooms renewed, and sums counted, in one script: joins wait for it.
_AT_ONCE = 500


class RedisStore:
    """
    `Store` in a Redis.

    Nothing is connected before the store is entered. Entering succeeds where no Redis answers:
    the methods, and the watch, come back to life with it.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as `redis_url` reads it.
        names: the pool's servers in order: what an index means in a document that somebody edited.
        clock: the store's time instead of that of Redis, for tests.

    Raises:
        ConfigurationError: the URL names no Redis; no part of the URL is in the message.
    """

    def __init__(
        self,
        url: str,
        *,
        names: Sequence[str] = (),
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._address = redis_url.parse(url)
        self._names = tuple(names)
        self._clock = clock
        self._calls = Calls(self._address, scripts.ALL)
        self._notices = Notices()
        self._watcher: Watcher | None = None
        # What was last said of the document.
        self._repairs: tuple[str, ...] = ()
        # A document whose identity somebody edited, by the one that is read -> as it is stored.
        self._stored_as: dict[tuple[str, int], tuple[str, str]] = {}

    def __repr__(self) -> str:
        return f"<RedisStore {self.url} {'open' if self._watcher else 'closed'}>"

    @property
    def url(self) -> str:
        """The URL without user and password."""
        return self._address.shown

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
        """Always True."""
        return True

    @property
    def heartbeat(self) -> float:
        """Always `HEARTBEAT`."""
        return HEARTBEAT

    async def __aenter__(self) -> Self:
        if self._watcher is None:
            self._address.check_files()
            self._notices = Notices()
            watcher = Watcher(self._look, self._notices)
            self._calls.start(watcher.hint, watcher.gap)
            try:
                answers = await self._calls.check(scripts.LOOK, "", 0)
                await watcher.start(wait=answers)
            except BaseException:
                await watcher.aclose()
                await self._calls.aclose()
                raise
            self._watcher = watcher
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; calls that wait are told that there was no answer."""
        self._notices.close()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await watcher.aclose()
        await self._calls.aclose()

    # -- the document --

    async def load(self) -> Loaded:
        *stored, now = await self._read(scripts.LOAD)
        document, repairs = self._document(stored)
        if repairs != self._repairs:
            # Once, not at each load until the next swap writes a whole document again.
            self._repairs = repairs
            for repair in repairs:
                _LOG.warning("Document repaired", extra={"fields": {"repair": repair}})
        return Loaded(document=document, now=float(now))

    async def create(self, document: Document, operation: str) -> Swapped:
        return await self._put(scripts.CREATE, document, operation)

    async def swap(
        self, expected: int, document: Document, operation: str, rotation: Rotation | None = None
    ) -> Swapped:
        check_swap(expected, document, rotation)
        return await self._put(
            scripts.SWAP,
            document,
            operation,
            replaces=self._stored(document.lineage, expected),
            entries=[rotation_to_json(rotation)] if rotation else (),
        )

    async def restore(
        self,
        found: Document | None,
        document: Document,
        operation: str,
        history: Sequence[Rotation] = (),
    ) -> Swapped:
        check_restore(found, document, history)
        entries: list[str | int] = []
        for rotation in history:
            entries += [rotation.revision, rotation_to_json(rotation)]
        return await self._put(
            scripts.RESTORE,
            document,
            operation,
            replaces=self._stored(found.lineage, found.revision) if found else ("", ""),
            entries=entries,
        )

    async def history(self, limit: int = 50, before: int | None = None) -> Sequence[Rotation]:
        below = "+inf" if before is None else f"({before}"
        found = await self._read(scripts.HISTORY, below, max(limit, 0))
        return [rotation_from_json(content) for content in found]

    def watch(self) -> AsyncIterator[Changed | Moved | Resync]:
        return self._notices.watch()

    # -- placements --

    async def placement(self, room: str) -> Placement | None:
        stored = await self._read(scripts.PLACEMENT, room)
        return placement_from(room, stored) if stored else None

    async def place(self, room: str, server: str, revision: int) -> Placement | Stale:
        answer = await self._write(
            scripts.PLACE, room, self._revision_stored(revision), f"{revision} {server}"
        )
        if isinstance(answer, str):
            return placement_from(room, answer)
        return Stale(revision=_whole(answer[0]) or 0)

    async def confirm(
        self, placement: Placement, process: str, settling_until: float
    ) -> Placement | None:
        given = _as_stored(placement)
        there = await self._write(
            scripts.CONFIRM, placement.room, given, process, repr(float(settling_until))
        )
        if there == given:
            return placement
        return placement_from(placement.room, there) if there else None

    async def settled(self, room: str, process: str) -> None:
        await self._write(scripts.SETTLED, room, process)

    async def release(self, room: str, process: str) -> None:
        await self._write(scripts.RELEASE, room, process)

    async def move(
        self, room: str, server: str, revision: int, process: str, *, force: bool = False
    ) -> Placement | Settling:
        answer = await self._write(
            scripts.MOVE, room, f"{revision} {server}", process, "force" if force else ""
        )
        if isinstance(answer, str):
            return placement_from(room, answer)
        return Settling(placement=placement_from(room, answer[0]), until=float(answer[1]))

    async def renew(self, placements: Iterable[Placement], process: str) -> Sequence[Placement]:
        given = [text for each in placements for text in (each.room, _as_stored(each))]
        others: list[Placement] = []
        for start in range(0, len(given), 2 * _AT_ONCE):
            part = given[start : start + 2 * _AT_ONCE]
            others += _placements(await self._write(scripts.RENEW, process, *part))
        return others

    async def placements(self) -> Sequence[Placement]:
        return list(_placements(await self._read(scripts.PLACEMENTS)))

    async def rooms(self) -> Mapping[str, int]:
        return dict(_pairs(await self._read(scripts.ROOMS)))

    async def lapsing(self, idle: float) -> Sequence[Placement]:
        return list(_placements(await self._read(scripts.LAPSING, repr(float(idle)))))

    async def lapse(self, placement: Placement, idle: float) -> bool:
        # A second try would find it gone, and say that it was not.
        done = await self._write(
            scripts.LAPSE,
            placement.room,
            _as_stored(placement),
            repr(float(idle)),
            repeats=False,
        )
        return bool(done)

    # -- the ledger --

    async def count(self, totals: Ledger) -> None:
        check_totals(totals)
        waiting: list[str | int] = []
        for writer, sums in totals.items():
            for key, total in sums.items():
                waiting += [json.dumps([writer, key]), total]
            # Never in the middle of a writer: its sums are merged in one step.
            if len(waiting) >= 2 * _AT_ONCE:
                await self._write(scripts.COUNT, *waiting)
                waiting = []
        if waiting:
            await self._write(scripts.COUNT, *waiting)

    async def ledger(self) -> Ledger:
        found: dict[str, dict[str, int]] = {}
        try:
            for name, total in _pairs(await self._read(scripts.LEDGER)):
                writer, key = json.loads(name)
                found.setdefault(writer, {})[key] = int(total)
        except (ValueError, TypeError):
            raise StoreCorrupt("The ledger in LIVEKIT_POOL_STORE is damaged.") from None
        return found

    async def fold(
        self,
        writer: str,
        key: str,
        expected: int,
        totals: Mapping[str, int],
        drop: Collection[str],
    ) -> bool:
        check_fold(writer, key, expected, totals)
        values: list[str | int] = []
        for each, total in totals.items():
            values += [json.dumps([writer, each]), total]
        values += [json.dumps([writer, dropped]) for dropped in drop]
        # A second try would find it done, and say that it was not.
        done = await self._write(
            scripts.FOLD,
            json.dumps([writer, key]),
            expected,
            len(totals),
            *values,
            repeats=False,
        )
        return bool(done)

    # -- processes --

    async def beat(self, row: ProcessRow) -> bool:
        content = asdict(row)
        del content["beat"]  # the store's time, which only Redis knows
        return bool(await self._write(scripts.BEAT, row.process, json.dumps(content)) == 0)

    async def leave(self, process: str) -> None:
        await self._write(scripts.LEAVE, process)

    async def rows(self, within: float | None = None) -> Sequence[ProcessRow]:
        age = LIVING if within is None else within
        found = await self._read(scripts.ROWS, repr(float(age)))
        return [_row(content, float(beat)) for content, beat in _pairs(found) if content]

    # -- steps of the above --

    async def _read(self, script: Script, *values: str | int) -> Any:
        return await self._calls.read(script, self._now(), *values)

    async def _write(self, script: Script, *values: str | int, repeats: bool = True) -> Any:
        return await self._calls.write(script, self._now(), *values, repeats=repeats)

    def _now(self) -> str:
        return "" if self._clock is None else repr(self._clock())

    async def _look(self, moves: int) -> Seen:
        return seen_from(await self._read(scripts.LOOK, moves))

    async def _put(
        self,
        script: Script,
        document: Document,
        operation: str,
        *,
        replaces: tuple[str, str] | tuple[()] = (),
        entries: Sequence[str | int] = (),
    ) -> Swapped:
        """Write a document where the script finds what it ``replaces``."""
        answer, again = await self._calls.write_patiently(
            script,
            self._now(),
            *replaces,
            document.lineage,
            document.revision,
            operation,
            document_to_json(document),
            *entries,
        )
        if answer == 1:
            return Swapped(outcome=SwapOutcome.WON, document=document)
        there, _ = self._document(answer)
        if answer[2] == operation:
            # The same operation again: its answer was lost, and it is still the newest.
            return Swapped(outcome=SwapOutcome.WON, document=there)
        if again and there is not None and _may_follow(there, document):
            raise StoreOutcomeUnknown(
                f"The Redis {self.url} (LIVEKIT_POOL_STORE) has gone on, perhaps from this write."
            )
        return Swapped(outcome=SwapOutcome.LOST, document=there)

    def _document(self, stored: Sequence[str | None]) -> tuple[Document | None, tuple[str, ...]]:
        """The document, and a sentence for each repair it needed."""
        lineage, revision, operation, content = stored
        if content is None:
            if lineage is revision is operation is None:
                return None, ()
            raise StoreCorrupt("What LIVEKIT_POOL_STORE holds is not usable: its content is gone.")
        beside = {"lineage": lineage, "revision": _whole(revision)}
        document, repairs = document_from_json(content, self._names, beside)
        self._stored_as.clear()
        if (lineage, revision) != (document.lineage, str(document.revision)):
            self._stored_as[document.identity] = (lineage or "", revision or "")
        return document, repairs

    def _stored(self, lineage: str, revision: int) -> tuple[str, str]:
        """How the identity of a document is stored."""
        return self._stored_as.get((lineage, revision), (lineage, str(revision)))

    def _revision_stored(self, revision: int) -> str:
        """How that revision of the document is stored."""
        edited = (raw for (_, read), (_, raw) in self._stored_as.items() if read == revision)
        return next(edited, str(revision))


def _may_follow(there: Document, document: Document) -> bool:
    """Whether others may have swapped ``document``, once written, to what is ``there`` now."""
    return there.lineage == document.lineage and there.revision > document.revision


def _whole(text: str | None) -> int | None:
    """A revision as it is stored: what a script compares it with is written in the same way."""
    if text and text.isascii() and text.isdecimal() and len(text) < 20:
        return number if str(number := int(text)) == text else None
    return None


def _as_stored(placement: Placement) -> str:
    return f"{placement.revision} {placement.server}"


def _placements(flat: Sequence[str]) -> Iterator[Placement]:
    return (placement_from(room, stored) for room, stored in _pairs(flat) if stored)


def _pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _row(content: str, beat: float) -> ProcessRow:
    try:
        read = json.loads(content)
        # A newer version of the program, that runs beside this one, may write more.
        known = {each.name: read[each.name] for each in fields(ProcessRow) if each.name in read}
        row = ProcessRow(**{**known, "names": tuple(read["names"])})
    except (ValueError, TypeError, KeyError):
        raise StoreCorrupt("The rows of processes in LIVEKIT_POOL_STORE are damaged.") from None
    return replace(row, beat=beat)
