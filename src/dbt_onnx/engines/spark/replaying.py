"""Replays a run on Spark: the executors score its kept inputs again and compare the results with the ledger.

The driver receives only the counts of equal and different rows, and some of the differences.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbt_onnx.artifacts.sample import scales_of
from dbt_onnx.engines.spark.ledger import (
    INPUTS,
    KEPT_INPUT_PREFIX,
    REJECTED,
    all_predictions,
    committed,
    fingerprint_of_inputs,
    kept_features,
)
from dbt_onnx.engines.spark.planning import uses_same_hash
from dbt_onnx.engines.spark.proof import faults_of_run
from dbt_onnx.engines.spark.runs import read_run_rows
from dbt_onnx.engines.spark.sql import features_hash, named, not_null, quote
from dbt_onnx.engines.spark.tables import ScoringTables
from dbt_onnx.engines.spark.worker import COUNTS, Comparison, Work
from dbt_onnx.kernel.contract import KEY_PREFIX
from dbt_onnx.kernel.encode import REJECTED_COLUMN
from dbt_onnx.runs.history import by_feature
from dbt_onnx.runs.precisions import PRECISION
from dbt_onnx.runs.replay import (
    LEDGER_PREFIX,
    MAX_FINDINGS,
    REASON,
    Finding,
    Replay,
    artifact_of_run,
    begin_replay,
    lost_columns,
    note_other_onnxruntime,
    other_fingerprint_of_inputs,
    other_inputs,
    run_to_replay,
)
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import Registry
    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.spark.ledger import LedgerShape
    from dbt_onnx.engines.spark.session import Spark
    from dbt_onnx.runs.history import RunRow

# recorded type names are inserted into statements, so they must match this pattern
_TYPE = re.compile(r"(array<)*[a-z_]+(\(\d+, ?\d+\))?>*")
_COMPARED = "__dbt_onnx_compared"


def replay_run(
    spark: Spark,
    name: TableName,
    run_id: str,
    *,
    registry: Registry,
    artifacts: Path,
    sample: int | None = None,
) -> Replay:
    """Replay one run, see `base.Warehouse.replay`."""
    tables = ScoringTables(name)
    run = run_to_replay(
        read_run_rows(spark, tables), run_id, scoring_model=name.identifier, table=tables.runs
    )
    tables.check_complete(spark)
    kept = _KeptRun(tables, tables.shape_of(spark, run.key_columns), run)
    same_hash = uses_same_hash(run)
    replay = begin_replay(run, has_same_hash=same_hash)
    for finding in faults_of_run(spark, tables, kept.shape, run):
        replay.report(finding)
    if gone := [name for name in run.features if name not in tables.kept_types(spark)]:
        replay.report(lost_columns(tables.rows, gone))
        return replay
    _check_inputs(spark, kept, replay, with_hash=same_hash)
    artifact = artifact_of_run(registry, artifacts, run, replay)
    if artifact is not None:
        _score(spark, kept, artifact, replay, sample=sample)
    return replay


@dataclass(frozen=True)
class _KeptRun:
    """A past run, with SQL for its rows and for its kept inputs. Both bind the value :run_no."""

    tables: ScoringTables
    shape: LedgerShape
    run: RunRow

    @property
    def key(self) -> dict[str, str]:
        """Return {name of a key column in both relations: SQL type}."""
        kinds = self.shape.key.values()
        return {f"{KEY_PREFIX}{place}": kind for place, kind in enumerate(kinds)}

    @property
    def types(self) -> dict[str, str]:
        run = self.run
        return by_feature(self.tables.inputs, run.features, run.feature_types, valid=_TYPE)

    @property
    def _keys(self) -> str:
        return ", ".join(
            f"r.{quote(name)} as {quote(alias)}"
            for name, alias in zip(self.shape.key, self.key, strict=True)
        )

    @property
    def written(self) -> str:
        """SQL for a FROM clause: the predictions of the run that have a key, with all their columns."""
        return f"""(
            select {self._keys}, r.*, true as is_written from {all_predictions(self.tables, self.shape)} as r
            where r.{RUN} = :run_no and {not_null(self.shape.key)}
        )"""

    @property
    def fed(self) -> str:
        """SQL for a FROM clause: the key and the kept features, under the names of `kept_features`."""
        features = "".join(f", {sql} as {name}" for name, sql in kept_features(self.types).items())
        return f"""(
            select {self._keys}{features} from {named(self.tables.rows)} as r
            left semi join {committed(self.tables)} as runs on r.{RUN} = runs.{RUN}
            where r.{RUN} = :run_no and r.{INPUTS} is not null
        )"""

    @property
    def same_key(self) -> str:
        return " and ".join(f"written.{quote(n)} = fed.{quote(n)}" for n in self.key)


def _check_inputs(spark: Spark, kept: _KeptRun, replay: Replay, *, with_hash: bool) -> None:
    """Compare the kept inputs with the ledger, row by row."""
    run = kept.run
    fed_hash, changed = "cast(null as bigint)", ""
    if with_hash:
        precisions = by_feature(
            kept.tables.inputs, run.features, run.feature_precisions, valid=PRECISION
        )
        names = list(kept_features(kept.types))
        fed_hash = features_hash(
            dict(zip(names, kept.types.values(), strict=True)),
            dict(zip(names, precisions.values(), strict=True)),
        )
        changed = (
            f"or not (written.features_hash <=> case when written.{REJECTED} = 'null_as_of' "
            "then xxhash64(fed.values_hash, 'null_as_of') else fed.values_hash end)"
        )
    keys = ", ".join(map(quote, kept.key))
    either = ", ".join(f"coalesce(written.{quote(n)}, fed.{quote(n)})" for n in kept.key)
    problems = spark.rows(
        f"""
        with written as (select * from {kept.written}),

        fed as (
            select {keys}, any_value({fed_hash}) as values_hash, count(*) as occurrences
            from {kept.fed} group by {keys}
        )

        select
            {either},
            case
                when fed.occurrences is null then 'no inputs'
                when written.is_written is null then 'inputs of a row that the ledger does not have'
                when fed.occurrences > 1 then concat(fed.occurrences, ' inputs')
                else 'other inputs, or another features_hash'
            end
        from written
        full join fed on {kept.same_key}
        where fed.occurrences is null or written.is_written is null or fed.occurrences > 1 {changed}
        limit {MAX_FINDINGS}""",
        run.values,
    )
    for *key, problem in problems:
        replay.report(other_inputs(run, key, problem))
    if with_hash and not problems:
        aggregate = fingerprint_of_inputs(kept.key, kept.types)
        [(found,)] = spark.rows(f"select {aggregate} from {kept.fed}", run.values)
        if found != run.inputs_fingerprint:
            replay.report(other_fingerprint_of_inputs(run.inputs_fingerprint, found))


def _score(
    spark: Spark, kept: _KeptRun, artifact: Artifact, replay: Replay, *, sample: int | None
) -> None:
    run = kept.run
    # also loaded here, so that a model that cannot be loaded gives one clear error
    session = artifact.open(threads=run.threads, batch_rows=run.batch_rows)
    note_other_onnxruntime(run, session.onnxruntime_version, replay)
    columns = tuple(item.name for item in artifact.contract.output_fields())
    comparison = Comparison(
        work=Work.of(
            artifact,
            spark.raw.sparkContext.broadcast,
            batch_rows=run.batch_rows,
            threads=run.threads,
        ),
        key=tuple(run.key_columns),
        columns=columns,
        scales=scales_of(artifact.card),
    )

    def compare(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from comparison(batches)

    counts = ", ".join(f"{name} bigint" for name in COUNTS)
    spark.frame(_rows_to_replay(kept, columns, sample=sample), run.values).mapInArrow(
        compare, f"{counts}, findings array<string>"
    ).createOrReplaceTempView(_COMPARED)
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in COUNTS)
    [(*found, findings)] = spark.rows(
        f"select {sums}, slice(flatten(collect_list(findings)), 1, {MAX_FINDINGS}) from {_COMPARED}"
    )
    for name, count in zip(COUNTS, found, strict=True):
        setattr(replay, name, count)
    for finding in findings:
        replay.report(Finding(**json.loads(finding)))


def _rows_to_replay(kept: _KeptRun, columns: tuple[str, ...], *, sample: int | None) -> str:
    """SQL that selects the key, the ledger's outputs and reason, and the kept features."""
    carried = [f"written.{quote(alias)}" for alias in kept.key]
    carried += [
        f"written.{quote(name)} as {quote(f'{LEDGER_PREFIX}{place}')}"
        for place, name in enumerate((*columns, REASON))
    ]
    carried.append(
        # a row that killed its process is not scored again
        f"case when written.{REJECTED} in ('null_as_of', 'model_crashed') then written.{REJECTED} end "
        f"as {quote(REJECTED_COLUMN)}"
    )
    features = [
        f"fed.{KEPT_INPUT_PREFIX}{place} as {quote(n)}" for place, n in enumerate(kept.types)
    ]
    statement = (
        f"select {', '.join([*carried, *features])} "
        f"from {kept.written} as written inner join {kept.fed} as fed on {kept.same_key}"
    )
    if sample is not None:
        keys = ", ".join(f"written.{quote(alias)}" for alias in kept.key)
        statement += f" order by xxhash64({keys}, :run_id), {keys} limit {int(sample)}"
    return statement
