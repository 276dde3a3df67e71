"""The ledger against the truth: days of 2,000 participants on which everything goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livekit_pool.core import minutes
from livekit_pool.resets import MONTHLY
from livekit_pool.stores.base import Store
from livekit_pool.stores.memory import MemoryStore
from livekit_pool.stores.sqlite import SqliteStore

from .ledger_day import BEGIN, END, MIDNIGHT, NAMES, Day, used_by

WITHIN = 0.005
NOVEMBER = MONTHLY.begin(BEGIN)


async def lived(store: Store, seed: int, **parts: float) -> Day:
    async with store:
        day = Day(store, seed, 2000, **parts)
        await day.play()
        await judge(day, store)
    return day


async def judge(day: Day, store: Store) -> None:
    """Each server has its minutes, in both of its periods, and no more rows than it needs."""
    for begin, end in ((NOVEMBER, END), (NOVEMBER, MIDNIGHT), (MIDNIGHT, END)):
        true = {name: day.truth.minutes(name, begin, end) for name in NAMES}
        counted = {name: await used_by(store, name, begin, end) for name in NAMES}
        total = sum(true.values())
        assert sum(counted.values()) == pytest.approx(total, rel=WITHIN), day.counters
        for name in NAMES:
            # Of few minutes one stay is a large part.
            assert counted[name] == pytest.approx(true[name], rel=WITHIN, abs=total * 0.001), name
    for process in day.processes:
        for name in NAMES:
            expected = day.truth.minutes(name, MIDNIGHT, END)
            assert process.driver.usage[name].used == pytest.approx(expected, rel=0.01, abs=20)
    ledger = await store.ledger()
    late = sum(left > END - 3 * minutes.GRACE for s in day.truth.stays.values() for _, left in s)
    assert sum(len(sums) for sums in ledger.values()) < 2 * late + 40


STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda path: MemoryStore(),
    "sqlite": lambda path: SqliteStore(f"sqlite:///{path}/pool.db"),
}


@pytest.mark.parametrize("kind", STORES)
async def test_a_day_of_2000(kind: str, tmp_path: Path) -> None:
    day = await lived(STORES[kind](tmp_path), seed=1)
    # All of it did happen, or nothing was tried here.
    assert day.counters["joins"] > 2000
    for what in ("webhooks", "webhooks lost", "resumes", "vanished", "rooms looked into"):
        assert day.counters[what] > 50, what
    for what in (
        "rotations",
        "servers died",
        "processes died",
        "processes restarted",
        "outages",
        "clock set",
    ):
        assert day.counters[what] > 0, what


@pytest.mark.parametrize("parts", [{"lost": 1.0}, {"direct": 1.0}, {"direct": 1.0, "lost": 0.25}])
async def test_a_day_with_fewer_witnesses(parts: dict[str, float]) -> None:
    await lived(MemoryStore(), seed=2, **parts)


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_any_day(seed: int) -> None:
    async def live() -> None:
        await lived(MemoryStore(), seed)

    asyncio.run(live())
