"""The work of the generic test `predictions_replay`: check that the ledger is as the runs left it."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.engines.base import TableName
from dbt_onnx.errors import DbtOnnxError
from dbt_onnx.runs.replay import Finding, replayable_runs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dbt_onnx.engines.base import Warehouse


def replay_sample(
    warehouse: Warehouse, request: Mapping[str, Any], *, artifacts: Path
) -> list[dict[str, str | None]]:
    """Replay a sample of the newest run, and of other runs that are chosen at random each time.

    Before the replays, the tables are compared with the records of the runs. `request` has `database`,
    `schema` and `identifier` of the ledger, the rows of the `registry`, the number of `runs` to replay,
    and the number of rows in the `sample` of each run. Returns the findings, each with the `run_id` of
    the replayed run; it is None for findings from before the first replay.
    """
    name = TableName(**{part: request[part] for part in ("database", "schema", "identifier")})
    findings: list[dict[str, str | None]] = []
    run_id: str | None = None

    def report(*found: Finding) -> None:
        findings.extend({"run_id": run_id, **asdict(finding)} for finding in found)

    try:
        registry = Registry.from_rows(request["registry"] or [], where="the registry")
        report(*warehouse.prove(name, with_values=False))
        runs = warehouse.runs(name)
        kept = replayable_runs(runs)
        if not kept and any(run.rows_scored for run in runs):
            report(Finding(problem="inputs", expected="kept", actual="no run has kept its inputs"))
        others = random.sample(kept[1:], min(request["runs"] - 1, len(kept[1:])))
        for run_id in [*kept[:1], *others]:
            replay = warehouse.replay(
                name, run_id, registry=registry, artifacts=artifacts, sample=request["sample"]
            )
            report(*replay.findings)
    except DbtOnnxError as error:
        report(Finding(problem=f"{error.kind} error", actual=str(error)))
    return findings
