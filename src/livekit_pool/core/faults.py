"""
Faults, as tables: what was seen -> whose fault it is and of which kind -> what follows.

Status and code come first and text second, because texts change from one release to the next: a
text decides only between the causes that a status leaves open, and alone only where nothing else
is known. Where these rows come from is said beside them; ``docs/faults.md`` is made from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from .document import Cause
from .events import ProbeOutcome

__all__ = [
    "COOLS",
    "FOLLOWS",
    "FORGIVABLE",
    "KINDS",
    "REFUSALS",
    "TABLE",
    "UNKNOWN",
    "Blame",
    "Classified",
    "Confirmed",
    "CoolDown",
    "Follow",
    "Row",
    "Surface",
    "classify",
]


class Surface(StrEnum):
    """Where an answer was seen."""

    JOIN = "join"  # the upgrade of /rtc and /rtc/v1, a resume's too, and both /validate
    LEAVE = "leave"  # the reason of a server's Leave: a code
    TWIRP = "call"  # the server API
    CLIENT = "client"  # what an SDK raised at a user's, told in a report: never evidence by itself


class Blame(StrEnum):
    """Whose affair a refusal is."""

    SERVER = "server"
    ROOM = "room"  # one room's, if the server says so when it is asked
    CALLER = "caller"
    NOBODY = "nobody"  # it says nothing about the server's health


# --- what was seen -> cause ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One line of the table; the first whose conditions all hold decides.

    Attributes:
        name: of the line, unique.
        cause: the kind of fault; None unless ``blame`` is the server's.
        surfaces: where it was seen; all by default.
        statuses: HTTP statuses; any, also none at all, where empty.
        codes: Twirp's error codes, or the names and numbers by which SDKs know a cause; any, also
            none at all, where empty.
        phrases: of which the text must hold one, in lower case; any text where empty.
        words: of which the text must hold one as whole words, in lower case; likewise, and beside
            a phrase where there are both.
        unless: of which the text must hold none, in lower case.
        source: where the line comes from.

    In ``words`` and ``unless``, ``#`` stands for a number and ``*`` for a word.
    """

    name: str
    blame: Blame
    cause: Cause | None = None
    surfaces: frozenset[Surface] = frozenset(Surface)
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    phrases: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    source: str = ""

    def holds(self, surface: Surface, status: int | None, code: str, text: str) -> bool:
        """Whether this line is about such an answer; ``code`` and ``text`` in lower case."""
        return (
            surface in self.surfaces
            and (not self.statuses or status in self.statuses)
            and (not self.codes or code in self.codes)
            and (not self.phrases or any(phrase in text for phrase in self.phrases))
            and (not self.words or _says(text, self.words, whole=True))
            and not (self.unless and _says(text, self.unless, whole=False))
        )


def _says(text: str, any_of: tuple[str, ...], *, whole: bool) -> bool:
    return _pattern(any_of, whole).search(text) is not None


@lru_cache
def _pattern(texts: tuple[str, ...], whole: bool) -> re.Pattern[str]:
    any_of = "|".join(map(re.escape, texts)).replace(r"\#", "[0-9]+").replace(r"\*", r"\w+")
    return re.compile(rf"\b(?:{any_of})" + (r"\b" if whole else ""))


_JOIN: Final = frozenset({Surface.JOIN})
_TWIRP: Final = frozenset({Surface.TWIRP})
_CLIENT: Final = frozenset({Surface.CLIENT})
_ANSWERED: Final = frozenset({Surface.JOIN, Surface.TWIRP})
_TO_JOIN: Final = frozenset({Surface.JOIN, Surface.CLIENT})
_LEFT: Final = frozenset({Surface.LEAVE, Surface.CLIENT})

# The phrases of LiveKit, of LiveKit Cloud, and of the system this pool grew out of.
_QUOTA_FOR_SURE: Final = (
    "quota exceeded",
    "quota limit",
    "quota reached",
    "over quota",
    "out of quota",
    "minutes exceeded",
    "participant minutes limit",
    "connection minutes limit",
    "monthly minutes limit",
    "free tier",
)
# Where it is not of something else.
_USED_UP: Final = ("limit reached", "minutes limit")
_QUOTA_PERHAPS: Final = ("quota", "allowance")
_QUOTA: Final = (*_QUOTA_FOR_SURE, "limit reached", *_QUOTA_PERHAPS)
_CONNECTIONS: Final = (
    "connection limit",
    "connections limit",
    "too many connections",
    "insufficient capacity",
)
_CONCURRENT: Final = (
    "concurrent session",
    "concurrent connection",
    "concurrent participant",
    "concurrent user",
    "concurrent room",
    "concurrent limit",
    "too many concurrent",
    "maximum concurrent",
    "maximum number of concurrent",
    "limit of concurrent",
    "limit on concurrent",
    "limit for concurrent",
)
# Beside it, where no 429 says that it is a limit.
_LIMIT: Final = ("limit", "limits", "maximum", "max", "quota", "exceeded", "reached", "many")
# What is exceeded, or reached, may be a deadline, or the number of tries; what there are too many
# of may be writers.
_TROUBLE: Final = (
    "deadline",
    "retry limit",
    "retries exceeded",
    "retries reached",
    "retries have",
    "max retries",
    "maximum retries",
    "max attempts",
    "concurrent update",
    "concurrent * update",
    "concurrent transaction",
    "concurrent * transaction",
    "concurrent write",
    "concurrent * write",
)
_PARTICIPANTS: Final = ("participant limit", "participants limit", "too many participants")
# "Too many requests" is not among the first: it is what HTTP calls every 429.
_RATE_FOR_SURE: Final = ("rate limit", "per second", "per minute", "per hour")
_RATE: Final = (*_RATE_FOR_SURE, "too many requests", "limit exceeded")
# Beside a limit of minutes: so many of something that is no minute, in so many minutes.
_COUNTED: Final = tuple(
    f"{what} {within} #"
    for what in ("requests", "attempts", "calls", "joins")
    for within in ("in", "in the last", "in this", "within", "every", "per")
)
# A limit of how long something lasts, which is no spent quota. What speaks of a token is about one
# caller's: other servers refuse it alike.
_LASTS: Final = (
    "token",
    "jwt",
    "clock skew",
    *(
        f"{of} {lasts}"
        for of in ("session", "room", "call", "meeting")
        for lasts in ("lifetime", "duration", "length", "time ")
    ),
)
_NODE: Final = (
    "exceeded its configured limit",
    "reached configured limit",
    "could not find any available nodes",
    "no available nodes",
)
# Whole words: a room may be called "gossip", and its name be in the text.
_OTHER_SERVICES: Final = (
    "worker",
    "workers",
    "ingress",
    "egress",
    "sip",
    "agent session",
    "agent sessions",
    "transcode",
    "transcodes",
    "transcoding",
    "recording",
    "recordings",
)
_MISSING_SERVICE: Final = ("redis required", "no response from servers")

# LiveKit's DisconnectReason and the reasons of SDKs' connection errors, as they name or number
# them (protocol: livekit_models.proto; livekit-client: room/errors.ts).
_OWN_LEAVING: Final = frozenset(
    {
        "client_initiated",
        "duplicate_identity",
        "participant_removed",
        "room_deleted",
        "room_closed",
        "state_mismatch",
        "migration",
        "user_unavailable",
        "user_rejected",
        "sip_trunk_failure",
        "cancelled",
        "notallowed",
        "not_allowed",
    }
)
_LOST: Final = frozenset(
    {
        "join_failure",
        "signal_close",
        "connection_timeout",
        "internalerror",
        "internal_error",
        "websocket",
    }
)
# livekit-client gives this name to every error of `connect()`, whatever went wrong: Room.ts wraps
# what it caught in a ServerUnreachable, and copies the reason's number and the status alone.
_ANY_FAILURE: Final = frozenset({"serverunreachable", "server_unreachable"})

_ORIGINAL: Final = "original system"
_CLOUD: Final = "LiveKit Cloud, as its users report it"
_SERVER: Final = "livekit-server"
_SDK: Final = "SDKs"

# fmt: off
TABLE: Final[tuple[Row, ...]] = (
    # What callers do wrong comes first: "room name length exceeds limits" is no limit of a server.
    Row(name="bad request", blame=Blame.CALLER, statuses=frozenset({400, 405, 413, 414, 415, 422}),
        source=f"{_SERVER}: a name that is too long, a request that cannot be read"),
    Row(name="not there", blame=Blame.CALLER, statuses=frozenset({404, 410}),
        source=f"{_SERVER}: the room or the participant does not exist, or /rtc/v1 on a server"
        " before 1.9.10"),
    Row(name="does not fit", blame=Blame.CALLER, statuses=frozenset({409, 412, 501}),
        source=f"{_SERVER}: psrpc's AlreadyExists, FailedPrecondition, Unimplemented"),
    Row(name="loop", blame=Blame.NOBODY, statuses=frozenset({508}),
        source="a pool: its list of servers leads back to it"),
    Row(name="caller's own", blame=Blame.CALLER, surfaces=_TWIRP,
        codes=frozenset({"not_found", "invalid_argument", "permission_denied", "already_exists",
            "failed_precondition", "out_of_range", "unimplemented", "bad_route", "malformed",
            "canceled", "aborted"}),
        source="Twirp's error codes"),
    Row(name="grant missing", blame=Blame.CALLER, surfaces=_TWIRP,
        codes=frozenset({"unauthenticated"}), phrases=("permissions denied",),
        source=f"{_SERVER}: the token was accepted, its grants do not allow the call"),
    Row(name="another service's limit", blame=Blame.CALLER, surfaces=_TWIRP,
        statuses=frozenset({429}), words=_OTHER_SERVICES,
        source=f"{_SERVER}: no agent worker is free; {_CLOUD}: egress, ingress, SIP"),
    Row(name="own leaving", blame=Blame.CALLER, surfaces=_LEFT, codes=_OWN_LEAVING,
        source="LiveKit's DisconnectReason: left, kicked, joined twice, room deleted"),
    Row(name="server shuts down", blame=Blame.SERVER, cause=Cause.DOWN, surfaces=_LEFT,
        codes=frozenset({"server_shutdown"}),
        source="LiveKit's DisconnectReason: a forced stop, which a probe confirms"),

    # Something else answered, and whatever its text speaks of is no limit of the server.
    Row(name="not an answer of LiveKit's", blame=Blame.SERVER, cause=Cause.DOWN, surfaces=_JOIN,
        statuses=frozenset(range(200, 400)), source="HTTP: something else stands at the address"),
    Row(name="not let through", blame=Blame.SERVER, cause=Cause.DOWN, surfaces=_JOIN,
        statuses=frozenset({406, 421, 426}),
        source="HTTP: a balancer that takes the upgrade out, or knows no such host; a server that"
        " is not ready"),

    # A limit: the narrower words first, so that "rate limit reached" is no spent quota.
    Row(name="participant limit", blame=Blame.SERVER, cause=Cause.PARTICIPANT_LIMIT,
        statuses=frozenset({429}), phrases=_PARTICIPANTS, source=_ORIGINAL),
    Row(name="connection limit", blame=Blame.SERVER, cause=Cause.CONNECTION_LIMIT,
        statuses=frozenset({429}), phrases=(*_CONNECTIONS, "concurrent"),
        source=f"{_ORIGINAL}; {_CLOUD}"),
    Row(name="rate limit by its name", blame=Blame.SERVER, cause=Cause.RATE_LIMIT,
        statuses=frozenset({429}), phrases=_RATE_FOR_SURE, source=_ORIGINAL),
    Row(name="quota", blame=Blame.SERVER, cause=Cause.QUOTA, statuses=frozenset({429}),
        phrases=_QUOTA, source=f"{_ORIGINAL}; {_CLOUD}"),
    Row(name="rate limit", blame=Blame.SERVER, cause=Cause.RATE_LIMIT, statuses=frozenset({429}),
        source=f"{_CLOUD}; psrpc's and Twirp's resource_exhausted"),
    Row(name="payment required", blame=Blame.SERVER, cause=Cause.QUOTA, statuses=frozenset({402}),
        source="HTTP"),

    # Our token was refused. A text may tell that it was for a limit.
    Row(name="participant limit, forbidden", blame=Blame.SERVER, cause=Cause.PARTICIPANT_LIMIT,
        statuses=frozenset({401, 403}), phrases=_PARTICIPANTS, source=_ORIGINAL),
    Row(name="connection limit, forbidden", blame=Blame.SERVER, cause=Cause.CONNECTION_LIMIT,
        statuses=frozenset({401, 403}), phrases=_CONNECTIONS, source=_ORIGINAL),
    Row(name="concurrent limit, forbidden", blame=Blame.SERVER, cause=Cause.CONNECTION_LIMIT,
        statuses=frozenset({401, 403}), phrases=_CONCURRENT, words=_LIMIT, unless=_TROUBLE,
        source=_CLOUD),
    Row(name="rate limit, forbidden", blame=Blame.SERVER, cause=Cause.RATE_LIMIT,
        statuses=frozenset({401, 403}), phrases=_RATE_FOR_SURE, source=_ORIGINAL),
    Row(name="quota, forbidden", blame=Blame.SERVER, cause=Cause.QUOTA,
        statuses=frozenset({401, 403}), phrases=_QUOTA_FOR_SURE, source=_ORIGINAL),
    Row(name="rate limit in minutes, forbidden", blame=Blame.SERVER, cause=Cause.RATE_LIMIT,
        statuses=frozenset({401, 403}), phrases=("minutes limit",), words=_COUNTED, source=_CLOUD),
    Row(name="used up, forbidden", blame=Blame.SERVER, cause=Cause.QUOTA,
        statuses=frozenset({401, 403}), phrases=_USED_UP, unless=(*_LASTS, *_TROUBLE),
        source=f"{_ORIGINAL}; {_CLOUD}"),
    Row(name="key refused", blame=Blame.SERVER, cause=Cause.CREDENTIALS, surfaces=_ANSWERED,
        statuses=frozenset({401, 403, 451}),
        source=f"{_SERVER}: key revoked, another region pinned, a claim that an old version does"
        " not know"),
    Row(name="token refused", blame=Blame.CALLER, surfaces=_CLIENT,
        statuses=frozenset({401, 403}),
        source=f"{_SDK}: the user's own token, which the pool checks"),

    # A server that cannot, for a limit, with a status that says something else.
    Row(name="service missing", blame=Blame.CALLER, surfaces=_TWIRP,
        phrases=_MISSING_SERVICE,
        source=f"{_SERVER}: egress, ingress or SIP is asked for and not set up"),
    Row(name="node full", blame=Blame.SERVER, cause=Cause.CONNECTION_LIMIT, phrases=_NODE,
        source=f"{_SERVER}: limit.num_tracks and limit.bytes_per_sec; 503 on a join, 500 on"
        " CreateRoom"),
    Row(name="room full, perhaps", blame=Blame.ROOM, surfaces=_TO_JOIN, statuses=frozenset({500}),
        phrases=("connection closed by media",),
        source=f"{_SERVER}: max_participants of the room, among other things"),
    Row(name="room full", blame=Blame.ROOM, phrases=("room has exceeded its max participants",),
        source=f"{_SERVER}: its log, should it ever say so to clients"),
    Row(name="object not found", blame=Blame.CALLER, surfaces=_JOIN, statuses=frozenset({500}),
        phrases=("could not find object",), source=_SERVER),
    Row(name="disk full", blame=Blame.SERVER, cause=Cause.DOWN, surfaces=_TO_JOIN,
        phrases=("disk quota",), source="the server's operating system: EDQUOT"),
    # On a call such words may be the caller's, in a name that an error repeats.
    Row(name="participant limit in words", blame=Blame.SERVER, cause=Cause.PARTICIPANT_LIMIT,
        surfaces=_TO_JOIN, phrases=_PARTICIPANTS, source=_ORIGINAL),
    Row(name="connection limit in words", blame=Blame.SERVER, cause=Cause.CONNECTION_LIMIT,
        surfaces=_TO_JOIN, phrases=_CONNECTIONS, source=_ORIGINAL),
    Row(name="concurrent limit in words", blame=Blame.SERVER, cause=Cause.CONNECTION_LIMIT,
        surfaces=_TO_JOIN, phrases=_CONCURRENT, words=_LIMIT, unless=_TROUBLE,
        source=_CLOUD),
    Row(name="rate limit by its name, in words", blame=Blame.SERVER, cause=Cause.RATE_LIMIT,
        surfaces=_TO_JOIN, phrases=_RATE_FOR_SURE, source=_ORIGINAL),
    Row(name="quota in words", blame=Blame.SERVER, cause=Cause.QUOTA, surfaces=_TO_JOIN,
        phrases=_QUOTA_FOR_SURE, source=_ORIGINAL),
    Row(name="rate limit in minutes, in words", blame=Blame.SERVER, cause=Cause.RATE_LIMIT,
        surfaces=_TO_JOIN, phrases=("minutes limit",), words=_COUNTED, source=_CLOUD),
    Row(name="used up, in words", blame=Blame.SERVER, cause=Cause.QUOTA, surfaces=_TO_JOIN,
        phrases=_USED_UP, unless=(*_LASTS, *_TROUBLE), source=f"{_ORIGINAL}; {_CLOUD}"),
    Row(name="rate limit in words", blame=Blame.SERVER, cause=Cause.RATE_LIMIT,
        surfaces=_TO_JOIN, phrases=_RATE, source=_ORIGINAL),

    # The server is in trouble, or not there. Probes, or a repetition, must confirm these.
    Row(name="a service does not answer", blame=Blame.NOBODY, surfaces=_TWIRP,
        codes=frozenset({"unavailable", "deadline_exceeded", "internal", "unknown", "dataloss"}),
        source="Twirp's error codes: one call failed, or a service that the server only asks"),
    Row(name="slow to answer", blame=Blame.SERVER, cause=Cause.TIMEOUT,
        surfaces=_TO_JOIN, statuses=frozenset({500}),
        phrases=("timed out while waiting for signal response",), source=_SERVER),
    Row(name="gateway timeout", blame=Blame.SERVER, cause=Cause.TIMEOUT,
        statuses=frozenset({408, 504}),
        source="a balancer before the server; Twirp's deadline_exceeded"),
    Row(name="unavailable", blame=Blame.SERVER, cause=Cause.DOWN, surfaces=_TO_JOIN,
        statuses=frozenset({502, 503}),
        source="a balancer before the server; psrpc's Unavailable, DeadlineExceeded and Canceled"),
    Row(name="nobody behind", blame=Blame.SERVER, cause=Cause.DOWN, surfaces=_TWIRP,
        statuses=frozenset({502, 503}), source="a balancer before the server: no Twirp error"),
    Row(name="server error", blame=Blame.SERVER, cause=Cause.DOWN, surfaces=_TO_JOIN,
        statuses=frozenset(range(500, 600)), source=_SERVER),
    Row(name="one call failed", blame=Blame.NOBODY, surfaces=_TWIRP,
        statuses=frozenset(range(500, 600)), source=_SERVER),

    # No answer at all. What is in trouble may speak of quotas that it cannot look up: so the mere
    # word counts here only, where no status says that.
    Row(name="quota, perhaps", blame=Blame.SERVER, cause=Cause.QUOTA, surfaces=_TO_JOIN,
        phrases=_QUOTA_PERHAPS, source=f"{_ORIGINAL}; {_CLOUD}"),
    # The words of SDKs and of the original's code. Their first words are the same whatever went
    # wrong, so that what is the caller's comes before.
    Row(name="caller's own, in words", blame=Blame.CALLER, surfaces=_CLIENT,
        phrases=("invalid characters", "parse the url", "reason=clientinitiated",
            "reason=duplicateidentity", "reason=participantremoved", "reason=roomdeleted",
            "reason=roomclosed"),
        source=f"{_SDK}: Rust's, and so Python's and Node's"),
    Row(name="token refused, in words", blame=Blame.CALLER, surfaces=_CLIENT,
        phrases=("invalid token", "invalid authorization token", "invalid api key",
            "no permissions to access the room", "permissions denied"),
        source=f"{_SERVER}: its 401, of which livekit-client's error has the text"),
    Row(name="room not there, in words", blame=Blame.CALLER, surfaces=_CLIENT,
        phrases=("requested room does not exist",),
        source=f"{_SERVER}: its 404, of which livekit-client's error has the text"),
    Row(name="given up, in words", blame=Blame.CALLER, surfaces=_CLIENT,
        phrases=("signal connection aborted", "connection attempt aborted",
            "client initiated disconnect"),
        source="livekit-client: the page left while it connected"),
    Row(name="no media", blame=Blame.NOBODY, surfaces=_CLIENT,
        phrases=("pc connection", "pc_connection", "peer connection", "peerconnection"),
        source=f"{_SDK}: WebRTC finds no way, most often for the user's own network"),
    Row(name="lost, by code", blame=Blame.SERVER, cause=Cause.DOWN, surfaces=_CLIENT, codes=_LOST,
        source="LiveKit's DisconnectReason; livekit-client's ConnectionError"),
    Row(name="timeout, by code", blame=Blame.SERVER, cause=Cause.TIMEOUT, surfaces=_CLIENT,
        codes=frozenset({"timeout", "deadline_exceeded"}),
        source="livekit-client's ConnectionError; Twirp's codes"),
    Row(name="silent, in words", blame=Blame.SERVER, cause=Cause.TIMEOUT, surfaces=_CLIENT,
        phrases=("timeout", "timed out", "deadline"), source=f"{_ORIGINAL}; {_SDK}"),
    Row(name="lost, in words", blame=Blame.SERVER, cause=Cause.DOWN, surfaces=_CLIENT,
        phrases=("could not connect", "cannot connect", "network error", "websocket", "io error",
            "connection refused", "connection reset", "connect failed", "fetch failed",
            "signal connection", "server_shutdown", "server shutdown",
            "server unreachable", "could not establish", "no response from servers"),
        source=f"{_ORIGINAL}; {_SDK}"),
    Row(name="any failure, by code", blame=Blame.SERVER, cause=Cause.DOWN, surfaces=_CLIENT,
        codes=_ANY_FAILURE,
        source="livekit-client: the reasonName of every failed connect(), so that it counts only"
        " where the text says nothing"),
)
# fmt: on
"""From an answer to whose affair it is, and to the cause if it is the server's."""

_STATUS: Final = re.compile(
    r"(?:^|(?:status(?: code)?|http(?: error)?|http/[0-9.]+|error|response)[:= ]+)"
    r"([1-5][0-9]{2})\b(?![.:])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """What an answer means: ``cause`` is there exactly if it is the server's affair."""

    blame: Blame
    cause: Cause | None
    row: str


UNKNOWN: Final = Classified(blame=Blame.NOBODY, cause=None, row="anything else")
"""What no line is about says nothing about a server."""


def classify(
    surface: Surface, *, status: int | None = None, code: str = "", text: str = ""
) -> Classified:
    """
    Look an answer up in `TABLE`.

    Args:
        status: of HTTP; None where there was no answer, or nobody knows.
        code: of Twirp, or an SDK's name or number of a cause.
        text: of the body, or of an SDK's error, in which a status is looked for where ``status``
            is None. Only its first 2,000 characters count.
    """
    text, code = text[:2000].lower(), code.strip().lower()
    if status is None and code == "resource_exhausted":
        status = 429  # Twirp's name for it, where an SDK tells no status
    if status is None and surface is Surface.CLIENT and (found := _STATUS.search(text)):
        status = int(found[1])
    for row in TABLE:
        if row.holds(surface, status, code, text):
            return Classified(blame=row.blame, cause=row.cause, row=row.name)
    return UNKNOWN


KINDS: Final[Mapping[ProbeOutcome, Cause]] = {
    ProbeOutcome.REFUSED: Cause.DOWN,
    ProbeOutcome.FAILED: Cause.DOWN,
    ProbeOutcome.SILENT: Cause.TIMEOUT,
}
"""Which kind of fault a failing probe is that shows a server down. The others do not."""


# --- cause -> what follows -----------------------------------------------------------------


class Confirmed(StrEnum):
    """What must have been seen before a cause rotates."""

    AT_ONCE = "at once"
    INTERVAL = "at once, but not sooner than the interval after the last rotation"
    PROBE = "when probes confirm it"
    SIGNED = (
        "when a signed probe confirms it, and another server takes our tokens; or when joins of"
        " the pool's own are refused, until it is certain"
    )
    ASKED = "as somebody, or the list of servers, says"


class CoolDown(StrEnum):
    """How long the server that is left is not chosen."""

    NONE = "none"
    DOUBLING = "first cool-down, doubled each time in a row; longer if Retry-After says so"
    LIMIT = "as Retry-After says; else the first one for limits, doubled each time in a row"
    RESET = "until the quota's reset: exhausted"
    LONGEST = "the longest, and until a signed probe passes; a join, if joins were refused"


@dataclass(frozen=True, slots=True)
class Follow:
    """What follows from a cause."""

    confirmed: Confirmed
    cool_down: CoolDown


FOLLOWS: Final[Mapping[Cause, Follow]] = {
    Cause.QUOTA: Follow(Confirmed.AT_ONCE, CoolDown.RESET),
    Cause.RATE_LIMIT: Follow(Confirmed.INTERVAL, CoolDown.LIMIT),
    Cause.CONNECTION_LIMIT: Follow(Confirmed.INTERVAL, CoolDown.LIMIT),
    Cause.PARTICIPANT_LIMIT: Follow(Confirmed.INTERVAL, CoolDown.LIMIT),
    Cause.TIMEOUT: Follow(Confirmed.PROBE, CoolDown.DOUBLING),
    Cause.DOWN: Follow(Confirmed.PROBE, CoolDown.DOUBLING),
    Cause.CREDENTIALS: Follow(Confirmed.SIGNED, CoolDown.LONGEST),
    Cause.MANUAL: Follow(Confirmed.ASKED, CoolDown.NONE),
    Cause.REMOVED: Follow(Confirmed.ASKED, CoolDown.NONE),
    Cause.FOREIGN: Follow(Confirmed.ASKED, CoolDown.NONE),
}
"""What each cause of a rotation asks for."""

COOLS: Final = frozenset(
    cause for cause, follow in FOLLOWS.items() if follow.cool_down is not CoolDown.NONE
)
"""Causes that put the server which is left into cool-down."""

REFUSALS: Final = frozenset(
    cause
    for cause, follow in FOLLOWS.items()
    if follow.cool_down in (CoolDown.LIMIT, CoolDown.RESET)
)
"""Causes that a server tells of itself, though it answers: its word is enough."""

FORGIVABLE: Final = frozenset({Cause.DOWN, Cause.TIMEOUT})
"""Causes whose cool-down a last resort may ignore: they end with the server's recovery."""
