"""Where publications are: a folder, or a database that a URL names.

A URL may have a password. What is shown of a URL, in an error or a log, never has it.
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
"""The scheme of a URL, and what is there."""

_HOST = r"(?:\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9._%-]*)(?::[0-9]+)?"
_URL = re.compile(
    rf"(?P<scheme>[a-z]+)://(?:[^@/?#]*@)?(?P<place>{_HOST}(?:,{_HOST})*(?:/[^@?#]*)?)(?:\?[^@#]*)?"
)


class UnreadablePublicationError(Exception):
    """A publication is damaged, or not there."""


class GonePublicationError(Exception):
    """A publication is no longer kept: newer ones came while it was open."""


Row = tuple[dict[str, Any], Mapping[str, Any]]
"""The outputs of an entity and its stamps, by name, with Python's values."""


class OpenedRows(Protocol):
    """The rows of one publication, which is never written again.

    There is none when no row has the key. Raises ServingError when the rows cannot be read, and
    GonePublicationError.
    """

    def row(self, key: Sequence[Stored]) -> Row | None:
        """The row of one key, as it is stored."""

    def rows(self, keys: Sequence[Sequence[Stored]]) -> Sequence[Row | None]:
        """The rows of several keys, in their order."""

    def close(self) -> None:
        """Nothing is read after this."""


class Source(Protocol):
    """What a reader asks of the place where the publications of one name are."""

    def pointer(self) -> object:
        """What changes when there is another publication; none when that cannot be told."""

    def publications(self) -> Publications:
        """Raises ServingError when there are none, or when they cannot be read."""

    def open(self, manifest: Manifest) -> OpenedRows:
        """Raises UnreadablePublicationError when it is damaged."""

    def close(self) -> None:
        """Nothing is read after this."""


def system_of(place: str) -> str | None:
    """What is there: "postgres", "redis", or none for a folder. Raises ConfigError for any other URL, and
    for one whose password cannot be told from the rest.
    """
    scheme, colon, _ = place.partition("://")
    if not colon:
        return None
    if scheme not in SYSTEMS:
        # the whole may have a password
        named = repr(scheme) if re.fullmatch(r"[a-z+]{1,20}", scheme) else "this"
        raise ConfigError(
            f"{named} is no scheme of a place for publications; there are {', '.join(SYSTEMS)}",
            hint="give such a URL, or a folder",
        )
    if not _URL.fullmatch(place):
        raise unreadable_url(place)
    return SYSTEMS[scheme]


def shown(place: str) -> str:
    """The place without user, password and parameters."""
    if "://" not in place:
        return place
    found = _URL.fullmatch(place)
    return (
        f"{found['scheme']}://{found['place']}" if found else f"{place.partition('://')[0]}://..."
    )


def unreadable_url(place: str) -> ConfigError:
    """What to raise for a URL that cannot be read. It has no cause, which would show the password."""
    return ConfigError(
        f"the URL {shown(place)} cannot be read",
        hint="write it as scheme://user:password@host:port/database, and other characters than letters "
        "and digits of the password as %40 and the like",
    )


def not_installed(system: str) -> ConfigError:
    """What to raise when the package that speaks to a database cannot be imported."""
    return ConfigError(
        f"{_PACKAGES[system]} is not installed, without which there is no {system} target",
        hint=f"pip install 'dbt-onnx[{system}]'",
    )
