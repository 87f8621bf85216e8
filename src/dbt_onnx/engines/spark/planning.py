"""The plan of one run on Spark: which rows are scored and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.spark import plan
from dbt_onnx.engines.spark.ledger import FROM, LedgerShape, committed
from dbt_onnx.engines.spark.plan import PLANNED, Question
from dbt_onnx.engines.spark.sql import HASH_FUNCTION, named, typed_nothing
from dbt_onnx.runs.plan import Planned, PlanSummary, Snapshot
from dbt_onnx.runs.precisions import function_name, precisions_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.engines.spark.features import FeatureRelation
    from dbt_onnx.engines.spark.runs import RunRecord
    from dbt_onnx.engines.spark.session import Spark
    from dbt_onnx.engines.spark.tables import ScoringTables
    from dbt_onnx.runs.history import RunRow
    from dbt_onnx.runs.run import ScoringRun


@dataclass(frozen=True, kw_only=True)
class PlannedRows:
    """The planned rows are the temporary view `PLANNED`; `values` are bound by the statements that write.

    `has_one_moment`: whether all features are about one moment, and this run confirms what it has seen.
    """

    question: Question
    values: Mapping[str, Any]
    has_one_moment: bool


def plan_run(spark: Spark, run: ScoringRun, tables: ScoringTables, record: RunRecord) -> Planned:
    """Check the rows and decide which of them are scored. Raises DataError; writes nothing."""
    [(clock,)] = spark.rows(f"select cast(({run.settings.clock_sql}) as timestamp_ntz)")
    past = record.past(run.artifact.model)
    precisions = precisions_of(
        run.artifact.contract, significant_digits=run.request.significant_digits
    )
    function = function_name(HASH_FUNCTION, precisions)
    features: FeatureRelation = run.features
    shape: LedgerShape = run.shape
    # tables and views are whole when a run counts; a driver that died may have left some of them
    has_rows = past.scored_at is not None
    question = Question.of(
        run,
        past,
        clock=clock,
        precisions=precisions,
        hash_function=function,
        current=named(tables.current)
        if has_rows
        else typed_nothing({**shape.current_columns, FROM: "int"}),
        history=named(tables.history) if has_rows else typed_nothing(shape.prediction_columns),
        runs=committed(tables),
    )
    # nothing is known with which a first run could compare them
    *described, is_incomplete = spark.rows(
        plan.describe_features(question, with_fingerprint=has_rows)
    )[0]
    given = Snapshot(*described)
    features.check_not_empty(given.rows)
    features.check_moments(given, as_of=run.request.as_of, clock=clock)
    as_of = given.newest or clock
    now = datetime.now(UTC).replace(tzinfo=None)
    values = {
        "run_no": record.run_no,
        "model_name": run.artifact.model_name,
        "model_version": run.artifact.model_version,
        "run_as_of": as_of.isoformat(sep=" "),
        "last_full_as_of": None if past.as_of is None else past.as_of.isoformat(sep=" "),
    }
    tracked, known, rejected = 0, Snapshot(0, None, None, None, None), 0
    if has_rows:
        *known_row, rejected = spark.rows(plan.describe_current(question), values)[0]
        known = Snapshot(*known_row)
        tracked = known.rows
        if rejected:
            overruled = spark.rows(plan.describe_overruled(question), values)[0]
            known = known.without(Snapshot(*overruled))
    if _nothing_changed(spark, question, given, known, values, is_incomplete=is_incomplete):
        spark.frame(
            f"select * from {typed_nothing({'score_reason': 'string'})}"
        ).createOrReplaceTempView(PLANNED)
        summary = PlanSummary.nothing(
            rows_in=given.rows, rows_tracked=tracked, rows_rejected=rejected
        )
    else:
        features.check_keys(spark, key=list(shape.key))
        summary = _planned(
            spark, question, given, values, is_first=not has_rows and not is_incomplete
        )
    return Planned(
        summary=summary,
        scope="backfill" if question.is_backfill else "full",
        clock=clock,
        as_of=as_of,
        scored_at=past.scored_at_of(now),
        hash_function=function,
        has_absent=tracked > summary.rows_present,
        rows=PlannedRows(
            question=question, values=values, has_one_moment=given.oldest == given.newest
        ),
    )


def _nothing_changed(
    spark: Spark,
    question: Question,
    given: Snapshot,
    known: Snapshot,
    values: Mapping[str, Any],
    *,
    is_incomplete: bool,
) -> bool:
    """Told by fingerprints, without a look at keys, which are unique in current."""
    if question.asks_for_all or question.hash_changed or is_incomplete or not known.holds(given):
        return False
    if question.refresh_after is None:
        return True
    seconds = int(question.refresh_after.total_seconds())
    [(is_expired,)] = spark.rows(
        f"select coalesce(({plan.oldest_score(question)}) + make_dt_interval(0, 0, 0, {seconds}) "
        "<= cast(:run_as_of as timestamp_ntz), false)",
        values,
    )
    return not is_expired


def _planned(
    spark: Spark, question: Question, given: Snapshot, values: Mapping[str, Any], *, is_first: bool
) -> PlanSummary:
    """Define the planned rows, and count them."""
    if is_first and not question.asks_for_all:
        spark.frame(plan.all_new(question)).createOrReplaceTempView(PLANNED)
        return PlanSummary.all_new(given)
    for with_late in (False, True) if not question.is_backfill else (True,):
        spark.frame(plan.joined(question, with_late=with_late), values).createOrReplaceTempView(
            PLANNED
        )
        [totals] = spark.records(plan.summarize(question))
        summary = PlanSummary.from_row(totals)
        if not summary.rows_late:
            break
    return summary


def hashes_as_then(run: RunRow) -> bool:
    """Whether features are hashed here as they were in a run."""
    precisions = dict(zip(run.features or [], run.feature_precisions or [], strict=False))
    return bool(run.features_hash_function == function_name(HASH_FUNCTION, precisions))
