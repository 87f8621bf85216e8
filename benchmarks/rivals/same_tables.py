"""The stream again, writing what a scoring run writes: ledger, features hash, latest table.

What is left to dbt_onnx against it is planning, the checks, the run row and dbt itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.measure import Stopwatch
from benchmarks.rivals import stream, warehouse
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb import ledger
from dbt_onnx.engines.duckdb.feature_types import features_hash
from dbt_onnx.engines.duckdb.ledger import LedgerShape

if TYPE_CHECKING:
    from collections.abc import Mapping

_LEDGER = TableName(database="warehouse", schema="main", identifier="scores")
_LATEST = _LEDGER.beside("scores" + ledger.LATEST_SUFFIX)


def score(*, folder: str, workload: Mapping[str, Any]) -> dict[str, float]:
    """A task: the tables of a first run."""
    model = (workload["model"]["name"], workload["model"]["version"])
    output = "FLOAT[16]" if workload["table"] == "array" else "FLOAT"
    shape = LedgerShape(key={"id": "BIGINT"}, outputs={"score": output})
    stamps = {**warehouse.stamps(workload), "model_name": model[0]}
    with Stopwatch() as watch:
        connection = warehouse.connect(folder, workload)
        connection.execute(ledger.create_ledger(_LEDGER, shape, model))
        connection.execute(ledger.create_latest(_LATEST, shape, model))
        kinds = connection.sql("from source.features")
        types = dict(zip(kinds.columns, map(str, kinds.types), strict=True))
        features = {name: types[name] for name in workload["columns"]}
        precisions = dict.fromkeys(features, "float32")
        hashed = f"{features_hash(features, precisions)} as features_hash"
        connection.register("predictions", stream.predictions(connection, workload, hashed))
        said = {
            "id": "id", "score": "score", "features_hash": "features_hash",
            "as_of": "$scored_at::timestamp", "scored_at": "$scored_at::timestamp",
            "status": "'scored'", "score_reason": "'new'", "is_late": "false",
            "model_name": "$model_name", "model_version": "$model_version", "run_id": "$run_id",
        }  # fmt: skip
        connection.begin()
        connection.execute(
            f"insert into scores ({', '.join(said)}) select {', '.join(said.values())} from predictions",
            stamps,
        )
        connection.execute(
            ledger.insert_latest(_LEDGER, _LATEST, shape),
            {name: stamps[name] for name in ("run_id", "scored_at")},
        )
        connection.commit()
    return watch.taken()
