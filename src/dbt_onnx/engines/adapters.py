"""The one place that picks the engine: by the type of dbt's adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from dbt_onnx.engines.base import Warehouse


def engine_for(adapter_type: str) -> type[Warehouse]:
    """The engine for a type of dbt's adapters. Raises ConfigError when there is none."""
    if adapter_type == "duckdb":
        from dbt_onnx.engines.duckdb.warehouse import DuckDBWarehouse

        return DuckDBWarehouse
    if adapter_type == "sparkonnx":
        from dbt_onnx.engines.spark.warehouse import SparkWarehouse

        # it scores; of what commands ask it has nothing yet, and they refuse it
        return cast("type[Warehouse]", SparkWarehouse)
    raise ConfigError(
        f"the target's warehouse is of type {adapter_type}; dbt_onnx reads duckdb",
        hint="choose another target with --target",
    )
