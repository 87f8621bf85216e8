"""Run one night in Airflow, with the DAG in which cosmos shows each model and its tests as tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from airflow_night import night_in_airflow

PRODUCER = "build.dbt_producer_watcher"

project = os.environ["DBT_PROJECT_DIR"]
subprocess.run(["dbt", "parse"], cwd=project, stdout=sys.stderr, check=True)
with night_in_airflow(Path(sys.argv[1]), "nightly_cosmos") as run:
    tasks = run.tasks()
    answer = {
        "state": run.state,
        "run_ids": [run.xcom(PRODUCER, "run_id")],
        "failed": run.xcom(PRODUCER, "failed"),
        "scored": run.xcom(PRODUCER, "scored"),
        "version": run.version,
        "tasks": tasks,
    }
print(json.dumps(answer))
