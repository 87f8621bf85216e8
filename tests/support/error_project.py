"""Rows of docs/errors.md that dbt reports: a project with a separate node or variable for each row."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from error_commands import called
from scoring_project import ScoringProject

from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from consumer import Outcome

RETURNS_ROWS = """
def model(dbt, session):
    dbt.config(materialized="predictions")
    return dbt.ref("features")
"""
MISSES_AN_ARGUMENT = """
from dbt_onnx import score


def model(dbt, session):
    dbt.config(materialized="predictions")
    return score(dbt, session, features=dbt.ref("features"), model="line", key=["id"])
"""
DAYS = {"count": 3, "period": "day"}
TESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "test-without-threshold": ("predictions_are_fresh", {}),
    "test-thresholds-reversed": (
        "predictions_are_fresh",
        {"warn_after": DAYS, "error_after": {"count": 1, "period": "day"}},
    ),
    "test-period-malformed": (
        "predictions_are_fresh",
        {"warn_after": {"count": 3, "period": "month"}},
    ),
    "test-fraction-out-of-range": (
        "predictions_are_fresh",
        {"warn_after": DAYS, "max_stale_fraction": 10},
    ),
    "test-key-unknown": ("predictions_are_fresh", {"key": ["customer_id"], "warn_after": DAYS}),
    "test-key-empty": ("predictions_are_fresh", {"key": [], "warn_after": DAYS}),
    "test-with-where": ("predictions_are_fresh", {"warn_after": DAYS}),
    "test-relation-is-text": ("predictions_are_complete", {"entities": "features"}),
    "test-column-unknown": (
        "predictions_are_complete",
        {"entities": "ref('features')", "entity_since": "day", "grace": DAYS},
    ),
    "test-grace-alone": (
        "predictions_are_complete",
        {"entities": "ref('features')", "grace": DAYS},
    ),
    "test-output-unknown": ("predictions_are_valid", {"column": "score"}),
    "test-range-without-column": ("predictions_are_valid", {"min": 0}),
    "test-bound-is-text": ("predictions_are_valid", {"column": "y", "min": "low"}),
    "test-limits-reversed": (
        "predictions_match_baseline",
        {"column": "y", "warn_psi": 0.5, "error_psi": 0.1},
    ),
    "test-rows-not-positive": ("predictions_match_baseline", {"column": "y", "min_rows": 0}),
    "test-baseline-unknown": (
        "predictions_match_baseline",
        {"column": "y", "baseline": "last_week"},
    ),
    "test-without-plugin": ("predictions_replay", {"registry": "ref('model_registry')"}),
}
WITHOUT_KEY = {"predictions_match_baseline", "predictions_replay"}
SCORES = "ref('scores')"
OF_SCORES = f"{SCORES}, registry=ref('model_registry')"
VIEWS = {
    "view-key-unknown": f"current_predictions({OF_SCORES}, key=['customer_id'])",
    "view-registry-is-text": f"current_predictions({SCORES}, registry='model_registry', key=['id'])",
    "view-moment-malformed": f"predictions_as_of({SCORES}, key=['id'], said_at='last week')",
}
SETTINGS = {"dbt_onnx_model": "line/1", "dbt_onnx_retry_rejected": "maybe"}
VARIABLES: dict[str, dict[str, Any]] = {
    "clock-malformed": {"dbt_onnx_clock": "2024-13-01"},
    "asked-model-malformed": SETTINGS,
    "retry-malformed": SETTINGS,
}
MODELS = (
    "argument-missing",
    "features-are-an-expression",
    "features-not-built",
    "model-returns-otherwise",
    "other-materialization",
    "score-taken-for-rows",
    "seed-of-another-type",
    "sql-model",
)
NODES = (*MODELS, *TESTS, *VIEWS)
DAYS_OF_JANUARY = ("--from", "2024-01-01", "--to", "2024-01-02", "--every", "day")
CALLS: dict[str, tuple[str, ...]] = {
    "scoring-model-unknown": ("runs", "score"),
    "target-unknown": ("runs", "--target", "prod"),
    "history-key-miscounted": ("history", "scores", "1", "2"),
    "history-key-unknown": ("history", "scores", "77"),
    "replay-run-unknown": ("replay", "scores", "--run", "2024-01-10"),
    "backfill-without-clock": ("backfill", "scores", *DAYS_OF_JANUARY),
}
LOCKED = "database-locked"
VERSIONS = "versions-differ"
BY_DBT = {*NODES, *VARIABLES, *CALLS, LOCKED, VERSIONS}
HAS_TRACEBACK = {"other-materialization", LOCKED}
"""Errors that dbt reports itself. It prints unknown exceptions with a traceback, followed by the message."""

_HOLDS = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


def node_name(name: str) -> str:
    return name.replace("-", "_")


def create_project(root: Path) -> ScoringProject:
    """Create a project with a node for each of NODES, a model `no_model`, and a correct model `scores`."""
    project = ScoringProject(root)
    project.facts(5)
    project.scoring_model("scores")
    project.scoring_model("tested")
    project.scoring_model("no_model", arguments="model='lime'")
    project.scoring_model("other_materialization")
    path = project.root / "python_models" / "other_materialization.py"
    path.write_text(path.read_text().replace('"predictions"', '"table"'))
    project.scoring_model("features_not_built", features="not_built")
    _changed(project, "features_are_an_expression", '"features")', '"features").filter("b > 0")')
    _changed(
        project, "score_taken_for_rows", "return score(", "return (lambda run: run.df())(score("
    )
    path = project.root / "python_models" / "score_taken_for_rows.py"
    path.write_text(f"{path.read_text().rstrip()})\n")
    project.write("seeds/seed_of_another_type.csv", "model_version\nv2\n")
    project.sql("create table seed_of_another_type (model_version integer)")
    project.write("models/not_built.sql", "select 1 as id, 1.0 as a, 1.0 as b")
    project.write("python_models/model_returns_otherwise.py", RETURNS_ROWS)
    project.write("python_models/argument_missing.py", MISSES_AN_ARGUMENT)
    project.write("models/sql_model.sql", "{{ config(materialized='predictions') }} select 1 as x")
    tests = []
    for name, (test, arguments) in TESTS.items():
        key = {} if test in WITHOUT_KEY else {"key": ["id"]}
        entry: dict[str, Any] = {"name": node_name(name), "arguments": key | arguments}
        if name == "test-with-where":
            entry["config"] = {"where": "id > 1"}
        tests.append({f"dbt_onnx.{test}": entry})
    project.write_yaml(
        "python_models/tests.yml", {"models": [{"name": "tested", "data_tests": tests}]}
    )
    for name, call in VIEWS.items():
        project.write(
            f"models/{node_name(name)}.sql",
            f"-- depends_on: {{{{ {SCORES} }}}}\n{{{{ dbt_onnx.{call} }}}}",
        )
    return project


def _changed(project: ScoringProject, name: str, old: str, new: str) -> None:
    """Write a scoring model with changed code."""
    project.scoring_model(name)
    path = project.root / "python_models" / f"{name}.py"
    path.write_text(path.read_text().replace(old, new))


def build(project: ScoringProject) -> Outcome:
    """Build everything except `not_built`, so that this relation does not exist."""
    return project.dbt("build", "--exclude", "not_built")


def call_in_project(project: ScoringProject, name: str) -> Result:
    """Call `dbt-onnx` for the project."""
    return called(project.root, (*CALLS[name], "--profiles-dir", project.root))


def with_variables(project: ScoringProject) -> dict[str, str]:
    """Return dbt's message about the scoring model for each entry of VARIABLES. One call reports all its faults, so
    entries with the same variables share a call.
    """
    messages: dict[str, str] = {}
    for name, given in VARIABLES.items():
        same = next((text for other, text in messages.items() if VARIABLES[other] is given), None)
        messages[name] = (
            same or project.dbt("run", "-s", "scores", vars=given).nodes["scores"].message
        )
    return messages


def with_another_version(project: ScoringProject) -> str:
    """Return dbt's message about the scoring model when the dbt package has version 9.9.9."""
    installed = project.root / "dbt_packages" / "dbt_onnx"
    source = installed.resolve()
    installed.unlink()  # `dbt deps` links to a local package
    shutil.copytree(source / "macros", installed / "macros")
    shutil.copy(source / "dbt_project.yml", installed)
    path = installed / "macros" / "_version.sql"
    path.write_text(path.read_text().replace(__version__, "9.9.9"))
    try:
        return project.dbt("run", "-s", "scores").nodes["scores"].message
    finally:
        shutil.rmtree(installed)
        installed.symlink_to(source)


@contextmanager
def locked(project: ScoringProject) -> Iterator[int]:
    """Open the warehouse in another process, and yield the id of that process."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(project.warehouse)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process.pid
