"""Names: whose fault it is that one is not found, by a scripted resolver and a turned clock."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence

import pytest

from livekit_pool.upstream.connection import Failure
from livekit_pool.upstream.names import GOOD, Address, Names, Unresolved

AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
GONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")

RED, GREEN = "red.example", "green.example"


class Resolver:
    """A resolver that answers as it is told, and the names behind it."""

    def __init__(self) -> None:
        self.answers: dict[str, str | OSError | threading.Event] = {RED: "10.0.0.1"}
        self.asked: list[str] = []
        self.now = 1000.0
        self.names = Names(self._answer, clock=lambda: self.now)

    def _answer(self, host: str) -> Sequence[Address]:
        self.asked.append(host)
        answer = self.answers[host]
        if isinstance(answer, threading.Event):
            answer.wait(20)
            answer = AGAIN
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, (answer, 0))]

    async def find(self, host: str) -> str | bool:
        """The address, or whether it is our own fault that there is none."""
        self.now += 1.0
        try:
            ((_, (address, port)),) = await self.names.addresses(host, 443)
        except Unresolved as error:
            return error.own
        assert port == 443
        return str(address)

    async def find_later(self, host: str) -> str | bool:
        """The same when what was found last is not good any more."""
        self.now += GOOD
        return await self.find(host)


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


async def test_an_address_is_looked_up_once_and_again_when_it_is_old(resolver: Resolver) -> None:
    assert [await resolver.find(RED) for _ in range(3)] == ["10.0.0.1"] * 3
    assert resolver.asked == [RED]
    resolver.answers[RED] = "10.0.0.2"
    assert await resolver.find_later(RED) == "10.0.0.2"


async def test_who_asks_at_the_same_time_shares_one_lookup(resolver: Resolver) -> None:
    assert await asyncio.gather(*(resolver.names.addresses(RED, 1) for _ in range(9)))
    assert resolver.asked == [RED]


async def test_an_address_needs_no_lookup(resolver: Resolver) -> None:
    assert await resolver.find("127.0.0.1") == "127.0.0.1"
    assert await resolver.names.addresses("::1", 7) == [(socket.AF_INET6, ("::1", 7, 0, 0))]
    assert resolver.asked == []


@pytest.mark.parametrize("failure", [AGAIN, GONE])
async def test_while_nobody_is_found_what_was_found_last_is_good(
    resolver: Resolver, failure: OSError
) -> None:
    resolver.answers[GREEN] = "10.0.0.9"
    assert (await resolver.find(RED), await resolver.find(GREEN)) == ("10.0.0.1", "10.0.0.9")
    resolver.answers = {RED: failure, GREEN: failure}
    for _ in range(5):
        assert await resolver.find_later(RED) == "10.0.0.1"
        assert await resolver.find_later(GREEN) == "10.0.0.9"
    assert set(resolver.names.failing) == {RED, GREEN}
    resolver.answers = {RED: "10.0.0.2", GREEN: "10.0.0.9"}
    assert await resolver.find_later(RED) in {"10.0.0.1", "10.0.0.2"}
    assert await resolver.find_later(GREEN) == "10.0.0.9"


async def test_a_name_that_is_gone_while_others_are_found_is_its_server_s_affair(
    resolver: Resolver,
) -> None:
    resolver.answers[GREEN] = "10.0.0.9"
    assert (await resolver.find(RED), await resolver.find(GREEN)) == ("10.0.0.1", "10.0.0.9")
    resolver.answers[RED] = GONE
    assert await resolver.find_later(RED) == "10.0.0.1", "the resolver may be confused"
    assert await resolver.find_later(GREEN) == "10.0.0.9", "it is not"
    assert await resolver.find(RED) is False
    assert resolver.names.failing == (RED,)


async def test_a_name_that_gets_no_answer_while_others_do_stays_where_it_was(
    resolver: Resolver,
) -> None:
    resolver.answers[GREEN] = "10.0.0.9"
    await resolver.find(RED)
    resolver.answers[RED] = AGAIN
    await resolver.find_later(RED)
    await resolver.find_later(GREEN)
    assert await resolver.find(RED) == "10.0.0.1"


@pytest.mark.parametrize("failure", [AGAIN, GONE])
async def test_a_name_that_was_never_found_needs_a_witness_to_be_blamed(
    resolver: Resolver, failure: OSError
) -> None:
    resolver.answers = {RED: failure, GREEN: "10.0.0.9"}
    await resolver.find(GREEN)
    assert await resolver.find(RED) is True, "the other was found before"
    await resolver.find_later(GREEN)
    assert await resolver.find(RED) is False


@pytest.mark.parametrize(("failure", "own"), [(GONE, False), (AGAIN, True)])
async def test_a_name_that_never_was_beside_addresses_has_no_witness_and_needs_none(
    resolver: Resolver, failure: OSError, own: bool
) -> None:
    resolver.answers[RED] = failure
    assert await resolver.find(RED) is True, "there may be others, who are not asked for yet"
    resolver.names.meet("192.0.2.7")
    assert await resolver.find(RED) is own


async def test_a_name_that_was_found_once_stays_beside_addresses_too(resolver: Resolver) -> None:
    resolver.names.meet("192.0.2.7")
    await resolver.find(RED)
    resolver.answers[RED] = GONE
    for _ in range(3):
        assert await resolver.find_later(RED) == "10.0.0.1"


async def test_beside_other_names_addresses_are_no_witnesses(resolver: Resolver) -> None:
    resolver.names.meet("192.0.2.7")
    resolver.answers = {RED: GONE, GREEN: GONE}
    assert [await resolver.find(host) for host in (RED, GREEN, RED)] == [False, True, True]


async def test_nobody_waits_long_for_a_resolver_that_hangs(resolver: Resolver) -> None:
    hanging = threading.Event()
    resolver.answers = {RED: hanging, GREEN: "10.0.0.9"}
    async with asyncio.timeout(5):
        assert await resolver.find(RED) is True
        assert resolver.names.failing == (RED,)
        assert await resolver.find(GREEN) == "10.0.0.9"
        assert await resolver.find(RED) is True, "it may be slow, and no more"
    assert resolver.asked == [RED, GREEN], "one thread for each"
    hanging.set()


async def test_a_lookup_of_which_the_answer_is_late_is_good_for_the_next(
    resolver: Resolver,
) -> None:
    late = threading.Event()
    resolver.names.lookup = lambda _: [(socket.AF_INET, ("10.0.0.1", 0))] if late.wait(20) else ()
    assert await resolver.find(RED) is True
    under_way = resolver.names._names[RED].lookup
    assert under_way is not None
    late.set()
    await under_way
    assert await resolver.find(RED) == "10.0.0.1"
    assert resolver.names.failing == ()


def test_a_lookup_may_outlive_its_loop() -> None:
    end = threading.Event()

    async def ask() -> None:
        names = Names(lambda _: [(socket.AF_INET, ("10.0.0.1", 0))] if end.wait(20) else ())
        with pytest.raises(Unresolved):
            await names.addresses(RED, 1)

    asyncio.run(ask())
    looking = [each for each in threading.enumerate() if each.name == f"resolve {RED}"]
    end.set()
    for each in looking:
        each.join(5)
        assert not each.is_alive()
    assert looking


@pytest.mark.parametrize("own", [True, False])
def test_the_failure_says_whose_fault_it_is(own: bool) -> None:
    failure = Failure.of(Unresolved(own=own))
    assert (failure.own, failure.sent) == (own, False)
