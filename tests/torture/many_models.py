"""Eight scoring models in one `dbt run` with eight threads write the same ledgers as with one thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoring_project import ScoringProject
from tests.torture import processes
from tests.torture.report import Attack
from warehouse import line_model

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = tuple(f"scores_{number}" for number in range(8))
ROWS, RUNS_OF_A_WAREHOUSE = 2_000, 5
_TABLES = (
    ("", "id, run_id", "run_id, scored_at"),
    ("__current", "id", "run_no"),
    ("__history", "id, run_no", "run_no"),
    ("__inputs", "id, run_no", "run_no"),
)
"""(suffix of the table, its unique key, the columns that differ from one `dbt run` to another)."""


def measure(folder: Path, *, runs: int) -> Iterator[Attack]:
    """Run dbt `runs` times, a few times per warehouse; the first run of each also creates the tables."""
    attack = Attack("Two at once", f"{len(MODELS)} scoring models, `threads: {len(MODELS)}`")
    for begun in range(0, runs, RUNS_OF_A_WAREHOUSE):
        number = min(RUNS_OF_A_WAREHOUSE, runs - begun)

        def played(threads: int, begun: int = begun, number: int = number) -> Any:
            place = str(folder / f"{begun}_{threads}")
            return processes.run(play, place, threads, number, timeout=600)[1]

        with ThreadPoolExecutor() as pool:
            many, one = pool.map(played, (len(MODELS), 1))
        for run, (found, wanted) in enumerate(zip(many, one, strict=True), begun):
            for model in MODELS:
                attack.made(
                    harm=f"run {run}: {model}: {found[model]}, one thread: {wanted[model]}"
                    if found[model] != wanted[model] or wanted[model][:2] != ("success", "")
                    else None
                )
    yield attack


def play(root: str, threads: int, runs: int) -> list[dict[str, tuple[Any, ...]]]:
    """In a child process: run dbt over changing features. Returns for each run and scoring model
    dbt's status, any fault of the tables, and a hash of the tables without the columns that record
    the run and time.
    """
    project = ScoringProject(Path(root), profile={"threads": threads})
    project.facts(ROWS)
    for number, model in enumerate(MODELS):
        project.register("1", line_model(a=number), name=f"line_{number}")
        project.scoring_model(model, arguments=f"model='line_{number}'")
    played = []
    for run in range(runs):
        project.sql(f"update facts set a = a + 1 where id % 7 = {run}")
        project.sql(f"delete from facts where id % 500 = {run}")
        project.dbt("run" if run else "build")
        played.append({model: _found(project, model) for model in MODELS})
    for model in MODELS:
        try:
            with project.scores(model) as scores:
                scores.check()
        except AssertionError as error:
            played[-1][model] = ("the tables disagree", str(error)[:300])
    return played


def _found(project: ScoringProject, model: str) -> tuple[Any, ...]:
    node = project.outcome.nodes.get(model)
    if node is None or node.status != "success":
        return "failed", node and node.message
    invocation, fault, hashes = project.invocation_id(), "", []
    with project.scores(model) as scores:
        if scores.runs("run_id, status")[-1] != (invocation, "success"):
            fault = f"{invocation}: {scores.runs('run_id, status')}"
        for table, key, stamps in _TABLES:
            name = f"{model}{table}"
            rows, keys = scores.sql(f"select count(*), count(distinct ({key})) from {name}")[0]
            if rows != keys:
                fault = f"{name}: {rows - keys} duplicates"
            hashes += scores.sql(
                f"select count(*), sum(hash(t)::hugeint) from (select * exclude ({stamps}) from {name}) as t"
            )
    return "success", fault, hashes
