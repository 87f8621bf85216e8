"""The time to look up one key through the current view, in a process that has the warehouse open."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import duckdb

from benchmarks import project
from benchmarks.measure import Task, run
from benchmarks.results import Row
from benchmarks.sections import history

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Scale

MAX_MILLISECONDS = 8.0
WARM_UP = 100
VIEW, TABLE, CURRENT = "current view", "current view, built as a table", "scores__current"
_RELATIONS = {VIEW: "scores_current", TABLE: "scores_table", CURRENT: "scores__current"}


def measure(scale: Scale) -> Iterator[Row]:
    with history.played(scale) as folders:
        folder = folders[history.MANY]
        rows = history.ledger_rows(folder)
        with duckdb.connect(str(project.Project(folder).warehouse)) as connection:
            connection.execute("create table scores_table as from scores_current order by id")
        arguments = {"folder": str(folder), "lookups": scale.of(full=1000, smoke=200)}
        result = run(Task(__name__, "look_up", {**arguments, "rounds": scale.rounds})).result
    for what, rounds in result["taken"].items():
        p50, p90, p99 = (median(percentiles) for percentiles in zip(*rounds, strict=True))
        yield Row(
            section="lookup",
            workload=what,
            against=f"p99 of one key, {rows:,} ledger rows",
            unit="ms",
            figure=p99,
            at_most=MAX_MILLISECONDS if what == VIEW else None,
            detail=f"median {p50:.2f} ms, p90 {p90:.2f} ms",
        )


def look_up(*, folder: str, lookups: int, rounds: int) -> dict[str, Any]:
    """A task: look up one key after the other. Returns a list of rounds for each relation, with the percentiles 50, 90
    and 99 in milliseconds.
    """
    taken: dict[str, list[list[float]]] = {what: [] for what in _RELATIONS}
    warehouse = str(project.Project(Path(folder)).warehouse)
    with duckdb.connect(warehouse, read_only=True) as connection:
        entities = connection.execute("select count(*) from scores__current").fetchall()[0][0]
        for _ in range(rounds):
            for what, relation in _RELATIONS.items():
                keys = [611_953 * i % entities for i in range(WARM_UP + lookups)]
                times = sorted([_one(connection, relation, key) for key in keys][WARM_UP:])
                taken[what].append([1000 * times[lookups * p // 100] for p in (50, 90, 99)])
    return {"taken": taken}


def _one(connection: duckdb.DuckDBPyConnection, relation: str, key: int) -> float:
    started = time.perf_counter()
    found = connection.execute(f"select * from {relation} where id = ?", [key]).fetchall()
    taken = time.perf_counter() - started
    if len(found) != 1:
        raise ValueError(f"{relation} has {len(found)} rows for {key}")
    return taken
