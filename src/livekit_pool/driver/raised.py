"""
Raised: what an exception of an SDK says, in the words of `core.faults.classify`.

Nothing of an SDK is imported: a program that reports has the one that raised, in the version that
it likes. What is read are the attributes that they have in common.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Final

from livekit.protocol import models

from ..core.faults import Blame, Surface, classify

__all__ = ["Raised"]

LONGEST_TEXT: Final = 4096
"""Characters of an error's text that are looked at; its beginning says what it is."""

_CAUSES: Final = 5
"""How many exceptions behind an exception are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """
    The three things that a classification goes by.

    Attributes:
        status: an HTTP status, if there is one.
        code: a Twirp code, the name of a disconnect reason or of a connection error; or empty.
        text: what it says. It may quote anything, so it is classified and never shown.
    """

    status: int | None = None
    code: str = ""
    text: str = field(default="", repr=False)

    @classmethod
    def of(cls, error: BaseException | str, code: str | int | None = None) -> Raised:
        """
        What ``error`` says, and the exceptions behind it; a ``code`` beside it says more.

        ``TwirpError`` of ``livekit.api`` has ``code``, ``status`` and ``message``, ``ConnectError``
        of ``livekit.rtc`` a ``message`` (which is not its ``str``), aiohttp's errors a ``status``,
        and errors of the operating system a number. A ``code`` that is a number is an HTTP status,
        or that of a ``DisconnectReason``: those end far below 100. Where the text itself blames a
        server, such a small number counts for nothing: livekit-client's ``ConnectionError`` has the
        ``code`` 1 whatever happened, and numbers its reasons otherwise (room/errors.ts). Its
        ``reasonName`` is of as little worth; `core.faults.TABLE` asks the text before it.
        """
        status, name = _number(code), _disconnected(code) or _name(code)
        if isinstance(error, str):
            text = error[:LONGEST_TEXT]
            if isinstance(code, int) and _blames_a_server(text):
                name = ""
            return cls(status=status, code=name, text=text)
        texts: list[str] = []
        seen: BaseException | None = error
        for _ in range(_CAUSES):
            if seen is None:
                break
            status = status or _number(getattr(seen, "status", None))
            name = name or _name(getattr(seen, "code", None))
            texts.append(_text(seen))
            seen = seen.__cause__ or seen.__context__
        return cls(status=status, code=name, text=": ".join(filter(None, texts))[:LONGEST_TEXT])


def _number(value: object) -> int | None:
    """An HTTP status, also of `http.HTTPStatus`."""
    return int(value) if isinstance(value, int) and 100 <= value < 600 else None


def _name(value: object) -> str:
    return value[:LONGEST_TEXT] if isinstance(value, str) else ""


def _disconnected(value: object) -> str:
    """The name of a ``DisconnectReason``, which SDKs hand on as a number."""
    known = models.DisconnectReason.DESCRIPTOR.values_by_number
    return known[value].name if type(value) is int and value in known else ""


def _blames_a_server(text: str) -> bool:
    return classify(Surface.CLIENT, text=text).blame is Blame.SERVER


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        # The words that the operating system has for it may be of any language.
        name = errno.errorcode.get(error.errno, "")
        if name in _WORDS:
            return _WORDS[name]
    if isinstance(error, TimeoutError):
        return "timed out"
    message = getattr(error, "message", None)
    return message if isinstance(message, str) else str(error)


_WORDS: Final = {
    "ECONNREFUSED": "connection refused",
    "ECONNRESET": "connection reset",
    "ETIMEDOUT": "timed out",
}
