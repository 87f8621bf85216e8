"""The plan of one run on DuckDB: which rows are scored and why, read in one snapshot.

The routes are tried from the cheapest to the most expensive. Each gives the same plan as the last route,
which joins all rows:

    nothing changed   the fingerprints of the features and of current are equal: no join
    first run         no entity has a prediction: every row is new, no join
    few changed       one narrow join finds the rows that differ; only these are planned
    everything        every row of the features is joined with everything known about its entity
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.duckdb import ledger, plan
from dbt_onnx.engines.duckdb.plan import Facts, Question
from dbt_onnx.engines.duckdb.runs import NOW
from dbt_onnx.errors import WarehouseError
from dbt_onnx.runs.plan import Planned, PlanSummary, Snapshot
from dbt_onnx.runs.precisions import function_name, precisions_of
from dbt_onnx.runs.run import unstable_features

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.features import FeatureRelation
    from dbt_onnx.engines.duckdb.runs import RunRecord
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.runs.history import RunRow
    from dbt_onnx.runs.run import ScoringRun


@dataclass(frozen=True, kw_only=True)
class PlannedRows:
    """How to read the planned rows again: `sql` defines them as a CTE `planned`. `parameters` has the values
    for the parameters of `sql` and of the statements that write.
    """

    question: Question
    facts: Facts
    sql: str
    parameters: Mapping[str, Any]


def plan_run(reader: Cursor, run: ScoringRun, tables: ScoringTables, record: RunRecord) -> Planned:
    """Check the rows and decide which of them are scored. Raises DataError; writes nothing."""
    clock, now = reader.rows(f"select {run.settings.clock_sql}, {NOW}")[0]
    past = record.past(reader, run.artifact.model)
    precisions = precisions_of(run.artifact.contract, run.request.significant_digits)
    function = features_hash_function(reader, precisions)
    question = Question.of(
        run,
        past,
        clock=clock,
        precisions=precisions,
        hash_function=function,
        current=reader.relation_or_empty(
            tables.current,
            run.shape.row_columns | ledger.PRESENCE_TYPES,
            sql=ledger.select_current(tables, run.shape),
        ),
        history=reader.relation_or_empty(tables.history, run.shape.history_columns),
        runs=tables.runs.sql,
    )
    # history has no scores to compare with if current is empty: only late rows and rows without a key
    has_known = bool(reader.rows(f"select 1 from {question.current} limit 1"))
    given, is_incomplete = _describe_features(reader, question, with_hash=has_known)
    run.features.check_not_empty(given.rows)
    run.features.check_moments(given, as_of=run.request.as_of, clock=clock)
    as_of = given.newest or clock
    context = _RouteContext(
        reader=reader,
        question=question,
        parameters={
            "run_no": record.run_no,
            "model_name": run.artifact.model_name,
            "model_version": run.artifact.model_version,
            "run_as_of": as_of,
            "last_full_as_of": past.as_of,
        },
        features=run.features,
        tables=tables,
    )
    facts = _measure(context, given, is_incomplete=is_incomplete, has_known=has_known)
    sql, summary = next(found for route in ROUTES if (found := route(context, facts)) is not None)
    return Planned(
        summary=summary,
        scope="backfill" if question.is_backfill else "full",
        clock=clock,
        as_of=as_of,
        scored_at=past.scored_at_of(now),
        hash_function=function,
        has_absent=facts.tracked_rows > summary.rows_present,
        rows=PlannedRows(question=question, facts=facts, sql=sql, parameters=context.parameters),
    )


@dataclass(frozen=True, kw_only=True)
class _RouteContext:
    """What a route needs to query the warehouse."""

    reader: Cursor
    question: Question
    parameters: Mapping[str, Any]
    features: FeatureRelation
    tables: ScoringTables

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.reader.rows(sql, self.parameters)

    def check_keys(self) -> None:
        """Raise DataError if a key occurs twice."""
        self.features.check_keys(self.reader, key=list(self.question.shape.key))

    def summarize(self, planned: str) -> PlanSummary:
        [totals] = self.reader.records(plan.summarize(self.question, planned), self.parameters)
        return PlanSummary.from_row(totals)

    def refuse_doubled(self, planned: str) -> None:
        """Raise WarehouseError if an entity is planned more than once although the features have its key once."""
        if self.rows(plan.planned_twice(self.question, planned)):
            raise WarehouseError(
                f"{self.tables.current} was altered: an entity has more than one row in it",
                hint="`dbt-onnx replay` names it; restore the table from a backup",
            )


_Found = tuple[str, PlanSummary]
"""What a route finds: the SQL of the CTE `planned`, and its totals. A route that does not apply returns None."""


def _nothing_changed(context: _RouteContext, facts: Facts) -> _Found | None:
    """Compare fingerprints. Keys need no check: they are unique in current, so equal rows have unique keys."""
    question = context.question
    if question.asks_for_all or question.hash_changed or facts.is_incomplete:
        return None
    if not facts.known.holds(facts.given):
        return None
    if question.refresh_after_sql is not None:
        oldest = f"({plan.oldest_score(question)}) + {question.refresh_after_sql}"
        if context.rows(f"select coalesce({oldest} <= $run_as_of, false)")[0][0]:
            return None
    summary = PlanSummary.nothing(
        rows_in=facts.given.rows, tracked_rows=facts.tracked_rows, rows_rejected=facts.rejected
    )
    return plan.joined(question, facts, with_late=False), summary


def _first_run(context: _RouteContext, facts: Facts) -> _Found | None:
    """Take every row as new if no entity has a prediction in current."""
    question = context.question
    if facts.has_known or question.full_refresh or question.is_backfill or facts.is_incomplete:
        return None
    context.check_keys()
    return plan.all_new(question), PlanSummary.all_new(facts.given)


def _few_changed(context: _RouteContext, facts: Facts) -> _Found | None:
    """Put the rows that may have changed into a temporary table, and plan only these rows."""
    question = context.question
    if not facts.tracked_rows or question.full_refresh:
        return None

    def materialized(*, with_late: bool) -> str:
        for statement in plan.materialize(question, facts, with_late=with_late):
            context.rows(statement)
        return plan.PLANNED_CTE

    planned = materialized(with_late=question.is_backfill)
    if not facts.add_up(*context.rows(plan.describe_materialized(question))[0]):
        # entities are gone, a key occurs twice, or the relation differs from one reading to the next
        context.check_keys()
        if _describe_features(context.reader, question)[0] != facts.given:
            raise unstable_features(context.features.name)
        context.refuse_doubled(planned)
    planned, summary = _with_late(context, planned, materialized)
    return planned, summary.with_unchanged(facts.given.rows)


def _everything(context: _RouteContext, facts: Facts) -> _Found:
    """Join every row of the features with everything known about its entity."""
    context.check_keys()
    joined = partial(plan.joined, context.question, facts)
    planned, summary = _with_late(context, joined(with_late=context.question.is_backfill), joined)
    if summary.rows_in > facts.given.rows:
        context.refuse_doubled(planned)
    return planned, summary


ROUTES: tuple[Callable[[_RouteContext, Facts], _Found | None], ...] = (
    _nothing_changed, _first_run, _few_changed, _everything,
)  # fmt: skip


def _with_late(context: _RouteContext, planned: str, make: Callable[..., str]) -> _Found:
    """Return the planned rows and their totals. If some rows are late, plan again with what the ledger had
    at their moments. Only then is the whole ledger read: an ordinary night has no late rows.
    """
    summary = context.summarize(planned)
    if summary.rows_late and not context.question.is_backfill:
        planned = make(with_late=True)
        summary = context.summarize(planned)
    return planned, summary


def _describe_features(
    reader: Cursor, question: Question, *, with_hash: bool = True
) -> tuple[Snapshot, bool]:
    """Return a snapshot of the feature relation, and whether some row lacks a key or a moment."""
    *snapshot, is_incomplete = reader.rows(plan.describe_features(question, with_hash=with_hash))[0]
    return Snapshot(*snapshot), is_incomplete


def _measure(
    context: _RouteContext, given: Snapshot, *, is_incomplete: bool, has_known: bool
) -> Facts:
    """Return the facts about the features and about current. If an entity has a score and a later rejection,
    `known` has the rejection.
    """
    is_dated = given.oldest != given.newest
    # no known row is about a later moment than the newest full run of its version
    moments = (None, context.parameters["last_full_as_of"])
    [(rows, *prints, rejected)] = context.rows(
        plan.describe_current(context.question, is_dated=is_dated)
    )
    tracked = known = Snapshot(rows, *moments, *prints)
    if rejected:
        [(rows, *prints)] = context.rows(
            plan.describe_overruled(context.question, is_dated=is_dated)
        )
        known = tracked.without(Snapshot(rows, *moments, *prints))
    return Facts(
        given=given,
        is_incomplete=is_incomplete,
        has_known=has_known,
        known=known,
        tracked_rows=tracked.rows,
        rejected=rejected,
        max_rows_held=context.reader.max_rows_held(),
    )


def features_hash_function(cursor: Cursor, precisions: Mapping[str, str]) -> str:
    """Return a name for the function that hashes the features. It identifies DuckDB's `hash()`, which may
    change between versions, the encoding of values in `feature_types`, and the number of significant digits
    if floats are rounded to any.
    """
    [(probe,)] = cursor.rows(
        "select hash(1::bigint, 0.1::double, 'a', true, date '2000-01-01', [1.5::float], null)"
    )
    return function_name(f"duckdb.hash/{probe:016x}/2", precisions)


def uses_same_hash(cursor: Cursor, run: RunRow) -> bool:
    """Whether this warehouse hashes features in the same way as the run did."""
    precisions = dict(zip(run.features or [], run.feature_precisions or [], strict=False))
    return bool(run.features_hash_function == features_hash_function(cursor, precisions))
