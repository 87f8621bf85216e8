"""DuckDB as a warehouse: implements `dbt_onnx.engines.base.Warehouse`, in the same order.

Modules that need pyarrow are imported inside methods, so that `status` and `runs` start quickly.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.duckdb import health, history, opening, runs, scratch
from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors, opening_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    import duckdb
    import pyarrow as pa

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import Registry, RegistryEntry
    from dbt_onnx.engines.base import CurrentFeatures, RowsToPublish, Sources, TableName
    from dbt_onnx.runs.answered import AnswerLogs
    from dbt_onnx.runs.history import Erasure, Explained, LedgerRow, RunRow
    from dbt_onnx.runs.replay import Finding, Replay
    from dbt_onnx.runs.request import RunSettings, ScoringRequest, TableArguments
    from dbt_onnx.runs.run import RunSummary


class DuckDBWarehouse:
    """A DuckDB database on a connection of DuckDB's Python client."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._cursor = Cursor(connection)

    def has_one_writer(self, ledger: TableName) -> bool:
        return self._cursor.storage_of(ledger).has_one_writer

    @staticmethod
    def opened(credentials: Any, /, *, read_only: bool) -> AbstractContextManager[Any]:
        return opening.opened(credentials, read_only=read_only)

    @staticmethod
    def how_to_reopen(credentials: Any, /) -> dict[str, Any] | None:
        return opening.how_to_reopen(credentials)

    @staticmethod
    def reopened(how: Mapping[str, Any], /) -> AbstractContextManager[Any]:
        return opening.reopened(how)

    @staticmethod
    def rendering(credentials: Any, /) -> AbstractContextManager[dict[str, str]]:
        return opening.rendering(credentials)

    @staticmethod
    def has_same_answers(connection: Any, answers: Mapping[str, str], /) -> bool:
        return opening.has_same_answers(connection, answers)

    @staticmethod
    def close_idle_connections() -> None:
        opening.close_idle_connections()

    @staticmethod
    def opening_errors() -> AbstractContextManager[None]:
        return opening_errors()

    def score(
        self,
        request: ScoringRequest,
        settings: RunSettings,
        *,
        artifacts: Path,
        log: Callable[[str], None],
        logs: AnswerLogs | None = None,
    ) -> RunSummary:
        from dbt_onnx.engines.duckdb.engine import score_on_duckdb
        from dbt_onnx.engines.duckdb.features import refuse_expressions

        refuse_expressions(
            features=request.features.sql_query(), registry=request.registry.sql_query()
        )
        return score_on_duckdb(
            request,
            settings,
            connection=self._connection,
            artifacts=artifacts,
            log=log,
            logs=logs,
        )

    @contextmanager
    def rows_to_publish(
        self, relation: Any, *, key: Sequence[str], model: TableName
    ) -> Iterator[RowsToPublish]:
        from dbt_onnx.engines.duckdb.publishing import RowsToPublish

        with Cursor(self._connection.cursor()) as cursor, duckdb_errors():
            yield RowsToPublish(cursor, relation, key=key, model=model)

    @duckdb_errors()
    def registry_of(self, relation: Any) -> Registry:
        from dbt_onnx.artifacts.registry import Registry
        from dbt_onnx.engines.duckdb.features import relation_name

        rows = self._cursor.records(relation.sql_query())
        return Registry.from_rows(rows, where=relation_name(relation))

    @duckdb_errors()
    def feature_types(self, ledger: TableName, names: Sequence[str]) -> dict[str, pa.DataType]:
        return health.feature_types(self._cursor, ledger, names)

    def leave_outcome(self, outcome: str) -> None:
        self._cursor.execute("set variable dbt_onnx_outcome = $outcome", {"outcome": outcome})

    @duckdb_errors()
    def examine(
        self, ledger: TableName, arguments: TableArguments, artifact: Artifact
    ) -> CurrentFeatures:
        from dbt_onnx.engines.duckdb.current_features import CurrentFeatures, open_features
        from dbt_onnx.engines.duckdb.engine import check_fit
        from dbt_onnx.engines.duckdb.identifiers import not_null
        from dbt_onnx.engines.duckdb.tables import ScoringTables

        tables = ScoringTables(ledger, self._cursor.storage_of(ledger))
        tables.check_runs(self._cursor)
        tables.check_names(self._cursor)
        features = open_features(self._cursor, arguments.features)
        check_fit(self._cursor, arguments, artifact, features, tables)
        return CurrentFeatures.checked(
            self._cursor,
            features,
            source=f"({features.sql})",
            key=arguments.key,
            as_of=arguments.as_of,
            not_null=not_null,
        )

    @duckdb_errors()
    def recorded_sources(self, ledger: TableName) -> Mapping[str, Any]:
        return runs.recorded_sources(self._cursor, ledger)

    @duckdb_errors()
    def sources(self, ledger: TableName) -> Sources | None:
        return health.read_sources(self._cursor, ledger)

    @duckdb_errors()
    def check_features(self, sources: Sources) -> None:
        health.check_features(self._cursor, sources)

    @duckdb_errors()
    def registry(self, sources: Sources) -> Registry:
        return health.read_registry(self._cursor, sources)

    @duckdb_errors()
    def registry_among(self, relations: Collection[TableName]) -> Registry:
        return health.registry_among(self._cursor, relations)

    def answer(self, query: str) -> dict[str, Any]:
        [figures] = self.answers(query)
        return figures

    def answers(self, query: str) -> list[dict[str, Any]]:
        return health.read_answers(self._cursor, query)

    def runs(self, ledger: TableName, *, limit: int | None = None) -> list[RunRow]:
        return history.read_runs(self._connection, ledger, limit=limit)

    def history(self, ledger: TableName, key: Sequence[str]) -> list[LedgerRow]:
        return history.read_history(self._connection, ledger, key)

    @duckdb_errors()
    def publications(self, ledger: TableName) -> list[dict[str, Any]]:
        from dbt_onnx.engines.duckdb.publishing import read_publications

        return read_publications(self._cursor, ledger)

    def replay(
        self,
        ledger: TableName,
        run_id: str,
        *,
        registry: Registry,
        artifacts: Path,
        sample: int | None = None,
    ) -> Replay:
        from dbt_onnx.engines.duckdb.replaying import replay_run

        return replay_run(
            self._connection, ledger, run_id, registry=registry, artifacts=artifacts, sample=sample
        )

    def explain(
        self,
        ledger: TableName,
        *,
        registry: Registry,
        artifacts: Path,
        key: Sequence[str] | None = None,
        run_id: str | None = None,
        sample: int | None = None,
    ) -> Explained:
        from dbt_onnx.engines.duckdb.explaining import explain

        return explain(
            self._connection,
            ledger,
            registry=registry,
            artifacts=artifacts,
            key=key,
            run_id=run_id,
            sample=sample,
        )

    def prove(self, ledger: TableName, *, with_values: bool) -> list[Finding]:
        from dbt_onnx.engines.duckdb.proof import prove

        return prove(self._connection, ledger, with_values=with_values)

    def forget(self, ledger: TableName, key: Sequence[str], *, why: str, dry_run: bool) -> Erasure:
        from dbt_onnx.engines.duckdb.erasing import forget

        return forget(self._connection, ledger, key, why=why, dry_run=dry_run)

    def prune(self, ledger: TableName, *, before: datetime, why: str, dry_run: bool) -> Erasure:
        from dbt_onnx.engines.duckdb.erasing import prune

        return prune(self._connection, ledger, before=before, why=why, dry_run=dry_run)

    @duckdb_errors()
    def scored_clocks(self, ledger: TableName, version: RegistryEntry | None) -> set[datetime]:
        return runs.scored_clocks(self._cursor, ledger, version)

    @duckdb_errors()
    def count_rows(self, relation: TableName) -> int:
        [(count,)] = self._cursor.rows(f"select count(*) from {relation.sql}")
        return int(count)

    @duckdb_errors()
    def renew_scratch(self, relations: Iterable[TableName]) -> None:
        scratch.renew_scratch(self._cursor, relations)

    @duckdb_errors()
    def drop_scratch(self, relations: Iterable[TableName]) -> None:
        scratch.drop_scratch(self._cursor, relations)
