"""The run row on Spark. A run adds its row when it starts; when the row becomes `success`, the run's rows count.

Several drivers may run at the same time. When a run begins, it notes the number of the newest successful run. It can
succeed only if that run is still the newest when it ends. One statement on one table decides this.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.spark.ledger import RUNS_TYPES, LedgerTables, committed
from dbt_onnx.engines.spark.session import exceptions
from dbt_onnx.engines.spark.sql import literal, named, quote
from dbt_onnx.errors import DbtOnnxError, WarehouseError
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.chain import fingerprint_of
from dbt_onnx.runs.history import RunRow
from dbt_onnx.runs.plan import Past
from dbt_onnx.runs.tables import RUN
from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dbt_onnx.artifacts.registry import ModelVersion, RegistryEntry
    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.spark.session import Spark
    from dbt_onnx.engines.spark.tables import ScoringTables
    from dbt_onnx.runs.request import RunSettings

_ATTEMPTS = 20
_MOST_RUNS = 1_000_000
OVERTAKEN = "another run of the scoring model succeeded before this run finished"


@dataclass(frozen=True)
class RunRecord:
    """One row of `dbt_onnx_runs`, identified by its run number."""

    spark: Spark
    tables: ScoringTables
    run_no: int
    base_run_no: int

    def update(self, **values: Any) -> None:
        """Set columns of the row."""
        self._set(values, where="run_no = :run_no")

    def succeed(self, **values: Any) -> None:
        """Close the row as `success`. Raises WarehouseError if another run has succeeded in the meantime.

        Other runs of the scoring model that are still `running` can no longer succeed, because they began before
        this success. The same statement closes them as `interrupted`. If two drivers do this at the same time,
        Iceberg lets only one of them change the rows.
        """
        newest = f"(select coalesce(max(run_no), 0) from {committed(self.tables)} as others)"
        self._set(
            self._closed({**values, "status": "success"}),
            where=f"scoring_model = :scoring_model and status = 'running' and {newest} = :base_run_no",
            of_others={"status": "'interrupted'", "error": literal(OVERTAKEN)},
            scoring_model=self.tables.ledger.identifier,
            base_run_no=self.base_run_no,
        )
        if self.status() != "success":
            raise self._overtaken()

    def _set(
        self,
        values: Mapping[str, Any],
        *,
        where: str,
        of_others: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """Set columns of this row, and the SQL values `of_others` in all other rows that match `where`."""
        names = dict.fromkeys([*values, *(of_others or {})])
        assignments = ", ".join(
            f"{quote(n)} = case when run_no = :run_no "
            f"then {_value(n, values[n]) if n in values else quote(n)} "
            f"else {(of_others or {}).get(n, quote(n))} end"
            for n in names
        )
        bound = {name: _bound(value) for name, value in values.items() if value is not None}
        self.spark.change(
            f"update {named(self.tables.runs)} set {assignments} where {where}",
            {**bound, "run_no": self.run_no, **more},
        )

    def fail(self, message: str) -> None:
        """Close the row as `error` if it is still `running`: a failure after a success does not undo the success.
        Raises WarehouseError if another run has closed the row, since that is the cause of whatever failed here.
        """
        self._set(
            self._closed({"status": "error", "error": message}),
            where="run_no = :run_no and status = 'running'",
        )
        if self.status() == "interrupted":
            raise self._overtaken()

    def seal(self) -> None:
        """Add the row to the chain of runs, after another run has closed it."""
        self._set(self._closed({}), where="run_no = :run_no and fingerprint is null")

    def status(self) -> str | None:
        found = self.spark.rows(
            f"select status from {named(self.tables.runs)} where run_no = {self.run_no:d}"
        )
        return found[0][0] if found else None

    def _overtaken(self) -> WarehouseError:
        found = self.spark.rows(
            f"select run_no, run_id, driver, ended_at from {committed(self.tables)} as runs "
            f"where run_no > {self.base_run_no:d} order by run_no desc limit 1"
        )
        winner = f"another run of {self.tables.ledger}"
        if found:
            [(run_no, run_id, driver, ended_at)] = found
            winner = f"run {run_no} ({run_id}) of {self.tables.ledger} (driver {driver}, ended at {ended_at} UTC)"
        return WarehouseError(
            f"{winner} succeeded while this run was in progress, so the rows of this run are discarded",
            hint="run again; let only one scheduler run a scoring model at a time",
        )

    def _closed(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values, plus the end time and the fingerprints that link the row into the chain of runs."""
        ended = {**values, "ended_at": datetime.now(UTC).replace(tzinfo=None)}
        runs = named(self.tables.runs)
        [row] = self.spark.records(f"select * from {runs} where run_no = {self.run_no:d}")
        last = self.spark.rows(
            f"select fingerprint from {runs} where scoring_model = :scoring_model and fingerprint is not null "
            f"and run_no <> {self.run_no:d} order by ended_at desc, run_no desc limit 1",
            {"scoring_model": self.tables.ledger.identifier},
        )
        ended["previous_fingerprint"] = last[0][0] if last else None
        return {**ended, "fingerprint": fingerprint_of({**row, **ended})}

    def past(self, model: ModelVersion) -> Past:
        """Return the `Past` of a run of this model version, from the successful runs of the scoring model."""
        [found] = self.spark.rows(
            f"""
            select
                not coalesce(bool_or(
                    rows_scored + rows_rejected > 0 and scope <> '{REAL_TIME}'
                    and (model_name <> :model_name or model_version <> :model_version)
                ), false),
                max(as_of) filter (
                    where scope = 'full' and model_name = :model_name and model_version = :model_version
                ),
                max(clock) filter (where scope = 'full'),
                max(scored_at) filter (where scope <> 'empty'),
                max_by(features_hash_function, scored_at) filter (where scope = 'full')
            from {committed(self.tables)} as runs""",
            {"model_name": model.name, "model_version": model.version},
        )
        return Past(*found)


def open_run(spark: Spark, tables: ScoringTables, settings: RunSettings) -> RunRecord:
    """Add a run row. If two drivers want the same number, one of them takes the next number."""
    runs = named(tables.runs)
    [(clock,)] = spark.rows(f"select cast(({settings.clock_sql}) as timestamp_ntz)")
    for _ in range(_ATTEMPTS):
        [(last, base)] = spark.rows(
            f"select coalesce(max(run_no), 0), "
            f"coalesce(max(case when scoring_model = :scoring_model and status = 'success' then run_no end), 0) "
            f"from {runs}",
            {"scoring_model": tables.ledger.identifier},
        )
        record = RunRecord(spark, tables, last + 1, base)
        values = {
            RUN: record.run_no,
            "run_id": settings.run_id,
            "scoring_model": tables.ledger.identifier,
            "status": "running",
            "base_run_no": base,
            "clock": clock,
            "driver": f"{socket.gethostname()}, process {os.getpid()}",
            "started_at": datetime.now(UTC).replace(tzinfo=None),
            "dbt_onnx_version": __version__,
            "dbt_version": settings.dbt_version,
            "warehouse_version": f"spark {spark.raw.version}",
        }
        given = ", ".join(f"{_value(name, v)} as {quote(name)}" for name, v in values.items())
        columns = ", ".join(map(quote, values))
        listed = ", ".join(f"given.{quote(name)}" for name in values)
        spark.change(
            f"merge into {runs} as runs using (select {given}) as given on runs.run_no = given.run_no "
            # this clause changes nothing, but without it Spark makes the statement an append, which conflicts with
            # no other append, and two drivers could get the same number
            "when matched then update set run_no = runs.run_no "
            f"when not matched then insert ({columns}) values ({listed})",
            {name: _bound(value) for name, value in values.items()},
        )
        # one process may have several runs: dbt runs models in parallel threads
        own = ("scoring_model", "run_id", "driver")
        found = spark.rows(f"select {', '.join(own)} from {runs} where run_no = {record.run_no:d}")
        if found == [tuple(values[name] for name in own)]:
            return record
    raise WarehouseError(
        f"could not allocate a run number in {tables.runs}: too many runs are starting at the same time",
        hint="run again",
    )


@contextmanager
def recorded_run(spark: Spark, tables: ScoringTables, settings: RunSettings) -> Iterator[RunRecord]:
    """Open a run row, and close it as `error` if the run fails before it has succeeded."""
    tables.create_runs(spark)
    for run_no in _unsealed_run_numbers(spark, tables):
        RunRecord(spark, tables, run_no, 0).seal()
    record = open_run(spark, tables, settings)
    try:
        yield record
    except BaseException as error:
        message = (
            str(error) if isinstance(error, DbtOnnxError) else f"{type(error).__name__}: {error}"
        )
        # if the session is gone, the row cannot be closed here: a later run closes it
        with suppress(*exceptions()):
            record.fail(message)
        raise


def read_run_rows(spark: Spark, tables: ScoringTables) -> list[RunRow]:
    """Return the runs of a scoring model, newest first. Empty before the first run."""
    if not spark.has(tables.runs):
        return []
    tables.check_runs(spark)
    rows = spark.records(
        f"select * from {named(tables.runs)} where scoring_model = :scoring_model order by {RUN} desc",
        {"scoring_model": tables.ledger.identifier},
        most=_MOST_RUNS,
    )
    return [RunRow(values=row) for row in rows]


def recorded_sources(spark: Spark, ledger: TableName) -> Mapping[str, Any]:
    """Return the sources of a scoring model, see `Warehouse.recorded_sources`."""
    runs = LedgerTables(ledger).runs
    if not spark.has(runs):
        return {}
    rows = spark.records(
        "select key_columns, features_relation, registry_relation, model_name, model_version, model_alias "
        f"from {named(runs)} where lower(scoring_model) = lower(:scoring_model) and key_columns is not null "
        # prefer a full run: the features of a backfill are gone, and a backfill may be by another version
        "order by scope <=> 'full' desc, started_at desc nulls last limit 1",
        {"scoring_model": ledger.identifier},
    )
    return rows[0] if rows else {}


def scored_clocks(spark: Spark, ledger: TableName, version: RegistryEntry | None) -> set[datetime]:
    """Return the clocks of the runs that scored, see `Warehouse`."""
    tables = LedgerTables(ledger)
    if not spark.has(tables.runs):
        return set()
    by_version = (
        "model_name = :model_name and model_version = :model_version" if version else "true"
    )
    values = (
        {"model_name": version.model_name, "model_version": version.model_version}
        if version
        else {}
    )
    rows = spark.records(
        f"select distinct clock from {committed(tables)} as runs "
        f"where scope in ('full', 'backfill') and {by_version}",
        values,
        most=_MOST_RUNS,
    )
    return {row["clock"] for row in rows}


def _unsealed_run_numbers(spark: Spark, tables: ScoringTables) -> list[int]:
    """Return the numbers of runs that another run has closed and that are not in the chain yet."""
    found = spark.rows(
        f"select run_no from {named(tables.runs)} where scoring_model = :scoring_model "
        "and status = 'interrupted' and fingerprint is null order by run_no",
        {"scoring_model": tables.ledger.identifier},
    )
    return [run_no for (run_no,) in found]


def _value(name: str, value: Any) -> str:
    kind = RUNS_TYPES[name]
    if value is None:
        return f"cast(null as {kind})"
    return (
        f"from_json(:{name}, '{kind}')" if kind.startswith("array") else f"cast(:{name} as {kind})"
    )


def _bound(value: Any) -> Any:
    """Return the value that Spark binds: a list as JSON, and a timestamp as text, since Spark would add a time zone."""
    if isinstance(value, list):
        return json.dumps(value)
    return value.isoformat(sep=" ") if isinstance(value, datetime) else value
