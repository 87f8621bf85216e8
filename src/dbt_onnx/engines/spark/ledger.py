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
known now, and supersedes the one before. So a row, once written, is never changed but for `is_current`, by
which those that count no longer are told from the others at no cost. It is NULL in the first row of a prediction
that was written again: nobody reads that but for its inputs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbt_onnx.engines.spark.sql import fingerprint, hashable, literal, named, quote
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
    "has_one_moment": "boolean",
    "driver": "string",
}
"""Those of every engine, and three more: the newest run of the scoring model that had succeeded when this one
began, whether all rows were about one moment, and the process that ran it."""
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
_PLACE_TYPES = {FROM: "int", "is_current": "boolean"}


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
        "'write.delete.mode' = 'merge-on-read', 'write.distribution-mode' = 'none', "
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


def select_current(tables: LedgerTables, shape: LedgerShape) -> str:
    """The rows that count now. A full run whose rows are all about one moment confirms those that it has seen
    and not scored, and writes none of them.
    """
    listed = ", ".join(f"r.{quote(name)}" for name in shape.prediction_columns)
    return f"""
        select
            {listed},
            r.last_seen_as_of,
            case when r.is_confirmed_by_runs and confirmed.as_of > r.as_of
                then greatest(r.confirmed_as_of, confirmed.as_of) else r.confirmed_as_of
            end as confirmed_as_of,
            r.is_confirmed_by_runs,
            r.{FROM}
        from {named(tables.rows)} as r
        inner join {committed(tables)} as writer on r.{FROM} = writer.run_no
        inner join {committed(tables)} as scorer on r.{RUN} = scorer.run_no
        left join (
            select model_name, model_version, max(as_of) as as_of
            from {committed(tables)} as runs
            where scope = 'full' and has_one_moment
            group by model_name, model_version
        ) as confirmed
            on scorer.model_name = confirmed.model_name and scorer.model_version = confirmed.model_version
        left anti join {superseded_rows(tables)} as s on {same_row(shape, "r", "s")}
        where r.is_current"""


def select_history(tables: LedgerTables, shape: LedgerShape) -> str:
    """Every prediction that is not current: superseded, late, of a row without a key."""
    listed = ", ".join(f"r.{quote(name)}" for name in shape.prediction_columns)
    return f"""
        select {listed}
        from {named(tables.rows)} as r
        left semi join {committed(tables)} as writer on r.{FROM} = writer.run_no
        where not r.is_current
        union all
        select {listed}
        from {named(tables.rows)} as r
        left semi join {committed(tables)} as writer on r.{FROM} = writer.run_no
        left semi join {superseded_rows(tables)} as s
            on {same_row(shape, "r", "s")} and not s.is_written_again
        where r.is_current"""


def all_predictions(tables: LedgerTables, shape: LedgerShape) -> str:
    """Every prediction once, as a relation."""
    columns = ", ".join(map(quote, shape.prediction_columns))
    return f"""(
            select {columns} from ({select_current(tables, shape)})
            union all
            select {columns} from ({select_history(tables, shape)})
        )"""


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
        inner join {committed(tables)} as runs on predictions.{RUN} = runs.run_no"""


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
