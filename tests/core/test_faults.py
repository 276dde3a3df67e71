"""The tables: what was seen -> whose affair it is, and of which kind -> what follows."""

from __future__ import annotations

import pytest

from livekit_pool.core.document import Cause
from livekit_pool.core.events import ProbeOutcome
from livekit_pool.core.faults import (
    COOLS,
    FOLLOWS,
    FORGIVABLE,
    KINDS,
    REFUSALS,
    TABLE,
    UNKNOWN,
    Blame,
    Surface,
    classify,
)

JOIN, TWIRP, CLIENT, LEAVE = Surface.JOIN, Surface.TWIRP, Surface.CLIENT, Surface.LEAVE

# Each phrase of the original's documentation and code, as SDKs and balancers would bring it.
ORIGINAL = {
    "quota exceeded": Cause.QUOTA,
    "minutes exceeded": Cause.QUOTA,
    "limit reached": Cause.QUOTA,
    "free tier": Cause.QUOTA,
    "rate limit": Cause.RATE_LIMIT,
    "connection limit": Cause.CONNECTION_LIMIT,
    "participant limit": Cause.PARTICIPANT_LIMIT,
    "could not connect": Cause.DOWN,
    "websocket error": Cause.DOWN,
    "network error": Cause.DOWN,
    "timeout": Cause.TIMEOUT,
    "connection timed out": Cause.TIMEOUT,
    "status 429": Cause.RATE_LIMIT,
    "status code 503": Cause.DOWN,
    "Unexpected server response: 429": Cause.RATE_LIMIT,
    "HTTP/1.1 503 Service Unavailable": Cause.DOWN,
}


@pytest.mark.parametrize(("phrase", "cause"), ORIGINAL.items())
def test_every_phrase_of_the_original_has_its_cause(phrase: str, cause: Cause) -> None:
    assert classify(CLIENT, text=f"ConnectError: {phrase.upper()}!").cause is cause
    if cause in REFUSALS and "429" not in phrase:
        assert classify(JOIN, status=429, text=phrase).cause is cause
        assert classify(JOIN, status=500, text=phrase).cause is cause


# What LiveKit's server, Cloud and the balancers before them answer (status, code, text).
ANSWERS = [
    (JOIN, 429, "", "", Cause.RATE_LIMIT),
    (TWIRP, 429, "resource_exhausted", "", Cause.RATE_LIMIT),
    (TWIRP, 429, "", "Error from intermediary with HTTP status code 429", Cause.RATE_LIMIT),
    (TWIRP, None, "resource_exhausted", "quota exceeded", Cause.QUOTA),
    (TWIRP, None, "resource_exhausted", "", Cause.RATE_LIMIT),
    (JOIN, 402, "", "", Cause.QUOTA),
    (
        CLIENT,
        None,
        "",
        "engine: signal failure: client error: 429 Too Many Requests - full",
        Cause.RATE_LIMIT,
    ),
    (JOIN, 429, "", "concurrent participants", Cause.CONNECTION_LIMIT),
    (JOIN, 429, "", "insufficient capacity", Cause.CONNECTION_LIMIT),
    (JOIN, 503, "", "node has exceeded its configured limit", Cause.CONNECTION_LIMIT),
    (TWIRP, 500, "unknown", "reached configured limit for node", Cause.CONNECTION_LIMIT),
    (JOIN, 500, "", "could not find any available nodes", Cause.CONNECTION_LIMIT),
    (JOIN, 502, "", "", Cause.DOWN),
    (JOIN, 503, "", "", Cause.DOWN),
    (JOIN, 503, "", "no response from servers", Cause.DOWN),
    (JOIN, 504, "", "request timed out", Cause.TIMEOUT),
    (JOIN, 500, "", "internal error", Cause.DOWN),
    (TWIRP, 503, "", "<html>Service Unavailable</html>", Cause.DOWN),
    (JOIN, 500, "", "timed out while waiting for signal response", Cause.TIMEOUT),
    (JOIN, 500, "", "disk quota exceeded", Cause.DOWN),
    (CLIENT, None, "", "write: disk quota exceeded", Cause.DOWN),
    (JOIN, 500, "", "cannot look the quota up: connection refused", Cause.DOWN),
    (JOIN, 503, "", "the allowance service is away", Cause.DOWN),
    (CLIENT, 500, "", "cannot look the quota up", Cause.DOWN),
    (JOIN, 500, "", "fatal error: concurrent map writes", Cause.DOWN),
    (
        JOIN,
        403,
        "",
        "you have reached the limit of 5 concurrent participants",
        Cause.CONNECTION_LIMIT,
    ),
    (
        JOIN,
        500,
        "",
        "the number of concurrent participants exceeds the limit",
        Cause.CONNECTION_LIMIT,
    ),
    (JOIN, 403, "", "exceeds limits on concurrent sessions", Cause.CONNECTION_LIMIT),
    (JOIN, 403, "", "limit of concurrent agent sessions exceeded", Cause.CONNECTION_LIMIT),
    (JOIN, 503, "", "limit of concurrent agent sessions exceeded", Cause.CONNECTION_LIMIT),
    (JOIN, 403, "", "minutes limit exceeded", Cause.QUOTA),
    (JOIN, 403, "", "minutes limit exceeded: new requests fail", Cause.QUOTA),
    (JOIN, 429, "", "monthly minutes limit exceeded", Cause.QUOTA),
    (JOIN, 500, "", "concurrent map writes, near the limit of goroutines", Cause.DOWN),
    (JOIN, 500, "", "concurrent update, retry limit hit", Cause.DOWN),
    (JOIN, 429, "", "more than 100 requests in 15 minutes limit exceeded", Cause.RATE_LIMIT),
    (JOIN, 500, "", "concurrent update: number of retries exceeded", Cause.DOWN),
    (JOIN, 403, "", "concurrent update of the project", Cause.CREDENTIALS),
    (JOIN, 500, "", "concurrent user update: context deadline exceeded", Cause.DOWN),
    (JOIN, 500, "", "concurrent sessions: context deadline exceeded", Cause.DOWN),
    (JOIN, 500, "", "concurrent room creation failed, max attempts reached", Cause.DOWN),
    (JOIN, 503, "", "could not lock room: too many concurrent updates", Cause.DOWN),
    (JOIN, 403, "", "your project has exceeded its 5000 minutes limit", Cause.QUOTA),
    (JOIN, 503, "", "the minutes limit of your plan is exceeded", Cause.QUOTA),
    (JOIN, 403, "", "invalid token: minutes limit exceeded", Cause.CREDENTIALS),
    (JOIN, 401, "", "token lifetime limit reached", Cause.CREDENTIALS),
    (JOIN, 401, "", "session duration limit reached", Cause.CREDENTIALS),
    (JOIN, 503, "", "room duration exceeds the 60 minutes limit", Cause.DOWN),
    (JOIN, 403, "", "100 API requests in 15 minutes limit exceeded", Cause.RATE_LIMIT),
    (JOIN, 403, "", "too many join attempts per 15 minutes limit", Cause.RATE_LIMIT),
    (JOIN, 403, "", "minutes limit exceeded; 3 calls in this project were ended", Cause.QUOTA),
    (JOIN, 500, "", "concurrent session lock: retries have reached the maximum", Cause.DOWN),
    (CLIENT, None, "", "session timeout: limit reached", Cause.QUOTA),
    (CLIENT, None, "", "limit reached: wss://pool.test/rtc?access_token=x", Cause.QUOTA),
    (JOIN, 403, "", "participant minutes limit exceeded (session duration 400)", Cause.QUOTA),
    (JOIN, 401, "", "jwt exp too far in the future, 15 minutes limit", Cause.CREDENTIALS),
    (JOIN, 503, "", "clock skew beyond the 5 minutes limit", Cause.DOWN),
    (JOIN, 403, "", "your lifetime free minutes limit has been exceeded", Cause.QUOTA),
    (JOIN, 403, "", "total duration exceeds your plan's minutes limit", Cause.QUOTA),
    (JOIN, 503, "", "minutes limit exceeded: no more requests in the free plan", Cause.QUOTA),
    (JOIN, 403, "", "100 requests in 15 minutes limit; monthly plan", Cause.RATE_LIMIT),
    (JOIN, 403, "", "concurrent session limit reached, retries will fail", Cause.CONNECTION_LIMIT),
    (JOIN, 503, "", "concurrent room lock: retry limit reached", Cause.DOWN),
    (JOIN, 503, "", "deadline: concurrent sessions limit reached", Cause.DOWN),
    (JOIN, 403, "", "concurrent session write limit reached", Cause.CREDENTIALS),
    (JOIN, 503, "", "too many concurrent connection attempts", Cause.CONNECTION_LIMIT),
    (JOIN, 403, "", "minutes limit hit: requests in this project are refused", Cause.QUOTA),
    (
        JOIN,
        403,
        "",
        "concurrent session limit reached, update your plan",
        Cause.CONNECTION_LIMIT,
    ),
    (JOIN, 401, "", "token lifetime exceeds 10 minutes limit", Cause.CREDENTIALS),
    (JOIN, 401, "", "token duration exceeds 60 minutes limit", Cause.CREDENTIALS),
    (JOIN, 401, "", "the lifetime of the token exceeds the 10 minutes limit", Cause.CREDENTIALS),
    (JOIN, 401, "", "token is valid for longer than the 10 minutes limit", Cause.CREDENTIALS),
    (JOIN, 401, "", "session lifetime: 60 minutes limit", Cause.CREDENTIALS),
    (JOIN, 403, "", "15 minutes limit: 100 requests in the last 15 minutes", Cause.RATE_LIMIT),
    (JOIN, 403, "", "minutes limit exceeded by too many joins in the month", Cause.QUOTA),
    (JOIN, 503, "", "too many concurrent room updates", Cause.DOWN),
    (JOIN, 503, "", "concurrent sessions: the limit update missed its deadline", Cause.DOWN),
    (JOIN, 503, "", "concurrent room lock: max retries reached", Cause.DOWN),
    (JOIN, 401, "", "concurrent room lock: retry limit exceeded", Cause.CREDENTIALS),
    (JOIN, 500, "", "token lifetime exceeds 10 minutes limit", Cause.DOWN),
    (JOIN, 500, "", "your quota limit is reached", Cause.QUOTA),
    (CLIENT, None, "", "your free allowance is used up", Cause.QUOTA),
    (CLIENT, None, "", "no quota left", Cause.QUOTA),
    (JOIN, 429, "", "no quota left", Cause.QUOTA),
    (JOIN, 200, "", "It works!", Cause.DOWN),
    (JOIN, 302, "", "", Cause.DOWN),
    (JOIN, 200, "", "<html>Try our free tier</html>", Cause.DOWN),
    (JOIN, 307, "", "too many participants", Cause.DOWN),
    (JOIN, 426, "", "upgrade required: limit reached", Cause.DOWN),
    (JOIN, 406, "", "Not Ready. Node Updated At x", Cause.DOWN),
    (JOIN, 421, "", "misdirected request", Cause.DOWN),
    (JOIN, 426, "", "Upgrade Required", Cause.DOWN),
    (JOIN, 401, "", "invalid API key", Cause.CREDENTIALS),
    (JOIN, 403, "", "region pinned", Cause.CREDENTIALS),
    (TWIRP, 401, "", "invalid token", Cause.CREDENTIALS),
    (TWIRP, 451, "", "", Cause.CREDENTIALS),
    (JOIN, 403, "", "free tier: minutes exceeded", Cause.QUOTA),
    (LEAVE, None, "SERVER_SHUTDOWN", "", Cause.DOWN),
    (CLIENT, None, "SERVER_SHUTDOWN", "", Cause.DOWN),
    (CLIENT, None, "websocket", "could not establish signal connection", Cause.DOWN),
    (CLIENT, None, "", "signal failure: HTTP error: 429 Too Many Requests", Cause.RATE_LIMIT),
    (CLIENT, 503, "unavailable", "", Cause.DOWN),
    (CLIENT, None, "", "TypeError: fetch failed", Cause.DOWN),
    (CLIENT, None, "deadline_exceeded", "", Cause.TIMEOUT),
]


@pytest.mark.parametrize(("surface", "status", "code", "text", "cause"), ANSWERS)
def test_what_servers_answer(
    surface: Surface, status: int | None, code: str, text: str, cause: Cause
) -> None:
    found = classify(surface, status=status, code=code, text=text)
    assert (found.blame, found.cause) == (Blame.SERVER, cause)


# A narrower word wins: it is what decides how long a server is left alone.
NARROW = [
    ("rate limit reached", Cause.RATE_LIMIT),
    ("connection limit reached", Cause.CONNECTION_LIMIT),
    ("participant limit reached", Cause.PARTICIPANT_LIMIT),
    ("concurrent connection limit reached", Cause.CONNECTION_LIMIT),
    ("concurrent session limit reached", Cause.CONNECTION_LIMIT),
    ("limit of concurrent sessions reached: quota exceeded", Cause.CONNECTION_LIMIT),
    ("concurrent sessions limit exceeded.", Cause.CONNECTION_LIMIT),
    ("maximum of concurrent participants", Cause.CONNECTION_LIMIT),
    ("concurrent session quota reached", Cause.CONNECTION_LIMIT),
    ("request quota of 1000 per minute exceeded", Cause.RATE_LIMIT),
    ("participant minutes limit reached", Cause.QUOTA),
    ("connection minutes limit exceeded", Cause.QUOTA),
    ("10 per minute limit exceeded", Cause.RATE_LIMIT),
    ("more than 100 requests in 15 minutes limit exceeded", Cause.RATE_LIMIT),
    ("too many concurrent requests", Cause.CONNECTION_LIMIT),
    ("maximum number of concurrent streams reached", Cause.CONNECTION_LIMIT),
    ("concurrent participants exceeded", Cause.CONNECTION_LIMIT),
    ("maximum of concurrent users reached", Cause.CONNECTION_LIMIT),
    ("concurrent room limit reached", Cause.CONNECTION_LIMIT),
    ("max number of concurrent participants reached", Cause.CONNECTION_LIMIT),
    ("too many active concurrent participants", Cause.CONNECTION_LIMIT),
    ("you have exceeded your plan's concurrent connections", Cause.CONNECTION_LIMIT),
    ("monthly minutes limit reached: new calls in this project are blocked", Cause.QUOTA),
    ("connection minutes limit exceeded, no more requests in this period", Cause.QUOTA),
    ("quota exceeded: Too Many Requests", Cause.QUOTA),
]


@pytest.mark.parametrize(("text", "cause"), NARROW)
def test_a_narrower_word_wins(text: str, cause: Cause) -> None:
    for surface, status in ((JOIN, 429), (JOIN, 403), (JOIN, 503), (TWIRP, 429), (CLIENT, None)):
        assert classify(surface, status=status, text=text).cause is cause, (surface, status)


HARMLESS = [
    (TWIRP, 429, "", "sip minutes quota exceeded", Blame.CALLER),
    (TWIRP, 429, "", "transcoding quota exceeded", Blame.CALLER),
    (TWIRP, 429, "resource_exhausted", "concurrent agent sessions limit", Blame.CALLER),
    (CLIENT, None, "", "signal failure: access token has invalid characters", Blame.CALLER),
    (CLIENT, None, "", "server sent leave during reconnect: reason=RoomDeleted", Blame.CALLER),
    (CLIENT, None, "", "could not establish pc connection", Blame.NOBODY),
    (CLIENT, None, "", "wait_pc_connection timed out", Blame.NOBODY),
    (JOIN, 400, "", "room name length exceeds limits: max length 256", Blame.CALLER),
    (JOIN, 404, "", "requested room does not exist", Blame.CALLER),
    (JOIN, 404, "", "404 page not found", Blame.CALLER),
    (JOIN, 412, "", "", Blame.CALLER),
    (JOIN, 500, "", "could not find object", Blame.CALLER),
    (JOIN, 500, "", "connection closed by media", Blame.ROOM),
    (CLIENT, None, "", "room has exceeded its max participants", Blame.ROOM),
    (TWIRP, 401, "unauthenticated", "permissions denied", Blame.CALLER),
    (TWIRP, 403, "permission_denied", "", Blame.CALLER),
    (TWIRP, 404, "not_found", "participant does not exist", Blame.CALLER),
    (TWIRP, 400, "invalid_argument", "metadata size exceeds limits", Blame.CALLER),
    (TWIRP, 503, "unavailable", "egress: no response from servers", Blame.CALLER),
    (TWIRP, 500, "internal", "egress not connected (redis required)", Blame.CALLER),
    (TWIRP, 429, "resource_exhausted", "no agent worker available", Blame.CALLER),
    (TWIRP, 429, "resource_exhausted", "concurrent ingress sessions limit exceeded.", Blame.CALLER),
    (TWIRP, 500, "unknown", "room 'free tier limit reached' is odd", Blame.NOBODY),
    (TWIRP, 408, "deadline_exceeded", "", Blame.NOBODY),
    (CLIENT, None, "DUPLICATE_IDENTITY", "", Blame.CALLER),
    (CLIENT, None, "PARTICIPANT_REMOVED", "quota exceeded", Blame.CALLER),
    (CLIENT, 401, "", "invalid token", Blame.CALLER),
    (CLIENT, None, "", "permissions denied", Blame.CALLER),
    (CLIENT, None, "", "Signal connection aborted: left", Blame.CALLER),
    (LEAVE, None, "PARTICIPANT_REMOVED", "", Blame.CALLER),
    (LEAVE, None, "CONNECTION_TIMEOUT", "", Blame.NOBODY),
    (LEAVE, None, "", "timeout", Blame.NOBODY),
    (CLIENT, None, "", "", Blame.NOBODY),
    (JOIN, 508, "", "this pool is configured as a server of itself", Blame.NOBODY),
    (JOIN, None, "", "timeout", Blame.NOBODY),
]


@pytest.mark.parametrize(("surface", "status", "code", "text", "blame"), HARMLESS)
def test_what_is_no_fault_of_a_server(
    surface: Surface, status: int | None, code: str, text: str, blame: Blame
) -> None:
    found = classify(surface, status=status, code=code, text=text)
    assert (found.blame, found.cause) == (blame, None)


def test_a_room_may_have_a_name_that_reads_like_another_service() -> None:
    for name in ("gossip", "sipping", "coworkers"):
        text = f"room {name}: rate limit exceeded"
        assert classify(TWIRP, status=429, text=text).cause is Cause.RATE_LIMIT


@pytest.mark.parametrize(
    ("text", "cause"), [("429", Cause.RATE_LIMIT), ("503 Service Unavailable", Cause.DOWN)]
)
def test_a_text_may_begin_with_the_status(text: str, cause: Cause) -> None:
    assert classify(CLIENT, text=text).cause is cause


@pytest.mark.parametrize("text", ["127.0.0.1: oops", "500:3 oops", "took 503 ms"])
def test_not_every_number_is_a_status(text: str) -> None:
    assert classify(CLIENT, text=text) == UNKNOWN


def test_a_long_text_is_not_read_to_its_end() -> None:
    assert classify(JOIN, status=500, text="x" * 2000 + "quota exceeded").cause is Cause.DOWN
    assert classify(CLIENT, text="x" * 2000 + "timeout") == UNKNOWN


def test_every_line_can_be_reached_and_blames_the_server_exactly_with_a_cause() -> None:
    """A line that an earlier one always wins over says something that is not true."""
    assert len({row.name for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert (row.cause is not None) == (row.blame is Blame.SERVER)
        assert row.source
        reached = {
            classify(surface, status=status, code=code, text=text).row
            for surface in row.surfaces
            for status in row.statuses or {None}
            for code in row.codes or {""}
            for phrase in row.phrases or ("",)
            for word in row.words or ("",)
            for text in (f"{phrase} {word.replace('#', '15')}".strip(),)
        }
        assert row.name in reached


def test_what_follows_is_said_of_every_cause_of_a_rotation() -> None:
    assert set(FOLLOWS) == set(Cause) - {Cause.CREATED, Cause.RESTORED}
    assert {row.cause for row in TABLE} - {None} == COOLS
    assert set(KINDS.values()) == FORGIVABLE
    assert FORGIVABLE | REFUSALS | {Cause.CREDENTIALS} == COOLS
    alive = {ProbeOutcome.PASSED, ProbeOutcome.UNAUTHORIZED, ProbeOutcome.LIMITED}
    assert set(KINDS) == set(ProbeOutcome) - alive
