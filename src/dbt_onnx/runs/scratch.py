"""The schemas in which a backfill builds the features of the past.

Such a schema has one table, MARK, that lists what the backfill builds there. A schema without this table
belongs to somebody else.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from dbt_onnx.errors import WarehouseError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from dbt_onnx.engines.base import TableName

MARK = "dbt_onnx_backfill"


def by_mark(relations: Iterable[TableName]) -> dict[TableName, list[str]]:
    """Return {the table that marks a schema: the names of the relations in that schema}."""
    schemas: dict[TableName, list[str]] = defaultdict(list)
    for relation in relations:
        schemas[relation.beside(MARK)].append(relation.identifier)
    return schemas


def is_left_by_backfill(name: str, listed: Collection[str]) -> bool:
    """Whether a table or view of a marked schema is the mark, is `listed`, or was left behind by dbt."""
    return name == MARK or any(
        # dbt leaves relations such as `<name>__dbt_tmp`
        name.casefold() == own.casefold() or name.casefold().startswith(f"{own.casefold()}__dbt_")
        for own in listed
    )


def not_marked(mark: TableName) -> WarehouseError:
    """Return the error for a schema without the mark, which belongs to somebody else."""
    return WarehouseError(
        f"schema {mark.schema} does not belong to a dbt_onnx backfill: it has no table {MARK}, and "
        "a backfill builds the features of the past in a schema with this name",
        hint="drop or rename that schema",
    )


def not_empty(mark: TableName, said: str) -> WarehouseError:
    """Return the error for a schema that the warehouse cannot drop because it is not empty."""
    return WarehouseError(
        f"schema {mark.schema} is used by backfills, but contains other objects: {said[:300]}",
        hint="move them to another schema: this schema is dropped before each slice",
    )
