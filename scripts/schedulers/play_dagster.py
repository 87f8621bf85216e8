"""Run one night in Dagster: web server and daemon, and a run of the job that the daemon takes from the queue."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster
from dagster import AssetCheckEvaluation, DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster_graphql import DagsterGraphQLClient
from processes import eventually, free_port, running

recipe, port = Path(sys.argv[1]), free_port()
shutil.copy(recipe / "dagster.yaml", os.environ["DAGSTER_HOME"])
definitions = ("-f", str(recipe / "definitions.py"))
bin_folder = Path(sys.executable).parent
FINAL = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}

# creates Dagster's SQLite databases, which fails if several processes do it at once
instance = DagsterInstance.get()
# what a deployment does
subprocess.run(
    [bin_folder / "dbt", "parse", "--quiet"], cwd=os.environ["DBT_PROJECT_DIR"], check=True
)
with (
    running(f"{bin_folder}/dagster-daemon", "run", *definitions),
    running(f"{bin_folder}/dagster-webserver", *definitions, "-h", "127.0.0.1", "-p", str(port)),
):
    client = DagsterGraphQLClient("127.0.0.1", port_number=port)
    run_id = eventually(lambda: client.submit_job_execution("nightly"), seconds=120)

    def final_status() -> DagsterRunStatus | None:
        status = client.get_run_status(run_id)
        return status if status in FINAL else None

    status = eventually(final_status)

run_ids, failed, assets = set(), [], 0
for entry in instance.all_logs(run_id):
    event = entry.dagster_event
    if event is None:
        continue
    if event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
        assets += 1
        run_ids.add(event.step_materialization_data.materialization.metadata["invocation_id"].value)
    elif event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
        check = event.event_specific_data
        if isinstance(check, AssetCheckEvaluation) and not check.passed:
            failed.append(check.check_name)
answer = {
    "state": "success" if status == DagsterRunStatus.SUCCESS else "failed",
    "run_ids": sorted(run_ids),
    "failed": failed,
    "version": dagster.__version__,
    "tasks": assets,
}
print(json.dumps(answer))
