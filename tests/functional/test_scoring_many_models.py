"""Scoring models in parallel in one process, as with dbt's `threads`, share the runs table."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

from warehouse import Warehouse, newest_of_ledger

from dbt_onnx.runs.tables import ERASURES_TABLE, RUNS_TABLE

if TYPE_CHECKING:
    from pathlib import Path

MODELS, ROUNDS = 8, 6


def test_many_models_at_once_never_conflict_and_each_has_its_run_row(tmp_path: Path) -> None:
    shared = Warehouse(tmp_path, name="scores_0")
    shared.register("1")
    models = [shared, *(_beside(shared, f"scores_{number}") for number in range(1, MODELS))]
    for number in range(ROUNDS):
        shared.sql(
            "create or replace table features as select i::integer as id, "
            f"i + {number}.0::double as a, 1.0::double as b from range(500) as numbers (i)"
        )
        if number == 3:  # a runs table made by an older version of the package
            shared.sql("alter table dbt_onnx_runs drop column error")
            shared.sql("alter table dbt_onnx_runs drop column batch_rows")
        start = Barrier(MODELS)

        def run(model: Warehouse, start: Barrier = start) -> int:
            start.wait()
            return model.run().rows_scored

        with ThreadPoolExecutor(MODELS) as pool:
            assert list(pool.map(run, models)) == [500] * MODELS
    assert shared.sql(
        "select scoring_model, status, count(*), sum(rows_scored) from dbt_onnx_runs "
        "group by all order by all"
    ) == [(f"scores_{number}", "success", ROUNDS, ROUNDS * 500) for number in range(MODELS)]
    for model in models:
        latest = model.latest("* exclude (last_seen_as_of, confirmed_as_of)")
        assert sorted(latest) == sorted(newest_of_ledger(model))
        assert len(model.ledger()) == ROUNDS * 500
    assert {row[0] for row in shared.sql("select table_name from duckdb_tables()")} == {
        "features",
        "model_registry",
        RUNS_TABLE,
        ERASURES_TABLE,
        "dbt_onnx_references",
        *(
            f"scores_{number}{suffix}"
            for number in range(MODELS)
            for suffix in ("__current", "__history", "__presence", "__inputs")
        ),
    }


def _beside(shared: Warehouse, name: str) -> Warehouse:
    """Return another scoring model in the same warehouse, on a separate connection, like a dbt thread."""
    model = object.__new__(Warehouse)
    vars(model).update(vars(shared), name=name, connection=shared.connection.cursor())
    return model
