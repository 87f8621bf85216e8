"""Run one night in Airflow, with the DAG in which cosmos shows each model as a task."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from airflow_night import play

# what a deployment does: cosmos makes the tasks from the manifest
subprocess.run(["dbt", "parse"], cwd=os.environ["DBT_PROJECT_DIR"], stdout=sys.stderr, check=True)
play(Path(sys.argv[1]), "nightly_cosmos", builder="build.dbt_producer_watcher")
