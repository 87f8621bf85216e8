"""The places of publications: a folder, or a database at a URL.

A URL may contain a password. Errors and logs show URLs without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbt_onnx.serving.kinds import Stored
    from dbt_onnx.serving.manifest import Manifest, Publications

POSTGRES, REDIS = "postgres", "redis"
_PACKAGES = {POSTGRES: "psycopg", REDIS: "redis"}
SYSTEMS = {
    "postgresql": POSTGRES,
    "postgres": POSTGRES,
    "redis": REDIS,
    "rediss": REDIS,
    "valkey": REDIS,
    "valkeys": REDIS,
}
"""The scheme of a URL -> the system at that URL."""

_HOST = r"(?:\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9._%-]*)(?::[0-9]+)?"
_URL = re.compile(
    rf"(?P<scheme>[a-z]+)://(?:[^@/?#]*@)?(?P<place>{_HOST}(?:,{_HOST})*(?:/[^@?#]*)?)(?:\?[^@#]*)?"
)


class UnreadablePublicationError(Exception):
    """A publication is damaged or missing."""


class GonePublicationError(Exception):
    """A publication was removed while it was open, because newer ones have replaced it."""


Row = tuple[dict[str, Any], Mapping[str, Any]]
"""The outputs and the stamps of one row, each column name -> Python's value."""


class OpenedRows(Protocol):
    """The rows of one publication, which never change. Keys are given as stored values.

    Methods return None for a key without a row. They raise ServingError if the rows cannot be read, and
    GonePublicationError if the publication was removed.
    """

    def row(self, key: Sequence[Stored]) -> Row | None:
        """Return the row of one key."""

    def rows(self, keys: Sequence[Sequence[Stored]]) -> Sequence[Row | None]:
        """Return the rows of several keys, in the order of the keys."""

    def close(self) -> None:
        """Free the resources. No method may be called afterwards."""


class Source(Protocol):
    """A reader's access to the publications of one name in a folder or a database."""

    def pointer(self) -> object:
        """Return a value that changes when another publication is served; None if it cannot be read."""

    def publications(self) -> Publications:
        """Return the publications. Raises ServingError if there are none, or if they cannot be read."""

    def open(self, manifest: Manifest) -> OpenedRows:
        """Open one publication. Raises UnreadablePublicationError if it is damaged or missing."""

    def close(self) -> None:
        """Free the resources. No method may be called afterwards."""


def system_of(place: str) -> str | None:
    """Return the system at a place: "postgres", "redis", or None for a folder.

    Raises ConfigError for a URL with another scheme, and for one that cannot be parsed.
    """
    scheme, colon, _ = place.partition("://")
    if not colon:
        return None
    if scheme not in SYSTEMS:
        # name the scheme only: the rest may contain a password
        named = repr(scheme) if re.fullmatch(r"[a-z+]{1,20}", scheme) else "this"
        raise ConfigError(
            f"{named} is not a supported URL scheme for publications; supported are {', '.join(SYSTEMS)}",
            hint="give a URL with a supported scheme, or a folder",
        )
    if not _URL.fullmatch(place):
        raise unreadable_url(place)
    return SYSTEMS[scheme]


def shown(place: str) -> str:
    """Return the place without user, password and parameters, to show it in messages."""
    if "://" not in place:
        return place
    found = _URL.fullmatch(place)
    return (
        f"{found['scheme']}://{found['place']}" if found else f"{place.partition('://')[0]}://..."
    )


def unreadable_url(place: str) -> ConfigError:
    """Return the error for a URL that cannot be parsed. Raise it without a cause, which would show the password."""
    return ConfigError(
        f"the URL {shown(place)} is not valid",
        hint="write it as scheme://user:password@host:port/database, and percent-encode all characters of "
        "the password except letters and digits, such as %40 for @",
    )


def not_installed(system: str) -> ConfigError:
    """Return the error for a database whose client package cannot be imported."""
    return ConfigError(
        f"publications in {system} need the package {_PACKAGES[system]}, which is not installed",
        hint=f"pip install 'dbt-onnx[{system}]'",
    )
