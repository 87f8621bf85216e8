"""The current code compared with the code from before predictions were written once.

The old commit is exported from git with its own benchmarks, and runs in turns with the current code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import duckdb

from benchmarks import models, project
from benchmarks.data import FOLDER, floats
from benchmarks.measure import ROOT, Task, run
from benchmarks.results import Row
from benchmarks.sections import history, incremental, lookup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Scale

COMMIT = "bf35e41ae81a6be45915414b0a98aacdf6e2c8d9"
MAX_BYTES = 0.6
"""The target, as a share of the bytes that a ledger row and its copy in latest took before."""
_COPIES = 40
_TABLES = {
    "now": ("churn_predictions__current", "churn_predictions__history"),
    "before": ("churn_predictions", "churn_predictions__latest"),
}


def measure(scale: Scale) -> Iterator[Row]:
    roots = {"now": ROOT, "before": _code_before()}
    yield from _increments(roots, scale)
    yield from _lookups(roots, scale)
    for nights in (1, 2):
        yield _bytes(roots, nights)


def _code_before() -> Path:
    """Return a folder with the files of `COMMIT`."""
    folder = FOLDER / "before" / COMMIT
    if not folder.exists():
        folder.mkdir(parents=True)
        archive = subprocess.run(
            ["git", "archive", COMMIT], cwd=ROOT, check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def _increments(roots: dict[str, Path], scale: Scale) -> Iterator[Row]:
    entities = scale.of(full=10_000_000, smoke=1_000_000)
    arguments = {
        "data": str(floats(entities, 10)),
        "model": models.model("trees_100"),
        "keep_inputs": False,
    }
    task = Task("benchmarks.sections.incremental", "play", arguments)
    rounds = [
        {name: run(task, root=root).result for name, root in roots.items()}
        for _ in range(scale.of(full=5, smoke=2))
    ]
    for step in (incremental.FULL, *incremental.MAX_PERCENT, incremental.MOVED):
        seconds = {name: median(played[name][step] for played in rounds) for name in roots}
        yield Row(
            section="before",
            workload=step,
            against=f"the code before, {entities:,} entities",
            unit="x the time",
            figure=median(played["now"][step] / played["before"][step] for played in rounds),
            at_most=1.0,
            detail=f"{seconds['now']:.2f} s; {seconds['before']:.2f} s",
        )


def _lookups(roots: dict[str, Path], scale: Scale) -> Iterator[Row]:
    entities, nights = history.scale_of(scale)
    settings = {"data": str(floats(entities, 10)), "model": models.model("logistic")}
    folders = {name: project.new_folder() for name in roots}
    try:
        taken: dict[str, Any] = {}
        for name, root in roots.items():
            folder = str(folders[name])
            run(Task(history.__name__, "begin", {"folder": folder, **settings}), root=root)
            run(
                Task(history.__name__, "append_nights", {"folder": folder, "nights": nights}),
                root=root,
            )
            with duckdb.connect(str(project.Project(folders[name]).warehouse)) as connection:
                connection.execute("create table scores_table as from scores_current order by id")
            taken[name] = {lookup.VIEW: [], lookup.TABLE: []}
        for _ in range(scale.rounds):
            for name, root in roots.items():
                arguments = {
                    "folder": str(folders[name]),
                    "lookups": scale.of(full=1000, smoke=200),
                    "rounds": 1,
                }
                result = run(Task(lookup.__name__, "look_up", arguments), root=root).result
                for what in taken[name]:
                    taken[name][what] += result["taken"][what]
        for what in (lookup.VIEW, lookup.TABLE):
            medians = {name: [of_round[0] for of_round in taken[name][what]] for name in roots}
            pairs = zip(medians["now"], medians["before"], strict=True)
            yield Row(
                section="before",
                workload=what,
                against=f"the code before, median of one key, {nights} runs",
                unit="x the time",
                figure=median(now / before for now, before in pairs),
                at_most=1.0,
                detail="; ".join(f"{median(times):.2f} ms" for times in medians.values()),
            )
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def _bytes(roots: dict[str, Path], nights: int) -> Row:
    """Measure bytes per ledger row of the purchases, with `_COPIES` copies of each row. On the second night all rows
    are scored again.
    """
    found = {
        name: run(
            Task(
                __name__,
                "bytes_a_row",
                {"root": str(root), "tables": _TABLES[name], "nights": nights},
            )
        ).result
        for name, root in roots.items()
    }
    now, before = (found[name]["bytes"] for name in ("now", "before"))
    return Row(
        section="before",
        workload=f"bytes a ledger row, purchases, {nights} night(s)",
        against="the code before",
        unit="x the bytes",
        figure=now / before,
        at_most=MAX_BYTES,
        detail=f"{now:.1f}; {before:.1f} bytes",
    )


def bytes_a_row(*, root: str, tables: list[str], nights: int) -> dict[str, float]:
    """A task: run some nights of the reference project in the folder `root`, then measure a database that has only
    copies of its tables.
    """
    folder = project.new_folder()
    folder.mkdir(parents=True)
    try:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{root}/src",
            "DBT_PROFILES_DIR": root,
            "DBT_ONNX_WAREHOUSE": str(folder / "purchases.duckdb"),
        }
        for night in ("1998-04-01", "1998-05-01")[:nights]:
            subprocess.run(
                [str(Path(sys.executable).with_name("dbt")), "build", "--exclude-resource-type", "test",
                 "--vars", f'{{dbt_onnx_clock: "{night}"}}'],
                cwd=root, env=environment, check=True, capture_output=True,
            )  # fmt: skip
        path = folder / "tables.duckdb"
        with duckdb.connect(str(path)) as connection:
            connection.execute(f"attach '{folder / 'purchases.duckdb'}' as purchases (read_only)")
            [(rows,)] = connection.execute(
                "select count(*) from purchases.churn_predictions"
            ).fetchall()
            for name in tables:
                connection.execute(
                    f"create table {name} as select {name}.* from purchases.{name} "
                    f"cross join range({_COPIES}) as copies(n) order by n, {name}.rowid"
                )
            connection.execute("checkpoint")
        return {"bytes": path.stat().st_size / (rows * _COPIES)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
