"""A first run of every workload by every rival and by dbt_onnx. Every row is scored.

The comparison is without kept inputs, since no rival keeps inputs. The cost of keeping them is reported separately.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import project, workloads
from benchmarks.measure import Scale, Stopwatch, Task, Turns, in_turns, run
from benchmarks.results import Row
from benchmarks.rivals import orbital, warehouse
from benchmarks.workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

OURS = "dbt_onnx"
WITH_INPUTS = "dbt_onnx, inputs kept"
PANDAS = "pandas model"
STREAM = "hand-written stream"
SAME_TABLES = "the same tables by hand"
ORBITAL = "orbital"
SCIKIT_LEARN = "scikit-learn in chunks"
FUNCTION = "Arrow function"
LIMIT = "onnxruntime alone"
COPY = "key and features copied"

RIVALS = {
    PANDAS: "pandas_model",
    STREAM: "stream",
    SAME_TABLES: "same_tables",
    ORBITAL: "orbital",
    SCIKIT_LEARN: "scikit_learn",
    FUNCTION: "arrow_function",
    LIMIT: "onnxruntime_alone",
}
SHORT = {
    workloads.LOGISTIC: (1_000_000, (PANDAS,)),
    workloads.TREES_100: (400_000, (STREAM,)),
}
"""Rows and rivals of the short version. With fewer rows it would mostly measure the cost of a dbt node. orbital is left
out, because installing its environment takes as long as the whole short version."""
LARGE = replace(workloads.LOGISTIC, name="logistic, 20M rows", rows=20_000_000)
"""With more rows, the cost of a dbt node, which the hand-written stream does not have, is a smaller share."""
_WANTED: dict[str, tuple[dict[Workload, float], float | None]] = {
    STREAM: (
        {
            workloads.TREES_100: 0.95,
            workloads.HISTOGRAM: 0.95,
            workloads.MIXED: 0.95,
            workloads.TREES_20: 0.9,
        },
        0.8,
    ),
    PANDAS: ({workloads.LOGISTIC: 2.0, workloads.WIDE: 1.5}, 1.3),
    ORBITAL: (
        {workloads.LOGISTIC: 0.55, workloads.TREES_20: 0.65, workloads.TREES_100: 0.9},
        None,
    ),
    FUNCTION: ({workloads.LOGISTIC: 1.0}, None),
}
DIFFERENCE = 1e-5
"""The largest allowed difference of two scores: absolute for scores up to 1, relative above."""


def measure(scale: Scale) -> Iterator[Row]:
    if scale.smoke:
        for workload, (rows, rivals) in SHORT.items():
            yield from _compare(workload, rows, (OURS, *rivals), scale.rounds)
        return
    yield from _compare(LARGE, LARGE.rows, (OURS, STREAM), scale.rounds)
    for workload in WORKLOADS:
        able = [rival for rival in RIVALS if workload.orbital or rival != ORBITAL]
        contenders = (OURS, WITH_INPUTS, *able)
        yield from _compare(workload, workload.rows, contenders, scale.rounds)


def wanted(workload: Workload, rival: str) -> float | None:
    """Return how many times as fast as a rival dbt_onnx must be; None if there is no target."""
    of_workload, of_others = _WANTED.get(rival, ({}, None))
    return of_workload.get(workload, of_others)


def score(
    *, rival: str | None, workload: Mapping[str, Any], created: str | None, folder: str | None
) -> dict[str, Any]:
    """A task: score a workload in a separate folder, with a rival or, if `rival` is None, with dbt_onnx.

    created     the dbt project to copy and run, for contenders that run in dbt
    folder      where to keep the output; if None, the output is deleted
    """
    place = folder or str(project.new_folder())
    try:
        if created:
            project.copy(created=created, folder=place)
        if rival is None:
            return project.run(folder=place)
        module = import_module(f"benchmarks.rivals.{rival}")
        return dict(module.score(folder=place, workload=workload))
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def copy(*, workload: Mapping[str, Any]) -> dict[str, Any]:
    """A task: write key and features into a table, and nothing else."""
    folder = project.new_folder()
    try:
        with Stopwatch() as watch:
            connection = warehouse.connect(str(folder), workload)
            columns = ", ".join(["id", *workload["columns"]])
            connection.execute(f"create table copied as select {columns} from source.features")
            connection.close()
        return watch.taken()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def difference(*, folders: Mapping[str, str], vectors: bool) -> dict[str, Any]:
    """A task: find the largest difference between each contender's scores and those of the first. Raises
    ValueError if a contender has other keys.
    """
    import duckdb

    connection = duckdb.connect()
    for position, folder in enumerate(folders.values()):
        path = Path(folder) / "warehouse.duckdb"
        connection.execute(f"attach '{path}' as c{position} (read_only)")
    apart = "abs(a.score - b.score) / greatest(1, abs(a.score))"
    if vectors:
        one, other = (f"cast({table}.score as float[16])" for table in "ab")
        length = f"sqrt(array_inner_product({one}, {one}))"
        apart = f"array_distance({one}, {other}) / greatest(1, {length})"
    found = {}
    with Stopwatch() as watch:
        for position, name in enumerate(folders):
            both, one, other, most = connection.execute(
                f"select count(*) filter (where a.id is not null and b.id is not null "
                f"and a.score is not null and b.score is not null), count(a.id), count(b.id), "
                f"max({apart}) from c0.scores as a full join c{position}.scores as b using (id)"
            ).fetchall()[0]
            if not both == one == other:
                raise ValueError(
                    f"{name} scored {other:,} rows; only {both:,} of the {one:,} expected keys match"
                )
            found[name] = most
    return {**watch.taken(), "found": found}


def _compare(
    workload: Workload, rows: int, contenders: Sequence[str], rounds: int
) -> Iterator[Row]:
    described = workload.described(rows)
    top = project.new_folder()
    top.mkdir(parents=True)
    try:
        tasks = {name: _task(name, described, top) for name in contenders}
        if WITH_INPUTS in contenders:
            tasks[COPY] = Task("benchmarks.sections.scoring", "copy", {"workload": described})
        keeping = {
            n: task if n == COPY else _keeping_output(task, top, n) for n, task in tasks.items()
        }
        first = in_turns(keeping, 1)
        yield _agreement(workload, contenders, top)
        turns = first.extended_with(in_turns(tasks, rounds - 1))
    finally:
        shutil.rmtree(top, ignore_errors=True)
    for name in contenders:
        if name in RIVALS:
            yield _row(workload, rows, turns, OURS, name, at_least=wanted(workload, name))
    if WITH_INPUTS in contenders:
        yield _row(workload, rows, turns, WITH_INPUTS, OURS)
        yield _cost_of_inputs(workload, turns)


def _task(name: str, described: Mapping[str, Any], top: Path) -> Task:
    """Return the task of a contender. The project that it copies is made below `top`."""
    ours = {"data": described["data"], "model": described["model"]}
    projects = {
        OURS: Task("benchmarks.project", "create", {**ours, "keep_inputs": False}),
        WITH_INPUTS: Task("benchmarks.project", "create", ours),
        PANDAS: Task("benchmarks.rivals.pandas_model", "create", {"workload": described}),
    }
    arguments = {"rival": RIVALS.get(name), "workload": described, "created": None, "folder": None}
    if name in projects:
        arguments["created"] = str(top / "created" / name)
        make = projects[name]
        run(Task(make.module, make.function, {**make.arguments, "folder": arguments["created"]}))
    if name == ORBITAL:
        orbital.sql_of(described)
    return Task("benchmarks.sections.scoring", "score", arguments)


def _keeping_output(task: Task, top: Path, name: str) -> Task:
    """Return the task with a folder in which it keeps its output."""
    return replace(task, arguments={**task.arguments, "folder": str(top / "written" / name)})


def _agreement(workload: Workload, contenders: Iterable[str], top: Path) -> Row:
    """Compare the scores of all contenders: times are only comparable if the scores agree."""
    folders = {name: str(top / "written" / name) for name in contenders}
    arguments = {"folders": folders, "vectors": workload.table == "array"}
    found = run(Task("benchmarks.sections.scoring", "difference", arguments)).result["found"]
    shutil.rmtree(top / "written")
    worst = max(list(found)[1:], key=found.__getitem__)  # the others are compared with the first
    return Row(
        section="scoring",
        workload=workload.name,
        against="all contenders, largest difference",
        unit="",
        figure=found[worst],
        at_most=DIFFERENCE,
        detail=worst,
    )


def _cost_of_inputs(workload: Workload, turns: Turns) -> Row:
    """Compare the extra time for keeping the inputs with the minimal time to write them."""
    rounds = zip(*(turns.runs[name] for name in (WITH_INPUTS, OURS, COPY)), strict=True)
    added = [((kept.seconds - ours.seconds), copied.seconds) for kept, ours, copied in rounds]
    return Row(
        section="scoring",
        workload=workload.name,
        against="extra time for keeping inputs, compared with create table as",
        unit="x the time",
        figure=median(more / copied for more, copied in added),
        at_most=1.2,
        detail=f"{median(more for more, _ in added):.2f} s; "
        f"{median(copied for _, copied in added):.2f} s",
    )


def _row(
    workload: Workload, rows: int, turns: Turns, name: str, to: str, at_least: float | None = None
) -> Row:
    def speed_and_memory(contender: str) -> str:
        speed = rows / turns.seconds(contender) / 1e6
        return f"{speed:.2f} million rows/s in {turns.peak_mb(contender):,.0f} MB"

    return Row(
        section="scoring",
        workload=workload.name,
        against=to if name == OURS else f"{OURS} without inputs kept",
        unit="x",
        figure=turns.speed_ratio(name, to),
        detail=f"{speed_and_memory(name)}; {speed_and_memory(to)}",
        at_least=at_least,
    )
