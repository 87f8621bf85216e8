"""The Spark engine of a run: implements `dbt_onnx.runs.run.Engine`, with the methods in the same order."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.spark import planning, writing
from dbt_onnx.engines.spark.features import (
    RELATION_ATTRIBUTE,
    FeatureRelation,
    refuse_expressions,
    relation_name,
)
from dbt_onnx.engines.spark.ledger import LedgerShape
from dbt_onnx.engines.spark.runs import RunRecord, recorded_run
from dbt_onnx.engines.spark.session import Spark, spark_errors
from dbt_onnx.engines.spark.tables import ScoringTables
from dbt_onnx.engines.spark.worker import as_list
from dbt_onnx.errors import ContractError
from dbt_onnx.runs.run import RunSummary, Written, score_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pyspark.sql import SparkSession

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import ModelVersion
    from dbt_onnx.runs.answered import AnswerLogs
    from dbt_onnx.runs.plan import Planned
    from dbt_onnx.runs.request import RunSettings, ScoringRequest, TableArguments
    from dbt_onnx.runs.run import ScoringRun
    from dbt_onnx.runs.scorer import RunScorer


@spark_errors()
def score_on_spark(
    request: ScoringRequest,
    settings: RunSettings,
    *,
    session: SparkSession,
    artifacts: Path,
    log: Callable[[str], None],
) -> RunSummary:
    """Run `score_table` on a Spark session."""
    refuse_expressions(features=request.features, registry=request.registry)
    ledger = TableName(database="", schema=settings.schema, identifier=settings.identifier)
    engine = SparkEngine(ledger, Spark(session))
    return score_table(engine, request, settings, artifacts=artifacts, log=log)


class SparkEngine:
    """The tables of one scoring model on Spark, during one run. Implements `Engine`."""

    record: RunRecord
    """The run row, from `recorded` on."""
    _kept: dict[str, int | None]
    """The columns of the run row about kept inputs, from `write` on."""

    def __init__(self, ledger: TableName, spark: Spark) -> None:
        self.tables = ScoringTables(ledger)
        self.spark = spark

    @contextmanager
    def recorded(self, settings: RunSettings) -> Iterator[None]:
        self.tables.check_runs(self.spark)
        # inside `recorded_run`, so that the run row stores the message that the user sees
        with recorded_run(self.spark, self.tables, settings) as self.record, spark_errors():
            self.tables.check_complete(self.spark)
            yield

    def stamp(self, request: ScoringRequest, stamps: Mapping[str, Any]) -> None:
        self.record.update(
            features_relation=relation_name(request.features),
            registry_relation=relation_name(request.registry),
            **stamps,
        )

    def registry(self, relation: Any, *, seeds: Mapping[str, Path]) -> Registry:
        rows = self.spark.records(f"select * from {getattr(relation, RELATION_ATTRIBUTE)}")
        if seeds and not rows:
            registry = Registry.from_seeds(seeds.values())
            if registry is not None:
                return registry
        return Registry.from_rows(rows, where=relation_name(relation))

    def features(self, relation: Any) -> FeatureRelation:
        return FeatureRelation.open(self.spark, relation)

    def check(
        self, request: TableArguments, artifact: Artifact, features: FeatureRelation
    ) -> LedgerShape:
        return check_fit(self.spark, request, artifact, features, self.tables)

    def take_over(
        self, run: ScoringRun, logs: AnswerLogs, artifact_of: Callable[[ModelVersion], Artifact]
    ) -> None:
        """Do nothing: predictions are not published from Spark yet, so no service has logged answers."""

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Release the held rows at the end. There is no snapshot: fingerprints reveal features that change between
        plan and write.
        """
        try:
            yield
        finally:
            self.spark.release()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do nothing: readers ignore the rows of a run that has not succeeded, and a later run removes them."""
        yield

    def plan(self, run: ScoringRun) -> Planned:
        # settle before reading the ledger, so that no other driver settles it while this run reads it
        if self.spark.has(self.tables.superseded):
            writing.settle(self.spark, self.tables, run.shape)
            writing.remove_leftovers(self.spark, self.tables)
        return planning.plan_run(self.spark, run, self.tables, self.record)

    def needs_child_process(self, model: ModelVersion) -> bool:  # noqa: ARG002
        """Return False: Spark retries a task whose process died, and the retry scores in a child process."""
        return False

    def write(self, run: ScoringRun, planned: Planned, scorer: RunScorer | None) -> Written:  # noqa: ARG002
        """Score on the executors, which open their own sessions; of `scorer`, the run only records the columns."""
        self.tables.create(self.spark, run.shape, planned.rows.question.features)
        if planned.summary.rows_to_score:
            writing.append_predictions(self.spark, self.tables, run, planned)
        self.spark.release()
        written, self._kept = writing.read_written(self.spark, self.tables, planned)
        return written

    def close(self, run: ScoringRun, planned: Planned, outcome: Mapping[str, Any]) -> None:
        if planned.summary.rows_to_score and planned.scope != "backfill":
            writing.supersede(self.spark, self.tables, planned)
        has_rejected = bool(outcome["rows_rejected"])
        writing.note_presence(self.spark, self.tables, planned, has_rejected=has_rejected)
        columns = planned.run_columns(planned.rows.question.features.values())
        self.record.succeed(**columns, **self._kept, **outcome)
        # only now that the run has succeeded: of two concurrent drivers, one writes the references
        self.tables.write_references(self.spark, run.artifact)
        writing.settle(self.spark, self.tables, run.shape)

    def close_empty(self, run: ScoringRun, outcome: Mapping[str, Any]) -> None:
        names = run.artifact.contract.feature_names
        self.tables.create(self.spark, run.shape, {n: run.features.columns[n] for n in names})
        self.record.succeed(scope="empty", **outcome)


def check_fit(
    spark: Spark,
    arguments: TableArguments,
    artifact: Artifact,
    features: FeatureRelation,
    tables: ScoringTables,
) -> LedgerShape:
    """Check arguments, contract, features and tables against each other. Returns the ledger's columns."""
    from pyspark.sql.pandas.types import from_arrow_type

    tables.check_file(spark, artifact)
    features.check_columns(key=arguments.key, as_of=arguments.as_of)
    features.check_contract(spark, artifact.contract, model=str(artifact.model))
    outputs = {}
    for field in artifact.contract.output_fields():
        try:
            outputs[field.name] = from_arrow_type(as_list(field.type)).simpleString()
        except Exception as error:
            raise ContractError(
                f"output column {field.name!r} has the type {field.type}, which Spark does not support",
                hint="cast it to int64 or float in the ONNX graph",
            ) from error
    shape = LedgerShape(
        key={name: features.columns[name] for name in arguments.key}, outputs=outputs
    )
    shape.check_names()
    tables.check_shape(spark, shape)
    return shape
