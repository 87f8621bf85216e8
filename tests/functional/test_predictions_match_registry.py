"""`predictions_match_registry`: predictions come from the version and the artifact that the registry names."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from consumer import Project
from generic_tests import Case, Model, Registry, Table, run_cases
from hand_written import CLOCK, prediction, run, sha256_of

from dbt_onnx.engines.adapters import close_idle_connections

COLUMNS = ("customer_id", "problem", "expected", "actual", "run_id", "rejected_reason")
RUNS = [run("1", started_at="1998-01-01"), run("2")]
KEY = {"customer_id": "varchar"}
ODD_KEY = {"客户 id": "bigint", 'a"b': "varchar"}
D = [f"d{n}" for n in range(7)]
EVERYONE = {"entities": Table("everyone", KEY, [(key,) for key in ("a", "b", "c", *D)])}
ONLY_A = {"entities": Table("entities", KEY, [("a",)])}
BOTH = Model("both", [prediction("a", "1"), prediction("a", "2"), prediction("b", "2")], RUNS)
BEHIND = Model(
    "behind",
    [
        prediction("a", "2"),
        prediction("b", "1"),
        prediction("b", "2", status="rejected"),
        prediction("c", "1"),
        *(prediction(key, "2") for key in D),
    ],
    RUNS,
)
TWO_BEHIND = [
    ("b", "earlier_version", "2", "1", "run-1", "null:recency"),
    ("c", "earlier_version", "2", "1", "run-1", None),
]
NEVER_RUN = [(None, "no_successful_run", None, None, None, None)]


def registry(name: str, **versions: str | None) -> dict[str, Any]:
    return {"registry": Registry(name, {key[1:]: alias for key, alias in versions.items()})}


def of_file(version: str, problem: str, actual: str | None) -> tuple[Any, ...]:
    expected = f"artifacts/churn/{version}/model.onnx with sha256 {sha256_of(version)}"
    return (None, problem, expected, actual, None, None)


ROLLED_BACK = registry("rolled_back", v1="champion", v2=None)
BY_VERSION_5 = Case(
    "missing_file",
    Model("by_version_5", [prediction("a", "5")], [run("5")]),
    registry("file_gone", v5="champion"),
    rows=[of_file("5", "artifact_missing", None)],
)
CASES = [
    Case("matches", BOTH),
    Case("matches_after_rollback", BOTH, {**ROLLED_BACK, **ONLY_A}),
    Case(
        "before_the_first_run",
        BOTH,
        registry("promoted", v2=None, v3="champion"),
        rows=[(key, "earlier_version", "3", "2", "run-2", None) for key in ("a", "b")],
    ),
    Case(
        "nobody_serves",
        BOTH,
        registry("without", v1=None, v2="challenger"),
        rows=[(None, "no_serving_version", "churn@champion", None, None, None)],
    ),
    Case(
        "two_serve",
        BOTH,
        registry("two", v1="champion", v2="champion"),
        rows=[(None, "two_serving_versions", "churn@champion", "1, 2", None, None)],
    ),
    Case("behind_two", BEHIND, EVERYONE, rows=TWO_BEHIND),
    Case("who_left_is_not_judged", BEHIND, rows=TWO_BEHIND[:1]),
    Case("a_fifth_is_tolerated", BEHIND, {**EVERYONE, "max_earlier_fraction": 0.2}),
    Case("less_is_not", BEHIND, {**EVERYONE, "max_earlier_fraction": 0.1999}, rows=TWO_BEHIND),
    Case("only_entities_are_judged", BEHIND, ONLY_A),
    Case(
        "altered_artifact",
        Model(
            "altered",
            [
                prediction("a", "2"),
                prediction("b", "2", run_id="before"),
                prediction("c", "2", run_id="lost"),
            ],
            [*RUNS, run("2", run_id="before", artifact_sha256="ab" * 32, started_at="1998-01-01")],
        ),
        rows=[
            ("b", "another_artifact", sha256_of("2"), "ab" * 32, "before", None),
            ("c", "another_artifact", sha256_of("2"), None, "lost", None),
        ],
    ),
    Case(
        "altered_file",
        Model("by_version_4", [prediction("a", "4")], [run("4")]),
        registry("file_altered", v4="champion"),
        rows=[of_file("4", "artifact_altered", hashlib.sha256(b"another").hexdigest())],
    ),
    BY_VERSION_5,
    Case("never_run", Model("failed_only", [], [run("2", status="error")]), rows=NEVER_RUN),
    Case("no_tables", Model("not_there"), rows=NEVER_RUN),
    Case(
        "odd_names",
        Model("odd", [{"客户 id": 1, 'a"b': "x", **prediction("", "1")}], RUNS, key=ODD_KEY),
        {"key": list(ODD_KEY), "entities": Table("odd_everyone", ODD_KEY, [(1, "x")])},
        columns=(*ODD_KEY, "problem"),
        rows=[(1, "x", "earlier_version")],
    ),
    Case(
        "wrong",
        BOTH,
        {"key": [], "entities": "entities", "max_earlier_fraction": 7},
        faults=(
            "predictions_match_registry on",
            "has 3 wrong arguments",
            "key must be a list of column names; got []",
            'entities is "entities"; it takes a relation',
            "max_earlier_fraction is 7;",
        ),
    ),
]
DEFAULTS = {"key": ["customer_id"], **registry("registry", v1=None, v2="champion")}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("match"))
    for version in ("1", "2", "3"):
        project.write(f"artifacts/churn/{version}/model.onnx", version)
    project.write("artifacts/churn/4/model.onnx", "another")
    return run_cases(project, "predictions_match_registry", CASES, **DEFAULTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_returns_what_it_should(project: Project, case: Case) -> None:
    case.check(project, COLUMNS)


def test_a_warehouse_that_is_closed_to_files_is_judged_by_its_runs(tmp_path: Path) -> None:
    project = Project(tmp_path / "hard", profile={"settings": {"enable_external_access": "false"}})
    judged = replace(BY_VERSION_5, rows=())
    run_cases(project, "predictions_match_registry", [judged], **DEFAULTS)
    judged.check(project, COLUMNS)


def test_files_are_found_from_another_working_directory(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop [1]")
    project.write("artifacts/churn/2/model.onnx", "2")
    run_cases(project, "predictions_match_registry", [CASES[0]], **DEFAULTS)
    close_idle_connections()  # another process opens the file
    dbt = Path(sys.executable).with_name("dbt")
    folders = ["--project-dir", project.root, "--profiles-dir", project.root]
    clock = ["--vars", f"dbt_onnx_clock: '{CLOCK}'"]
    done = subprocess.run(
        [dbt, "test", *folders, *clock], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
