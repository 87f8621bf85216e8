"""Writes the rows of a run on Spark. Readers ignore them until the run has succeeded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.spark import ledger, plan
from dbt_onnx.engines.spark.ledger import (
    FROM_RUN,
    INPUTS,
    REJECTED,
    inputs_type,
    same_row,
    superseded_rows,
)
from dbt_onnx.engines.spark.sql import literal, named, not_null, quote
from dbt_onnx.engines.spark.worker import Work
from dbt_onnx.runs.run import Written
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pyarrow as pa

    from dbt_onnx.engines.spark.session import Spark
    from dbt_onnx.engines.spark.tables import ScoringTables
    from dbt_onnx.runs.plan import Planned
    from dbt_onnx.runs.run import ScoringRun

_SCORED = "__dbt_onnx_scored"


def append_predictions(
    spark: Spark, tables: ScoringTables, run: ScoringRun, planned: Planned
) -> None:
    """Score the planned rows on the executors, and append the predictions to `__rows`."""
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    question = planned.rows.question
    rows = spark.frame(plan.select_rows(question, planned.rows.facts))
    work = _work(spark, run, planned)

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from work(batches)

    schema = from_arrow_schema(
        work.schema_for(to_arrow_schema(rows.schema)), prefer_timestamp_ntz=True
    )
    rows.mapInArrow(score, schema).createOrReplaceTempView(_SCORED)
    statement = _select_scored(run, planned, kept_types=tables.kept_types(spark))
    spark.frame(statement, planned.rows.values).writeTo(named(tables.rows)).append()


def _work(spark: Spark, run: ScoringRun, planned: Planned) -> Work:
    summary, request = planned.summary, run.request
    return Work.of(
        run.artifact,
        spark.raw.sparkContext.broadcast,
        batch_rows=request.batch_rows,
        threads=request.threads,
        rows=summary.rows_to_score,
        max_rows=summary.max_failures(request.max_rejected_fraction),
        features=run.artifact.contract.feature_names,
    )


def _select_scored(run: ScoringRun, planned: Planned, *, kept_types: Mapping[str, str]) -> str:
    """SQL that selects the scored rows with the columns of `__rows`."""
    question = planned.rows.question
    shape = question.shape
    keys = {name: quote(carried) for name, carried in shape.carried_key.items()}
    is_current = f"not __dbt_onnx_is_late and {not_null(shape.carried_key.values())}"
    kept = f"cast(null as {inputs_type(kept_types)})"
    if run.request.keep_inputs is not False:
        # kept inputs have the features of all versions: those that this version does not read are NULL
        given = ", ".join(
            f"{literal(n)}, cast({quote(n) if n in question.features else 'null'} as {kind})"
            for n, kind in kept_types.items()
        )
        # without a key, the inputs could never be found again
        kept = f"case when {not_null(shape.carried_key.values())} then named_struct({given}) end"
    values = {
        **keys,
        **{name: quote(name) for name in shape.outputs},
        "as_of": "__dbt_onnx_as_of",
        "features_hash": "__dbt_onnx_features_hash",
        "score_reason": "__dbt_onnx_score_reason",
        REJECTED: "rejected_reason",
        RUN: "cast(:run_no as int)",
        "is_late": "__dbt_onnx_is_late",
        "last_seen_as_of": "cast(null as timestamp_ntz)",
        "confirmed_as_of": "cast(null as timestamp_ntz)",
        "is_confirmed_by_runs": "rejected_reason is null",
        FROM_RUN: "cast(:run_no as int)",
        "is_current": is_current,
        "is_replaced": "false",
        INPUTS: kept,
    }
    listed = ", ".join(f"{sql} as {quote(name)}" for name, sql in values.items())
    return f"select {listed} from {_SCORED}"


def read_written(
    spark: Spark, tables: ScoringTables, planned: Planned
) -> tuple[Written, dict[str, int | None]]:
    """Read back the run's rows from the table. Returns their totals, and the run row's columns about kept inputs."""
    if not planned.summary.rows_to_score:
        return Written(rejected={}), {"rows_inputs_kept": 0}
    values, question = planned.rows.values, planned.rows.question
    statement = ledger.describe_run(tables, question.shape, question.features)
    rows, kept, input_fingerprint, ledger_fingerprint, kept_fingerprint = spark.rows(
        statement, values
    )[0]
    rejected = dict(spark.rows(ledger.count_rejected(tables), values))
    written = Written(
        rows=rows,
        rejected=rejected,
        input_fingerprint=input_fingerprint,
        ledger_fingerprint=ledger_fingerprint,
    )
    return written, {"rows_inputs_kept": kept, "inputs_fingerprint": kept_fingerprint}


def supersede(spark: Spark, tables: ScoringTables, planned: Planned) -> None:
    """Record which rows the run supersedes. A score supersedes the entity's previous score and any rejection since
    then; a rejection supersedes only another rejection.
    """
    question = planned.rows.question
    names = ", ".join(f"known.{quote(name)}" for name in question.shape.key)
    same = " and ".join(f"known.{quote(n)} = made.{quote(n)}" for n in question.shape.key)
    spark.change(
        f"""
        insert into {named(tables.superseded)}
        select {names}, known.{RUN}, known.{FROM_RUN}, false, cast(:run_no as int)
        from {question.current} as known
        inner join (select * from {ledger.rows_of_run(tables)} where is_current) as made on {same}
        where known.{RUN} in {question.of_version}
            and (known.{REJECTED} is not null or made.{REJECTED} is null)""",
        planned.rows.values,
    )


def note_presence(
    spark: Spark, tables: ScoringTables, planned: Planned, *, has_rejected: bool
) -> None:
    """Copy the current row of each entity that this run found gone, back, rejected, or at a newer as_of. The copy has
    the new values, and supersedes the row.
    """
    question, summary = planned.rows.question, planned.summary
    if planned.scope == "backfill":
        return
    has_advanced = summary.rows_advanced > 0
    if not (has_rejected or planned.has_absent or summary.rows_returned or has_advanced):
        return
    shape = question.shape
    keys = ", ".join(f"known.{quote(name)}" for name in shape.key)
    given = ", ".join(
        f"{quote(name)} as {quote(carried)}" for name, carried in shape.carried_key.items()
    )
    columns = {name: f"known.{quote(name)}" for name in shape.prediction_columns}
    is_back = "given.is_given is not null and known.last_seen_as_of is not null"
    is_gone = "given.is_given is null and known.last_seen_as_of is null"
    is_overruled = f"made.is_rejected and known.{REJECTED} is null and known.is_confirmed_by_runs"
    is_newer = "false"
    if has_advanced:
        is_newer = f"made.is_rejected is null and given.as_of > {plan.KNOWN_UNTIL.format('known')}"
    columns |= {
        "last_seen_as_of": f"case when {is_gone} then cast(:last_full_as_of as timestamp_ntz) end",
        "confirmed_as_of": f"case when {is_newer} then given.as_of else known.confirmed_as_of end",
        "is_confirmed_by_runs": f"known.{REJECTED} is null and given.is_given is not null "
        "and not coalesce(made.is_rejected, false)",
        FROM_RUN: "cast(:run_no as int)",
        "is_current": "true",
        "is_replaced": "false",
        INPUTS: "null",
    }
    listed = ", ".join(f"{sql} as {quote(name)}" for name, sql in columns.items())
    source = f"""
        from {question.current} as known
        left join (
            select {given}, {question.as_of_sql} as as_of, true as is_given from {question.features_sql} as source
        ) as given on {question.same_entity("known", of="given")}
        left join (
            select {", ".join(map(quote, shape.key))}, {REJECTED} is not null as is_rejected
            from {ledger.rows_of_run(tables)} where is_current
        ) as made on {" and ".join(f"known.{quote(n)} = made.{quote(n)}" for n in shape.key)}
        where known.{RUN} in {question.of_version}
            and (made.is_rejected is null or (made.is_rejected and known.{REJECTED} is null))
            and (({is_back}) or ({is_gone}) or ({is_overruled}) or ({is_newer}))"""
    values = planned.rows.values
    spark.change(
        f"insert into {named(tables.superseded)} "
        f"select {keys}, known.{RUN}, known.{FROM_RUN}, true, cast(:run_no as int) {source}",
        values,
    )
    spark.change(
        f"insert into {named(tables.rows)} ({', '.join(map(quote, columns))}) select {listed} {source}",
        values,
    )


def settle(spark: Spark, tables: ScoringTables, shape: Any) -> None:
    """Mark in `__rows` the rows that successful runs have superseded, then delete these runs' lists of them.

    If this is interrupted, the next run can repeat it: readers see the same rows before and after.
    """
    rows, superseded = named(tables.rows), named(tables.superseded)
    pending = spark.rows(f"select distinct by_run from {superseded_rows(tables)} as s")
    if pending:
        # if another run succeeds in the meantime, its list stays for the next run
        listed = f"by_run in ({_numbers(pending)})"
        spark.change(
            f"merge into {rows} as r using (select * from {superseded} where {listed}) as s "
            f"on r.is_current and {same_row(shape, 'r', 's')} "
            f"when matched and s.is_written_again and r.{INPUTS} is null then delete "
            "when matched then update set is_current = false, is_replaced = s.is_written_again"
        )
        spark.change(f"delete from {superseded} where {listed}")


def remove_leftovers(spark: Spark, tables: ScoringTables) -> None:
    """Delete the rows, and the lists of superseded rows, of runs that ended without success."""
    failed = spark.rows(
        f"select run_no from {named(tables.runs)} where scoring_model = :scoring_model "
        "and status in ('error', 'interrupted')",
        {"scoring_model": tables.ledger.identifier},
    )
    if not failed:
        return
    for table, column in ((tables.rows, FROM_RUN), (tables.superseded, "by_run")):
        # numbers instead of a subquery, so that Iceberg skips the files of all other runs
        found = f"{named(table)} where {column} in ({_numbers(failed)})"
        if spark.rows(f"select 1 from {found} limit 1"):
            spark.change(f"delete from {found}")


def _numbers(rows: Iterable[tuple[int]]) -> str:
    return ", ".join(str(int(number)) for (number,) in rows)
