"""Creates and drops the schemas in which a backfill builds past features on Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.engines.spark.sql import literal, named, quote
from dbt_onnx.runs.scratch import by_mark, is_left_by_backfill, not_empty, not_marked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.spark.session import Spark


def renew_scratch(spark: Spark, relations: Iterable[TableName]) -> None:
    """Drop and create the schemas of these relations, see `Warehouse`. A table marks each as a backfill's."""
    for mark, names in by_mark(relations).items():
        _drop(spark, mark)
        spark.change(f"create schema {quote(mark.schema)}")
        rows = ", ".join(f"({literal(name)})" for name in names)
        spark.change(
            f"create table {named(mark)} using iceberg as select * from values {rows} as t (name)"
        )


def drop_scratch(spark: Spark, relations: Iterable[TableName]) -> None:
    """Drop the schemas of these relations. Raises WarehouseError like `renew_scratch`."""
    for mark in by_mark(relations):
        _drop(spark, mark)


def _drop(spark: Spark, mark: TableName) -> None:
    schema = quote(mark.schema)
    if not spark.raw.catalog.databaseExists(schema):
        return
    # Spark lists temporary views, too: they have no schema
    views = {name for place, name, *_ in spark.rows(f"show views in {schema}") if place}
    tables = {name for place, name, *_ in spark.rows(f"show tables in {schema}") if place} - views
    # an empty schema: a backfill was killed after it created the schema and before it created the mark
    if not tables and not views:
        spark.change(f"drop schema {schema}")
        return
    if not spark.has(mark):
        raise not_marked(mark)
    listed = [name for (name,) in spark.rows(f"select name from {named(mark)}")]
    # checked before the first drop: without a transaction, a drop cannot be undone
    if others := [n for n in (*tables, *views) if not is_left_by_backfill(n, listed)]:
        raise not_empty(mark, ", ".join(sorted(others)))
    # the mark is dropped last, so that the schema counts as a backfill's until it is empty
    for name in (*views, *sorted(tables, key=mark.identifier.__eq__)):
        relation = named(mark.beside(name))
        spark.change(f"drop view {relation}" if name in views else f"drop table {relation} purge")
    spark.change(f"drop schema {schema}")
