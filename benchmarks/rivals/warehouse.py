"""Shared code of the rivals outside dbt: a DuckDB file to write, the attached data, and stamps to bind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas  # noqa: F401, ICN001, duckdb imports it, and imports are not measured
import pyarrow.pandas_compat  # noqa: F401
import pytz  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Mapping

STAMPS = "$run_id as run_id, $scored_at::timestamp as scored_at, $model_version as model_version"


def connect(folder: str, workload: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
    """Create the folder, connect to `warehouse.duckdb` in it, and attach the data as `source`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(str(Path(folder) / "warehouse.duckdb"))
    connection.execute(f"attach '{workload['data']}' as source (read_only)")
    return connection


def stamps(workload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run_id": "6f1c2a9e-2f53-4a4c-9d0e-6a0f0e5b7c11",
        "scored_at": "2026-01-01 00:00:00",
        "model_version": workload["model"]["version"],
    }


def select(workload: Mapping[str, Any]) -> str:
    return f"select id, {', '.join(workload['columns'])} from source.features"
