"""The plan of one run on DuckDB: which rows are scored and why, read in one snapshot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.duckdb import plan
from dbt_onnx.engines.duckdb.feature_types import precisions_of
from dbt_onnx.engines.duckdb.features import unstable
from dbt_onnx.engines.duckdb.plan import Plan, PlanSummary, Snapshot
from dbt_onnx.engines.duckdb.runs import NOW
from dbt_onnx.errors import WarehouseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.features import FeatureRelation
    from dbt_onnx.engines.duckdb.ledger import LedgerShape, TableName
    from dbt_onnx.engines.duckdb.runs import RunRecord
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.runs.request import RunSettings, ScoringRequest

_TICK = timedelta(microseconds=1)
_HASH_PROBE = (
    "select hash(1::bigint, 0.1::double, 'a', true, date '2000-01-01', [1.5::float], null)"
)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """The plan, its totals, and the values that its statements and those of the write bind.

    scope            `backfill` for a run about the past or by another version, else `full`
    clock            what the project's clock said
    as_of            the newest moment that the features describe
    hash_function    what made the features hashes
    has_absent       an entity is gone that the last full run had seen
    """

    plan: Plan
    summary: PlanSummary
    scope: str
    clock: datetime
    as_of: datetime
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
    previous = run.previous(reader)
    last_full = run.last_full(
        reader, model_name=artifact.model_name, model_version=artifact.model_version
    )
    # the clock, not the newest row: that one may be deleted, and an entity may arrive late
    is_past = last_full.clock is not None and clock < last_full.clock
    is_backfill = is_other_version or is_past
    precisions = precisions_of(artifact.contract, significant_digits=request.significant_digits)
    function = features_hash_function(reader, precisions)
    rows_plan = Plan(
        features_sql=features.sql,
        shape=shape,
        features={name: features.columns[name] for name in artifact.contract.feature_names},
        precisions=precisions,
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
    given = _describe_features(reader, rows_plan)
    features.check_not_empty(given.snapshot.rows)
    features.check_moments(
        given.snapshot.oldest, given.snapshot.newest, as_of=request.as_of, clock=clock
    )
    as_of = given.snapshot.newest or clock
    has_one_moment = given.snapshot.oldest == given.snapshot.newest
    rows_plan = replace(rows_plan, has_one_moment=has_one_moment)
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
    known = _describe_latest(reader, rows_plan, parameters)
    if _is_known_already(reader, rows_plan, given, known, parameters):
        summary = PlanSummary.nothing(
            rows_in=given.snapshot.rows, rows_tracked=known.rows, rows_rejected=known.rejected
        )
    else:
        rows_plan, summary = _plan_rows(
            reader, rows_plan, given, known, parameters,
            features=features, key=request.key, latest=tables.latest,
        )  # fmt: skip
    return PlannedRun(
        plan=rows_plan,
        summary=summary,
        scope="backfill" if is_backfill else "full",
        clock=clock,
        as_of=as_of,
        scored_at=scored_at,
        hash_function=function,
        has_absent=known.rows > summary.rows_present,
        parameters=parameters,
    )


@dataclass(frozen=True)
class _Given:
    """The feature relation as a whole."""

    snapshot: Snapshot
    without_key: int
    without_moment: int


@dataclass(frozen=True)
class _Known:
    """What latest holds about the entities that the last full run has seen: a row each, and how many
    rows of the table that is.
    """

    snapshot: Snapshot
    rows: int
    rejected: int


def _describe_features(reader: Cursor, rows_plan: Plan) -> _Given:
    *snapshot, without_key, without_moment = reader.rows(plan.describe_features(rows_plan))[0]
    return _Given(Snapshot(*snapshot), without_key, without_moment)


def _describe_latest(reader: Cursor, rows_plan: Plan, parameters: Mapping[str, Any]) -> _Known:
    *described, rejected = reader.rows(plan.describe_latest(rows_plan), parameters)[0]
    tracked = Snapshot(*described)
    if not rejected:
        return _Known(tracked, tracked.rows, 0)
    overruled = Snapshot(*reader.rows(plan.describe_overruled(rows_plan), parameters)[0])
    return _Known(tracked.without(overruled), tracked.rows, rejected)


def _is_known_already(
    reader: Cursor, rows_plan: Plan, given: _Given, known: _Known, parameters: Mapping[str, Any]
) -> bool:
    """Whether no row has a reason to be scored, told by fingerprints: no join, and no look at keys,
    which are unique in latest.
    """
    asked = rows_plan.full_refresh or rows_plan.retry_rejected or rows_plan.is_backfill
    unusual = rows_plan.hash_changed or given.without_key or given.without_moment
    if asked or unusual or not known.snapshot.holds(given.snapshot):
        return False
    if rows_plan.refresh_after_sql is None:
        return True
    expired = f"({plan.oldest_score(rows_plan)}) + {rows_plan.refresh_after_sql} <= $run_as_of"
    return reader.rows(f"select coalesce({expired}, false)", parameters)[0][0] is False


def _plan_rows(
    reader: Cursor,
    rows_plan: Plan,
    given: _Given,
    known: _Known,
    parameters: Mapping[str, Any],
    *,
    features: FeatureRelation,
    key: Sequence[str],
    latest: TableName,
) -> tuple[Plan, PlanSummary]:
    """The plan that knows what it has to look at, and its totals. Raises DataError when a key occurs
    twice, ScoringError when the feature relation gave other rows when it was read again, and
    WarehouseError when latest has an entity twice.
    """
    if known.rows and not rows_plan.full_refresh:
        rows_plan = replace(
            rows_plan,
            is_materialized=True,
            is_newest=rows_plan.has_one_moment and known.snapshot.ends_by(given.snapshot),
            has_rejected=known.rejected > 0,
            candidate_parts=1 + known.rows // reader.max_rows_held(),
        )
        _materialize(reader, rows_plan, parameters)
        if not _adds_up(reader, rows_plan, given, known):
            # entities are gone, or a key occurs twice, or the relation is never the same
            features.check_keys(reader, key=key)
            if given != _describe_features(reader, rows_plan):
                raise unstable(features.name)
            _refuse_doubled(reader, rows_plan, parameters, latest=latest)
    else:
        features.check_keys(reader, key=key)
        if _is_first(reader, rows_plan, given):
            return rows_plan, PlanSummary.all_new(given.snapshot)
    summary = _summarize(reader, rows_plan, given, parameters)
    if summary.rows_in > given.snapshot.rows:
        _refuse_doubled(reader, rows_plan, parameters, latest=latest)
    if summary.rows_late and not rows_plan.has_late_rows:
        # only now is the ledger read: an ordinary night has no late rows
        rows_plan = replace(rows_plan, has_late_rows=True)
        if rows_plan.is_materialized:
            _materialize(reader, rows_plan, parameters)
        summary = _summarize(reader, rows_plan, given, parameters)
    return rows_plan, summary


def _refuse_doubled(
    reader: Cursor, rows_plan: Plan, parameters: Mapping[str, Any], *, latest: TableName
) -> None:
    """Raise WarehouseError when an entity is planned more than once, though its key is unique."""
    if reader.rows(plan.planned_twice(rows_plan), parameters):
        raise WarehouseError(
            f"{latest} was altered: an entity has more than one row in it",
            hint=f"drop {latest}: the next run rebuilds it from the ledger",
        )


def _materialize(reader: Cursor, rows_plan: Plan, parameters: Mapping[str, Any]) -> None:
    for statement in plan.materialize(rows_plan):
        reader.execute(statement, parameters)


def features_hash_function(cursor: Cursor, precisions: Mapping[str, str]) -> str:
    """What makes the features hashes here: DuckDB's `hash()`, which may change with its version, of
    values as `feature_types` has them, and, where floats have some, a number of significant digits.
    """
    digits = {precision for precision in precisions.values() if precision.endswith("digits")}
    return "/".join(("duckdb.hash", f"{cursor.rows(_HASH_PROBE)[0][0]:016x}", "2", *sorted(digits)))


def _is_first(reader: Cursor, rows_plan: Plan, given: _Given) -> bool:
    """Whether every row is new, which needs no plan: nothing has been said, of anybody."""
    asked = rows_plan.full_refresh or rows_plan.is_backfill
    if asked or given.without_key or given.without_moment:
        return False
    found = reader.rows(f"select 1 from {rows_plan.latest} limit 1")
    return not (found or reader.rows(f"select 1 from {rows_plan.ledger} limit 1"))


def _adds_up(reader: Cursor, rows_plan: Plan, given: _Given, known: _Known) -> bool:
    """Whether the feature relation is what latest holds, with the rows in the temporary table in the
    place of what was known of them. Then its keys are unique, as they are in latest, and it has given
    the same rows twice; told without looking for a key that occurs twice in all of them.
    """
    row = reader.rows(plan.describe_materialized(rows_plan))[0]
    rows, fingerprint, known_fingerprint, tracked, has_repeated = row
    unchanged = (known.snapshot.fingerprint or 0) ^ (known_fingerprint or 0)
    return (
        not has_repeated
        and given.snapshot.rows == known.snapshot.rows - tracked + rows
        and given.snapshot.fingerprint == unchanged ^ (fingerprint or 0)
    )


def _summarize(
    reader: Cursor, rows_plan: Plan, given: _Given, parameters: Mapping[str, Any]
) -> PlanSummary:
    row = reader.rows(plan.summarize(rows_plan), parameters)[0]
    names = [description[0] for description in reader.raw.description or []]
    summary = PlanSummary.from_row(dict(zip(names, row, strict=True)))
    return summary.with_unchanged(given.snapshot.rows) if rows_plan.is_materialized else summary


def _interval(period: timedelta | None) -> str | None:
    return None if period is None else f"to_seconds({int(period.total_seconds())})"
