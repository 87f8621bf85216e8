"""Explaining predictions on DuckDB, from the run row, the kept inputs and the bytes of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_onnx.artifacts.sample import scales_of
from dbt_onnx.engines.duckdb import explanations
from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors
from dbt_onnx.engines.duckdb.history import is_entity, key_of, rows_about
from dbt_onnx.engines.duckdb.identifiers import quote, types_of
from dbt_onnx.engines.duckdb.ledger import REJECTED
from dbt_onnx.engines.duckdb.replaying import rows_to_replay
from dbt_onnx.engines.duckdb.runs import read_run_rows, recorded_sources
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.errors import ArtifactError, ConfigError, WarehouseError
from dbt_onnx.explaining.explainer import PART_ROWS, Explainer
from dbt_onnx.kernel.contract import KEY_PREFIX
from dbt_onnx.kernel.scoring import score_batches
from dbt_onnx.runs.history import Explained
from dbt_onnx.runs.replay import artifact_of_run, begin_replay, compare_batch, run_to_replay
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import duckdb

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import Registry
    from dbt_onnx.engines.base import TableName
    from dbt_onnx.explaining.explainer import Contributions
    from dbt_onnx.runs.history import RunRow

_STREAM = "__dbt_onnx_explained"


def explain(
    connection: duckdb.DuckDBPyConnection,
    name: TableName,
    *,
    registry: Registry,
    artifacts: Path,
    key: Sequence[str] | None = None,
    run_id: str | None = None,
    sample: int | None = None,
) -> Explained:
    """See `base.Warehouse.explain`."""
    with (
        Cursor(connection.cursor()) as reader,
        Cursor(connection.cursor()) as cursor,
        duckdb_errors(),
        cursor.transaction(),
    ):
        tables = ScoringTables(name, cursor.storage_of(name))
        columns = key_of(cursor, tables)
        where, is_row = f"{REJECTED} is null", ""
        parameters: dict[str, Any] = {}
        if key is not None:
            is_row, found = is_entity(tables, columns, key)
            run_id, as_of = _served(cursor, tables, registry, is_row, found, key)
            parameters = {**found, "as_of": as_of}
            where = f"{where} and {is_row} and as_of = $as_of"
        run = run_to_replay(
            read_run_rows(cursor, tables),
            str(run_id),
            scoring_model=name.identifier,
            table=tables.runs,
            done="explained",
        )
        artifact = _artifact_of(registry, artifacts, run)
        explainer = Explainer(artifact, in_child_process=bool(run.in_child_process))
        of_run = types_of(run.key_columns, columns)
        tables.create_explanations(cursor, of_run)
        added = 0
        for rows in _rows(reader, tables, run, artifact, where, {**parameters, "sample": sample}):
            contributions = explainer.explain(rows)
            stored = _as_rows(rows, contributions, explainer, key=len(of_run))
            cursor.raw.register(_STREAM, stored)
            statement = explanations.insert_explanations(
                tables.explanations, of_run, stream=quote(_STREAM)
            )
            cursor.execute(statement, run.values)
            cursor.raw.unregister(_STREAM)
            added += len(contributions.rows)
        counted = explanations.count_explained(tables.explanations, of_run)
        [(count,)] = cursor.rows(counted, run.values)
        row = None
        if key is not None:
            about = rows_about(cursor, tables, columns, is_row, parameters)
            [row] = [r for r in about if (r.run_id, r.as_of) == (run_id, parameters["as_of"])]
    return Explained(run=run, rows_added=added, rows_explained=count, row=row)


def _served(
    cursor: Cursor,
    tables: ScoringTables,
    registry: Registry,
    where: str,
    parameters: Mapping[str, Any],
    key: Sequence[str],
) -> tuple[str, datetime]:
    """Return the run and the moment of the score that is served for an entity: the newest one of the serving
    version, else of another version.
    """
    known = recorded_sources(cursor, tables.ledger)
    name, alias = known["model_name"], known["model_alias"]
    serving = registry.resolve(f"{name}@{alias}" if alias else f"{name}/{known['model_version']}")
    found: list[tuple[Any, ...]] = cursor.rows(
        f"""
        select run_id, known.as_of
        from {tables.current.sql} as known
        inner join (
            select {RUN}, run_id, (model_name, model_version) = ($name, $version) as is_serving
            from {tables.runs.sql}
        ) as runs using ({RUN})
        where {where} and {REJECTED} is null
        order by is_serving desc, known.as_of desc, {RUN} desc
        limit 1""",
        {**parameters, "name": serving.model_name, "version": serving.model_version},
    )
    if not found:
        raise ConfigError(
            f"the ledger of {tables.ledger.identifier} has no score for {', '.join(key)}",
            hint="write the key as it stands in the ledger, leading zeros included; `dbt-onnx history` shows "
            "why a row was rejected",
        )
    return found[0][0], found[0][1]


def _artifact_of(registry: Registry, artifacts: Path, run: RunRow) -> Artifact:
    """Return the model that scored the run. Raises ArtifactError if it is gone or changed."""
    replay = begin_replay(run, has_same_hash=True)
    artifact = artifact_of_run(registry, artifacts, run, replay)
    if artifact is None:
        [finding] = replay.findings
        raise ArtifactError(
            f"the model of run {run.run_id!r} is gone or was changed: it scored with {finding.expected}; "
            f"{finding.actual}",
            hint="restore the model file, its card and its row in the registry from version control",
        )
    return artifact


def _rows(
    reader: Cursor,
    tables: ScoringTables,
    run: RunRow,
    artifact: Artifact,
    where: str,
    parameters: Mapping[str, Any],
) -> Iterator[pa.RecordBatch]:
    """Yield the rows without an explanation: the key, the moment and the features. Raises WarehouseError if the
    model does not give the prediction in the ledger for them.
    """
    columns = [item.name for item in artifact.contract.output_fields()]
    session = artifact.open(
        threads=run.threads,
        batch_rows=run.batch_rows,
        in_child_process=bool(run.in_child_process),
    )
    key = types_of(run.key_columns, reader.columns_of(tables.current.sql))
    rows = rows_to_replay(reader, tables, run, columns, sample=parameters["sample"], where=where)
    known = reader.relation_or_empty(tables.explanations, explanations.explanation_columns(key))
    statement = explanations.select_unexplained(rows, known, key)
    scales = scales_of(artifact.card)
    with reader.stream(statement, {**run.values, **parameters}, batch_rows=PART_ROWS) as stream:
        for batch in stream:
            for start in range(0, batch.num_rows, PART_ROWS):
                part = batch.slice(start, PART_ROWS)
                replay = begin_replay(run, has_same_hash=True)
                for scored in score_batches([part], session, contract=artifact.contract):
                    compare_batch(
                        replay, scored, key=run.key_columns, columns=columns, scales=scales
                    )
                if replay.findings:
                    raise WarehouseError(
                        f"run {run.run_id!r} cannot be explained from its kept inputs: {replay.findings[0]}",
                        hint=f"`dbt-onnx replay {tables.ledger.identifier} --run {run.run_id}` shows what was "
                        "altered",
                    )
                yield part


def _as_rows(
    batch: pa.RecordBatch, contributions: Contributions, explainer: Explainer, *, key: int
) -> pa.Table:
    """Return one row for each explained row of the batch, output column and feature, with `key` key columns."""
    features = explainer.features
    outputs = list(contributions.by_column)
    rows = len(contributions.rows)
    shape = (rows, len(outputs), len(features))
    taken = batch.take(pa.array(contributions.rows))
    place = pa.array(np.repeat(np.arange(rows), len(outputs) * len(features)))
    texts = np.empty((rows, 1, len(features)), dtype=object)
    for number, name in enumerate(features):
        texts[:, 0, number] = _as_text(taken.column(name))
    by_output = {
        "base": [explainer.base[name] for name in outputs],
        "scale": [explainer.scales[name] for name in outputs],
        "output": outputs,
    }
    carried = [*(f"{KEY_PREFIX}{i}" for i in range(key)), explanations.CARRIED_MOMENT]
    return pa.table(
        {name: taken.column(name).take(place) for name in carried}
        | {
            name: pa.array(np.broadcast_to(np.array(values)[None, :, None], shape).ravel().tolist())
            for name, values in by_output.items()
        }
        | {
            "feature": pa.array(np.broadcast_to(np.array(features), shape).ravel().tolist()),
            "value": pa.array(np.broadcast_to(texts, shape).ravel().tolist(), pa.string()),
            "contribution": np.stack(list(contributions.by_column.values()), axis=1).ravel(),
        }
    ).rename_columns({explanations.CARRIED_MOMENT: "as_of"})


def _as_text(column: pa.Array) -> list[str | None]:
    try:
        return list(pc.cast(column, pa.string()).to_pylist())
    except pa.ArrowNotImplementedError:
        return [None if value is None else str(value) for value in column.to_pylist()]
