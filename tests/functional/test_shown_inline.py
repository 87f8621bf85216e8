"""Each macro's query through `dbt show --inline`, and every macro's message about wrong arguments."""

from __future__ import annotations

import pytest
from consumer import Project
from hand_written import CLOCK, HandWritten, prediction, run, sources

PREDICTIONS, OTHERS = "source('hand', 'scores')", "source('hand', 'others')"
REGISTRY, ENTITIES = "source('hand', 'registry')", "source('hand', 'entities')"
OUTCOME = "column='churn', outcome='happened', known_at='known_at', as_of='about'"
CALLS = {
    "current_predictions": f"{PREDICTIONS}, {REGISTRY}, key=KEY",
    "missing_predictions": f"{PREDICTIONS}, {ENTITIES}, key=KEY",
    "prediction_health": f"{PREDICTIONS}, {REGISTRY}, key=KEY",
    "predictions_as_of": f"{PREDICTIONS}, key=KEY",
    "segment_averages": f"{PREDICTIONS}, {REGISTRY}, KEY, {ENTITIES}, ['about'], min_segment_size=1",
    "compare_predictions": f"{PREDICTIONS}, {OTHERS}, key=KEY, column='churn'",
    "prediction_movers": f"{PREDICTIONS}, {OTHERS}, key=KEY, column='churn', limit=2",
    "prediction_outcomes": f"{PREDICTIONS}, {ENTITIES}, KEY, {OUTCOME}, made_at='as_of'",
    "prediction_calibration": f"{PREDICTIONS}, {ENTITIES}, KEY, {OUTCOME}, made_at='as_of'",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("shown"))
    hand = HandWritten(project.warehouse)
    hand.connection.execute("alter table dbt_onnx_runs add column clock timestamp")
    hand.connection.execute("alter table dbt_onnx_runs add column error varchar")
    hand.registry("registry", ("2", "champion"))
    for name, step in (("scores", 0.0), ("others", 0.1)):
        rows = [prediction(f"c{n}", churn=0.1 + n * (0.1 + step)) for n in range(4)]
        hand.scoring_model(name, rows, [run("2")])
    types = {"customer_id": "varchar", "happened": "integer", "known_at": "date", "about": "date"}
    hand.table("entities", types, [(f"c{n}", n % 2, "1998-04-03", "1998-04-02") for n in range(4)])
    hand.close()
    project.write_yaml(
        "models/hand.yml", sources(**dict.fromkeys(("scores", "others", "registry", "entities")))
    )
    return project


def show(project: Project, macro: str, arguments: str) -> tuple[bool, str]:
    outcome = project.dbt(
        "show", "--inline", f"{{{{ dbt_onnx.{macro}({arguments}) }}}}", "--limit", "1",
        vars={"dbt_onnx_clock": "1998-04-04"},
    )  # fmt: skip
    return outcome.success, outcome.error + outcome.log


@pytest.mark.parametrize("macro", CALLS)
def test_a_query_is_shown_whatever_it_ends_in(project: Project, macro: str) -> None:
    success, log = show(project, macro, CALLS[macro].replace("KEY", "['customer_id']"))
    assert success, log


def test_the_largest_movers_come_first_and_no_others(project: Project) -> None:
    query = CALLS["prediction_movers"].replace("KEY", "['customer_id']")
    project.write("models/movers.sql", f"{{{{ dbt_onnx.prediction_movers({query}) }}}}")
    project.dbt("run", vars={"dbt_onnx_clock": CLOCK})
    assert project.sql("select customer_id from movers") == [("c3",), ("c2",)]


@pytest.mark.parametrize("macro", CALLS)
def test_a_key_is_a_list_as_in_score(project: Project, macro: str) -> None:
    success, log = show(project, macro, CALLS[macro].replace("KEY", "'customer_id'"))
    assert not success
    assert "key must be a list of column names; got 'customer_id'" in log


@pytest.mark.parametrize("macro", CALLS)
def test_a_relation_that_no_run_wrote_is_no_scoring_model(project: Project, macro: str) -> None:
    arguments = CALLS[macro].replace("KEY", "['customer_id']").replace(PREDICTIONS, ENTITIES)
    success, log = show(project, macro, arguments)
    assert not success
    assert (
        '"main"."entities", which is not a scoring model: it has no column status, model_name'
        in log
    )
