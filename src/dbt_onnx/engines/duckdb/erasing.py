"""Erasing rows for good: `forget` an entity, `prune` predictions that were superseded long ago.

`dbt_onnx_erasures` records each erasure without keys or values: when, why, how many rows of which run, and
their fingerprint. With it, the fingerprint of such a run can still be checked on the rows that are left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors
from dbt_onnx.engines.duckdb.history import is_entity, key_of
from dbt_onnx.engines.duckdb.identifiers import compared_key, not_null
from dbt_onnx.engines.duckdb.proof import fingerprint_of_inputs, fingerprints, rows_by_run
from dbt_onnx.engines.duckdb.runs import NOW, read_run_rows
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.runs.history import Erasure
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import duckdb

    from dbt_onnx.engines.base import TableName


def forget(
    connection: duckdb.DuckDBPyConnection,
    name: TableName,
    key_values: Sequence[str],
    *,
    why: str,
    dry_run: bool,
) -> Erasure:
    """See `base.Warehouse.forget`. Raises ConfigError if there is no ledger or a wrong number of key values."""
    with Cursor(connection.cursor()) as cursor, duckdb_errors(), cursor.transaction():
        tables = ScoringTables(name, cursor.storage_of(name))
        key = key_of(cursor, tables)
        where, parameters = is_entity(tables, key, key_values)
        erasure = _erase(cursor, tables, key, where, parameters, why=why, dry_run=dry_run)
        return replace(erasure, logged_by=_logged_by(cursor, tables))


def _logged_by(cursor: Cursor, tables: ScoringTables) -> tuple[str, ...]:
    """Return the publications with a service that has logged answers for this ledger."""
    if not cursor.has(tables.request_logs):
        return ()
    names = cursor.rows(
        f"select distinct name from {tables.request_logs.sql} where scoring_model = $scoring_model order by name",
        {"scoring_model": tables.ledger.identifier},
    )
    return tuple(name for (name,) in names)


def prune(
    connection: duckdb.DuckDBPyConnection,
    name: TableName,
    *,
    before: datetime,
    why: str,
    dry_run: bool,
) -> Erasure:
    """See `base.Warehouse.prune`. Rows without a key stay, because the next run would report them again.
    Raises ConfigError if there is no ledger.
    """
    with Cursor(connection.cursor()) as cursor, duckdb_errors(), cursor.transaction():
        tables = ScoringTables(name, cursor.storage_of(name))
        key = key_of(cursor, tables)
        place = f"({RUN}, {compared_key(key)})"
        is_old = (
            f"{RUN} in (select {RUN} from {tables.runs.sql} where scored_at < $before) "
            f"and {not_null(key)}"
        )
        superseded = f"{place} in (select {place} from {tables.history.sql} where {is_old})"
        return _erase(cursor, tables, key, superseded, {"before": before}, why=why, dry_run=dry_run)


def _erase(
    cursor: Cursor,
    tables: ScoringTables,
    key: Mapping[str, str],
    where: str,
    parameters: Mapping[str, Any],
    *,
    why: str,
    dry_run: bool,
) -> Erasure:
    """Erase rows from current, history, presence, kept inputs and explanations, in the transaction of the cursor."""
    rows, kept = rows_by_run(cursor, tables, where, parameters)
    numbers = {*rows, *kept}
    erasure = Erasure(rows=sum(rows.values()), rows_inputs=sum(kept.values()), runs=len(numbers))
    if dry_run or not numbers:
        return erasure
    tables.create_runs(cursor)
    runs = [run for run in read_run_rows(cursor, tables) if run.run_no in numbers]
    of_rows = fingerprints(cursor, tables, runs, where=where, parameters=parameters)
    for run in runs:
        of_inputs = (
            fingerprint_of_inputs(cursor, tables, run, key, where=where, parameters=parameters)
            if run.run_no in kept
            else 0
        )
        values = {
            "scoring_model": tables.ledger.identifier,
            "why": why,
            RUN: run.run_no,
            "rows": rows.get(run.run_no, 0),
            "rows_inputs": kept.get(run.run_no, 0),
            "ledger_fingerprint": of_rows.get(run.run_no, 0),
            "inputs_fingerprint": of_inputs,
        }
        cursor.insert(tables.erasures, values, erased_at=NOW)
    if tables.has_explanations(cursor):
        cursor.execute(f"delete from {tables.explanations.sql} where {where}", parameters)
    if kept:
        cursor.execute(f"delete from {tables.inputs.sql} where {where}", parameters)
    for table in (tables.current, tables.history, tables.presence):
        cursor.execute(f"delete from {table.sql} where {where}", parameters)
    return erasure
