"""The run row: written when a run starts, closed in the transaction that writes the predictions."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.duckdb.cursor import ConflictError, with_retries
from dbt_onnx.engines.duckdb.identifiers import quote
from dbt_onnx.engines.duckdb.ledger import REJECTED
from dbt_onnx.errors import DbtOnnxError, WarehouseError
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.chain import fingerprint_of
from dbt_onnx.runs.history import RunRow
from dbt_onnx.runs.plan import Past
from dbt_onnx.runs.tables import RUN, RUNS_TABLE, RUNS_TYPES
from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dbt_onnx.artifacts.registry import ModelVersion, RegistryEntry
    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.runs.request import RunSettings

# `now() at time zone 'UTC'` would follow the session's calendar, which may not be the Gregorian one
NOW = "make_timestamp(epoch_us(now()))"

# Scoring models of one dbt run share the table. DuckDB lets only one transaction at a time create or alter
# a table, and only one process write to a file, so a lock in this process is enough.
LOCK = threading.Lock()
"""Held while a transaction opens or closes run rows."""
_ACTIVE: set[tuple[str, str]] = set()


INTERRUPTED = (
    "the process ended during this run: it was killed, or the model crashed it; the next run scores in a "
    "child process, and rejects a row that kills it"
)


@dataclass(frozen=True)
class RunRecord:
    """One row of `dbt_onnx_runs`, found by its number."""

    tables: ScoringTables
    run_no: int

    @property
    def identity(self) -> dict[str, Any]:
        return {RUN: self.run_no, "scoring_model": self.tables.ledger.identifier}

    def update(self, cursor: Cursor, **values: Any) -> None:
        """Set columns of the row. Values are bound, never written into the statement.

        Raises WarehouseError if another process has closed the row.
        """
        if not self.is_running(cursor):
            raise self.overtaken(cursor)
        self._set(cursor, **values)

    def _set(self, cursor: Cursor, **values: Any) -> None:
        assignments = ", ".join(f"{quote(name)} = ${name}" for name in values)
        cursor.execute(
            f"update {self.tables.runs.sql} set {assignments} where {RUN} = $run_no",
            {**values, **self.identity},
        )

    def overtaken(self, cursor: Cursor) -> WarehouseError:
        """Return the error for a run that another process has closed."""
        runs, name = self.tables.runs, self.tables.ledger.identifier
        [(run_id,)] = cursor.rows(
            f"select arg_max(run_id, {RUN}) from {runs.sql} "
            f"where scoring_model = $scoring_model and {RUN} > $run_no",
            self.identity,
        )
        who = "its row was changed" if run_id is None else f"run {run_id!r} has begun"
        return WarehouseError(
            f"this run of {name} was taken over: {who}, according to {runs}",
            hint="nothing is written; let one process at a time score a model",
        )

    def close(self, cursor: Cursor, *, status: str, **values: Any) -> None:
        """Set the outcome and the end time, and add the row to the chain.

        The end time is the machine's clock, because DuckDB's now() is the start of the transaction.
        """
        ended_at = datetime.now(UTC).replace(tzinfo=None)
        self.update(cursor, status=status, ended_at=ended_at, **values)
        self.seal(cursor)

    def is_running(self, cursor: Cursor) -> bool:
        """Whether the row has not been closed."""
        return cursor.rows(
            f"select status from {self.tables.runs.sql} where {RUN} = $run_no", self.identity
        ) == [("running",)]

    def past(self, cursor: Cursor, model: ModelVersion) -> Past:
        """Return what this run, with a model version, needs to know about earlier runs."""
        [found] = cursor.rows(
            f"""
            select
                not coalesce(bool_or(
                    rows_scored + rows_rejected > 0 and scope is distinct from '{REAL_TIME}'
                    and (model_name <> $model_name or model_version <> $model_version)
                ), false),
                max(as_of) filter (
                    scope = 'full' and model_name = $model_name and model_version = $model_version
                ),
                max(clock) filter (scope = 'full'),
                max(scored_at) filter (scope <> 'empty'),
                arg_max(features_hash_function, scored_at) filter (scope = 'full')
            from {self.tables.runs.sql}
            where scoring_model = $scoring_model and status = 'success'""",
            {**self.identity, "model_name": model.name, "model_version": model.version},
        )
        return Past(*found)

    def needs_child_process(self, cursor: Cursor, model: ModelVersion) -> bool:
        """Whether this run must score in a child process.

        True if the process died in a run of this scoring model and no full run has succeeded since. Also
        true while current has a row that killed a process: a row of this version, or a row of any version
        before the first run of this version.
        """
        [(has_died, has_used_child)] = cursor.rows(
            "select bool_or(status = 'interrupted') and coalesce(max(started_at) filter "
            "(where status = 'interrupted') >= max(started_at) filter "
            "(where status = 'success' and scope = 'full'), true), "
            f"bool_or(in_child_process) from {self.tables.runs.sql} "
            "where scoring_model = $scoring_model",
            self.identity,
        )
        if has_died:
            return True
        if not has_used_child or not cursor.has(self.tables.current):
            return False
        return bool(
            cursor.rows(
                "with versions as (select model_name = $model_name and model_version = $model_version "
                f"as is_own, bool_or(rejected_reasons[{REJECTED}] = 'model_crashed') as has_crashed "
                f"from {self.tables.current.sql} inner join {self.tables.runs.sql} using ({RUN}) "
                "group by is_own) select 1 from versions where has_crashed "
                "and (is_own or not exists (select 1 from versions where is_own)) limit 1",
                {"model_name": model.name, "model_version": model.version},
            )
        )

    def seal(self, cursor: Cursor) -> None:
        """Add an ended run to the chain, after the run that was added last."""
        runs = self.tables.runs.sql
        found = cursor.rows(
            f"select fingerprint from {runs} where scoring_model = $scoring_model "
            "and fingerprint is not null and fingerprint not in (select previous_fingerprint "
            f"from {runs} where scoring_model = $scoring_model and previous_fingerprint is not null) "
            f"order by {RUN} desc limit 1",
            self.identity,
        )
        rows = cursor.records(
            f"select {', '.join(map(quote, RUNS_TYPES))} from {runs} where {RUN} = $run_no",
            self.identity,
        )
        # `prove` reports a run row that somebody doubled, or whose number somebody removed
        for row in rows[:1]:
            previous = {"previous_fingerprint": found[0][0] if found else None}
            self._set(cursor, **previous, fingerprint=fingerprint_of(row | previous))


def open_run(
    cursor: Cursor, tables: ScoringTables, settings: RunSettings, *, run_id: str
) -> RunRecord:
    """Add a run row in the transaction of the cursor. The last step of that transaction must be a call of
    `advance_run_counter`.
    """
    [(last,)] = cursor.rows(f"select {tables.storage.last_number(cursor, tables.ledger)}")
    record = RunRecord(tables, last + 1)
    cursor.execute(
        f"insert into {tables.runs.sql} ({RUN}, run_id, scoring_model, status, clock, started_at, "
        "dbt_onnx_version, dbt_version, warehouse_version) select $run_no, $run_id, $scoring_model, "
        f"'running', {settings.clock_sql}, {NOW}, $dbt_onnx_version, $dbt_version, 'duckdb ' || version()",
        {
            **record.identity,
            "run_id": run_id,
            "dbt_onnx_version": __version__,
            "dbt_version": settings.dbt_version,
        },
    )
    return record


def advance_run_counter(cursor: Cursor, tables: ScoringTables, number: int) -> None:
    """See `Storage.advance_run_counter`: call it as the last step of a transaction."""
    tables.storage.advance_run_counter(cursor, tables.ledger, number)


def read_run_rows(cursor: Cursor, tables: ScoringTables) -> list[RunRow]:
    """Return the runs of a scoring model, newest first; empty before the first run."""
    if not cursor.has(tables.runs):
        return []
    tables.check_runs(cursor)
    rows = cursor.records(
        f"select {_columns_or_null(cursor, tables.runs, RUNS_TYPES)} from {tables.runs.sql} "
        f"where scoring_model = $scoring_model order by {RUN} desc",
        {"scoring_model": tables.ledger.identifier},
    )
    return [RunRow(values=row) for row in rows]


def recorded_sources(cursor: Cursor, ledger: TableName) -> Mapping[str, Any]:
    """Return the sources of a scoring model, see `Warehouse.recorded_sources`."""
    runs = ledger.beside(RUNS_TABLE)
    if not cursor.has(runs):
        return {}
    names = [
        "key_columns", "features_relation", "registry_relation",
        "model_name", "model_version", "model_alias",
    ]  # fmt: skip
    rows = cursor.records(
        f"select {_columns_or_null(cursor, runs, names)} from {runs.sql} "
        "where lower(scoring_model) = lower($scoring_model) and key_columns is not null "
        # prefer a full run: a backfill's features are gone, and its version may be another one
        "order by scope is not distinct from 'full' desc nulls last, started_at desc nulls last limit 1",
        {"scoring_model": ledger.identifier},
    )
    return rows[0] if rows else {}


def scored_clocks(
    cursor: Cursor, ledger: TableName, version: RegistryEntry | None
) -> set[datetime]:
    """Return the clocks of successful runs, see `Warehouse`."""
    runs = cursor.storage_of(ledger).runs_of(ledger)
    if not cursor.has(runs):
        return set()
    rows = cursor.rows(
        f"select distinct clock from {runs.sql} where scoring_model = $scoring_model "
        "and status = 'success' and scope in ('full', 'backfill') and ($model_name is null "
        "or (model_name = $model_name and model_version = $model_version))",
        {
            "scoring_model": ledger.identifier,
            "model_name": version.model_name if version else None,
            "model_version": version.model_version if version else None,
        },
    )
    return {clock for (clock,) in rows}


def _columns_or_null(cursor: Cursor, runs: TableName, names: Iterable[str]) -> str:
    """SQL of columns of the table of runs. A column is NULL if an older dbt_onnx created the table without
    it; the next run adds the column.
    """
    there = cursor.columns_of(runs.sql)
    return ", ".join(quote(n) if n in there else f"null as {quote(n)}" for n in names)


@contextmanager
def recorded_run(
    cursor: Cursor, tables: ScoringTables, settings: RunSettings
) -> Iterator[RunRecord]:
    """Open a run row, and close it as `error` if the run fails before it is committed.

    A row that an earlier process left as `running` is marked `interrupted`. A native DuckDB database has one
    writer, so that process is gone. In a DuckLake, that process may still work, but it can no longer commit.
    """
    identity = (settings.run_id, settings.identifier)
    with LOCK:
        record = with_retries(lambda: _begin(cursor, tables, settings))
        _ACTIVE.add(identity)
    try:
        yield record
    except BaseException as error:
        message = (
            str(error) if isinstance(error, DbtOnnxError) else f"{type(error).__name__}: {error}"
        )
        with LOCK:
            overtaken = with_retries(lambda: _fail(cursor, record, message))
        if overtaken is not None and isinstance(error, ConflictError):
            raise overtaken from error
        raise
    finally:
        _ACTIVE.discard(identity)


def _begin(cursor: Cursor, tables: ScoringTables, settings: RunSettings) -> RunRecord:
    is_left = "status = 'running' and scoring_model = $scoring_model and not list_contains($active, run_id)"
    parameters = {
        "scoring_model": settings.identifier,
        "error": INTERRUPTED,
        "active": [run_id for run_id, name in _ACTIVE if name == settings.identifier],
    }
    with cursor.transaction():
        tables.create_runs(cursor)
        left = cursor.rows(f"select {RUN} from {tables.runs.sql} where {is_left}", parameters)
        if left:
            cursor.execute(
                f"update {tables.runs.sql} set status = 'interrupted', error = $error where {is_left}",
                parameters,
            )
        for (run_no,) in left:
            RunRecord(tables, run_no).seal(cursor)
        record = open_run(cursor, tables, settings, run_id=settings.run_id)
        advance_run_counter(cursor, tables, record.run_no)
    return record


def _fail(cursor: Cursor, record: RunRecord, message: str) -> WarehouseError | None:
    """Close a run that failed. If the row is closed already, return the error for that instead."""
    with cursor.transaction():
        # an error after the commit undoes nothing: the rows are written, and the run row stays `success`
        if not record.is_running(cursor):
            return record.overtaken(cursor)
        record.close(cursor, status="error", error=message)
    return None
