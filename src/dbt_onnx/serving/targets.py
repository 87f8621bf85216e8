"""Where publications go. A target's name is in the model; where it is, the environment says.

DBT_ONNX_SERVING_FILES=/srv/predictions     a folder, in place of `serving/` of the project
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Protocol

from dbt_onnx.errors import ConfigError
from dbt_onnx.serving.files import Files

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

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

    def write(self, name: str, rows: RowsToPublish, *, base: Manifest | None) -> tuple[int, str]:
        """Write a publication that nobody reads yet; returns its bytes and sha256."""

    def switch(self, publications: Publications) -> None:
        """Let readers see these publications, from one moment to the next."""


def is_target_name(name: str) -> bool:
    """Whether a target can be called this: it is part of an environment variable's name."""
    return re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name) is not None


def open_target(target: str, publication: str, *, project: Path) -> Target:
    """A target for one publication. Raises ConfigError when nothing says where it is."""
    variable = _PREFIX + target.upper()
    place = os.environ.get(variable)
    if place is None and target == FILES:
        place = str(project / FOLDER)
    if not place:
        raise ConfigError(
            f"target {target!r} of publish() is not known: {variable} is not set",
            hint=f"set {variable} to a folder where dbt runs",
        )
    return Files(project / place / publication)
