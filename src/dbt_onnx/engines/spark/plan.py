"""Spark SQL text that decides which rows are scored, and why. Nothing here touches a warehouse.

All engines follow the same rules, see `dbt_onnx.runs.plan`. Spark runs a statement where the data is, but each
statement starts slowly. So there are three ways to plan, not four as on DuckDB: fingerprints show that nothing has
changed, a first run takes every row as new, or one join compares all rows. The few rows of the join that have changed
stay on the executors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbt_onnx.engines.spark.ledger import REJECTED
from dbt_onnx.engines.spark.sql import features_hash, fingerprint, hashable, not_null, quote
from dbt_onnx.runs import plan
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.plan import SCORE_REASONS
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.engines.spark.ledger import LedgerShape

KNOWN_UNTIL = "greatest({0}.as_of, {0}.confirmed_as_of)"
"""SQL of the newest as_of for which a row of current is known to hold; {0} is the alias of its table."""
_RUN_AS_OF = "cast(:run_as_of as timestamp_ntz)"
PLANNED = "__dbt_onnx_planned"


@dataclass(frozen=True, kw_only=True)
class Facts(plan.Facts):
    """The plan's facts, plus whether a run of the model version has ever rejected a row."""

    has_rejected: bool


class Question(plan.Question):
    """The plan's question plus the SQL fragments that Spark's statements need. All relations are SQL for a FROM clause.

    The statements bind the values :model_name, :model_version and :run_as_of.
    """

    shape: LedgerShape

    @property
    def of_version(self) -> str:
        """A subquery for the numbers of all runs by the model version that this run scores with."""
        return (
            f"(select run_no from {self.runs} as runs_of_version "
            "where model_name = :model_name and model_version = :model_version)"
        )

    @property
    def keys(self) -> list[str]:
        """The names of the key columns in the plan, quoted."""
        return [quote(carried) for carried in self.shape.carried_key.values()]

    @property
    def hashable_keys(self) -> str:
        """SQL of the key columns in the plan, in the form in which they are hashed."""
        key = self.shape.key
        return hashable({self.shape.carried_key[name]: kind for name, kind in key.items()})

    def same_entity(self, table: str, *, of: str = "features") -> str:
        """SQL condition: a row of the ledger and a row of the plan are about the same entity."""
        return " and ".join(
            f"{table}.{quote(name)} = {of}.{quote(carried)}"
            for name, carried in self.shape.carried_key.items()
        )


def describe_features(question: Question, *, with_fingerprint: bool = True) -> str:
    """SQL that returns one row: a `Snapshot` of the features, and whether a key or an as_of is missing in some row."""
    key = question.shape.key
    hashed = f"{hashable(key)}, features_hash", f"{hashable(key)}, as_of, features_hash"
    taken = ", ".join(
        fingerprint(h) if with_fingerprint else "cast(null as bigint)" for h in hashed
    )
    return f"""
        select
            count(*),
            min(as_of),
            max(as_of),
            {taken},
            count_if(not ({not_null(key)} and as_of is not null)) > 0
        from (
            select
                {", ".join(map(quote, key))},
                {question.as_of_sql} as as_of,
                {features_hash(question.features, question.precisions)} as features_hash
            from {question.features_sql} as source
        )"""


def describe_current(question: Question, *, is_dated: bool) -> str:
    """SQL that returns one row about the current rows, scores and rejections, of all entities that the last full run
    saw: the row count, the two fingerprints of a `Snapshot` (the second only if `is_dated`, else null), and the number
    of rejections.
    """
    fingerprints = _fingerprints(question, is_dated=is_dated)
    return f"select count(*), {fingerprints}, count({REJECTED}) from {_tracked(question)} as known"


def has_rejected(question: Question) -> str:
    """SQL that returns whether a run of the version has ever rejected a row. If not, current has no rejection by it."""
    return (
        f"select coalesce(sum(rows_rejected), 0) > 0 from {question.runs} as runs "
        "where model_name = :model_name and model_version = :model_version"
    )


def describe_overruled(question: Question, *, is_dated: bool) -> str:
    """SQL that returns the row count and fingerprints, like `describe_current`, of scores with a later rejection."""
    names = ", ".join(map(quote, question.shape.key))
    same = " and ".join(f"known.{quote(n)} = rejected.{quote(n)}" for n in question.shape.key)
    return f"""
        select count(*), {_fingerprints(question, is_dated=is_dated)}
        from {_tracked(question)} as known
        left semi join (
            select {names} from {_tracked(question)} where {REJECTED} is not null
        ) as rejected on {same}
        where known.{REJECTED} is null"""


def _tracked(question: Question) -> str:
    return f"""(
        select * from {question.current} as current
        where run_no in {question.of_version} and last_seen_as_of is null
    )"""


def _fingerprints(question: Question, *, is_dated: bool) -> str:
    until, hashed = KNOWN_UNTIL.format("known"), hashable(question.shape.key, of="known")
    dated = fingerprint(f"{hashed}, {until}, known.features_hash")
    return f"""
            {fingerprint(f"{hashed}, known.features_hash")},
            {dated if is_dated else "cast(null as bigint)"}"""


def oldest_score(question: Question) -> str:
    """SQL that returns the oldest as_of of all runs with current scores."""
    return f"""
        select min(as_of) from {question.runs} as runs where run_no in (
            select {RUN} from {question.current} as current
            where {RUN} in {question.of_version} and {REJECTED} is null and last_seen_as_of is null
        )"""


def duplicate_keys(features_sql: str, key: Mapping[str, str]) -> str:
    """SQL that returns up to 5 repeated keys, with their counts. NULL keys are left out: their rows are rejected."""
    columns = ", ".join(map(quote, key))
    return (
        f"select {columns}, count(*) as occurrences from {features_sql} as features "
        f"where {not_null(key)} group by {columns} having count(*) > 1 limit 5"
    )


def all_new(question: Question) -> str:
    """SQL that plans every row as new. Valid if no entity has a prediction, and no key and no as_of is missing."""
    return f"""
        select
            *,
            as_of_given as __dbt_onnx_as_of,
            values_hash as __dbt_onnx_features_hash,
            cast(null as string) as __dbt_onnx_rejected_reason,
            'new' as score_reason,
            false as is_late
        from ({_features(question)})"""


def expects_few_changes(question: Question, facts: Facts) -> bool:
    """Return whether most rows are likely unchanged. If so, the join leaves out the feature columns, the few rows that
    have changed stay on the executors, and these rows get their feature columns later.
    """
    takes_all = question.full_refresh or question.hash_changed or question.is_backfill
    return facts.tracked_rows > 0 and not takes_all


def joined(question: Question, facts: Facts, *, with_late: bool) -> str:
    """SQL that selects the feature rows that the run must handle, each with the known state of its entity and a score
    reason or null. Rows that are plainly unchanged are left out. A row is late if its as_of is before the newest as_of
    that the entity's score covers. With `with_late`, the reason of a late row depends on the ledger at the row's as_of.
    """
    null_key = " or ".join(f"features.{key} is null" for key in question.keys)
    is_late = f"coalesce(features.as_of_given < {KNOWN_UNTIL.format('scored')}, false)"
    if question.is_backfill or facts.is_newest:
        is_late = _sql_boolean(question.is_backfill)
    # two lookups that match few rows: entities scored by other versions, and rows without a key reported before
    others = "cast(null as boolean)"
    join_others = ""
    names = ", ".join(map(quote, question.shape.key))
    if not question.is_alone:
        others = "others.is_other"
        join_others = f"""
            left join (
                select distinct {names}, true as is_other from {question.current} as current
                where {RUN} not in {question.of_version}
            ) as others on {question.same_entity("others")}"""
    same_or_null = " and ".join(
        f"reported.{quote(name)} <=> features.{quote(carried)}"
        for name, carried in question.shape.carried_key.items()
    )
    any_null = " or ".join(f"{quote(name)} is null" for name in question.shape.key)
    is_advanced = (
        f"features.as_of_given > {KNOWN_UNTIL.format('scored')} and rejected.{RUN} is null"
    )
    if facts.has_one_moment:
        is_advanced = "false"
    return f"""
        with features as ({_features(question, is_narrow=expects_few_changes(question, facts))}),

        scored as (
            select * from {question.current} as current where {RUN} in {question.of_version} and {REJECTED} is null
        ),

        rejected as (
            select * from {question.current} as current
            where {_sql_boolean(facts.has_rejected)} and {RUN} in {question.of_version} and {REJECTED} is not null
        ),

        -- a row without a key belongs to no entity, and is never current
        reported as (
            select distinct {names}, features_hash, true as is_reported from {question.history} as history
            where {_sql_boolean(facts.is_incomplete)} and ({any_null}) and {RUN} in {question.of_version}
        ),

        known as (
            select
                features.*,
                coalesce(features.as_of_given, {_RUN_AS_OF}) as __dbt_onnx_as_of,
                {_hash_of_row("features")} as __dbt_onnx_features_hash,
                case
                    when {null_key} then 'null_key'
                    when features.as_of_given is null then 'null_as_of'
                end as __dbt_onnx_rejected_reason,
                ({null_key}) as has_null_key,
                reported.is_reported is not null as is_reported,
                {is_late} as is_late,
                coalesce({is_advanced}, false) as is_advanced,
                scored.{RUN} is not null or rejected.{RUN} is not null as is_known,
                rejected.{RUN} is not null as was_rejected,
                coalesce(rejected.features_hash, scored.features_hash) as known_hash,
                scored.{RUN} as scored_run_no,
                cast(scored.{RUN} is not null and scored.last_seen_as_of is null as int)
                    + cast(rejected.{RUN} is not null and rejected.last_seen_as_of is null as int)
                    as rows_present,
                scored.last_seen_as_of is not null or rejected.last_seen_as_of is not null as is_returned,
                {others} is not null as is_known_to_others
            from features
            left join scored on {question.same_entity("scored")}
            left join rejected on {question.same_entity("rejected")}
            left join reported on {same_or_null} and reported.features_hash = {_hash_of_row("features")}
            {join_others}
        ),
        {_late(question, with_late=with_late)}
        select *
        from (
            select *, {_reason(question)} as score_reason
            from known_with_late
            {_expiry(question)}
        )
        where score_reason is not null or was_rejected or is_late or is_returned or is_advanced or rows_present <> 1"""


def _sql_boolean(condition: bool) -> str:  # noqa: FBT001
    """Return the SQL of a condition that is known before the statement runs. Spark does not read a table at all if
    its WHERE clause is `false`.
    """
    return "true" if condition else "false"


def describe_planned(question: Question) -> str:
    """SQL that returns one row about `PLANNED`: the arguments of `Facts.add_up`."""
    keys, hashed = ", ".join(question.keys), question.hashable_keys
    return f"""
        select
            count(*),
            {fingerprint(f"{hashed}, __dbt_onnx_features_hash")},
            {fingerprint(f"{hashed}, known_hash")} filter (where rows_present > 0),
            count_if(rows_present > 0),
            count(*) > (select count(*) from (select distinct {keys} from {PLANNED}))
        from {PLANNED}"""


def summarize(question: Question) -> str:
    """SQL that returns one row of totals over `PLANNED`, for `PlanSummary.from_row`."""
    reasons = ", ".join(
        f"count_if(score_reason = '{reason}') as rows_{reason}" for reason in SCORE_REASONS
    )
    return f"""
        select
            count(*) as rows_in,
            {reasons},
            count_if(score_reason is null and was_rejected) as rows_still_rejected,
            count_if(is_late) as rows_late,
            coalesce(sum(rows_present), 0) as rows_present,
            count_if(is_returned and (score_reason is null or is_late)) as rows_returned,
            count_if(is_advanced and score_reason is null) as rows_advanced,
            {_input_fingerprint(question)} filter (where score_reason is not null) as input_fingerprint
        from {PLANNED}"""


def _input_fingerprint(question: Question) -> str:
    return fingerprint(f"{question.hashable_keys}, __dbt_onnx_as_of, __dbt_onnx_features_hash")


def select_rows(question: Question, facts: Facts) -> str:
    """SQL that selects the rows to score: carried columns, then the features under their own names."""
    features = ", ".join(f"feature_{i} as {quote(n)}" for i, n in enumerate(question.features))
    return f"""
        select
            {", ".join(question.keys)}, __dbt_onnx_as_of, score_reason as __dbt_onnx_score_reason,
            is_late as __dbt_onnx_is_late, __dbt_onnx_features_hash, __dbt_onnx_rejected_reason, {features}
        from {_with_features(question, facts) if expects_few_changes(question, facts) else PLANNED} where score_reason is not null"""


def _with_features(question: Question, facts: Facts) -> str:
    """SQL for the rows of `PLANNED` with their feature columns. A row without a key is rejected, so it needs none.
    The join drops a row if its features have changed since the plan, and the run fails because the row is missing.
    """
    same = " and ".join(
        f"planned.{name} = features.{name}" for name in (*question.keys, "values_hash")
    )
    names = {f"feature_{i}": kind for i, kind in enumerate(question.features.values())}
    found = f"""
            select planned.*, {", ".join(f"features.{name}" for name in names)}
            from {PLANNED} as planned
            inner join ({_features(question)}) as features on {same}"""
    if not facts.is_incomplete:
        return f"({found})"
    nothing = ", ".join(f"cast(null as {kind}) as {name}" for name, kind in names.items())
    return f"({found} union all select planned.*, {nothing} from {PLANNED} as planned where has_null_key)"


def _hash_of_row(table: str) -> str:
    """SQL hash of a row. A missing as_of changes the hash, so a row rejected for it is scored once it has an as_of."""
    return (
        f"case when {table}.as_of_given is null then xxhash64({table}.values_hash, 'null_as_of') "
        f"else {table}.values_hash end"
    )


def _features(question: Question, *, is_narrow: bool = False) -> str:
    """SQL that selects the features under names that cannot collide; with `is_narrow`, only their hash."""
    selected = [
        f"{quote(name)} as {quote(carried)}" for name, carried in question.shape.carried_key.items()
    ]
    selected += [
        f"{question.as_of_sql} as as_of_given",
        f"{features_hash(question.features, question.precisions)} as values_hash",
    ]
    if not is_narrow:
        selected += [f"{quote(name)} as feature_{i}" for i, name in enumerate(question.features)]
    return f"select {', '.join(selected)} from {question.features_sql} as source"


def _reason(question: Question) -> str:
    changed = "hash_changed" if question.hash_changed else "features_changed"
    retry = "known_hash <> __dbt_onnx_features_hash" if not question.retry_rejected else "true"
    full_refresh = "when true then 'full_refresh'" if question.full_refresh else ""
    expired = ""
    if question.refresh_after is not None:
        seconds = int(question.refresh_after.total_seconds())
        expired = f"when scored_run_as_of + make_dt_interval(0, 0, 0, {seconds}) <= {_RUN_AS_OF} then 'expired'"
    return f"""case
            {full_refresh}
            when has_null_key then case when not is_reported then 'new' end
            when is_late and late_is_unknown and late_is_known_to_others then 'model_changed'
            when is_late and late_is_unknown then 'new'
            when is_late and late_was_rejected and late_hash <> __dbt_onnx_features_hash then 'retry'
            when is_late and late_hash <> __dbt_onnx_features_hash then '{changed}'
            when is_late then null
            when not is_known and is_known_to_others then 'model_changed'
            when not is_known then 'new'
            when was_rejected then case when {retry} then 'retry' end
            when known_hash <> __dbt_onnx_features_hash then '{changed}'
            {expired}
        end"""


def _expiry(question: Question) -> str:
    """SQL join with the run that made each score: a score's age counts from that run. If it counted from the row's own
    `as_of`, a row whose `as_of` never moves would expire every night.
    """
    if question.refresh_after is None:
        return ""
    return f"""left join (
            select run_no as scoring_run_no, as_of as scored_run_as_of from {question.runs} as runs
        ) as scoring_runs on scoring_runs.scoring_run_no = scored_run_no"""


def _late(question: Question, *, with_late: bool) -> str:
    """SQL of CTEs that find the state of each late row's entity in the ledger at the row's as_of."""
    if not with_late:
        return """
        known_with_late as (
            select *, cast(null as boolean) as late_is_unknown, cast(null as bigint) as late_hash,
                cast(null as boolean) as late_was_rejected, cast(null as boolean) as late_is_known_to_others
            from known
        )"""
    keys = question.keys
    columns = ", ".join((*map(quote, question.shape.key), "as_of", "features_hash", REJECTED, RUN))
    joined_on = " and ".join(f"late.{key} = known.{key}" for key in keys)
    return f"""
        earlier as (
            select made.*, runs_of_version.run_no is not null as is_of_version from (
                select {columns} from {question.current} as current
                union all
                select {columns} from {question.history} as history where score_reason <> '{REAL_TIME}'
            ) as made
            left join {question.of_version} as runs_of_version on made.{RUN} = runs_of_version.run_no
        ),

        late as (
            select
                {", ".join(f"features.{key}" for key in keys)},
                max_by(
                    named_struct('hash', earlier.features_hash, 'is_rejected', earlier.{REJECTED} is not null),
                    named_struct('as_of', earlier.as_of, 'run_no', earlier.{RUN})
                ) filter (where earlier.is_of_version) as newest,
                bool_or(not earlier.is_of_version) as is_known_to_others
            from known as features
            inner join earlier on {question.same_entity("earlier")}
            where features.is_late and earlier.as_of <= features.__dbt_onnx_as_of
            group by {", ".join(f"features.{key}" for key in keys)}
        ),

        known_with_late as (
            select
                known.*,
                late.newest is null as late_is_unknown,
                late.newest.hash as late_hash,
                coalesce(late.newest.is_rejected, false) as late_was_rejected,
                coalesce(late.is_known_to_others, false) as late_is_known_to_others
            from known
            left join late on {joined_on}
        )"""
