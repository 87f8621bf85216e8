"""Run one night in Prefect: a server, the served deployment of the recipe, and a run that the server schedules."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from processes import eventually, free_port, running

port = free_port()
os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
os.environ["PREFECT_SERVER_UI_ENABLED"] = "false"

import prefect  # noqa: E402, it reads the environment
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.filters import FlowRunFilter  # noqa: E402

server = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
recipe = str(Path(sys.argv[1]) / "nightly.py")
with running(sys.executable, *server), get_client(sync_client=True) as client:
    eventually(lambda: client.api_healthcheck() is None, seconds=120)
    with running(sys.executable, recipe):
        deployment = eventually(lambda: client.read_deployment_by_name("nightly/nightly"))
        run_id = client.create_flow_run_from_deployment(deployment.id).id

        def final_state() -> Any:
            state = client.read_flow_run(run_id).state
            return state if state is not None and state.is_final() else None

        state = eventually(final_state)
        of_run = FlowRunFilter.model_validate({"id": {"any_": [run_id]}})
        tasks = client.read_task_runs(flow_run_filter=of_run, limit=200)

print(state.message)
answer = {
    "state": "success" if state.is_completed() else "failed",
    "run_ids": re.findall(r"^run (\S+)$", state.message or "", flags=re.MULTILINE),
    "failed": [task.name for task in tasks if task.state and task.state.is_failed()],
    "version": prefect.__version__,
    "tasks": len(tasks),
}
print(json.dumps(answer))
