"""`--json` of the commands, `register --replace` and `alert`, on a project that dbt has built."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from scoring_project import ScoringProject, expect
from warehouse import line_model

from dbt_onnx.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    """Two runs of a model: twenty rows, one of them rejected; then one that changed."""
    made = ScoringProject(tmp_path_factory.mktemp("project"))
    made.facts(20)
    made.sql("update facts set a = null where id = 7")
    made.scoring_model("scores")
    expect(made.dbt("build"), scores="success")
    made.sql("update facts set a = 100 where id = 3")
    expect(made.dbt("build"), scores="success")
    return made


def called(project: ScoringProject, *arguments: object, **environment: str) -> Result:
    places = ("--project-dir", project.root)
    if arguments[0] != "verify":
        places += ("--profiles-dir", project.root)
    result = CliRunner().invoke(main, list(map(str, (*arguments, *places))), env=environment)
    assert "Traceback" not in result.output
    return result


def document(project: ScoringProject, *arguments: object, code: int = 0) -> Any:
    result = called(project, *arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_runs_have_all_columns_newest_first(project: ScoringProject) -> None:
    newest, oldest = document(project, "runs", "scores")["runs"]
    with project.scores() as scores:
        columns = [row[0] for row in scores.sql("describe dbt_onnx_runs")]
        ids = [row[0] for row in scores.runs("run_id")]
        (fingerprint,) = scores.runs("ledger_fingerprint")[0]
    assert [oldest["run_id"], newest["run_id"]] == ids
    assert set(newest) == set(columns)
    assert (oldest["rows_in"], oldest["rows_scored"], oldest["rows_rejected"]) == (20, 19, 1)
    assert newest["rows_features_changed"] == 1
    assert newest["clock"] == "2024-01-10T06:00:00Z"
    # a number that a reader of JSON would round is text
    assert str(oldest["ledger_fingerprint"]) == str(fingerprint)
    assert isinstance(oldest["ledger_fingerprint"], str) == (fingerprint > 2**53)


def test_history_has_each_prediction_and_what_changed(project: ScoringProject) -> None:
    found = document(project, "history", "scores", 3)
    assert found["scoring_model"] == "scores"
    assert found["key"] == ["3"]
    first, second = found["predictions"]
    assert first["outputs"] == {"y": 2 * 1.5 - 1 + 0.5}
    assert first["changed_inputs"] is None
    assert second["outputs"] == {"y": 2 * 100 - 1 + 0.5}
    assert second["changed_inputs"] == {"a": {"before": 1.5, "after": 100.0}}
    assert second["score_reason"] == "features_changed"
    (rejected,) = document(project, "history", "scores", 7)["predictions"]
    assert rejected["outputs"] == {"y": None}
    assert rejected["rejected_reason"] == "null:a"


def test_explain_refuses_a_model_whose_card_has_no_sample(project: ScoringProject) -> None:
    result = called(project, "explain", "scores", 3)
    assert result.exit_code == 2
    assert "line/1 cannot be explained: its card has no rows of real data" in " ".join(
        result.stderr.split()
    )
    result = called(project, "explain", "scores", "--run", "nothing")
    assert "scores has no run 'nothing'" in " ".join(result.stderr.split())


def test_replay_says_what_was_compared(project: ScoringProject) -> None:
    found = document(project, "replay", "scores", "--all")
    assert found["passed"] is True
    assert found["findings"] == []
    assert [(run["rows"], run["identical"], run["passed"]) for run in found["runs"]] == [
        (1, 1, True),
        (20, 20, True),
    ]


def test_verify_has_every_version_and_what_is_wrong_with_it(project: ScoringProject) -> None:
    found = document(project, "verify")
    (version,) = found["versions"]
    assert (found["passed"], version["model_name"], version["passed"]) == (True, "line", True)
    path = project.root / "artifacts/line/1/model.onnx"
    content = path.read_bytes()
    path.write_bytes(content + b"!")
    try:
        found = document(project, "verify", code=1)
    finally:
        path.write_bytes(content)
    (version,) = found["versions"]
    assert found["passed"] is False
    assert "is not the file that was registered" in version["fault"]
    assert version["hint"]


def test_promote_has_the_checks_whether_it_passes_or_not(project: ScoringProject) -> None:
    project.register("2", line_model(a=-2.0), alias="challenger")
    seed = project.root / "seeds/model_registry.csv"
    before = seed.read_bytes()
    refused = document(project, "promote", "line/2", code=1)
    assert refused["promotion"] is None
    assert (refused["version"], refused["compared_with"]) == ("line/2", "line/1")
    failed = [check for check in refused["checks"] if check["verdict"] == "failed"]
    assert failed
    assert all(check["fault"] and check["hint"] for check in failed)
    assert seed.read_bytes() == before
    promoted = document(project, "promote", "line/2", "--override", "a new sign")
    assert promoted["promotion"]["model_version"] == "2"
    assert promoted["promotion"]["gate"] == "overridden"
    seed.write_bytes(before)
    (project.root / "seeds/model_promotions.csv").unlink()


@pytest.mark.parametrize("arguments", [("runs", "nothing"), ("history", "scores", 99)])
def test_an_error_is_no_document(project: ScoringProject, arguments: tuple[object, ...]) -> None:
    result = called(project, *arguments, "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")


def replaced(project: ScoringProject, folder: Path, version: str) -> Result:
    path = folder / "new.onnx"
    path.write_bytes(line_model(a=3.0))
    names = ("--name", "line", "--version", version, "--features", "a,b")
    return called(project, "register", path, *names, "--output", "y=y", "--replace")


def test_a_version_that_has_scored_is_never_replaced(
    project: ScoringProject, tmp_path: Path
) -> None:
    before = (project.root / "artifacts/line/1/model.onnx").read_bytes()
    result = replaced(project, tmp_path, "1")
    assert result.exit_code == 2
    with project.scores() as scores:
        (newest,) = scores.runs("run_id")[-1]
    assert (
        f"Error: version 'line/1' cannot be replaced: run {newest} of scores has written 1 rows with it"
    ) in " ".join(result.stderr.split())
    assert (project.root / "artifacts/line/1/model.onnx").read_bytes() == before


def test_a_version_that_has_not_scored_is_replaced(project: ScoringProject, tmp_path: Path) -> None:
    seed = project.root / "seeds/model_registry.csv"
    before = seed.read_bytes()
    assert replaced(project, tmp_path, "7").exit_code == 0
    assert replaced(project, tmp_path, "7").exit_code == 0
    assert seed.read_text().count("line,7,") == 1
    seed.write_bytes(before)


def test_before_the_first_build_nothing_has_scored(tmp_path: Path) -> None:
    made = ScoringProject(tmp_path / "project")
    made.scoring_model("scores")
    assert made.dbt("parse").success
    (made.root / "warehouse.duckdb").unlink()
    result = replaced(made, tmp_path, "1")
    assert result.exit_code == 0, result.output


def test_an_alert_is_about_the_health_of_the_project(project: ScoringProject) -> None:
    later = ("--vars", json.dumps({"dbt_onnx_clock": "2024-01-15 06:00:00"}))
    result = called(
        project, "alert", "--dry-run", *later, DBT_ONNX_WEBHOOK_URL="http://127.0.0.1:9/x"
    )
    assert result.exit_code == 0, result.output
    assert f"webhook: {project.root.name}: scores degraded" in result.stdout
    assert "new: scores: 19 of 20 entities stale, the oldest 5 days" in result.stdout
