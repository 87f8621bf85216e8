"""A night in a real Airflow, started and read through its REST API.

`airflow standalone` is scheduler, DAG processor, triggerer and API server, with SQLite below AIRFLOW_HOME.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from processes import eventually, free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class DagRun:
    """A DAG run that is over."""

    api: httpx.Client
    address: str
    state: str

    def tasks(self) -> dict[str, str]:
        """Return the state of each task, for example {"build": "failed"}."""
        instances = got(self.api, f"{self.address}/taskInstances", limit=1000)["task_instances"]
        return {instance["task_id"]: instance["state"] for instance in instances}

    def xcom(self, task: str, key: str) -> Any:
        """Return an XCom, or None if the task has not pushed it."""
        answer = self.api.get(f"{self.address}/taskInstances/{task}/xcomEntries/{key}")
        return None if answer.status_code == httpx.codes.NOT_FOUND else answer.json()["value"]


def play(recipe: Path, dag: str, *, builder: str) -> None:
    """Run one night of the DAG, and print what Airflow knows. `builder` is the task that runs `dbt build`."""
    with night_in_airflow(recipe, dag) as run:
        run_id = run.xcom(builder, "run_id")
        answer = {
            "state": run.state,
            "run_ids": [run_id] if run_id else [],
            "failed": run.xcom(builder, "failed") or [],
            "scored": run.xcom(builder, "scored"),
            "version": got(run.api, "/version")["version"],
            "tasks": run.tasks(),
        }
    print(json.dumps(answer))


@contextmanager
def night_in_airflow(recipe: Path, dag: str) -> Iterator[DagRun]:
    """Start Airflow with the DAG of this name, trigger it, and wait for the end of the DAG run."""
    home, project = Path(os.environ["AIRFLOW_HOME"]), Path(os.environ["DBT_PROJECT_DIR"])
    (home / "dags").mkdir(parents=True, exist_ok=True)
    shutil.copy(recipe / "dags" / f"{dag}.py", home / "dags")
    # the project is a copy without an environment
    if not (project / ".venv").exists():
        (project / ".venv").symlink_to(Path(str(shutil.which("dbt"))).parents[1])
    port = free_port()
    settings = {
        "CORE__LOAD_EXAMPLES": "false",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "false",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "true",
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__WORKERS": "1",
        "CORE__PARALLELISM": "4",
        # a task that waits five seconds for the API server, the default, fails on a busy machine
        "WORKERS__EXECUTION_API_TIMEOUT": "120",
        "API__MAXIMUM_PAGE_LIMIT": "1000",
        "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
    }
    variables = {f"AIRFLOW__{name}": value for name, value in settings.items()}
    with (
        running(sys.executable, "-m", "airflow", "standalone", **variables),
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v2", timeout=60) as api,
    ):
        token = eventually(lambda: got(api, f"http://127.0.0.1:{port}/auth/token")["access_token"])
        api.headers["Authorization"] = f"Bearer {token}"
        runs = f"/dags/{dag}/dagRuns"
        started = eventually(lambda: api.post(runs, json={"logical_date": None}).raise_for_status())
        address = f"{runs}/{started.json()['dag_run_id']}"

        def final_state() -> str | None:
            state = got(api, address)["state"]
            return state if state in ("success", "failed") else None

        yield DagRun(api, address, eventually(final_state))


def got(api: httpx.Client, address: str, **parameters: int) -> Any:
    return api.get(address, params=parameters).raise_for_status().json()
