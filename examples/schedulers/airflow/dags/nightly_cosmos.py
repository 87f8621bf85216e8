"""Build the dbt project every night with one dbt process, and show each model as an Airflow task.

cosmos in its mode "watcher": the task `dbt_producer_watcher` runs `dbt build` with all tests; the tasks of the models
follow what it reports. It is red if a test fails, and so are the models that dbt skips then. Its XComs `run_id`,
`scored` and `failed` have the run id of the ledger, what was scored, and the names of what failed.

The tasks come from target/manifest.json: run `dbt parse` after each deployment of the project.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task, teardown
from airflow.sdk.exceptions import AirflowSkipException
from cosmos import DbtTaskGroup, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import ExecutionMode, InvocationMode, LoadMode, TestBehavior

PROJECT = Path(os.environ.get("DBT_PROJECT_DIR", "/srv/shop"))
PROFILE = ("dbt_onnx_demo", "dev")
# dbt and dbt-onnx are in the project's own environment, because their dependencies are not Airflow's
BIN = PROJECT / ".venv" / "bin"
TESTS = ["--resource-type", "test", "--resource-type", "unit_test"]
RECEIVERS = ("SLACK_URL", "TEAMS_URL", "WEBHOOK_URL", "SMTP_URL")


def show_run(folder: str, context: Any) -> None:
    """Keep the results as XComs. cosmos calls this after `dbt build`, also a failed one, with the folder it ran in."""
    results = Path(folder) / "target" / "run_results.json"
    if results.exists():
        run = json.loads(results.read_text(encoding="utf-8"))
        failed = [r["unique_id"] for r in run["results"] if r["status"] in ("error", "fail")]
        messages = [r["message"] for r in run["results"] if " scored " in str(r["message"])]
        # dbt's invocation id is the run id in the ledger
        context["ti"].xcom_push("run_id", run["metadata"]["invocation_id"])
        context["ti"].xcom_push("scored", messages)
        context["ti"].xcom_push("failed", failed)


# one night at a time: a DuckDB file has one writer. Missed months are for `dbt-onnx backfill`, not for catchup
@dag(schedule="0 3 * * *", catchup=False, max_active_runs=1)
def nightly_cosmos() -> None:
    """One night. The teardown runs after a failed build too, and never decides the state of the night."""
    build = DbtTaskGroup(
        group_id="build",
        project_config=ProjectConfig(PROJECT, manifest_path=PROJECT / "target" / "manifest.json"),
        profile_config=ProfileConfig(*PROFILE, profiles_yml_filepath=PROJECT / "profiles.yml"),
        # cosmos shows a test of two models twice, also below the one that is built long before the other: everything
        # after that would wait and be red. So tests have no tasks of their own; TESTS keeps them in `dbt build`
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST, test_behavior=TestBehavior.NONE, emit_datasets=False
        ),
        execution_config=ExecutionConfig(
            execution_mode=ExecutionMode.WATCHER,
            invocation_mode=InvocationMode.SUBPROCESS,
            # a following task whose build has died, or that is tried again, would start dbt for its own model:
            # a second process at the same file, with a run id of its own. `false` stands in the place of dbt there
            dbt_executable_path="false",
            setup_operator_args={
                "dbt_executable_path": str(BIN / "dbt"),
                "dbt_cmd_flags": TESTS,
                "callback": show_run,
                "execution_timeout": timedelta(hours=4),
            },
        ),
        default_args={"retries": 0},
    )
    build >> alert()


@teardown
@task
def alert() -> None:
    """Run `dbt-onnx alert` if a receiver is set in the environment."""
    if not any(os.environ.get(f"DBT_ONNX_{name}") for name in RECEIVERS):
        raise AirflowSkipException("no receiver of alerts is set")
    subprocess.run([BIN / "dbt-onnx", "alert"], cwd=PROJECT, check=True)


nightly_cosmos()
