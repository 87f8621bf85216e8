"""Each error on Spark has the message and the hint of docs/errors.md."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from dbt_common.exceptions import DbtRuntimeError
from error_document import ON_SPARK, faults_of_text
from test_nights import ROOT

from dbt.adapters.sparkonnx import SparkOnnxCredentials
from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.spark.ledger import LedgerShape
from dbt_onnx.engines.spark.session import Spark, open_session, spark_errors
from dbt_onnx.engines.spark.tables import ScoringTables
from dbt_onnx.engines.spark.warehouse import SparkWarehouse
from dbt_onnx.engines.spark.worker import Work
from dbt_onnx.errors import DbtOnnxError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LEDGER = TableName(database="", schema="lab", identifier="scores")
SCRATCH = TableName(database="", schema="lab__backfill_scores", identifier="features")
Provoke = Callable[[Any], object]
"""Takes the Spark session and raises the error."""


def connect_in_environment(_: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_REMOTE", "sc://elsewhere")
        open_session({})


def other_zone(spark: SparkSession) -> None:
    elsewhere = spark.newSession()
    elsewhere.conf.set("spark.sql.session.timeZone", "America/New_York")
    Spark(elsewhere)


def other_method(_: Any) -> None:
    with SparkWarehouse.opened(SimpleNamespace(method="thrift"), read_only=True):
        pass


def stopped(spark: SparkSession) -> None:
    with spark_errors():
        Spark(spark).rows("select cast('oops' as int)")


def too_many_rows(spark: SparkSession) -> None:
    Spark(spark).rows("select id from range(20000)")


def other_model_bytes(_: Any) -> None:
    entries = Registry.from_csv(ROOT / "seeds" / "model_registry.csv")
    artifact = load_artifact(ROOT / "artifacts", entries.resolve("churn/1"))
    broken = SimpleNamespace(value=artifact.scoring_bytes + b"\0")
    work = Work.of(artifact, lambda _: broken, batch_rows=None, threads=None)
    work._session(in_child_process=False)


def scratch_with(spark: SparkSession, *statements: str) -> None:
    spark.sql(f"drop schema if exists {SCRATCH.schema} cascade")
    spark.sql(f"create schema {SCRATCH.schema}")
    for statement in statements:
        spark.sql(statement)
    try:
        SparkWarehouse(spark).renew_scratch([SCRATCH])
    finally:
        assert spark.catalog.tableExists(f"{SCRATCH.schema}.own")
        spark.sql(f"drop schema {SCRATCH.schema} cascade")


OWN = f"create table {SCRATCH.schema}.own (a int) using iceberg"
MARK = f"create table {SCRATCH.schema}.dbt_onnx_backfill using iceberg as select 'features' as name"
CASES: dict[str, Provoke] = {
    "spark-connect": lambda _: open_session({"spark.remote": "sc://elsewhere"}),
    "spark-connect-in-the-environment": connect_in_environment,
    "spark-session-of-another-zone": other_zone,
    "spark-target-of-another-method": other_method,
    "spark-reserved-name": lambda _: LedgerShape(
        key={"is_current": "int"}, outputs={}
    ).check_names(),
    "spark-stopped": stopped,
    "spark-too-many-rows": too_many_rows,
    "spark-other-model-bytes": other_model_bytes,
    "spark-not-published": lambda spark: SparkWarehouse(spark).rows_to_publish(
        None, key=["id"], model=LEDGER
    ),
    "spark-not-erased": lambda spark: SparkWarehouse(spark).prune(
        LEDGER, before=datetime(1998, 1, 1), why="retention", dry_run=False
    ),
    "spark-not-explained": lambda spark: SparkWarehouse(spark).explain(
        LEDGER,
        registry=Registry(entries=(), where="the registry"),
        artifacts=Path("artifacts"),
        run_id="run-1",
    ),
    "spark-scratch-of-somebody-else": lambda spark: scratch_with(spark, OWN),
    "spark-scratch-with-something-else": lambda spark: scratch_with(spark, OWN, MARK),
}
STARTS = """
import sys
from dbt_onnx.engines.spark.session import open_session
from dbt_onnx.errors import DbtOnnxError
try:
    open_session({"spark.master": "local[1]"})
except DbtOnnxError as error:
    print(f"{error.kind} error: {error.message}", error.hint, sep=chr(10))
"""


def test_every_error_of_spark_has_a_case() -> None:
    assert {*CASES, "spark-does-not-start"} == ON_SPARK


@pytest.mark.parametrize("name", CASES)
def test_what_spark_refuses_gives_its_message(spark: SparkSession, name: str) -> None:
    with pytest.raises(DbtOnnxError) as raised:
        CASES[name](spark)
    error = raised.value
    assert faults_of_text(name, f"{error.kind} error: {error.message}", error.hint) == []


def test_spark_that_does_not_start_is_one_clear_message() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTS],
        env={**os.environ, "JAVA_HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    message, hint = done.stdout.splitlines()
    assert faults_of_text("spark-does-not-start", message, hint) == []


def test_a_profile_with_spark_connect_is_refused_before_dbt_runs_anything() -> None:
    elsewhere = {"spark.remote": "sc://elsewhere"}
    with pytest.raises(DbtRuntimeError, match="a Spark Connect server"):
        SparkOnnxCredentials(schema="lab", server_side_parameters=elsewhere)
    SparkOnnxCredentials(schema="lab", server_side_parameters={"spark.master": "local[2]"})


def test_a_profile_of_a_server_is_as_dbt_spark_reads_it() -> None:
    with pytest.raises(DbtRuntimeError, match="Must specify `host`"):
        SparkOnnxCredentials(schema="lab", method="odbc")


def test_a_session_of_spark_connect_is_refused() -> None:
    connect = type("SparkSession", (), {"__module__": "pyspark.sql.connect.session"})
    with pytest.raises(DbtOnnxError, match="the session is a Spark Connect session"):
        Spark(connect())


def test_rows_without_a_runs_table_are_not_taken_for_an_empty_ledger(spark: SparkSession) -> None:
    tables = ScoringTables(TableName(database="", schema="without_runs", identifier="scores"))
    warehouse = Spark(spark)
    warehouse.change("create schema without_runs")
    try:
        warehouse.change("create table without_runs.scores__rows using iceberg as select 1 as id")
        with pytest.raises(DbtOnnxError) as caught:
            tables.check_runs(warehouse)
    finally:
        warehouse.change("drop schema without_runs cascade")
    error = caught.value
    assert not faults_of_text("runs-gone", f"{error.kind} error: {error.message}", error.hint)
