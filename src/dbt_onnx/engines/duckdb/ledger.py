"""The tables of a scoring model, and the SQL that creates and reads them.

    <name>            the ledger: every prediction ever made, a view over the next two and the runs
    <name>__current   the newest score per entity and model version, and a newer rejection if there is one
    <name>__history   all other predictions: superseded, late, without a key, or a service's answer
    <name>__presence  exceptions for rows of current: entity gone, or not confirmed like all other rows
    <name>__inputs    the features that each run fed to the model, see `inputs`
    dbt_onnx_runs     one row per run of a scoring model, and one per run of answers that it took over

Each prediction is in exactly one table. When it is superseded, it moves from current to history. It never
changes. Values that are the same for all rows of a run are in the run row; rows refer to it by `run_no`.

All tables are in one schema, because DuckDB writes to only one database per transaction, and because
a ledger that is read through `--defer` needs its runs in the same place. Timestamps are naive UTC.
Nothing here touches a warehouse: every function returns SQL text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.feature_types import hashable_columns
from dbt_onnx.engines.duckdb.identifiers import literal, quote, same_key
from dbt_onnx.engines.duckdb.storage import Storage
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.plan import SCORE_REASONS
from dbt_onnx.runs.tables import CURRENT_SUFFIX, HISTORY_SUFFIX, RUN, LedgerColumns

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from dbt_onnx.engines.base import TableName

PRESENCE_SUFFIX = "__presence"
REJECTED = "rejected_reason_no"
"""The position of a row's reason in its run's `rejected_reasons`, from 1; NULL in a scored row."""


ROW_TYPES = {
    "as_of": "TIMESTAMP",
    "features_hash": "UBIGINT",
    # DuckDB writes an ENUM three times as fast as text
    "score_reason": f"ENUM({', '.join(map(literal, SCORE_REASONS))})",
    REJECTED: "USMALLINT",
    RUN: "INTEGER",
}
"""The columns of current and history besides the key and the outputs."""
REASONS_BEFORE_REAL_TIME = f"ENUM({', '.join(map(literal, SCORE_REASONS[:-1]))})"
"""The type of `score_reason` in ledgers of older versions, which did not have answers on request."""
PRESENCE_TYPES = {
    RUN: ROW_TYPES[RUN],
    "confirmed_as_of": "TIMESTAMP",
    "last_seen_as_of": "TIMESTAMP",
}
"""The columns of the table of presence besides the key. Key and `run_no` identify the row of current that
a row is about. See `select_current`.
"""
HISTORY_TYPES = {"is_late": "BOOLEAN"}

# by default DuckDB tries all compressions of a column, and ends up with the same ones
_REPEATED = ("score_reason", REJECTED, RUN, *HISTORY_TYPES)
_RANDOM_TYPES = ("FLOAT", "DOUBLE", "UBIGINT")


@dataclass(frozen=True)
class LedgerTables:
    """The names of the tables of one scoring model. `ledger` is a view."""

    ledger: TableName
    storage: Storage = field(default_factory=Storage)

    @property
    def current(self) -> TableName:
        return self.ledger.beside(self.ledger.identifier + CURRENT_SUFFIX)

    @property
    def history(self) -> TableName:
        return self.ledger.beside(self.ledger.identifier + HISTORY_SUFFIX)

    @property
    def presence(self) -> TableName:
        return self.ledger.beside(self.ledger.identifier + PRESENCE_SUFFIX)

    @property
    def runs(self) -> TableName:
        return self.storage.runs_of(self.ledger)


class LedgerShape(LedgerColumns):
    """The columns of one scoring model's tables, in table order."""

    @property
    def row_columns(self) -> dict[str, str]:
        """The columns of current. History has one more, see `history_columns`."""
        return {**self.key, **self.outputs, **ROW_TYPES}

    @property
    def presence_columns(self) -> dict[str, str]:
        return {**self.key, **PRESENCE_TYPES}

    @property
    def history_columns(self) -> dict[str, str]:
        return {**self.row_columns, **HISTORY_TYPES}


def create_table(table: TableName, columns: Mapping[str, str], *, key: Collection[str] = ()) -> str:
    """SQL that creates a table unless it exists. It has no PRIMARY KEY and no index, because recent DuckDB
    versions have defects in both. Entities stay unique because each run checks the keys.

    Pass `key` for current and history, if the storage lets us choose the compression. Scores and hashes are
    left uncompressed, because their values rarely repeat.
    """
    chosen = {}
    if key:
        random = [n for n, kind in columns.items() if n not in key and kind in _RANDOM_TYPES]
        chosen = dict.fromkeys(random, " using compression uncompressed")
        chosen |= dict.fromkeys(_REPEATED, " using compression rle")
    body = ", ".join(f"{quote(n)} {kind}{chosen.get(n, '')}" for n, kind in columns.items())
    return f"create table if not exists {table.sql} ({body})"


def create_ledger(tables: LedgerTables, shape: LedgerShape) -> str:
    """SQL that creates the view that users read. The view names its tables without the database, because
    the database may be attached under another name later.
    """
    selected = select_ledger(tables, shape, parts=("schema", "identifier"))
    return f"create or replace view {tables.ledger.sql} as {selected}"


def select_ledger(
    tables: LedgerTables,
    shape: LedgerShape,
    *,
    parts: Sequence[str] = ("database", "schema", "identifier"),
) -> str:
    """SQL of the query of the ledger's view. `parts` are the parts of a table's name that it uses."""
    current, history, runs = (
        ".".join(quote(getattr(table, part)) for part in parts)
        for table in (tables.current, tables.history, tables.runs)
    )
    given = {name: f"predictions.{quote(name)}" for name in (*shape.key, "as_of", *shape.outputs)}
    given |= {
        "status": f"case when predictions.{REJECTED} is null then 'scored' else 'rejected' end",
        "rejected_reason": f"runs.rejected_reasons[predictions.{REJECTED}]",
        "score_reason": "cast(predictions.score_reason as varchar)",
        "is_late": "predictions.is_late",
        **{name: f"runs.{name}" for name in ("model_name", "model_version", "run_id")},
        # a service scored at the moment `as_of`; `runs.scored_at` is when a run took the answer over
        "scored_at": f"case when predictions.score_reason = '{REAL_TIME}' then predictions.as_of "
        "else runs.scored_at end",
        "features_hash": "predictions.features_hash",
    }
    listed = ", ".join(f"{sql} as {quote(name)}" for name, sql in given.items())
    columns = ", ".join(map(quote, shape.row_columns))
    return f"""
        select {listed}
        from (
            select {columns}, false as is_late from {current}
            union all
            select {columns}, is_late from {history}
        ) as predictions
        inner join {runs} as runs
            on predictions.{RUN} = runs.{RUN} and runs.status = 'success'"""


def select_current(tables: LedgerTables, shape: LedgerShape) -> str:
    """A query for the rows of current, with what later runs have found out about them.

    confirmed_as_of   the newest moment for which the row is known to hold: its `as_of` or later
    last_seen_as_of   NULL if the entity is present; else `as_of` of the last full run that saw the entity

    If all rows of a full run are about one moment, its run row confirms the scores of its version, and no
    row is written for them. The table of presence has the exceptions.
    """
    same_entity = same_key(shape.key, "presence", "known")
    return f"""(
        select
            known.*,
            presence.last_seen_as_of,
            case
                when presence.{RUN} is not null then presence.confirmed_as_of
                when known.{REJECTED} is null then greatest(known.as_of, ({_confirmed_by_runs(tables)})[known.{RUN}])
                else known.as_of
            end as confirmed_as_of
        from {tables.current.sql} as known
        left join {tables.presence.sql} as presence
            on {same_entity} and presence.{RUN} = known.{RUN}
    )"""


def _confirmed_by_runs(tables: LedgerTables) -> str:
    """SQL of a list, indexed by run number: the newest moment that this run or a later run of its version
    confirms. A join instead would cost as much as reading current, even if a query does not need the moment.
    """
    runs = tables.runs.sql
    confirms = "status = 'success' and scope = 'full' and has_one_moment"
    return f"""
        select list(confirming.as_of order by numbers.{RUN})
        from range(1, (select max({RUN}) + 1 from {runs})) as numbers({RUN})
        left join (
            select
                {RUN},
                max(case when {confirms} then as_of end) over (
                    partition by scoring_model, model_name, model_version order by {RUN} desc
                ) as as_of
            from {runs}
        ) as confirming using ({RUN})"""


def all_rows(tables: LedgerTables, columns: Sequence[str], *, where: str = "true") -> str:
    """A subquery of the rows of current and history, filtered by `where`."""
    listed = ", ".join(map(quote, columns))
    return (
        f"(select {listed}, false as is_late from {tables.current.sql} where {where} union all "
        f"select {listed}, is_late from {tables.history.sql} where {where})"
    )


def fingerprint(columns: str) -> str:
    """SQL of one hash over some columns of all rows, in any order. NULL without rows.

    Each row is hashed twice. DuckDB's hash of several columns is the exclusive or of one hash for the last
    column and one for the others, so after a single hash two rows could exchange a value unnoticed. An
    exclusive or with the fingerprint of some rows removes these rows from a fingerprint.
    """
    return f"bit_xor(hash(hash({columns})))"


def fingerprint_of_rows(*, key: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """SQL of one hash over all values in the rows of a run, in any order. `key` and `outputs` map the
    columns to their SQL types.
    """
    # hash the ENUM's code: its own hash depends on all values of the type, and a DuckLake stores text
    reason = f"enum_code(cast(score_reason as {ROW_TYPES['score_reason']}))"
    stamps = f"as_of, features_hash, {reason}, {REJECTED}, is_late"
    return fingerprint(f"{hashable_columns({**key, **outputs})}, {stamps}")


def describe_run(tables: LedgerTables, shape: LedgerShape) -> str:
    """SQL that returns the number of rows that a run has written, and two fingerprints: of the rows' keys,
    moments and features, as `plan.summarize` computes it for the planned rows, and of all their values.
    Parameter: $run_no.
    """
    return f"""
        select
            count(*),
            {fingerprint(f"{hashable_columns(shape.key)}, as_of, features_hash")},
            {fingerprint_of_rows(key=shape.key, outputs=shape.outputs)}
        from {all_rows(tables, list(shape.row_columns), where=f"{RUN} = $run_no")} as written"""


def count_rejected(tables: LedgerTables) -> str:
    """SQL that returns the number of rejected rows of a run for each reason's number. Parameter: $run_no."""
    rejected = f"{RUN} = $run_no and {REJECTED} is not null"
    return f"""
        select {REJECTED}, count(*) from {all_rows(tables, [REJECTED], where=rejected)} as written
        group by {REJECTED}"""
