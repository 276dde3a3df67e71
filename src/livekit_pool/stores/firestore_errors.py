"""
What a failed call to Firestore means: gRPC's status codes -> the errors of a store.

    nothing was written, and never will be     Refused     (a setting is wrong)
    a precondition does not hold               Conflict    (somebody else wrote)
    a lock was held, or not enough quota       Busy, StoreUnavailable
    all else                                   unavailable for a read, unknown for a write
"""

from __future__ import annotations

from typing import Final

from google.api_core.exceptions import GoogleAPICallError
from grpc import StatusCode

from ..exceptions import StoreError, StoreOutcomeUnknown, StoreUnavailable
from .firestore_url import Address

__all__ = ["Busy", "Conflict", "Refused", "after_read", "after_write"]


class Conflict(Exception):
    """A write was not done: what it replaces is not what it expected. Never leaves the store."""


class Busy(StoreUnavailable):
    """A write was not done, because others write to the same documents."""


class Refused(StoreUnavailable):
    """Firestore says no, and will until a setting is changed: on either side."""


# In a commit these are about a document, not about the database.
_CONFLICTS: Final = (
    StatusCode.FAILED_PRECONDITION,
    StatusCode.ALREADY_EXISTS,
    StatusCode.NOT_FOUND,
)


def after_read(error: GoogleAPICallError, address: Address) -> StoreError:
    """The error of a store for that of a call which wrote nothing."""
    code = error.grpc_status_code
    match code:
        case StatusCode.PERMISSION_DENIED:
            return Refused(
                # Google answers the same where there is no such project.
                f"LIVEKIT_POOL_STORE: Firestore of project {address.project} refuses the pool's"
                " account: give it the role roles/datastore.user, and enable the Firestore API; or"
                " there is no project of that ID (its name may be another)."
            )
        case StatusCode.UNAUTHENTICATED:
            return Refused(
                "LIVEKIT_POOL_STORE: Google does not take the application default credentials:"
                " set GOOGLE_APPLICATION_CREDENTIALS to a valid key file of a service account."
            )
        case StatusCode.NOT_FOUND:
            return Refused(
                f"LIVEKIT_POOL_STORE: project {address.project} has no Firestore database"
                f" {address.database}: create it, or correct the project or ?database= in the URL."
            )
        case StatusCode.FAILED_PRECONDITION | StatusCode.INVALID_ARGUMENT:
            return Refused(
                f"LIVEKIT_POOL_STORE: database {address.database} of project {address.project}"
                " cannot keep the pool's document: it must be a Firestore database in native mode."
            )
        case StatusCode.RESOURCE_EXHAUSTED:
            return StoreUnavailable(
                f"Firestore's quota of project {address.project} is used up: see its usage page."
            )
    name = code.name if code else type(error).__name__
    return StoreUnavailable(f"Firestore does not answer ({name}).")


def after_write(error: GoogleAPICallError, address: Address) -> StoreError | Conflict:
    """The error of a store for that of a commit that had a connection."""
    code = error.grpc_status_code
    if code in _CONFLICTS:
        return Conflict()
    if code is StatusCode.ABORTED:
        return Busy("Firestore has too many writes to the pool's document at once.")
    read = after_read(error, address)
    if isinstance(read, Refused) or code is StatusCode.RESOURCE_EXHAUSTED:
        return read
    name = code.name if code else type(error).__name__
    return StoreOutcomeUnknown(f"Firestore's answer to a write was lost ({name}).")
