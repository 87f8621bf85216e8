"""Where publications go. A target's name is in the model; where it is, the environment says.

DBT_ONNX_SERVING_FILES=../predictions                    a folder, in place of `serving/` of the project
DBT_ONNX_SERVING_SHOP=postgresql://dbt:...@db/shop       a database, for the target "shop"
DBT_ONNX_SERVING_CACHE=rediss://:...@cache:6379/0        Redis or Valkey

Passwords may also stand where libpq looks for them: a file that PGPASSFILE names, or a service file.
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
    """A place for the publications of one name."""

    def locked(self) -> AbstractContextManager[None]:
        """Within, nobody else publishes there. Raises ServingError when somebody does."""

    def publications(self) -> Publications | None:
        """What is there; none before the first."""

    def can_build_on(self, manifest: Manifest) -> bool:
        """Whether an earlier publication is whole, so that only what changed need be written."""

    def write(
        self, publication: str, rows: RowsToPublish, *, base: Manifest | None
    ) -> tuple[int, str | None]:
        """Write a publication that nobody reads yet, by its id; returns its bytes, and the sha256 of its
        file, none where there is no file.
        """

    def switch(self, publications: Publications) -> None:
        """Let readers see these publications, from one moment to the next."""


def is_target_name(name: str) -> bool:
    """Whether a target can be called this: it is part of an environment variable's name."""
    return re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name) is not None


def open_target(target: str, publication: str, *, project: Path) -> Target:
    """A target for one publication. Raises ConfigError when the name can be none, when nothing says where
    the target is, or when what speaks to it is not installed.
    """
    if not is_publication_name(publication):
        raise ConfigError(
            f"{publication!r} cannot be the name of a publication",
            hint="it has letters, digits, '-' and '_' only",
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
    """Where a target is: a folder or a URL. Raises ConfigError when nothing says so."""
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
    """The folder that a target is; none where it is a server."""
    place = place_of(target, project=project)
    return None if system_of(place) else Path(place)


def names_at(target: str, *, project: Path) -> list[str]:
    """What is published at a target of files, by name. Raises ConfigError for others, and when nothing says
    where it is.
    """
    place = place_of(target, project=project)
    if system_of(place):
        raise ConfigError(
            f"target {target!r} is a server, where only a name can be looked for",
            hint="name what publish() is given as name",
        )
    return sorted(path.parent.name for path in Path(place).glob(f"*/{POINTER}"))


def publications_of(target: str, name: str, *, project: Path) -> Publications:
    """What a target has of one name. Raises ServingError when it has nothing."""
    found = open_target(target, name, project=project).publications()
    if found is None:
        raise ServingError(
            f"nothing is published as {name!r} at target {target!r}",
            hint="`dbt-onnx published` lists what is there; `dbt build` publishes",
        )
    return found


def unpublish(target: str, name: str, *, project: Path) -> tuple[Publications, Publications]:
    """Serve the publication before again. Returns what was served, and what is now."""
    # a folder that is not there yet would be made in order to be locked
    publications_of(target, name, project=project)
    place = open_target(target, name, project=project)
    with place.locked():
        before = publications_of(target, name, project=project)
        now = before.unpublished(at=utc_now())
        place.switch(now)
    return before, now
