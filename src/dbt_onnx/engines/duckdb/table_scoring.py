"""Scoring a DuckDB table: `score_table` is the data's way from the features to the ledger.

Reading and writing go through two cursors of one process: the plan and the feature stream see one
snapshot, and the predictions, the latest table and the run row are written in one transaction.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.artifact import Artifact, load_artifact
from dbt_onnx.artifacts.registry import CARD_COLUMN, Registry, parse_spec
from dbt_onnx.engines.duckdb import ledger, writing
from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors, ended_with_process
from dbt_onnx.engines.duckdb.features import FeatureRelation, recorded_name, relation_name
from dbt_onnx.engines.duckdb.fed_rows import FedRows, folder_of
from dbt_onnx.engines.duckdb.fit import check_fit
from dbt_onnx.engines.duckdb.ledger import LedgerShape, TableName
from dbt_onnx.engines.duckdb.planning import PlannedRun, plan_run
from dbt_onnx.engines.duckdb.references import write_references
from dbt_onnx.engines.duckdb.runs import RunRecord, recorded_run
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.errors import ConfigError, RegistryError
from dbt_onnx.kernel.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import duckdb

    from dbt_onnx.runs.request import RunSettings, ScoringRequest


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run did, for the run row and for dbt's result line."""

    model: str
    rows_in: int
    rows_scored: int
    rows_rejected: int
    per_reason: Mapping[str, int]

    @property
    def rows_unchanged(self) -> int:
        return self.rows_in - self.rows_scored - self.rows_rejected

    @property
    def counts(self) -> dict[str, int]:
        """The columns of the run row that count rows."""
        names = ("rows_in", "rows_scored", "rows_rejected", "rows_unchanged")
        counts = {name: getattr(self, name) for name in names}
        return counts | {f"rows_{reason}": count for reason, count in self.per_reason.items()}

    def __str__(self) -> str:
        """`churn/2: scored 3,420 (new 12, features_changed 3,408), unchanged 20,150`."""
        reasons = ", ".join(f"{name} {count:,}" for name, count in self.per_reason.items() if count)
        done = f"scored {self.rows_scored:,}"
        if self.rows_rejected:
            done += f", rejected {self.rows_rejected:,}"
        if reasons:
            done += f" ({reasons})"
        return f"{self.model}: {done}, unchanged {self.rows_unchanged:,}"


@duckdb_errors()
def score_table(
    request: ScoringRequest,
    settings: RunSettings,
    *,
    connection: duckdb.DuckDBPyConnection,
    artifacts: Path,
    log: Callable[[str], None],
) -> RunSummary:
    """Plan, score and write one scoring model. All or nothing: an error leaves ledger and latest
    as they were and one run row that tells why.

    Raises a DbtOnnxError when the request, the registry, the artifact, the features or the
    warehouse's tables do not allow it.
    """
    tables = ScoringTables(
        TableName(
            database=settings.database, schema=settings.schema, identifier=settings.identifier
        )
    )
    with (
        ended_with_process(settings.identifier) as cursors,
        Cursor(connection.cursor()) as reader,
        Cursor(connection.cursor()) as writer,
    ):
        cursors.extend((reader, writer))
        tables.check_runs(writer)
        # within, so that the run row has the message that the user sees
        with recorded_run(writer, tables, settings) as run, duckdb_errors():
            tables.check_names(writer)
            registry = _read_registry(reader, request.registry, settings.seeds)
            request, is_other_version = _asked_version(request, settings, registry)
            entry = registry.resolve(request.model)
            artifact = load_artifact(artifacts, entry)
            if entry.card_sha256 is None:
                log(
                    f"{registry.where} has no {CARD_COLUMN} for {entry.spec}, so it does not tell when "
                    "the card is changed: `dbt-onnx verify --record-cards` fills it"
                )
            _stamp_model(writer, run, request, artifact)
            features = FeatureRelation.open(reader, request.features)
            shape = check_fit(reader, request, artifact, features, tables)
            if tables.repair_latest(writer, shape):
                log(f"{tables.latest} was rebuilt from {tables.ledger}")
            if settings.empty:
                return _write_empty(writer, tables, run, shape, artifact=artifact)
            with ExitStack() as snapshot:
                snapshot.enter_context(reader.transaction())
                planned = plan_run(
                    reader,
                    request,
                    settings,
                    artifact=artifact,
                    features=features,
                    shape=shape,
                    tables=tables,
                    run=run,
                    is_other_version=is_other_version,
                )
                return _write_run(
                    reader, writer, request, artifact, features, tables, run, planned,
                    snapshot=snapshot, log=log,
                )  # fmt: skip


def _read_registry(reader: Cursor, relation: Any, seeds: Mapping[str, Path]) -> Registry:
    """The registry's rows; where `--empty` has left it without, those of its file among `seeds`."""
    sql = relation.sql_query()
    columns = list(relation.columns)
    rows = reader.rows(sql)
    if not rows:
        # the registry itself may be a seed, or a model on one
        nearest = sorted(seeds, key=lambda name: name not in sql)
        registry = Registry.from_seeds(seeds[name] for name in nearest)
        if registry is not None:
            return registry
    return Registry.from_rows(
        [dict(zip(columns, row, strict=True)) for row in rows], where=relation_name(relation)
    )


def _asked_version(
    request: ScoringRequest, settings: RunSettings, registry: Registry
) -> tuple[ScoringRequest, bool]:
    """The request, for the version that a backfill asks for; whether that is another than its own."""
    if settings.model is None:
        return request, False
    asked, own = parse_spec(settings.model), parse_spec(request.model)
    if asked.model_version is None or asked.model_name != own.model_name:
        raise ConfigError(
            f"{settings.identifier} is asked to score with {settings.model!r}; "
            f"it scores with {request.model!r}",
            hint=f"name a version of that model: '{own.model_name}/VERSION'",
        )
    try:
        is_own = registry.resolve(request.model).model_version == asked.model_version
    except RegistryError:  # an alias that nobody has: any version is another
        is_own = False
    return (request, False) if is_own else (replace(request, model=settings.model), True)


def _stamp_model(
    writer: Cursor, run: RunRecord, request: ScoringRequest, artifact: Artifact
) -> None:
    run.update(
        writer,
        model_name=artifact.model_name,
        model_version=artifact.model_version,
        model_alias=parse_spec(request.model).alias,
        artifact_sha256=artifact.sha256,
        card_sha256=artifact.card_sha256,
        key_columns=list(request.key),
        features_relation=recorded_name(request.features, home=run.tables.ledger.database),
        registry_relation=recorded_name(request.registry, home=run.tables.ledger.database),
    )


def _write_empty(
    writer: Cursor, tables: ScoringTables, run: RunRecord, shape: LedgerShape, *, artifact: Artifact
) -> RunSummary:
    """`--empty`: the tables, and nothing in them."""
    nothing = dict.fromkeys(ledger.SCORE_REASONS, 0)
    result = RunSummary(
        model=_name(artifact), rows_in=0, rows_scored=0, rows_rejected=0, per_reason=nothing
    )
    with writer.transaction():
        tables.create(writer, shape, model=_model(artifact))
        run.close(writer, status="success", scope="empty", **result.counts)
    return result


def _write_run(
    reader: Cursor,
    writer: Cursor,
    request: ScoringRequest,
    artifact: Artifact,
    features: FeatureRelation,
    tables: ScoringTables,
    run: RunRecord,
    planned: PlannedRun,
    *,
    snapshot: ExitStack,
    log: Callable[[str], None],
) -> RunSummary:
    """Score what is planned and write ledger, latest and run row in one transaction.

    `snapshot`, the reader's transaction, ends when all is read: beside another transaction DuckDB
    commits into its log first, and into the tables later.
    """
    tally, how = Tally(), dict[str, Any]()
    with (
        FedRows(folder_of(reader, tables.ledger.database)) as fed,
        writer.transaction(),
    ):
        tables.create(writer, planned.plan.shape, model=_model(artifact))
        write_references(
            writer, tables.references, artifact, scoring_model=tables.ledger.identifier
        )
        if planned.summary.rows_to_score:
            # imported only when there is something to score, with onnxruntime
            from dbt_onnx.engines.duckdb.streaming import stream_predictions

            in_child_process = run.follows_death(reader, model_version=artifact.model_version)
            if in_child_process:
                log(
                    f"{tables.ledger.identifier}: a run before this one died, or would have: the model "
                    "runs in a child process, and a row that kills it is rejected"
                )
            how = stream_predictions(
                reader, writer, request, artifact, tables, planned, tally,
                None if request.keep_inputs is False else fed,
                in_child_process=in_child_process, log=log,
            )  # fmt: skip
        snapshot.close()
        fingerprint = writing.check_written(writer, tables, planned, tally, where=features.name)
        writing.check_rejected(
            planned,
            tally,
            where=features.name,
            max_rejected_fraction=request.max_rejected_fraction,
        )
        kept = writing.keep_inputs(writer, tables, planned, fed, keep=request.keep_inputs)
        writing.update_latest(writer, tables, planned)
        result = RunSummary(
            model=_name(artifact),
            rows_in=planned.summary.rows_in,
            rows_scored=tally.scored,
            rows_rejected=tally.rejected,
            per_reason=planned.summary.per_reason,
        )
        run.close(
            writer,
            status="success",
            **writing.run_columns(planned),
            **result.counts,
            **kept,
            ledger_fingerprint=fingerprint,
            **how,
        )
    return result


def _model(artifact: Artifact) -> tuple[str, str]:
    return artifact.model_name, artifact.model_version


def _name(artifact: Artifact) -> str:
    return f"{artifact.model_name}/{artifact.model_version}"
