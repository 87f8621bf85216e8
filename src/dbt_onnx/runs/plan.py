"""The plan of a run: how many rows are scored and why, with totals and fingerprints. No SQL.

A row is scored only if there is a reason. The ledger stores the first reason that applies, in this order:

    full_refresh      the user asked for all rows
    model_changed     predictions are known, but none by this model version
    new               no prediction is known for the entity
    retry             rejected before, and either changed since or the user asked for another try
    hash_changed      the warehouse's hash function has changed, so a change cannot be detected
    features_changed  a column that the model reads has another value, at the model's precision
    expired           scored at least `refresh_after` ago

`real_time` is not a reason to score: it marks an answer that a service gave on request, and that a run
added to the ledger.

The moment of a row is its `as_of`, the time that its features describe. Known rows are the rows of current.
A backfill is a run about the past or with another version; every other scoring run is a full run.
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
"""Rows store the position of their reason in this tuple, so a new reason must be added at the end."""
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Past:
    """What a new run needs to know about earlier successful runs.

    All values but `is_alone` are None before the first run.

    is_alone                no other model version has scored
    as_of                   the newest moment that a full run of this version was about
    clock                   the newest clock of a full run of any version
    scored_at               the newest `scored_at` of any run
    features_hash_function  the hash function of the newest full run, which made the hashes in current
    """

    is_alone: bool
    as_of: datetime | None
    clock: datetime | None
    scored_at: datetime | None
    features_hash_function: str | None

    def is_behind(self, clock: datetime) -> bool:
        """Whether a run under this clock is about the past. Compares clocks and not the newest row, because
        that row may be deleted, and an entity may arrive late.
        """
        return self.clock is not None and clock < self.clock

    def scored_at_of(self, now: datetime) -> datetime:
        """Return the run's `scored_at`: always after the last run's, even if the machine's clock was set
        back, so that the newest prediction never looks older.
        """
        return now if self.scored_at is None else max(now, self.scored_at + _TICK)


@dataclass(frozen=True, kw_only=True)
class Question:
    """Everything that a run knows before it reads rows.

    Relations are SQL text of the engine; `features_sql` may be a query. `features` maps the columns that the
    model reads to their SQL types, `precisions` maps them to the precision at which values are compared.
    `current`, `history` and `runs` are tables or views, or typed empty relations before the first run.
    `is_alone`: no other model version has scored. `hash_changed`: the last full run hashed the features with
    another function. All rows of a backfill are late.
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
        """Build the question of a run; `relations` are `current`, `history` and `runs`."""
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
        """Whether unchanged rows may be scored, too."""
        return self.full_refresh or self.retry_rejected or self.is_backfill


@dataclass(frozen=True)
class Snapshot:
    """A summary of a set of rows: their number, their oldest and newest moment, and two fingerprints.

    `fingerprint` covers key and features of each row, `dated_fingerprint` also its moment; the order of the
    rows does not matter. Both are None without rows, or if there is nothing to compare them with.
    """

    rows: int
    oldest: datetime | None
    newest: datetime | None
    fingerprint: int | None
    dated_fingerprint: int | None

    def without(self, other: Snapshot) -> Snapshot:
        """Return the snapshot without the rows of `other`; the moments stay. A fingerprint is an exclusive or
        over rows, so another exclusive or removes rows from it.
        """
        return replace(
            self,
            rows=self.rows - other.rows,
            fingerprint=(self.fingerprint or 0) ^ (other.fingerprint or 0),
            dated_fingerprint=(self.dated_fingerprint or 0) ^ (other.dated_fingerprint or 0),
        )

    def ends_by(self, other: Snapshot) -> bool:
        """Whether no row is about a later moment than the newest row of `other`."""
        return bool(self.newest and other.newest and self.newest <= other.newest)

    def holds(self, features: Snapshot) -> bool:
        """Whether these known rows match the feature relation: each key has the same features, and no row
        of the relation is about an earlier moment than the known one.
        """
        if (self.rows, self.fingerprint) != (features.rows, features.fingerprint):
            return False
        if features.oldest == features.newest:
            return self.ends_by(features)
        return self.dated_fingerprint == features.dated_fingerprint


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a run has measured about the features and about current, before it joins them.

    given          the feature relation; without fingerprints unless `has_known`
    is_incomplete  some row has no key or no moment
    has_known      False only if current is certainly empty
    known          one row for each entity that the last full run saw
    tracked_rows   number of rows in current about these entities: two for an entity with a score and a
                   rejection
    rejected       how many of the tracked rows are rejections
    """

    given: Snapshot
    is_incomplete: bool
    has_known: bool
    known: Snapshot
    tracked_rows: int
    rejected: int

    @property
    def has_one_moment(self) -> bool:
        """Whether all rows are about the same moment. Then the run row can confirm them together."""
        return self.given.oldest == self.given.newest

    @property
    def is_newest(self) -> bool:
        """Whether all rows are about the same moment, and no known row is about a later one."""
        return self.has_one_moment and self.known.ends_by(self.given)

    def add_up(
        self,
        rows: int,
        fingerprint: int | None,
        known_fingerprint: int | None,
        known: int,
        has_repeated: bool,  # noqa: FBT001, a row of the engine
    ) -> bool:
        """Whether the feature relation equals the known rows with only the changed rows replaced.

        If so, its keys are unique, as they are in current, and it has given the same rows in both readings.
        This avoids a search for duplicate keys in all rows. The arguments describe the changed rows: their
        number, the fingerprint of their features and the fingerprint of their known features, as in
        `Snapshot`, how many of them the last full run saw, and whether a key occurs twice among them.
        """
        unchanged = (self.known.fingerprint or 0) ^ (known_fingerprint or 0)
        return (
            not has_repeated
            and self.given.rows == self.known.rows - known + rows
            and self.given.fingerprint == unchanged ^ (fingerprint or 0)
        )


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """Totals of a plan.

    rows_in              rows of the feature relation: rows to score, for all reasons, and unchanged rows
    per_reason           {reason: number of rows to score}, with zeros
    rows_still_rejected  rows that an earlier run rejected, and that are not tried again
    rows_late            rows about an earlier moment than one for which the entity's score is known to
                         hold; in a backfill, all rows
    rows_present         tracked rows of current, see `Facts`, whose entity the features still have
    rows_returned        rows of entities that were gone, whose row of current stays
    rows_advanced        unchanged rows about a later moment than the known one
    input_fingerprint    hash of keys, moments and features of the rows to score; None without rows to
                         score, and in a first run
    """

    rows_in: int
    per_reason: Mapping[str, int]
    rows_still_rejected: int = 0
    rows_late: int = 0
    rows_present: int = 0
    rows_returned: int = 0
    rows_advanced: int = 0
    input_fingerprint: int | None = None

    @classmethod
    def nothing(cls, *, rows_in: int, tracked_rows: int, rows_rejected: int) -> PlanSummary:
        """The plan of a run that finds nothing changed."""
        return cls(
            rows_in=rows_in,
            per_reason=dict.fromkeys(SCORE_REASONS, 0),
            rows_still_rejected=rows_rejected,
            rows_present=tracked_rows,
        )

    @classmethod
    def all_new(cls, snapshot: Snapshot) -> PlanSummary:
        """The plan of a first run: no entity has a prediction, and each row has a key and a moment."""
        counts = {**dict.fromkeys(SCORE_REASONS, 0), "new": snapshot.rows}
        return cls(rows_in=snapshot.rows, per_reason=counts)

    def with_unchanged(self, rows_in: int) -> PlanSummary:
        """Return the totals for all `rows_in` rows, if these totals leave out unchanged rows."""
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

    def max_failures(self, max_rejected_fraction: float) -> int:
        """Return on how many rows the model may fail. On all rows it never may: such a model is broken."""
        allowed = min(int(max_rejected_fraction * self.rows_in), self.rows_in - 1)
        return max(0, allowed - self.rows_still_rejected)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Which rows a run scores, and the moment that the run is about.

    scope            `backfill` for a run about the past or with another version, else `full`
    clock            the project's clock
    as_of            the newest moment that the features describe
    scored_at        the `scored_at` of all rows that the run scores, see `Past.scored_at_of`
    hash_function    the name of the function that hashes the features
    has_absent       whether an entity that the last full run saw is gone
    rows             the engine's way to find the rows again, with the `question` and the `facts`
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
        """The columns of the run row that come from the plan. `feature_types` are the kept features' types."""
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
