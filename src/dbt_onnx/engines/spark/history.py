"""Reads all predictions for one entity from the ledger, with their kept inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.spark.ledger import INPUTS, committed, select_ledger
from dbt_onnx.engines.spark.runs import read_run_rows
from dbt_onnx.engines.spark.sql import named, quote
from dbt_onnx.engines.spark.tables import ScoringTables
from dbt_onnx.runs.history import LedgerRow, Place, check_key, key_columns_of, ledger_rows
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.spark.session import Spark
    from dbt_onnx.runs.history import RunRow


def read_history(spark: Spark, name: TableName, key_values: Sequence[str]) -> list[LedgerRow]:
    """Return all predictions for one entity, in the order in which they were made.

    `key_values` are texts, one for each key column. Raises ConfigError if there is no ledger yet, or if `key_values`
    do not fit its key.
    """
    tables = ScoringTables(name)
    runs = read_run_rows(spark, tables)
    shape = tables.shape_of(spark, key_columns_of(runs, name))
    check_key(shape.key, key_values, name)
    where = " and ".join(
        f"{quote(column)} = try_cast(:key_{place} as {kind})"
        for place, (column, kind) in enumerate(shape.key.items())
    )
    values = {f"key_{place}": text for place, text in enumerate(key_values)}
    rows = spark.records(
        f"select * from ({select_ledger(tables, shape)}) as ledger where {where} "
        "order by scored_at asc nulls last, as_of asc nulls last",
        values,
    )
    return ledger_rows(rows, _inputs_by_run(spark, tables, runs, where, values), key=shape.key)


def _inputs_by_run(
    spark: Spark,
    tables: ScoringTables,
    runs: Sequence[RunRow],
    where: str,
    values: Mapping[str, Any],
) -> dict[Place, dict[str, Any]]:
    """Return the kept features of the entity for each run, limited to the features that the run's model read."""
    found = spark.records(
        f"select {RUN}, {INPUTS} from {named(tables.rows)} as rows "
        f"left semi join {committed(tables)} as runs using ({RUN}) "
        f"where {INPUTS} is not null and {where}",
        values,
    )
    by_number = {run.run_no: run for run in runs}
    kept: dict[Place, dict[str, Any]] = {}
    for row in found:
        run = by_number[row[RUN]]
        kept[run.run_id, None] = {name: row[INPUTS].get(name) for name in run.features or []}
    return kept
