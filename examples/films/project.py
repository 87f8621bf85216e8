"""The dbt project of the films: its folders, its commands, and which ratings were held out."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from dbt_onnx.project.dbt_project import DbtProject

HERE = Path(__file__).resolve().parent
SERVING = HERE / "serving"
WAREHOUSE = HERE / "warehouse.duckdb"
BAD = ("error", "fail", "runtime error")
OURS = ("predictions", "published")
EVERYBODY = 0
"""The user id whose candidates an unknown person gets."""


@cache
def _project() -> DbtProject:
    return DbtProject(HERE, profiles_dir=HERE)


def dbt(*arguments: str) -> list[str]:
    """Run a dbt command here, in this process, so that the project is parsed only once.

    Returns a line for each model that scores or publishes. Raises SystemExit with the errors if the command fails.
    """
    done = _project().invoke(*arguments, manifest=_project().manifest)
    results = getattr(done.result, "results", None) or []
    if not done.success:
        faults = [f"{each.node.name}: {each.message}" for each in results if each.status in BAD]
        raise SystemExit(f"dbt {' '.join(arguments)}: {done.exception or chr(10).join(faults)}")
    return [str(each.message) for each in results if each.node.config.materialized in OURS]


def install() -> None:
    """Install dbt_onnx's macros into this project."""
    run("dbt", "deps", "--quiet", "--project-dir", str(HERE), "--profiles-dir", str(HERE))


def run(program: str, *arguments: str) -> None:
    """Run a program of this Python environment here. Raises SystemExit with its output if it fails."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(command, check=False, cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def rows(query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query. dbt must not be writing at the same time."""
    with duckdb.connect(str(WAREHOUSE), read_only=True) as connection:
        return connection.execute(query).fetchall()


def held_out() -> dict[int, list[int]]:
    """Return the held-out films of each person, oldest rating first."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    query = "select user_id, film_id from ratings where held_out > 0 order by user_id, held_out"
    for user_id, film_id in rows(query):
        found[user_id].append(film_id)
    return dict(found)


def is_judged(user_id: int) -> bool:
    """Whether a person is used for evaluation. The reranker is trained on people with odd numbers."""
    return user_id % 2 == 0
