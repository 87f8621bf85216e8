"""The Spark session that dbt_onnx works in, and the translation of Spark's errors to DbtOnnxErrors."""

from __future__ import annotations

import json
import os
import random
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.spark.sql import named
from dbt_onnx.errors import ConfigError, WarehouseError, error_of, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pyspark.sql import DataFrame, Row, SparkSession

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.errors import DbtOnnxError

# fixed, so that settings in the profile change neither results nor how Spark reads a statement
_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "false",
    "spark.sql.storeAssignmentPolicy": "ANSI",
    "spark.sql.parser.escapedStringLiterals": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    # a night joins few rows with all of current: avoid shuffles and sorts where possible
    "spark.sql.autoBroadcastJoinThreshold": "64m",
    "spark.sql.adaptive.maxShuffledHashJoinLocalMapThreshold": "64m",
    "spark.sql.optimizer.canChangeCachedPlanOutputPartitioning": "true",
}
# defaults for settings that the profile does not have
_ANY_CATALOG = {
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    "spark.sql.session.timeZone": "UTC",
    # otherwise warnings and progress bars bury what dbt prints
    "spark.log.level": "ERROR",
    "spark.ui.showConsoleProgress": "false",
}
_HIVE = {
    "spark.sql.catalogImplementation": "hive",
    "spark.sql.catalog.spark_catalog": "org.apache.iceberg.spark.SparkSessionCatalog",
    "spark.sql.catalog.spark_catalog.type": "hive",
}
_MOST_ROWS = 10_000
_ATTEMPTS = 10
_NO_CONNECT = (
    "it cannot broadcast the model to executors, and does not allow a session with its own settings"
)
_WITHOUT_CONNECT = "use method: session with spark.master, and unset spark.remote and SPARK_REMOTE; dbt then runs in the driver"
# another driver committed to the table while Iceberg planned or wrote, or created the same table or view
_CONFLICTS = (
    "ValidationException", "CommitFailedException", "the table has been concurrently modified", "AlreadyExists",
    "ALREADY_EXISTS",
)  # fmt: skip
_UTC = {"utc", "etc/utc", "gmt", "etc/gmt", "z", "zulu", "+00:00"}
ERROR_PREFIX = "dbt_onnx_error:"
"""The prefix of a DbtOnnxError, as JSON, in the error message of an executor."""


def exceptions() -> tuple[type[Exception], ...]:
    """Return the exceptions that pyspark raises if Spark, or the connection to it, fails."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    return PySparkException, Py4JError


def open_session(parameters: Mapping[str, Any]) -> SparkSession:
    """Open the session that dbt-spark uses, with the parameters of its profile. Raises ConfigError like
    `refuse_connect`, and WarehouseError if Spark does not start.
    """
    from pyspark.sql import SparkSession

    refuse_connect(parameters)
    builder = SparkSession.builder.enableHiveSupport()
    for name, value in parameters.items():
        builder = builder.config(name, value)
    try:
        return builder.getOrCreate()
    except exceptions() as error:
        raise WarehouseError(
            f"Spark does not start: {message_of(error)}",
            hint="run `dbt debug` for details",
        ) from error


def with_iceberg(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a profile plus defaults: Iceberg's extensions, the time zone UTC, a log of errors only,
    a catalog in a Hive metastore if the profile names no catalog, and no table cache in any catalog.
    """
    catalogs = {name for name in parameters if re.fullmatch(r"spark\.sql\.catalog\.[^.]+", name)}
    defaults = _ANY_CATALOG if catalogs else _ANY_CATALOG | _HIVE
    kept = {
        f"{name}.cache-enabled": "false" for name in catalogs or {"spark.sql.catalog.spark_catalog"}
    }
    return {**defaults, **kept, **parameters}


def refuse_connect(parameters: Mapping[str, Any]) -> None:
    """Raise ConfigError if a profile, or the environment, names a Spark Connect server."""
    for place, server in (
        ("server_side_parameters", parameters.get("spark.remote")),
        ("SPARK_REMOTE", os.environ.get("SPARK_REMOTE")),
    ):
        if server:
            raise ConfigError(
                f"{place} names {server}, a Spark Connect server: {_NO_CONNECT}",
                hint=_WITHOUT_CONNECT,
            )


class Spark:
    """A session that shares only the tables with dbt's session: no settings, and no temporary views."""

    def __init__(self, session: SparkSession) -> None:
        """Raises ConfigError for Spark Connect, and if the session's time zone is not UTC."""
        if not hasattr(session, "sparkContext") or "connect" in type(session).__module__:
            raise ConfigError(
                f"the session is a Spark Connect session: {_NO_CONNECT}", hint=_WITHOUT_CONNECT
            )
        zone = session.conf.get("spark.sql.session.timeZone")
        if str(zone).casefold() not in _UTC:
            raise ConfigError(
                f"the time zone of the session is {zone}; views in a Hive metastore do not support TIMESTAMP_NTZ, so "
                "UTC timestamps would be read as timestamps of that zone",
                hint="set spark.sql.session.timeZone: UTC under server_side_parameters in profiles.yml",
            )
        self.raw = session.newSession()
        # Iceberg caches tables per session, and would not see what other sessions commit
        catalog = session.catalog.currentCatalog()
        own = {f"spark.sql.catalog.{catalog}.cache-enabled": "false"}
        for name, value in (_SETTINGS | own).items():
            self.raw.conf.set(name, value)
        self._held: list[DataFrame] = []

    def hold(self, frame: DataFrame) -> DataFrame:
        """Keep the rows of a frame on the executors until `release`. If the frame reads a table, Spark computes it
        anew after each commit to that table.
        """
        self._held.append(frame.persist())
        return frame

    def release(self) -> None:
        while self._held:
            self._held.pop().unpersist()

    def frame(self, sql: str, values: Mapping[str, Any] | None = None) -> DataFrame:
        """Return the data frame of a statement. Of `values`, those that the statement names are bound."""
        used = {n: v for n, v in (values or {}).items() if re.search(rf":{n}\b", sql)}
        return self.raw.sql(sql, args=used)

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that has few. Features and predictions are never read this way."""
        return [tuple(row) for row in self._collect_at_most(sql, values, most=_MOST_ROWS)]

    def records(
        self, sql: str, values: Mapping[str, Any] | None = None, *, most: int = _MOST_ROWS
    ) -> list[dict[str, Any]]:
        """Return the rows of a statement as {column name: value}. Raises WarehouseError for more than `most` rows."""
        return [row.asDict(recursive=True) for row in self._collect_at_most(sql, values, most=most)]

    def _collect_at_most(
        self, sql: str, values: Mapping[str, Any] | None, *, most: int
    ) -> list[Row]:
        frame = self.frame(sql, values).limit(most + 1)
        moments = [f.name for f in frame.schema if f.dataType.typeName() == "timestamp"]
        if moments:
            # pyspark would convert them to the time zone of the machine
            cast = {name: frame[name].cast("timestamp_ntz") for name in moments}
            frame = frame.withColumns(cast)
        found: list[Row] = frame.collect()
        if len(found) > most:
            raise WarehouseError(
                f"this query returns more than {most:,} rows to the Spark driver: "
                f"{' '.join(sql.split()):.200}",
                hint="if it reads the registry, remove rows from the registry",
            )
        return found

    def change(self, sql: str, values: Mapping[str, Any] | None = None) -> None:
        """Run a statement that changes a table. Retried if another driver changed the table at the same time."""
        self.with_retries(lambda: self.frame(sql, values))

    def with_retries(self, change: Callable[[], object]) -> None:
        """Make a change, and retry it, up to 10 attempts in all, if another driver made a conflicting change."""
        for attempt in range(_ATTEMPTS):
            try:
                change()
            except Exception as error:
                if attempt + 1 == _ATTEMPTS or not any(name in str(error) for name in _CONFLICTS):
                    raise
                time.sleep(random.uniform(0.1, 0.5) * 2 ** min(attempt, 4))  # noqa: S311
            else:
                return

    def has(self, table: TableName) -> bool:
        return bool(self.raw.catalog.tableExists(named(table)))

    def columns_of(self, relation: str) -> dict[str, str]:
        """Return {column name: SQL type} for a table name or a query in parentheses."""
        return dict(self.frame(f"select * from {relation} limit 0").dtypes)


@contextmanager
def spark_errors() -> Iterator[None]:
    """Raise Spark's errors as a WarehouseError, and a DbtOnnxError that an executor raised as the original error."""
    try:
        yield
    except exceptions() as error:
        if (original := _error_from_executor(str(error))) is not None:
            raise original from error
        raise WarehouseError(
            f"Spark stopped the run: {message_of(error)}",
            hint="if the message names a value or a column, fix the upstream model; otherwise check the session's "
            "catalog, executors and memory",
        ) from error


def message_of(error: Exception) -> str:
    """Return Spark's message in one line, without the JVM stack trace, and cut to 500 characters."""
    return shortened(" ".join(str(error).partition("JVM stacktrace")[0].split()), 500)


def _error_from_executor(message: str) -> DbtOnnxError | None:
    """Return the DbtOnnxError that an executor raised, if the message contains one."""
    start = message.find(ERROR_PREFIX)
    if start < 0:
        return None
    document, _ = json.JSONDecoder().raw_decode(message, start + len(ERROR_PREFIX))
    return error_of(document)
