"""
The errors this package raises, and nothing else.

    PoolError
     +-- ConfigurationError        a setting is wrong: names it and says what to do (exit code 2)
     +-- TokenError                a caller's token is refused (HTTP 401)
     +-- StoreError
     |    +-- StoreUnavailable     the store does not answer; try again (retryable)
     |    +-- StoreOutcomeUnknown  a write may or may not have happened; read again (retryable)
     |    +-- StoreCorrupt         what is stored is not a pool's document
     +-- RotationRefused           a rotation that was asked for is not done (HTTP 409)
     |    +-- RevisionConflict     the document moved on; carries the current revision
     |    +-- NoServer             no server may be chosen
     |    +-- ServerNotEligible    the asked target is drained, down or misconfigured
     +-- UnknownServer             no server of that name (HTTP 404)
     +-- TooManyReports            a client reports too often (HTTP 429)
     +-- NoAnswer                  the pool, or a server of it, does not answer (exit code 3)

No message, repr or attribute of these holds a secret or a token.
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "NoAnswer",
    "NoServer",
    "PoolError",
    "RevisionConflict",
    "RotationRefused",
    "ServerNotEligible",
    "StoreCorrupt",
    "StoreError",
    "StoreOutcomeUnknown",
    "StoreUnavailable",
    "TokenError",
    "TooManyReports",
    "UnknownServer",
]


class PoolError(Exception):
    """
    Base of all errors of this package.

    Attributes:
        code: stable identifier, the ``error.code`` of the HTTP API.
        retryable: whether the same call may succeed later, unchanged.
    """

    code: str = "error"
    retryable: bool = False


class ConfigurationError(PoolError):
    """A setting is missing or wrong; the message is one sentence that names it."""

    code = "configuration"


class TokenError(PoolError):
    """
    A token is missing, forged, expired or not meant for this; never quotes the token.

    Attributes:
        code: ``unauthorized``, or which rule it broke: one of `tokens.Refusal`.
    """

    code = "unauthorized"

    def __init__(self, message: str, *, code: str = "unauthorized") -> None:
        super().__init__(message)
        self.code = code


class StoreError(PoolError):
    """Something about the store."""

    code = "store"


class StoreUnavailable(StoreError):
    """The store did not answer; nothing was written."""

    code = "store_unavailable"
    retryable = True


class StoreOutcomeUnknown(StoreError):
    """The store's answer was lost: the write may have happened."""

    code = "store_outcome_unknown"
    retryable = True


class StoreCorrupt(StoreError):
    """The store holds something that is not this pool's."""

    code = "store_corrupt"


class RotationRefused(PoolError):
    """
    A rotation that somebody asked for was not done.

    Attributes:
        revision: the document's current revision, or None if there is none yet.
    """

    code = "rotation_refused"

    def __init__(self, message: str, *, revision: int | None = None) -> None:
        super().__init__(message)
        self.revision = revision


class RevisionConflict(RotationRefused):
    """The document is not at the revision the caller expected."""

    code = "revision_conflict"


class NoServer(RotationRefused):
    """There is no server to rotate to, or to place a new room on."""

    code = "no_server"


class ServerNotEligible(RotationRefused):
    """The named target is drained, down or misconfigured, and ``force`` was not given."""

    code = "server_not_eligible"


class UnknownServer(PoolError):
    """No server of the pool has that name."""

    code = "unknown_server"


class TooManyReports(PoolError):
    """
    Somebody reports more often than the pool listens.

    Attributes:
        retry_after: seconds after which the next report is heard.
    """

    code = "too_many_reports"
    retryable = True

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoAnswer(PoolError):
    """The pool, or one of its servers, did not answer."""

    code = "no_answer"
    retryable = True
