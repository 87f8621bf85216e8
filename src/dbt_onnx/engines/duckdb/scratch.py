"""The schemas in which a backfill builds the features of the past, on DuckDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from dbt_onnx.engines.duckdb.identifiers import literal, quote
from dbt_onnx.runs.scratch import by_mark, is_left_by_backfill, not_empty, not_marked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.duckdb.cursor import Cursor


def renew_scratch(cursor: Cursor, relations: Iterable[TableName]) -> None:
    """Drop and create schemas, see `Warehouse`. Each gets one table that marks it as a backfill's."""
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
    """Drop the schemas of these relations. Raises WarehouseError as `renew_scratch` does."""
    for schema in by_mark(relations):
        with cursor.transaction():
            _drop(cursor, schema)


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
