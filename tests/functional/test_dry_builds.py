"""`dbt build --empty` makes the tables and views of a real build, with the same checks and without rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scoring_project import REGISTRY_COLUMNS, ScoringProject, expect

if TYPE_CHECKING:
    from pathlib import Path

PLUGIN = {"plugins": [{"module": "dbt_onnx.replay_plugin"}]}
# empties seeds, as dbt 1.12 does, also under earlier versions
EMPTIED = "{% if flags.EMPTY %} delete from {{ this }} {% else %} select 1 {% endif %}"
CURRENT = (
    "{{ dbt_onnx.current_predictions(ref('scores'), registry=ref('model_registry'), key=['id']) }}"
)
DOWNSTREAM = "select id, y * 2 as twice, model_version from {{ ref('scores_current') }}"
TESTS = {
    "predictions_are_fresh": {"key": ["id"], "error_after": {"count": 1, "period": "day"}},
    "predictions_are_complete": {"key": ["id"], "entities": "ref('features')"},
    "predictions_are_valid": {"key": ["id"]},
    "predictions_match_registry": {"key": ["id"], "registry": "ref('model_registry')"},
    "predictions_replay": {"registry": "ref('model_registry')"},
    "features_match_training": {"features": "ref('features')"},
    "predictions_match_baseline": {"column": "y", "baseline": "previous_run"},
}
BUILT = ("scores", "scores_current", "downstream")


@pytest.fixture
def project(tmp_path: Path) -> ScoringProject:
    made = ScoringProject(tmp_path, profile=PLUGIN)
    seed = {"column_types": dict.fromkeys(REGISTRY_COLUMNS, "varchar"), "post_hook": EMPTIED}
    made.write_yaml("seeds/seeds.yml", {"seeds": [{"name": "model_registry", "config": seed}]})
    made.facts(5)
    made.scoring_model("scores")
    made.write("models/scores_current.sql", CURRENT)
    made.write("models/downstream.sql", DOWNSTREAM)
    tests = [{f"dbt_onnx.{name}": {"name": name, "arguments": a}} for name, a in TESTS.items()]
    made.write_yaml("models/tests.yml", {"models": [{"name": "scores", "data_tests": tests}]})
    return made


def described(project: ScoringProject) -> dict[str, list[tuple[object, ...]]]:
    tables = ("scores", "scores__current", "scores__history", "downstream")
    return {name: project.sql(f"describe {name}") for name in tables}


def test_a_dry_build_makes_all_tables_and_passes_every_test(project: ScoringProject) -> None:
    dry = dict.fromkeys(BUILT, "success") | dict.fromkeys(TESTS, "pass")
    expect(project.dbt("build", "--empty"), **dry)
    assert project.outcome.nodes["scores"].message == "line/1: scored 0, unchanged 0"
    assert project.sql("select count(*) from model_registry") == [(0,)]
    tables = described(project)
    assert project.sql("select scope, model_version from dbt_onnx_runs") == [("empty", "1")]

    expect(project.dbt("seed"), model_registry="success")
    expect(project.dbt("run"), **dict.fromkeys(BUILT, "success"))
    assert described(project) == tables
    assert project.sql("select count(*), sum(y) from scores") == [(5, 7.5)]

    # a dry build after a real build leaves its rows unchanged
    expect(project.dbt("build", "--empty"), **dry)
    assert project.sql("select count(*), sum(y) from scores") == [(5, 7.5)]
    assert described(project) == tables


def test_the_registry_of_a_dry_build_is_checked_as_that_of_a_real_one(
    project: ScoringProject,
) -> None:
    project.promote("1", alias="challenger")
    expect(project.dbt("build", "--empty"), scores="error")
    assert "model 'line' has no alias 'champion' in " in project.outcome.nodes["scores"].message
    assert "model_registry.csv; its versions are 1" in project.outcome.nodes["scores"].message


def test_the_registry_may_be_a_model_on_a_seed_beside_other_seeds(project: ScoringProject) -> None:
    project.write("seeds/aliases.csv", "model_name,alias\nline,champion\n")
    project.write(
        "models/known_models.sql",
        "select r.* from {{ ref('model_registry') }} as r semi join {{ ref('aliases') }} as a using (alias)",
    )
    path = project.root / "python_models" / "scores.py"
    path.write_text(path.read_text().replace('"model_registry"', '"known_models"'))
    expect(project.dbt("build", "--empty"), scores="success", downstream="success")
    expect(project.dbt("seed"), model_registry="success")
    expect(project.dbt("run"), scores="success")
    assert project.sql("select count(*), sum(y) from scores") == [(5, 7.5)]


def test_what_no_seed_says_is_still_one_clear_error(project: ScoringProject) -> None:
    project.write("seeds/model_registry.csv", ",".join(REGISTRY_COLUMNS) + "\n")
    expect(project.dbt("build", "--empty"), scores="error")
    message = project.outcome.nodes["scores"].message
    assert "has no model 'line'; it is empty" in message
    assert "`dbt seed` restores the rows that a build with `--empty` left out" in message
