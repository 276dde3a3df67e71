"""
What happened: the values that the driver feeds to the machine.

Times are seconds since the Unix epoch, the store's time (the machine's ``now``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .budget import Usage
from .document import Cause, Document

__all__ = [
    "Change",
    "Event",
    "FaultSeen",
    "FaultSource",
    "JoinAnswered",
    "Loaded",
    "MarkAsked",
    "ProbeOutcome",
    "Probed",
    "RotateAsked",
    "RowsSeen",
    "SignedSight",
    "StoreSeen",
    "SwapAnswered",
    "SwapFailed",
    "Tick",
    "UsageSeen",
]


class ProbeOutcome(StrEnum):
    """What a probe saw."""

    PASSED = "passed"
    REFUSED = "refused"  # connection refused or reset, TLS failed: comes from the other side
    SILENT = "silent"  # no answer in time
    FAILED = "failed"  # answered, but not as a healthy LiveKit server does (5xx, 406, not LiveKit)
    UNAUTHORIZED = "unauthorized"  # alive, but refuses a token made with our key for it
    LIMITED = "limited"  # alive, but refuses our own call for a limit of its own


class FaultSource(StrEnum):
    """Who saw a fault."""

    PROBE = "probe"
    JOIN = "join"  # a client's join, refused or unanswered by the server
    CALL = "call"  # a call of the server API
    SOCKET = "socket"  # a relayed signal connection lost without a goodbye
    SHUTDOWN = "shutdown"  # the server said that it is shutting down
    VERIFIED = "verified"  # a client's report that a probe or a join of our own confirmed


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """
    The document as the store has it now (after start, a watch notice, a lost swap).

    It is None when the store has none.
    """

    document: Document | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedSight:
    """
    What the newest signed probe of a server saw, and when it ``began`` by the store's time.

    ``joined`` says whether it was a join, and no call.
    """

    outcome: ProbeOutcome
    began: float
    detail: str = ""
    joined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsSeen:
    """
    The live process rows.

    Attributes:
        lists: names of the servers that each live process has, in its order.
        health: server -> up, as the process that probes on this machine sees it.
        signed: server -> its newest signed probe, by any process of this machine.
        elsewhere: server -> up for each other machine on which a process lives: empty for one whose
            processes have said nothing lately.
        participants: connected through all live processes together.
        agreed: whether all live processes have the same list, to the keys.
    """

    lists: tuple[tuple[str, ...], ...]
    health: Mapping[str, bool] = field(default_factory=dict)
    signed: Mapping[str, SignedSight] = field(default_factory=dict)
    elsewhere: tuple[Mapping[str, bool], ...] = ()
    participants: int = 0
    agreed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSeen:
    """
    The store is away, or is back.

    It is said to be back when the document and the process rows have been read again: `Loaded`
    and `RowsSeen` come before it.
    """

    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSet:
    """
    The store's clock was set on: now is ``by`` seconds later than the time that has passed says.

    It is never set back: who tells ``now`` lets no moment come twice.
    """

    by: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """
    A probe of ``server`` ended.

    Attributes:
        stalled: this process's own loop stalled during the probe: silence then says nothing.
        detail: what was seen, for people; never a secret.
        began: when the probe began; None is taken for "just now". A probe that began before a
            fault cannot forgive it, and one that began before the server became active is no
            evidence against it.
        signed: whether it used our key. Only a signed pass ends ``misconfigured``, or shows that
            a server which refused for a limit takes calls again.
        joined: whether it was a signed one that joined.
        call: whether it was a signed one of which a connection was made, so that what it saw is
            how the server takes calls. Alone such a failure shows nobody down.
        kind: of the limit, for `ProbeOutcome.LIMITED`.
        retry_after: seconds after which the server wants to be asked again, if it said so.
    """

    server: str
    outcome: ProbeOutcome
    stalled: bool = False
    detail: str = ""
    began: float | None = None
    signed: bool = True
    joined: bool = False
    call: bool = False
    kind: Cause | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSeen:
    """
    Evidence against ``server``, seen at ``revision``.

    Attributes:
        detail: what was seen, for people; never a secret.
        retry_after: seconds after which the server wants to be asked again, if it said so.
        reports: how many saw it.
        voice: whose join it was, if that is known: what one client goes on meeting counts once.
    """

    server: str
    revision: int
    kind: Cause
    source: FaultSource
    detail: str = ""
    retry_after: float | None = None
    reports: int = 1
    voice: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSeen:
    """What is used of each server, by name, as the ledger and the process rows say now."""

    usage: Mapping[str, Usage]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinAnswered:
    """A join was answered well by ``server``: forgets join faults counted so far."""

    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateAsked:
    """
    Somebody asked for a rotation.

    Attributes:
        request: names the answer's addressee; unique among the requests under way.
        to: the server asked for, or None for the next available one.
        expected_revision: refuse if the document is at any other.
        force: also to a server that is drained, down or misconfigured.
        participants: to be moved; 0 to take the number from the process rows.
    """

    request: str
    reason: str
    actor: str
    to: str | None = None
    expected_revision: int | None = None
    force: bool = False
    participants: int = 0


class Change(StrEnum):
    """What somebody wants to set, or to undo."""

    DRAIN = "drain"
    UNDRAIN = "undrain"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkAsked:
    """
    Somebody asked for a drain or a pause, or for the end of one.

    Attributes:
        request: names the answer's addressee; unique among the requests under way.
        server: the one to drain or undrain; empty for a pause.
        reason: why; empty for the end of one.
        expected_revision: refuse a change if the document is at any other.
        force: drain also the last available server.
        participants: to be moved, if the active server is drained; 0 to take the number from the
            process rows.
    """

    request: str
    change: Change
    actor: str
    server: str = ""
    reason: str = ""
    expected_revision: int | None = None
    force: bool = False
    participants: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapAnswered:
    """
    The store's answer to `Swap` or `Restore`: ``document`` is what the store holds now.

    It is None when the store has none any more.
    """

    operation: str
    won: bool
    document: Document | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapFailed:
    """
    The store did not answer `Swap` or `Restore`.

    The outcome may be unknown: a `Loaded` will follow.
    """

    operation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passed."""


Event = (
    Loaded
    | ClockSet
    | RowsSeen
    | StoreSeen
    | Probed
    | FaultSeen
    | JoinAnswered
    | UsageSeen
    | RotateAsked
    | MarkAsked
    | SwapAnswered
    | SwapFailed
    | Tick
)
