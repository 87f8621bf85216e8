"""What a backfill does on the warehouse besides its runs: scratch schemas, and what is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from dbt_onnx.artifacts.registry import REGISTRY_COLUMNS, Registry
from dbt_onnx.engines.base import no_registry_among
from dbt_onnx.engines.duckdb.identifiers import literal, quote
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.runs.scratch import by_mark, is_left_by_backfill, not_empty, not_marked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from dbt_onnx.artifacts.registry import RegistryEntry
    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.duckdb.cursor import Cursor


def renew_scratch(cursor: Cursor, relations: Iterable[TableName]) -> None:
    """Make schemas anew, see `Warehouse`, each with one table that marks it as a backfill's."""
    for schema, names in by_mark(relations).items():
        # one transaction each: DuckDB writes to one database at a time
        with cursor.transaction():
            _drop(cursor, schema)
            cursor.execute(f"create schema {_sql(schema)}")
            rows = ", ".join(f"({literal(name)})" for name in names)
            cursor.execute(
                f"create table {schema.sql} as select * from (values {rows}) as t (name)"
            )


def drop_scratch(cursor: Cursor, relations: Iterable[TableName]) -> None:
    """Drop the schemas of these relations. Raises WarehouseError as `renew_scratch`."""
    for schema in by_mark(relations):
        with cursor.transaction():
            _drop(cursor, schema)


def scored_clocks(
    cursor: Cursor, ledger: TableName, version: RegistryEntry | None
) -> set[datetime]:
    """When runs have scored, see `Warehouse`."""
    tables = ScoringTables(ledger, cursor.storage_of(ledger))
    if not cursor.has(tables.runs):
        return set()
    rows = cursor.rows(
        f"select distinct clock from {tables.runs.sql} where scoring_model = $scoring_model "
        "and status = 'success' and scope in ('full', 'backfill') and ($model_name is null "
        "or (model_name = $model_name and model_version = $model_version))",
        {
            "scoring_model": ledger.identifier,
            "model_name": version.model_name if version else None,
            "model_version": version.model_version if version else None,
        },
    )
    return {row[0] for row in rows}


def registry_among(cursor: Cursor, relations: Collection[TableName]) -> Registry:
    """The model registry among some relations, see `Warehouse`."""
    for relation in relations:
        if set(REGISTRY_COLUMNS) <= set(cursor.columns_if_there(relation)):
            rows = cursor.records(f"select * from {relation.sql}")
            return Registry.from_rows(rows, where=str(relation))
    raise no_registry_among(relations, REGISTRY_COLUMNS)


def _drop(cursor: Cursor, mark: TableName) -> None:
    place = (
        f"where database_name = {literal(mark.database)} "
        f"and lower(schema_name) = lower({literal(mark.schema)})"
    )
    if not cursor.rows(f"select 1 from duckdb_schemas() {place}"):
        return
    if not cursor.has(mark):
        raise not_marked(mark)
    listed = [row[0] for row in cursor.rows(f"select name from {mark.sql}")]
    objects = cursor.rows(
        f"select 'table', table_name from duckdb_tables() {place} "
        f"union all select 'view', view_name from duckdb_views() {place}"
    )
    for kind, name in objects:
        if is_left_by_backfill(name, listed):
            cursor.execute(f"drop {kind} {mark.beside(name).sql}")
    try:
        cursor.execute(f"drop schema {_sql(mark)}")
    except duckdb.Error as error:
        raise not_empty(mark, " ".join(str(error).split())) from error


def _sql(schema: TableName) -> str:
    return f"{quote(schema.database)}.{quote(schema.schema)}"
