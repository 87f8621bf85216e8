"""DuckDB as the engine of a run: implements `dbt_onnx.runs.run.Engine`, in the same order.

One cursor reads and another writes. The plan and the feature stream read from one snapshot. The
predictions and the run row are written in one transaction.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb import planning, writing
from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors, ended_with_process, with_retries
from dbt_onnx.engines.duckdb.feature_types import kept_as
from dbt_onnx.engines.duckdb.features import FeatureRelation, recorded_name, relation_name
from dbt_onnx.engines.duckdb.input_spool import InputSpool, folder_of
from dbt_onnx.engines.duckdb.ledger import LedgerShape
from dbt_onnx.engines.duckdb.runs import RunRecord, recorded_run
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.engines.duckdb.taking_over import take_over
from dbt_onnx.errors import ConfigError, DbtOnnxError
from dbt_onnx.runs.run import RunSummary, Written, score_table
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import duckdb

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import ModelVersion
    from dbt_onnx.runs.answered import AnswerLogs
    from dbt_onnx.runs.plan import Planned
    from dbt_onnx.runs.request import RunSettings, ScoringRequest, TableArguments
    from dbt_onnx.runs.run import ScoringRun
    from dbt_onnx.runs.scorer import RunScorer

_TRIES = 5


@duckdb_errors()
def score_on_duckdb(
    request: ScoringRequest,
    settings: RunSettings,
    *,
    connection: duckdb.DuckDBPyConnection,
    artifacts: Path,
    log: Callable[[str], None],
    logs: AnswerLogs | None = None,
) -> RunSummary:
    """Run `score_table` on a connection of DuckDB's Python client. The connection stays open."""
    ledger = TableName(
        database=settings.database, schema=settings.schema, identifier=settings.identifier
    )
    with (
        ended_with_process(ledger.identifier) as cursors,
        Cursor(connection.cursor()) as reader,
        Cursor(connection.cursor()) as writer,
    ):
        cursors.extend((reader, writer))
        engine = DuckDBEngine(ledger, reader=reader, writer=writer)
        return with_retries(
            lambda: score_table(engine, request, settings, artifacts=artifacts, log=log, logs=logs),
            tries=_TRIES,
            log=lambda said: log(f"{settings.identifier}: {said}"),
        )


class DuckDBEngine:
    """The tables of one scoring model in a DuckDB database, for one run. `Engine` documents the methods;
    the docstrings here add only what is specific to DuckDB.
    """

    record: RunRecord
    """The run row, from `recorded` on."""
    _snapshot: ExitStack
    """Ends the reader's transaction, from `snapshot` on."""
    _spool: InputSpool
    """The rows that the run has fed to its model, from `transaction` on; `close` keeps them."""
    _reasons: list[str]
    """The reasons for the run's rejections, in the order of their numbers, from `write` on."""

    def __init__(self, ledger: TableName, *, reader: Cursor, writer: Cursor) -> None:
        self.tables = ScoringTables(ledger, writer.storage_of(ledger))
        self.reader = reader
        self.writer = writer

    @contextmanager
    def recorded(self, settings: RunSettings) -> Iterator[None]:
        self.tables.check_runs(self.writer)
        self.tables.check_runs_exist(self.writer)
        # errors are translated inside, so that the run row gets the message that the user sees
        with recorded_run(self.writer, self.tables, settings) as self.record, duckdb_errors():
            self.tables.check_names(self.writer)
            yield

    def stamp(self, request: ScoringRequest, stamps: Mapping[str, Any]) -> None:
        home = self.tables.ledger.database
        self.record.update(
            self.writer,
            features_relation=recorded_name(request.features, home=home),
            registry_relation=recorded_name(request.registry, home=home),
            **stamps,
        )

    def registry(self, relation: Any, *, seeds: Mapping[str, Path]) -> Registry:
        sql = relation.sql_query()
        if seeds and not self.reader.rows(f"select 1 from ({sql}) as registry limit 1"):
            # the registry may be a seed, or a model that reads one: try seeds that its query names first
            nearest = sorted(seeds, key=lambda name: name not in sql)
            registry = Registry.from_seeds(seeds[name] for name in nearest)
            if registry is not None:
                return registry
        return Registry.from_rows(self.reader.records(sql), where=relation_name(relation))

    def features(self, relation: Any) -> FeatureRelation:
        return FeatureRelation.open(self.reader, relation)

    def check(
        self, request: TableArguments, artifact: Artifact, features: FeatureRelation
    ) -> LedgerShape:
        return check_fit(self.reader, request, artifact, features, self.tables)

    def take_over(
        self, run: ScoringRun, logs: AnswerLogs, artifact_of: Callable[[ModelVersion], Artifact]
    ) -> None:
        try:
            with duckdb_errors():
                take_over(self.writer, self.tables, run, logs, artifact_of)
        except (DbtOnnxError, OSError) as error:
            why = error.message if isinstance(error, DbtOnnxError) else error
            run.log(
                f"{run.settings.identifier}: answers on request stay in their log until the next run: "
                f"{why}"
            )

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Keep the reader on one snapshot until `write` has read all rows."""
        with ExitStack() as self._snapshot:
            self._snapshot.enter_context(self.reader.transaction())
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Also open a temporary file for the rows that the run feeds to its model, which `close` keeps."""
        folder = folder_of(self.reader, self.tables.ledger.database)
        with InputSpool(folder) as self._spool, self.writer.transaction():
            yield

    def plan(self, run: ScoringRun) -> Planned:
        return planning.plan_run(self.reader, run, self.tables, self.record)

    def needs_child_process(self, model: ModelVersion) -> bool:
        return self.record.needs_child_process(self.reader, model)

    def write(self, run: ScoringRun, planned: Planned, scorer: RunScorer | None) -> Written:
        self.tables.create(self.writer, run.shape)
        writing.write_references(self.writer, self.tables, run.artifact)
        self._reasons = []
        if scorer is not None:
            spool = None if run.request.keep_inputs is False else self._spool
            self._reasons = writing.append_predictions(
                self.reader, self.writer, self.tables, planned, scorer, spool
            )
        # end the reader's transaction: while it is open, DuckDB commits to its log first, to the tables later
        self._snapshot.close()
        return writing.read_written(self.writer, self.tables, planned, self._reasons)

    def close(self, run: ScoringRun, planned: Planned, outcome: Mapping[str, Any]) -> None:
        kept = writing.keep_inputs(
            self.writer, self.tables, planned, self._spool, keep=run.request.keep_inputs
        )
        writing.note_presence(self.writer, self.tables, planned, has_rejected=bool(self._reasons))
        self.record.close(
            self.writer,
            status="success",
            rejected_reasons=self._reasons,
            **planned.run_columns(map(kept_as, planned.rows.question.features.values())),
            **outcome,
            **kept,
        )

    def close_empty(self, run: ScoringRun, outcome: Mapping[str, Any]) -> None:
        with self.writer.transaction():
            self.tables.create(self.writer, run.shape)
            self.record.close(self.writer, status="success", scope="empty", **outcome)


def check_fit(
    cursor: Cursor,
    arguments: TableArguments,
    artifact: Artifact,
    features: FeatureRelation,
    tables: ScoringTables,
) -> LedgerShape:
    """Check that arguments, contract, features and tables fit together. Both a run and the gate do this.

    Returns the columns of the ledger. Raises a DbtOnnxError if they do not fit together.
    """
    model = str(artifact.model)
    tables.check_file(cursor, artifact)
    features.check_columns(key=arguments.key, as_of=arguments.as_of)
    features.check_collation(cursor, key=arguments.key)
    features.check_contract(cursor, artifact.contract, model=model)
    taken = [n for n in artifact.contract.feature_names if n.casefold() == RUN]
    if taken and arguments.keep_inputs is not False:
        raise ConfigError(
            f"feature {taken[0]!r} of '{model}' has the name of a column of the kept inputs",
            hint="give the feature another name when exporting or registering the model, or set "
            "keep_inputs=False in score()",
        )
    features.check_storable(tables.storage, key=arguments.key)
    outputs = tables.storage.types(writing.output_types(artifact.contract.output_fields()))
    shape = LedgerShape(
        key={name: features.columns[name] for name in arguments.key}, outputs=outputs
    )
    shape.check_names()
    tables.check_shape(cursor, shape)
    _check_key(cursor, arguments, tables)
    tables.check_outputs(cursor, shape, artifact.model)
    return shape


def _check_key(cursor: Cursor, arguments: TableArguments, tables: ScoringTables) -> None:
    """Raise ConfigError if the existing ledger was written with another key."""
    known = tables.key_columns(cursor) if cursor.has(tables.current) else None
    if known is not None and known != list(arguments.key):
        raise ConfigError(
            f"key is {list(arguments.key)}; {tables.ledger} was written with key {known}",
            hint="the key of a ledger never changes: give score() that key again, or give the "
            "scoring model another alias to start a new ledger",
        )
