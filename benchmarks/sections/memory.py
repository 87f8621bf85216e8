"""The peak resident memory of the whole process, including dbt, for growing numbers of rows.

The profile sets two threads and a memory limit for DuckDB, as a user with a memory budget does. Without a limit
DuckDB keeps all data that it has read in memory, up to 80 % of the machine's. The limit is so small that a million
rows reach it: with a larger limit, the smallest run would use only a part of it, and the comparison would be wrong.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from benchmarks import models, project
from benchmarks.data import coarse_floats
from benchmarks.measure import Measurement, Task, run
from benchmarks.results import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Scale

DUCKDB = {"memory_limit": "128MB", "threads": 2}
FIRST, CHANGED = "first run", "1 % changed"
MAX_GIGABYTES = 1.5
MAX_GROWTH_PERCENT = 15.0
_CHANGED = (
    "select * replace (case when id % 100 = 0 then f0 + 1 else f0 end as f0) "
    f"from {project.SOURCE}.features"
)


def measure(scale: Scale) -> Iterator[Row]:
    sizes = scale.of(full=(1_000_000, 10_000_000, 100_000_000), smoke=(1_000_000, 3_000_000))
    kinds = scale.of(full=(FIRST, CHANGED), smoke=(FIRST,))
    for keep_inputs in scale.of(full=(True, False), smoke=(True,)):
        runs = [_runs(rows, keep_inputs=keep_inputs, kinds=kinds) for rows in sizes]
        inputs = "inputs kept" if keep_inputs else "inputs not kept"
        for kind in kinds:
            of_kind = {rows: run[kind] for rows, run in zip(sizes, runs, strict=True)}
            yield from _rows(f"{kind}, {inputs}", of_kind)


def _runs(rows: int, *, keep_inputs: bool, kinds: tuple[str, ...]) -> dict[str, Measurement]:
    """Do a first run and a later run, each in a separate process."""
    folder = project.new_folder()
    settings = {
        "data": str(coarse_floats(rows, 10)),
        "model": models.model("logistic"),
        "duckdb": DUCKDB,
        "keep_inputs": keep_inputs,
    }
    try:
        tasks = {
            FIRST: Task("benchmarks.project", "first_run", {"keep": str(folder), **settings}),
            CHANGED: Task("benchmarks.sections.memory", "run_changed", {"folder": str(folder)}),
        }
        return {kind: run(tasks[kind]) for kind in kinds}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_changed(*, folder: str) -> dict[str, Any]:
    """A task: change the features of one entity in 100, and run the scoring model."""
    project.change_features(folder=folder, features=_CHANGED)
    return project.run(folder=folder)


def _rows(workload: str, runs: dict[int, Measurement]) -> Iterator[Row]:
    peaks = {rows: run.peak_mb for rows, run in runs.items()}
    least, most = min(runs), max(runs)
    yield Row(
        section="memory",
        workload=workload,
        against=f"DuckDB limited to {DUCKDB['memory_limit']}",
        unit="GB",
        figure=max(peaks.values()) / 1000,
        at_most=MAX_GIGABYTES,
        detail="; ".join(
            f"{rows:,} rows {run.peak_mb / 1000:.2f} GB, {run.seconds:.1f} s"
            for rows, run in runs.items()
        ),
    )
    yield Row(
        section="memory",
        workload=workload,
        against=f"{least:,} to {most:,} rows",
        unit="% more",
        figure=100 * (max(peaks.values()) / min(peaks.values()) - 1),
        at_most=MAX_GROWTH_PERCENT,
    )
