"""Build the dbt project every night in one task, and tell receivers what changed.

The XComs of `build` have the run id of the ledger, what was scored, and the names of what failed.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task, teardown
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

PROJECT = Path(os.environ.get("DBT_PROJECT_DIR", "/srv/shop"))
# dbt and dbt-onnx are in the project's own environment, because their dependencies are not Airflow's
BIN = PROJECT / ".venv" / "bin"
RECEIVERS = ("SLACK_URL", "TEAMS_URL", "WEBHOOK_URL", "SMTP_URL")


# one night at a time: a DuckDB file has one writer. Missed months are for `dbt-onnx backfill`, not for catchup
@dag(schedule="0 3 * * *", catchup=False, max_active_runs=1)
def nightly() -> None:
    """One night. The teardown runs after a failed build too, and never decides the state of the night."""
    build() >> alert()


@task(execution_timeout=timedelta(hours=4), retries=1, retry_delay=timedelta(minutes=5))
def build(ti: Any = None) -> None:
    """Run `dbt build`. What a retry cannot mend, a failed node or test, is not tried again."""
    results = PROJECT / "target" / "run_results.json"
    results.unlink(missing_ok=True)
    dbt = [BIN / "dbt", "--no-use-colors", "build"]
    code = subprocess.run(dbt, cwd=PROJECT, check=False).returncode
    if not results.exists():
        raise RuntimeError(
            f"dbt ended with exit code {code} before it built anything; see the log above"
        )
    run = json.loads(results.read_text(encoding="utf-8"))
    failed = [r["unique_id"] for r in run["results"] if r["status"] in ("error", "fail")]
    messages = [r["message"] for r in run["results"] if " scored " in str(r["message"])]
    # dbt's invocation id is the run id in the ledger
    ti.xcom_push("run_id", run["metadata"]["invocation_id"])
    ti.xcom_push("scored", messages)
    ti.xcom_push("failed", failed)
    if code:
        raise AirflowFailException(f"dbt ended with exit code {code}; failed: {', '.join(failed)}")


@teardown
@task
def alert() -> None:
    """Run `dbt-onnx alert` if a receiver is set in the environment."""
    if not any(os.environ.get(f"DBT_ONNX_{name}") for name in RECEIVERS):
        raise AirflowSkipException("no receiver of alerts is set")
    subprocess.run([BIN / "dbt-onnx", "alert"], cwd=PROJECT, check=True)


nightly()
