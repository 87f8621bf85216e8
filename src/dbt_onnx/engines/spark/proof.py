"""Checks that the tables of a scoring model are as its runs left them. The executors count and hash the rows.

Rows of runs that have not succeeded are not a fault: nobody reads them, and the next run removes them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

from pyspark.errors import PySparkException

from dbt_onnx.engines.spark.ledger import (
    FROM_RUN,
    INPUTS,
    REJECTED,
    all_predictions,
    committed,
    fingerprint_of_rows,
    select_current,
    select_history,
    views_of,
)
from dbt_onnx.engines.spark.planning import uses_same_hash
from dbt_onnx.engines.spark.runs import read_run_rows
from dbt_onnx.engines.spark.sql import fingerprint, hashable, named, not_null, quote
from dbt_onnx.engines.spark.tables import ScoringTables
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.proof import (
    DOUBLED,
    NEWER,
    altered_runs,
    faults_of_counts,
    faults_of_fingerprints,
    key_of_runs,
    lost_outputs,
    missing_runs,
    not_newest,
    nothing_erased,
    other_view,
    strange_rows,
)
from dbt_onnx.runs.replay import MAX_FINDINGS
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.spark.ledger import LedgerShape
    from dbt_onnx.engines.spark.session import Spark
    from dbt_onnx.runs.history import RunRow
    from dbt_onnx.runs.replay import Finding

_IN_NUMBERS = f"array_contains(from_json(:numbers, 'array<int>'), {RUN})"


def prove(spark: Spark, name: TableName, *, with_values: bool) -> list[Finding]:
    """Return all faults of the tables, see `base.Warehouse.prove`."""
    tables = ScoringTables(name)
    runs = read_run_rows(spark, tables)
    tables.check_complete(spark)
    key = key_of_runs(runs)
    if not spark.has(tables.rows) or not key:
        return []
    shape = tables.shape_of(spark, key)
    findings = [*_faults_of_runs(spark, tables, runs), *_strange_rows(spark, tables, shape)]
    findings += _faults_of_current(spark, tables, shape, with_history=with_values)
    findings += _faults_of_counts(spark, tables, shape, runs)
    if with_values:
        findings += _faults_of_values(spark, tables, shape, runs)
        findings += _faults_of_views(spark, tables, shape)
    return findings


def faults_of_run(
    spark: Spark, tables: ScoringTables, shape: LedgerShape, run: RunRow
) -> Iterator[Finding]:
    """Check one run: whether its rows have the count and the values that the run wrote."""
    yield from _faults_of_counts(spark, tables, shape, [run])
    yield from _faults_of_values(spark, tables, shape, [run])


def _faults_of_runs(
    spark: Spark, tables: ScoringTables, runs: Sequence[RunRow]
) -> Iterator[Finding]:
    # a run that another driver has closed joins the chain only when the next run starts
    yield from altered_runs(
        run for run in runs if run.status != "interrupted" or run.fingerprint is not None
    )
    # all scoring models of a schema share one sequence of run numbers
    gone = spark.rows(
        f"""
        select first, last from (
            select 1 + number as first, lead(number) over (order by number asc) - 1 as last
            from (select 0 as number union select {RUN} from {named(tables.runs)} where {RUN} > 0)
        )
        where first <= last order by first asc limit {MAX_FINDINGS}"""
    )
    yield from missing_runs(gone, tables.runs)


def _strange_rows(spark: Spark, tables: ScoringTables, shape: LedgerShape) -> Iterator[Finding]:
    """Find rows with a run number that no run of this scoring model has."""
    known = f"(select distinct {RUN} as number from {named(tables.runs)} where scoring_model = :scoring_model)"
    listed = ", ".join(f"any_value(r.{quote(name)})" for name in shape.key)
    found = spark.rows(
        f"select r.{RUN}, count(*), {listed} from {named(tables.rows)} as r "
        f"left join {known} as scorer on r.{RUN} = scorer.number "
        f"left join {known} as writer on r.{FROM_RUN} = writer.number "
        "where scorer.number is null or writer.number is null "
        f"group by r.{RUN} order by r.{RUN} asc limit {MAX_FINDINGS}",
        {"scoring_model": tables.ledger.identifier},
    )
    yield from strange_rows("ledger", "row(s)", found, list(shape.key))


def _faults_of_current(
    spark: Spark, tables: ScoringTables, shape: LedgerShape, *, with_history: bool
) -> Iterator[Finding]:
    """Check that current has at most one score and one rejection per entity and model version, and that history has no
    newer ones.
    """
    key = ", ".join(map(quote, shape.key))
    slot = f"{key}, model_name, model_version, is_scored"

    def with_version(rows: str, where: str) -> str:
        return f"""(
            select {key}, model_name, model_version, {REJECTED} is null as is_scored, {RUN} as number
            from ({rows}) as r
            inner join (
                select {RUN}, model_name, model_version from {committed(tables)} as runs
            ) using ({RUN})
            where {where}
        )"""

    current = with_version(select_current(tables, shape), "true")
    questions = {
        DOUBLED: f"select {key}, count(*) from {current} group by {slot} having count(*) > 1 "
        f"limit {MAX_FINDINGS}"
    }
    if with_history:
        # an answer of a service may be newer, but is never current
        counts = f"not is_late and not (score_reason <=> '{REAL_TIME}') and {not_null(shape.key)}"
        history = with_version(select_history(tables, shape), counts)
        questions[NEWER] = (
            f"select {key}, count(*) from {history} as history left join (select {slot}, max(number) as "
            f"newest from {current} group by {slot}) as current using ({slot}) "
            "where number >= newest or (newest is null and is_scored) "
            f"group by {key} limit {MAX_FINDINGS}"
        )
    for what, question in questions.items():
        yield from not_newest(what, spark.rows(question), list(shape.key))


def _faults_of_counts(
    spark: Spark, tables: ScoringTables, shape: LedgerShape, runs: Sequence[RunRow]
) -> Iterator[Finding]:
    """Find runs with more or fewer rows, or kept inputs, than they wrote."""
    numbers = {"numbers": json.dumps([run.run_no for run in runs if run.status == "success"])}
    found, kept = (
        dict(
            spark.rows(
                f"select {RUN}, count(*) from {rows} as r where {_IN_NUMBERS} and {where} group by {RUN}",
                numbers,
            )
        )
        for rows, where in (
            (all_predictions(tables, shape), "true"),
            (named(tables.rows), f"{INPUTS} is not null"),
        )
    )
    yield from faults_of_counts(runs, found, kept, nothing_erased())


def _faults_of_values(
    spark: Spark, tables: ScoringTables, shape: LedgerShape, runs: Sequence[RunRow]
) -> Iterator[Finding]:
    """Find runs with rows that have changed since the run, by their fingerprints."""
    gone = {n for run in runs for n in run.output_columns or []} - shape.outputs.keys()
    if gone:
        yield lost_outputs(gone)
    whole = [run for run in runs if not gone & set(run.output_columns or [])]
    found = _fingerprints(spark, tables, shape, whole)
    yield from faults_of_fingerprints(whole, found, nothing_erased())


def _fingerprints(
    spark: Spark, tables: ScoringTables, shape: LedgerShape, runs: Sequence[RunRow]
) -> dict[int, int]:
    """Return {run_no: the fingerprint of its rows}, without runs that used another hash function than this version."""
    alike = defaultdict(list)
    for run in runs:
        is_sealed = run.status == "success" and run.ledger_fingerprint is not None
        if is_sealed and uses_same_hash(run):
            alike[tuple(run.output_columns)].append(run.run_no)
    found: dict[int, int] = {}
    for outputs, numbers in alike.items():
        aggregate = fingerprint_of_rows(shape.key, {name: shape.outputs[name] for name in outputs})
        # outputs of other versions: these runs left them NULL
        others = [quote(name) for name in shape.outputs if name not in outputs]
        is_as_written = " and ".join([f"{name} is null" for name in others] or ["true"])
        found |= dict.fromkeys(numbers, 0)
        found |= spark.rows(
            f"select {RUN}, coalesce({aggregate} filter (where {is_as_written}), 0) "
            f"from {all_predictions(tables, shape)} as r where {_IN_NUMBERS} group by {RUN}",
            {"numbers": json.dumps(numbers)},
        )
    return found


def _faults_of_views(spark: Spark, tables: ScoringTables, shape: LedgerShape) -> Iterator[Finding]:
    """Find views that do not match the tables: anybody can replace a view. A dropped view is not a fault, since the
    next run creates it again.
    """
    for view, text in views_of(tables, shape).items():
        if not spark.has(view):
            continue
        columns = spark.columns_of(f"({text})")
        try:
            # names only: a Hive metastore changes the type of timestamps in a view, but in UTC not their values
            altered = list(spark.columns_of(named(view))) != list(columns)
        except PySparkException:
            # a relation that the view reads is gone
            altered = True
        if not altered:
            summary = f"select count(*), {fingerprint(hashable(columns))} from {{}} as said"
            in_view, in_tables = summary.format(named(view)), summary.format(f"({text})")
            altered = spark.rows(in_view) != spark.rows(in_tables)
        if altered:
            yield other_view(view)
