"""SQL that brings current up to date: it moves superseded rows to history, and records who was present.

Whether an entity is present, and for which moment its row was last confirmed, mostly follows from the run
rows of full runs. The table of presence has the exceptions; `ledger.select_current` combines both.

New rows that may supersede others wait in the temporary table `SCORED` until the superseded rows have
moved to history.
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
_PRESENCE_ROWS = "temp.main.__dbt_onnx_presence_rows"


def keys_of(relation: str, key: Mapping[str, str], *, where: str) -> str:
    """A subquery of the keys of some rows, for IN."""
    return f"(select {compared_key(key)} from {relation} where {where})"


def select_scored(shape: LedgerShape, *, stream: str) -> str:
    """SQL that turns a scoring stream into rows with the columns of history: those of current, and `is_late`.
    Parameter: $run_no.

    The stream has the reason as its position in `SCORE_REASONS`, which is cheaper than text.
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
    """SQL that appends rows of a relation with the same column names to a table."""
    listed = ", ".join(map(quote, columns))
    return f"insert into {table.sql} ({listed}) select {listed} from {rows} where {where}"


def is_about(shape: LedgerShape, table: str, *, of: str = "features") -> str:
    """SQL that is true if a row of `table`, such as current, is about the entity of a row of `of`, such as
    the plan. The key columns of `of` have their carried names.
    """
    return " and ".join(
        f"{compared(name, shape.key[name], of=table)} = {of}.{quote(carried)}"
        for name, carried in shape.carried_key.items()
    )


def is_current(key: Mapping[str, str]) -> str:
    """SQL that is true if a row in `SCORED` becomes current: if it is not late, and has a key."""
    return f"not is_late and {not_null(key)}"


def supersede(tables: LedgerTables, question: Question, *, rewrites: bool) -> Sequence[str]:
    """Statements that move the rows that `SCORED` supersedes from current to history. A score supersedes the
    earlier score and any rejection since then; a rejection supersedes only an earlier rejection.

    With `rewrites`, current is written again as a whole, in bounded memory; a DELETE would hold a transaction
    id in memory for each row near a deleted one. Parameters, also below: $model_name, $model_version.
    """
    key, current = question.shape.key, tables.current.sql
    becomes_current = is_current(key)
    scored = keys_of(SCORED, key, where=f"{becomes_current} and {REJECTED} is null")
    superseded = (
        f"({compared_key(key)}) in {keys_of(SCORED, key, where=becomes_current)} "
        f"and {question.is_of_version()} "
        f"and ({REJECTED} is not null or ({compared_key(key)}) in {scored})"
    )
    rows = f"(select *, false as is_late from {current})"
    move = insert_rows(tables.history, question.shape.history_columns, rows=rows, where=superseded)
    remove = (
        f"create or replace table {current} as select * from {current} where not ({superseded})"
        if rewrites
        else f"delete from {current} where {superseded}"
    )
    forget = (
        f"delete from {tables.presence.sql} "
        f"where ({compared_key(key)}) in {scored} and {question.is_of_version()}"
    )
    return move, remove, forget


def write_presence(tables: LedgerTables, question: Question, rows_sql: str) -> Sequence[str]:
    """Statements that write `rows_sql`, from one of the functions below, to the table of presence. They
    replace the table's earlier rows about the same rows of current.
    """
    row = f"{compared_key(question.shape.key)}, {RUN}"
    presence = tables.presence.sql
    return (
        f"create or replace temp table {_PRESENCE_ROWS} as {rows_sql}",
        f"delete from {presence} where ({row}) in (select {row} from {_PRESENCE_ROWS})",
        insert_rows(tables.presence, question.shape.presence_columns, rows=_PRESENCE_ROWS),
        f"drop table {_PRESENCE_ROWS}",
    )


def overruled(question: Question) -> str:
    """SQL for `write_presence`: the scores of present entities that were rejected later. They keep the moment
    for which they were last confirmed, and later run rows do not confirm them.
    """
    where = f"{REJECTED} is null and ({compared_key(question.shape.key)}) in {_rejected(question)}"
    return _presence_rows(question, where=where)


def absent(question: Question) -> str:
    """SQL for `write_presence`: entities that this full run no longer finds, with the moment of the full run
    before, which saw them last. Parameter: $last_full_as_of.
    """
    key = compared_key(question.shape.key)
    where = f"last_seen_as_of is null and ({key}) not in {_keys_given(question)}"
    return _presence_rows(question, where=where, last_seen="cast($last_full_as_of as timestamp)")


def returned(question: Question) -> str:
    """SQL for `write_presence`: entities that were gone and are present again, with unchanged features."""
    key = compared_key(question.shape.key)
    return _presence_rows(
        question, where=f"last_seen_as_of is not null and ({key}) in {_keys_given(question)}"
    )


def advanced(question: Question, *, rows_sql: str) -> str:
    """SQL for `write_presence`: unchanged rows that the features have for a newer moment. `rows_sql` returns
    their keys, as `__dbt_onnx_key_0`, ..., and the moments, as `__dbt_onnx_as_of`.
    """
    return _presence_rows(
        question,
        where=f"known.{REJECTED} is null",
        confirmed='given."__dbt_onnx_as_of"',
        beside=f"inner join ({rows_sql}) as given on {is_about(question.shape, 'known', of='given')}",
    )


def confirm_present(tables: LedgerTables, question: Question) -> Sequence[str]:
    """Statements for a full run with all rows about one moment. Its run row confirms every present entity that
    has no row of presence; these statements confirm those that have one, unless they have a rejection. If no
    earlier run was about a later moment, such a row records no more than the run row, and is deleted.
    Parameters: $run_as_of, $last_full_as_of.
    """
    presence, key = tables.presence.sql, compared_key(question.shape.key)
    confirmed = (
        f"{question.is_of_version()} and last_seen_as_of is null "
        f"and confirmed_as_of <= $run_as_of and ({key}) not in {_rejected(question)}"
    )
    return (
        f"update {presence} set confirmed_as_of = $run_as_of where {confirmed}",
        f"delete from {presence} where {confirmed} and $run_as_of >= coalesce($last_full_as_of, $run_as_of)",
    )


def _presence_rows(
    question: Question,
    *,
    where: str,
    confirmed: str = "known.confirmed_as_of",
    last_seen: str = "cast(null as timestamp)",
    beside: str = "",
) -> str:
    """SQL that returns rows for the table of presence, about rows of current by the run's model version."""
    listed = ", ".join(f"known.{quote(name)}" for name in (*question.shape.key, RUN))
    return f"""
        select {listed}, {confirmed} as confirmed_as_of, {last_seen} as last_seen_as_of
        from {question.current} as known {beside}
        where {question.is_of_version("known")} and {where}"""


def _rejected(question: Question) -> str:
    """A subquery of the keys of present entities with a rejection in current."""
    where = f"{REJECTED} is not null and last_seen_as_of is null and {question.is_of_version()}"
    return keys_of(question.current, question.shape.key, where=where)


def _keys_given(question: Question) -> str:
    key = question.shape.key
    # a NULL among the keys would make NOT IN return NULL
    return keys_of(f"({question.features_sql}) as features", key, where=not_null(key))
