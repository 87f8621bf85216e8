"""Entities leave: the tests in the README report it, and pass again later without intervention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scoring_project import ScoringProject
from warehouse import line_model

if TYPE_CHECKING:
    from pathlib import Path

DAY = {"count": 1, "period": "day"}
VIEW = (
    "{{ dbt_onnx.current_predictions(ref('scores'), registry=ref('model_registry'), key=['id']) }}"
)
TESTS = {
    "predictions_are_fresh": {"warn_after": DAY, "error_after": {"count": 2, "period": "day"}},
    "predictions_are_complete": {"entities": "ref('features')"},
    "predictions_match_registry": {"registry": "ref('model_registry')"},
    "predictions_are_valid": {},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    root: Path = tmp_path_factory.mktemp("departures")
    project = ScoringProject(root)
    project.scoring_model("scores")
    project.write("models/current.sql", VIEW)
    tests = [
        {f"dbt_onnx.{kind}": {"name": kind, "arguments": {"key": ["id"], **arguments}}}
        for kind, arguments in TESTS.items()
    ]
    project.write_yaml(
        "python_models/tests.yml", {"models": [{"name": "scores", "data_tests": tests}]}
    )
    project.facts(10)
    night(project, 1)
    return project


def night(project: ScoringProject, day: int) -> dict[str, str]:
    """Build as of that day. Returns the status of each test that does not pass."""
    outcome = project.dbt("build", vars={"dbt_onnx_clock": f"2024-02-{day:02} 06:00:00"})
    assert outcome.nodes["scores"].status == "success", outcome.nodes["scores"].message
    return {n: outcome.nodes[n].status for n in TESTS if outcome.nodes[n].status != "pass"}


def served(project: ScoringProject) -> set[int]:
    return {row[0] for row in project.sql("select id from current")}


def test_an_entity_that_leaves_is_told_for_a_week_and_is_not_served(
    project: ScoringProject,
) -> None:
    assert served(project) == set(range(10))
    project.sql("delete from facts where id = 7")
    told = {day: night(project, day) for day in (2, 4, 9, 10)}
    week = {"predictions_are_complete": "warn"}
    assert told == {2: week, 4: week, 9: week, 10: {}}
    assert served(project) == set(range(10)) - {7}


def test_one_that_leaves_in_the_night_of_a_promotion_is_gone_with_the_earlier_version(
    project: ScoringProject,
) -> None:
    project.sql("delete from facts where id = 3")
    project.register("2", line_model(c=1.0))
    assert night(project, 11) == {"predictions_are_complete": "warn"}
    assert night(project, 19) == {}
    assert served(project) == set(range(10)) - {3, 7}
    assert project.sql("select distinct model_version from current") == [("2",)]


def test_one_that_comes_back_is_served_again(project: ScoringProject) -> None:
    project.sql("insert into facts values (7, 3.5, 1.0)")
    assert night(project, 20) == {}
    assert served(project) == set(range(10)) - {3}
    assert project.sql("select y from current where id = 7") == [(7.0,)]
