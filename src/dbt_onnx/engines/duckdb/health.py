"""Queries of health checks: the sources of a scoring model, its registry and its figures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import duckdb

from dbt_onnx.artifacts.registry import REGISTRY_COLUMNS, Registry
from dbt_onnx.engines.base import (
    UNNAMED,
    MissingFeaturesError,
    Sources,
    TableName,
    missing_columns,
    missing_features,
    missing_registry,
    no_answer,
    no_registry_among,
)
from dbt_onnx.engines.duckdb.cursor import message_of
from dbt_onnx.engines.duckdb.features import FeatureRelation
from dbt_onnx.engines.duckdb.identifiers import absent, literal, quote
from dbt_onnx.engines.duckdb.ledger import LedgerTables
from dbt_onnx.engines.duckdb.runs import recorded_sources
from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pyarrow as pa

    from dbt_onnx.engines.duckdb.cursor import Cursor


def read_sources(cursor: Cursor, ledger: TableName) -> Sources | None:
    """Return the recorded sources of the scoring model with this ledger; None if nothing is recorded yet."""
    recorded = recorded_sources(cursor, ledger)
    if not recorded:
        return None
    tables = LedgerTables(ledger, cursor.storage_of(ledger))
    gone = [table for table in (ledger, tables.current, tables.history) if not cursor.has(table)]
    find = partial(_relation, cursor, beside=ledger)
    return Sources.of_run(recorded, ledger, find=find, gone=gone)


def read_registry(cursor: Cursor, sources: Sources) -> Registry:
    """Return the registry as the scoring model reads it. Raises RegistryError if it is gone or invalid."""
    if sources.registry is None:
        raise missing_registry(sources.registry_name)
    try:
        rows = cursor.records(f"select * from {sources.registry.sql}")
    except duckdb.Error as error:
        raise missing_registry(sources.registry_name, message_of(error)) from error
    return Registry.from_rows(rows, where=str(sources.registry))


def check_features(cursor: Cursor, sources: Sources) -> None:
    """Raise if the feature relation is unknown or cannot be read, so that nobody knows which entities should
    have a prediction, or if the next run would not find the key columns in it.
    """
    name = sources.features_name
    if name == UNNAMED:
        raise ConfigError(
            "the last run read its features from an expression or a file, so it is unknown which "
            "entities should have a prediction: make it a model, dbt.ref() it in score(), and run again",
            hint="make it a model",
        )
    if sources.features is None:
        raise missing_features(name)
    try:
        features = FeatureRelation.of_table(cursor, sources.features.sql)
    except duckdb.Error as error:
        raise missing_features(name, message_of(error)) from error
    features.check_columns(key=sources.key, as_of=None)


def feature_types(
    cursor: Cursor, ledger: TableName, names: Sequence[str]
) -> dict[str, pa.DataType]:
    """Return the Arrow types of the columns `names` of the recorded feature relation."""
    sources = read_sources(cursor, ledger)
    if sources is None or sources.features is None:
        raise MissingFeaturesError(
            f"the features of {ledger} are not in the warehouse", hint="run `dbt build`"
        )
    absent_names = absent(names, cursor.columns_of(sources.features.sql))
    if absent_names:
        raise missing_columns(absent_names, sources.features)
    listed = ", ".join(quote(name) for name in names)
    statement = f"select {listed} from {sources.features.sql} limit 0"
    with cursor.stream(statement, {}, batch_rows=1) as reader:
        return dict(zip(reader.schema.names, reader.schema.types, strict=True))


def registry_among(cursor: Cursor, relations: Collection[TableName]) -> Registry:
    """Return the first registry among some relations, see `Warehouse`."""
    for relation in relations:
        if set(REGISTRY_COLUMNS) <= set(cursor.columns_if_there(relation)):
            rows = cursor.records(f"select * from {relation.sql}")
            return Registry.from_rows(rows, where=str(relation))
    raise no_registry_among(relations, REGISTRY_COLUMNS)


def read_answers(cursor: Cursor, sql: str) -> list[dict[str, Any]]:
    """Return the rows of a query, by column. Raises WarehouseError if DuckDB cannot run the query."""
    try:
        return cursor.records(sql)
    except duckdb.Error as error:
        raise no_answer(message_of(error)) from error


def _relation(cursor: Cursor, name: str, *, beside: TableName) -> TableName | None:
    """Return the table or view called `schema.name` or `database.schema.name`.

    If several are called `schema.name`, return the one in the ledger's database.
    """
    found = cursor.records(
        "select database_name as database, schema_name as schema, name as identifier from ("
        "select database_name, schema_name, table_name as name from duckdb_tables() union all "
        "select database_name, schema_name, view_name from duckdb_views()) as relations "
        f"where lower({literal(name)}) in (lower(schema_name || '.' || name), "
        "lower(database_name || '.' || schema_name || '.' || name)) "
        f"order by database_name = {literal(beside.database)} desc nulls last, database_name asc limit 1"
    )
    return TableName(**found[0]) if found else None
