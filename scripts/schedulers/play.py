"""Run the recipes of examples/schedulers in the real schedulers, two nights each: `make schedulers`.

    python scripts/schedulers/play.py                   all of them
    python scripts/schedulers/play.py dagster prefect   these

The first night is a good one. Before the second, one score in the ledger is changed by hand, so the dbt test
`predictions_replay` fails. Each scheduler has a copy of the reference project, a warehouse and its own state below
`warehouse/schedulers/`, and an environment with its requirements.txt below `.venvs/schedulers/`.

`play_NAME.py RECIPE_FOLDER` runs one night, with the Python of that environment, and prints as its last line what the
scheduler's API or database reports: {"state": "success" or "failed", "run_ids": [...], "failed": [names], "version"}.
The table compares this with the runs in the warehouse. Exit code 1 if a night is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import venv
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
from play_history import PARTS
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "examples" / "schedulers"
PROJECT_BIN = ROOT / ".venv" / "bin"
# scheduler: the folder of its recipe
SCHEDULERS = {
    "cron": "cron",
    "github_actions": "github_actions",
    "airflow": "airflow",
    "cosmos": "airflow",
    "dagster": "dagster",
    "prefect": "prefect",
}
FAILING_TEST = "predictions_replay"
LONGEST_NIGHT = "15m"
NO_STATISTICS = {
    "DO_NOT_TRACK": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "ORT_DISABLE_TELEMETRY": "1",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
    "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "false",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


@dataclass(frozen=True)
class Night:
    """One night: what the scheduler reported, and what is in the warehouse."""

    reported: dict[str, Any]
    run_ids: set[str]
    alerts: list[str]
    seconds: float

    @property
    def state(self) -> str:
        return str(self.reported.get("state", "no answer"))

    @property
    def ids_arrived(self) -> bool:
        return bool(self.run_ids) and set(self.reported.get("run_ids", [])) == self.run_ids

    @property
    def failing_test_shown(self) -> bool:
        return any(FAILING_TEST in name for name in self.reported.get("failed", []))


NO_NIGHT = Night(reported={}, run_ids=set(), alerts=[], seconds=0.0)


@dataclass
class Receiver:
    """A webhook on this machine that keeps the summaries of the alerts that it gets."""

    summaries: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        summaries = self.summaries

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                summaries.append(document["summary"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}/"

    def taken(self) -> list[str]:
        """Return the summaries since the last call."""
        taken = self.summaries[:]
        self.summaries.clear()
        return taken


def main() -> int:
    """Play the nights, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCHEDULERS))
    names = parser.parse_args().names or [name for name in SCHEDULERS if driver_of(name).exists()]
    if unknown := set(names) - set(SCHEDULERS):
        parser.error(f"no scheduler is called {', '.join(sorted(unknown))}")
    receiver = Receiver()
    # all are installed before the first night, because pip is the likeliest to fail
    pythons = {name: environment(RECIPES / SCHEDULERS[name]) for name in names}
    nights = {name: play(name, pythons[name], receiver) for name in names}
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table_of(nights))
    return 0 if all(verdict[1] for pair in nights.values() for verdict in judged(*pair)) else 1


def play(name: str, python: Path, receiver: Receiver) -> tuple[Night, Night]:
    """Play a good night and a bad one in a scheduler, whose driver runs with this Python."""
    recipe = RECIPES / SCHEDULERS[name]
    folder = ROOT / "warehouse" / "schedulers" / name
    shutil.rmtree(folder, ignore_errors=True)
    project = folder / "project"
    for part in PARTS:
        place = project / part
        place.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, place)
    variables = {
        **{n: value for n, value in os.environ.items() if not n.startswith(("DBT_", "PYTHON"))},
        **NO_STATISTICS,
        "PATH": os.pathsep.join([str(python.parent), str(PROJECT_BIN), os.environ["PATH"]]),
        "PYTHONUNBUFFERED": "1",
        "DBT_PROJECT_DIR": str(project),
        "DBT_PROFILES_DIR": str(project),
        "DBT_ONNX_WAREHOUSE": str(folder / "warehouse.duckdb"),
        "DBT_ONNX_SERVING_FILES": str(folder / "serving"),
        "DBT_ONNX_WEBHOOK_URL": receiver.url,
        "AIRFLOW_HOME": str(folder / "home"),
        "DAGSTER_HOME": str(folder / "home"),
        "PREFECT_HOME": str(folder / "home"),
    }
    (folder / "home").mkdir()
    # at the end of the time, `timeout` also stops the processes that the driver has started
    command = ["timeout", LONGEST_NIGHT, str(python), str(driver_of(name)), str(recipe)]
    good = play_night(command, variables, receiver, log=folder / "good_night.log")
    if not good.run_ids:
        return good, NO_NIGHT
    change_a_score(folder / "warehouse.duckdb")
    bad = play_night(command, variables, receiver, log=folder / "bad_night.log")
    return good, bad


def driver_of(name: str) -> Path:
    return Path(__file__).with_name(f"play_{name}.py")


def environment(recipe: Path) -> Path:
    """Return the Python of the recipe's environment; install it if requirements.txt is new.

    Raises CalledProcessError if pip fails. The package is installed into it if dbt is. A recipe without requirements.txt uses the project's environment.
    """
    requirements = recipe / "requirements.txt"
    if not requirements.exists():
        return PROJECT_BIN / "python"
    folder = ROOT / ".venvs" / "schedulers" / recipe.name
    python, installed = folder / "bin" / "python", folder / "installed"
    wanted = requirements.read_text(encoding="utf-8")
    if not installed.exists() or installed.read_text(encoding="utf-8") != wanted:
        print(f"installing {folder.relative_to(ROOT)}", file=sys.stderr, flush=True)
        if not python.exists():
            venv.create(folder, with_pip=True, symlinks=True)
        package = ["--editable", f"{ROOT}[duckdb]"] if "dbt-core" in wanted else []
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", requirements, *package], check=True)
        installed.write_text(wanted, encoding="utf-8")
    return python


def play_night(
    command: list[str], variables: dict[str, str], receiver: Receiver, *, log: Path
) -> Night:
    """Run one night; everything that the scheduler says is in the log."""
    warehouse = Path(variables["DBT_ONNX_WAREHOUSE"])
    before, started = runs_in(warehouse), time.monotonic()
    print(f"{log.relative_to(ROOT)} …", file=sys.stderr, flush=True)
    with log.open("w", encoding="utf-8") as errors:
        done = subprocess.run(
            command,
            env=variables,
            cwd=log.parent,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
        )
        errors.write(done.stdout)
    lines = done.stdout.splitlines()
    try:
        reported = json.loads(lines[-1])
    except (IndexError, ValueError):
        print(f"no answer, see {log.relative_to(ROOT)}", file=sys.stderr)
        reported = {}
    return Night(
        reported=reported,
        run_ids=runs_in(warehouse) - before,
        alerts=receiver.taken(),
        seconds=time.monotonic() - started,
    )


def runs_in(warehouse: Path) -> set[str]:
    if not warehouse.exists():
        return set()
    with duckdb.connect(warehouse, read_only=True) as connection:
        return {row[0] for row in connection.execute("select run_id from dbt_onnx_runs").fetchall()}


def change_a_score(warehouse: Path) -> None:
    with duckdb.connect(warehouse) as connection:
        connection.execute("""
            update churn_predictions__current set churn_probability = 1 - churn_probability
            where customer_id = (select min(customer_id) from churn_predictions__current)
        """)


def judged(good: Night, bad: Night) -> list[tuple[str, bool]]:
    """Return the cells of a scheduler's row, each with whether it is as it must be."""
    # a night is one run of dbt
    arrived = all(night.ids_arrived and len(night.run_ids) == 1 for night in (good, bad))
    return [
        (good.state, good.state == "success"),
        ("yes" if arrived else "no", arrived),
        (bad.state, bad.state == "failed"),
        ("named" if bad.failing_test_shown else "not named", bad.failing_test_shown),
        ("sent" if bad.alerts else "not sent", bool(bad.alerts)),
    ]


def table_of(nights: dict[str, tuple[Night, Night]]) -> Table:
    table = Table()
    for heading in ("scheduler", "version", "good night", "run ids arrive", "night with a failing test",
                    "the test is", "alert", "seconds"):  # fmt: skip
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for name, (good, bad) in nights.items():
        cells = [
            f"[{'green' if right else 'bold red'}]{text}[/]" for text, right in judged(good, bad)
        ]
        version = str(good.reported.get("version", ""))
        table.add_row(name, version, *cells, f"{good.seconds:.0f}, {bad.seconds:.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
