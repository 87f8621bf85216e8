"""The tables of a scoring model, and the SQL that creates, fills and repairs them.

    <name>            the ledger: every prediction ever made, append-only
    <name>__latest    the newest prediction per entity and model version, derived from the ledger
    <name>__inputs    what each run fed to the model, see `inputs`
    dbt_onnx_runs     one row per run and scoring model

All lie in one schema, because DuckDB writes to one database per transaction and because
whoever reads a ledger through `--defer` must find its runs beside it. Timestamps are naive UTC.
Nothing here touches a warehouse: every function returns SQL text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.feature_types import hashable
from dbt_onnx.engines.duckdb.identifiers import compared, literal, quote
from dbt_onnx.runs.plan import SCORE_REASONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.artifacts.registry import ModelVersion
    from dbt_onnx.engines.base import TableName

LATEST_SUFFIX = "__latest"
RUNS_TABLE = "dbt_onnx_runs"

STATUSES = ("scored", "rejected")


def enum_type(values: Sequence[str]) -> str:
    """DuckDB's name of the type: it is written three times as fast as text."""
    return f"ENUM({', '.join(map(literal, values))})"


def is_text(sql_type: str) -> bool:
    """Whether values of the type are text for whoever reads them."""
    return sql_type == "VARCHAR" or (sql_type.startswith("ENUM(") and sql_type.endswith(")"))


STAMP_TYPES = {
    "as_of": "TIMESTAMP",
    "status": enum_type(STATUSES),
    "rejected_reason": "VARCHAR",
    "score_reason": enum_type(SCORE_REASONS),
    "is_late": "BOOLEAN",
    "model_name": "VARCHAR",
    "model_version": "VARCHAR",
    "run_id": "VARCHAR",
    "scored_at": "TIMESTAMP",
    "features_hash": "UBIGINT",
}
# why a row was written says nothing about what holds
LEDGER_ONLY = ("score_reason", "is_late")
LATEST_TYPES = {"last_seen_as_of": "TIMESTAMP", "confirmed_as_of": "TIMESTAMP"}
MODEL = ("model_name", "model_version")
# left to itself, DuckDB tries all ways to compress a column, and comes to these. Not pinned in the
# ledger: a column so compressed cannot become text
_REPEATED_IN_LATEST = ("status", "scored_at", *MODEL, *LATEST_TYPES)
_RANDOM_TYPES = ("FLOAT", "DOUBLE", "UBIGINT")

RUNS_TYPES = {
    "run_id": "VARCHAR",
    "scoring_model": "VARCHAR",
    "status": "VARCHAR",
    "scope": "VARCHAR",
    "clock": "TIMESTAMP",
    "started_at": "TIMESTAMP",
    "ended_at": "TIMESTAMP",
    "as_of": "TIMESTAMP",
    "scored_at": "TIMESTAMP",
    "rows_in": "BIGINT",
    "rows_scored": "BIGINT",
    "rows_rejected": "BIGINT",
    "rows_unchanged": "BIGINT",
    **{f"rows_{reason}": "BIGINT" for reason in SCORE_REASONS},
    "rows_inputs_kept": "BIGINT",
    "key_columns": "VARCHAR[]",
    "features_relation": "VARCHAR",
    "registry_relation": "VARCHAR",
    "features": "VARCHAR[]",
    "feature_types": "VARCHAR[]",
    "feature_precisions": "VARCHAR[]",
    "output_columns": "VARCHAR[]",
    "model_name": "VARCHAR",
    "model_version": "VARCHAR",
    "model_alias": "VARCHAR",
    "artifact_sha256": "VARCHAR",
    "card_sha256": "VARCHAR",
    "input_fingerprint": "UBIGINT",
    "ledger_fingerprint": "UBIGINT",
    "inputs_fingerprint": "UBIGINT",
    "features_hash_function": "VARCHAR",
    "onnxruntime_version": "VARCHAR",
    "provider": "VARCHAR",
    "threads": "INTEGER",
    "workers": "INTEGER",
    "batch_rows": "INTEGER",
    "in_child_process": "BOOLEAN",
    "dbt_onnx_version": "VARCHAR",
    "dbt_version": "VARCHAR",
    "warehouse_version": "VARCHAR",
    "error": "VARCHAR",
}


@dataclass(frozen=True, kw_only=True)
class LedgerShape:
    """The columns of one scoring model: SQL types by name, in the order of the table."""

    key: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def ledger_columns(self) -> dict[str, str]:
        first = {"as_of": STAMP_TYPES["as_of"]}
        return {**self.key, **first, **self.outputs, **STAMP_TYPES}

    @property
    def latest_columns(self) -> dict[str, str]:
        said = {n: kind for n, kind in self.ledger_columns.items() if n not in LEDGER_ONLY}
        return {**said, **LATEST_TYPES}


def create_table(
    table: TableName, columns: Mapping[str, str], *, compressions: Mapping[str, str] | None = None
) -> str:
    """Create the table unless it is there. No PRIMARY KEY and no index: recent DuckDB
    defects concern both; the look at the keys of each run keeps entities unique.
    """
    chosen = compressions or {}
    body = ", ".join(
        f"{quote(name)} {sql_type}"
        + (f" using compression {chosen[name]}" if name in chosen else "")
        for name, sql_type in columns.items()
    )
    return f"create table if not exists {table.sql} ({body})"


def create_ledger(table: TableName, shape: LedgerShape, model: ModelVersion) -> str:
    """Create the ledger that a model, (name, version), begins, unless it is there."""
    columns = {**shape.ledger_columns, **_types_of(model)}
    return create_table(table, columns, compressions=_uncompressed(shape, columns))


def create_latest(table: TableName, shape: LedgerShape, model: ModelVersion) -> str:
    """The same for the latest table."""
    columns = {**shape.latest_columns, **_types_of(model)}
    repeated = dict.fromkeys(_REPEATED_IN_LATEST, "rle")
    return create_table(table, columns, compressions=_uncompressed(shape, columns) | repeated)


def _types_of(model: ModelVersion) -> dict[str, str]:
    return {name: enum_type([value]) for name, value in zip(MODEL, model, strict=True)}


def _uncompressed(shape: LedgerShape, columns: Mapping[str, str]) -> dict[str, str]:
    """Scores and hashes, of which hardly one is as another."""
    random = (n for n, kind in columns.items() if n not in shape.key and kind in _RANDOM_TYPES)
    return dict.fromkeys(random, "uncompressed")


def values_of_enum(table: TableName, name: str) -> str:
    """All values of a column's type, as a list; the table may have no rows."""
    return f"select enum_range(max({quote(name)})) from (select {quote(name)} from {table.sql} limit 0)"


def add_column(table: TableName, name: str, sql_type: str) -> str:
    """Add a column; the rows that are there have NULL in it."""
    return f"alter table {table.sql} add column {quote(name)} {sql_type}"


def retype_column(table: TableName, name: str, sql_type: str, *, using: str | None = None) -> str:
    """Change a column's type; its values are cast, or become what the SQL `using` says."""
    how = "" if using is None else f" using {using}"
    return f"alter table {table.sql} alter column {quote(name)} set data type {sql_type}{how}"


def insert_predictions(ledger: TableName, shape: LedgerShape, *, stream: str) -> str:
    """Append a scoring stream. Parameters: $model_name, $model_version, $run_id, $scored_at.

    The stamps are bound in SQL rather than streamed, and the reason comes as its place in
    `SCORE_REASONS`, which is cheaper.
    """
    values = {
        name: f'cast("__dbt_onnx_key_{position}" as {sql_type})'
        for position, (name, sql_type) in enumerate(shape.key.items())
    }
    reasons = ", ".join(map(literal, SCORE_REASONS))
    values["as_of"] = '"__dbt_onnx_as_of"'
    values |= {name: quote(name) for name in shape.outputs}
    values["status"] = (
        "case when rejected_reason is null "
        f"then {_enum('scored', STAMP_TYPES['status'])} else {_enum('rejected', STAMP_TYPES['status'])} end"
    )
    values["rejected_reason"] = "rejected_reason"
    values["score_reason"] = (
        f'cast([{reasons}] as {STAMP_TYPES["score_reason"]}[])["__dbt_onnx_score_reason" + 1]'
    )
    values |= {name: f'"__dbt_onnx_{name}"' for name in ("is_late", "features_hash")}
    values |= {name: f"${name}" for name in ("model_name", "model_version", "run_id", "scored_at")}
    columns = ", ".join(quote(name) for name in values)
    return f"insert into {ledger.sql} ({columns}) select {', '.join(values.values())} from {stream}"


def fingerprint(columns: str) -> str:
    """SQL of a number for all rows of some columns, in any order. NULL without rows.

    Hashed twice: DuckDB's hash of several columns is an exclusive or of one for the last and one for
    those before, so a value that two rows exchange would cancel out.
    """
    return f"bit_xor(hash(hash({columns})))"


def fingerprints_of_run(
    ledger: TableName, *, key: Mapping[str, str], outputs: Mapping[str, str]
) -> str:
    """How many rows a run has appended, how many were rejected for each reason, and two numbers for
    them, whatever their order: of what went in, which `plan.summarize` computes for the rows that it
    planned, and of all that they say. A row whose run or time was altered is no longer among them. `key` and `outputs` map the columns to their SQL types.
    Parameters: $run_id, $scored_at.
    """
    keys = [hashable(quote(name), kind) for name, kind in key.items()]
    values = [hashable(quote(name), kind) for name, kind in outputs.items()]
    texts = [name for name, kind in STAMP_TYPES.items() if is_text(kind) and name != "run_id"]
    others = [n for n in STAMP_TYPES if n not in texts and n not in {"run_id", "scored_at"}]
    # an ENUM's number depends on the type, its text does not, and is read once for rows with the same
    listed = ", ".join(hashable(f"cast({quote(name)} as varchar)", "VARCHAR") for name in texts)
    # reasons that differ in the name of a feature are two, whatever the session's collation
    grouped = [compared(n, "VARCHAR") if n == "rejected_reason" else quote(n) for n in texts]
    return f"""
        select
            coalesce(sum(occurrences), 0),
            list({{'reason': rejected_reason, 'rows': occurrences}}) filter (status = 'rejected'),
            bit_xor(inputs),
            {fingerprint(f"said, occurrences, {listed}")}
        from (
            select
                {", ".join(f"{text} as {quote(name)}" for text, name in zip(grouped, texts, strict=True))},
                {fingerprint(", ".join((*keys, quote("as_of"), quote("features_hash"))))} as inputs,
                {fingerprint(", ".join((*keys, *values, *map(quote, others))))} as said,
                count(*) as occurrences
            from {ledger.sql}
            where run_id = $run_id and scored_at = $scored_at
            group by {", ".join(grouped)}
        ) as rows_alike"""


def _enum(value: str, sql_type: str) -> str:
    return f"cast({literal(value)} as {sql_type})"


def delete_replaced(ledger: TableName, latest: TableName, shape: LedgerShape) -> str:
    """Take out of `latest` what the rows that this full run appended to the ledger replace. A MERGE, or
    an UPDATE, which rewrite each column that they touch, take three times as long, `using` twice. The
    model is one of the columns compared: a filter would make DuckDB expect few rows of `latest`.

    Parameters: $run_id, $scored_at.
    """
    return f"""
        delete from {latest.sql} as latest
        where exists (
            select 1 from ({_said_by_run(ledger, shape)}) as said
            where {_same(shape, "latest", "said", "status", *MODEL)}
        )"""


def rewrite_without_replaced(ledger: TableName, latest: TableName, shape: LedgerShape) -> str:
    """The same by writing the table anew, in bounded memory: a DELETE holds the transaction of each row
    next to one that goes. Parameters: $run_id, $scored_at.
    """
    return f"""
        create or replace table {latest.sql} as
        select latest.* from {latest.sql} as latest
        anti join ({_said_by_run(ledger, shape)}) as said
            on {_same(shape, "latest", "said", "status", *MODEL)}"""


def insert_latest(ledger: TableName, latest: TableName, shape: LedgerShape) -> str:
    """Put the rows that this full run appended to the ledger into `latest`. A late row stays in the
    ledger only. Parameters: $run_id, $scored_at.
    """
    columns = ", ".join(quote(name) for name in shape.latest_columns if name not in LATEST_TYPES)
    return f"insert into {latest.sql} ({columns}) select {columns} from ({_said_by_run(ledger, shape)})"


def _said_by_run(ledger: TableName, shape: LedgerShape) -> str:
    return (
        f"select * from {ledger.sql} where run_id = $run_id and scored_at = $scored_at "
        f"and not is_late and {_not_null(shape.key)}"
    )


def rows_of_model(latest: TableName) -> str:
    """How many rows `latest` has of this model version, and whether there are rejections among them.
    Parameters: $model_name, $model_version.
    """
    return (
        f"select count(*), count(*) filter (status = 'rejected') > 0 from {latest.sql} as latest "
        f"where {_is_model('latest')}"
    )


def confirm_rows(latest: TableName, shape: LedgerShape, *, rows_sql: str) -> str:
    """Unchanged rows that came with a newer moment of their own. `rows_sql` gives their keys, as
    `__dbt_onnx_key_0`, ..., and `__dbt_onnx_as_of`. Parameters: $model_name, $model_version.
    """
    same = " and ".join(
        f'confirmed."__dbt_onnx_key_{i}" = {compared(name, kind, of="latest")}'
        for i, (name, kind) in enumerate(shape.key.items())
    )
    return f"""
        update {latest.sql} as latest set confirmed_as_of = confirmed."__dbt_onnx_as_of"
        from ({rows_sql}) as confirmed
        where {same} and {_is_model("latest")} and latest.status = 'scored'"""


def confirm_present(latest: TableName, shape: LedgerShape) -> str:
    """The same where all rows of a full run are about one moment: no join finds them, 10 million in
    0.3 s instead of 3.6 s. Parameters: $model_name, $model_version, $run_as_of.
    """
    return f"""
        update {latest.sql} as latest set confirmed_as_of = $run_as_of
        where {_is_model("latest")} and latest.status = 'scored' and latest.last_seen_as_of is null
            and greatest(latest.as_of, latest.confirmed_as_of) < $run_as_of
            and not exists (
                select 1 from {latest.sql} as rejected
                where rejected.status = 'rejected' and {_same(shape, "rejected", "latest", *MODEL)}
            )"""


def delete_healed(latest: TableName, shape: LedgerShape) -> str:
    """A rejection stands in latest only until the entity is scored again."""
    return f"""
        delete from {latest.sql} as rejected
        where rejected.status = 'rejected' and exists (
            select 1 from {latest.sql} as scored
            where scored.status = 'scored' and {_same(shape, "scored", "rejected", *MODEL)}
                and scored.scored_at > rejected.scored_at
        )"""


def mark_rejected_present(latest: TableName, shape: LedgerShape) -> str:
    """An entity that was away and whose row is rejected now is back, and so is its earlier score."""
    return f"""
        update {latest.sql} as scored set last_seen_as_of = null
        from {latest.sql} as rejected
        where scored.status = 'scored' and scored.last_seen_as_of is not null
            and rejected.status = 'rejected' and rejected.last_seen_as_of is null
            and {_same(shape, "rejected", "scored", *MODEL)}"""


def mark_absent(latest: TableName, shape: LedgerShape, *, features_sql: str) -> str:
    """Entities that a full run no longer found: remember the run that saw them last.

    Parameters: $model_name, $model_version, $last_full_as_of.
    """
    return f"""
        update {latest.sql} as latest set last_seen_as_of = $last_full_as_of
        where {_is_model("latest")} and latest.last_seen_as_of is null
            and not exists (
                select 1 from ({features_sql}) as features
                where {_same(shape, "features", "latest")}
            )"""


def mark_returned(latest: TableName, shape: LedgerShape, *, features_sql: str) -> str:
    """Entities that are back, with features that have not changed since."""
    return f"""
        update {latest.sql} as latest set last_seen_as_of = null
        where {_is_model("latest")} and latest.last_seen_as_of is not null
            and exists (
                select 1 from ({features_sql}) as features
                where {_same(shape, "features", "latest")}
            )"""


def rebuild_latest(ledger: TableName, shape: LedgerShape) -> str:
    """The content of latest, derived from the ledger alone.

    Who was present at which full run is not in the ledger, so `last_seen_as_of` starts as the
    row's own `as_of`: a rebuilt table is never fresher than the truth, and the next full run
    confirms what is there.
    """
    columns = ", ".join(quote(n) for n in shape.latest_columns if n not in LATEST_TYPES)
    keys = [compared(name, kind) for name, kind in shape.key.items()]
    entity = ", ".join((*keys, *map(quote, MODEL)))
    return f"""
        with newest as (
            select {columns} from {ledger.sql}
            where not is_late and {_not_null(shape.key)}
            qualify row_number() over (partition by {entity}, status order by scored_at desc) = 1
        )

        select {columns}, as_of as last_seen_as_of, cast(null as timestamp) as confirmed_as_of
        from newest
        qualify status = 'scored'
            or row_number() over (partition by {entity} order by scored_at desc) = 1"""


def _same(shape: LedgerShape, left: str, right: str, *columns: str) -> str:
    """That two rows are about one entity, and agree in `columns`."""
    keys = (
        f"{compared(name, kind, of=left)} = {compared(name, kind, of=right)}"
        for name, kind in shape.key.items()
    )
    others = (f"{left}.{quote(name)} = {right}.{quote(name)}" for name in columns)
    return " and ".join((*keys, *others))


def _not_null(columns: Mapping[str, str], alias: str | None = None) -> str:
    prefix = f"{alias}." if alias else ""
    return " and ".join(f"{prefix}{quote(name)} is not null" for name in columns)


def _is_model(alias: str) -> str:
    return f"{alias}.model_name = $model_name and {alias}.model_version = $model_version"


def empty_relation(columns: Mapping[str, str]) -> str:
    """A typed relation without rows, standing for a table that does not exist yet."""
    body = ", ".join(f"cast(null as {kind}) as {quote(name)}" for name, kind in columns.items())
    return f"(select {body} where false)"


def find_view(table: TableName) -> str:
    """SQL that returns a row when this is the name of a view."""
    return (
        f"select 1 from duckdb_views() where database_name = {literal(table.database)} "
        f"and schema_name = {literal(table.schema)} and lower(view_name) = lower({literal(table.identifier)})"
    )
