"""The schemas in which a backfill builds the features of the past: which are its own, and what they hold.

Such a schema has one table, MARK, that lists what the backfill builds there. Without it the schema is
somebody else's.
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
    """{the table that marks a schema: the names of the relations in that schema}."""
    schemas: dict[TableName, list[str]] = defaultdict(list)
    for relation in relations:
        schemas[relation.beside(MARK)].append(relation.identifier)
    return schemas


def is_left_by_backfill(name: str, listed: Collection[str]) -> bool:
    """Whether a table or view of a marked schema is the mark, one of those `listed`, or a leftover of dbt's."""
    return name == MARK or any(
        # leftovers are `<name>__dbt_tmp` and the like
        name.casefold() == own.casefold() or name.casefold().startswith(f"{own.casefold()}__dbt_")
        for own in listed
    )


def not_marked(mark: TableName) -> WarehouseError:
    """A schema without the mark is somebody else's."""
    return WarehouseError(
        f"schema {mark.schema} is somebody else's: it has no table {MARK}, and a backfill "
        "builds the features of the past in a schema of that name",
        hint="drop or rename that schema",
    )


def not_empty(mark: TableName, said: str) -> WarehouseError:
    """The warehouse does not drop a schema in which something is left."""
    return WarehouseError(
        f"schema {mark.schema}, in which a backfill builds the features of the past, holds "
        f"something else, too: {said[:300]}",
        hint="move that elsewhere: the schema is dropped before each slice",
    )
