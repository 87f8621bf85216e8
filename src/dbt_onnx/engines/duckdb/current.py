"""The SQL that brings current up to date: rows that are superseded, and who was there at a run.

Rows that may supersede others wait in a temporary table, `SCORED`, until those have moved to history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.identifiers import compared, literal, quote
from dbt_onnx.engines.duckdb.ledger import REJECTED, ROW_TYPES, RUN
from dbt_onnx.runs.plan import SCORE_REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.duckdb.ledger import LedgerShape, LedgerTables

SCORED = "temp.main.__dbt_onnx_scored"


def is_of_version(runs: str, *, alone: bool, of: str = "") -> str:
    """SQL of whether a row is by a model version; always, where there is no other.
    Parameters: $model_name, $model_version.
    """
    if alone:
        return "true"
    prefix = f"{of}." if of else ""
    return (
        f"{prefix}{RUN} in (select {RUN} from {runs} "
        "where model_name = $model_name and model_version = $model_version)"
    )


def key_columns(key: Mapping[str, str], *, of: str | None = None) -> str:
    """The key as one value that is compared with another, `(a, b)`."""
    return f"({', '.join(compared(name, kind, of=of) for name, kind in key.items())})"


def keys_of(relation: str, key: Mapping[str, str], *, where: str = "true") -> str:
    """The keys of some rows as a query, for IN."""
    columns = ", ".join(compared(name, kind) for name, kind in key.items())
    return f"(select {columns} from {relation} where {where})"


def select_scored(shape: LedgerShape, *, stream: str) -> str:
    """The rows of a scoring stream, with `is_late`. Parameter: $run_no.

    The reason comes as its place in `SCORE_REASONS`, which is cheaper than text.
    """
    reasons = ", ".join(map(literal, SCORE_REASONS))
    values = {
        name: f'cast("__dbt_onnx_key_{position}" as {sql_type})'
        for position, (name, sql_type) in enumerate(shape.key.items())
    }
    values |= {name: quote(name) for name in shape.outputs}
    values |= {
        "as_of": '"__dbt_onnx_as_of"',
        "features_hash": '"__dbt_onnx_features_hash"',
        "score_reason": f'cast([{reasons}] as {ROW_TYPES["score_reason"]}[])["__dbt_onnx_score_reason" + 1]',
        REJECTED: "rejected_reason",
        RUN: f"cast($run_no as {ROW_TYPES[RUN]})",
        "is_late": '"__dbt_onnx_is_late"',
    }
    columns = ", ".join(f"{sql} as {quote(name)}" for name, sql in values.items())
    return f"select {columns} from {stream}"


def insert_rows(table: TableName, columns: Iterable[str], *, rows: str, where: str = "true") -> str:
    """Append rows of a relation, all of whose columns have the table's names."""
    listed = ", ".join(map(quote, columns))
    return f"insert into {table.sql} ({listed}) select {listed} from {rows} where {where}"


def is_current(key: Mapping[str, str]) -> str:
    """SQL of whether a row in `SCORED` becomes current: a late row, or one without a key, does not."""
    return " and ".join(("not is_late", *(f"{quote(name)} is not null" for name in key)))


def supersede(
    tables: LedgerTables, shape: LedgerShape, *, is_of_version: str, rewrites: bool
) -> Sequence[str]:
    """Move the current rows that those in `SCORED` supersede to history. A score supersedes the score
    before and a rejection since; a rejection supersedes only another one.

    `rewrites`: current is written anew, in bounded memory; a DELETE holds the transaction of each row
    next to one that goes. Parameters: those of `is_of_version`.
    """
    key = key_columns(shape.key)
    becomes_current = is_current(shape.key)
    scored = keys_of(SCORED, shape.key, where=f"{becomes_current} and {REJECTED} is null")
    superseded = (
        f"{key} in {keys_of(SCORED, shape.key, where=becomes_current)} and {is_of_version} "
        f"and ({REJECTED} is not null or {key} in {scored})"
    )
    columns = ", ".join(map(quote, shape.row_columns))
    remove = (
        f"delete from {tables.current.sql} where {superseded}"
        if not rewrites
        else f"create or replace table {tables.current.sql} as "
        f"select * from {tables.current.sql} where not ({superseded})"
    )
    move = (
        f"insert into {tables.history.sql} ({columns}, is_late) "
        f"select {columns}, false from {tables.current.sql} where {superseded}"
    )
    return move, remove


def confirm_rows(
    current: TableName, shape: LedgerShape, *, rows_sql: str, is_of_version: str
) -> str:
    """Unchanged rows that came with a newer moment of their own. `rows_sql` gives their keys, as
    `__dbt_onnx_key_0`, ..., and `__dbt_onnx_as_of`. Parameters: those of `is_of_version`.
    """
    same = " and ".join(
        f'confirmed."__dbt_onnx_key_{i}" = {compared(name, kind, of="current")}'
        for i, (name, kind) in enumerate(shape.key.items())
    )
    return f"""
        update {current.sql} as current set confirmed_as_of = confirmed."__dbt_onnx_as_of"
        from ({rows_sql}) as confirmed
        where {same} and {is_of_version} and current.{REJECTED} is null"""


def confirm_present(current: TableName, shape: LedgerShape, *, is_of_version: str) -> str:
    """The same where all rows of a full run are about one moment: no join finds them, 10 million in
    0.3 s instead of 3.6 s. Parameters: $run_as_of, and those of `is_of_version`.
    """
    rejected = keys_of(current.sql, shape.key, where=f"{REJECTED} is not null and {is_of_version}")
    return f"""
        update {current.sql} set confirmed_as_of = $run_as_of
        where {is_of_version} and {REJECTED} is null and last_seen_as_of is null
            and greatest(as_of, confirmed_as_of) < $run_as_of
            and {key_columns(shape.key)} not in {rejected}"""


def mark_rejected_present(current: TableName, shape: LedgerShape, *, is_of_version: str) -> str:
    """An entity that was away and whose row is rejected now is back, and so is its earlier score."""
    rejected = keys_of(
        current.sql,
        shape.key,
        where=f"{REJECTED} is not null and last_seen_as_of is null and {is_of_version}",
    )
    return f"""
        update {current.sql} set last_seen_as_of = null
        where {REJECTED} is null and last_seen_as_of is not null and {is_of_version}
            and {key_columns(shape.key)} in {rejected}"""


def mark_absent(
    current: TableName, shape: LedgerShape, *, features_sql: str, is_of_version: str
) -> str:
    """Entities that a full run no longer found: remember the run that saw them last.

    Parameters: $last_full_as_of, and those of `is_of_version`.
    """
    return f"""
        update {current.sql} set last_seen_as_of = $last_full_as_of
        where {is_of_version} and last_seen_as_of is null
            and {key_columns(shape.key)} not in {_keys_given(shape, features_sql)}"""


def mark_returned(
    current: TableName, shape: LedgerShape, *, features_sql: str, is_of_version: str
) -> str:
    """Entities that are back, with features that have not changed since."""
    return f"""
        update {current.sql} set last_seen_as_of = null
        where {is_of_version} and last_seen_as_of is not null
            and {key_columns(shape.key)} in {_keys_given(shape, features_sql)}"""


def _keys_given(shape: LedgerShape, features_sql: str) -> str:
    # a NULL among them would make NOT IN unknown
    not_null = " and ".join(f"{quote(name)} is not null" for name in shape.key)
    return keys_of(f"({features_sql}) as features", shape.key, where=not_null)
