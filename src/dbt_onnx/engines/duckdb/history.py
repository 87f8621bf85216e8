"""Queries of the past: the runs, and all predictions about one entity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.duckdb import explanations, inputs
from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors
from dbt_onnx.engines.duckdb.identifiers import quote
from dbt_onnx.engines.duckdb.runs import read_run_rows
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.runs.history import (
    Contribution,
    LedgerRow,
    Place,
    RunRow,
    check_key,
    key_columns_of,
    ledger_rows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import duckdb

    from dbt_onnx.engines.base import TableName


def read_runs(
    connection: duckdb.DuckDBPyConnection, name: TableName, *, limit: int | None = None
) -> list[RunRow]:
    """Return the runs of a scoring model, newest first; empty before the first run."""
    with Cursor(connection.cursor()) as cursor, duckdb_errors():
        return read_run_rows(cursor, ScoringTables(name, cursor.storage_of(name)))[:limit]


def read_history(
    connection: duckdb.DuckDBPyConnection, name: TableName, key_values: Sequence[str]
) -> list[LedgerRow]:
    """Return all predictions about one entity, in the order in which they were made.

    `key_values` has one text for each key column. Raises ConfigError if there is no ledger yet, or if the
    number of values is wrong.
    """
    with Cursor(connection.cursor()) as cursor, duckdb_errors():
        tables = ScoringTables(name, cursor.storage_of(name))
        key = key_of(cursor, tables)
        return rows_about(cursor, tables, key, *is_entity(tables, key, key_values))


def rows_about(
    cursor: Cursor,
    tables: ScoringTables,
    key: Mapping[str, str],
    where: str,
    parameters: Mapping[str, Any],
) -> list[LedgerRow]:
    """Return all predictions about the entity that `where` describes, in the order in which they were made."""
    rows = cursor.records(
        f"select * from {tables.ledger.sql} where {where} order by scored_at asc nulls last, as_of asc nulls last",
        parameters,
    )
    kept = _inputs_by_run(cursor, tables, list(key), where, parameters)
    found = _contributions(cursor, tables, where, parameters)
    return ledger_rows(rows, kept, key=key, contributions=found)


def _is_key(column: str, sql_type: str, text: str) -> str:
    """SQL that is true if a key column has the value that is written as `text`.

    Text is compared by its bytes, whatever the collation. A UNION is compared as text, whatever the type
    of its value.
    """
    if sql_type.startswith("UNION"):
        return f'cast({column} as varchar) collate "binary" = {text}'
    collated = ' collate "binary"' if sql_type == "VARCHAR" else ""
    return f"{column}{collated} = try_cast({text} as {sql_type})"


def is_entity(
    tables: ScoringTables, key: Mapping[str, str], key_values: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """Return SQL that is true for rows about an entity, and its parameters. `key_values` has one text for
    each key column. Raises ConfigError if the number of values is wrong.
    """
    check_key(key, key_values, tables.ledger)
    conditions = [
        _is_key(quote(column), kind, f"$key_{position}")
        for position, (column, kind) in enumerate(key.items())
    ]
    return " and ".join(conditions), {f"key_{i}": text for i, text in enumerate(key_values)}


def key_of(cursor: Cursor, tables: ScoringTables) -> dict[str, str]:
    """Return the key columns in the ledger's spelling, with their SQL types. Raises ConfigError if there is
    no ledger yet.
    """
    there = cursor.has(tables.current)
    found = key_columns_of(read_run_rows(cursor, tables) if there else [], tables.ledger)
    tables.check_names(cursor)
    columns = cursor.columns_of(tables.current.sql)
    spelled = {name.casefold(): name for name in columns}
    return {spelled[n.casefold()]: columns[spelled[n.casefold()]] for n in found}


def _inputs_by_run(
    cursor: Cursor,
    tables: ScoringTables,
    key: Sequence[str],
    where: str,
    parameters: Mapping[str, Any],
) -> dict[Place, dict[str, Any]]:
    """Return the kept features of the entity in each run, without columns that the run's model did not read."""
    if not cursor.has(tables.inputs):
        return {}
    with_moment = inputs.MOMENT in cursor.columns_of(tables.inputs.sql)
    moment = quote(inputs.MOMENT) if with_moment else "null"
    runs = cursor.rows(
        f"""
        select features, feature_types, list(run_no), list(run_id)
        from {tables.runs.sql}
        where run_no in (select run_no from {tables.inputs.sql} where {where})
        group by features, feature_types""",
        parameters,
    )
    kept: dict[Place, dict[str, Any]] = {}
    for features, types, numbers, run_ids in runs:
        ids = dict(zip(numbers, run_ids, strict=True))
        statement = inputs.select_inputs(
            tables.inputs,
            key=key,
            features=inputs.by_feature(tables.inputs, features, types),
            where=f"{where} and list_contains($numbers, run_no)",
            with_moment=with_moment,
        )
        for number, at, *values in cursor.rows(
            f"select run_no, {moment}, {', '.join(map(quote, features))} from ({statement}) as kept",
            {**parameters, "numbers": numbers},
        ):
            kept[ids[number], at] = dict(zip(features, values, strict=True))
    return kept


def _contributions(
    cursor: Cursor, tables: ScoringTables, where: str, parameters: Mapping[str, Any]
) -> dict[tuple[str, datetime], list[Contribution]]:
    """Return the stored contributions to predictions about an entity, by the id of the run and the moment."""
    found: dict[tuple[str, datetime], list[Contribution]] = {}
    if tables.has_explanations(cursor):
        for run_id, as_of, *values in cursor.rows(
            explanations.select_contributions(tables.explanations, tables.runs, where=where),
            parameters,
        ):
            names = [name for name in explanations.EXPLANATION_TYPES if name != "as_of"]
            row = Contribution(**dict(zip(names, values, strict=True)))
            found.setdefault((run_id, as_of), []).append(row)
    return found
