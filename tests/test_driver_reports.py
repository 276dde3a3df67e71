"""
Reports: what is verified, what is believed, and what lies cost, on a clock that only tests turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest

from livekit_pool.core.document import Cause, Document, new_document
from livekit_pool.core.events import FaultSource, ProbeOutcome
from livekit_pool.core.faults import Surface, classify
from livekit_pool.driver.reports import Report, Reports, Standing
from livekit_pool.driver.tasks import Tasks
from livekit_pool.driver.verifying import Verifying
from livekit_pool.exceptions import (
    NoAnswer,
    RevisionConflict,
    StoreUnavailable,
    TooManyReports,
    UnknownServer,
)
from livekit_pool.servers import Server
from livekit_pool.upstream.connection import Stage
from livekit_pool.upstream.join_probe import JoinResult
from livekit_pool.upstream.probe import ProbeResult
from tests.turned_clock import run

NAMES = ("red", "green")
SERVERS = {
    name: Server(name=name, url=f"ws://{name}.test", key=f"key-{name}", secret="s" * 32)
    for name in NAMES
}
PASSED, REFUSED, SILENT, FAILED, UNAUTHORIZED, LIMITED = (
    ProbeOutcome.PASSED,
    ProbeOutcome.REFUSED,
    ProbeOutcome.SILENT,
    ProbeOutcome.FAILED,
    ProbeOutcome.UNAUTHORIZED,
    ProbeOutcome.LIMITED,
)
LOST = classify(Surface.CLIENT, text="could not establish signal connection")
VERIFYING, HANDLED, NOT_ITS_FAULT, DISMISSED = Standing

T = TypeVar("T")


@dataclass
class Fault:
    server: str
    kind: Cause
    source: FaultSource
    detail: str
    revision: int | None
    retry_after: float | None
    reports: int


class World:
    """
    A pool of two around one `Reports`: its document, and servers that are as the test says.

    Attributes:
        stored: the document as the store has it, which `fresh` reads.
        plain, signed: what the next probes see, the last one for ever.
        joining: the same of joins. joins: when each was asked for.
        faults: what came of it.
    """

    def __init__(self) -> None:
        self._document: Document | None = None
        self.document = self.stored = new_document(lineage="L", names=NAMES, actor="p", now=0.0)
        self.store_ok = True
        self.store_reads = 0
        self.plain = deque([PASSED])
        self.signed = deque([PASSED])
        self.joining: deque[JoinResult] = deque([join(PASSED)])
        self.takes = 0.01
        self.stalled = False
        self.joins: list[float] = []
        self.probes: list[bool] = []
        self.faults: list[Fault] = []
        self.tasks = Tasks()
        self.reports = Reports(SERVERS, Verifying(self, self), self, self.tasks)

    # -- as the driver --

    @property
    def document(self) -> Document:
        if self._document is None:
            raise NoAnswer("there is no document yet")
        return self._document

    @document.setter
    def document(self, document: Document) -> None:
        self._document = document

    @document.deleter
    def document(self) -> None:
        self._document = None

    @property
    def active_server(self) -> str:
        return self.document.active_server

    async def fresh(self, revision: int = 0) -> Document:
        if revision > self.document.revision and self.store_ok:
            self.store_reads += 1
            self.document = self.stored
        return self.document

    def fault(
        self,
        server: str,
        kind: Cause,
        source: FaultSource,
        detail: str = "",
        revision: int | None = None,
        *,
        retry_after: float | None = None,
        reports: int = 1,
    ) -> None:
        self.faults.append(Fault(server, kind, source, detail, revision, retry_after, reports))

    def rotate(self, to: str) -> None:
        revision = self.document.revision + 1
        self.document = self.stored = replace(
            self.document, revision=revision, active_since=revision, active_server=to
        )

    # -- as the servers --

    async def look(self, server: str, *, signed: bool) -> ProbeResult:
        self.probes.append(signed)
        await asyncio.sleep(self.takes)
        outcome = following(self.signed if signed else self.plain)
        return ProbeResult(
            server=server,
            outcome=outcome,
            stage=Stage.HTTP,
            detail=f"probe {outcome}",
            duration=0.0,
            stalled=self.stalled,
            kind=Cause.QUOTA if outcome is LIMITED else None,
            retry_after=9.0 if outcome is LIMITED else None,
        )

    async def probe_join(self, server: Server) -> JoinResult:
        self.joins.append(now())
        await asyncio.sleep(self.takes)
        return replace(following(self.joining), server=server.name)

    # -- as clients --

    async def report(
        self, reporter: str = "alice", address: str = "192.0.2.1", **changes: Any
    ) -> Standing:
        changes.setdefault("revision", self._document.revision if self._document else 0)
        known = {"server": "red", "error": LOST, **changes}
        report = Report(reporter=reporter, address=address, **known)
        return (await self.reports.take(report)).status

    async def verified(self) -> None:
        """Wait until no verification is under way."""
        while any(s.who is not None for s in self.reports._states.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def following(script: deque[T]) -> T:
    return script.popleft() if len(script) > 1 else script[0]


def now() -> float:
    return asyncio.get_running_loop().time()


def join(outcome: ProbeOutcome, **changes: Any) -> JoinResult:
    return JoinResult(server="", outcome=outcome, detail=f"join {outcome}", **changes)


def refusal(status: int, text: str = "", retry_after: float | None = None) -> JoinResult:
    return join(FAILED, status=status, text=text, retry_after=retry_after)


def turned(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on a clock of its own, with a world of its own."""

    async def inside() -> None:
        world = World()
        try:
            await test(world)
        finally:
            await world.tasks.end()

    def turned_test() -> None:
        run(inside())

    turned_test.__name__ = test.__name__
    turned_test.__doc__ = test.__doc__
    return turned_test


# ---- what is a report -------------------------------------------------------------------------


@turned
async def test_a_report_starts_a_verification_and_a_healthy_server_is_left_alone(
    world: World,
) -> None:
    answer = await world.reports.take(Report(server="red", revision=1, error=LOST))
    assert (answer.status, answer.revision, answer.active) == ("verifying", 1, "red")
    await world.verified()
    assert world.probes == [False, True]
    assert len(world.joins) == 1
    assert world.faults == []
    assert world.reports.verified == {"false": 1}


@turned
async def test_one_verification_serves_all_reports_of_the_moment(world: World) -> None:
    world.joining = deque([refusal(429, "quota exceeded", 7.0)])
    for number in range(500):
        assert await world.report(f"p{number}", f"192.0.2.{number % 250}") is VERIFYING
    await world.verified()
    assert len(world.joins) == 1
    (fault,) = world.faults
    assert (fault.server, fault.kind, fault.source) == ("red", Cause.QUOTA, FaultSource.VERIFIED)
    assert (fault.revision, fault.retry_after, fault.reports) == (1, 7.0, 500)
    assert fault.detail == "join failed: quota"
    # What comes before the rotation is answered by what was found.
    assert await world.report("late", "192.0.2.251") is VERIFYING
    world.rotate("green")
    assert await world.report("p1", revision=1) is HANDLED
    assert len(world.joins) == 1


@turned
async def test_a_late_report_is_already_handled(world: World) -> None:
    """Also where that server is active again: red, green, red."""
    world.rotate("green")
    assert await world.report(server="red", revision=1) is HANDLED
    assert await world.report(server="red", revision=2) is HANDLED
    world.rotate("red")
    assert await world.report(server="red", revision=1) is HANDLED
    assert await world.report(server="green", revision=3) is HANDLED
    assert not world.probes
    assert await world.report(server="red", revision=3) is VERIFYING


@turned
async def test_a_revision_that_another_process_made_is_read_first(world: World) -> None:
    world.stored = replace(world.document, revision=5, active_since=5, active_server="green")
    assert await world.report(server="green", revision=5) is VERIFYING
    assert world.store_reads == 1


@turned
async def test_a_revision_from_the_future_is_refused(world: World) -> None:
    with pytest.raises(RevisionConflict) as conflict:
        await world.report(revision=2)
    assert conflict.value.revision == 1
    world.store_ok = False
    with pytest.raises(StoreUnavailable):
        await world.report(revision=2)


@turned
async def test_a_server_that_is_not_of_the_pool_is_refused(world: World) -> None:
    with pytest.raises(UnknownServer):
        await world.report(server="black")


@turned
async def test_before_there_is_a_document_nothing_is_said(world: World) -> None:
    del world.document
    with pytest.raises(NoAnswer):
        await world.report(revision=1)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "DUPLICATE_IDENTITY"},
        {"code": "PARTICIPANT_REMOVED"},
        {"code": "ROOM_DELETED"},
        {"code": "CLIENT_INITIATED"},
        {"status": 401, "text": "invalid token"},
        {"status": 404, "text": "requested room does not exist"},
    ],
)
def test_what_is_no_servers_fault_starts_nothing(error: dict[str, Any]) -> None:
    @turned
    async def test(world: World) -> None:
        seen = classify(Surface.CLIENT, **error)
        assert await world.report(error=seen) is NOT_ITS_FAULT
        assert not world.probes

    test()


@turned
async def test_a_room_that_may_be_full_is_looked_into(world: World) -> None:
    """The server's words for it are the same when it lets nobody into any room."""
    full = classify(Surface.CLIENT, status=500, text="connection closed by media")
    assert await world.report(error=full) is VERIFYING


@turned
async def test_an_error_that_says_nothing_is_looked_into(world: World) -> None:
    """A browser is told nothing of why its connection failed."""
    assert await world.report(error=classify(Surface.CLIENT, text="oops")) is VERIFYING


# ---- what a verification sees -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [(REFUSED, Cause.DOWN), (FAILED, Cause.DOWN), (SILENT, Cause.TIMEOUT)],
)
def test_a_failed_probe_is_left_to_the_machines_own(
    outcome: ProbeOutcome, kind: Cause, caplog: pytest.LogCaptureFixture
) -> None:
    """One silent probe shows nobody down, and the machine knows when that is our own network."""
    caplog.set_level(logging.INFO, logger="livekit_pool")

    @turned
    async def test(world: World) -> None:
        world.plain = deque([outcome])
        await world.report()
        await world.verified()
        assert world.probes == [False]
        assert not world.joins
        (fault,) = world.faults
        assert (fault.kind, fault.source) == (kind, FaultSource.PROBE)
        assert world.reports.verified == {"probing": 1}

    test()
    assert not caplog.records


@turned
async def test_a_refused_key_is_the_machines_to_hear(world: World) -> None:
    for signed, joining in ((UNAUTHORIZED, PASSED), (PASSED, UNAUTHORIZED)):
        world.signed = deque([signed])
        status = 403 if joining is UNAUTHORIZED else None
        world.joining = deque([join(joining, status=status)])
        await world.report(f"p{signed}")
        await world.verified()
        await asyncio.sleep(120)
    assert [fault.kind for fault in world.faults] == [Cause.CREDENTIALS] * 2
    # What calls meet may be our own clock; where calls pass and joins do not, it is the server.
    told = [fault.source for fault in world.faults]
    assert told == [FaultSource.PROBE, FaultSource.VERIFIED]


@turned
async def test_a_limit_that_our_own_call_meets_is_one(world: World) -> None:
    world.signed = deque([LIMITED])
    await world.report()
    await world.verified()
    (fault,) = world.faults
    assert (fault.kind, fault.retry_after) == (Cause.QUOTA, 9.0)
    assert not world.joins


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (refusal(429, "connection limit"), Cause.CONNECTION_LIMIT),
        (refusal(503, "node has exceeded its configured limit"), Cause.CONNECTION_LIMIT),
        (refusal(429), Cause.RATE_LIMIT),
    ],
)
def test_a_limit_that_our_own_join_meets_is_one(seen: JoinResult, kind: Cause) -> None:
    @turned
    async def test(world: World) -> None:
        world.joining = deque([seen])
        await world.report()
        await world.verified()
        assert [fault.kind for fault in world.faults] == [kind]
        assert len(world.joins) == 1

    test()


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (refusal(500), Cause.DOWN),
        (refusal(502), Cause.DOWN),
        (refusal(504), Cause.TIMEOUT),
        (refusal(500, "connection closed by media"), Cause.DOWN),  # our own room is not full
        (join(SILENT), Cause.TIMEOUT),
        (join(REFUSED), Cause.DOWN),
        (join(FAILED), Cause.DOWN),
        (join(FAILED, reason="SERVER_SHUTDOWN"), Cause.DOWN),
        (join(FAILED, reason="JOIN_FAILURE"), Cause.DOWN),
    ],
)
def test_joins_that_fail_three_times_while_probes_pass_are_a_fault(
    seen: JoinResult, kind: Cause
) -> None:
    @turned
    async def test(world: World) -> None:
        world.joining = deque([seen])
        await world.report()
        await world.verified()
        assert len(world.joins) == 3
        (fault,) = world.faults
        assert (fault.kind, fault.source) == (kind, FaultSource.VERIFIED)

    test()


@turned
async def test_a_join_that_fails_once_is_no_fault_and_nobody_lied(world: World) -> None:
    world.joining = deque([refusal(500), join(PASSED)])
    await world.report()
    await world.verified()
    assert not world.faults
    assert world.reports.verified == {"unclear": 1}
    await asyncio.sleep(1.1)
    assert await world.report() is VERIFYING


@turned
async def test_a_repeated_join_may_tell_more_than_the_first(world: World) -> None:
    world.joining = deque([refusal(500), refusal(500), refusal(429, "quota exceeded")])
    await world.report()
    await world.verified()
    assert [fault.kind for fault in world.faults] == [Cause.QUOTA]


@turned
async def test_a_call_that_fails_shows_nobody_down_who_lets_people_in(world: World) -> None:
    world.signed = deque([FAILED])
    await world.report()
    await world.verified()
    assert not world.faults
    assert len(world.joins) == 1


@pytest.mark.parametrize("seen", [refusal(400), refusal(404), refusal(418)])
def test_what_our_own_request_is_to_blame_for_says_nothing(seen: JoinResult) -> None:
    @turned
    async def test(world: World) -> None:
        world.joining = deque([seen])
        await world.report()
        await world.verified()
        assert not world.faults
        assert world.reports.verified == {"unclear": 1}

    test()


@turned
async def test_a_server_that_was_left_meanwhile_is_not_joined(world: World) -> None:
    await world.report()
    await asyncio.sleep(world.takes / 2)
    world.rotate("green")
    await world.verified()
    assert world.probes == [False, True]
    assert not world.joins
    assert world.reports.verified == {"unclear": 1}


@turned
async def test_a_stall_of_our_own_condemns_nobody(world: World) -> None:
    world.stalled = True
    world.plain = deque([SILENT])
    await world.report()
    await world.verified()
    assert len(world.probes) == 3
    world.stalled, world.plain = False, deque([PASSED])
    world.joining = deque([join(SILENT, stalled=True)])
    await asyncio.sleep(1.1)
    await world.report()
    await world.verified()
    assert len(world.joins) == 3
    assert not world.faults
    assert world.reports.verified == {"unclear": 2}


@turned
async def test_after_a_stall_of_our_own_it_looks_again(world: World) -> None:
    """Those who reported were told that it does, and do not report again."""
    world.joining = deque([join(SILENT, stalled=True), refusal(429, "quota exceeded")])
    await world.report()
    await world.verified()
    assert [fault.kind for fault in world.faults] == [Cause.QUOTA]


@turned
async def test_an_answer_is_one_also_if_this_process_stalled(world: World) -> None:
    """As it does while five hundred report at once."""
    world.stalled = True
    world.joining = deque([refusal(429, "quota exceeded", None)])
    await world.report()
    await world.verified()
    assert [fault.kind for fault in world.faults] == [Cause.QUOTA]
    assert len(world.probes) == 2


@turned
async def test_a_verification_that_breaks_leaves_the_way_free(world: World) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    world.look = breaks  # type: ignore[assignment,method-assign]
    await world.report()
    await world.verified()
    del world.look
    await asyncio.sleep(1.1)
    assert await world.report() is VERIFYING


# ---- what lies cost ---------------------------------------------------------------------------


async def reports_each_second(
    world: World, seconds: int, who: Callable[[int], tuple[str, str]]
) -> dict[str, int]:
    """What becomes of one report each second."""
    answers: dict[str, int] = {}
    for second in range(seconds):
        try:
            answer: str = await world.report(*who(second))
        except TooManyReports as error:
            answer = error.code
        answers[answer] = answers.get(answer, 0) + 1
        await asyncio.sleep(1.0)
    return answers


@turned
async def test_who_lies_each_second_for_an_hour_costs_seventeen_joins(world: World) -> None:
    answers = await reports_each_second(world, 3600, lambda _: ("liar", "192.0.2.1"))
    assert not world.faults
    assert len(world.joins) == 17
    assert len(world.probes) == 2 * 17
    assert answers["verifying"] == 17
    assert answers["too_many_reports"] > 3000


@turned
async def test_who_lies_with_many_names_from_one_address_costs_little_more(world: World) -> None:
    answers = await reports_each_second(world, 3600, lambda n: (f"liar{n}", "192.0.2.1"))
    assert not world.faults
    assert len(world.joins) < 130
    assert answers["verifying"] == len(world.joins)


@turned
async def test_a_true_fault_is_verified_at_once_though_somebody_lied_for_an_hour(
    world: World,
) -> None:
    await reports_each_second(world, 3600, lambda _: ("liar", "192.0.2.1"))
    world.joining = deque([refusal(429, "quota exceeded")])
    began = now()
    assert await world.report("alice", "192.0.2.2") is VERIFYING
    await world.verified()
    assert now() - began < 0.1
    assert [fault.kind for fault in world.faults] == [Cause.QUOTA]


@turned
async def test_a_true_fault_right_after_a_lie_waits_five_seconds(world: World) -> None:
    await world.report("liar")
    await world.verified()
    world.joining = deque([refusal(429, "quota exceeded")])
    began = now()
    assert await world.report("alice", "192.0.2.2") is DISMISSED
    await asyncio.sleep(5.0)
    assert await world.report("alice", "192.0.2.2") is VERIFYING
    await world.verified()
    assert world.faults
    assert now() - began < 5.1


@turned
async def test_several_who_are_believed_shorten_the_pause_of_their_address(world: World) -> None:
    """Of an office in which somebody lied under many names, so that its pause is 120 s."""
    for lie in range(6):
        assert await world.report(f"liar{lie}") is VERIFYING
        await world.verified()
        await asyncio.sleep(120.0 if lie < 5 else 31.0)
    world.joining = deque([refusal(429, "quota exceeded")])
    assert await world.report("alice") is DISMISSED
    assert await world.report("bob") is DISMISSED
    assert await world.report("bob") is DISMISSED
    assert await world.report("carol") is DISMISSED
    assert await world.report("dave") is VERIFYING
    await world.verified()
    assert world.faults


@turned
async def test_who_was_right_is_believed_again(world: World) -> None:
    for _ in range(3):
        assert await world.report() is VERIFYING
        await world.verified()
        await asyncio.sleep(25.0)
    assert await world.report() is VERIFYING
    await world.verified()  # alice's pause is 40 s now
    await asyncio.sleep(6.0)
    world.joining = deque([refusal(429, "quota exceeded")])
    assert await world.report() is DISMISSED
    assert await world.report("bob", "192.0.2.2") is VERIFYING
    assert await world.report() is VERIFYING
    await world.verified()
    world.rotate("green")
    assert await world.report(server="green", revision=2) is VERIFYING


@turned
async def test_a_fault_that_nobody_can_answer_is_not_verified_again_and_again(
    world: World,
) -> None:
    """As while the pool is paused, or has no other server."""
    world.joining = deque([refusal(429, "quota exceeded")])
    for minute in range(60):
        for _ in range(6):
            assert await world.report(f"p{minute}", f"192.0.2.{minute}") is VERIFYING
            await asyncio.sleep(10.0)
    assert len(world.joins) < 70


@turned
async def test_six_reports_a_minute_are_heard_of_one_reporter(world: World) -> None:
    for _ in range(6):
        await world.report()
    with pytest.raises(TooManyReports) as refused:
        await world.report(server="black")  # not even read
    assert refused.value.retry_after == pytest.approx(10.0)
    assert await world.report("bob") is VERIFYING


@turned
async def test_twelve_hundred_reports_a_minute_are_heard_of_one_address(world: World) -> None:
    for number in range(1200):
        await world.report(f"p{number}")
    with pytest.raises(TooManyReports) as refused:
        await world.report("p1200")
    assert refused.value.retry_after == pytest.approx(0.05)
    assert await world.report("p1201", "192.0.2.2") is VERIFYING


@turned
async def test_twenty_a_minute_may_make_the_store_be_read(world: World) -> None:
    """By a revision that anybody may make up; and each reading may cost money."""
    for number in range(20):
        with pytest.raises(RevisionConflict):
            await world.report(f"p{number}", f"192.0.2.{number}", revision=9)
    with pytest.raises(TooManyReports) as refused:
        await world.report("p20", revision=9)
    assert refused.value.retry_after == pytest.approx(3.0)
    assert world.store_reads == 20
    # Others are answered all the same.
    world.rotate("green")
    assert await world.report("p21", revision=1) is HANDLED


# ---- what is told of it -----------------------------------------------------------------------


def test_the_log_is_told_of_each_verification(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="livekit_pool")

    @turned
    async def test(world: World) -> None:
        for number in range(3):
            await world.report(f"p{number}", "192.0.2.1")
        await world.verified()
        await asyncio.sleep(10.0)
        world.joining = deque([refusal(429, "quota exceeded")])
        for number in range(4):
            await world.report(f"q{number}", "192.0.2.2")
        await world.verified()

    test()
    assert told(caplog, "Clients' reports dismissed") == [{"server": "red", "reports": 3}]
    assert told(caplog, "Clients' reports verified") == [
        {"server": "red", "cause": "quota", "detail": "join failed: quota", "reports": 4}
    ]


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The fields of each line about ``event``."""
    return [dict(vars(record)["fields"]) for record in caplog.records if record.msg == event]
