"""The hand-written stream, writing the tables of a scoring run: current with features hashes, an empty history,
and the run row that the ledger joins.

The difference between dbt_onnx and this rival is the cost of planning, checks, the run row and dbt itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.measure import Stopwatch
from benchmarks.rivals import stream, warehouse
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb import ledger
from dbt_onnx.engines.duckdb.feature_types import features_hash
from dbt_onnx.engines.duckdb.ledger import LedgerShape, LedgerTables
from dbt_onnx.runs.tables import RUNS_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

_TABLES = LedgerTables(TableName(database="warehouse", schema="main", identifier="scores"))


def score(*, folder: str, workload: Mapping[str, Any]) -> dict[str, float]:
    """A task: write the tables of a first run."""
    output = "FLOAT[16]" if workload["table"] == "array" else "FLOAT"
    shape = LedgerShape(key={"id": "BIGINT"}, outputs={"score": output})
    stamps = {**warehouse.stamps(workload), "model_name": workload["model"]["name"]}
    moment = {"scored_at": stamps["scored_at"]}
    with Stopwatch() as watch:
        connection = warehouse.connect(folder, workload)
        for table, columns in (
            (_TABLES.current, shape.row_columns),
            (_TABLES.history, shape.history_columns),
        ):
            connection.execute(ledger.create_table(table, columns, key=shape.key))
        connection.execute(ledger.create_table(_TABLES.runs, RUNS_TYPES))
        connection.execute(ledger.create_ledger(_TABLES, shape))
        kinds = connection.sql("from source.features")
        types = dict(zip(kinds.columns, map(str, kinds.types), strict=True))
        features = {name: types[name] for name in workload["columns"]}
        precisions = dict.fromkeys(features, "float32")
        hashed = f"{features_hash(features, precisions)} as features_hash"
        connection.register("predictions", stream.predictions(connection, workload, hashed))
        values = {
            "id": "id", "score": "score", "as_of": "$scored_at::timestamp",
            "features_hash": "features_hash", "score_reason": "'new'", "run_no": "1",
        }  # fmt: skip
        connection.begin()
        connection.execute(
            f"insert into scores__current ({', '.join(values)}) "
            f"select {', '.join(values.values())} from predictions",
            moment,
        )
        connection.execute(
            f"insert into dbt_onnx_runs (run_no, status, {', '.join(stamps)}) "
            f"values (1, 'success', {', '.join(f'${name}' for name in stamps)})",
            stamps,
        )
        connection.commit()
    return watch.taken()
