"""The spool, with real processes."""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Iterator

import pytest

from livekit_pool.web.webhooks import spool as module
from livekit_pool.web.webhooks.spool import Spool
from tests.web.webhooks.children import child, kill


@pytest.fixture
def spool() -> Iterator[Spool]:
    spool = Spool()
    yield spool
    spool.close()


def kept(spool: Spool) -> list[tuple[int, bytes]]:
    """What the holder gets now, with positions."""
    records = spool.take()
    assert records is not None
    return records


def taken(spool: Spool, *, finish: bool = True) -> list[bytes]:
    """What the holder gets now."""
    records = kept(spool)
    if finish:
        for position, _ in records:
            spool.finish(position)
    return [record for _, record in records]


def size(spool: Spool) -> int:
    return os.fstat(spool._fd).st_size


def readable(spool: Spool) -> bool:
    return bool(select.select([spool.wake_fd], [], [], 0)[0])


def test_records_come_out_in_order_and_once(spool: Spool) -> None:
    assert taken(spool) == []
    records = [b"", b"one", b"\0\n" * 1000, "ü".encode(), b"x" * 2**20]
    for record in records:
        assert spool.put(record)
    assert readable(spool)
    assert taken(spool) == records
    assert not readable(spool)
    assert taken(spool) == []


def test_what_others_put_in_outlives_them(spool: Spool) -> None:
    def put() -> None:
        for number in range(100):
            spool.put(b"%d" % number)

    with child(put) as pid:
        assert readable(spool)
        kill(pid)
        assert taken(spool) == [b"%d" % number for number in range(100)]


def test_there_is_one_holder_and_its_death_makes_room(spool: Spool) -> None:
    with child(lambda: None if spool.try_hold() else os._exit(1)) as pid:
        assert not spool.try_hold()
        kill(pid)
        assert spool.try_hold()
    assert spool.try_hold()  # still
    fails = child(lambda: None if spool.try_hold() else os._exit(1))
    with pytest.raises(AssertionError, match="the child failed"), fails:
        pass
    spool.let_go()
    with child(lambda: None if spool.try_hold() else os._exit(1)):
        assert not spool.try_hold()


def test_a_writer_that_died_half_way_leaves_no_trace(spool: Spool) -> None:
    assert spool.put(b"before")

    def half() -> None:
        # What a kill in the middle of `put` leaves: the lock is gone, some bytes are there.
        os.pwrite(spool._fd, b"\0\0\xff", os.fstat(spool._fd).st_size)

    with child(half) as pid:
        kill(pid)
    assert spool.put(b"after")
    assert taken(spool) == [b"before", b"after"]


def test_who_stands_still_with_the_file_stops_nobody(spool: Spool) -> None:
    with child(lambda: fcntl.lockf(spool._fd, fcntl.LOCK_EX, 1, module._LOOKING)) as pid:
        begun = time.monotonic()
        assert not spool.put(b"one")
        assert spool.take() is None
        assert time.monotonic() - begun < 5
        kill(pid)
        assert spool.put(b"two")
        assert taken(spool) == [b"two"]


def test_it_is_bounded(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 120)
    assert spool.put(b"x" * 80)
    assert not spool.put(b"y" * 20)
    assert taken(spool) == [b"x" * 80]
    assert spool.put(b"y" * 20)


def test_a_full_disk_loses_nothing_that_was_there(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spool.put(b"before")
    write = os.pwrite

    def full(fd: int, data: bytes, at: int) -> int:
        if len(data) > module._FIRST:
            raise OSError(28, "No space left on device")
        return write(fd, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    assert not spool.put(b"x" * 100)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:17], at))
    assert not spool.put(b"x" * 100)
    monkeypatch.undo()
    assert spool.put(b"after")
    assert taken(spool) == [b"before", b"after"]


def test_a_full_pipe_stays_readable(spool: Spool) -> None:
    for _ in range(70_000):  # a pipe holds 65,536 bytes
        assert spool.put(b"")
    assert readable(spool)
    assert len(taken(spool)) == 70_000
    assert not readable(spool)


# -- what is not finished --


def test_a_new_holder_finds_what_its_predecessor_had_not_finished(spool: Spool) -> None:
    records = [b"%d" % number * 100 for number in range(10)]

    def hold() -> None:
        assert spool.try_hold()
        for record in records[:8]:
            spool.put(record)
        positions = [position for position, _ in kept(spool)]
        for done in (1, 0, 5, 3, 2):  # all up to 3, and one more
            spool.finish(positions[done])
        for record in records[8:]:
            spool.put(record)

    with child(hold) as pid:
        kill(pid)
    assert spool.try_hold()
    assert taken(spool) == records[4:]
    assert taken(spool) == []


def test_who_lets_go_leaves_it_to_the_next(spool: Spool) -> None:
    for record in (b"one", b"two"):
        spool.put(record)
    (first, _), (second, _) = kept(spool)
    spool.finish(first)
    spool.let_go()
    spool.finish(second)  # too late: it may be another's by now
    assert taken(spool) == [b"two"]


def test_one_that_stays_is_kept_while_the_room_of_others_is_used_again(spool: Spool) -> None:
    spool.put(b"stays" * 100)
    ((stays, _),) = kept(spool)
    for number in range(100):
        spool.put(b"%03d" % number * 1000)
        assert taken(spool) == [b"%03d" % number * 1000]
    spool.put(b"later")
    assert taken(spool, finish=False) == [b"later"]
    spool.finish(stays)
    assert size(spool) > 100_000
    spool.put(b"last")
    ((last, _),) = kept(spool)
    spool.finish(last)
    spool.let_go()
    assert taken(spool) == [b"later", b"last"]
    assert size(spool) == module._FIRST


def test_its_room_is_used_again_though_it_is_never_empty(spool: Spool) -> None:
    positions: list[int] = []
    for number in range(2000):
        spool.put(b"%04d" % number * 250)
        ((position, record),) = kept(spool)
        assert record == b"%04d" % number * 250
        positions.append(position)
        if len(positions) > 10:
            spool.finish(positions.pop(0))
    assert size(spool) < 25_000
    spool.let_go()
    assert taken(spool) == [b"%04d" % number * 250 for number in range(1990, 2000)]


def test_a_holder_that_dies_while_it_makes_room_loses_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [b"%d" % number * 100 for number in range(10)]

    def dies(*_: object) -> None:
        os._exit(0)

    for finished in range(1, 10):
        for record in records:
            spool.put(record)

        def hold(number: int = finished) -> None:
            positions = [position for position, _ in kept(spool)]
            for position in positions[: number - 1]:
                spool.finish(position)
            monkeypatch.setattr(spool, "_set_head", dies)
            spool.finish(positions[number - 1])

        with pytest.raises(AssertionError, match="the child failed"), child(hold):
            pass
        assert taken(spool) == records[finished - 1 :]
        spool.let_go()
