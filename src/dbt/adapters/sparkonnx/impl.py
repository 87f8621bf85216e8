"""The adapter. dbt derives the package name `sparkonnx` from the class name `SparkOnnxAdapter`: both must match."""

from __future__ import annotations

import base64
import hashlib
import json
import linecache
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt.adapters.base import PythonJobHelper, available
from dbt.adapters.contracts.connection import AdapterResponse
from dbt.adapters.spark import SparkAdapter, SparkConnectionManager, SparkCredentials
from dbt.adapters.spark.connections import SparkConnectionMethod
from dbt_common.exceptions import DbtRuntimeError

from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.spark.dialect import duckdb_type, in_spark_sql
from dbt_onnx.engines.spark.session import open_session, refuse_connect, with_iceberg
from dbt_onnx.engines.spark.sql import named
from dbt_onnx.engines.spark.warehouse import SparkWarehouse, take_outcome
from dbt_onnx.errors import DbtOnnxError
from dbt_onnx.project.replay_check import replay_sample

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class SparkOnnxCredentials(SparkCredentials):
    """The credentials of dbt-spark, without Spark Connect. A profile needs neither `method: session`, nor a host, nor
    the parameters that `with_iceberg` adds.
    """

    def __post_init__(self) -> None:
        self.method = self.method or SparkConnectionMethod.SESSION
        is_session = self.method == SparkConnectionMethod.SESSION
        if is_session:
            self.host = self.host or "none"
        super().__post_init__()
        if is_session:
            self.server_side_parameters = with_iceberg(self.server_side_parameters)
        try:
            refuse_connect(self.server_side_parameters)
        except DbtOnnxError as error:
            # dbt adds the profile and target to the message
            raise DbtRuntimeError(f"{error.kind} error: {error}") from error

    @property
    def type(self) -> str:
        return "sparkonnx"


class SparkOnnxConnectionManager(SparkConnectionManager):
    """The connection manager of dbt-spark, under the type of this adapter."""

    TYPE = "sparkonnx"


class SessionPythonJobHelper(PythonJobHelper):
    """Runs a Python model in dbt's process, on the session that its SQL models use."""

    def __init__(self, parsed_model: dict[str, Any], credentials: SparkCredentials) -> None:
        self._model = parsed_model
        self._parameters: Mapping[str, Any] = credentials.server_side_parameters

    def submit(self, compiled_code: str) -> dict[str, Any]:
        name = f"<{self._model['unique_id']}>"
        # for tracebacks that show the lines of the model
        lines = compiled_code.splitlines(keepends=True)
        linecache.cache[name] = (len(compiled_code), None, lines, name)
        namespace = {"spark": open_session(self._parameters), "__name__": "dbt_python_model"}
        exec(compile(compiled_code, name, "exec"), namespace)  # noqa: S102, it is the user's own model
        outcome = take_outcome()
        if outcome is not None and not outcome["ok"]:
            raise DbtRuntimeError(outcome["message"])
        return outcome or {}


class SparkOnnxAdapter(SparkAdapter):
    """The adapter of dbt-spark plus the submission method `session`."""

    ConnectionManager = SparkOnnxConnectionManager

    @property
    def default_python_submission_method(self) -> str:
        if self.config.credentials.method == "session":
            return "session"
        return super().default_python_submission_method

    @property
    def python_submission_helpers(self) -> dict[str, type[PythonJobHelper]]:
        return {"session": SessionPythonJobHelper, **super().python_submission_helpers}

    @available
    def in_spark_sql(self, sql: str) -> str:
        """Translate a query of the package's macros from DuckDB's SQL to Spark's."""
        return in_spark_sql(sql)

    @available
    def columns_of(self, relation: Any) -> list[dict[str, str]] | None:
        """Return `[{'name', 'type'}]` with DuckDB's types, or None if the relation does not exist. Does not use dbt's
        cache, which lacks the tables that a scoring model has just created.
        """
        session = open_session(self.config.credentials.server_side_parameters)
        table = named(
            TableName(database="", schema=relation.schema, identifier=relation.identifier)
        )
        if not session.catalog.tableExists(table):
            return None
        return [
            {"name": field.name, "type": duckdb_type(field.dataType.simpleString())}
            for field in session.table(table).schema
        ]

    @available
    def replay_sample(self, request: dict[str, Any]) -> str:
        """Return the findings of `predictions_replay` as JSON in base64, which needs no escaping in a SQL literal."""
        session = open_session(self.config.credentials.server_side_parameters)
        found = replay_sample(
            SparkWarehouse(session), request, artifacts=Path(self.config.project_root, "artifacts")
        )
        return base64.b64encode(json.dumps(found).encode()).decode()

    @available
    def sha256_of_file(self, path: str) -> str | None:
        """Return the sha256 of a file of the project, or None if the file does not exist."""
        file = Path(self.config.project_root, path)
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None

    def generate_python_submission_response(self, submission_result: Any) -> AdapterResponse:
        if not isinstance(submission_result, dict) or "message" not in submission_result:
            return super().generate_python_submission_response(submission_result)
        return AdapterResponse(
            _message=submission_result["message"],
            rows_affected=submission_result["rows_written"],
        )
