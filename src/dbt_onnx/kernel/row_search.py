"""Finding the rows on which a model fails, so that the others are scored."""

from __future__ import annotations

import re
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from dbt_onnx.errors import DataError, ModelCrashError, ModelError, ScoringError
from dbt_onnx.kernel.tensors import joined, rows_of

if TYPE_CHECKING:
    from dbt_onnx.kernel.session import Scorer
    from dbt_onnx.kernel.tensors import Feeds

MODEL_ERROR, MODEL_CRASHED = "model_error", "model_crashed"
MAX_CRASHES = 100
"""Rows of a run that may kill the process: each costs a second or so."""

# how many rows are tried to tell whether a model fails on all; fewer where each costs a process
_PROBES = (8, 3)
_REASON_LENGTH = 200
_PREFIX = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Non-zero status code returned while running )?"
)
# a number that may be a value of the row; digits within a name stay. Without such numbers, rows that
# fail alike have the same reason
_NUMBER = re.compile(r"(?<![\w.])-?\d+(\.\d+)?(e[+-]?\d+)?(?!\w)", re.IGNORECASE)


class RowSearch:
    """Runs a model, and finds the rows on which it fails by halving. Several threads may use it.

    `rows` is how many rows the run will feed, `max_rows` on how many of them the model may fail (none:
    on all). There is no search when the model fails on all rows of a small sample, and may not fail
    on all rows of the run.
    """

    def __init__(self, *, rows: int | None = None, max_rows: int | None = None) -> None:
        self._rows = rows
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._has_scored = False
        self.calls = 0
        self.found: Counter[str] = Counter()

    def run(self, scorer: Scorer, feeds: Feeds) -> tuple[list[Any], dict[int, str]]:
        """Outputs for the rows on which the model succeeds, in order, and {position: reason} of the others.

        Raises ModelError when the model fails on every row, DataError when it fails on more rows than
        it may, and any other error of `scorer.run`.
        """
        try:
            outputs = scorer.run(feeds)
        except ModelError as error:
            self._refuse_broken(scorer, feeds, error)
            return self._search(scorer, feeds, error)
        self._has_scored = True
        return outputs, {}

    def _search(
        self, scorer: Scorer, feeds: Feeds, first: ModelError
    ) -> tuple[list[Any], dict[int, str]]:
        pieces: list[list[Any]] = []
        reasons: dict[int, str] = {}
        # ranges still to run, the next one last, each with its error if it has failed already
        ranges: list[tuple[int, int, ModelError | None]] = [(0, rows_of(feeds), first)]
        while ranges:
            start, stop, error = ranges.pop()
            if start == stop:
                continue
            if error is None:
                try:
                    pieces.append(self._call(scorer, feeds, start, stop))
                    continue
                except ModelError as raised:
                    error = raised
            row = getattr(error, "row", None)
            if stop - start == 1 or row is not None:
                row = start + (row or 0)
                reasons[row] = self._rejected(error)
                ranges += [(row + 1, stop, None), (start, row, None)]
            else:
                middle = (start + stop) // 2
                ranges += [(middle, stop, None), (start, middle, None)]
        return [joined(outputs) for outputs in zip(*pieces, strict=True)], reasons

    def _call(self, scorer: Scorer, feeds: Feeds, start: int, stop: int) -> list[Any]:
        with self._lock:
            self.calls += 1
        outputs = scorer.run({name: values[start:stop] for name, values in feeds.items()})
        self._has_scored = True
        return outputs

    def _refuse_broken(self, scorer: Scorer, feeds: Feeds, error: ModelError) -> None:
        """Raise the error when the model fails on each of a few rows, and may not fail on all."""
        may_fail_on_all = self._max_rows is None or (self._rows or 0) <= self._max_rows
        if self._has_scored or may_fail_on_all:
            return
        probes = _PROBES[isinstance(error, ModelCrashError)]
        for row in np.unique(np.linspace(0, rows_of(feeds) - 1, probes).astype(int)).tolist():
            with suppress(ModelError):
                self._call(scorer, feeds, row, row + 1)
                return
        raise error

    def _rejected(self, error: ModelError) -> str:
        is_crash = isinstance(error, ModelCrashError)
        reason = MODEL_CRASHED if is_crash else f"{MODEL_ERROR}:{_told(error.said)}"
        with self._lock:
            self.found[reason] += 1
            rows, crashes = self.found.total(), self.found[MODEL_CRASHED]
        if self._max_rows is not None and rows > self._max_rows:
            raise DataError(
                f"the model fails on more than {self._max_rows:,} of {self._rows or 0:,} rows, all that "
                f"may be rejected: {error.said}",
                hint="mend these rows upstream, or the model, or let more be rejected: "
                "max_rejected_fraction in score()",
            ) from error
        if crashes > MAX_CRASHES:
            raise ScoringError(
                f"more than {MAX_CRASHES} rows kill the process that runs the model: {error.said}",
                hint="look for what these rows have in common, and mend them upstream, or the model",
            ) from error
        return reason


def _told(said: str) -> str:
    """onnxruntime's message without the values in it, so that many rows have few reasons."""
    text = _NUMBER.sub("N", _PREFIX.sub("", said))
    return text if len(text) <= _REASON_LENGTH else text[: _REASON_LENGTH - 3] + "..."
