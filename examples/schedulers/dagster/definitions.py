"""Build the dbt project every night with Dagster, and tell receivers what changed.

    export DBT_PROJECT_DIR=/srv/shop
    dagster dev -f definitions.py               to try it
    dbt parse                                   in production with each deployment: Dagster reads target/manifest.json
    dagster-webserver -f definitions.py         and, beside it,
    dagster-daemon run -f definitions.py        which starts the runs

Each dbt model is an asset, each dbt test a check of it. The metadata `invocation_id` of a materialized ledger is the
run id in it.
"""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster_dbt import DbtCliResource, DbtProject, dbt_assets

PROJECT = DbtProject(os.environ.get("DBT_PROJECT_DIR", "/srv/shop"))
PROJECT.prepare_if_dev()
RECEIVERS = ("SLACK_URL", "TEAMS_URL", "WEBHOOK_URL", "SMTP_URL")


# one step builds everything, in one dbt process: the whole night has one run id. The pool, with the limit of
# dagster.yaml, lets one run at a time build
@dbt_assets(manifest=PROJECT.manifest_path, project=PROJECT, pool="warehouse")
def shop(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
    """Run `dbt build`, then `dbt-onnx alert`."""
    build = dbt.cli(["build"], context=context)
    try:
        yield from build.stream()
    finally:
        if any(os.environ.get(f"DBT_ONNX_{name}") for name in RECEIVERS):
            subprocess.run(["dbt-onnx", "alert"], cwd=PROJECT.project_dir, check=False)


nightly = dg.define_asset_job("nightly", selection=[shop])

defs = dg.Definitions(
    assets=[shop],
    jobs=[nightly],
    schedules=[
        dg.ScheduleDefinition(
            job=nightly,
            cron_schedule="0 3 * * *",
            execution_timezone="Europe/Berlin",
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )
    ],
    resources={"dbt": DbtCliResource(project_dir=PROJECT)},
)
