"""Commands accept the names that they print, and their hints use names that dbt can select."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from scoring_project import ScoringProject

from dbt_onnx.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def call(project: ScoringProject, command: str, *arguments: str) -> Result:
    where = ("--project-dir", str(project.root), "--profiles-dir", str(project.root))
    done = CliRunner().invoke(main, [command, *arguments, *where], env={"COLUMNS": "250"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture
def project(tmp_path: Path) -> ScoringProject:
    project = ScoringProject(tmp_path)
    project.facts(6)
    return project


def test_an_alias_with_a_blank_is_a_name_too(project: ScoringProject) -> None:
    project.scoring_model("churn_gbm", alias="Churn GBM")
    assert project.dbt("deps").success
    assert "Hint: `dbt build` makes the first" in call(project, "history", "Churn GBM", "1").stderr
    assert project.dbt("build").success
    assert "Churn GBM" in call(project, "runs").stdout
    for name in ("Churn GBM", "churn_gbm", "model.consumer.churn_gbm"):
        assert call(project, "runs", name).exit_code == 0, name
        assert call(project, "history", name, "3").exit_code == 0, name
        assert call(project, "replay", name).exit_code == 0, name
        assert call(project, "status", name).exit_code == 0, name


def test_a_hint_names_the_models_of_dbt_not_their_tables(project: ScoringProject) -> None:
    project.write_yaml(
        "models/features.yml", {"models": [{"name": "features", "config": {"alias": "All of it"}}]}
    )
    project.register("2", alias="")
    project.scoring_model("scores")
    assert project.dbt("build", "-s", "model_registry").success
    done = call(project, "promote", "line/2")
    assert done.exit_code == 1
    assert "run `dbt build -s +features`" in done.stderr
    # the hint's command can be run, and helps
    assert project.dbt("build", "-s", "+features").success
    assert call(project, "promote", "line/2").exit_code == 0


def test_two_versions_of_a_dbt_model_are_two_scoring_models(project: ScoringProject) -> None:
    project.scoring_model("p_v1")
    project.scoring_model("p_v2", arguments="as_of=None")
    versions = {"name": "p", "latest_version": 2, "versions": [{"v": 1}, {"v": 2}]}
    project.write_yaml("python_models/p.yml", {"models": [versions]})
    assert project.dbt("build").success
    for name in ("p.v1", "p_v1", "p.v2", "model.consumer.p.v2"):
        assert call(project, "history", name, "3").exit_code == 0, name
    document = json.loads(call(project, "status", "--json").stdout)
    assert [model["scoring_model"] for model in document["scoring_models"]] == ["p.v1", "p.v2"]
    for name in ("p.v1", "p.v2"):
        assert project.dbt("ls", "-s", name, "--resource-type", "model").success
    done = call(project, "runs", "p")
    assert done.exit_code == 2
    assert "2 scoring models of the project are called 'p'" in done.stderr
    assert "Hint: name one of p.v1, p.v2" in done.stderr
    # the gate examines both
    project.register("2", alias="")
    checks = call(project, "promote", "line/2").stdout
    assert "contract: p.v1" in checks
    assert "contract: p.v2" in checks
