"""Notices: what cannot be shown with a whole store."""

from __future__ import annotations

from contextlib import aclosing

from livekit_pool.core.fields import LARGEST
from livekit_pool.stores.base import Changed, Moved, Placement, Resync
from livekit_pool.stores.notices import Notices


async def test_a_document_that_went_back_is_a_resync() -> None:
    notices = Notices()
    watch = notices.watch()
    assert await anext(watch) == Resync()

    notices.changed(5)
    assert await anext(watch) == Changed(5)
    notices.changed(5)
    assert await anext(watch) == Resync()
    notices.changed(3)
    assert await anext(watch) == Resync()
    notices.changed(6)
    assert await anext(watch) == Changed(6)


async def test_a_revision_to_which_nobody_counts_makes_no_later_one_a_step_back() -> None:
    notices = Notices()
    watch = notices.watch()
    await anext(watch)

    notices.changed(LARGEST + 1)
    assert await anext(watch) == Resync()
    notices.changed(LARGEST)
    assert await anext(watch) == Changed(LARGEST)


async def test_a_resync_covers_what_waits() -> None:
    notices = Notices()
    watch = notices.watch()
    await anext(watch)

    notices.changed(2)
    notices.moved(Placement(room="standup", server="red", revision=2))
    notices.resync()
    after = Placement(room="retro", server="red", revision=2)
    notices.moved(after)

    assert [await anext(watch), await anext(watch)] == [Resync(), Moved(after)]


async def test_who_stops_watching_is_forgotten() -> None:
    notices = Notices()

    async with aclosing(notices.watch()) as watch:
        await anext(watch)
        assert repr(notices) == "<Notices open, 1 watching>"

    assert repr(notices) == "<Notices open, 0 watching>"


async def test_a_watch_begun_after_the_end_ends_at_once() -> None:
    notices = Notices()
    notices.close()

    assert [notice async for notice in notices.watch()] == []
