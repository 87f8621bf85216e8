"""Run one night as GitHub Actions does, as near as one gets without GitHub: the `run:` steps of the job in their order.

bash has the options that GitHub gives it. Steps with `uses:` are left out; /srv/shop is another folder. The run id comes
from the job's summary, the failed test from the log of the step.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

SHELLS = {"bash": ("bash", "--noprofile", "--norc", "-eo", "pipefail"), "python": (sys.executable,)}

recipe, here = Path(sys.argv[1]), Path.cwd()
project, summary = Path(os.environ["DBT_PROJECT_DIR"]), here / "summary.md"
summary.write_text("", encoding="utf-8")
# this package is installed in the environment already
(project / "requirements.txt").write_text("dbt-onnx[duckdb]\n", encoding="utf-8")
workflow = (recipe / "nightly.yml").read_text(encoding="utf-8").replace("/srv/shop", str(here))
job = yaml.safe_load(workflow)["jobs"]["nightly"]
secrets = {"${{ secrets.DBT_ONNX_WEBHOOK_URL }}": os.environ["DBT_ONNX_WEBHOOK_URL"]}
variables = {name: secrets.get(value, value) for name, value in job["env"].items()}
kept = {name: os.environ[name] for name in ("HOME", "PATH", "DBT_ONNX_SERVING_FILES")}
conditions = {
    "success()": lambda: not failed_steps,
    "always()": lambda: True,
    "always() && env.DBT_ONNX_WEBHOOK_URL != ''": lambda: bool(variables["DBT_ONNX_WEBHOOK_URL"]),
}

failed_steps: list[str] = []
log = ""
for number, step in enumerate(job["steps"]):
    if "run" not in step or not conditions[step.get("if", "success()")]():
        continue
    script = here / f"step_{number}"
    script.write_text(step["run"], encoding="utf-8")
    done = subprocess.run(
        [*SHELLS[step.get("shell", "bash")], script],
        env=kept | variables | {"CI": "true", "GITHUB_STEP_SUMMARY": str(summary)},
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    log += done.stdout
    print(f"--- {step['name']}: exit code {done.returncode}\n{done.stdout}")
    if done.returncode and not step.get("continue-on-error"):
        failed_steps.append(step["name"])

print(summary.read_text(encoding="utf-8"))
answer = {
    "state": "failed" if failed_steps else "success",
    "run_ids": re.findall(r"^run (\S+)$", summary.read_text(encoding="utf-8"), flags=re.MULTILINE),
    "failed": [*failed_steps, *re.findall(r"Failure in test (\S+)", log)],
    "version": "",
}
print(json.dumps(answer))
