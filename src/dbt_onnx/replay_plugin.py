"""A plugin of dbt-duckdb: the SQL function that the generic test `predictions_replay` calls.

SQL alone cannot run a model. In profiles.yml, under the target:

    plugins:
      - module: dbt_onnx.replay_plugin
"""

from __future__ import annotations

import json
import random
import weakref
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dbt.adapters.duckdb.plugins import BasePlugin

from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.history import read_runs
from dbt_onnx.engines.duckdb.proof import prove
from dbt_onnx.engines.duckdb.replaying import replay_run
from dbt_onnx.errors import DbtOnnxError
from dbt_onnx.project.dbt_model import project_folder
from dbt_onnx.runs.replay import Finding, replayable_runs

if TYPE_CHECKING:
    import duckdb

FUNCTION = "dbt_onnx_replay"


class Plugin(BasePlugin):
    """Registers `dbt_onnx_replay(VARCHAR) -> VARCHAR`; dbt-duckdb looks for this name."""

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Register the function, once for the database."""
        # a weak reference: the connection owns the function, and a circle would keep both alive
        reference = weakref.ref(conn)

        def dbt_onnx_replay(request: str) -> str:
            connection = reference()
            assert connection is not None
            return json.dumps(replay_sample(connection, json.loads(request)))

        # declared with side effects, so that DuckDB calls it each time
        conn.create_function(FUNCTION, dbt_onnx_replay, side_effects=True)


def replay_sample(
    connection: duckdb.DuckDBPyConnection, request: dict[str, Any]
) -> list[dict[str, str | None]]:
    """Replay a sample of the newest run, and of other runs, chosen anew each time.

    `request` has `database`, `schema` and `identifier` of the ledger, the rows of the `registry`, and
    the numbers of `runs` and of rows in a `sample`. Returns the findings, with their `run_id`.
    """
    name = TableName(**{part: request[part] for part in ("database", "schema", "identifier")})
    findings: list[dict[str, str | None]] = []
    run_id: str | None = None

    def report(*found: Finding) -> None:
        findings.extend({"run_id": run_id, **asdict(finding)} for finding in found)

    try:
        registry = Registry.from_rows(request["registry"] or [], where="the registry")
        report(*prove(connection, name, with_values=False))
        runs = read_runs(connection, name)
        kept = replayable_runs(runs)
        if not kept and any(run.rows_scored for run in runs):
            report(Finding(problem="inputs", expected="kept", actual="no run has kept its inputs"))
        others = random.sample(kept[1:], min(request["runs"] - 1, len(kept[1:])))
        for run_id in [*kept[:1], *others]:
            replay = replay_run(
                connection,
                name,
                run_id,
                registry=registry,
                artifacts=project_folder() / "artifacts",
                sample=request["sample"],
            )
            report(*replay.findings)
    except DbtOnnxError as error:
        report(Finding(problem=f"{error.kind} error", actual=str(error)))
    return findings
