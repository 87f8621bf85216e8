"""The cost of a run that finds few changes or none, compared with scoring everything.

Each round has a new project: a first run scores all entities, then further runs find changed
features. Its nodes run in one process with all imports done; the section `overhead` measures the imports.
"""

from __future__ import annotations

import shutil
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import models, project
from benchmarks.data import floats
from benchmarks.measure import Task, run
from benchmarks.results import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.measure import Scale

FULL = "everything"
NOTHING = "nothing changed"
MOVED = "nothing changed, as_of moved"
MAX_PERCENT = {NOTHING: 5.0, "1 % changed": 8.0, "10 % changed": 20.0}
MAX_SECONDS_OF_NOTHING = 2.0
_STEPS = {
    FULL: {"every": 0, "day": 1},
    NOTHING: {"every": 0, "day": 1},
    "1 % changed": {"every": 100, "day": 1},
    "10 % changed": {"every": 10, "day": 1},
    MOVED: {"every": 10, "day": 2},
}


def measure(scale: Scale) -> Iterator[Row]:
    entities = scale.of(full=10_000_000, smoke=1_000_000)
    for keep_inputs in scale.of(full=(True, False), smoke=(True,)):
        arguments = {
            "data": str(floats(entities, 10)),
            "model": models.model("trees_100"),
            "keep_inputs": keep_inputs,
        }
        task = Task("benchmarks.sections.incremental", "play", arguments)
        rounds = [run(task).result for _ in range(scale.of(full=5, smoke=2))]
        inputs = "inputs kept" if keep_inputs else "inputs not kept"
        yield from _rows(rounds, entities, inputs)


def _rows(rounds: list[Any], entities: int, inputs: str) -> Iterator[Row]:
    full = median(played[FULL] for played in rounds)
    for step in (*MAX_PERCENT, MOVED):
        seconds = median(played[step] for played in rounds)
        yield Row(
            section="incremental",
            workload=f"{step}, {inputs}",
            against=f"scoring {entities:,} entities",
            unit="% of the time",
            figure=median(100 * played[step] / played[FULL] for played in rounds),
            at_most=MAX_PERCENT.get(step),
            detail=f"{seconds:.2f} s, everything {full:.1f} s",
        )
    yield Row(
        section="incremental",
        workload=f"{NOTHING}, {inputs}",
        against=f"{entities:,} entities",
        unit="s",
        figure=median(played[NOTHING] for played in rounds),
        at_most=MAX_SECONDS_OF_NOTHING,
    )


def play(**settings: Any) -> dict[str, float]:
    """A task: run each step in the order of `_STEPS`. Returns the seconds of the node."""
    folder = project.new_folder()
    project.import_all()
    try:
        project.create(
            folder=str(folder), features=_features(**_STEPS[FULL]), materialized="table",
            as_of="as_of", **settings,
        )  # fmt: skip
        return {step: _run(folder, step) for step in _STEPS}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, step: str) -> float:
    if step not in {FULL, NOTHING}:
        project.change_features(
            folder=str(folder), features=_features(**_STEPS[step]), materialized="table"
        )
    taken = project.run(folder=str(folder), clock="2026-01-31", warm=False)
    return float(taken["seconds"])


def _features(*, every: int, day: int) -> str:
    """Return SQL for features in which one in `every` entities differs from the data file; none if 0."""
    changed = f"id % {every} = 0" if every else "false"
    return (
        f"select * replace (case when {changed} then f0 + {every} else f0 end as f0), "
        f"date '2026-01-{day:02}' as as_of from {project.SOURCE}.features"
    )
