"""Replaying a run on DuckDB, from its run row, its kept inputs and the bytes of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.artifacts.sample import scales_of
from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors
from dbt_onnx.engines.duckdb.identifiers import compared_key, quote, types_of
from dbt_onnx.engines.duckdb.kept_run import (
    check_inputs,
    is_fed_to,
    kept_features,
    rows_of_run,
)
from dbt_onnx.engines.duckdb.planning import hashes_as_then
from dbt_onnx.engines.duckdb.proof import erased_of_runs, faults_of_run
from dbt_onnx.engines.duckdb.runs import read_run_rows
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.kernel.contract import KEY_PREFIX
from dbt_onnx.kernel.encode import REJECTED_COLUMN
from dbt_onnx.kernel.row_search import RowSearch
from dbt_onnx.kernel.scoring import PART_ROWS, score_batches
from dbt_onnx.runs.replay import (
    LEDGER_PREFIX,
    REASON,
    artifact_of_run,
    begin_replay,
    compare_batch,
    note_other_onnxruntime,
    run_to_replay,
)

if TYPE_CHECKING:
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
        same_hash = hashes_as_then(cursor, run)
        replay = begin_replay(run, has_same_hash=same_hash)
        erased = erased_of_runs(cursor, tables)[run.run_no]
        if erased["rows"]:
            replay.notes.append(f"{erased['rows']:,} row(s) of this run were erased")
            replay.rows_kept -= erased["rows_inputs"]
        for finding in faults_of_run(cursor, tables, run):
            replay.report(finding)
        if not check_inputs(cursor, tables, run, replay, with_hash=same_hash):
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
        _rows_to_replay(cursor, tables, run, columns, sample=sample),
        {**run.values, "sample": sample},
        batch_rows=PART_ROWS,
    ) as rows:
        for batch in score_batches(
            rows, session, contract=artifact.contract, workers=session.workers,
            search=RowSearch(),
        ):  # fmt: skip
            compare_batch(replay, batch, key=run.key_columns, columns=columns, scales=scales)


def _rows_to_replay(
    cursor: Cursor, tables: ScoringTables, run: RunRow, columns: list[str], *, sample: int | None
) -> str:
    """Key, what the ledger says, and the kept features, in the order in which the run scored."""
    aliases = {f"{KEY_PREFIX}{i}": name for i, name in enumerate(run.key_columns)}
    aliases |= {f"{LEDGER_PREFIX}{i}": name for i, name in enumerate((*columns, REASON))}
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
        from {rows_of_run(tables)} as written
        inner join ({kept_features(tables, run)}) as fed on {is_fed_to(run, types)}
        order by {order}"""
