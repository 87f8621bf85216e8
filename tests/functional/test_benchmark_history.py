"""The nights that the benchmark appends by SQL leave the same tables as real runs."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from warehouse import Warehouse, newest_of_ledger

from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.proof import prove

sys.path.append(str(Path(__file__).resolve().parents[2]))
history = import_module("benchmarks.sections.history")
NIGHTS = 6


def test_appended_nights_leave_what_runs_would_have_left(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.register("1")
    warehouse.features(*((i, float(i), 1.0) for i in range(400)))
    warehouse.run()
    history.append(warehouse.connection, NIGHTS)

    latest = warehouse.latest("* exclude (last_seen_as_of, confirmed_as_of)")
    assert sorted(map(repr, latest)) == sorted(map(repr, newest_of_ledger(warehouse)))
    table = TableName(database="w", schema="main", identifier="scores")
    assert prove(warehouse.connection, table, with_values=False) == []
    runs = warehouse.sql("select run_id, as_of from dbt_onnx_runs order by as_of")
    assert len(runs) == NIGHTS
    scored = dict(warehouse.sql("select run_id, count(*) from scores group by all"))
    assert scored.pop("run-1") == 400
    assert set(scored) == {run_id for run_id, _ in runs[1:]}
    assert all(70 < rows < 150 for rows in scored.values())
    confirmed = warehouse.latest("confirmed_as_of")
    assert set(confirmed) == {(runs[-1][1],)}

    warehouse.clock = f"{runs[-1][1]}"
    warehouse.run()
    assert warehouse.last_run("status, rows_in, rows_scored, rows_unchanged") == (
        "success", 400, 0, 400,
    )  # fmt: skip
