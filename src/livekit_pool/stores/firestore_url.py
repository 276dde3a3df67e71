"""Which document of which Firestore: the URL of ``LIVEKIT_POOL_STORE``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from ..exceptions import ConfigurationError

__all__ = ["DEFAULT_DATABASE", "Address", "escaped", "parse", "unescaped"]

DEFAULT_DATABASE: Final = "(default)"

# https://cloud.google.com/resource-manager/docs/creating-managing-projects: letters, digits and
# hyphens; old ones belong to a domain, as in example.com:project.
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]*")
_DATABASE = re.compile(r"\(default\)|[a-z][a-z0-9-]*")
# https://cloud.google.com/firestore/quotas#collections_documents_and_fields
_RESERVED = re.compile(r"\.\.?|__.*__", re.DOTALL)
_LONGEST_NAME = 1500
_FORM = (
    "a Firestore store is firestore://PROJECT/system/livekitPool, with the project's ID and the"
    " path of one document"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """
    The pool's document in a database of a project.

    Attributes:
        path: its collection and name, and so on in turn.
    """

    project: str
    path: tuple[str, ...]
    database: str = DEFAULT_DATABASE

    @property
    def url(self) -> str:
        """The URL, in one way of several to write it; it has no place for a secret."""
        path = "/".join(quote(segment, safe="") for segment in self.path)
        query = "" if self.database == DEFAULT_DATABASE else f"?database={self.database}"
        return f"firestore://{self.project}/{path}{query}"

    @property
    def resource(self) -> str:
        """The database, as Firestore's calls name it."""
        return f"projects/{self.project}/databases/{self.database}"

    @property
    def document(self) -> str:
        """The pool's document, as Firestore's calls name it."""
        return f"{self.resource}/documents/{'/'.join(self.path)}"

    def below(self, collection: str, name: str) -> str:
        """The document ``name``, any text, in a collection below the pool's document."""
        return f"{self.document}/{collection}/{escaped(name)}"


def parse(url: str) -> Address:
    """
    Read ``firestore://PROJECT/COLLECTION/DOCUMENT[?database=NAME]``.

    Raises:
        ConfigurationError: it is no such URL. The message quotes nothing of it.
    """
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    project, *path = place.split("/")
    if scheme.lower() != "firestore" or not _PROJECT.fullmatch(project):
        raise ConfigurationError(f"LIVEKIT_POOL_STORE: {_FORM}.")
    segments = tuple(unquote(segment) for segment in path)
    if len(segments) < 2 or len(segments) % 2 or not all(map(_is_name, segments)):
        raise ConfigurationError(
            f"LIVEKIT_POOL_STORE: {_FORM}; a path has collections and documents in turn, so an even"
            " number of names."
        )
    return Address(project=project, path=segments, database=_database(query))


def _database(query: str) -> str:
    if not query:
        return DEFAULT_DATABASE
    option, _, value = query.partition("=")
    database = unquote(value)
    if option != "database" or not _DATABASE.fullmatch(database):
        raise ConfigurationError(
            "LIVEKIT_POOL_STORE: firestore:// takes one option, ?database=NAME, the name of a"
            " Firestore database of the project."
        )
    return database


def _is_name(segment: str) -> bool:
    try:
        length = len(segment.encode())
    except UnicodeEncodeError:
        return False
    return 0 < length <= _LONGEST_NAME and "/" not in segment and not _RESERVED.fullmatch(segment)


def escaped(text: str) -> str:
    """Turn any text into a name that a document or a field may have; `unescaped` turns it back."""
    name = "".join(quote(char, safe="") if char in "/%\0" else char for char in text)
    if not name:
        return "%"
    if _RESERVED.fullmatch(name):
        return f"%{ord(name[0]):02X}{name[1:]}"
    return name


def unescaped(name: str) -> str:
    """Read what `escaped` wrote."""
    return "" if name == "%" else unquote(name)
