"""The health of scoring models: the macro, the recorded tests, and `dbt-onnx status` with its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from scoring_project import CLOCK, ScoringProject, expect

from dbt_onnx.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOOK = """on-run-end: "{{ dbt_onnx.record_test_results(results) }}"\n"""
LATER = "2024-01-15 06:00:00"
HEALTH = """
{{ config(materialized='view') }}

{{ dbt_onnx.prediction_health(
    ref('missing_scores'), registry=ref('model_registry'), key=['id'], entities=ref('late_features')
) }}

union all

{{ dbt_onnx.prediction_health(
    ref('missing_scores'), registry=ref('model_registry'), key=['id'], view=ref('missing_current')
) }}
"""
CURRENT = """
{{ dbt_onnx.current_predictions(
    ref('missing_scores'), registry=ref('model_registry'), key=['id'], entities=ref('late_features'),
    fallback={'constant': {'y': 0.5}},
) }}
"""
# the message of a test result is foreign text: quotes, a backslash, braces, a line break
BROKEN = """
select * from {{ ref('tested_scores') }} where cast('it''s \\ "{{ '{{' }}"' || id as integer) = 1
"""
VALID = {"key": ["id"], "column": "y", "min": -1}


def claim(kind: str, name: str, *, severity: str = "error", **arguments: Any) -> dict[str, Any]:
    return {
        f"dbt_onnx.{kind}": {
            "name": name,
            "arguments": arguments,
            "config": {"severity": severity},
        }
    }


TESTS = [
    claim("predictions_are_valid", "passes", **VALID, max=100),
    claim("predictions_are_valid", "fails", **VALID, max=1),
    claim("predictions_are_valid", "warns", severity="warn", **VALID, max=2),
    claim("predictions_match_baseline", "drifts", column="y", min_rows=1),
]


def write_tests(project: ScoringProject, tests: list[dict[str, Any]]) -> None:
    current = {"name": "missing_current", "columns": [{"name": "id", "data_tests": ["unique"]}]}
    models = [{"name": "tested_scores", "data_tests": tests}, current]
    project.write_yaml("python_models/tests.yml", {"models": models})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    """Six scoring models, each in a different state, after two builds."""
    project = ScoringProject(tmp_path_factory.mktemp("health"))
    settings = project.root / "dbt_project.yml"
    settings.write_text(settings.read_text() + HOOK)
    project.facts(10)
    for name in ("late", "odd", "failing"):
        project.write(
            f"models/{name}_features.sql",
            f"{{{{ config(materialized='view') }}}} select * from {{{{ target.schema }}}}.{name}_facts",
        )
        project.sql(f"create table {name}_facts as from facts")
    project.sql("update odd_facts set a = null where id < 2")
    project.scoring_model("healthy_scores")
    project.scoring_model("missing_scores", features="late_features")
    allowed = "max_rejected_fraction=0.5"
    project.scoring_model("rejected_scores", features="odd_features", arguments=allowed)
    project.scoring_model("tested_scores")
    project.scoring_model("failed_scores", features="failing_features")
    project.scoring_model("never_scores")
    project.write("models/missing_current.sql", CURRENT)
    project.write("models/health.sql", HEALTH)
    project.write("tests/cannot_run.sql", BROKEN)
    write_tests(project, TESTS)
    project.dbt("build", "--exclude", "never_scores", "tested_scores")
    assert project.outcome.success, project.outcome.log
    project.sql("insert into late_facts select id + 100, a, b from late_facts where id < 3")
    project.sql("update failing_facts set a = null")
    project.dbt("build", "-s", "tested_scores+", "failed_scores")
    expect(project.outcome, failed_scores="error", cannot_run="error", fails="fail")
    return project


@pytest.fixture
def sandbox(project: ScoringProject) -> Iterator[ScoringProject]:
    """The project, for tests that break it: files and warehouse are restored afterwards."""
    kept = project.root.with_name("kept")
    # the copy is complete, since every dbt command has closed the file
    shutil.copytree(project.root, kept, symlinks=True)
    yield project
    shutil.rmtree(project.root)
    kept.rename(project.root)


def run_status(folder: Path, *arguments: str) -> Result:
    folders = ["--project-dir", str(folder), "--profiles-dir", str(folder)]
    return CliRunner().invoke(main, ["status", *folders, *arguments])


def status(project: ScoringProject, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON document; nothing else may be printed."""
    result = run_status(project.root, "--json", *arguments)
    return result.exit_code, json.loads(result.stdout)


def kinds(document: dict[str, Any]) -> dict[str, list[str]]:
    return {
        model["scoring_model"]: [problem["kind"] for problem in model["problems"]]
        for model in document["scoring_models"]
    }


@pytest.fixture(scope="module")
def document(project: ScoringProject) -> dict[str, Any]:
    code, document = status(project)
    assert (code, document["exit_code"], document["status"]) == (2, 2, "broken")
    return document


def of(document: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (m for m in document["scoring_models"] if m["scoring_model"] == name)
    return dict(found)


def test_each_state_has_its_problems_and_its_status(document: dict[str, Any]) -> None:
    assert kinds(document) == {
        "failed_scores": ["run_failed"],
        "healthy_scores": [],
        "missing_scores": ["missing"],
        "never_scores": ["never_ran"],
        "rejected_scores": ["missing", "rejected"],
        "tested_scores": ["test_failed", "drifting", "test_failed", "test_warned"],
    }
    assert {m["scoring_model"]: m["status"] for m in document["scoring_models"]} == {
        "failed_scores": "broken",
        "healthy_scores": "healthy",
        "missing_scores": "degraded",
        "never_scores": "broken",
        "rejected_scores": "degraded",
        "tested_scores": "degraded",
    }
    assert document["clock"] == CLOCK.replace(" ", "T") + "Z"
    assert document["error"] is None


def test_the_counts_are_those_of_the_tables(
    project: ScoringProject, document: dict[str, Any]
) -> None:
    for name, facts in {
        "healthy_scores": "facts",
        "missing_scores": "late_facts",
        "rejected_scores": "odd_facts",
        "failed_scores": "failing_facts",
    }.items():
        ((entities, scored, refused),) = project.sql(
            f"select count(*), count(*) filter (where id in (select id from {name} where status = 'scored')), "
            f"count(*) filter (where id in (select id from {name} where status = 'rejected')) from {facts}"
        )
        found = of(document, name)
        assert {
            "entities": found["entities"],
            "current": found["current"],
            "stale": found["stale"],
            "missing": found["missing"],
            "rejected": found["rejected"],
        } == {
            "entities": entities,
            "current": scored,
            "stale": 0,
            "missing": entities - scored,
            "rejected": refused,
        }, name
        shares = {"serving_version": scored / entities, "missing": 1 - scored / entities}
        assert found["served_from_shares"] == pytest.approx({k: v for k, v in shares.items() if v})
        assert found["served_versions"] == {"1": scored}


def test_the_last_runs_are_those_of_the_runs_table(
    project: ScoringProject, document: dict[str, Any]
) -> None:
    runs = project.sql(
        "select run_id, started_at, status, error from dbt_onnx_runs "
        "where scoring_model = 'failed_scores' order by started_at"
    )
    found = of(document, "failed_scores")
    assert [run[2] for run in runs] == ["success", "error"]
    assert (found["last_good_run_id"], found["last_good_run_at"]) == (
        runs[0][0],
        runs[0][1].isoformat() + "Z",
    )
    assert found["last_good_run_clock"] == CLOCK.replace(" ", "T") + "Z"
    assert (found["last_run_id"], found["last_run_status"]) == (runs[1][0], "error")
    assert found["last_run_error"] == runs[1][3]


def test_outcomes_are_recorded_as_dbt_reports_them(project: ScoringProject) -> None:
    results = json.loads((project.root / "target" / "run_results.json").read_text())
    expected = {
        result["unique_id"].split(".")[2]: (
            result["status"],
            result["failures"],
            result["message"],
        )
        for result in results["results"]
        if result["unique_id"].startswith("test.")
    }
    run_id = results["metadata"]["invocation_id"]
    found = project.sql(
        "select test_name, status, failures, message, scoring_model, generic_test, clock "
        f"from dbt_onnx_test_results where run_id = '{run_id}'"
    )
    assert {row[0]: row[1:4] for row in found} == expected
    assert {row[0]: row[4:6] for row in found} == {
        "passes": ("tested_scores", "predictions_are_valid"),
        "fails": ("tested_scores", "predictions_are_valid"),
        "warns": ("tested_scores", "predictions_are_valid"),
        "drifts": ("tested_scores", "predictions_match_baseline"),
        "cannot_run": ("tested_scores", None),
    }
    assert {row[6] for row in found} == {datetime.fromisoformat(CLOCK)}
    assert "it's" in expected["cannot_run"][2]
    # a test of the current view counts as a test of the scoring model behind it
    assert project.sql(
        "select scoring_model, generic_test, status from dbt_onnx_test_results where test_name like 'unique%'"
    ) == [("missing_scores", "unique", "pass")]


def test_tests_are_told_apart_by_their_outcome(
    project: ScoringProject, document: dict[str, Any]
) -> None:
    found = of(document, "tested_scores")
    assert found["failing_tests"] == ["cannot_run", "drifts", "fails"]
    assert found["warning_tests"] == ["warns"]
    assert found["drifting_tests"] == ["drifts"]
    assert found["tested_at"] is not None
    assert of(document, "healthy_scores")["tested_at"] is None
    # the view was built before the first outcome was recorded
    assert {row["tested_at"] is None for row in project.rows("from health")} == {False}


def test_a_view_counts_what_it_serves_with_its_fallback(project: ScoringProject) -> None:
    rows = project.rows("from health order by map_contains(served_from_shares, 'constant')")
    for row, other in zip(rows, ("missing", "constant"), strict=True):
        assert (row["entities"], row["current"], row["missing"]) == (13, 10, 3)
        assert row["served_from_shares"] == pytest.approx(
            {"serving_version": 10 / 13, other: 3 / 13}
        )
        assert (row["serving_version"], row["oldest_age"]) == ("1", timedelta(0))


def test_a_run_without_such_tests_writes_nothing(sandbox: ScoringProject) -> None:
    before = sandbox.sql("select count(*) from dbt_onnx_test_results")
    sandbox.dbt("run", "-s", "features")
    sandbox.dbt("build", "-s", "tested_scores", "--empty")
    assert sandbox.sql("select count(*) from dbt_onnx_test_results") == before
    # and a test that was removed from the project no longer counts as failing
    write_tests(sandbox, TESTS[:1])
    (sandbox.root / "tests" / "cannot_run.sql").unlink()
    assert status(sandbox, "tested_scores")[0] == 0


READER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
print("open", flush=True)
sys.stdin.read()
"""


def test_exit_code_0_is_for_a_healthy_model_also_beside_another_reader(
    project: ScoringProject,
) -> None:
    command = [sys.executable, "-c", READER, str(project.warehouse)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdin is not None
        assert reader.stdout.readline() == b"open\n"
        result = run_status(project.root, "healthy_scores")
        reader.stdin.close()
    assert result.exit_code == 0, result.stderr
    assert result.stdout.rstrip().endswith("healthy")


def test_exit_code_1_is_for_stale_predictions_by_clock_and_by_threshold(
    project: ScoringProject,
) -> None:
    later = json.dumps({"dbt_onnx_clock": LATER})
    result = run_status(project.root, "healthy_scores", "--vars", later)
    assert result.exit_code == 1
    assert "healthy_scores: 10 of 10 entities stale, the oldest 5 days\n" in result.stdout
    code, document = status(project, "healthy_scores", "--vars", later, "--stale-after", "1w")
    assert (code, document["scoring_models"][0]["oldest_age_seconds"]) == (0, 5 * 86400)
    assert document["stale_after_seconds"] == 7 * 86400


def test_the_problems_are_listed_by_model_the_worst_first(project: ScoringProject) -> None:
    result = run_status(project.root)
    assert result.exit_code == 2
    problems = [
        line for line in result.stdout.splitlines() if line.partition(":")[0].endswith("_scores")
    ]
    assert [line.partition(":")[0] for line in problems] == [
        "failed_scores", "never_scores", "missing_scores", "rejected_scores", "rejected_scores",
        *["tested_scores"] * 4,
    ]  # fmt: skip
    assert "missing_scores: 3 of 13 entities missing" in problems
    assert "on-run-end" in result.stdout  # explains how to record test results where there are none


def test_an_altered_artifact_is_broken(sandbox: ScoringProject) -> None:
    path = sandbox.root / "artifacts" / "line" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    code, document = status(sandbox, "healthy_scores")
    assert (code, kinds(document)) == (2, {"healthy_scores": ["artifact"]})
    path.unlink()
    assert kinds(status(sandbox, "healthy_scores")[1]) == {"healthy_scores": ["artifact"]}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("drop table model_registry", ["registry"]),
        ("update model_registry set alias = null", ["registry", "missing"]),
        ("drop table features", ["features"]),
        ("drop view healthy_scores", ["ledger"]),
        ("drop table healthy_scores__history", ["ledger"]),
        ("drop table healthy_scores__current", ["ledger"]),
        (
            "update dbt_onnx_runs set status = 'running'",
            ["run_interrupted", "never_ran", "missing"],
        ),
    ],
)
def test_what_the_warehouse_lacks_is_broken(
    sandbox: ScoringProject, damage: str, expected: list[str]
) -> None:
    sandbox.sql(damage)
    code, document = status(sandbox, "healthy_scores")
    assert code == 2
    assert document["error"] is None
    assert kinds(document)["healthy_scores"] == expected


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ('alter table features rename id to "Id"', "features"),
        ("alter table features alter id type bit using '1'::bit", "features"),
        ("update model_registry set sha256 = 'short'", "registry"),
        ("alter table model_registry drop column artifact", "registry"),
    ],
)
def test_features_and_registry_are_read_as_a_run_reads_them(
    sandbox: ScoringProject, damage: str, kind: str
) -> None:
    """What will stop the next run is already reported as a problem, in the same words."""
    sandbox.sql(damage)
    run = sandbox.dbt("run", "-s", "healthy_scores").nodes["healthy_scores"].message
    [model] = status(sandbox, "healthy_scores")[1]["scoring_models"]
    [said] = [problem["message"] for problem in model["problems"] if problem["kind"] == kind]
    assert f" error: {said}\n" in run


def test_what_cannot_be_read_at_all_is_one_document_with_an_error(
    project: ScoringProject, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "project"
    shutil.copytree(project.root, elsewhere, symlinks=True)
    profile = elsewhere / "profiles.yml"
    profile.write_text(profile.read_text().replace("warehouse.duckdb", "gone.duckdb"))
    for broken, said in {
        elsewhere: "there is no warehouse at",
        tmp_path: "is not a dbt project",
    }.items():
        result = run_status(broken, "--json")
        found = json.loads(result.stdout)
        assert (result.exit_code, found["status"], found["scoring_models"]) == (2, "broken", [])
        assert said in found["error"]["message"]
    result = run_status(project.root, "helthy_scores")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "did you mean 'healthy_scores'?" in result.stderr


def test_a_period_that_is_none_is_refused(project: ScoringProject) -> None:
    result = CliRunner().invoke(main, ["status", "--stale-after", "soon"])
    assert result.exit_code == 2
    assert "'soon' is not a period such as 36h, 2d or 1w" in result.stderr


def test_wrong_arguments_are_all_named_at_once(sandbox: ScoringProject) -> None:
    sandbox.write(
        "models/health.sql",
        "{{ dbt_onnx.prediction_health(ref('missing_scores'), registry='registry', key=[],"
        " entities=ref('features'), view=ref('features')) }}",
    )
    message = sandbox.dbt("run", "-s", "health").nodes["health"].message
    assert "prediction_health on" in message
    for fault in (
        "registry is",
        "key must be a list of column names; got []",
        "give view or entities, not both: a view has its own entities",
    ):
        assert fault in message
