"""Time against rows and against features: how far from a straight line it is.

The line is a fixed cost and a cost per row (or feature), fitted by least squares of the relative
distances; the figure is the largest of them. A run of 1,000 rows (one feature) is among the points, so
the fixed cost is a measured one. No memory limit is set. Points are medians; the largest is one run.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import models
from benchmarks.data import coarse_floats
from benchmarks.measure import Task, run
from benchmarks.results import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.measure import Scale

MAX_PERCENT_FROM_LINE = 20.0
ONE_RUN_FROM_ROWS = 100_000_000


def measure(scale: Scale) -> Iterator[Row]:
    rows_of = scale.of(
        full=(1_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
        smoke=(1_000, 100_000, 300_000, 1_000_000),
    )
    by_rows = _seconds([(rows, 10) for rows in rows_of], scale.rounds)
    yield _row("time against rows, 10 features", "rows", dict(zip(rows_of, by_rows, strict=True)))
    features_of = scale.of(full=(1, 10, 50, 200, 1_000), smoke=(1, 10, 50, 100))
    rows = scale.of(full=500_000, smoke=100_000)
    by_features = _seconds([(rows, features) for features in features_of], scale.rounds)
    of_features = dict(zip(features_of, by_features, strict=True))
    yield _row(f"time against features, {rows:,} rows", "features", of_features)


def _seconds(shapes: Sequence[tuple[int, int]], rounds: int) -> list[float]:
    """The node's seconds for tables of (rows, features), in turns."""
    taken: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    for turn in range(rounds):
        for rows, features in shapes:
            if turn and rows >= ONE_RUN_FROM_ROWS:
                continue
            settings = {
                "data": str(coarse_floats(rows, features)),
                "model": models.model("logistic", features=features),
            }
            taken[rows, features].append(
                run(Task("benchmarks.project", "first_run", settings)).seconds
            )
    return [median(seconds) for seconds in taken.values()]


def _row(workload: str, unit: str, seconds: Mapping[int, float]) -> Row:
    fixed, each, distance = straight_line(seconds)
    points = "; ".join(f"{x:,} {unit} {taken:.2f} s" for x, taken in seconds.items())
    return Row(
        section="growth",
        workload=workload,
        against="a straight line",
        unit="% off",
        figure=100 * distance,
        at_most=MAX_PERCENT_FROM_LINE,
        detail=f"{fixed:.2f} s and {1e6 * each:,.2f} s a million {unit}: {points}",
        series=tuple(seconds.items()),
        series_of=unit,
    )


def straight_line(seconds: Mapping[int, float]) -> tuple[float, float, float]:
    """The fixed cost, the cost of each, and the largest distance as a share of the time measured."""
    x, taken = np.array(list(seconds)), np.array(list(seconds.values()))
    terms = np.stack([1 / taken, x / taken], axis=1)
    (fixed, each), *_ = np.linalg.lstsq(terms, np.ones(len(x)), rcond=None)
    return float(fixed), float(each), float(np.abs(terms @ [fixed, each] - 1).max())
