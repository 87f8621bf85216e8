"""A Spark session of our own, and Spark's errors as ours."""

from __future__ import annotations

import json
import os
import random
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dbt_onnx import errors
from dbt_onnx.engines.spark.sql import named
from dbt_onnx.errors import ConfigError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pyspark.sql import DataFrame, Row, SparkSession

    from dbt_onnx.engines.base import TableName

# other settings of the profile change neither what is computed nor how a statement is read
_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "false",
    "spark.sql.storeAssignmentPolicy": "ANSI",
    "spark.sql.parser.escapedStringLiterals": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    # few rows of a night against all of current: a join that shuffles only if it must, and sorts only if it must
    "spark.sql.autoBroadcastJoinThreshold": "64m",
    "spark.sql.adaptive.maxShuffledHashJoinLocalMapThreshold": "64m",
    "spark.sql.optimizer.canChangeCachedPlanOutputPartitioning": "true",
}
# of a profile that does not say otherwise
_ANY_CATALOG = {
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    "spark.sql.session.timeZone": "UTC",
    # else its warnings and bars bury what dbt prints
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
_NO_CONNECT = "through it no model can be broadcast to executors, and no session be had with settings of its own"
_CLASSIC = "run dbt where the driver is: method session with spark.master, without spark.remote and SPARK_REMOTE"
# somebody else has committed to the table meanwhile, while Iceberg planned or afterwards, or made what was to be made
_CONFLICTS = (
    "ValidationException", "CommitFailedException", "the table has been concurrently modified", "AlreadyExists",
    "ALREADY_EXISTS",
)  # fmt: skip
_UTC = {"utc", "etc/utc", "gmt", "etc/gmt", "z", "zulu", "+00:00"}
TOLD = "dbt_onnx_error:"
"""Before an error of ours, as JSON, in what an executor says."""


def exceptions() -> tuple[type[Exception], ...]:
    """What pyspark raises when Spark, or the connection to it, fails."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    return PySparkException, Py4JError


def open_session(parameters: Mapping[str, Any]) -> SparkSession:
    """The session that dbt-spark uses, with the parameters of its profile. Raises ConfigError as
    `refuse_connect`, WarehouseError when Spark does not start.
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
            f"Spark does not start: {said_by(error)}",
            hint="`dbt debug` tries the same and says more",
        ) from error


def with_iceberg(parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a profile, and what it need not say: Iceberg's extensions, the zone UTC, silence but for
    errors, a catalog in a Hive metastore where none is named, and that no catalog keeps what it knows of a table.
    """
    catalogs = {name for name in parameters if re.fullmatch(r"spark\.sql\.catalog\.[^.]+", name)}
    defaults = _ANY_CATALOG if catalogs else _ANY_CATALOG | _HIVE
    kept = {
        f"{name}.cache-enabled": "false" for name in catalogs or {"spark.sql.catalog.spark_catalog"}
    }
    return {**defaults, **kept, **parameters}


def refuse_connect(parameters: Mapping[str, Any]) -> None:
    """Raise ConfigError when a profile, or the environment, names a server of Spark Connect."""
    for place, server in (
        ("server_side_parameters", parameters.get("spark.remote")),
        ("SPARK_REMOTE", os.environ.get("SPARK_REMOTE")),
    ):
        if server:
            raise ConfigError(
                f"{place} names {server}, a server of Spark Connect: {_NO_CONNECT}", hint=_CLASSIC
            )


class Spark:
    """A session that shares the tables of dbt's and nothing else: no setting, and no temporary view."""

    def __init__(self, session: SparkSession) -> None:
        """Raises ConfigError for Spark Connect, and when the session's zone is not UTC."""
        if not hasattr(session, "sparkContext") or "connect" in type(session).__module__:
            raise ConfigError(f"the session is one of Spark Connect: {_NO_CONNECT}", hint=_CLASSIC)
        zone = session.conf.get("spark.sql.session.timeZone")
        if str(zone).casefold() not in _UTC:
            raise ConfigError(
                f"the time zone of the session is {zone}; a view in a Hive metastore has no TIMESTAMP_NTZ, and "
                "would give moments, which are in UTC, as moments of that zone",
                hint="set spark.sql.session.timeZone: UTC under server_side_parameters in profiles.yml",
            )
        self.raw = session.newSession()
        # Iceberg keeps what it knows of a table for each session, and would not see what others commit
        catalog = session.catalog.currentCatalog()
        own = {f"spark.sql.catalog.{catalog}.cache-enabled": "false"}
        for name, value in (_SETTINGS | own).items():
            self.raw.conf.set(name, value)
        self._held: list[DataFrame] = []

    def hold(self, frame: DataFrame) -> DataFrame:
        """Keep the rows of a frame on the executors until `release`; a frame that reads a table is computed anew
        after each commit to that table.
        """
        self._held.append(frame.persist())
        return frame

    def release(self) -> None:
        while self._held:
            self._held.pop().unpersist()

    def frame(self, sql: str, values: Mapping[str, Any] | None = None) -> DataFrame:
        """What a statement gives. It gets the named values that it mentions, bound."""
        used = {n: v for n, v in (values or {}).items() if re.search(rf":{n}\b", sql)}
        return self.raw.sql(sql, args=used)

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a statement that gives few. Rows of features or predictions never come this way."""
        return [tuple(row) for row in self._few(sql, values, most=_MOST_ROWS)]

    def records(
        self, sql: str, values: Mapping[str, Any] | None = None, *, most: int = _MOST_ROWS
    ) -> list[dict[str, Any]]:
        """The same rows, by column name."""
        return [row.asDict(recursive=True) for row in self._few(sql, values, most=most)]

    def _few(self, sql: str, values: Mapping[str, Any] | None, *, most: int) -> list[Row]:
        frame = self.frame(sql, values).limit(most + 1)
        moments = [f.name for f in frame.schema if f.dataType.typeName() == "timestamp"]
        if moments:
            # pyspark would give them in the time zone of the machine
            cast = {name: frame[name].cast("timestamp_ntz") for name in moments}
            frame = frame.withColumns(cast)
        found: list[Row] = frame.collect()
        if len(found) > most:
            raise WarehouseError(
                f"more than {most:,} rows would come to the driver of Spark, from: "
                f"{' '.join(sql.split()):.200}",
                hint="if that is the registry, make it smaller",
            )
        return found

    def change(self, sql: str, values: Mapping[str, Any] | None = None) -> None:
        """Change a table. Where somebody else has changed it meanwhile, it is tried again."""
        self.again(lambda: self.frame(sql, values))

    def again(self, change: Callable[[], object]) -> None:
        """Make a change, and make it again where somebody else has changed the same meanwhile."""
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
        """SQL types by column name of a table name or a query in parentheses."""
        return dict(self.frame(f"select * from {relation} limit 0").dtypes)


@contextmanager
def spark_errors() -> Iterator[None]:
    """Turn Spark's errors into a WarehouseError, and what an executor has raised of ours into that."""
    try:
        yield
    except exceptions() as error:
        if (told := _told(str(error))) is not None:
            raise told from error
        raise WarehouseError(
            f"Spark stopped the run: {said_by(error)}",
            hint="if it speaks of a value or a column, mend the model upstream that gives it; else look at "
            "the session: its catalog, executors and memory",
        ) from error


def said_by(error: Exception) -> str:
    """What Spark says, in one line and without the trace of its own."""
    line = " ".join(str(error).partition("JVM stacktrace")[0].split())
    return line if len(line) <= 500 else line[:497] + "..."


def _told(said: str) -> errors.DbtOnnxError | None:
    """The error of ours that an executor has raised."""
    start = said.find(TOLD)
    if start < 0:
        return None
    document, _ = json.JSONDecoder().raw_decode(said, start + len(TOLD))
    kind: Callable[..., errors.DbtOnnxError] = getattr(errors, document["error"])
    return kind(**document["arguments"])
