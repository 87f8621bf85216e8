"""Finds the rows on which a model fails, so that the other rows are scored."""

from __future__ import annotations

import re
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from dbt_onnx.errors import DataError, ModelCrashError, ModelError, ScoringError, shortened
from dbt_onnx.kernel.tensors import joined, rows_of

if TYPE_CHECKING:
    from dbt_onnx.kernel.session import Scorer
    from dbt_onnx.kernel.tensors import Feeds

MODEL_ERROR, MODEL_CRASHED = "model_error", "model_crashed"
MAX_CRASHES = 100
"""Maximum number of rows of a run that may kill the process: each costs about a second."""

# how many rows must fail, one by one, before the model is taken to fail on all rows: first after an error,
# then after a crash, where each try may cost a process
_PROBES = (8, 3)
_REASON_LENGTH = 200
_PREFIX = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Non-zero status code returned while running )?"
)
# matches a number that may be a value of the row, but not digits within a name. Without these numbers,
# rows that fail in the same way have the same reason
_NUMBER = re.compile(r"(?<![\w.])-?\d+(\.\d+)?(e[+-]?\d+)?(?!\w)", re.IGNORECASE)


class RowSearch:
    """A search by halving for the rows on which a model fails. Several threads may use one instance.

    `rows` is the number of rows that the run will feed to the model. `max_rows` is the number of rows on
    which the model may fail, None for all rows. If the model fails on every row of a small sample, and
    may not fail on all rows of the run, the search does not start and the error is raised.
    """

    def __init__(self, *, rows: int | None = None, max_rows: int | None = None) -> None:
        self._rows = rows
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._has_scored = False
        self.calls = 0
        self.found: Counter[str] = Counter()

    def run(self, scorer: Scorer, feeds: Feeds) -> tuple[list[Any], dict[int, str]]:
        """Return the outputs of the rows on which the model succeeds, and {position: reason} of the others.

        Raises ModelError if the model fails on a sample and may not fail on all rows, DataError if it
        fails on more than `max_rows` rows, ScoringError if more than MAX_CRASHES rows kill the process,
        and any other error of `scorer.run`.
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
        # the ranges still to run, the next one last. A range that has already failed has its error
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
        """Raise the error if the model fails on each of a few rows, and may not fail on all rows."""
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
        reason = MODEL_CRASHED if is_crash else f"{MODEL_ERROR}:{_without_values(error.reason)}"
        with self._lock:
            self.found[reason] += 1
            rows, crashes = self.found.total(), self.found[MODEL_CRASHED]
        if self._max_rows is not None and rows > self._max_rows:
            raise DataError(
                f"the model fails on more than {self._max_rows:,} of {self._rows or 0:,} rows, the most that "
                f"may be rejected: {error.reason}",
                hint="fix these rows upstream, fix the model, or raise max_rejected_fraction in score()",
            ) from error
        if crashes > MAX_CRASHES:
            raise ScoringError(
                f"more than {MAX_CRASHES} rows kill the process that runs the model: {error.reason}",
                hint="find what these rows have in common; fix the rows upstream, or fix the model",
            ) from error
        return reason


def _without_values(message: str) -> str:
    """Return onnxruntime's message without the values in it, so that many rows share few reasons."""
    text = _NUMBER.sub("N", _PREFIX.sub("", message))
    return shortened(text, _REASON_LENGTH)
