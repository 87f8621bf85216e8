"""Reads the sources of a scoring model on Spark, its features and its registry, and runs queries for commands."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.errors import PySparkException

from dbt_onnx.artifacts.registry import REGISTRY_COLUMNS, Registry
from dbt_onnx.engines.base import (
    MissingFeaturesError,
    Sources,
    TableName,
    missing_columns,
    missing_features,
    missing_registry,
    no_answer,
    no_registry_among,
)
from dbt_onnx.engines.spark.features import FeatureRelation
from dbt_onnx.engines.spark.ledger import LedgerTables
from dbt_onnx.engines.spark.runs import recorded_sources
from dbt_onnx.engines.spark.session import message_of
from dbt_onnx.engines.spark.sql import named

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pyarrow as pa

    from dbt_onnx.engines.spark.session import Spark


def read_sources(spark: Spark, ledger: TableName) -> Sources | None:
    """Return the recorded sources of the scoring model with this ledger. None if nothing is recorded yet."""
    recorded = recorded_sources(spark, ledger)
    if not recorded:
        return None
    tables = LedgerTables(ledger)
    wanted = (ledger, tables.current, tables.history, tables.rows, tables.superseded)
    gone = [table for table in wanted if not spark.has(table)]
    return Sources.of_run(recorded, ledger, find=partial(_relation, spark), gone=gone)


def _relation(spark: Spark, name: str) -> TableName | None:
    """Return the table or view with the name `schema.name`, or None if it does not exist."""
    schema, _, identifier = name.rpartition(".")
    table = TableName(database="", schema=schema, identifier=identifier)
    return table if schema and identifier and spark.has(table) else None


def read_registry(spark: Spark, sources: Sources) -> Registry:
    """Return the registry that the scoring model reads. Raises RegistryError if it is gone or invalid."""
    if sources.registry is None:
        raise missing_registry(sources.registry_name)
    try:
        rows = spark.records(f"select * from {named(sources.registry)}")
    except PySparkException as error:
        raise missing_registry(sources.registry_name, message_of(error)) from error
    return Registry.from_rows(rows, where=str(sources.registry))


def check_features(spark: Spark, sources: Sources) -> None:
    """Raise MissingFeaturesError if the feature relation is gone, and ConfigError if it has no such key columns."""
    name = sources.features_name
    if sources.features is None:
        raise missing_features(name)
    try:
        features = FeatureRelation.of(spark, named(sources.features), name=name)
    except PySparkException as error:
        raise missing_features(name, message_of(error)) from error
    features.check_columns(key=sources.key, as_of=None)


def feature_types(spark: Spark, ledger: TableName, names: Sequence[str]) -> dict[str, pa.DataType]:
    """Return the Arrow types of these columns of the recorded feature relation."""
    from pyspark.sql.pandas.types import to_arrow_type

    sources = read_sources(spark, ledger)
    if sources is None or sources.features is None:
        raise MissingFeaturesError(
            f"the features of {ledger} are not in the warehouse", hint="run `dbt build`"
        )
    schema = spark.frame(f"select * from {named(sources.features)} limit 0").schema
    types = {field.name: field.dataType for field in schema}
    if absent := [name for name in names if name not in types]:
        raise missing_columns(absent, sources.features)
    return {name: to_arrow_type(types[name]) for name in names}


def registry_among(spark: Spark, relations: Collection[TableName]) -> Registry:
    """Return the first of the relations that is a model registry, see `Warehouse`."""
    for relation in relations:
        if spark.has(relation) and set(REGISTRY_COLUMNS) <= set(spark.columns_of(named(relation))):
            rows = spark.records(f"select * from {named(relation)}")
            return Registry.from_rows(rows, where=str(relation))
    raise no_registry_among(relations, REGISTRY_COLUMNS)


def read_answers(spark: Spark, sql: str) -> list[dict[str, Any]]:
    """Return the rows of a query as {column: value}. Raises WarehouseError if Spark cannot run the query."""
    try:
        return spark.records(sql)
    except PySparkException as error:
        raise no_answer(message_of(error)) from error
