"""The tables of a scoring model on Spark, and the SQL that creates and reads them.

    <name>__rows         every prediction, with what its model was fed; an Iceberg table
    <name>__superseded   which rows a run has taken the place of, until they are marked so in `__rows`
    <name>               the ledger, a view
    <name>__current      the newest prediction per entity and model version, a view
    <name>__history      every other one, a view
    <name>__inputs       what each run fed to the model, a view

No transaction spans two Iceberg tables, so rows come first and the run row makes them count. A row says by
`run_no` which run made the prediction, and by `from_run` which one wrote the row. Rows of a run that has
not succeeded are read by nobody, and neither is what it has superseded.

A run that finds an entity gone, back, or rejected writes the row of its last prediction again, with what is
known now, and without the inputs; it replaces the one before. So a row, once written, is never changed but for
`is_current` and `is_replaced`, by which those that count no longer are told from the others at no cost.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbt_onnx.engines.spark.sql import fingerprint, hashable, literal, named, quote
from dbt_onnx.errors import ConfigError
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.tables import RUN, RUNS_TABLE, LedgerColumns
from dbt_onnx.runs.tables import RUNS_TYPES as _RUNS_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.engines.base import TableName

FROM = "from_run"
REJECTED = "rejected_reason"
INPUTS = "inputs"
FED = "__dbt_onnx_fed_"
VIEW_PROPERTY = "dbt_onnx_text"
_SPARK_TYPES = {
    "VARCHAR": "string", "VARCHAR[]": "array<string>", "TIMESTAMP": "timestamp_ntz", "BIGINT": "bigint",
    "UBIGINT": "bigint", "INTEGER": "int", "BOOLEAN": "boolean", "DOUBLE": "double", "DOUBLE[]": "array<double>",
}  # fmt: skip
RUNS_TYPES = {name: _SPARK_TYPES[kind] for name, kind in _RUNS_TYPES.items()} | {
    "base_run_no": "int",
    "driver": "string",
}
"""Those of every engine, and two more: the newest run of the scoring model that had succeeded when this one
began, and the process that ran it."""
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
_PLACE_TYPES = {FROM: "int", "is_current": "boolean", "is_replaced": "boolean"}
"""`is_replaced`: a later row says the same prediction; this one is kept for its inputs."""


def spark_types(columns: Mapping[str, str]) -> dict[str, str]:
    """Columns of a table that every engine has, with Spark's types."""
    return {name: _SPARK_TYPES[kind] for name, kind in columns.items()}


@dataclass(frozen=True)
class LedgerTables:
    """The tables of one scoring model, by what they are for."""

    ledger: TableName

    def _own(self, suffix: str) -> TableName:
        return self.ledger.beside(f"{self.ledger.identifier}__{suffix}")

    @property
    def rows(self) -> TableName:
        return self._own("rows")

    @property
    def superseded(self) -> TableName:
        return self._own("superseded")

    @property
    def current(self) -> TableName:
        return self._own("current")

    @property
    def history(self) -> TableName:
        return self._own("history")

    @property
    def inputs(self) -> TableName:
        return self._own("inputs")

    @property
    def runs(self) -> TableName:
        return self.ledger.beside(RUNS_TABLE)

    @property
    def references(self) -> TableName:
        return self.ledger.beside("dbt_onnx_references")


class LedgerShape(LedgerColumns):
    """Columns of one scoring model's tables, in the order of the table."""

    def check_names(self) -> None:
        """Raise ContractError as for every engine, ConfigError when a name is one that `__rows` has for itself."""
        super().check_names()
        own = {*PRESENCE_TYPES, *_PLACE_TYPES, INPUTS}
        taken = [name for name in (*self.key, *self.outputs) if name.casefold() in own]
        if taken:
            raise ConfigError(
                f"column(s) {taken} of key or outputs are called as columns that dbt_onnx adds on Spark",
                hint="rename a key in the features model, and an output when exporting or registering the model",
            )

    @property
    def prediction_columns(self) -> dict[str, str]:
        """What a prediction says: it is the same in every row about it."""
        return {**self.key, **self.outputs, **ROW_TYPES}

    @property
    def current_columns(self) -> dict[str, str]:
        """Those of the view of current rows."""
        return {**self.prediction_columns, **PRESENCE_TYPES}

    @property
    def columns(self) -> dict[str, str]:
        """Those of `__rows`, without the inputs."""
        return {**self.current_columns, **_PLACE_TYPES}


def inputs_type(features: Mapping[str, str]) -> str:
    """The type of the column of kept inputs: a struct, so that a feature may be called as an output is."""
    return "struct<" + ", ".join(f"{quote(n)}: {kind}" for n, kind in features.items()) + ">"


def create_rows(tables: LedgerTables, shape: LedgerShape, features: Mapping[str, str]) -> str:
    """Create `__rows` unless it is there; `features` are SQL types of what is kept."""
    columns = {**shape.columns, INPUTS: inputs_type(features)}
    listed = ", ".join(f"{quote(name)} {kind}" for name, kind in columns.items())
    return (
        f"create table if not exists {named(tables.rows)} ({listed}) using iceberg partitioned by (is_current) "
        # few rows of a night are spread over all files: a file is not written again for them
        "tblproperties ('format-version' = '2', 'write.update.mode' = 'merge-on-read', "
        "'write.delete.mode' = 'merge-on-read', 'write.merge.mode' = 'merge-on-read', 'write.distribution-mode' = 'none', "
        "'write.spark.fanout.enabled' = 'true')"
    )


def create_superseded(tables: LedgerTables, shape: LedgerShape) -> str:
    """Create `__superseded` unless it is there."""
    columns = {**shape.key, RUN: "int", FROM: "int", "is_written_again": "boolean", "by_run": "int"}
    listed = ", ".join(f"{quote(name)} {kind}" for name, kind in columns.items())
    return f"create table if not exists {named(tables.superseded)} ({listed}) using iceberg partitioned by (by_run)"


def create_shared(table: TableName, columns: Mapping[str, str]) -> str:
    """Create a table of several scoring models unless it is there."""
    listed = ", ".join(f"{quote(name)} {kind}" for name, kind in columns.items())
    return (
        f"create table if not exists {named(table)} ({listed}) using iceberg "
        "tblproperties ('format-version' = '2', 'commit.retry.num-retries' = '20')"
    )


def committed(tables: LedgerTables) -> str:
    """The runs of the scoring model that count, as a relation."""
    return (
        f"(select * from {named(tables.runs)} where status = 'success' "
        f"and lower(scoring_model) = lower({literal(tables.ledger.identifier)}))"
    )


def superseded_rows(tables: LedgerTables) -> str:
    """What runs that count have superseded and is not marked so yet, as a relation."""
    return (
        f"(select superseded.* from {named(tables.superseded)} as superseded "
        f"left semi join {committed(tables)} as runs on superseded.by_run = runs.run_no)"
    )


def same_row(shape: LedgerShape, left: str, right: str) -> str:
    """SQL of whether two rows are one: a run may write an entity's rejection, and its last score again."""
    return " and ".join(f"{left}.{quote(n)} = {right}.{quote(n)}" for n in (*shape.key, RUN, FROM))


def create_view(view: TableName, text: str) -> str:
    """Make a view, with a property that tells its text."""
    property_ = f"{literal(VIEW_PROPERTY)} = {literal(digest_of_view(text))}"
    return f"create or replace view {named(view)} tblproperties ({property_}) as {text}"


def digest_of_view(text: str) -> str:
    """What `VIEW_PROPERTY` has."""
    return hashlib.sha256(text.encode()).hexdigest()


def select_counted(tables: LedgerTables, shape: LedgerShape) -> str:
    """The rows of runs that count, and whether such a run has taken their place. Without caches Spark reads a table
    anew for each place where a statement names it: two places that tell whether a run counts may disagree.
    So each table is read once here, and the runs last, since rows are written before.
    """
    columns = ", ".join(f"r.{quote(name)}" for name in shape.columns if name != "is_replaced")
    of_row = ", ".join(map(quote, (*shape.key, RUN, FROM)))
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
        where {counts.format(f"r.{FROM}")}"""


def select_current(tables: LedgerTables, shape: LedgerShape) -> str:
    """The rows that count now. A full run whose rows are all about one moment confirms those that it has seen
    and not scored, and writes none of them.
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
            r.{FROM}
        from ({select_counted(tables, shape)}) as r
        inner join {named(tables.runs)} as scorer on r.{RUN} = scorer.run_no
        where r.is_current and not r.is_superseded"""


def select_history(tables: LedgerTables, shape: LedgerShape) -> str:
    """Every prediction that is not current: superseded, late, of a row without a key."""
    listed = ", ".join(f"r.{quote(name)}" for name in shape.prediction_columns)
    return f"""
        select {listed}
        from ({select_counted(tables, shape)}) as r
        where (r.is_superseded or not r.is_current) and not r.is_replaced"""


def all_predictions(tables: LedgerTables, shape: LedgerShape) -> str:
    """Every prediction once, as a relation."""
    return f"(select * from ({select_counted(tables, shape)}) where not is_replaced)"


def select_ledger(tables: LedgerTables, shape: LedgerShape) -> str:
    """The same with what its run says of it."""
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
    """What each run fed to its model; of a row that was written again, the first one says it."""
    keys = ", ".join(f"r.{quote(name)}" for name in shape.key)
    return f"""
        select r.{RUN}, {keys}, r.{INPUTS}
        from {named(tables.rows)} as r
        left semi join {committed(tables)} as runs on r.{RUN} = runs.run_no
        where r.{INPUTS} is not null"""


def views_of(tables: LedgerTables, shape: LedgerShape) -> dict[TableName, str]:
    """What each view says. Each reads tables, so that Spark plans one statement and not four."""
    return {
        tables.current: select_current(tables, shape),
        tables.history: select_history(tables, shape),
        tables.ledger: select_ledger(tables, shape),
        tables.inputs: select_inputs(tables, shape),
    }


def kept_features(features: Mapping[str, str]) -> dict[str, str]:
    """{name in a statement: SQL} of kept inputs in the types that they had. A value that no longer fits its
    type was altered, and becomes NULL.
    """
    return {
        f"{FED}{place}": f"try_cast({INPUTS}.{quote(name)} as {kind})"
        for place, (name, kind) in enumerate(features.items())
    }


def fingerprint_of_inputs(key: Mapping[str, str], features: Mapping[str, str]) -> str:
    """SQL of a number for kept inputs, by the names of `kept_features`; `key` are types by what the statement
    calls its columns. It is exact, which the features hash is not.
    """
    fed = zip(kept_features(features), features.values(), strict=True)
    return fingerprint(hashable({**key, **dict(fed)}))


def fingerprint_of_rows(key: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """SQL of a number for all that rows of a run say, and by whom is not among it."""
    said = {name: kind for name, kind in ROW_TYPES.items() if name != RUN}
    return fingerprint(hashable({**key, **outputs, **said}))


def describe_run(tables: LedgerTables, shape: LedgerShape, features: Mapping[str, str]) -> str:
    """What a run has written: rows, how many with their inputs, and fingerprints: of what went in, which the
    plan computes, too, of all that they say, and of the kept inputs. Value: :run_no.
    """
    key = hashable(shape.key)
    fed = "".join(f", {sql} as {quote(name)}" for name, sql in kept_features(features).items())
    return f"""
        select
            count(*) as row_count,
            count({INPUTS}) as inputs_count,
            {fingerprint(f"{key}, as_of, features_hash")} as input_fingerprint,
            {fingerprint_of_rows(shape.key, shape.outputs)} as ledger_fingerprint,
            {fingerprint_of_inputs(shape.key, features)} filter (where {INPUTS} is not null) as inputs_fingerprint
        from (select *{fed} from {named(tables.rows)} where {RUN} = :run_no and {FROM} = :run_no)"""


def count_rejected(tables: LedgerTables) -> str:
    """How many rows of a run were rejected for each reason. Value: :run_no."""
    return (
        f"select {REJECTED}, count(*) from {named(tables.rows)} where {RUN} = :run_no and {FROM} = :run_no "
        f"and {REJECTED} is not null group by {REJECTED}"
    )
