"""The tables of a scoring model, and the SQL that creates and reads them.

    <name>            the ledger: every prediction ever made, a view over the next two and the runs
    <name>__current   the newest prediction per entity and model version
    <name>__history   every other one: superseded, late, of a row without a key, or a service's answer
    <name>__presence  what later runs have said of single rows of current: gone, or no longer confirmed
    <name>__inputs    what each run fed to the model, see `inputs`
    dbt_onnx_runs     one row per run and scoring model, and one for answers that it took over

A prediction is in one table, once. It moves from current to history when it is superseded, and is never
changed. What is the same for all rows of a run is in the run's row, which they name by number.

All lie in one schema, because DuckDB writes to one database per transaction and because
whoever reads a ledger through `--defer` must find its runs beside it. Timestamps are naive UTC.
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
"""The place of a row's reason in the list of its run, from 1; NULL in a row that was scored."""


ROW_TYPES = {
    "as_of": "TIMESTAMP",
    "features_hash": "UBIGINT",
    # written three times as fast as text
    "score_reason": f"ENUM({', '.join(map(literal, SCORE_REASONS))})",
    REJECTED: "USMALLINT",
    RUN: "INTEGER",
}
"""What each row says beside the key and the outputs."""
OLDER_REASONS = f"ENUM({', '.join(map(literal, SCORE_REASONS[:-1]))})"
"""The type of `score_reason` before a service's answers came into the ledger."""
PRESENCE_TYPES = {
    RUN: ROW_TYPES[RUN],
    "confirmed_as_of": "TIMESTAMP",
    "last_seen_as_of": "TIMESTAMP",
}
"""What is said of a row of current, which the key and its run tell. See `select_current`."""
HISTORY_TYPES = {"is_late": "BOOLEAN"}

# left to itself, DuckDB tries all ways to compress a column, and comes to these
_REPEATED = ("score_reason", REJECTED, RUN, *HISTORY_TYPES)
_RANDOM_TYPES = ("FLOAT", "DOUBLE", "UBIGINT")


@dataclass(frozen=True)
class LedgerTables:
    """The tables of one scoring model, by what they are for. `ledger` is a view."""

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
    """Columns of one scoring model's tables, in the order of the table."""

    @property
    def row_columns(self) -> dict[str, str]:
        """What a row has in current, and with one column more in history."""
        return {**self.key, **self.outputs, **ROW_TYPES}

    @property
    def presence_columns(self) -> dict[str, str]:
        return {**self.key, **PRESENCE_TYPES}

    @property
    def history_columns(self) -> dict[str, str]:
        return {**self.row_columns, **HISTORY_TYPES}


def create_table(table: TableName, columns: Mapping[str, str], *, key: Collection[str] = ()) -> str:
    """Create the table unless it is there. No PRIMARY KEY and no index: recent DuckDB
    defects concern both; the look at the keys of each run keeps entities unique.

    `key` is given for current and history, where DuckDB compresses them. Of their scores and hashes hardly
    one is as another.
    """
    chosen = {}
    if key:
        random = [n for n, kind in columns.items() if n not in key and kind in _RANDOM_TYPES]
        chosen = dict.fromkeys(random, " using compression uncompressed")
        chosen |= dict.fromkeys(_REPEATED, " using compression rle")
    body = ", ".join(f"{quote(n)} {kind}{chosen.get(n, '')}" for n, kind in columns.items())
    return f"create table if not exists {table.sql} ({body})"


def create_ledger(tables: LedgerTables, shape: LedgerShape) -> str:
    """Make the view that users read. Its tables are named without their database, which may be attached
    under another name.
    """
    selected = select_ledger(tables, shape, parts=("schema", "identifier"))
    return f"create or replace view {tables.ledger.sql} as {selected}"


def select_ledger(
    tables: LedgerTables,
    shape: LedgerShape,
    *,
    parts: Sequence[str] = ("database", "schema", "identifier"),
) -> str:
    """What the view should say, of tables that are named by these parts of their names."""
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
        # a service said it at the moment that it is about, and a run took it over later
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
    """The rows of current, and what runs have said of them since.

    confirmed_as_of   the newest moment for which the row is known to hold, its own `as_of` or later
    last_seen_as_of   the last full run that saw its entity, when a full run no longer did; else NULL

    A full run whose rows are all about one moment confirms the scores of its version by its own row, and
    writes none of them. The table of presence has those for which that is not true.
    """
    is_about = same_key(shape.key, "presence", "known")
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
            on {is_about} and presence.{RUN} = known.{RUN}
    )"""


def _confirmed_by_runs(tables: LedgerTables) -> str:
    """SQL of a list: by the number of a run, the newest moment that it or a later run of its version
    confirms. A join would cost as much as reading current, also where nobody asks for the moment.
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
    """A relation of the rows of both tables, or of some of them."""
    listed = ", ".join(map(quote, columns))
    return (
        f"(select {listed}, false as is_late from {tables.current.sql} where {where} union all "
        f"select {listed}, is_late from {tables.history.sql} where {where})"
    )


def fingerprint(columns: str) -> str:
    """SQL of a number for all rows of some columns, in any order. NULL without rows.

    Hashed twice: DuckDB's hash of several columns is an exclusive or of one for the last and one for
    those before, so a value that two rows exchange would cancel out. Some rows taken out are an
    exclusive or with their own fingerprint.
    """
    return f"bit_xor(hash(hash({columns})))"


def fingerprint_of_rows(*, key: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """SQL of a number for all that rows of a run say, whatever their order. `key` and `outputs` map
    the columns to their SQL types.
    """
    # an ENUM's hash depends on all of its values, and a lake keeps it as text
    reason = f"enum_code(cast(score_reason as {ROW_TYPES['score_reason']}))"
    stamps = f"as_of, features_hash, {reason}, {REJECTED}, is_late"
    return fingerprint(f"{hashable_columns({**key, **outputs})}, {stamps}")


def describe_run(tables: LedgerTables, shape: LedgerShape) -> str:
    """What a run has written: how many rows, and two fingerprints: of what went in, which
    `plan.summarize` computes for the rows that it planned, and of all that they say.
    Parameter: $run_no.
    """
    return f"""
        select
            count(*),
            {fingerprint(f"{hashable_columns(shape.key)}, as_of, features_hash")},
            {fingerprint_of_rows(key=shape.key, outputs=shape.outputs)}
        from {all_rows(tables, list(shape.row_columns), where=f"{RUN} = $run_no")} as written"""


def count_rejected(tables: LedgerTables) -> str:
    """How many rows of a run were rejected for each reason, by its number. Parameter: $run_no."""
    rejected = f"{RUN} = $run_no and {REJECTED} is not null"
    return f"""
        select {REJECTED}, count(*) from {all_rows(tables, [REJECTED], where=rejected)} as written
        group by {REJECTED}"""
