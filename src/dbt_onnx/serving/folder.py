"""The publications that a service serves: `serving/` has a subfolder per name, such as `serving/churn/`."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from dbt_onnx.errors import ConfigError, ServingError
from dbt_onnx.serving.lookup import CHECK_SECONDS, Predictions, utc_now
from dbt_onnx.serving.manifest import POINTER, is_publication_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from dbt_onnx.serving.manifest import Manifest
    from dbt_onnx.serving.real_time import RealTime

_LOG = logging.getLogger("dbt_onnx")
_UNREADABLE = "it is damaged; the service's log has the reason"
_NO_TIME = timedelta()
MAX_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """The publication that is served under a name.

    manifest    the manifest of the publication that answers; None if none can be read
    age         time since the project's clock in the run that published it
    problem     why it cannot be relied on: it is damaged, or older than `stale_after`; None if it can be
    """

    name: str
    manifest: Manifest | None = None
    age: timedelta | None = None
    problem: str | None = None


class ServingFolder:
    """The publications below a folder. `scan` finds new ones. Safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], datetime] = utc_now,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        """`clock` returns UTC without a zone. `max_seconds` is the longest time for scoring one row.

        Raises ConfigError if the folder is itself a publication.
        """
        if (folder / POINTER).exists():
            raise ConfigError(
                f"{folder} is the folder of one publication, not a folder of publications",
                hint=f"give the folder above: {folder.parent}",
            )
        self.folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._next_scan = time.monotonic()
        self._open: dict[str, Predictions] = {}
        self._unreadable: dict[str, str] = {}
        self._damaged: dict[str, str] = {}
        self._max_seconds = max_seconds
        self._real_time: dict[str, RealTime] = {}
        self.scan()

    def get(self, name: str) -> Predictions | None:
        """Return the reader of a name; None if `scan` has not found a publication of that name."""
        return self._open.get(name)

    def names(self) -> list[str]:
        """Return the names for which `scan` has found a publication."""
        return sorted(self._open)

    def real_time(self, name: str) -> RealTime:
        """Return the object that scores on request for a name."""
        with self._lock:
            if name not in self._real_time:
                # imported late, because it needs pyarrow, which only scoring requires
                from dbt_onnx.serving.real_time import RealTime

                self._real_time[name] = RealTime(self.folder / name, max_seconds=self._max_seconds)
            return self._real_time[name]

    def now(self) -> datetime:
        """Return the current time by the service's clock."""
        return self._clock()

    def is_unreadable(self, name: str) -> bool:
        """Return whether the last `scan` found the name, and failed to read its publications."""
        return name in self._unreadable

    def scan(self) -> None:
        """Open new publications: those of new names, and newer ones of names that are open already.

        Does nothing if the last scan was a moment ago, so that requests for unknown names cannot keep
        the service busy.
        """
        with self._lock:
            begun = time.monotonic()
            if begun < self._next_scan:
                return
            names = {path.parent.name for path in self.folder.glob(f"*/{POINTER}")}
            unreadable = {}
            for name in sorted({*filter(is_publication_name, names), *self._open}):
                try:
                    if name in self._open:
                        self._open[name].refresh()
                    else:
                        self._open[name] = Predictions.open(self.folder / name, clock=self._clock)
                except ServingError as error:
                    unreadable[name] = error.message
                    if self._unreadable.get(name) != error.message:
                        _LOG.error("%s: %s", name, error.message)
            self._unreadable = unreadable
            took = time.monotonic() - begun
            # every scan computes the sha256 of a damaged file again, which takes seconds for a large one
            self._next_scan = begun + took + max(CHECK_SECONDS, 10 * took)

    def note_damage(self, name: str) -> None:
        """Remember that the publication that answers now for a name turned out to be damaged."""
        self._damaged[name] = self._open[name].manifest.id

    def served(self) -> list[Served]:
        """Return what is served now, sorted by name."""
        found = [Served(name=name, problem=_UNREADABLE) for name in self._unreadable]
        found += [self._describe(name, each) for name, each in list(self._open.items())]
        return sorted(found, key=lambda each: each.name)

    def close(self) -> None:
        """Write the answers that wait for the request logs, and close all files."""
        for real_time in self._real_time.values():
            real_time.close()
        for predictions in self._open.values():
            predictions.close()

    def _describe(self, name: str, predictions: Predictions) -> Served:
        manifest, fault = predictions.manifest, predictions.fault
        age = max(self._clock() - manifest.clock, _NO_TIME)
        problem = None
        if fault is not None:
            problem = f"a newer publication cannot be served: {_UNREADABLE}"
        elif self._damaged.get(name) == manifest.id:
            problem = _UNREADABLE
        elif manifest.stale_after is not None and age.total_seconds() > manifest.stale_after:
            problem = f"it is {age} old; the limit is {timedelta(seconds=manifest.stale_after)}"
        return Served(name=name, manifest=manifest, age=age, problem=problem)
