"""Which rows are scored, and why: the plan, as SQL text.

A row is scored for a reason, and the reason is stored. No reason, no scoring.

    new               no prediction is known for the entity
    model_changed     predictions are known, but none by this model version
    retry             rejected before, and changed since or asked for
    features_changed  a column that the model reads has another value, as the model reads it
    hash_changed      the warehouse's hash function is another one, so a change cannot be told
    expired           scored at least `refresh_after` ago
    full_refresh      asked for

The first that applies, in the order of `_reason`, is the one stored. Nothing here touches a
warehouse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.feature_types import WHOLE_TYPES, features_hash, hashable, read_as
from dbt_onnx.engines.duckdb.identifiers import compared, quote
from dbt_onnx.engines.duckdb.ledger import SCORE_REASONS, STAMP_TYPES, fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from dbt_onnx.engines.duckdb.ledger import LedgerShape

_CANDIDATES = "temp.main.__dbt_onnx_candidates"
_MATERIALIZED = "temp.main.__dbt_onnx_planned"
_PLANNED_COLUMNS = (
    '"__dbt_onnx_as_of"', '"__dbt_onnx_features_hash"', '"__dbt_onnx_rejected_reason"', "score_reason",
    "is_late", "is_advanced", "is_returned", "was_rejected", "rows_present", "known_hash",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides which rows are scored.

    `features_sql` is a query; `features` maps the columns that the model reads to their SQL types,
    `precisions` to how much of a value counts, see `feature_types`.
    `ledger`, `latest` and `runs` are relations: table names, or typed empty ones before the first
    run. `hash_changed` says that the features hash of the last run came from another function. All
    rows of a backfill are late. With `has_one_moment` all rows are about the same moment, and none
    is looked at for having a newer one than is known; with `is_newest` that moment is not before any that
    is known, either. `has_rejected`: latest has rejections. Candidates for a score are looked for in
    `candidate_parts`, so that a join holds some of the entities. `is_materialized`: the rows that a run has
    something to do with are in a temporary table, see `materialize`.
    """

    features_sql: str
    shape: LedgerShape
    features: Mapping[str, str]
    precisions: Mapping[str, str]
    as_of_sql: str
    ledger: str
    latest: str
    runs: str
    full_refresh: bool = False
    retry_rejected: bool = False
    refresh_after_sql: str | None = None
    hash_changed: bool = False
    is_backfill: bool = False
    has_late_rows: bool = False
    has_one_moment: bool = False
    is_newest: bool = False
    has_rejected: bool = True
    candidate_parts: int = 1
    is_materialized: bool = False


def describe_features(plan: Plan) -> str:
    """One row about the feature relation as a whole: a `Snapshot`, how many rows lack a key, and how
    many a moment.
    """
    keys = ", ".join(quote(name) for name in plan.shape.key)
    null_key = " or ".join(f"{quote(name)} is null" for name in plan.shape.key)
    return f"""
        with described as (
            select
                {keys},
                {plan.as_of_sql} as "__dbt_onnx_as_of",
                {features_hash(plan.features, plan.precisions)} as "__dbt_onnx_features_hash"
            from ({plan.features_sql}) as source
        )

        select {_described(plan)},
            count(*) filter ({null_key}),
            count(*) filter ("__dbt_onnx_as_of" is null)
        from described"""


def describe_latest(plan: Plan) -> str:
    """The same of the rows of latest about entities that the last full run has seen, and how many of
    them are rejections. Parameters: $model_name, $model_version.
    """
    return f"{_tracked(plan)} select {_described(plan)}, count(*) filter (status = 'rejected') from tracked"


def describe_overruled(plan: Plan) -> str:
    """The same of those that a rejection has overruled. Parameters: $model_name, $model_version."""
    same = " and ".join(f"rejected.{quote(n)} = scored.{quote(n)}" for n in plan.shape.key)
    return f"""{_tracked(plan)}, overruled as (
            select scored.* from tracked as scored
            inner join tracked as rejected on {same} and rejected.status = 'rejected'
            where scored.status = 'scored'
        )

        select {_described(plan)} from overruled"""


def _tracked(plan: Plan) -> str:
    keys = ", ".join(
        f"{compared(name, kind)} as {quote(name)}" for name, kind in plan.shape.key.items()
    )
    return f"""
        with tracked as (
            select
                {keys},
                status,
                greatest(as_of, confirmed_as_of) as "__dbt_onnx_as_of",
                features_hash as "__dbt_onnx_features_hash"
            from {plan.latest}
            where model_name = $model_name and model_version = $model_version
                and last_seen_as_of is null
        )"""


def _described(plan: Plan) -> str:
    """The columns of `Snapshot`."""
    keys = ", ".join(hashable(quote(name), kind) for name, kind in plan.shape.key.items())
    return f"""
            count(*),
            min("__dbt_onnx_as_of"),
            max("__dbt_onnx_as_of"),
            {fingerprint(f'{keys}, "__dbt_onnx_features_hash"')},
            {fingerprint(f'{keys}, "__dbt_onnx_as_of", "__dbt_onnx_features_hash"')}"""


def oldest_score(plan: Plan) -> str:
    """The oldest moment of a run whose scores are in latest. Parameters: $scoring_model,
    $model_name, $model_version.
    """
    return f"""
        with scored as (
            select run_id, min(as_of) as as_of from {plan.latest}
            where model_name = $model_name and model_version = $model_version
                and status = 'scored' and last_seen_as_of is null
            group by run_id
        )

        select min(coalesce(runs.as_of, scored.as_of)) from scored
        left join {plan.runs} as runs
            on runs.run_id = scored.run_id and runs.scoring_model = $scoring_model"""


def has_unique_keys(
    features_sql: str, key: Mapping[str, str], *, bounds: tuple[int, int] | None
) -> str:
    """Whether no key occurs twice, told without a group for each key: when false, one may. NULL keys
    do not count.

    `key` maps the columns to their SQL types. A key that is one whole number within `bounds` (least
    and greatest) sets a bit each; of any other the hashes are counted.
    """
    columns = ", ".join(quote(name) for name in key)
    not_null = " and ".join(f"{quote(name)} is not null" for name in key)
    hashed = ", ".join(compared(name, kind) for name, kind in key.items())
    distinct = f"count(distinct hash({hashed}))"
    if bounds is not None:
        low, high = bounds
        # a relation that is never the same may give others now
        within = f"case when {columns} between {low:d} and {high:d} then {columns} end"
        distinct = f"bit_count(bitstring_agg({within}, {low:d}, {high:d}))"
    return f"select {distinct} = count(*) from ({features_sql}) as features where {not_null}"


def bounds_of_key(features_sql: str, key: Mapping[str, str]) -> str | None:
    """How many keys there are, the least and the greatest; none for keys that are no single whole
    number.
    """
    if len(key) > 1 or not set(key.values()) <= WHOLE_TYPES:
        return None
    [column] = map(quote, key)
    return f"select count({column}), min({column}), max({column}) from ({features_sql}) as features"


def duplicate_keys(features_sql: str, key: Mapping[str, str], *, examples: int = 5) -> str:
    """The keys that occur more than once, with their count; NULL keys are rejected, not counted.
    `key` maps the columns to their SQL types.
    """
    columns = ", ".join(compared(name, kind) for name, kind in key.items())
    not_null = " and ".join(f"{quote(name)} is not null" for name in key)
    return (
        f"select {columns}, count(*) as occurrences from ({features_sql}) as features "
        f"where {not_null} group by {columns} having count(*) > 1 limit {examples}"
    )


def materialize(plan: Plan) -> Sequence[str]:
    """Put the rows that a run has something to do with into a temporary table: where most rows are
    as they were, the features are read once, and one narrow join leaves few rows for the others.
    Parameters: $scoring_model, $model_name, $model_version, $run_as_of.
    """
    keys = [f'"__dbt_onnx_key_{i}"' for i in range(len(plan.shape.key))]
    features = [f"feature_{i}" for i in range(len(plan.features))]
    columns = ", ".join([*keys, *_PLANNED_COLUMNS, *features])
    parts = range(plan.candidate_parts)
    return (
        f"create or replace temp table {_CANDIDATES} as {_select_candidates(plan, part=0)}",
        *(f"insert into {_CANDIDATES} {_select_candidates(plan, part=part)}" for part in parts[1:]),
        f"""create or replace temp table {_MATERIALIZED} as {_joined(plan, features=_CANDIDATES)}
        select {columns} from planned
        where score_reason is not null or was_rejected or is_late or is_returned or is_advanced
            or rows_present <> 1""",
        f"drop table {_CANDIDATES}",
    )


def describe_materialized(plan: Plan) -> str:
    """One row about the rows in the temporary table: how many there are; the fingerprint of their
    features and that of what was known of them, as in `Snapshot`; how many of them the last full run
    had seen; whether a key occurs twice.
    """
    keys = ", ".join(f'"__dbt_onnx_key_{i}"' for i in range(len(plan.shape.key)))
    hashed = _hashable_keys(plan)
    return f"""
        select
            count(*),
            {fingerprint(f'{hashed}, "__dbt_onnx_features_hash"')},
            {fingerprint(f"{hashed}, known_hash")} filter (rows_present > 0),
            count(*) filter (rows_present > 0),
            count(*) > (select count(*) from (select distinct {keys} from {_MATERIALIZED}))
        from {_MATERIALIZED}"""


def summarize(plan: Plan) -> str:
    """One row of totals, for `PlanSummary.from_row`, of all rows or of those in the temporary table."""
    reasons = ",\n            ".join(
        f"count(*) filter (score_reason = '{reason}') as rows_{reason}" for reason in SCORE_REASONS
    )
    keys = _hashable_keys(plan)
    return f"""{_planned(plan)}
        select
            count(*) as rows_in,
            {reasons},
            count(*) filter (score_reason is null and was_rejected) as rows_still_rejected,
            count(*) filter (is_late) as rows_late,
            coalesce(sum(rows_present), 0) as rows_present,
            count(*) filter (is_returned and (score_reason is null or is_late)) as rows_returned,
            count(*) filter (is_advanced and score_reason is null) as rows_advanced,
            {fingerprint(f'{keys}, "__dbt_onnx_as_of", "__dbt_onnx_features_hash"')}
                filter (score_reason is not null) as input_fingerprint
        from planned"""


def _hashable_keys(plan: Plan) -> str:
    return ", ".join(
        hashable(f'"__dbt_onnx_key_{i}"', kind) for i, kind in enumerate(plan.shape.key.values())
    )


def planned_twice(plan: Plan) -> str:
    """A key that occurs more than once among the planned rows; a NULL in it does not count."""
    keys = [f'"__dbt_onnx_key_{i}"' for i in range(len(plan.shape.key))]
    return f"""{_planned(plan)}
        select {", ".join(keys)} from planned
        where {" and ".join(f"{name} is not null" for name in keys)}
        group by {", ".join(keys)} having count(*) > 1 limit 1"""


def select_rows(plan: Plan) -> str:
    """The rows to score: carried columns, then the features under their own names. The reason is its
    place in `SCORE_REASONS`: a number streams faster than text.
    """
    carried = [f'"__dbt_onnx_key_{i}"' for i in range(len(plan.shape.key))]
    reason = f"enum_code(cast(score_reason as {STAMP_TYPES['score_reason']}))"
    carried += ['"__dbt_onnx_as_of"', f'{reason} as "__dbt_onnx_score_reason"']
    carried += [
        'is_late as "__dbt_onnx_is_late"',
        '"__dbt_onnx_features_hash"',
        '"__dbt_onnx_rejected_reason"',
    ]
    carried += [
        f"{read_as(f'feature_{i}', kind)} as {quote(name)}"
        for i, (name, kind) in enumerate(plan.features.items())
    ]
    columns = ",\n            ".join(carried)
    return f"""{_planned(plan)}
        select
            {columns}
        from planned
        where score_reason is not null"""


def select_advanced(plan: Plan) -> str:
    """The keys and moments of unchanged rows that are about a newer moment than is known of them."""
    keys = ", ".join(f'"__dbt_onnx_key_{i}"' for i in range(len(plan.shape.key)))
    return f"""{_joined(plan)}
        select {keys}, "__dbt_onnx_as_of" from planned
        where is_advanced and score_reason is null"""


def _planned(plan: Plan) -> str:
    if plan.is_materialized:
        return f"with planned as (select * from {_MATERIALIZED})"
    return _joined(plan)


def _features(plan: Plan, *, where: str = "true") -> str:
    """The feature relation under names that collide with none: keys, `as_of_given`, `values_hash`, and
    the columns that the model reads. `where`: which of its rows, which are called `source`.
    """
    selected = ",\n                ".join(
        f'{compared(name, kind)} as "__dbt_onnx_key_{i}"'
        for i, (name, kind) in enumerate(plan.shape.key.items())
    )
    columns = "".join(
        f",\n                {quote(name)} as feature_{i}" for i, name in enumerate(plan.features)
    )
    return f"""(
            select
                {selected},
                {plan.as_of_sql} as as_of_given,
                {features_hash(plan.features, plan.precisions)} as values_hash{columns}
            from ({plan.features_sql}) as source
            where {where}
        )"""


def _select_candidates(plan: Plan, *, part: int) -> str:
    """The feature rows that are not plainly as they were. Of a row that is left out, the entity has
    one row in latest: a score that has not expired, on the same features, and about a moment that the
    row does not change. The join holds few and narrow columns, for all entities of a part.
    """

    def in_part(table: str) -> str:
        if plan.candidate_parts == 1:
            return "true"
        keys = ", ".join(compared(name, kind, of=table) for name, kind in plan.shape.key.items())
        return f"hash({keys}) % {plan.candidate_parts} = {part}"

    is_model = "model_name = $model_name and model_version = $model_version"
    conditions = [
        "plain.features_hash is distinct from features.values_hash",
        "features.as_of_given is null",
    ]
    if not plan.is_newest:
        conditions.append("features.as_of_given <> greatest(plain.as_of, plain.confirmed_as_of)")
    if plan.refresh_after_sql is not None:
        conditions.append(_has_expired(plan, "plain.as_of"))
    if plan.has_rejected:
        conditions.append(
            f"exists (select 1 from {plan.latest} as rejected "
            f"where {_same_key(plan, 'rejected')} and {is_model} and status = 'rejected')"
        )
    return f"""
        select features.* from {_features(plan, where=in_part("source"))} as features
        left join (
            select * from {plan.latest} as known
            where {is_model} and status = 'scored' and last_seen_as_of is null and {in_part("known")}
        ) as plain on {_same_key(plan, "plain")}
        {_expiry(plan, "plain.run_id")}
        where {" or ".join(conditions)}"""


def _joined(plan: Plan, *, features: str | None = None) -> str:
    """Join each feature row with what is known of its entity, and give it a reason or none.

    A row is late when it is about a moment before one for which the entity's score is known to hold.
    `features`: a table that holds some of the rows, as `_features` gives them. Parameters:
    $scoring_model, $model_name, $model_version, $run_as_of.
    """
    keys = [f'"__dbt_onnx_key_{i}"' for i in range(len(plan.shape.key))]
    named = list(zip(keys, plan.shape.key, strict=True))
    null_key = " or ".join(f"features.{alias} is null" for alias in keys)
    is_model = "model_name = $model_name and model_version = $model_version"
    known_until = "greatest(scored.as_of, scored.confirmed_as_of)"
    is_late = f"coalesce(features.as_of_given < {known_until}, false)"
    if plan.is_backfill:
        is_late = "true"
    is_advanced = f"features.as_of_given > {known_until} and rejected.status is null"
    if plan.has_one_moment:
        is_advanced = "false"
    return f"""
        with features as (select * from {features or _features(plan)}),

        scored as (
            select * from {plan.latest} where {is_model} and status = 'scored'
        ),

        rejected as (
            select * from {plan.latest} where {is_model} and status = 'rejected'
        ),

        -- a missing moment counts as a change: the row is rejected for it, and scored once it is there
        known as (
            select
                features.*,
                coalesce(features.as_of_given, $run_as_of) as "__dbt_onnx_as_of",
                case when features.as_of_given is null
                    then hash(features.values_hash, 'null_as_of') else features.values_hash
                end as "__dbt_onnx_features_hash",
                case
                    when {null_key} then 'null_key'
                    when features.as_of_given is null then 'null_as_of'
                end as "__dbt_onnx_rejected_reason",
                ({null_key}) as has_null_key,
                {is_late} as is_late,
                coalesce({is_advanced}, false) as is_advanced,
                scored.status is not null or rejected.status is not null as is_known,
                rejected.status is not null as was_rejected,
                coalesce(rejected.features_hash, scored.features_hash) as known_hash,
                scored.run_id as scored_run_id,
                scored.as_of as scored_as_of,
                cast(scored.status is not null and scored.last_seen_as_of is null as integer)
                    + cast(rejected.status is not null and rejected.last_seen_as_of is null as integer)
                    as rows_present,
                scored.last_seen_as_of is not null or rejected.last_seen_as_of is not null as is_returned,
                exists (
                    select 1 from {plan.latest} as other
                    where {_same_key(plan, "other")}
                        and (other.model_name <> $model_name or other.model_version <> $model_version)
                ) as is_known_to_others
            from features
            left join scored on {_same_key(plan, "scored")}
            left join rejected on {_same_key(plan, "rejected")}
        ),
        {_late(plan, keys) if plan.has_late_rows else ""}
        planned as (
            select *, {_reason(plan, named)} as score_reason
            from {"known_with_late" if plan.has_late_rows else "known"}
            {_expiry(plan, "scored_run_id")}
        )
"""


def _same_key(plan: Plan, table: str) -> str:
    return " and ".join(
        f'{compared(name, kind, of=table)} = features."__dbt_onnx_key_{i}"'
        for i, (name, kind) in enumerate(plan.shape.key.items())
    )


def _reason(plan: Plan, named: Sequence[tuple[str, str]]) -> str:
    same_or_null = " and ".join(
        f"{compared(name, plan.shape.key[name], of='said')} is not distinct from {alias}"
        for alias, name in named
    )
    any_null = " or ".join(f"said.{quote(name)} is null" for _, name in named)
    changed = "hash_changed" if plan.hash_changed else "features_changed"
    retry = 'known_hash <> "__dbt_onnx_features_hash"' if not plan.retry_rejected else "true"
    full_refresh = "when true then 'full_refresh'" if plan.full_refresh else ""
    late = ""
    if plan.has_late_rows:
        late = f"""
                    when is_late and not late_is_known and late_is_known_to_others then 'model_changed'
                    when is_late and not late_is_known then 'new'
                    when is_late and was_rejected and late_hash <> "__dbt_onnx_features_hash"
                        then 'retry'
                    when is_late and late_hash <> "__dbt_onnx_features_hash" then '{changed}'
                    when is_late then null"""
    expired = ""
    if plan.refresh_after_sql is not None:
        expired = f"""
                    when {_has_expired(plan, "scored_as_of")} then 'expired'"""
    # a row without a key is no entity: the ledger itself tells whether it was reported before
    return f"""case
                    {full_refresh}
                    when has_null_key then case when not exists (
                        select 1 from {plan.ledger} as said
                        where ({any_null}) and {same_or_null}
                            and said.features_hash = "__dbt_onnx_features_hash"
                            and said.model_name = $model_name
                            and said.model_version = $model_version
                    ) then 'new' end{late}
                    when not is_known and is_known_to_others then 'model_changed'
                    when not is_known then 'new'
                    when was_rejected then case when {retry} then 'retry' end
                    when known_hash <> "__dbt_onnx_features_hash" then '{changed}'{expired}
                end"""


def _has_expired(plan: Plan, scored_as_of: str) -> str:
    return f"coalesce(scoring_runs.scored_run_as_of, {scored_as_of}) + {plan.refresh_after_sql} <= $run_as_of"


def _expiry(plan: Plan, run_id: str) -> str:
    """Age is counted from the run that scored: an `as_of` that stands still would expire nightly."""
    if plan.refresh_after_sql is None:
        return ""
    return f"""left join (
                select run_id, max(as_of) as scored_run_as_of from {plan.runs}
                where scoring_model = $scoring_model group by run_id
            ) as scoring_runs on scoring_runs.run_id = {run_id}"""


def _late(plan: Plan, keys: Sequence[str]) -> str:
    """What the ledger had said of a late row's entity by the moment that the row describes."""
    listed = ", ".join(f"features.{alias}" for alias in keys)
    joined = " and ".join(f"late.{alias} = known.{alias}" for alias in keys)
    is_model = "said.model_name = $model_name and said.model_version = $model_version"
    return f"""
        late as (
            select
                {listed},
                arg_max(
                    {{'hash': said.features_hash, 'status': said.status}}, (said.as_of, said.scored_at)
                ) filter ({is_model}) as said_last,
                bool_or(not ({is_model})) as is_known_to_others
            from known as features
            inner join {plan.ledger} as said on {_same_key(plan, "said")}
            where features.is_late and said.as_of <= features."__dbt_onnx_as_of"
            group by {listed}
        ),

        known_with_late as (
            select
                known.* replace (
                    case when known.is_late then late.said_last.status is not distinct from 'rejected'
                        else known.was_rejected
                    end as was_rejected
                ),
                late.said_last is not null as late_is_known,
                late.said_last.hash as late_hash,
                coalesce(late.is_known_to_others, false) as late_is_known_to_others
            from known
            left join late on {joined}
        ),
"""


@dataclass(frozen=True)
class Snapshot:
    """Rows with their key and features, and when they are from, as a whole.

    `fingerprint` does not depend on the order of the rows, `dated_fingerprint` regards the moment of
    each row, too; none without rows.
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
class PlanSummary:
    """Totals of a plan. `rows_in` = rows to score (all reasons) + unchanged."""

    rows_in: int
    per_reason: Mapping[str, int]
    rows_still_rejected: int
    rows_late: int
    rows_present: int
    rows_returned: int
    rows_advanced: int
    input_fingerprint: int | None

    @classmethod
    def nothing(cls, *, rows_in: int, rows_tracked: int, rows_rejected: int) -> PlanSummary:
        """The plan of a run that finds what is known already."""
        return cls(
            rows_in=rows_in,
            per_reason=dict.fromkeys(SCORE_REASONS, 0),
            rows_still_rejected=rows_rejected,
            rows_late=0,
            rows_present=rows_tracked,
            rows_returned=0,
            rows_advanced=0,
            input_fingerprint=None,
        )

    @classmethod
    def all_new(cls, snapshot: Snapshot) -> PlanSummary:
        """The plan of the first run of all: each row has a key and a moment, and nothing is known."""
        nothing = cls.nothing(rows_in=snapshot.rows, rows_tracked=0, rows_rejected=0)
        return replace(
            nothing,
            per_reason={**nothing.per_reason, "new": snapshot.rows},
            input_fingerprint=snapshot.dated_fingerprint,
        )

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

    @property
    def rows_unchanged(self) -> int:
        return self.rows_in - self.rows_to_score
