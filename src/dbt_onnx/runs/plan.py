"""What a plan says: how many rows are scored and why, and what they are as a whole. No SQL.

A row is scored for a reason, and the reason is stored. No reason, no scoring.

    new               no prediction is known for the entity
    model_changed     predictions are known, but none by this model version
    retry             rejected before, and changed since or asked for
    features_changed  a column that the model reads has another value, as the model reads it
    hash_changed      the warehouse's hash function is another one, so a change cannot be told
    expired           scored at least `refresh_after` ago
    full_refresh      asked for

One more is no run's own: `real_time`, an answer that a service gave on request, and a run took over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dbt_onnx.runs.answered import REAL_TIME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from typing import Self

    from dbt_onnx.runs.run import ScoringRun

SCORE_REASONS = (
    "new", "features_changed", "model_changed", "expired", "retry", "full_refresh", "hash_changed",
    REAL_TIME,
)  # fmt: skip
"""Rows carry the place of theirs: another reason is put at the end."""
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Past:
    """What successful runs of a scoring model say to one that begins; moments are none before the first.

    `is_alone`: no other model version has scored. `as_of` is the newest moment that a full run of this
    version was about, `clock` the newest clock of a full run by any, `scored_at` that of any run.
    `features_hash_function` is that of the newest full run, which made the hashes in current.
    """

    is_alone: bool
    as_of: datetime | None
    clock: datetime | None
    scored_at: datetime | None
    features_hash_function: str | None

    def is_behind(self, clock: datetime) -> bool:
        """Whether a run under this clock is about the past. The clock tells it, not the newest row: that one
        may be deleted, and an entity may arrive late.
        """
        return self.clock is not None and clock < self.clock

    def scored_at_of(self, now: datetime) -> datetime:
        """When the run scores: a machine's clock that was set back must not make the newest prediction look
        older.
        """
        return now if self.scored_at is None else max(now, self.scored_at + _TICK)


@dataclass(frozen=True, kw_only=True)
class Question:
    """Everything that a run knows before it looks at rows.

    Relations are SQL of the engine; the features may be a query. `features` maps the columns that the model reads
    to their SQL types, `precisions` to how much of a value counts. `current`, `history` and `runs` are
    tables or views, or typed empty relations before the first run. `is_alone`: no other model version
    has scored. `hash_changed` says that the features hash of the last run came from another function. All rows
    of a backfill are late.
    """

    features_sql: str
    shape: Any
    features: Mapping[str, str]
    precisions: Mapping[str, str]
    as_of_sql: str
    current: str
    history: str
    runs: str
    is_alone: bool
    full_refresh: bool
    retry_rejected: bool
    refresh_after: timedelta | None
    hash_changed: bool
    is_backfill: bool

    @classmethod
    def of(
        cls,
        run: ScoringRun,
        past: Past,
        *,
        clock: datetime,
        precisions: Mapping[str, str],
        hash_function: str,
        **relations: str,
    ) -> Self:
        """The question of a run; `relations` are `current`, `history` and `runs`."""
        names = run.artifact.contract.feature_names
        return cls(
            features_sql=run.features.sql,
            shape=run.shape,
            features={name: run.features.columns[name] for name in names},
            precisions=precisions,
            as_of_sql=run.features.as_of_sql(run.request.as_of, clock=clock),
            is_alone=past.is_alone,
            full_refresh=run.settings.full_refresh,
            retry_rejected=run.settings.retry_rejected,
            refresh_after=run.request.refresh_after,
            hash_changed=past.features_hash_function not in {None, hash_function},
            is_backfill=run.is_other_version or past.is_behind(clock),
            **relations,
        )

    @property
    def asks_for_all(self) -> bool:
        """Whether rows are scored that have not changed."""
        return self.full_refresh or self.retry_rejected or self.is_backfill


@dataclass(frozen=True)
class Snapshot:
    """Rows with their key and features, and when they are from, as a whole.

    `fingerprint` does not depend on the order of the rows, `dated_fingerprint` regards the moment of
    each row, too; none without rows, and where nothing is known to compare them with.
    """

    rows: int
    oldest: datetime | None
    newest: datetime | None
    fingerprint: int | None
    dated_fingerprint: int | None

    def without(self, other: Snapshot) -> Snapshot:
        """Some of the rows taken out; moments stay. An exclusive or takes out what it put in."""
        return replace(
            self,
            rows=self.rows - other.rows,
            fingerprint=(self.fingerprint or 0) ^ (other.fingerprint or 0),
            dated_fingerprint=(self.dated_fingerprint or 0) ^ (other.dated_fingerprint or 0),
        )

    def ends_by(self, other: Snapshot) -> bool:
        """Whether no row is about a moment after the newest of the other's."""
        return bool(self.newest and other.newest and self.newest <= other.newest)

    def holds(self, features: Snapshot) -> bool:
        """Whether these rows, known of entities, are those of the feature relation: each with the
        same features, and none about a moment before one that is known.
        """
        if (self.rows, self.fingerprint) != (features.rows, features.fingerprint):
            return False
        if features.oldest == features.newest:
            return self.ends_by(features)
        return self.dated_fingerprint == features.dated_fingerprint


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a run has measured of the features and of current, before it joins them.

    `given` is the feature relation; `is_incomplete`: a key or a moment is missing in some row. `has_known`: some
    entity has a prediction; where none has, `given` has no fingerprints. `known` is a row for each entity
    that the last full run has seen, which `tracked` rows of current are about, `rejected` of them rejections.
    """

    given: Snapshot
    is_incomplete: bool
    has_known: bool
    known: Snapshot
    tracked: int
    rejected: int

    @property
    def has_one_moment(self) -> bool:
        """Whether all rows are about the same moment; then no row has a moment of its own to confirm."""
        return self.given.oldest == self.given.newest

    @property
    def is_newest(self) -> bool:
        """Whether that moment is not before any that is known."""
        return self.has_one_moment and self.known.ends_by(self.given)

    def add_up(
        self,
        rows: int,
        fingerprint: int | None,
        known_fingerprint: int | None,
        tracked: int,
        has_repeated: bool,  # noqa: FBT001, a row of the engine
    ) -> bool:
        """Whether the feature relation is what current holds, with some rows in the place of what was known of
        them. Then its keys are unique, as they are in current, and it has given the same rows twice; told
        without looking for a key that occurs twice in all of them.

        Of the rows: how many there are, the fingerprint of their features, and that of what was known of them, as in
        `Snapshot`; how many of them the last full run had seen; whether a key occurs twice.
        """
        unchanged = (self.known.fingerprint or 0) ^ (known_fingerprint or 0)
        return (
            not has_repeated
            and self.given.rows == self.known.rows - tracked + rows
            and self.given.fingerprint == unchanged ^ (fingerprint or 0)
        )


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """Totals of a plan. `rows_in` = rows to score (all reasons) + unchanged."""

    rows_in: int
    per_reason: Mapping[str, int]
    rows_still_rejected: int = 0
    rows_late: int = 0
    rows_present: int = 0
    rows_returned: int = 0
    rows_advanced: int = 0
    input_fingerprint: int | None = None

    @classmethod
    def nothing(cls, *, rows_in: int, rows_tracked: int, rows_rejected: int) -> PlanSummary:
        """The plan of a run that finds what is known already."""
        return cls(
            rows_in=rows_in,
            per_reason=dict.fromkeys(SCORE_REASONS, 0),
            rows_still_rejected=rows_rejected,
            rows_present=rows_tracked,
        )

    @classmethod
    def all_new(cls, snapshot: Snapshot) -> PlanSummary:
        """The plan of the first run of all: each row has a key and a moment, and nothing is known."""
        counts = {**dict.fromkeys(SCORE_REASONS, 0), "new": snapshot.rows}
        return cls(rows_in=snapshot.rows, per_reason=counts)

    def with_unchanged(self, rows_in: int) -> PlanSummary:
        """The totals of all rows, when these are without the rows that are as they were."""
        unchanged = rows_in - self.rows_in
        return replace(self, rows_in=rows_in, rows_present=self.rows_present + unchanged)

    @classmethod
    def from_row(cls, row: Mapping[str, int]) -> PlanSummary:
        """Read the one row of `summarize`, given by column name."""
        totals = dict(row)
        per_reason = {reason: totals.pop(f"rows_{reason}") for reason in SCORE_REASONS}
        return cls(per_reason=per_reason, **totals)

    @property
    def rows_to_score(self) -> int:
        return sum(self.per_reason.values())


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Which rows a run scores, and when it is about.

    scope            `backfill` for a run about the past or by another version, else `full`
    clock            what the project's clock said
    as_of            the newest moment that the features describe
    hash_function    what made the features hashes
    has_absent       an entity is gone that the last full run had seen
    rows             how the engine finds the rows again; it has the `question` and the `facts`
    """

    summary: PlanSummary
    scope: str
    clock: datetime
    as_of: datetime
    scored_at: datetime
    hash_function: str
    has_absent: bool
    rows: Any

    def run_columns(self, feature_types: Iterable[str]) -> dict[str, Any]:
        """The columns of the run row that come from the plan; the types are those of kept features."""
        question = self.rows.question
        return {
            "scope": self.scope,
            "clock": self.clock,
            "as_of": self.as_of,
            "has_one_moment": self.rows.facts.has_one_moment,
            "scored_at": self.scored_at,
            "features_hash_function": self.hash_function,
            "features": list(question.features),
            "feature_types": list(feature_types),
            "feature_precisions": list(question.precisions.values()),
            "output_columns": list(question.shape.outputs),
        }
