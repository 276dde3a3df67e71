"""
What Redis refuses, and what a caller is told of it.

No text of the server's is passed on: its sentences name users and commands.
"""

from __future__ import annotations

import re
import ssl

from redis.exceptions import InvalidResponse, RedisError, ResponseError

from ..exceptions import ConfigurationError, StoreCorrupt, StoreError, StoreUnavailable

__all__ = [
    "code_of",
    "connection_refused",
    "is_answer",
    "misconfigured",
    "refusal",
    "turns_away",
]

# What an answer begins with, as https://redis.io/docs/latest/develop/reference/protocol-spec/ has
# it under "Simple errors" -> what that means. After none of these has anything been written.
_REFUSALS = {
    "READONLY": "is a replica, which takes no writes",
    "LOADING": "is still reading its data",
    "MASTERDOWN": "is a replica that has lost its primary",
    "OOM": "has no memory left",
    "MISCONF": "cannot save its data, and so takes no writes",
    "NOREPLICAS": "has too few replicas, and so takes no writes",
    "BUSY": "is busy with a script",
    "CLUSTERDOWN": "belongs to a cluster that is down",
    "TRYAGAIN": "belongs to a cluster that is being changed",
    "UNKILLABLE": "is busy with a script",
}
# The same where the cause is the URL or the user's rights: no program can mend it.
_MISCONFIGURED = {
    "WRONGPASS": "refuses the user name or the password",
    "NOAUTH": "asks for a password",
    "NOPERM": "does not let this user do what a pool needs (the rights are in docs/settings.md)",
    "MOVED": "is one of a Redis Cluster, of which the keys of this pool are on another",
    "CROSSSLOT": "is something before a Redis Cluster that cannot run a pool's scripts",
}
# Those without a code of their own, by what stands in them.
_MISCONFIGURED_TEXTS = {
    "DB index is out of range": "has no database of that number",
    "invalid DB index": "has no database of that number",
    "SELECT is not allowed in cluster mode": "is one of a Redis Cluster, which has database 0 only",
    "unknown command": "does not know a command that a pool needs: Redis 6 or newer is needed",
}
_TEXTS = {"max number of clients reached": "has too many clients"}
# After these the connection leads to somebody who will not take the next write either, and
# another one may lead elsewhere: to the new primary behind a name or a balancer.
_TURNED_AWAY = {"READONLY", "MASTERDOWN", "LOADING", "NOAUTH"}
# A connection that was cut says nothing about the setting.
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_CODE = re.compile(r"[A-Z]+\b")


def is_answer(error: RedisError) -> bool:
    """Whether it is what Redis said, and not what became of the connection."""
    return isinstance(error, ResponseError) or error.status_code is not None


def code_of(error: RedisError) -> str:
    """The code at the beginning of an answer; ``ERR`` where it has none of its own."""
    if error.status_code and error.status_code != "ERR":
        return error.status_code
    text = str(error)
    # Before Redis 7 what a script's command was refused with stands inside of the sentence.
    for code in (*_REFUSALS, "WRONGTYPE", "NOPERM"):
        if re.search(rf"(^|[:\s]-?){code} ", text):
            return code
    found = _CODE.match(text)
    return found.group() if found else "ERR"


def turns_away(error: RedisError) -> bool:
    """Whether a new connection may find somebody better."""
    return code_of(error) in _TURNED_AWAY


def refusal(error: RedisError, place: str) -> StoreError:
    """
    What to tell of an answer that is an error; nothing was written.

    Args:
        place: the URL without user and password.
    """
    code, text = code_of(error), str(error)
    means = (
        _REFUSALS.get(code)
        or _MISCONFIGURED.get(code)
        or _by_text(text, _MISCONFIGURED_TEXTS)
        or _by_text(text, _TEXTS)
    )
    if means:
        return StoreUnavailable(f"The Redis {place} (LIVEKIT_POOL_STORE) {means}.")
    if code == "WRONGTYPE" or "script" in text:
        return StoreCorrupt(
            f"What the Redis {place} (LIVEKIT_POOL_STORE) holds under this prefix is not a pool's."
        )
    return StoreUnavailable(f"The Redis {place} (LIVEKIT_POOL_STORE) refuses with {code}.")


def misconfigured(error: RedisError, place: str) -> ConfigurationError | None:
    """What is wrong with the setting, if that is what the error says; `place` as in `refusal`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _wrong(place, "shows a certificate that is not to be trusted (ssl_ca_certs)")
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT):
            return _wrong(place, "does not speak TLS, or asks for a certificate (ssl_certfile)")
        if isinstance(cause, InvalidResponse):
            return _wrong(place, "is something else: it does not answer as a Redis does")
        cause = cause.__cause__ or cause.__context__
    if not is_answer(error):
        return None
    means = _MISCONFIGURED.get(code_of(error)) or _by_text(str(error), _MISCONFIGURED_TEXTS)
    return _wrong(place, means) if means else None


def connection_refused(error: Exception, place: str) -> StoreUnavailable:
    """What to tell when no connection comes about; nothing was sent."""
    if isinstance(error, RedisError):
        if wrong := misconfigured(error, place):
            return StoreUnavailable(str(wrong))
        if is_answer(error):
            return StoreUnavailable(str(refusal(error, place)))
    why = "does not answer" if isinstance(error, TimeoutError) else "cannot be reached"
    return StoreUnavailable(f"The Redis {place} (LIVEKIT_POOL_STORE) {why}.")


def _wrong(place: str, means: str) -> ConfigurationError:
    return ConfigurationError(f"LIVEKIT_POOL_STORE: the Redis {place} {means}.")


def _by_text(text: str, table: dict[str, str]) -> str | None:
    return next((means for part, means in table.items() if part in text), None)
