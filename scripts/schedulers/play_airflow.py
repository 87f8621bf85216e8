"""Run one night in Airflow, with the DAG that builds in one task."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow_night import night_in_airflow

with night_in_airflow(Path(sys.argv[1]), "nightly") as run:
    answer = {
        "state": run.state,
        "run_ids": [run.xcom("build", "run_id")],
        "failed": run.xcom("build", "failed"),
        "scored": run.xcom("build", "scored"),
        "version": run.version,
        "tasks": run.tasks(),
    }
print(json.dumps(answer))
