"""The targets of publications. A model lists targets by name; environment variables hold their places.

DBT_ONNX_SERVING_FILES=../predictions                    a folder, in place of `serving/` of the project
DBT_ONNX_SERVING_SHOP=postgresql://dbt:...@db/shop       a database, for the target "shop"
DBT_ONNX_SERVING_CACHE=rediss://:...@cache:6379/0        Redis or Valkey, for the target "cache"

Postgres passwords may also be in the files that libpq reads: the one that PGPASSFILE names, or a service file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dbt_onnx.errors import ConfigError, ServingError
from dbt_onnx.serving.files import Files
from dbt_onnx.serving.lookup import utc_now
from dbt_onnx.serving.manifest import POINTER, is_publication_name
from dbt_onnx.serving.places import POSTGRES, not_installed, system_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dbt_onnx.engines.base import RowsToPublish
    from dbt_onnx.serving.manifest import Manifest, Publications

FILES = "files"
FOLDER = "serving"
_PREFIX = "DBT_ONNX_SERVING_"


class Target(Protocol):
    """A publisher's access to the publications of one name in a folder or a database."""

    def locked(self) -> AbstractContextManager[None]:
        """Lock the target, so that nobody else publishes there. Raises ServingError if somebody does."""

    def publications(self) -> Publications | None:
        """Return the publications; None before the first."""

    def can_build_on(self, manifest: Manifest) -> bool:
        """Return whether an earlier publication is undamaged, so that only changed rows need be written."""

    def write(
        self, publication: str, rows: RowsToPublish, *, base: Manifest | None
    ) -> tuple[int, str | None]:
        """Write the publication with this id, which nobody reads yet. With `base`, only the changed rows are sent.

        Return its size in bytes, and the sha256 of its file, None if it is not a file.
        """

    def switch(self, publications: Publications) -> None:
        """Switch readers to these publications atomically."""


def is_target_name(name: str) -> bool:
    """Return whether a target can have this name, which becomes part of an environment variable's name."""
    return re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name) is not None


def open_target(target: str, publication: str, *, project: Path) -> Target:
    """Open a target for the publications of one name.

    Raises ConfigError if the name is not valid, if the target's environment variable is not set, or if the client
    package of the database is not installed.
    """
    if not is_publication_name(publication):
        raise ConfigError(
            f"{publication!r} cannot be the name of a publication",
            hint="a name has letters, digits, '-' and '_' only",
        )
    place = place_of(target, project=project)
    system = system_of(place)
    if system is None:
        return Files(Path(place) / publication)
    try:
        if system == POSTGRES:
            from dbt_onnx.serving.postgres_target import Postgres

            return Postgres(place, publication)
        from dbt_onnx.serving.redis_target import Redis

        return Redis(place, publication)
    except ImportError as error:
        raise not_installed(system) from error


def place_of(target: str, *, project: Path) -> str:
    """Return the place of a target: a folder or a URL. Raises ConfigError if its variable is not set."""
    variable = _PREFIX + target.upper()
    place = os.environ.get(variable)
    if place is None and target == FILES:
        place = str(project / FOLDER)
    if not place:
        raise ConfigError(
            f"target {target!r} is not known: {variable} is not set",
            hint=f"set {variable}, where dbt runs, to a folder or to the URL of a Postgres or Redis server",
        )
    return place if system_of(place) else str(project / place)


def folder_at(target: str, *, project: Path) -> Path | None:
    """Return the folder of a target; None if the target is a server."""
    place = place_of(target, project=project)
    return None if system_of(place) else Path(place)


def names_at(target: str, *, project: Path) -> list[str]:
    """Return the names that are published at a target that is a folder. Raises ConfigError if the target is a server,
    or if its variable is not set.
    """
    place = place_of(target, project=project)
    if system_of(place):
        raise ConfigError(
            f"target {target!r} is a server, which cannot list its publications",
            hint="give the `name` argument of publish()",
        )
    return sorted(path.parent.name for path in Path(place).glob(f"*/{POINTER}"))


def publications_of(target: str, name: str, *, project: Path) -> Publications:
    """Return the publications of one name at a target. Raises ServingError if there are none."""
    found = open_target(target, name, project=project).publications()
    if found is None:
        raise ServingError(
            f"nothing is published as {name!r} at target {target!r}",
            hint="`dbt-onnx published` lists the publications; `dbt build` publishes",
        )
    return found


def unpublish(target: str, name: str, *, project: Path) -> tuple[Publications, Publications]:
    """Serve the previous publication again. Return the publications before and after.

    Raises ServingError if nothing is published, or if there is no previous publication.
    """
    # checked before the lock, because `locked` would create a folder that does not exist
    publications_of(target, name, project=project)
    place = open_target(target, name, project=project)
    with place.locked():
        before = publications_of(target, name, project=project)
        now = before.unpublished(at=utc_now())
        place.switch(now)
    return before, now
