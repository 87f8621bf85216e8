"""Replaying a run on DuckDB, from its run row, its kept inputs and the bytes of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.artifacts.sample import scales_of
from dbt_onnx.engines.duckdb import inputs
from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors
from dbt_onnx.engines.duckdb.explanations import CARRIED_MOMENT
from dbt_onnx.engines.duckdb.feature_types import features_hash
from dbt_onnx.engines.duckdb.identifiers import (
    absent,
    compared,
    compared_key,
    not_null,
    quote,
    same_key,
    types_of,
)
from dbt_onnx.engines.duckdb.ledger import REJECTED
from dbt_onnx.engines.duckdb.planning import uses_same_hash
from dbt_onnx.engines.duckdb.proof import erased_of_runs, faults_of_run, fingerprint_of_inputs
from dbt_onnx.engines.duckdb.runs import read_run_rows
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.kernel.contract import KEY_PREFIX
from dbt_onnx.kernel.encode import REJECTED_COLUMN
from dbt_onnx.kernel.row_search import RowSearch
from dbt_onnx.kernel.scoring import PART_ROWS, score_batches
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.history import by_feature
from dbt_onnx.runs.precisions import PRECISION
from dbt_onnx.runs.replay import (
    LEDGER_PREFIX,
    REASON,
    artifact_of_run,
    begin_replay,
    compare_batch,
    lost_columns,
    note_other_onnxruntime,
    other_fingerprint_of_inputs,
    other_inputs,
    run_to_replay,
)
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import duckdb

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import Registry
    from dbt_onnx.engines.base import TableName
    from dbt_onnx.runs.history import RunRow
    from dbt_onnx.runs.replay import Replay


def replay_run(
    connection: duckdb.DuckDBPyConnection,
    name: TableName,
    run_id: str,
    *,
    registry: Registry,
    artifacts: Path,
    sample: int | None = None,
) -> Replay:
    """See `base.Warehouse.replay`."""
    with Cursor(connection.cursor()) as cursor, duckdb_errors(), cursor.transaction():
        tables = ScoringTables(name, cursor.storage_of(name))
        tables.check_names(cursor)
        run = run_to_replay(
            read_run_rows(cursor, tables), run_id, scoring_model=name.identifier, table=tables.runs
        )
        same_hash = uses_same_hash(cursor, run)
        replay = begin_replay(run, has_same_hash=same_hash)
        erased = erased_of_runs(cursor, tables)[run.run_no]
        if erased["rows"]:
            replay.notes.append(f"{erased['rows']:,} row(s) of this run were erased")
            replay.rows_kept -= erased["rows_inputs"]
        for finding in faults_of_run(cursor, tables, run):
            replay.report(finding)
        if not _check_inputs(cursor, tables, run, replay, with_hash=same_hash):
            return replay
        artifact = artifact_of_run(registry, artifacts, run, replay)
        if artifact is not None:
            _score(cursor, tables, run, artifact, replay, sample)
    return replay


def _score(
    cursor: Cursor,
    tables: ScoringTables,
    run: RunRow,
    artifact: Artifact,
    replay: Replay,
    sample: int | None,
) -> None:
    session = artifact.open(threads=run.threads, batch_rows=run.batch_rows)
    note_other_onnxruntime(run, session.onnxruntime_version, replay)
    columns = [item.name for item in artifact.contract.output_fields()]
    scales = scales_of(artifact.card)
    with cursor.stream(
        rows_to_replay(cursor, tables, run, columns, sample=sample),
        {**run.values, "sample": sample},
        batch_rows=PART_ROWS,
    ) as rows:
        for batch in score_batches(
            rows, session, contract=artifact.contract, workers=session.workers,
            search=RowSearch(),
        ):  # fmt: skip
            compare_batch(replay, batch, key=run.key_columns, columns=columns, scales=scales)


def rows_to_replay(
    cursor: Cursor,
    tables: ScoringTables,
    run: RunRow,
    columns: Sequence[str],
    *,
    sample: int | None,
    where: str = "true",
) -> str:
    """SQL that returns the rows to replay: the key, the ledger's values and the kept features. All rows come in
    the order in which the run scored them; a `sample` comes in the order of a hash. `where` restricts the rows
    of the ledger.
    """
    aliases = {f"{KEY_PREFIX}{i}": name for i, name in enumerate(run.key_columns)}
    aliases |= {f"{LEDGER_PREFIX}{i}": name for i, name in enumerate((*columns, REASON))}
    aliases[CARRIED_MOMENT] = "as_of"
    carried = [f"written.{quote(name)} as {quote(alias)}" for alias, name in aliases.items()]
    carried.append(
        # a row that killed the process is not fed to the model again
        "case when written.rejected_reason in ('null_as_of', 'model_crashed') then written.rejected_reason end "
        f"as {quote(REJECTED_COLUMN)}"
    )
    features = [f"fed.{quote(name)}" for name in run.features]
    types = types_of(run.key_columns, cursor.columns_of(tables.current.sql))
    order = "fed.__dbt_onnx_place asc"
    if sample is not None:
        order = f"hash({compared_key(types, of='written')}, $run_id) asc limit $sample"
    return f"""
        select {", ".join([*carried, *features])}
        from (select * from {_rows_of_run(tables)} as of_run where {where}) as written
        inner join ({_kept_features(tables, run)}) as fed on {_is_fed_to(run, types)}
        order by {order}"""


def _rows_of_run(tables: ScoringTables) -> str:
    """A subquery of the rows of a run, with `status` and `rejected_reason` as in the ledger. Parameters:
    $run_no, $rejected_reasons.
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


def _check_inputs(
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
    grouped = {n: compared(n, kind) for n, kind in types.items()} | {n: quote(n) for n in moment}
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
            select * from {_rows_of_run(tables)} where {not_null(run.key_columns)}
        ),

        fed as (
            select {", ".join(f"{text} as {quote(n)}" for n, text in grouped.items())},
                any_value({fed_hash}) as values_hash, count(*) as occurrences
            from ({_kept_features(tables, run)}) as kept
            group by {", ".join(grouped.values())}
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
        full join fed on {_is_fed_to(run, types)}
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


def _kept_features(tables: ScoringTables, run: RunRow) -> str:
    """SQL that returns the run's kept inputs in their original types. Parameter: $run_no."""
    return inputs.select_inputs(
        tables.inputs,
        key=run.key_columns,
        features=inputs.by_feature(tables.inputs, run.features, run.feature_types),
        where=f"{RUN} = $run_no",
        with_moment=run.scope == REAL_TIME,
    )


def _is_fed_to(run: RunRow, key: Mapping[str, str]) -> str:
    """SQL that is true if kept inputs, `fed`, belong to a row of the run, `written`. Answers on request must
    also have the same moment, because a service may have answered about an entity several times.
    """
    same = same_key(key, "written", "fed")
    if run.scope != REAL_TIME:
        return same
    return f"{same} and written.as_of = fed.{quote(inputs.MOMENT)}"
