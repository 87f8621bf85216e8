"""The SQL that brings current up to date: rows that are superseded, and who was there at a run.

Of most rows a run says nothing but what its own row says of all. What it says of single ones is noted in
the table of presence; `ledger.select_current` puts both together.

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
_NOTED = "temp.main.__dbt_onnx_noted"


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


def note(tables: LedgerTables, question: Question, rows_sql: str) -> Sequence[str]:
    """Note what the other functions tell of rows of current, in the place of what was noted of them."""
    row = f"{compared_key(question.shape.key)}, {RUN}"
    presence = tables.presence.sql
    return (
        f"create or replace temp table {_NOTED} as {rows_sql}",
        f"delete from {presence} where ({row}) in (select {row} from {_NOTED})",
        insert_rows(tables.presence, question.shape.presence_columns, rows=_NOTED),
        f"drop table {_NOTED}",
    )


def overruled(question: Question) -> str:
    """The scores of entities that are there and whose newest row was rejected: what was known of them
    stays, and no later run confirms it.
    """
    where = f"{REJECTED} is null and ({compared_key(question.shape.key)}) in {_rejected(question)}"
    return _noted(question, where=where)


def absent(question: Question) -> str:
    """Entities that a full run no longer found, with the run that saw them last.
    Parameter: $last_full_as_of.
    """
    key = compared_key(question.shape.key)
    where = f"last_seen_as_of is null and ({key}) not in {_keys_given(question)}"
    return _noted(question, where=where, last_seen="cast($last_full_as_of as timestamp)")


def returned(question: Question) -> str:
    """Entities that are back, with features that have not changed since."""
    key = compared_key(question.shape.key)
    return _noted(
        question, where=f"last_seen_as_of is not null and ({key}) in {_keys_given(question)}"
    )


def advanced(question: Question, *, rows_sql: str) -> str:
    """Unchanged rows that came with a newer moment of their own. `rows_sql` gives their keys, as
    `__dbt_onnx_key_0`, ..., and `__dbt_onnx_as_of`.
    """
    return _noted(
        question,
        where=f"known.{REJECTED} is null",
        confirmed='given."__dbt_onnx_as_of"',
        beside=f"inner join ({rows_sql}) as given on {is_about(question.shape, 'known', of='given')}",
    )


def confirm_present(tables: LedgerTables, question: Question) -> Sequence[str]:
    """Where all rows of a full run are about one moment, its own row confirms what it has seen. Of what is
    noted, too, it confirms who is there; and if no run before was about a later moment, nothing is left to
    be noted of these. Parameters: $run_as_of, $last_full_as_of.
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


def _noted(
    question: Question,
    *,
    where: str,
    confirmed: str = "known.confirmed_as_of",
    last_seen: str = "cast(null as timestamp)",
    beside: str = "",
) -> str:
    """Rows of the table of presence, about rows of current by the version that the run scores with."""
    listed = ", ".join(f"known.{quote(name)}" for name in (*question.shape.key, RUN))
    return f"""
        select {listed}, {confirmed} as confirmed_as_of, {last_seen} as last_seen_as_of
        from {question.current} as known {beside}
        where {question.is_of_version("known")} and {where}"""


def _rejected(question: Question) -> str:
    """The keys of entities that are there and whose newest row was rejected."""
    where = f"{REJECTED} is not null and last_seen_as_of is null and {question.is_of_version()}"
    return keys_of(question.current, question.shape.key, where=where)


def _keys_given(question: Question) -> str:
    key = question.shape.key
    # a NULL among them would make NOT IN unknown
    return keys_of(f"({question.features_sql}) as features", key, where=not_null(key))
