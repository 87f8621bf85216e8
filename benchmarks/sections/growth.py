"""Time by rows and by features: how far it is from a straight line.

The line has a fixed cost and a cost per row (or feature), fitted by least squares of the relative
distances. The figure is the largest relative distance. A run of 1,000 rows is nearly all fixed cost, so it is
reported without a target. A round is one process, which warms up with a run that does not count.
No memory limit is set. Points are medians, but the largest table is scored only once.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from benchmarks import models, project
from benchmarks.data import coarse_floats
from benchmarks.measure import Task, run
from benchmarks.results import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.measure import Scale

Shape: TypeAlias = tuple[int, int]

MAX_PERCENT_FROM_LINE = 20.0
ONE_RUN_FROM_ROWS = 100_000_000


def measure(scale: Scale) -> Iterator[Row]:
    rows_of = scale.of(
        full=(1_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
        smoke=(1_000, 300_000, 1_000_000),
    )
    features_of = scale.of(full=(5, 10, 50, 200, 1_000), smoke=(5, 10, 50, 100))
    rows = scale.of(full=500_000, smoke=300_000)
    shapes = [*((n, 10) for n in rows_of), *((rows, n) for n in features_of)]
    taken = _taken(list(dict.fromkeys(shapes)), rounds=scale.of(full=5, smoke=1))
    least, *judged = rows_of
    yield Row(
        section="growth",
        workload="10 features",
        against=f"{least:,} rows",
        unit="s",
        figure=taken[least, 10],
    )
    yield _row("10 features", "rows", {n: taken[n, 10] for n in judged})
    yield _row(f"{rows:,} rows", "features", {n: taken[rows, n] for n in features_of})


def _taken(shapes: list[Shape], *, rounds: int) -> dict[Shape, float]:
    """Return the seconds of the node for tables of (rows, features)."""
    prepared = [
        {
            "data": str(coarse_floats(rows, features)),
            "model": models.model("logistic", features=features),
        }
        for rows, features in shapes
    ]
    taken: dict[Shape, list[float]] = {shape: [] for shape in shapes}
    for turn in range(rounds):
        played = [n for n, (rows, _) in enumerate(shapes) if not turn or rows < ONE_RUN_FROM_ROWS]
        projects = [prepared[0], *(prepared[n] for n in played)]
        result = run(Task("benchmarks.sections.growth", "play", {"projects": projects})).result
        for n, seconds in zip(played, result["taken"][1:], strict=True):
            taken[shapes[n]].append(seconds)
    return {shape: median(seconds) for shape, seconds in taken.items()}


def play(*, projects: list[dict[str, Any]]) -> dict[str, list[float]]:
    """A task: do a first run of each project, one after the other in one process. Returns the seconds of the nodes."""
    return {"taken": [project.first_run(**settings)["seconds"] for settings in projects]}


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
        detail=f"{fixed:.2f} s and {1e6 * each:,.2f} µs for each: {points}",
        series=tuple(seconds.items()),
        series_of=unit,
    )


def straight_line(seconds: Mapping[int, float]) -> tuple[float, float, float]:
    """Return the fixed cost, the cost per unit, and the largest distance as a share of the measured time."""
    x, taken = np.array(list(seconds)), np.array(list(seconds.values()))
    terms = np.stack([1 / taken, x / taken], axis=1)
    (fixed, each), *_ = np.linalg.lstsq(terms, np.ones(len(x)), rcond=None)
    return float(fixed), float(each), float(np.abs(terms @ [fixed, each] - 1).max())
