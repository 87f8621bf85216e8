"""SQL that decides which rows are scored, and why. Nothing here touches a warehouse.

The first reason that applies, in the order of `_reason`, is stored. `dbt_onnx.runs.plan` explains the
reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.current import is_about, keys_of
from dbt_onnx.engines.duckdb.feature_types import (
    WHOLE_TYPES,
    features_hash,
    hashable_columns,
    read_as,
)
from dbt_onnx.engines.duckdb.identifiers import compared, compared_key, not_null, quote
from dbt_onnx.engines.duckdb.ledger import REJECTED, ROW_TYPES, fingerprint
from dbt_onnx.runs import plan
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.plan import SCORE_REASONS
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.engines.duckdb.ledger import LedgerShape

_CANDIDATES = "temp.main.__dbt_onnx_candidates"
_PLANNED_TABLE = "temp.main.__dbt_onnx_planned"
PLANNED_CTE = f"with planned as (select * from {_PLANNED_TABLE})"
_PLANNED_COLUMNS = (
    '"__dbt_onnx_as_of"', '"__dbt_onnx_features_hash"', '"__dbt_onnx_rejected_reason"', "score_reason",
    "is_late", "is_advanced", "is_returned", "was_rejected", "rows_present", "known_hash",
)  # fmt: skip


class Question(plan.Question):
    """The plan's question plus the SQL fragments that DuckDB's statements need. `features_sql` is a query, and
    so is `current`, which comes from `ledger.select_current`.
    """

    shape: LedgerShape

    @property
    def refresh_after_sql(self) -> str | None:
        """SQL of `refresh_after` as an interval; None if it is not set."""
        period = self.refresh_after
        return None if period is None else f"to_seconds({int(period.total_seconds())})"

    def is_of_version(self, of: str = "") -> str:
        """SQL that is true for a row by the version that the run scores with; `of` is the alias of its table.
        Always true if no other version has scored. Parameters: $model_name, $model_version.
        """
        if self.is_alone:
            return "true"
        return (
            f"{of + '.' if of else ''}{RUN} in (select {RUN} from {self.runs} "
            "where model_name = $model_name and model_version = $model_version)"
        )


@dataclass(frozen=True, kw_only=True)
class Facts(plan.Facts):
    """The plan's facts plus the number of rows that a join can hold in memory."""

    max_rows_held: int

    @property
    def candidate_parts(self) -> int:
        """The number of parts in which changed rows are searched for, so that each join fits in memory."""
        return 1 + self.tracked_rows // self.max_rows_held


def describe_features(question: Question, *, with_hash: bool) -> str:
    """SQL that returns one row about the whole feature relation: the fields of a `Snapshot`, and whether some
    row lacks a key or a moment. Without `with_hash`, it reads only keys and moments.
    """
    values = features_hash(question.features, question.precisions) if with_hash else "null"
    fingerprints = _fingerprints(question, is_dated=True) if with_hash else "null, null"
    return f"""
        with described as (
            select
                {", ".join(map(quote, question.shape.key))},
                {question.as_of_sql} as "__dbt_onnx_as_of",
                {values} as "__dbt_onnx_features_hash"
            from ({question.features_sql}) as source
        )

        select count(*), min("__dbt_onnx_as_of"), max("__dbt_onnx_as_of"), {fingerprints},
            count(*) filter (not ({not_null(question.shape.key)} and "__dbt_onnx_as_of" is not null)) > 0
        from described"""


def describe_current(question: Question, *, is_dated: bool) -> str:
    """SQL that returns one row about the rows of current with entities that the last full run saw: their
    number, their fingerprints as in `Snapshot` (the second only if `is_dated`), and the number of rejections.
    Parameters: $model_name, $model_version.
    """
    fingerprints = _fingerprints(question, is_dated=is_dated)
    return f"{_tracked(question)} select count(*), {fingerprints}, count({REJECTED}) from tracked"


def describe_overruled(question: Question, *, is_dated: bool) -> str:
    """SQL that returns number and fingerprints, as `describe_current` does, of only the scores of entities
    that were rejected later. Parameters: $model_name, $model_version.
    """
    keys = ", ".join(map(quote, question.shape.key))
    return f"""{_tracked(question)}
        select count(*), {_fingerprints(question, is_dated=is_dated)} from tracked
        where {REJECTED} is null
            and ({keys}) in (select {keys} from tracked where {REJECTED} is not null)"""


def _tracked(question: Question) -> str:
    keys = ", ".join(
        f"{compared(name, kind)} as {quote(name)}" for name, kind in question.shape.key.items()
    )
    return f"""
        with tracked as (
            select
                {keys},
                {REJECTED},
                confirmed_as_of as "__dbt_onnx_as_of",
                features_hash as "__dbt_onnx_features_hash"
            from {question.current}
            where {question.is_of_version()} and last_seen_as_of is null
        )"""


def _fingerprints(question: Question, *, is_dated: bool) -> str:
    """SQL of the two fingerprints of a `Snapshot`; the second is NULL unless `is_dated`."""
    keys = hashable_columns(question.shape.key)
    dated = fingerprint(f'{keys}, "__dbt_onnx_as_of", "__dbt_onnx_features_hash"')
    return f"""
            {fingerprint(f'{keys}, "__dbt_onnx_features_hash"')},
            {dated if is_dated else "null"}"""


def oldest_score(question: Question) -> str:
    """SQL that returns the oldest `as_of` of the runs that made the scores in current. Parameters:
    $model_name, $model_version.
    """
    return f"""
        select min(as_of) from {question.runs} where {RUN} in (
            select {RUN} from {question.current}
            where {question.is_of_version()} and {REJECTED} is null and last_seen_as_of is null
        )"""


def has_unique_keys(
    features_sql: str, key: Mapping[str, str], *, bounds: tuple[int, int] | None
) -> str:
    """SQL that returns true if no key occurs twice, without grouping by key. If it returns false, a key may
    occur twice, or two keys have the same hash. NULL keys do not count.

    `key` maps the columns to their SQL types. With `bounds`, the least and the greatest key, the key is a
    single integer, and each key sets one bit. Without `bounds`, distinct hashes of keys are counted.
    """
    distinct = f"count(distinct hash({compared_key(key)}))"
    if bounds is not None:
        [column], (low, high) = map(quote, key), bounds
        # an unstable relation may give keys outside the bounds now
        within = f"case when {column} between {low:d} and {high:d} then {column} end"
        distinct = f"bit_count(bitstring_agg({within}, {low:d}, {high:d}))"
    return f"select {distinct} = count(*) from ({features_sql}) as features where {not_null(key)}"


def bounds_of_key(features_sql: str, key: Mapping[str, str]) -> str | None:
    """SQL that returns the number of keys, the least and the greatest; None unless the key is a single
    integer column.
    """
    if len(key) > 1 or not set(key.values()) <= WHOLE_TYPES:
        return None
    [column] = map(quote, key)
    return f"select count({column}), min({column}), max({column}) from ({features_sql}) as features"


def duplicate_keys(features_sql: str, key: Mapping[str, str]) -> str:
    """SQL that returns some keys that occur more than once, with their count. NULL keys do not count: their
    rows are rejected. `key` maps the columns to their SQL types.
    """
    columns = compared_key(key)
    return (
        f"select {columns}, count(*) as occurrences from ({features_sql}) as features "
        f"where {not_null(key)} group by {columns} having count(*) > 1 limit 5"
    )


def materialize(question: Question, facts: Facts, *, with_late: bool) -> Sequence[str]:
    """Statements that put all rows except unchanged ones into a temporary table, which `PLANNED_CTE` reads.
    The features are read once. One narrow join leaves few rows for the wider joins that follow.
    Parameters: $model_name, $model_version, $run_as_of.
    """
    features = [f"feature_{i}" for i in range(len(question.features))]
    columns = ", ".join([*_keys(question), *_PLANNED_COLUMNS, *features])
    parts = [_select_candidates(question, facts, part=i) for i in range(facts.candidate_parts)]
    return (
        f"create or replace temp table {_CANDIDATES} as {parts[0]}",
        *(f"insert into {_CANDIDATES} {part}" for part in parts[1:]),
        f"""create or replace temp table {_PLANNED_TABLE} as {joined(question, facts, with_late=with_late, features=_CANDIDATES)}
        select {columns} from planned
        where score_reason is not null or was_rejected or is_late or is_returned or is_advanced
            or rows_present <> 1""",
        f"drop table {_CANDIDATES}",
    )


def describe_materialized(question: Question) -> str:
    """SQL that returns the arguments of `Facts.add_up` for the rows in the temporary table: their number, the
    fingerprints of their features and of their known features, how many of them the last full run saw, and
    whether a key occurs twice.
    """
    hashed = _hashable_keys(question)
    return f"""
        select
            count(*),
            {fingerprint(f'{hashed}, "__dbt_onnx_features_hash"')},
            {fingerprint(f"{hashed}, known_hash")} filter (rows_present > 0),
            count(*) filter (rows_present > 0),
            count(*) > (select count(*) from (select distinct {", ".join(_keys(question))} from {_PLANNED_TABLE}))
        from {_PLANNED_TABLE}"""


def summarize(question: Question, planned: str) -> str:
    """SQL that returns one row of totals over the CTE `planned`, for `PlanSummary.from_row`."""
    reasons = ",\n            ".join(
        f"count(*) filter (score_reason = '{reason}') as rows_{reason}" for reason in SCORE_REASONS
    )
    keys = _hashable_keys(question)
    return f"""{planned}
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


def _hashable_keys(question: Question) -> str:
    shape = question.shape
    return hashable_columns({shape.carried_key[name]: kind for name, kind in shape.key.items()})


def planned_twice(question: Question, planned: str) -> str:
    """SQL that returns one key that occurs more than once among the planned rows. Keys with a NULL do not
    count.
    """
    keys = _keys(question)
    return f"""{planned}
        select {", ".join(keys)} from planned
        where {not_null(question.shape.carried_key.values())}
        group by {", ".join(keys)} having count(*) > 1 limit 1"""


def select_rows(question: Question, planned: str) -> str:
    """SQL that returns the rows to score: the carried columns, then the features under their own names. The
    reason comes as its position in `SCORE_REASONS`, because a number streams faster than text.
    """
    features = ",\n            ".join(
        f"{read_as(f'feature_{i}', kind)} as {quote(name)}"
        for i, (name, kind) in enumerate(question.features.items())
    )
    return f"""{planned}
        select
            {", ".join(_keys(question))},
            "__dbt_onnx_as_of",
            enum_code(cast(score_reason as {ROW_TYPES["score_reason"]})) as "__dbt_onnx_score_reason",
            is_late as "__dbt_onnx_is_late",
            "__dbt_onnx_features_hash",
            "__dbt_onnx_rejected_reason",
            {features}
        from planned
        where score_reason is not null"""


def select_advanced(question: Question, facts: Facts) -> str:
    """SQL that returns the keys and moments of unchanged rows that are about a newer moment than the known
    one.
    """
    return f"""{joined(question, facts, with_late=False)}
        select {", ".join(_keys(question))}, "__dbt_onnx_as_of" from planned
        where is_advanced and score_reason is null"""


def _features(question: Question, *, where: str = "true") -> str:
    """The feature relation with column names that cannot collide: keys, `as_of_given`, `values_hash`, and
    `feature_<i>` for the columns that the model reads. `where` filters its rows, under the alias `source`.
    """
    selected = ",\n                ".join(
        f"{compared(name, question.shape.key[name])} as {quote(carried)}"
        for name, carried in question.shape.carried_key.items()
    )
    columns = "".join(
        f",\n                {quote(name)} as feature_{i}"
        for i, name in enumerate(question.features)
    )
    return f"""(
            select
                {selected},
                {question.as_of_sql} as as_of_given,
                {features_hash(question.features, question.precisions)} as values_hash{columns}
            from ({question.features_sql}) as source
            where {where}
        )"""


def _select_candidates(question: Question, facts: Facts, *, part: int) -> str:
    """SQL that returns the feature rows of a part that may have changed. It leaves out a row only if its
    entity has one row in current: a score that has not expired, on the same features, and confirmed for a
    moment that the row does not change. The join holds few, narrow columns for all entities of the part.
    """

    def in_part(table: str) -> str:
        if facts.candidate_parts == 1:
            return "true"
        key = compared_key(question.shape.key, of=table)
        return f"hash({key}) % {facts.candidate_parts} = {part}"

    is_of_version = question.is_of_version()
    conditions = [
        "plain.features_hash is distinct from features.values_hash",
        "features.as_of_given is null",
        _has_expired(question),
    ]
    if not facts.is_newest:
        conditions.append("features.as_of_given <> plain.confirmed_as_of")
    if facts.rejected:
        is_rejected = f"{REJECTED} is not null and {is_of_version}"
        rejected = keys_of(question.current, question.shape.key, where=is_rejected)
        conditions.append(f"({', '.join(_keys(question, of='features'))}) in {rejected}")
    return f"""
        select features.* from {_features(question, where=in_part("source"))} as features
        left join (
            select * from {question.current} as known
            where {is_of_version} and {REJECTED} is null and last_seen_as_of is null and {in_part("known")}
        ) as plain on {is_about(question.shape, "plain")}
        {_expiry(question, f"plain.{RUN}")}
        where {" or ".join(conditions)}"""


def joined(
    question: Question, facts: Facts, *, with_late: bool, features: str | None = None
) -> str:
    """SQL of a CTE `planned`: each feature row joined with what is known about its entity, and with the
    reason to score it, or NULL.

    A row is late if its moment is before a moment for which the entity's score is known to hold. With
    `with_late`, the reason for a late row depends on what the ledger had as of the row's moment.
    `features` is a table with some of the rows, in the form of `_features`; by default all rows are read.
    Parameters: $model_name, $model_version, $run_as_of.
    """
    null_key = " or ".join(f"{alias} is null" for alias in _keys(question, of="features"))
    is_of_version = question.is_of_version()
    is_late = "true" if question.is_backfill else "features.as_of_given < scored.confirmed_as_of"
    is_advanced = f"features.as_of_given > scored.confirmed_as_of and rejected.{RUN} is null"
    if facts.has_one_moment:
        is_advanced = "false"
    is_known_to_others = "false"
    if not question.is_alone:
        others = keys_of(question.current, question.shape.key, where=f"not ({is_of_version})")
        is_known_to_others = f"({', '.join(_keys(question, of='features'))}) in {others}"
    return f"""
        with known as (
            -- a NULL as_of changes the hash: the row is rejected now, and scored once it has an as_of
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
                coalesce({is_late}, false) as is_late,
                coalesce({is_advanced}, false) as is_advanced,
                scored.{RUN} is not null or rejected.{RUN} is not null as is_known,
                rejected.{RUN} is not null as was_rejected,
                coalesce(rejected.features_hash, scored.features_hash) as known_hash,
                scored.{RUN} as scored_run_no,
                cast(scored.{RUN} is not null and scored.last_seen_as_of is null as integer)
                    + cast(rejected.{RUN} is not null and rejected.last_seen_as_of is null as integer)
                    as rows_present,
                scored.last_seen_as_of is not null or rejected.last_seen_as_of is not null as is_returned,
                coalesce({is_known_to_others}, false) as is_known_to_others
            from {features or _features(question)} as features
            left join (
                select * from {question.current} where {is_of_version} and {REJECTED} is null
            ) as scored on {is_about(question.shape, "scored")}
            left join (
                select * from {question.current} where {is_of_version} and {REJECTED} is not null
            ) as rejected on {is_about(question.shape, "rejected")}
        ),
        {_late(question) if with_late else ""}
        planned as (
            select *, {_reason(question, with_late=with_late)} as score_reason
            from {"known_with_late" if with_late else "known"}
            {_expiry(question, "scored_run_no")}
        )
"""


def all_new(question: Question) -> str:
    """SQL of the CTE `planned` if no entity has a prediction, and no row lacks a key or a moment."""
    return f"""
        with planned as (
            select
                *,
                as_of_given as "__dbt_onnx_as_of",
                values_hash as "__dbt_onnx_features_hash",
                cast(null as varchar) as "__dbt_onnx_rejected_reason",
                'new' as score_reason,
                false as is_late
            from {_features(question)}
        )
"""


def _reason(question: Question, *, with_late: bool) -> str:
    key = question.shape.key
    same_or_null = " and ".join(
        f"{compared(name, kind, of='reported')} is not distinct from {alias}"
        for alias, (name, kind) in zip(_keys(question), key.items(), strict=True)
    )
    any_null = " or ".join(f"reported.{quote(name)} is null" for name in key)
    changed = "hash_changed" if question.hash_changed else "features_changed"
    retry = 'known_hash <> "__dbt_onnx_features_hash"' if not question.retry_rejected else "true"
    full_refresh = "when true then 'full_refresh'" if question.full_refresh else ""
    late = ""
    if with_late:
        late = f"""
                    when is_late and not late_is_known and late_is_known_to_others then 'model_changed'
                    when is_late and not late_is_known then 'new'
                    when is_late and was_rejected and late_hash <> "__dbt_onnx_features_hash"
                        then 'retry'
                    when is_late and late_hash <> "__dbt_onnx_features_hash" then '{changed}'
                    when is_late then null"""
    # a row without a key has no entity and is never in current: history shows whether it was reported
    return f"""case
                    {full_refresh}
                    when has_null_key then case when not exists (
                        select 1 from {question.history} as reported
                        where ({any_null}) and {same_or_null}
                            and reported.features_hash = "__dbt_onnx_features_hash"
                            and {question.is_of_version("reported")}
                    ) then 'new' end{late}
                    when not is_known and is_known_to_others then 'model_changed'
                    when not is_known then 'new'
                    when was_rejected then case when {retry} then 'retry' end
                    when known_hash <> "__dbt_onnx_features_hash" then '{changed}'
                    when {_has_expired(question)} then 'expired'
                end"""


def _has_expired(question: Question) -> str:
    period = question.refresh_after_sql
    return "false" if period is None else f"__dbt_onnx_scored_run_as_of + {period} <= $run_as_of"


def _expiry(question: Question, run_no: str) -> str:
    """SQL of a join that adds the `as_of` of the run that scored, from which `_has_expired` counts the age.

    The row's own `as_of` may stay the same for years: such a row would expire every night.
    """
    if question.refresh_after_sql is None:
        return ""
    return f"""left join (
                select {RUN} as __dbt_onnx_scoring_run_no, as_of as __dbt_onnx_scored_run_as_of from {question.runs}
            ) as scoring_runs on scoring_runs.__dbt_onnx_scoring_run_no = {run_no}"""


def _late(question: Question) -> str:
    """SQL of CTEs that add to each late row what the ledger had about its entity as of the row's moment."""
    listed = ", ".join(_keys(question, of="features"))
    joined_on = " and ".join(f"late.{alias} = known.{alias}" for alias in _keys(question))
    columns = ", ".join((*map(quote, question.shape.key), "as_of", "features_hash", REJECTED, RUN))
    return f"""
        earlier as (
            select *, {question.is_of_version()} as __dbt_onnx_is_of_version from (
                select {columns} from {question.current}
                union all select {columns} from {question.history}
                where score_reason is distinct from '{REAL_TIME}'
            )
        ),

        late as (
            select
                {listed},
                arg_max(
                    {{'hash': earlier.features_hash, 'is_rejected': earlier.{REJECTED} is not null}},
                    (earlier.as_of, earlier.{RUN})
                ) filter (earlier.__dbt_onnx_is_of_version) as newest,
                bool_or(not earlier.__dbt_onnx_is_of_version) as is_known_to_others
            from known as features
            inner join earlier on {is_about(question.shape, "earlier")}
            where features.is_late and earlier.as_of <= features."__dbt_onnx_as_of"
            group by {listed}
        ),

        known_with_late as (
            select
                known.* replace (
                    case when known.is_late then coalesce(late.newest.is_rejected, false)
                        else known.was_rejected
                    end as was_rejected
                ),
                late.newest is not null as late_is_known,
                late.newest.hash as late_hash,
                coalesce(late.is_known_to_others, false) as late_is_known_to_others
            from known
            left join late on {joined_on}
        ),
"""


def _keys(question: Question, *, of: str = "") -> list[str]:
    prefix = f"{of}." if of else ""
    return [f"{prefix}{quote(carried)}" for carried in question.shape.carried_key.values()]
