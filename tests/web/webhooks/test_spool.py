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


def readable(spool: Spool) -> bool:
    return bool(select.select([spool.wake_fd], [], [], 0)[0])


def test_records_come_out_in_order_and_once(spool: Spool) -> None:
    assert spool.take() == []
    records = [b"", b"one", b"\0\n" * 1000, "ü".encode(), b"x" * 2**20]
    for record in records:
        assert spool.put(record)
    assert readable(spool)
    assert spool.take() == records
    assert not readable(spool)
    assert spool.take() == []


def test_what_others_put_in_outlives_them(spool: Spool) -> None:
    def put() -> None:
        for number in range(100):
            spool.put(b"%d" % number)

    with child(put) as pid:
        assert readable(spool)
        kill(pid)
        assert spool.take() == [b"%d" % number for number in range(100)]


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
    assert spool.take() == [b"before", b"after"]


def test_who_stands_still_with_the_file_stops_nobody(spool: Spool) -> None:
    with child(lambda: fcntl.lockf(spool._fd, fcntl.LOCK_EX, 1, module._LOOKING)) as pid:
        begun = time.monotonic()
        assert not spool.put(b"one")
        assert spool.take() is None
        assert time.monotonic() - begun < 1
        kill(pid)
        assert spool.put(b"two")
        assert spool.take() == [b"two"]


def test_it_is_bounded(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 100)
    assert spool.put(b"x" * 80)
    assert not spool.put(b"y" * 20)
    assert spool.take() == [b"x" * 80]
    assert spool.put(b"y" * 20)


def test_a_full_disk_loses_nothing_that_was_there(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spool.put(b"before")
    write = os.pwrite

    def full(fd: int, data: bytes, at: int) -> int:
        if len(data) > 8:
            raise OSError(28, "No space left on device")
        return write(fd, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    assert not spool.put(b"x" * 100)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:9], at))
    assert not spool.put(b"x" * 100)
    monkeypatch.undo()
    assert spool.put(b"after")
    assert spool.take() == [b"before", b"after"]


def test_a_full_pipe_stays_readable(spool: Spool) -> None:
    for _ in range(70_000):  # a pipe holds 65,536 bytes
        assert spool.put(b"")
    assert readable(spool)
    assert len(spool.take() or ()) == 70_000
    assert not readable(spool)
