"""Scoring a DuckDB table: `score_table` is the data's way from the features to the ledger.

Reading and writing go through two cursors of one process: the plan and the feature stream see one
snapshot, and the predictions, the latest table and the run row are written in one transaction.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_onnx import ledger, plan
from dbt_onnx.artifact import Artifact, load_artifact
from dbt_onnx.encode import check_relation
from dbt_onnx.engines.duckdb_runs import RunRecord, recorded_run
from dbt_onnx.engines.duckdb_tables import Cursor, ScoringTables, duckdb_errors
from dbt_onnx.errors import ConfigError, ContractError, DataError, ScoringError
from dbt_onnx.identifiers import literal, quote
from dbt_onnx.ledger import LedgerShape, TableName
from dbt_onnx.plan import Plan, PlanSummary
from dbt_onnx.progress import Progress
from dbt_onnx.registry import Registry, parse_spec
from dbt_onnx.scoring import Tally, prediction_schema, score_batches
from dbt_onnx.session import OnnxSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import duckdb

    from dbt_onnx.job import RunSettings, ScoringRequest

DEFAULT_BATCH_ROWS = 65_536
_STREAM = "__dbt_onnx_predictions"
_HASH_PROBE = (
    "select hash(1::bigint, 0.1::double, 'a', true, date '2000-01-01', [1.5::float], null)"
)


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run did, for the log line and for dbt's result."""

    model_name: str
    model_version: str
    rows_in: int
    rows_scored: int
    rows_rejected: int
    rows_unchanged: int
    per_reason: Mapping[str, int]

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
        return f"{self.model_name}/{self.model_version}: {done}, unchanged {self.rows_unchanged:,}"


@dataclass(frozen=True, kw_only=True)
class FeatureRelation:
    """The feature relation: its query, the name that users know it by, its columns' SQL types."""

    sql: str
    name: str
    columns: Mapping[str, str]


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
    with Cursor(connection.cursor()) as reader, Cursor(connection.cursor()) as writer:
        tables.check_runs(writer)
        # within, so that the run row has the message that the user sees
        with recorded_run(writer, tables, settings) as run, duckdb_errors():
            tables.check_names(writer)
            job = _prepare(request, settings, tables, run, reader, writer, artifacts=artifacts)
            if tables.repair_latest(writer, job.shape):
                log(f"{tables.latest} was rebuilt from {tables.ledger}")
            if settings.empty:
                return job.create_empty(writer)
            with reader.transaction():
                return job.execute(reader, writer, log=log)


def _prepare(
    request: ScoringRequest,
    settings: RunSettings,
    tables: ScoringTables,
    run: RunRecord,
    reader: Cursor,
    writer: Cursor,
    *,
    artifacts: Path,
) -> _Job:
    """Everything that can be checked without looking at rows."""
    registry = _read_registry(reader, request.registry)
    artifact = load_artifact(artifacts, registry.resolve(request.model))
    run.update(
        writer,
        model_name=artifact.model_name,
        model_version=artifact.model_version,
        model_alias=parse_spec(request.model).alias,
        artifact_sha256=artifact.sha256,
        key_columns=list(request.key),
    )
    features = _open_features(reader, request.features)
    shape = _check_shape(reader, request, artifact, features)
    tables.check_shape(writer, shape)
    # before the latest table may be rebuilt by this key
    previous = run.previous(writer) if writer.kind_of(tables.ledger) is not None else None
    if previous is not None and previous.key_columns != list(request.key):
        raise ConfigError(
            f"key is {list(request.key)}; {tables.ledger} was written with key "
            f"{previous.key_columns}",
            hint="a ledger keeps its key for life: restore it, or give the scoring model "
            "another alias to start a new ledger",
        )
    tables.check_outputs(
        writer, shape, model_name=artifact.model_name, model_version=artifact.model_version
    )
    return _Job(request, settings, artifact, features, shape, tables, run)


class _Job:
    """One run, when everything that can be checked without looking at rows has been checked."""

    def __init__(
        self,
        request: ScoringRequest,
        settings: RunSettings,
        artifact: Artifact,
        features: FeatureRelation,
        shape: LedgerShape,
        tables: ScoringTables,
        run: RunRecord,
    ) -> None:
        self.request = request
        self.settings = settings
        self.artifact = artifact
        self.features = features
        self.shape = shape
        self.tables = tables
        self.run = run
        self.batch_rows = request.batch_rows or DEFAULT_BATCH_ROWS
        self.parameters: dict[str, Any] = {
            "scoring_model": settings.identifier,
            "run_id": settings.run_id,
            "model_name": artifact.model_name,
            "model_version": artifact.model_version,
        }

    def create_empty(self, writer: Cursor) -> RunSummary:
        """`--empty`: the tables, and nothing in them."""
        result = self._result(Tally(), rows_in=0, per_reason=dict.fromkeys(ledger.SCORE_REASONS, 0))
        with writer.transaction():
            self.tables.create(writer, self.shape)
            self.run.close(writer, status="success", scope="empty", **result.counts)
        return result

    def execute(self, reader: Cursor, writer: Cursor, *, log: Callable[[str], None]) -> RunSummary:
        rows_plan, summary = self._plan(reader)
        session = OnnxSession(
            self.artifact.model_bytes,
            output_names=[output.name for output in self.artifact.contract.outputs],
            threads=self.request.threads or _available_cpus(),
            row_by_row=self.artifact.signature.fixed_batch_one,
        )
        tally = Tally()
        with writer.transaction():
            self.tables.create(writer, self.shape)
            if summary.rows_to_score:
                self._write_predictions(reader, writer, rows_plan, summary, session, tally, log)
            self._check_tally(tally, summary)
            self._update_latest(writer, rows_plan, summary)
            result = self._result(tally, rows_in=summary.rows_in, per_reason=summary.per_reason)
            self.run.close(
                writer,
                status="success",
                scope=rows_plan.scope,
                as_of=self.parameters["run_as_of"],
                scored_at=self.parameters["scored_at"],
                **result.counts,
                input_fingerprint=summary.input_fingerprint,
                features_hash_function=self.parameters["features_hash_function"],
                onnxruntime_version=session.onnxruntime_version,
                provider=session.provider,
                threads=session.threads,
                batch_rows=self.batch_rows,
            )
        return result

    def _result(self, tally: Tally, *, rows_in: int, per_reason: Mapping[str, int]) -> RunSummary:
        return RunSummary(
            model_name=self.artifact.model_name,
            model_version=self.artifact.model_version,
            rows_in=rows_in,
            rows_scored=tally.scored,
            rows_rejected=tally.rejected,
            rows_unchanged=rows_in - sum(per_reason.values()),
            per_reason=per_reason,
        )

    def _plan(self, reader: Cursor) -> tuple[Plan, PlanSummary]:
        """Decide which rows are scored, after the checks that need the rows."""
        clock, scored_at = reader.rows(
            f"select {self.settings.clock_sql}, cast(now() at time zone 'UTC' as timestamp)"
        )[0]
        as_of_sql = self._as_of_sql(clock)
        rows_in, newest = reader.rows(plan.count_rows(self.features.sql, as_of_sql=as_of_sql))[0]
        self._check_rows(reader, rows_in=rows_in, newest=newest, clock=clock)
        previous = self.run.previous(reader)
        last_full = self.run.last_full_as_of(
            reader,
            model_name=self.artifact.model_name,
            model_version=self.artifact.model_version,
        )
        function = f"duckdb.hash/{reader.rows(_HASH_PROBE)[0][0]:016x}"
        run_as_of = newest or clock
        self.parameters |= {
            "run_as_of": run_as_of,
            "last_full_as_of": last_full,
            # a clock that was set back must not make the newest prediction look older
            "scored_at": scored_at
            if previous is None
            else max(scored_at, previous.scored_at + timedelta(microseconds=1)),
            "features_hash_function": function,
        }
        rows_plan = Plan(
            features_sql=self.features.sql,
            shape=self.shape,
            features={
                name: self.features.columns[name] for name in self.artifact.contract.feature_names
            },
            as_of_sql=as_of_sql,
            ledger=_relation(reader, self.tables.ledger, self.shape.ledger_columns),
            latest=_relation(reader, self.tables.latest, self.shape.latest_columns),
            runs=self.tables.runs.sql,
            scope="backfill" if last_full is not None and run_as_of < last_full else "full",
            full_refresh=self.settings.full_refresh,
            retry_rejected=self.settings.retry_rejected,
            refresh_after_sql=_interval(self.request.refresh_after),
            hash_changed=previous is not None and previous.features_hash_function != function,
        )
        summary = self._summarize(reader, rows_plan)
        if summary.rows_late:
            rows_plan = replace(rows_plan, has_late_rows=True)
            summary = self._summarize(reader, rows_plan)
        return rows_plan, summary

    def _summarize(self, reader: Cursor, rows_plan: Plan) -> PlanSummary:
        row = reader.rows(plan.summarize(rows_plan), self.parameters)[0]
        names = [description[0] for description in reader.raw.description or []]
        found = dict(zip(names, row, strict=True))
        return PlanSummary(**{item.name: found[item.name] for item in fields(PlanSummary)})

    def _as_of_sql(self, clock: datetime) -> str:
        if self.request.as_of is None:
            return f"cast({literal(clock.isoformat(sep=' '))} as timestamp)"
        column = quote(self.request.as_of)
        if self.features.columns[self.request.as_of].endswith("WITH TIME ZONE"):
            return f"cast({column} at time zone 'UTC' as timestamp)"
        return f"cast({column} as timestamp)"

    def _check_rows(
        self, reader: Cursor, *, rows_in: int, newest: datetime | str | None, clock: datetime
    ) -> None:
        if rows_in == 0:
            raise DataError(
                f"{self.features.name} has no rows: there is nothing to score",
                hint="check the model upstream; `dbt run --empty` builds the tables without rows",
            )
        # duckdb hands out moments beyond Python's calendar as text
        if isinstance(newest, str) or (newest is not None and newest > clock):
            raise DataError(
                f"{self.features.name} describes the future: the newest {self.request.as_of!r} is "
                f"{newest}, and the clock says {clock}",
                hint="correct the dates upstream, or set the variable dbt_onnx_clock",
            )
        repeated = reader.rows(plan.duplicate_keys(self.features.sql, self.request.key))
        if repeated:
            examples = "; ".join(
                f"{dict(zip(self.request.key, row[:-1], strict=True))} {row[-1]} times"
                for row in repeated
            )
            raise DataError(
                f"key {list(self.request.key)} is not unique in {self.features.name}: {examples}",
                hint="give the features model one row per key, or add the column that tells its "
                "rows apart to key",
            )

    def _write_predictions(
        self,
        reader: Cursor,
        writer: Cursor,
        rows_plan: Plan,
        summary: PlanSummary,
        session: OnnxSession,
        tally: Tally,
        log: Callable[[str], None],
    ) -> None:
        rows = reader.stream(
            plan.select_rows(rows_plan), self.parameters, batch_rows=self.batch_rows
        )
        failures: list[BaseException] = []
        with Progress(summary.rows_to_score, label=self.settings.identifier, log=log) as progress:
            predictions = score_batches(
                rows,
                session,
                contract=self.artifact.contract,
                tally=tally,
                batch_rows=self.batch_rows,
                on_progress=progress.advance,
            )
            stream = pa.RecordBatchReader.from_batches(
                prediction_schema(rows.schema, self.artifact.contract),
                _keep_failure(predictions, failures),
            )
            writer.raw.register(_STREAM, stream)
            try:
                writer.execute(
                    ledger.insert_predictions(
                        self.tables.ledger, self.shape, stream=quote(_STREAM)
                    ),
                    self.parameters,
                )
            except Exception as error:
                # Arrow's C stream turns every exception into a text; the first one tells more
                if failures:
                    raise failures[0] from error
                raise
            finally:
                # an unfinished stream would keep the reader from ending its transaction
                rows.close()
            # not after a failure: duckdb refuses, and the cursor goes with what it has registered
            writer.raw.unregister(_STREAM)

    def _check_tally(self, tally: Tally, summary: PlanSummary) -> None:
        """Refuse to commit when rows went missing, or when too many were rejected."""
        if tally.scored + tally.rejected != summary.rows_to_score:
            raise ScoringError(
                f"{summary.rows_to_score:,} rows were planned and "
                f"{tally.scored + tally.rejected:,} came back",
                hint=f"{self.features.name} gave other rows when it was read again: materialize "
                "it as a table, or take random() and the like out of it",
            )
        rejected = tally.rejected + summary.rows_still_rejected
        share = rejected / summary.rows_in
        if tally.rejected and share > self.request.max_rejected_fraction:
            reasons = "; ".join(
                f"{reason} in {count:,} row(s)"
                + (f", such as {tally.examples[reason]}" if reason in tally.examples else "")
                for reason, count in tally.rejected_reasons.most_common(5)
            )
            raise DataError(
                f"{rejected:,} of {summary.rows_in:,} rows of {self.features.name} are rejected "
                f"({share:.1%}); max_rejected_fraction is {self.request.max_rejected_fraction:g}: "
                f"{reasons}",
                hint="mend the features upstream, give the feature a null policy in the card, or "
                "raise max_rejected_fraction",
            )

    def _update_latest(self, writer: Cursor, rows_plan: Plan, summary: PlanSummary) -> None:
        tables, shape = self.tables, self.shape
        if summary.rows_to_score:
            late = rows_plan.has_late_rows or rows_plan.scope == "backfill"
            for statement in ledger.merge_latest(
                tables.ledger, tables.latest, shape, scope=rows_plan.scope, has_late_rows=late
            ):
                writer.execute(statement, self.parameters)
        if rows_plan.scope != "full":
            return
        if self.parameters["last_full_as_of"] is not None:
            writer.execute(
                ledger.mark_absent(tables.latest, shape, features_sql=self.features.sql),
                self.parameters,
            )
        if summary.rows_returned:
            writer.execute(
                ledger.mark_returned(tables.latest, shape, features_sql=self.features.sql),
                self.parameters,
            )


def _read_registry(reader: Cursor, relation: Any) -> Registry:
    name = _relation_name(relation)
    rows = reader.rows(relation.sql_query())
    columns = list(relation.columns)
    return Registry.from_rows([dict(zip(columns, row, strict=True)) for row in rows], where=name)


def _open_features(reader: Cursor, relation: Any) -> FeatureRelation:
    sql = relation.sql_query()
    return FeatureRelation(
        sql=sql, name=_relation_name(relation), columns=reader.columns_of(f"({sql})")
    )


def _relation_name(relation: Any) -> str:
    """`select * from "db"."schema"."name"` -> `schema.name`, as users know it."""
    found = re.fullmatch(r'select \* from "(?:[^"]|"")*"\.(\S.*)', relation.sql_query().strip())
    if found is None:
        return "the feature relation"
    return found[1].replace('"', "")


def _check_shape(
    reader: Cursor, request: ScoringRequest, artifact: Artifact, features: FeatureRelation
) -> LedgerShape:
    """Hold request and contract against the relation. Raises ConfigError or ContractError."""
    for role, names in (("key", request.key), ("as_of", [request.as_of] if request.as_of else [])):
        missing = [name for name in names if name not in features.columns]
        if missing:
            raise ConfigError(
                f"{role} column(s) {missing} not found in {features.name}; it has "
                f"{list(features.columns)}",
                hint=f"add the column to the features model, or correct {role} in score()",
            )
    if request.as_of is not None and not features.columns[request.as_of].startswith(
        ("DATE", "TIMESTAMP")
    ):
        raise ConfigError(
            f"as_of column {request.as_of!r} of {features.name} is "
            f"{features.columns[request.as_of]}, not a DATE or TIMESTAMP",
            hint="cast it in the features model",
        )
    contract = artifact.contract
    unsigned = [n for n in contract.feature_names if features.columns.get(n) == "UHUGEINT"]
    if unsigned:
        # duckdb hands the upper half of UHUGEINT to Arrow as negative numbers
        raise ContractError(
            f"feature column(s) {unsigned} of {features.name} are UHUGEINT, which cannot be read "
            "without loss",
            hint="cast them to HUGEINT or UBIGINT in the features model",
        )
    present = [name for name in contract.feature_names if name in features.columns]
    listed = ", ".join(quote(name) for name in present) or "1"
    schema = reader.stream(
        f"select {listed} from ({features.sql}) as features limit 0", {}, batch_rows=1
    ).schema
    arrow_types: dict[str, Any] = dict.fromkeys(features.columns)
    arrow_types |= {name: schema.field(name).type for name in present}
    check_relation(
        contract,
        arrow_types,
        where=features.name,
        model=f"{artifact.model_name}/{artifact.model_version}",
    )
    outputs = _output_types(reader, contract.output_fields())
    collisions = {n.casefold() for n in request.key} & {n.casefold() for n in outputs}
    if collisions:
        raise ContractError(
            f"output column(s) {sorted(collisions)} collide with the key {list(request.key)}",
            hint="give the output another column name when exporting or registering the model",
        )
    return LedgerShape(key={name: features.columns[name] for name in request.key}, outputs=outputs)


def _output_types(reader: Cursor, output_fields: list[pa.Field]) -> dict[str, str]:
    """DuckDB's own names for the Arrow types of the outputs."""
    table = pa.schema(output_fields).empty_table()
    reader.raw.register(_STREAM, table)
    try:
        return reader.columns_of(quote(_STREAM))
    finally:
        reader.raw.unregister(_STREAM)


def _relation(reader: Cursor, table: TableName, columns: Mapping[str, str]) -> str:
    """The table, or a typed relation without rows before the first run has created it."""
    return table.sql if reader.kind_of(table) is not None else ledger.empty_relation(columns)


def _interval(period: timedelta | None) -> str | None:
    return None if period is None else f"to_seconds({int(period.total_seconds())})"


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_failure(
    batches: Iterator[pa.RecordBatch], failures: list[BaseException]
) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except BaseException as error:
        failures.append(error)
        raise
