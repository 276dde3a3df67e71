"""Health from probes: rise, fall, silence and its witnesses, and the length of cool-downs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from livekit_pool.core.document import Cause, ServerRecord
from livekit_pool.core.events import Probed, ProbeOutcome, SignedSight
from livekit_pool.core.health import OWN_LASTS, Health, HealthBook, Settings, cooled
from tests.core.samples import FAILED, NAMES, PASSED, REFUSED, SILENT, START, UNAUTHORIZED

UP, DOWN, UNKNOWN = Health.UP, Health.DOWN, Health.UNKNOWN


class Watch:
    """A book, and probes that last a tenth of a second each, one after another."""

    def __init__(self, *names: str) -> None:
        self.now = START
        self.book = HealthBook(names or NAMES, Settings())

    def sees(self, server: str, *outcomes: ProbeOutcome) -> Health:
        for outcome in outcomes:
            self.ends(server, outcome, began=self.now)
        return self.book.health(server)

    def ends(
        self,
        server: str,
        outcome: ProbeOutcome,
        *,
        began: float,
        stalled: bool = False,
        call: bool = False,
    ) -> Health:
        self.now += 0.1
        event = Probed(server=server, outcome=outcome, began=began, stalled=stalled, call=call)
        self.book.probed(event, self.now)
        return self.book.health(server)

    def calls(self, server: str, *outcomes: ProbeOutcome) -> Health:
        for outcome in outcomes:
            self.ends(server, outcome, began=self.now, call=True)
        return self.book.health(server)


def test_the_first_pass_makes_an_unknown_server_up() -> None:
    watch = Watch()
    assert watch.book.health("red") is UNKNOWN
    assert watch.sees("red", PASSED) is UP


def test_a_refusal_is_believed_at_once() -> None:
    assert Watch().sees("red", PASSED, REFUSED) is DOWN
    assert Watch().sees("red", REFUSED) is DOWN


def test_a_server_that_was_down_rises_with_two_passes() -> None:
    watch = Watch()
    assert watch.sees("red", REFUSED, PASSED) is DOWN
    assert watch.sees("red", PASSED) is UP


def test_passes_must_be_in_a_row() -> None:
    assert Watch().sees("red", REFUSED, PASSED, FAILED, PASSED) is DOWN


def test_three_failures_in_a_row_make_it_fall() -> None:
    watch = Watch()
    assert watch.sees("red", PASSED, FAILED, FAILED) is UP
    assert watch.sees("red", FAILED) is DOWN


def test_failures_must_be_in_a_row() -> None:
    assert Watch().sees("red", PASSED, FAILED, FAILED, PASSED, FAILED, FAILED) is UP


MISSES = [REFUSED, FAILED, SILENT]


@pytest.mark.parametrize("outcome", MISSES)
def test_calls_that_fail_show_nobody_down_by_themselves(outcome: ProbeOutcome) -> None:
    watch = Watch()
    watch.sees("red", PASSED)
    for _ in range(5):
        assert watch.calls("red", outcome) is UP
        watch.sees("green", PASSED)
    assert watch.book.witnesses("red") == (), "there is nothing to be witnessed"
    assert watch.sees("red", PASSED) is UP
    assert watch.book.evidence("red") is None


@pytest.mark.parametrize("names", [NAMES, ("red",)])
@pytest.mark.parametrize("outcome", MISSES)
def test_a_call_that_failed_counts_with_the_probes_that_follow(
    outcome: ProbeOutcome, names: tuple[str, ...]
) -> None:
    watch = Watch(*names)
    watch.sees("red", PASSED)
    watch.calls("red", outcome)
    assert watch.sees("red", FAILED) is UP
    assert watch.sees("red", FAILED) is DOWN


def test_a_call_that_is_reset_after_two_failures_needs_no_witness() -> None:
    watch = Watch()
    assert watch.sees("red", PASSED, FAILED, FAILED) is UP
    assert watch.calls("red", REFUSED) is DOWN


def test_a_pass_between_forgets_the_call_that_failed() -> None:
    watch = Watch()
    watch.sees("red", PASSED)
    watch.calls("red", REFUSED)
    assert watch.sees("red", PASSED, FAILED, FAILED) is UP
    watch.sees("red", PASSED)
    assert watch.calls("red", FAILED, FAILED, FAILED) is UP, "those before were forgotten too"


def test_a_refusal_is_believed_at_once_also_after_a_call_that_failed() -> None:
    watch = Watch()
    watch.sees("red", PASSED)
    watch.calls("red", REFUSED)
    assert watch.sees("red", REFUSED) is DOWN


def test_three_silences_make_it_fall_with_a_witness() -> None:
    watch = Watch()
    watch.sees("red", PASSED)
    watch.sees("green", PASSED)
    assert watch.sees("red", SILENT, SILENT, SILENT) is UP, "green was not asked meanwhile"
    assert watch.book.witnesses("red") == ("green",)
    watch.sees("green", PASSED)
    assert watch.book.health("red") is DOWN
    assert watch.book.witnesses("red") == ()


def test_silence_of_all_condemns_nobody() -> None:
    watch = Watch()
    for server in NAMES:
        watch.sees(server, PASSED)
    for _ in range(5):
        for server in NAMES:
            watch.sees(server, SILENT)
    assert [watch.book.health(server) for server in NAMES] == [UP, UP, UP]
    assert watch.book.witnesses("red") == (), "nobody to be asked"


def test_judgement_is_suspended_exactly_while_all_are_silent() -> None:
    watch = Watch()
    watch.sees("red", SILENT)
    watch.sees("green", SILENT)
    assert not watch.book.suspended
    watch.sees("blue", SILENT)
    suspended = watch.book.suspended
    watch.sees("red", FAILED)
    assert (suspended, watch.book.suspended) == (True, False)


def test_after_an_outage_one_more_silence_counts_but_not_one_that_began_in_it() -> None:
    watch = Watch()
    for server in NAMES:
        watch.sees(server, PASSED)
    for _ in range(3):
        for server in NAMES:
            watch.sees(server, SILENT)
    in_the_outage = watch.now
    watch.sees("green", PASSED)
    assert watch.ends("red", SILENT, began=in_the_outage) is UP
    watch.sees("green", PASSED)
    assert watch.book.health("red") is UP
    watch.sees("red", SILENT)
    watch.sees("green", PASSED)
    assert watch.book.health("red") is DOWN


def test_a_witness_must_have_answered_all_the_time() -> None:
    watch = Watch()
    watch.sees("green", PASSED)
    watch.sees("red", PASSED, SILENT, SILENT)
    began = watch.now
    watch.sees("green", SILENT)
    watch.sees("green", PASSED)
    assert watch.ends("red", SILENT, began=began) is UP
    watch.sees("green", PASSED)
    assert watch.book.health("red") is UP


def test_a_refusal_of_another_is_no_witness() -> None:
    watch = Watch()
    watch.sees("red", PASSED, SILENT, SILENT, SILENT)
    watch.sees("green", REFUSED)
    watch.sees("blue", FAILED)
    assert watch.book.health("red") is UP


def test_a_server_that_refuses_our_key_is_a_witness() -> None:
    watch = Watch()
    watch.sees("green", UNAUTHORIZED)
    watch.sees("red", PASSED, SILENT, SILENT, SILENT)
    watch.sees("green", UNAUTHORIZED)
    assert watch.book.health("red") is DOWN


def test_silence_during_an_own_stall_does_not_count() -> None:
    watch = Watch()
    watch.sees("red", PASSED)
    watch.sees("green", PASSED)
    for _ in range(5):
        watch.ends("red", SILENT, began=watch.now, stalled=True)
        watch.sees("green", PASSED)
    assert watch.book.health("red") is UP
    assert watch.ends("red", REFUSED, began=watch.now, stalled=True) is DOWN


def test_the_only_server_needs_no_witness() -> None:
    watch = Watch("red")
    assert watch.sees("red", PASSED, SILENT, SILENT) is UP
    assert watch.sees("red", SILENT) is DOWN
    assert not watch.book.suspended


def test_a_server_that_refuses_our_key_is_misconfigured_not_down() -> None:
    watch = Watch()
    assert watch.sees("red", UNAUTHORIZED, UNAUTHORIZED) is UP
    assert watch.book.misconfigured("red")
    assert not watch.book.passed("red")
    assert watch.sees("red", PASSED) is UP
    assert not watch.book.misconfigured("red")


def test_only_a_signed_pass_shows_that_our_key_is_taken() -> None:
    watch = Watch()
    watch.sees("red", UNAUTHORIZED)
    watch.book.probed(Probed(server="red", outcome=PASSED, signed=False), watch.now)
    assert watch.book.misconfigured("red")


def test_whether_our_key_is_taken_may_be_heard_and_the_newest_word_counts() -> None:
    """Only one process of a machine asks again and again: the others must not go on believing."""
    watch = Watch()
    watch.sees("red", UNAUTHORIZED)
    now, watch.now = watch.now, watch.now + 10
    for began, refused in ((now - 5, True), (now + 5, False)):
        heard = SignedSight(outcome=PASSED, began=began)
        watch.book.heard({}, watch.now, {"red": heard, "unknown": heard})
        assert watch.book.misconfigured("red") is refused
    late = SignedSight(outcome=UNAUTHORIZED, began=now + 6, detail="no")
    watch.book.heard({}, watch.now, {"red": late})
    evidence = watch.book.unauthorized("red")
    assert evidence is not None
    assert (evidence.began, evidence.detail) == (now + 6, "no")
    watch.book.heard({}, watch.now, {"red": replace(late, outcome=SILENT, began=now + 9)})
    assert watch.book.misconfigured("red"), "silence says nothing of it"


def test_what_is_heard_of_a_probe_that_is_to_begin_hides_no_own_one() -> None:
    watch = Watch()
    ahead = SignedSight(outcome=PASSED, began=watch.now + 3600)
    watch.book.heard({}, watch.now, {"red": ahead})
    watch.now += 1
    watch.sees("red", UNAUTHORIZED)
    watch.book.heard({}, watch.now, {"red": ahead})
    assert watch.book.misconfigured("red")


def test_silence_does_not_show_that_our_key_is_taken() -> None:
    watch = Watch()
    watch.sees("red", UNAUTHORIZED, SILENT)
    assert watch.book.misconfigured("red")


def test_evidence_is_what_condemned_it() -> None:
    watch = Watch()
    watch.sees("red", PASSED)
    assert watch.book.evidence("red") is None
    watch.book.probed(
        Probed(server="red", outcome=REFUSED, detail="refused", began=START + 5), START + 6
    )
    evidence = watch.book.evidence("red")
    assert evidence is not None
    assert (evidence.outcome, evidence.detail) == (REFUSED, "refused")
    assert (evidence.began, evidence.at) == (START + 5, START + 6)


def test_one_pass_refutes_the_evidence_though_it_is_not_up_yet() -> None:
    watch = Watch()
    assert watch.sees("red", REFUSED, PASSED) is DOWN
    assert watch.book.evidence("red") is None


def test_one_silence_of_a_server_that_was_down_before_is_no_evidence() -> None:
    watch = Watch()
    watch.sees("green", PASSED)
    assert watch.sees("red", REFUSED, PASSED, SILENT) is DOWN
    watch.sees("green", PASSED)
    assert watch.book.evidence("red") is None


def test_silence_without_a_witness_is_no_new_evidence() -> None:
    watch = Watch()
    watch.sees("red", REFUSED)
    before = watch.book.evidence("red")
    watch.sees("red", SILENT, SILENT, SILENT)
    assert watch.book.evidence("red") == before
    assert before is not None


def test_what_is_heard_counts_where_nothing_was_observed() -> None:
    watch = Watch()
    watch.book.heard({"red": True, "green": False, "unknown": True}, 1.0)
    assert (watch.book.health("red"), watch.book.health("green")) == (UP, DOWN)
    assert watch.book.passed("red")
    assert watch.book.seen("red")
    assert not watch.book.seen("blue")


def test_newer_own_observations_win_over_what_is_heard() -> None:
    watch = Watch()
    watch.sees("red", REFUSED)
    watch.book.heard({"red": True}, watch.now + OWN_LASTS - 0.1)
    assert watch.book.health("red") is DOWN
    watch.book.heard({"red": True}, watch.now + OWN_LASTS + 0.1)
    assert watch.book.health("red") is UP
    assert watch.book.evidence("red") is None, "it was seen up since"
    assert watch.sees("red", REFUSED) is DOWN


def test_who_was_only_heard_of_has_not_been_answering_all_the_time() -> None:
    """Our own network was gone: the first to answer must not condemn those that are still to."""
    watch = Watch()
    watch.sees("red", PASSED)
    watch.sees("green", PASSED)
    watch.now += 2 * OWN_LASTS
    watch.book.heard({"red": True, "green": True}, watch.now)
    assert watch.sees("red", SILENT, SILENT, SILENT) is UP
    assert watch.book.witnesses("red") == ("green",)
    watch.sees("green", PASSED)
    assert watch.book.health("red") is UP
    watch.sees("red", SILENT)
    watch.sees("green", PASSED)
    assert watch.book.health("red") is DOWN


def test_what_was_seen_before_a_server_was_heard_to_be_up_is_over() -> None:
    watch = Watch()
    watch.sees("green", PASSED)
    watch.sees("red", REFUSED)
    watch.now += 2 * OWN_LASTS
    watch.book.heard({"red": True}, watch.now)
    watch.sees("green", PASSED)
    assert watch.sees("red", FAILED) is UP
    assert watch.book.evidence("red") is None


def test_servers_of_which_one_is_heard_to_be_up_are_not_all_silent() -> None:
    watch = Watch()
    for server in NAMES:
        watch.sees(server, SILENT)
    assert watch.book.suspended
    watch.now += 2 * OWN_LASTS
    watch.book.heard({"red": True}, watch.now)
    assert not watch.book.suspended


def test_what_is_heard_confirms_nothing() -> None:
    watch = Watch()
    watch.book.heard({"red": False}, watch.now)
    assert watch.book.evidence("red") is None


def test_servers_of_others_are_unknown() -> None:
    watch = Watch()
    assert watch.sees("purple", PASSED) is UNKNOWN
    assert not watch.book.passed("purple")
    assert not watch.book.seen("purple")
    assert not watch.book.misconfigured("purple")
    assert watch.book.evidence("purple") is None
    assert watch.book.witnesses("purple") == ()


def test_cool_downs_double_up_to_the_longest() -> None:
    record, now, pauses = ServerRecord(), START, []
    for _ in range(8):
        record = cooled(record, Cause.DOWN, now, Settings())
        assert record.cool_down_until is not None
        pauses.append(record.cool_down_until - now)
        now = record.cool_down_until + 1
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    assert record.cool_down_cause is Cause.DOWN


@pytest.mark.parametrize(
    ("asked", "pause"), [(None, 20.0), (3.0, 20.0), (0.0, 20.0), (120.0, 120.0), (1e11, 86_400.0)]
)
def test_a_server_in_trouble_may_ask_for_a_longer_cool_down(
    asked: float | None, pause: float
) -> None:
    record = ServerRecord(cool_down_until=START, cool_down_cause=Cause.DOWN, failures=2)
    again = cooled(record, Cause.DOWN, START, Settings(), retry_after=asked)
    assert (again.cool_down_until, again.failures) == (START + pause, 3)


@pytest.mark.parametrize(("rest", "pause"), [(299.0, 20.0), (301.0, 5.0)])
def test_failures_are_forgotten_after_a_long_time_out_of_cool_down(
    rest: float, pause: float
) -> None:
    record = ServerRecord(cool_down_until=START, cool_down_cause=Cause.DOWN, failures=2)
    again = cooled(record, Cause.TIMEOUT, START + rest, Settings())
    assert again.cool_down_until == START + rest + pause


def test_any_number_of_failures_can_be_counted() -> None:
    record = ServerRecord(cool_down_until=START, failures=10**6)
    assert cooled(record, Cause.DOWN, START, Settings()).cool_down_until == START + 300
