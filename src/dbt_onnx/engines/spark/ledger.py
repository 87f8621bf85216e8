"""The tables of a scoring model on Spark, and the SQL that creates and reads them.

    <name>__rows         every prediction with the inputs of its model; an Iceberg table
    <name>__superseded   the rows that a run supersedes, until they are marked in `__rows`; an Iceberg table
    <name>               the ledger, a view
    <name>__current      the newest score per entity and model version, and a newer rejection if there is one; a view
    <name>__history      every other prediction, a view
    <name>__inputs       the inputs that each run fed to the model, a view

No transaction spans two Iceberg tables. So a run first appends its rows, and later its run row makes them count. In
each row, `run_no` is the run that made the prediction, and `from_run` is the run that wrote the row. Readers ignore
the rows of a run that has not succeeded, and its entries in `__superseded`.

A run that finds an entity gone, back, rejected, or at a newer as_of copies the row of the entity's last prediction,
with the new presence columns and without the inputs. The copy replaces the older row, which is deleted unless it has
inputs. Otherwise, only `is_current` and `is_replaced` of a written row change: by these columns, readers skip rows
that no longer count, at no cost.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbt_onnx.artifacts.reference import REFERENCES_TABLE
from dbt_onnx.engines.spark.sql import fingerprint, hashable, literal, named, quote
from dbt_onnx.errors import ConfigError
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.tables import CURRENT_SUFFIX, HISTORY_SUFFIX, RUN, RUNS_TABLE, LedgerColumns
from dbt_onnx.runs.tables import RUNS_TYPES as _RUNS_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.engines.base import TableName

FROM_RUN = "from_run"
REJECTED = "rejected_reason"
INPUTS = "inputs"
KEPT_INPUT_PREFIX = "__dbt_onnx_fed_"
VIEW_PROPERTY = "dbt_onnx_text"
_SPARK_TYPES = {
    "VARCHAR": "string", "VARCHAR[]": "array<string>", "TIMESTAMP": "timestamp_ntz", "BIGINT": "bigint",
    "UBIGINT": "bigint", "INTEGER": "int", "BOOLEAN": "boolean", "DOUBLE": "double", "DOUBLE[]": "array<double>",
}  # fmt: skip


def spark_types(columns: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of a table that all engines share, with Spark's types."""
    return {name: _SPARK_TYPES[kind] for name, kind in columns.items()}


RUNS_TYPES = spark_types(_RUNS_TYPES) | {
    "base_run_no": "int",
    "driver": "string",
}
"""The columns that all engines have, and two more: `base_run_no` is the newest successful run of the scoring model
when this run began, `driver` is the process that ran it."""
ROW_TYPES = {
    "as_of": "timestamp_ntz",
    "features_hash": "bigint",
    "score_reason": "string",
    REJECTED: "string",
    RUN: "int",
    "is_late": "boolean",
}
PRESENCE_TYPES = {
    "last_seen_as_of": "timestamp_ntz",
    "confirmed_as_of": "timestamp_ntz",
    "is_confirmed_by_runs": "boolean",
}
"""`is_confirmed_by_runs`: a later full run of its version confirms the row without writing it again."""
_PLACE_TYPES = {FROM_RUN: "int", "is_current": "boolean", "is_replaced": "boolean"}
"""`is_replaced`: a later row is a copy of this one, which is only kept for its inputs."""


@dataclass(frozen=True)
class LedgerTables:
    """The names of the tables and views of one scoring model."""

    ledger: TableName

    def _own(self, suffix: str) -> TableName:
        return self.ledger.beside(f"{self.ledger.identifier}{suffix}")

    @property
    def rows(self) -> TableName:
        return self._own("__rows")

    @property
    def superseded(self) -> TableName:
        return self._own("__superseded")

    @property
    def current(self) -> TableName:
        return self._own(CURRENT_SUFFIX)

    @property
    def history(self) -> TableName:
        return self._own(HISTORY_SUFFIX)

    @property
    def inputs(self) -> TableName:
        return self._own("__inputs")

    @property
    def runs(self) -> TableName:
        return self.ledger.beside(RUNS_TABLE)

    @property
    def references(self) -> TableName:
        return self.ledger.beside(REFERENCES_TABLE)


class LedgerShape(LedgerColumns):
    """The columns of one scoring model's tables, in the order of the tables."""

    def check_names(self) -> None:
        """Raise ContractError if an output and a key have the same name, ConfigError if `__rows` reserves a name."""
        super().check_names()
        own = {*PRESENCE_TYPES, *_PLACE_TYPES, INPUTS}
        taken = [name for name in (*self.key, *self.outputs) if name.casefold() in own]
        if taken:
            raise ConfigError(
                f"key or output column(s) {taken} have names that dbt_onnx reserves on Spark",
                hint="rename a key in the features model, and an output when exporting or registering the model",
            )

    @property
    def prediction_columns(self) -> dict[str, str]:
        """The columns of a prediction, which have the same values in every copy of its row."""
        return {**self.key, **self.outputs, **ROW_TYPES}

    @property
    def current_columns(self) -> dict[str, str]:
        """The columns of the view of current rows."""
        return {**self.prediction_columns, **PRESENCE_TYPES}

    @property
    def columns(self) -> dict[str, str]:
        """The columns of `__rows`, without the inputs."""
        return {**self.current_columns, **_PLACE_TYPES}


def inputs_type(features: Mapping[str, str]) -> str:
    """Return the SQL type of the kept inputs: a struct, so that a feature and an output may have the same name."""
    return "struct<" + ", ".join(f"{quote(n)}: {kind}" for n, kind in features.items()) + ">"


def create_rows(tables: LedgerTables, shape: LedgerShape, features: Mapping[str, str]) -> str:
    """SQL that creates `__rows` unless it exists. `features` maps the names of the kept features to their SQL types."""
    columns = {**shape.columns, INPUTS: inputs_type(features)}
    listed = ", ".join(f"{quote(name)} {kind}" for name, kind in columns.items())
    return (
        f"create table if not exists {named(tables.rows)} ({listed}) using iceberg partitioned by (is_current) "
        # a night changes few rows, spread over all files: merge-on-read does not rewrite the files for them
        "tblproperties ('format-version' = '2', 'write.update.mode' = 'merge-on-read', "
        "'write.delete.mode' = 'merge-on-read', 'write.merge.mode' = 'merge-on-read', 'write.distribution-mode' = 'none', "
        "'write.spark.fanout.enabled' = 'true')"
    )


def create_superseded(tables: LedgerTables, shape: LedgerShape) -> str:
    """SQL that creates `__superseded` unless it exists."""
    columns = {
        **shape.key,
        RUN: "int",
        FROM_RUN: "int",
        "is_written_again": "boolean",
        "by_run": "int",
    }
    listed = ", ".join(f"{quote(name)} {kind}" for name, kind in columns.items())
    return f"create table if not exists {named(tables.superseded)} ({listed}) using iceberg partitioned by (by_run)"


def create_shared(table: TableName, columns: Mapping[str, str]) -> str:
    """SQL that creates a table shared by several scoring models unless it exists."""
    listed = ", ".join(f"{quote(name)} {kind}" for name, kind in columns.items())
    return (
        f"create table if not exists {named(table)} ({listed}) using iceberg "
        "tblproperties ('format-version' = '2', 'commit.retry.num-retries' = '20')"
    )


def committed(tables: LedgerTables) -> str:
    """SQL for a FROM clause: the successful runs of the scoring model."""
    return (
        f"(select * from {named(tables.runs)} where status = 'success' "
        f"and lower(scoring_model) = lower({literal(tables.ledger.identifier)}))"
    )


def superseded_rows(tables: LedgerTables) -> str:
    """SQL for a FROM clause: the entries of `__superseded` from successful runs, not yet marked in `__rows`."""
    return (
        f"(select superseded.* from {named(tables.superseded)} as superseded "
        f"left semi join {committed(tables)} as runs on superseded.by_run = runs.run_no)"
    )


def rows_of_run(tables: LedgerTables) -> str:
    """SQL for a FROM clause: the predictions that a run has made, as the run wrote them. Value: :run_no."""
    return f"(select * from {named(tables.rows)} where {RUN} = :run_no and {FROM_RUN} = :run_no)"


def same_row(shape: LedgerShape, left: str, right: str) -> str:
    """SQL condition: two rows are the same. It compares both run numbers, since one run may write a rejection of an
    entity and a copy of its last score.
    """
    return " and ".join(
        f"{left}.{quote(n)} = {right}.{quote(n)}" for n in (*shape.key, RUN, FROM_RUN)
    )


def create_view(view: TableName, text: str) -> str:
    """SQL that creates a view, with a digest of its text as a property."""
    property_ = f"{literal(VIEW_PROPERTY)} = {literal(digest_of_view(text))}"
    return f"create or replace view {named(view)} tblproperties ({property_}) as {text}"


def digest_of_view(text: str) -> str:
    """Return the value of `VIEW_PROPERTY`."""
    return hashlib.sha256(text.encode()).hexdigest()


def select_counted(tables: LedgerTables, shape: LedgerShape) -> str:
    """SQL that selects the rows of successful runs, and whether another successful run has superseded each row.

    Without caches, Spark reads a table once for each place where a statement names it. Two such reads may disagree on
    whether a run has succeeded. So this statement names each table once, and the runs last: rows are written first.
    """
    columns = ", ".join(f"r.{quote(name)}" for name in shape.columns if name != "is_replaced")
    of_row = ", ".join(map(quote, (*shape.key, RUN, FROM_RUN)))
    counts = "{0} <= counted.newest and not array_contains(counted.others, {0})"
    return f"""
        select
            {columns},
            counted.confirmed,
            coalesce(exists(s.lists, list -> {counts.format("list.by_run")}), false) as is_superseded,
            r.is_replaced or coalesce(
                exists(s.lists, list -> list.is_written_again and {counts.format("list.by_run")}), false
            ) as is_replaced
        from {named(tables.rows)} as r
        left join (
            select {of_row}, collect_list(struct(by_run, is_written_again)) as lists
            from {named(tables.superseded)} group by {of_row}
        ) as s on {same_row(shape, "r", "s")}
        cross join (
            select
                max(newest) as newest,
                flatten(collect_list(others)) as others,
                map_from_entries(collect_list(struct(model, as_of))) as confirmed
            from (
                select
                    struct(model_name, model_version) as model,
                    max(run_no) filter (where status = 'success') as newest,
                    collect_list(run_no) filter (where status <> 'success') as others,
                    max(as_of) filter (where status = 'success' and scope = 'full' and has_one_moment) as as_of
                from {named(tables.runs)}
                where lower(scoring_model) = lower({literal(tables.ledger.identifier)})
                group by model_name, model_version
            )
        ) as counted
        where {counts.format(f"r.{FROM_RUN}")}"""


def select_current(tables: LedgerTables, shape: LedgerShape) -> str:
    """SQL that selects the current rows. A full run whose rows all have the same as_of confirms the rows that it saw
    and did not score. It does not write them again: the view takes their `confirmed_as_of` from the run row.
    """
    listed = ", ".join(f"r.{quote(name)}" for name in shape.prediction_columns)
    confirmed = "r.confirmed[struct(scorer.model_name, scorer.model_version)]"
    return f"""
        select
            {listed},
            r.last_seen_as_of,
            case when r.is_confirmed_by_runs and {confirmed} > r.as_of
                then greatest(r.confirmed_as_of, {confirmed}) else r.confirmed_as_of
            end as confirmed_as_of,
            r.is_confirmed_by_runs,
            r.{FROM_RUN}
        from ({select_counted(tables, shape)}) as r
        inner join {named(tables.runs)} as scorer on r.{RUN} = scorer.run_no
        where r.is_current and not r.is_superseded"""


def select_history(tables: LedgerTables, shape: LedgerShape) -> str:
    """SQL that selects every prediction that is not current: superseded, late, or for a row without a key."""
    listed = ", ".join(f"r.{quote(name)}" for name in shape.prediction_columns)
    return f"""
        select {listed}
        from ({select_counted(tables, shape)}) as r
        where (r.is_superseded or not r.is_current) and not r.is_replaced"""


def all_predictions(tables: LedgerTables, shape: LedgerShape) -> str:
    """SQL for a FROM clause: every prediction once."""
    return f"(select * from ({select_counted(tables, shape)}) where not is_replaced)"


def select_ledger(tables: LedgerTables, shape: LedgerShape) -> str:
    """SQL that selects every prediction once, with the columns that come from its run row."""
    moment = f"case when predictions.score_reason = '{REAL_TIME}' then predictions.as_of else runs.scored_at end"
    listed = [f"predictions.{quote(name)}" for name in (*shape.key, "as_of", *shape.outputs)]
    listed += [
        f"case when predictions.{REJECTED} is null then 'scored' else 'rejected' end as status",
        f"predictions.{REJECTED}",
        "predictions.score_reason",
        "predictions.is_late",
        *(f"runs.{name}" for name in ("model_name", "model_version", "run_id")),
        f"{moment} as scored_at",
        "predictions.features_hash",
    ]
    return f"""
        select {", ".join(listed)}
        from {all_predictions(tables, shape)} as predictions
        inner join {named(tables.runs)} as runs on predictions.{RUN} = runs.run_no"""


def select_inputs(tables: LedgerTables, shape: LedgerShape) -> str:
    """SQL that selects the inputs that each run fed to its model. Copies of a row have no inputs, only the original."""
    keys = ", ".join(f"r.{quote(name)}" for name in shape.key)
    return f"""
        select r.{RUN}, {keys}, r.{INPUTS}
        from {named(tables.rows)} as r
        left semi join {committed(tables)} as runs on r.{RUN} = runs.run_no
        where r.{INPUTS} is not null"""


def views_of(tables: LedgerTables, shape: LedgerShape) -> dict[TableName, str]:
    """Return {view: SQL}. Each view reads tables, not other views, so that Spark plans one statement and not four."""
    return {
        tables.current: select_current(tables, shape),
        tables.history: select_history(tables, shape),
        tables.ledger: select_ledger(tables, shape),
        tables.inputs: select_inputs(tables, shape),
    }


def kept_features(features: Mapping[str, str]) -> dict[str, str]:
    """Return {name in a statement: SQL} for kept inputs, cast to the types that they had. A value that no longer fits
    its type was altered, and becomes NULL.
    """
    return {
        f"{KEPT_INPUT_PREFIX}{place}": f"try_cast({INPUTS}.{quote(name)} as {kind})"
        for place, (name, kind) in enumerate(features.items())
    }


def fingerprint_of_inputs(key: Mapping[str, str], features: Mapping[str, str]) -> str:
    """SQL aggregate for the fingerprint of kept inputs, under the names of `kept_features`. `key` maps the names of the
    key columns in the statement to their SQL types. The fingerprint is of exact values; the features hash rounds them.
    """
    inputs = zip(kept_features(features), features.values(), strict=True)
    return fingerprint(hashable({**key, **dict(inputs)}))


def fingerprint_of_rows(key: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """SQL aggregate for the fingerprint of all columns of a run's predictions, except the run number."""
    row_types = {name: kind for name, kind in ROW_TYPES.items() if name != RUN}
    return fingerprint(hashable({**key, **outputs, **row_types}))


def describe_run(tables: LedgerTables, shape: LedgerShape, features: Mapping[str, str]) -> str:
    """SQL that returns one row about what a run has written: the row count, the count of rows with inputs, and three
    fingerprints: of key, as_of and features hash (the plan computes the same), of all prediction columns, and of the
    kept inputs. Value: :run_no.
    """
    key = hashable(shape.key)
    inputs = "".join(f", {sql} as {quote(name)}" for name, sql in kept_features(features).items())
    return f"""
        select
            count(*) as row_count,
            count({INPUTS}) as inputs_count,
            {fingerprint(f"{key}, as_of, features_hash")} as input_fingerprint,
            {fingerprint_of_rows(shape.key, shape.outputs)} as ledger_fingerprint,
            {fingerprint_of_inputs(shape.key, features)} filter (where {INPUTS} is not null) as inputs_fingerprint
        from (select *{inputs} from {rows_of_run(tables)})"""


def count_rejected(tables: LedgerTables) -> str:
    """SQL that counts the rejected rows of a run for each reason. Value: :run_no."""
    return (
        f"select {REJECTED}, count(*) from {rows_of_run(tables)} "
        f"where {REJECTED} is not null group by {REJECTED}"
    )
