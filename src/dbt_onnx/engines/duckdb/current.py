"""The SQL that brings current up to date: rows that are superseded, and who was there at a run.

Rows that may supersede others wait in a temporary table, `SCORED`, until those have moved to history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.identifiers import compared, compared_key, literal, not_null, quote
from dbt_onnx.engines.duckdb.ledger import REJECTED, ROW_TYPES
from dbt_onnx.runs.plan import SCORE_REASONS
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.duckdb.ledger import LedgerShape, LedgerTables
    from dbt_onnx.engines.duckdb.plan import Question

SCORED = "temp.main.__dbt_onnx_scored"


def keys_of(relation: str, key: Mapping[str, str], *, where: str) -> str:
    """The keys of some rows as a query, for IN."""
    return f"(select {compared_key(key)} from {relation} where {where})"


def select_scored(shape: LedgerShape, *, stream: str) -> str:
    """The rows of a scoring stream, with `is_late`. Parameter: $run_no.

    The reason comes as its place in `SCORE_REASONS`, which is cheaper than text.
    """
    reasons = ", ".join(map(literal, SCORE_REASONS))
    values = {
        name: f"cast({quote(carried)} as {shape.key[name]})"
        for name, carried in shape.carried_key.items()
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


def is_about(shape: LedgerShape, table: str, *, of: str = "features") -> str:
    """SQL of whether a row of one of our tables is about the entity of a row of the plan `of`."""
    return " and ".join(
        f"{compared(name, shape.key[name], of=table)} = {of}.{quote(carried)}"
        for name, carried in shape.carried_key.items()
    )


def is_current(key: Mapping[str, str]) -> str:
    """SQL of whether a row in `SCORED` becomes current: a late row, or one without a key, does not."""
    return f"not is_late and {not_null(key)}"


def supersede(tables: LedgerTables, question: Question, *, rewrites: bool) -> Sequence[str]:
    """Move the current rows that those in `SCORED` supersede to history. A score supersedes the score
    before and a rejection since; a rejection supersedes only another one.

    `rewrites`: current is written anew, in bounded memory; a DELETE holds the transaction of each row
    next to one that goes. Parameters of this and the others: $model_name, $model_version.
    """
    key, current = question.shape.key, tables.current.sql
    becomes_current = is_current(key)
    scored = keys_of(SCORED, key, where=f"{becomes_current} and {REJECTED} is null")
    superseded = (
        f"({compared_key(key)}) in {keys_of(SCORED, key, where=becomes_current)} "
        f"and {question.is_of_version()} "
        f"and ({REJECTED} is not null or ({compared_key(key)}) in {scored})"
    )
    columns = ", ".join(map(quote, question.shape.row_columns))
    remove = (
        f"create or replace table {current} as select * from {current} where not ({superseded})"
        if rewrites
        else f"delete from {current} where {superseded}"
    )
    move = (
        f"insert into {tables.history.sql} ({columns}, is_late) "
        f"select {columns}, false from {current} where {superseded}"
    )
    return move, remove


def confirm_rows(current: TableName, question: Question, *, rows_sql: str) -> str:
    """Unchanged rows that came with a newer moment of their own. `rows_sql` gives their keys, as
    `__dbt_onnx_key_0`, ..., and `__dbt_onnx_as_of`.
    """
    same = is_about(question.shape, "current", of="confirmed")
    return f"""
        update {current.sql} as current set confirmed_as_of = confirmed."__dbt_onnx_as_of"
        from ({rows_sql}) as confirmed
        where {same} and {question.is_of_version()} and current.{REJECTED} is null"""


def confirm_present(current: TableName, question: Question) -> str:
    """The same where all rows of a full run are about one moment: no join finds them, 10 million in
    0.3 s instead of 3.6 s. Parameter: $run_as_of.
    """
    key, is_of_version = question.shape.key, question.is_of_version()
    rejected = keys_of(current.sql, key, where=f"{REJECTED} is not null and {is_of_version}")
    return f"""
        update {current.sql} set confirmed_as_of = $run_as_of
        where {is_of_version} and {REJECTED} is null and last_seen_as_of is null
            and greatest(as_of, confirmed_as_of) < $run_as_of
            and ({compared_key(key)}) not in {rejected}"""


def mark_rejected_present(current: TableName, question: Question) -> str:
    """An entity that was away and whose row is rejected now is back, and so is its earlier score."""
    key, is_of_version = question.shape.key, question.is_of_version()
    is_rejected = f"{REJECTED} is not null and last_seen_as_of is null and {is_of_version}"
    return f"""
        update {current.sql} set last_seen_as_of = null
        where {REJECTED} is null and last_seen_as_of is not null and {is_of_version}
            and ({compared_key(key)}) in {keys_of(current.sql, key, where=is_rejected)}"""


def mark_absent(current: TableName, question: Question) -> str:
    """Entities that a full run no longer found: remember the run that saw them last.
    Parameter: $last_full_as_of.
    """
    return f"""
        update {current.sql} set last_seen_as_of = $last_full_as_of
        where {question.is_of_version()} and last_seen_as_of is null
            and ({compared_key(question.shape.key)}) not in {_keys_given(question)}"""


def mark_returned(current: TableName, question: Question) -> str:
    """Entities that are back, with features that have not changed since."""
    return f"""
        update {current.sql} set last_seen_as_of = null
        where {question.is_of_version()} and last_seen_as_of is not null
            and ({compared_key(question.shape.key)}) in {_keys_given(question)}"""


def _keys_given(question: Question) -> str:
    key = question.shape.key
    # a NULL among them would make NOT IN unknown
    return keys_of(f"({question.features_sql}) as features", key, where=not_null(key))
