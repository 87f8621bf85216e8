"""The model registry as a relation of the warehouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.artifacts.registry import Registry

if TYPE_CHECKING:
    from dbt_onnx.engines.duckdb.cursor import Cursor


def read_registry(cursor: Cursor, relation_sql: str, *, where: str) -> Registry:
    """The registry in a table, or in a query in parentheses; `where` names it in messages.

    Raises RegistryError when a row of it is wrong.
    """
    columns = cursor.columns_of(relation_sql)
    rows = cursor.rows(f"select * from {relation_sql}")
    return Registry.from_rows([dict(zip(columns, row, strict=True)) for row in rows], where=where)
