"""A past run on DuckDB: its run row and its rows, compared with its kept inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.duckdb import inputs
from dbt_onnx.engines.duckdb.feature_types import features_hash
from dbt_onnx.engines.duckdb.identifiers import (
    absent,
    compared,
    not_null,
    quote,
    same_key,
    types_of,
)
from dbt_onnx.engines.duckdb.ledger import REJECTED
from dbt_onnx.engines.duckdb.proof import erased_of_runs
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.history import by_feature
from dbt_onnx.runs.precisions import PRECISION
from dbt_onnx.runs.replay import lost_columns, other_fingerprint_of_inputs, other_inputs
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.runs.history import RunRow
    from dbt_onnx.runs.replay import Replay


def rows_of_run(tables: ScoringTables) -> str:
    """A relation of the rows of a run, with status and reason as the ledger has them. Parameters: $run_no,
    $rejected_reasons.
    """
    return f"""(
        select
            *,
            case when {REJECTED} is null then 'scored' else 'rejected' end as status,
            cast($rejected_reasons as varchar[])[{REJECTED}] as rejected_reason
        from (
            select * exclude (is_late) from {tables.history.sql}
            union all by name
            select * from {tables.current.sql}
        )
        where {RUN} = $run_no
    )"""


def check_inputs(
    cursor: Cursor, tables: ScoringTables, run: RunRow, replay: Replay, *, with_hash: bool
) -> bool:
    """Compare the kept inputs with the ledger, row by row. Returns whether they can be scored."""
    columns = cursor.columns_of(tables.inputs.sql) if cursor.has(tables.inputs) else {}
    moment = [inputs.MOMENT] if run.scope == REAL_TIME else []
    gone = absent((RUN, *moment, *run.key_columns, *run.features), columns)
    if gone:
        replay.report(lost_columns(tables.inputs, gone))
        return False
    types = types_of(run.key_columns, columns)
    grouped = [compared(n, kind) for n, kind in types.items()]
    names = [*types, *moment]
    grouped += map(quote, moment)
    keys = ", ".join(f"coalesce(written.{quote(n)}, fed.{quote(n)})" for n in run.key_columns)
    fed_hash, changed = "null", ""
    if with_hash:
        fed_hash = features_hash(
            inputs.by_feature(tables.inputs, run.features, run.feature_types),
            by_feature(tables.inputs, run.features, run.feature_precisions, valid=PRECISION),
        )
        changed = (
            "or written.features_hash is distinct from case when written.rejected_reason = 'null_as_of' "
            "then hash(fed.values_hash, 'null_as_of') else fed.values_hash end"
        )
    problems = cursor.rows(
        f"""
        with written as (
            select * from {rows_of_run(tables)} where {not_null(run.key_columns)}
        ),

        fed as (
            select {", ".join(f"{text} as {quote(n)}" for text, n in zip(grouped, names, strict=True))},
                any_value({fed_hash}) as values_hash, count(*) as occurrences
            from ({kept_features(tables, run)}) as kept
            group by {", ".join(grouped)}
        )

        select
            {keys},
            case
                when fed.occurrences is null then 'no inputs'
                when written.status is null then 'inputs of a row that the ledger does not have'
                when fed.occurrences > 1 then fed.occurrences || ' inputs'
                else 'other inputs, or another features_hash'
            end
        from written
        full join fed on {is_fed_to(run, types)}
        where fed.occurrences is null or written.status is null or fed.occurrences > 1 {changed}
        limit 20""",
        run.values,
    )
    for *key, problem in problems:
        replay.report(other_inputs(run, key, problem))
    if with_hash and not problems:
        found = fingerprint_of_inputs(cursor, tables, run, types)
        erased = erased_of_runs(cursor, tables)[run.run_no]["inputs_fingerprint"]
        wanted = run.inputs_fingerprint ^ erased
        if found != wanted:
            replay.report(other_fingerprint_of_inputs(wanted, found))
    return True


def fingerprint_of_inputs(
    cursor: Cursor,
    tables: ScoringTables,
    run: RunRow,
    key: Mapping[str, str],
    *,
    where: str = "true",
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """A number for the kept inputs of a run, or for some of them; 0 without any."""
    features = inputs.by_feature(tables.inputs, run.features, run.feature_types)
    statement = inputs.fingerprint_of_run(
        tables.inputs,
        key=key,
        features=features,
        where=where,
        with_moment=run.scope == REAL_TIME,
    )
    return cursor.rows(statement, {**run.values, **(parameters or {})})[0][0] or 0


def kept_features(tables: ScoringTables, run: RunRow) -> str:
    """SQL of the run's kept inputs, in the types that they had. Parameter: $run_no."""
    return inputs.select_inputs(
        tables.inputs,
        key=run.key_columns,
        features=inputs.by_feature(tables.inputs, run.features, run.feature_types),
        where=f"{RUN} = $run_no",
        with_moment=run.scope == REAL_TIME,
    )


def is_fed_to(run: RunRow, key: Mapping[str, str]) -> str:
    """SQL of whether kept inputs, `fed`, are those of a row, `written`, of the run. A service may have
    answered about the same entity several times.
    """
    same = same_key(key, "written", "fed")
    if run.scope != REAL_TIME:
        return same
    return f"{same} and written.as_of = fed.{quote(inputs.MOMENT)}"
