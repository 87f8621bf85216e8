"""Reading the past from the tables: the runs, and all predictions about one entity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.duckdb import inputs
from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors
from dbt_onnx.engines.duckdb.identifiers import quote
from dbt_onnx.engines.duckdb.runs import read_run_rows
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.errors import ConfigError
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.history import LedgerRow, RunRow
from dbt_onnx.runs.tables import LEDGER_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import duckdb

    from dbt_onnx.engines.base import TableName

_Place = tuple[str, "datetime | None"]

_STAMPS = (
    "scored_at", "as_of", "run_id", "status", "rejected_reason", "score_reason", "is_late",
)  # fmt: skip


def read_runs(
    connection: duckdb.DuckDBPyConnection, name: TableName, *, limit: int | None = None
) -> list[RunRow]:
    """The runs of a scoring model, newest first; none before the first."""
    with Cursor(connection.cursor()) as cursor, duckdb_errors():
        return read_run_rows(cursor, ScoringTables(name, cursor.storage_of(name)))[:limit]


def read_history(
    connection: duckdb.DuckDBPyConnection, name: TableName, key_values: Sequence[str]
) -> list[LedgerRow]:
    """All predictions about one entity, in the order in which they were made.

    `key_values` are texts, one for each key column. Raises ConfigError when there is no ledger yet,
    or when it has no such key.
    """
    with Cursor(connection.cursor()) as cursor, duckdb_errors():
        tables = ScoringTables(name, cursor.storage_of(name))
        key = key_of(cursor, tables)
        where, parameters = is_entity(tables, key, key_values)
        rows = cursor.records(
            f"select * from {tables.ledger.sql} where {where} order by scored_at asc nulls last, as_of asc nulls last",
            parameters,
        )
        kept = _inputs_by_run(cursor, tables, list(key), where, parameters)
    found = []
    for position, row in enumerate(rows):
        earlier = [
            other
            for other in rows[:position]
            if other["as_of"] <= row["as_of"]
            # a run compares with what runs have scored
            and (_is_answer(row) or not _is_answer(other))
        ]
        before = max(earlier, key=lambda other: (other["as_of"], other["scored_at"]), default=None)
        found.append(
            LedgerRow(
                **{name: row[name] for name in _STAMPS},
                model=f"{row['model_name']}/{row['model_version']}",
                outputs={
                    name: value
                    for name, value in row.items()
                    if name not in key and name.casefold() not in LEDGER_TYPES
                },
                changed_inputs=before
                and _changes(kept.get(_place_of(before)), kept.get(_place_of(row))),
            )
        )
    return found


def _is_answer(row: Mapping[str, Any]) -> bool:
    return bool(row["score_reason"] == REAL_TIME)


def _place_of(row: Mapping[str, Any]) -> _Place:
    """Where the kept inputs of a row are: a service may have answered several times before a run."""
    return row["run_id"], row["as_of"] if _is_answer(row) else None


def _is_key(column: str, sql_type: str, text: str) -> str:
    """SQL of whether a key column has the value that is written as `text`.

    Text is compared by its bytes, whatever the collation. A UNION is compared as text, which does not
    tell the type of its value.
    """
    if sql_type.startswith("UNION"):
        return f'cast({column} as varchar) collate "binary" = {text}'
    collated = ' collate "binary"' if sql_type == "VARCHAR" else ""
    return f"{column}{collated} = try_cast({text} as {sql_type})"


def is_entity(
    tables: ScoringTables, key: Mapping[str, str], key_values: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """SQL of whether a row is about an entity, with its parameters. `key_values` are texts, one for each
    key column. Raises ConfigError when the ledger has no such key.
    """
    if len(key) != len(key_values):
        raise ConfigError(
            f"the key of {tables.ledger} is {', '.join(key)}; got {len(key_values)} value(s)",
            hint=f"give one value for each, in this order: {' '.join(n.upper() for n in key)}",
        )
    conditions = [
        _is_key(quote(column), kind, f"$key_{position}")
        for position, (column, kind) in enumerate(key.items())
    ]
    return " and ".join(conditions), {f"key_{i}": text for i, text in enumerate(key_values)}


def key_of(cursor: Cursor, tables: ScoringTables) -> dict[str, str]:
    """The key columns as the ledger spells them, with their SQL types. Raises ConfigError when there is
    no ledger yet.
    """
    runs = [run for run in read_run_rows(cursor, tables) if run.status == "success"]
    found = [run.key_columns for run in runs if run.key_columns]
    if not found or not cursor.has(tables.current):
        raise ConfigError(
            f"{tables.ledger} has no prediction yet: no run of it has succeeded",
            hint="`dbt build` makes the first",
        )
    tables.check_names(cursor)
    columns = cursor.columns_of(tables.current.sql)
    spelled = {name.casefold(): name for name in columns}
    return {spelled[n.casefold()]: columns[spelled[n.casefold()]] for n in found[0]}


def _inputs_by_run(
    cursor: Cursor,
    tables: ScoringTables,
    key: Sequence[str],
    where: str,
    parameters: Mapping[str, Any],
) -> dict[_Place, dict[str, Any]]:
    """The features of the entity in each run, without columns that its model did not read."""
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
    kept: dict[_Place, dict[str, Any]] = {}
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


def _changes(
    before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> dict[str, tuple[Any, Any]] | None:
    if before is None or now is None:
        return None
    both = [name for name in now if name in before]
    return {name: (before[name], now[name]) for name in both if before[name] != now[name]}
