"""The cost of dbt_onnx when there is nothing to score: its import, and a run that finds no row to score.

The rival is a Python model of stock dbt-duckdb that returns no rows, in a project without packages.
Every invocation is the `dbt` command in a separate process, including imports.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import models, project
from benchmarks.data import floats
from benchmarks.measure import Task, Turns, in_turns, run
from benchmarks.results import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Scale

ROWS = 1_000
MAX_NODE_SECONDS = 0.3
MAX_IMPORT_SECONDS = 0.15
DEPENDENCIES = (
    "click, duckdb, google.protobuf, numpy, onnx, onnxruntime, pyarrow.compute, rich, yaml"
)
SCORING_RUN = "dbt_onnx.project.dbt_model, dbt_onnx.engines.duckdb.engine"
_FEATURES = f"{{{{ config(materialized='table') }}}}\nselect * from {project.SOURCE}.features\n"
_DOES_NOTHING = """
def model(dbt, session):
    dbt.config(materialized="table")
    return dbt.ref("features").limit(0)
"""


def measure(scale: Scale) -> Iterator[Row]:
    yield from _imports(scale)
    yield from _runs(scale)


def _imports(scale: Scale) -> Iterator[Row]:
    for what, modules in (("import dbt_onnx", "dbt_onnx"), ("all of a scoring run", SCORING_RUN)):
        turns = in_turns({what: _task("import_in_new_process", modules=modules)}, scale.rounds)
        yield Row(
            section="overhead",
            workload=what,
            against="its dependencies, imported",
            unit="s",
            figure=turns.seconds(what),
            at_most=MAX_IMPORT_SECONDS,
        )


def _runs(scale: Scale) -> Iterator[Row]:
    ours, stock = project.new_folder(), project.new_folder()
    data = str(floats(ROWS, 10))
    try:
        project_of_ours = {
            "folder": str(ours),
            "data": data,
            "model": models.model("trees_100"),
            "materialized": "table",
        }
        run(_task("create_both", ours=project_of_ours, stock=str(stock), data=data))
        tasks = {
            "ours": _task("invoke", folder=str(ours)),
            "stock": _task("invoke", folder=str(stock)),
        }
        turns = in_turns(tasks, scale.of(full=5, smoke=2))
    finally:
        for folder in (ours, stock):
            shutil.rmtree(folder, ignore_errors=True)
    yield _row("node, nothing to do", turns, "node_seconds")
    yield _row("dbt run, nothing to do", turns, "invocation_seconds")


def _row(workload: str, turns: Turns, what: str) -> Row:
    taken = {name: [run.result[what] for run in runs] for name, runs in turns.runs.items()}
    more = [ours - stock for ours, stock in zip(taken["ours"], taken["stock"], strict=True)]
    return Row(
        section="overhead",
        workload=workload,
        against="stock model that does nothing",
        unit="s",
        figure=median(more),
        at_most=MAX_NODE_SECONDS,
        detail=f"{median(taken['ours']):.2f} s, stock {median(taken['stock']):.2f} s",
    )


def import_in_new_process(*, modules: str) -> dict[str, float]:
    """A task: measure the seconds of an import after its dependencies have been imported."""
    code = (
        f"import {DEPENDENCIES}, time\nstarted = time.perf_counter()\nimport {modules}\n"
        "print(time.perf_counter() - started)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    return {"seconds": float(done.stdout)}


def create_both(*, ours: dict[str, Any], stock: str, data: str) -> None:
    """A task: create a project that has already scored all its rows, and one of stock dbt-duckdb."""
    project.create(**ours)
    project.Project(Path(ours["folder"])).dbt("run", "--select", project.NODE)
    rival = project.Project(Path(stock))
    rival.set_up(data=data)
    rival.write(f"models/{project.NODE}.py", _DOES_NOTHING)
    rival.write("models/features.sql", _FEATURES)
    rival.dbt("run")


def invoke(*, folder: str) -> dict[str, Any]:
    """A task: run the command `dbt run --select scores`. Returns the seconds of the command and of the node."""
    dbt = Path(sys.executable).with_name("dbt")
    folders = ["--project-dir", folder, "--profiles-dir", folder]
    started = time.perf_counter()
    subprocess.run(
        [dbt, "--quiet", "run", "--select", project.NODE, *folders], check=True, cwd=folder
    )
    seconds = time.perf_counter() - started
    results = json.loads((Path(folder) / "target" / "run_results.json").read_text())["results"]
    node = results[0]["execution_time"]
    return {"seconds": node, "node_seconds": node, "invocation_seconds": seconds}


def _task(function: str, **arguments: Any) -> Task:
    return Task("benchmarks.sections.overhead", function, arguments)
