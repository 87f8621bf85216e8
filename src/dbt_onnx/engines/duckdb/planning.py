"""The plan of one run on DuckDB: which rows are scored and why, read in one snapshot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dbt_onnx import plan
from dbt_onnx.engines.duckdb.runs import NOW
from dbt_onnx.plan import Plan, PlanSummary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from dbt_onnx.artifact import Artifact
    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.features import FeatureRelation
    from dbt_onnx.engines.duckdb.runs import RunRecord
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.job import RunSettings, ScoringRequest
    from dbt_onnx.ledger import LedgerShape

_TICK = timedelta(microseconds=1)
_HASH_PROBE = (
    "select hash(1::bigint, 0.1::double, 'a', true, date '2000-01-01', [1.5::float], null)"
)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """The plan, its totals, and the values that its statements and those of the write bind.

    scope            `backfill` for a run about the past or by another version, else `full`
    clock            what the project's clock said
    as_of            the newest moment that the features describe, `oldest_as_of` the oldest
    hash_function    what made the features hashes
    has_absent       an entity is gone that the last full run had seen
    """

    plan: Plan
    summary: PlanSummary
    scope: str
    clock: datetime
    as_of: datetime
    oldest_as_of: datetime
    scored_at: datetime
    hash_function: str
    has_absent: bool
    parameters: Mapping[str, Any]


def plan_run(
    reader: Cursor,
    request: ScoringRequest,
    settings: RunSettings,
    *,
    artifact: Artifact,
    features: FeatureRelation,
    shape: LedgerShape,
    tables: ScoringTables,
    run: RunRecord,
    is_other_version: bool,
) -> PlannedRun:
    """Check the rows and decide which of them are scored. Raises DataError; writes nothing.

    `is_other_version`: a backfill asked for another version than the scoring model's own.
    """
    clock, now = reader.rows(f"select {settings.clock_sql}, {NOW}")[0]
    oldest, as_of = features.check_rows(reader, key=request.key, as_of=request.as_of, clock=clock)
    previous = run.previous(reader)
    last_full = run.last_full(
        reader, model_name=artifact.model_name, model_version=artifact.model_version
    )
    # the clock, not the newest row: that one may be deleted, and an entity may arrive late
    is_past = last_full.clock is not None and clock < last_full.clock
    is_backfill = is_other_version or is_past
    function = features_hash_function(reader)
    # a machine's clock that was set back must not make the newest prediction look older
    scored_at = now if previous is None else max(now, previous.scored_at + _TICK)
    parameters = {
        "scoring_model": settings.identifier,
        "run_id": settings.run_id,
        "model_name": artifact.model_name,
        "model_version": artifact.model_version,
        "run_as_of": as_of,
        "last_full_as_of": last_full.as_of,
        "scored_at": scored_at,
    }
    rows_plan = Plan(
        features_sql=features.sql,
        shape=shape,
        features={name: features.columns[name] for name in artifact.contract.feature_names},
        as_of_sql=features.as_of_sql(request.as_of, clock=clock),
        ledger=reader.relation_or_empty(tables.ledger, shape.ledger_columns),
        latest=reader.relation_or_empty(tables.latest, shape.latest_columns),
        runs=tables.runs.sql,
        full_refresh=settings.full_refresh,
        retry_rejected=settings.retry_rejected,
        refresh_after_sql=_interval(request.refresh_after),
        hash_changed=previous is not None
        and previous.features_hash_function not in {None, function},
        is_backfill=is_backfill,
        has_late_rows=is_backfill,
    )
    summary = _summarize(reader, rows_plan, parameters)
    if summary.rows_late and not rows_plan.has_late_rows:
        # only now is the ledger read: an ordinary night has no late rows
        rows_plan = replace(rows_plan, has_late_rows=True)
        summary = _summarize(reader, rows_plan, parameters)
    tracked = reader.rows(plan.count_tracked(rows_plan.latest), parameters)[0][0]
    return PlannedRun(
        plan=rows_plan,
        summary=summary,
        scope="backfill" if is_backfill else "full",
        clock=clock,
        as_of=as_of,
        oldest_as_of=oldest,
        scored_at=scored_at,
        hash_function=function,
        has_absent=tracked > summary.rows_present,
        parameters=parameters,
    )


def features_hash_function(cursor: Cursor) -> str:
    """What makes the features hashes here: DuckDB's `hash()` may change with its version."""
    return f"duckdb.hash/{cursor.rows(_HASH_PROBE)[0][0]:016x}"


def _summarize(reader: Cursor, rows_plan: Plan, parameters: Mapping[str, Any]) -> PlanSummary:
    row = reader.rows(plan.summarize(rows_plan), parameters)[0]
    names = [description[0] for description in reader.raw.description or []]
    return PlanSummary.from_row(dict(zip(names, row, strict=True)))


def _interval(period: timedelta | None) -> str | None:
    return None if period is None else f"to_seconds({int(period.total_seconds())})"
