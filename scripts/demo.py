"""Shared code of the demo scripts: the path of the warehouse and queries to it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
WAREHOUSE = Path(
    os.environ.get("DBT_ONNX_WAREHOUSE", str(ROOT / "warehouse" / "dbt_onnx_demo.duckdb"))
)
REASONS = (
    "new",
    "features_changed",
    "model_changed",
    "expired",
    "retry",
    "full_refresh",
    "hash_changed",
)


@contextmanager
def warehouse() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a read-only connection and close it afterwards. While it is open, dbt cannot write to the file."""
    connection = duckdb.connect(str(WAREHOUSE), read_only=True)
    try:
        yield connection
    finally:
        connection.close()


def rows(connection: duckdb.DuckDBPyConnection, query: str, *values: Any) -> list[dict[str, Any]]:
    cursor = connection.execute(query, list(values))
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def reasons_of(run: dict[str, Any]) -> str:
    """Return text such as `new 12, features_changed 3,408`; empty if nothing was scored."""
    counts = {reason: run[f"rows_{reason}"] or 0 for reason in REASONS}
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items() if count)
