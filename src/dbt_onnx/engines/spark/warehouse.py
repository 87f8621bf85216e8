"""The Spark warehouse for models and commands: implements `dbt_onnx.engines.base.Warehouse`, in the same order.

Modules that need pyspark are imported only when a method needs them.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from dbt_onnx.engines.spark.session import Spark, open_session, spark_errors
from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa
    from pyspark.sql import SparkSession

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import Registry, RegistryEntry
    from dbt_onnx.engines.base import CurrentFeatures, RowsToPublish, Sources, TableName
    from dbt_onnx.runs.answered import AnswerLogs
    from dbt_onnx.runs.history import Erasure, Explained, LedgerRow, RunRow
    from dbt_onnx.runs.replay import Finding, Replay
    from dbt_onnx.runs.request import RunSettings, ScoringRequest, TableArguments
    from dbt_onnx.runs.run import RunSummary

_METHOD = "session"
# dbt runs a model, and then asks for its outcome, in the same thread
_OUTCOME = threading.local()


def take_outcome() -> dict[str, Any] | None:
    """Take the outcome of the scoring model that this thread has just run. None for other Python models."""
    left, _OUTCOME.text = getattr(_OUTCOME, "text", None), None
    return None if left is None else dict(json.loads(left))


class SparkWarehouse:
    """A catalog of Iceberg tables on a Spark session."""

    def __init__(self, session: SparkSession) -> None:
        self._session = session

    def has_one_writer(self, ledger: TableName) -> bool:  # noqa: ARG002
        return False

    @cached_property
    def _spark(self) -> Spark:
        return Spark(self._session)

    @staticmethod
    @contextmanager
    def opened(credentials: Any, /, *, read_only: bool) -> Iterator[SparkSession]:  # noqa: ARG004
        """Open the session of this process. It stays open until the process ends, since starting one takes long."""
        if credentials.method != _METHOD:
            raise ConfigError(
                f"the target's method is {credentials.method}; dbt_onnx supports Spark only with method: {_METHOD}",
                hint="choose another target with --target",
            )
        yield open_session(credentials.server_side_parameters)

    @staticmethod
    def how_to_reopen(credentials: Any, /) -> None:  # noqa: ARG004
        """Return None: Spark takes longer to start than dbt, so caching how to open it would save little."""
        return

    @staticmethod
    def reopened(how: Mapping[str, Any], /) -> NoReturn:
        raise NotImplementedError

    @staticmethod
    def rendering(credentials: Any, /) -> AbstractContextManager[dict[str, str]]:  # noqa: ARG004
        return nullcontext({})

    @staticmethod
    def has_same_answers(connection: Any, answers: Mapping[str, str], /) -> bool:  # noqa: ARG004
        return False

    @staticmethod
    def close_idle_connections() -> None:
        """Do nothing: an open Spark session locks nobody out."""

    @staticmethod
    def opening_errors() -> AbstractContextManager[None]:
        return spark_errors()

    def score(
        self,
        request: ScoringRequest,
        settings: RunSettings,
        *,
        artifacts: Path,
        log: Callable[[str], None],
        logs: AnswerLogs | None = None,  # noqa: ARG002
    ) -> RunSummary:
        from dbt_onnx.engines.spark.engine import score_on_spark

        return score_on_spark(
            request, settings, session=self._session, artifacts=artifacts, log=log
        )

    def rows_to_publish(
        self,
        relation: Any,  # noqa: ARG002
        *,
        key: Sequence[str],  # noqa: ARG002
        model: TableName,  # noqa: ARG002
    ) -> AbstractContextManager[RowsToPublish]:
        raise _refused(
            "publishing from Spark is not supported: all rows would have to pass through the driver",
            hint="write the current view to files, and publish them from a target on DuckDB",
        )

    @spark_errors()
    def registry_of(self, relation: Any) -> Registry:
        from dbt_onnx.artifacts.registry import Registry
        from dbt_onnx.engines.spark.features import RELATION_ATTRIBUTE, relation_name

        rows = self._spark.records(f"select * from {getattr(relation, RELATION_ATTRIBUTE)}")
        return Registry.from_rows(rows, where=relation_name(relation))

    @spark_errors()
    def feature_types(self, ledger: TableName, names: Sequence[str]) -> dict[str, pa.DataType]:
        from dbt_onnx.engines.spark.sources import feature_types

        return feature_types(self._spark, ledger, names)

    def leave_outcome(self, outcome: str) -> None:
        _OUTCOME.text = outcome

    @spark_errors()
    def examine(
        self, ledger: TableName, arguments: TableArguments, artifact: Artifact
    ) -> CurrentFeatures:
        from dbt_onnx.engines.spark.current_features import CurrentFeatures, open_features
        from dbt_onnx.engines.spark.engine import check_fit
        from dbt_onnx.engines.spark.sql import not_null
        from dbt_onnx.engines.spark.tables import ScoringTables

        tables = ScoringTables(ledger)
        tables.check_runs(self._spark)
        features = open_features(self._spark, arguments.features)
        check_fit(self._spark, arguments, artifact, features, tables)
        return CurrentFeatures.checked(
            self._spark,
            features,
            source=features.sql,
            key=arguments.key,
            as_of=arguments.as_of,
            not_null=not_null,
        )

    @spark_errors()
    def recorded_sources(self, ledger: TableName) -> Mapping[str, Any]:
        from dbt_onnx.engines.spark.runs import recorded_sources

        return recorded_sources(self._spark, ledger)

    @spark_errors()
    def sources(self, ledger: TableName) -> Sources | None:
        from dbt_onnx.engines.spark.sources import read_sources

        return read_sources(self._spark, ledger)

    @spark_errors()
    def check_features(self, sources: Sources) -> None:
        from dbt_onnx.engines.spark.sources import check_features

        check_features(self._spark, sources)

    @spark_errors()
    def registry(self, sources: Sources) -> Registry:
        from dbt_onnx.engines.spark.sources import read_registry

        return read_registry(self._spark, sources)

    @spark_errors()
    def registry_among(self, relations: Collection[TableName]) -> Registry:
        from dbt_onnx.engines.spark.sources import registry_among

        return registry_among(self._spark, relations)

    @spark_errors()
    def answer(self, query: str) -> dict[str, Any]:
        [figures] = self.answers(query)
        return figures

    @spark_errors()
    def answers(self, query: str) -> list[dict[str, Any]]:
        from dbt_onnx.engines.spark.sources import read_answers

        return read_answers(self._spark, query)

    @spark_errors()
    def runs(self, ledger: TableName, *, limit: int | None = None) -> list[RunRow]:
        from dbt_onnx.engines.spark.runs import read_run_rows
        from dbt_onnx.engines.spark.tables import ScoringTables

        return read_run_rows(self._spark, ScoringTables(ledger))[:limit]

    @spark_errors()
    def history(self, ledger: TableName, key: Sequence[str]) -> list[LedgerRow]:
        from dbt_onnx.engines.spark.history import read_history

        return read_history(self._spark, ledger, key)

    def publications(self, ledger: TableName) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return an empty list: nothing is published from Spark."""
        return []

    @spark_errors()
    def replay(
        self,
        ledger: TableName,
        run_id: str,
        *,
        registry: Registry,
        artifacts: Path,
        sample: int | None = None,
    ) -> Replay:
        from dbt_onnx.engines.spark.replaying import replay_run

        return replay_run(
            self._spark, ledger, run_id, registry=registry, artifacts=artifacts, sample=sample
        )

    def explain(
        self,
        ledger: TableName,  # noqa: ARG002
        *,
        registry: Registry,  # noqa: ARG002
        artifacts: Path,  # noqa: ARG002
        key: Sequence[str] | None = None,  # noqa: ARG002
        run_id: str | None = None,  # noqa: ARG002
        sample: int | None = None,  # noqa: ARG002
    ) -> Explained:
        raise _refused(
            "explanations are not supported on Spark: shap runs in one process, and all rows would have to pass "
            "through the driver",
            hint="score the same features with a target on DuckDB, and explain its predictions there",
        )

    @spark_errors()
    def prove(self, ledger: TableName, *, with_values: bool) -> list[Finding]:
        from dbt_onnx.engines.spark.proof import prove

        return prove(self._spark, ledger, with_values=with_values)

    def forget(self, ledger: TableName, key: Sequence[str], *, why: str, dry_run: bool) -> Erasure:  # noqa: ARG002
        raise _not_erased()

    def prune(self, ledger: TableName, *, before: datetime, why: str, dry_run: bool) -> Erasure:  # noqa: ARG002
        raise _not_erased()

    @spark_errors()
    def scored_clocks(self, ledger: TableName, version: RegistryEntry | None) -> set[datetime]:
        from dbt_onnx.engines.spark.runs import scored_clocks

        return scored_clocks(self._spark, ledger, version)

    @spark_errors()
    def count_rows(self, relation: TableName) -> int:
        from dbt_onnx.engines.spark.sql import named

        [(count,)] = self._spark.rows(f"select count(*) from {named(relation)}")
        return int(count)

    @spark_errors()
    def renew_scratch(self, relations: Iterable[TableName]) -> None:
        from dbt_onnx.engines.spark.scratch import renew_scratch

        renew_scratch(self._spark, relations)

    @spark_errors()
    def drop_scratch(self, relations: Iterable[TableName]) -> None:
        from dbt_onnx.engines.spark.scratch import drop_scratch

        drop_scratch(self._spark, relations)


def _refused(what: str, *, hint: str) -> ConfigError:
    return ConfigError(what, hint=hint)


def _not_erased() -> ConfigError:
    return _refused(
        "forget and prune are not supported on Spark: deleted rows stay in old snapshots, and no transaction "
        "covers both the deletion and its record",
        hint="delete the rows from `<scoring model>__rows`, and run Iceberg's expire_snapshots to remove their "
        "files; a replay then reports how many rows are missing",
    )
