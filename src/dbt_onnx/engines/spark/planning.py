"""Plans one run on Spark: which rows are scored and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.spark import plan
from dbt_onnx.engines.spark.ledger import FROM_RUN, LedgerShape, committed
from dbt_onnx.engines.spark.plan import PLANNED, Facts, Question
from dbt_onnx.engines.spark.sql import HASH_FUNCTION, empty_relation, named
from dbt_onnx.runs.plan import Planned, PlanSummary, Snapshot
from dbt_onnx.runs.precisions import function_name, precisions_of
from dbt_onnx.runs.run import unstable_features

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
    """The planned rows, stored in the temporary view `PLANNED`. The statements that write bind `values`."""

    question: Question
    facts: Facts
    values: Mapping[str, Any]


def plan_run(spark: Spark, run: ScoringRun, tables: ScoringTables, record: RunRecord) -> Planned:
    """Check the rows and decide which of them are scored. Raises DataError; writes nothing."""
    [(clock,)] = spark.rows(f"select cast(({run.settings.clock_sql}) as timestamp_ntz)")
    past = record.past(run.artifact.model)
    precisions = precisions_of(run.artifact.contract, run.request.significant_digits)
    function = function_name(HASH_FUNCTION, precisions)
    features: FeatureRelation = run.features
    shape: LedgerShape = run.shape
    # all tables and views exist once a run has succeeded; before that, a dead driver may have left only some of them
    has_rows = past.scored_at is not None
    question = Question.of(
        run,
        past,
        clock=clock,
        precisions=precisions,
        hash_function=function,
        current=named(tables.current)
        if has_rows
        else empty_relation({**shape.current_columns, FROM_RUN: "int"}),
        history=named(tables.history) if has_rows else empty_relation(shape.prediction_columns),
        runs=committed(tables),
    )
    # a first run has nothing to compare fingerprints with
    given, is_incomplete = _describe_features(spark, question, with_fingerprint=has_rows)
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
    facts = _measure(
        spark,
        question,
        given,
        values,
        is_incomplete=is_incomplete,
        has_known=has_rows,
        newest=past.as_of,
    )
    summary = (
        _nothing_changed(spark, question, facts, values)
        or _first_run(spark, question, facts, features)
        or _joined(spark, question, facts, features, values)
    )
    return Planned(
        summary=summary,
        scope="backfill" if question.is_backfill else "full",
        clock=clock,
        as_of=as_of,
        scored_at=past.scored_at_of(now),
        hash_function=function,
        has_absent=facts.tracked_rows > summary.rows_present,
        rows=PlannedRows(question=question, facts=facts, values=values),
    )


def _describe_features(
    spark: Spark, question: Question, *, with_fingerprint: bool = True
) -> tuple[Snapshot, bool]:
    """Return the `Snapshot` of the feature relation, and whether a key or an as_of is missing in some row."""
    statement = plan.describe_features(question, with_fingerprint=with_fingerprint)
    *described, is_incomplete = spark.rows(statement)[0]
    return Snapshot(*described), is_incomplete


def _measure(
    spark: Spark,
    question: Question,
    given: Snapshot,
    values: Mapping[str, Any],
    *,
    is_incomplete: bool,
    has_known: bool,
    newest: datetime | None,
) -> Facts:
    """Measure the features and current. If an entity has both a score and a rejection in current, only its
    rejection counts as known.
    """
    is_dated = given.oldest != given.newest
    # no current row covers a later as_of than the runs of its version
    moments = (None, newest)
    tracked, rejected = Snapshot(0, *moments, None, None), 0
    if has_known:
        statement = plan.describe_current(question, is_dated=is_dated)
        [(rows, *prints, rejected)] = spark.rows(statement, values)
        tracked = Snapshot(rows, *moments, *prints)
    known = tracked
    if rejected:
        statement = plan.describe_overruled(question, is_dated=is_dated)
        [(rows, *prints)] = spark.rows(statement, values)
        known = tracked.without(Snapshot(rows, *moments, *prints))
    return Facts(
        given=given,
        is_incomplete=is_incomplete,
        has_known=has_known,
        known=known,
        tracked_rows=tracked.rows,
        rejected=rejected,
        has_rejected=has_known and spark.rows(plan.has_rejected(question), values)[0][0],
    )


def _nothing_changed(
    spark: Spark, question: Question, facts: Facts, values: Mapping[str, Any]
) -> PlanSummary | None:
    """Return the plan without rows to score if the fingerprints show no change, else None. Keys need no check: equal
    fingerprints mean that they are those of current, where keys are unique.
    """
    if question.asks_for_all or question.hash_changed or facts.is_incomplete:
        return None
    if not facts.known.holds(facts.given):
        return None
    if question.refresh_after is not None:
        seconds = int(question.refresh_after.total_seconds())
        [(is_expired,)] = spark.rows(
            f"select coalesce(({plan.oldest_score(question)}) + make_dt_interval(0, 0, 0, {seconds}) "
            "<= cast(:run_as_of as timestamp_ntz), false)",
            values,
        )
        if is_expired:
            return None
    nothing = f"select * from {empty_relation({'score_reason': 'string'})}"
    spark.frame(nothing).createOrReplaceTempView(PLANNED)
    return PlanSummary.nothing(
        rows_in=facts.given.rows, tracked_rows=facts.tracked_rows, rows_rejected=facts.rejected
    )


def _first_run(
    spark: Spark, question: Question, facts: Facts, features: FeatureRelation
) -> PlanSummary | None:
    """Return the plan in which every row is new, or None if a row may have another reason or be rejected."""
    if facts.has_known or question.asks_for_all or facts.is_incomplete:
        return None
    features.check_keys(spark, key=list(question.shape.key))
    spark.frame(plan.all_new(question)).createOrReplaceTempView(PLANNED)
    return PlanSummary.all_new(facts.given)


def _joined(
    spark: Spark,
    question: Question,
    facts: Facts,
    features: FeatureRelation,
    values: Mapping[str, Any],
) -> PlanSummary:
    """Plan by joining all rows. If most rows are unchanged, the others stay on the executors until they are written."""
    has_few_changes = plan.expects_few_changes(question, facts)
    if not has_few_changes:
        features.check_keys(spark, key=list(question.shape.key))
    # again with the ledger only if a row is late
    passes = (True,) if question.is_backfill else (False, True)
    for with_late in passes:
        spark.release()
        statement = plan.joined(question, facts, with_late=with_late)
        frame = spark.frame(statement, values)
        (spark.hold(frame) if has_few_changes else frame).createOrReplaceTempView(PLANNED)
        [totals] = spark.records(plan.summarize(question))
        summary = PlanSummary.from_row(totals)
        if not summary.rows_late:
            break
    if has_few_changes and not facts.add_up(*spark.rows(plan.describe_planned(question))[0]):
        # entities are gone, or a key occurs twice, or the relation gives different rows each time it is read
        features.check_keys(spark, key=list(question.shape.key))
        if _describe_features(spark, question)[0] != facts.given:
            raise unstable_features(features.name)
    return summary.with_unchanged(facts.given.rows)


def uses_same_hash(run: RunRow) -> bool:
    """Return whether features are hashed now as they were in a past run."""
    precisions = dict(zip(run.features or [], run.feature_precisions or [], strict=False))
    return bool(run.features_hash_function == function_name(HASH_FUNCTION, precisions))
