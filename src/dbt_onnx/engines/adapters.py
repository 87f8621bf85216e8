"""The only place that picks the engine, by the type of dbt's adapter."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from dbt_onnx.engines.base import Warehouse

_TYPES = ("duckdb", "sparkonnx")


def engine_for(adapter_type: str) -> type[Warehouse]:
    """Return the engine for a type of dbt adapter. Raises ConfigError if there is none."""
    if adapter_type == "duckdb":
        from dbt_onnx.engines.duckdb.warehouse import DuckDBWarehouse

        return DuckDBWarehouse
    if adapter_type == "sparkonnx":
        from dbt_onnx.engines.spark.warehouse import SparkWarehouse

        return SparkWarehouse
    raise ConfigError(
        f"the target's warehouse is of type {adapter_type}; dbt_onnx reads {' and '.join(_TYPES)}",
        hint="choose another target with --target",
    )


def close_idle_connections() -> None:
    """Close the connections that dbt's adapters keep open in this process between invocations."""
    for adapter_type in _TYPES:
        if f"dbt.adapters.{adapter_type}" in sys.modules:
            engine_for(adapter_type).close_idle_connections()
