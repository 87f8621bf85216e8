"""Run `dbt build` whenever files arrive, in one process that parses the project only when it changes."""

from __future__ import annotations

import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbt_onnx.errors import ConfigError
from dbt_onnx.project.dbt_project import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dbt_onnx.project.dbt_project import DbtProject

LONGEST_WAIT = 600.0
_FOLDERS = ("model_paths", "seed_paths", "macro_paths", "test_paths", "snapshot_paths")
_FILES = ("dbt_project.yml", "packages.yml", "dependencies.yml", "profiles.yml", "selectors.yml")

Seen = dict[str, tuple[int, int, int]]
"""{path: modification time, size and inode}: a value changes if the file is written or replaced."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """One `dbt build`.

    arrived   files that are new or changed since the last successful build
    nodes     how many nodes and tests have a result
    failed    {node: why it failed}, without skipped nodes
    error     why the build failed, if no node did
    """

    arrived: tuple[str, ...]
    seconds: float
    nodes: int = 0
    failed: Mapping[str, str]
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        return not self.failed and self.error is None


class Watch:
    """Looks for files, and builds if they differ from those of the last successful build.

    open_project   called to open the project, at first and whenever its own files have changed
    select         the selectors of `dbt build`; if empty, everything is built
    patterns       glob patterns of the files that arrive, below the project's folder unless absolute; if
                   empty, every look builds
    every          seconds between two looks

    The next look finds files that arrive during a build. Raises ConfigError if dbt cannot read the
    project when the watch is created.
    """

    def __init__(
        self,
        open_project: Callable[[], DbtProject],
        *,
        select: Sequence[str],
        patterns: Sequence[str],
        every: float,
    ) -> None:
        self._open_project = open_project
        self._select = ["--select", *select] if select else []
        self._patterns = patterns
        self._every = every
        self._failures = 0
        self._built: Seen | None = None
        self._project = open_project()
        self._manifest = self._project.manifest
        self._parsed = self._files_of_project()

    @property
    def wait(self) -> float:
        """Seconds until the next look: doubled by each failed build in a row, up to `LONGEST_WAIT`."""
        doubled = self._every * 2.0 ** min(self._failures, 30)
        return max(self._every, min(doubled, LONGEST_WAIT))

    def look(self) -> Build | None:
        """Build if the files have changed, the last build failed, or there are no patterns; else return None."""
        files = _seen(self._project.root, self._patterns)
        if self._patterns and files == self._built and not self._failures:
            return None
        before = self._built or {}
        arrived = tuple(sorted(path for path, seen in files.items() if before.get(path) != seen))
        build = self._build(arrived)
        if build.succeeded:
            self._built, self._failures = files, 0
        else:
            self._failures += 1
        return build

    def _build(self, arrived: tuple[str, ...]) -> Build:
        began = time.monotonic()
        try:
            self._parse_again_if_changed()
            done = self._project.invoke("build", *self._select, manifest=self._manifest)
        except ConfigError as error:
            seconds = time.monotonic() - began
            return Build(arrived=arrived, seconds=seconds, failed={}, error=error.message)
        results = getattr(done.result, "results", None) or []
        failed = {
            result.node.name: one_line(result.message)
            for result in results
            if str(result.status) in {"error", "fail", "runtime error"}
        }
        is_explained = done.success or failed
        return Build(
            arrived=arrived,
            seconds=time.monotonic() - began,
            nodes=len(results),
            failed=failed,
            error=None if is_explained else one_line(done.exception or "dbt gave no reason"),
        )

    def _parse_again_if_changed(self) -> None:
        files = self._files_of_project()
        if files != self._parsed:
            project = self._open_project()
            self._manifest = project.manifest
            self._project, self._parsed = project, files

    def _files_of_project(self) -> Seen:
        project, config = self._project, self._project.config
        folders = {folder for name in _FOLDERS for folder in getattr(config, name)}
        patterns = [*(f"{folder}/**/*" for folder in folders), *_FILES]
        return _seen(project.root, patterns)


def _seen(root: Path, patterns: Iterable[str]) -> Seen:
    found: Seen = {}
    for pattern in patterns:
        place = root / pattern  # an absolute pattern replaces the root
        for path in Path(place.anchor).glob(str(place.relative_to(place.anchor))):
            with suppress(OSError):  # the file has just been removed
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found[str(path)] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found
