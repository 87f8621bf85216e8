"""Build the dbt project every night with Prefect, and tell receivers what changed.

    prefect server start                              or Prefect Cloud
    DBT_PROJECT_DIR=/srv/shop python nightly.py       serves the schedule; keep it running, for example with systemd

Each dbt node is a task run. The message of the flow run's state has the run id of the ledger.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt_common.invocation import get_invocation_id
from prefect import flow
from prefect.schedules import Cron
from prefect.states import Completed, Failed
from prefect_dbt import PrefectDbtRunner, PrefectDbtSettings

if TYPE_CHECKING:
    from prefect.client.schemas import State

PROJECT = Path(os.environ.get("DBT_PROJECT_DIR", "/srv/shop"))
RECEIVERS = ("SLACK_URL", "TEAMS_URL", "WEBHOOK_URL", "SMTP_URL")


@flow
def nightly() -> State[Any]:
    """Run `dbt build` in this process, then `dbt-onnx alert`. No retries: a failed test would fail again."""
    settings = PrefectDbtSettings(project_dir=PROJECT, profiles_dir=PROJECT)
    try:
        built = PrefectDbtRunner(settings=settings, raise_on_failure=False).invoke(["build"])
    finally:
        # dbt-duckdb keeps the file open in this process, and then no other process can read it
        DuckDBConnectionManager.close_all_connections()
        if any(os.environ.get(f"DBT_ONNX_{name}") for name in RECEIVERS):
            subprocess.run(["dbt-onnx", "alert"], cwd=PROJECT, check=False)
    # dbt's invocation id is the run id in the ledger
    lines = [f"run {get_invocation_id()}"]
    lines += [str(r.message) for r in built.result.results if " scored " in str(r.message)]
    lines += [
        f"{r.status} {r.node.name}" for r in built.result.results if r.status in ("error", "fail")
    ]
    return (Completed if built.success else Failed)(message="\n".join(lines))


if __name__ == "__main__":
    # one night at a time, also if this file is served twice
    nightly.serve(
        "nightly",
        schedule=Cron("0 3 * * *", timezone="Europe/Berlin"),
        limit=1,
        global_limit=1,
    )
