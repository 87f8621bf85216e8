"""The generic test `predictions_replay` and the commands `runs`, `history` and `replay`, in a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from scoring_project import ScoringProject, expect

from dbt_onnx.cli import main

if TYPE_CHECKING:
    from pathlib import Path

PLUGIN = {"plugins": [{"module": "dbt_onnx.replay_plugin"}]}
TEST = "replayed"
ARGUMENTS = {"registry": "ref('model_registry')", "sample": 50, "runs": 3}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    made = ScoringProject(tmp_path_factory.mktemp("replay"), profile=PLUGIN)
    made.facts(200)
    made.scoring_model("scores")
    attach(made, ARGUMENTS)
    return made


def attach(project: ScoringProject, arguments: dict[str, object]) -> None:
    test = {"name": TEST, "arguments": arguments, "config": {"store_failures": True}}
    model = {"name": "scores", "data_tests": [{"dbt_onnx.predictions_replay": test}]}
    project.write_yaml("python_models/scores_tests.yml", {"models": [model]})


def call(project: ScoringProject, *arguments: str) -> Result:
    folder = str(project.root)
    return CliRunner().invoke(
        main,
        [*arguments, "--project-dir", folder, "--profiles-dir", folder],
        env={"COLUMNS": "200"},
    )


def test_dbt_test_proves_that_the_runs_can_be_repeated(project: ScoringProject) -> None:
    expect(project.dbt("build", "--empty"), **{TEST: "pass"})
    expect(project.dbt("build"), **{TEST: "pass"})
    project.sql("update facts set a = a + 1 where id < 20")
    expect(project.dbt("build"), scores="success", **{TEST: "pass"})
    shown = call(project, "replay", "scores", "--all")
    assert shown.exit_code == 0, shown.output
    assert "rows 200  identical 200  within tolerance 0  different 0  ok" in shown.output
    assert "rows 20  identical 20  within tolerance 0  different 0  ok" in shown.output


def test_a_changed_prediction_fails_the_test_and_the_command_and_is_named(
    project: ScoringProject,
) -> None:
    run_id = project.invocation_id()
    project.sql("update scores__current set y = 77 where id = 3")
    expect(project.dbt("test", "-s", TEST), **{TEST: "fail"})
    columns = ("run_id", "problem", "key", "column_name", "expected", "actual")
    assert (run_id, "prediction", "id=3", "y", "77.0", "4.5") in project.found(TEST, *columns)
    shown = call(project, "replay", "scores", "--run", run_id[:8])
    assert shown.exit_code == 1
    assert f"{run_id}  line/1  rows 20  identical 19  within tolerance 0  different 1  FAILED" in (
        shown.output
    )
    assert "  prediction: id=3 y: 4.5, not 77.0" in shown.output
    project.sql("update scores__current set y = 4.5 where id = 3")
    expect(project.dbt("test", "-s", TEST), **{TEST: "pass"})


def test_an_altered_file_fails_the_test(project: ScoringProject) -> None:
    path = project.root / "artifacts" / "line" / "1" / "model.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    expect(project.dbt("test", "-s", TEST), **{TEST: "fail"})
    assert {row[0] for row in project.found(TEST, "problem")} == {"artifact"}
    path.write_bytes(content)


def test_the_history_of_an_entity_and_the_runs_are_printed(project: ScoringProject) -> None:
    shown = call(project, "history", "scores", "3")
    assert shown.exit_code == 0, shown.output
    rows = [line.split("│")[3:8] for line in shown.output.splitlines() if "line/1" in line]
    runs = project.sql("select run_id from scores where id = 3 order by scored_at")
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["line/1", runs[0][0][:8], "2.5", "new", ""],
        ["line/1", runs[1][0][:8], "4.5", "features_changed", "a 1.5 > 2.5"],
    ]
    shown = call(project, "runs", "scores")
    assert shown.exit_code == 0
    assert "features_changed 20" in shown.output
    assert "new 200" in shown.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["history", "scores", "4711"], "the ledger of scores has no prediction for 4711"),
        (["history", "scores", "1", "2"], "the key of main.scores is id; got 2 value(s)"),
        (["replay", "scores", "--run", "nine"], "scores has no run 'nine' in main.dbt_onnx_runs"),
        (["runs", "score"], "'score' is not a scoring model"),
    ],
)
def test_a_wrong_call_is_one_clear_error(
    project: ScoringProject, arguments: list[str], message: str
) -> None:
    shown = call(project, *arguments)
    assert shown.exit_code == 2
    assert message in shown.output
    assert "Hint: " in shown.output
    assert "Traceback" not in shown.output


def test_without_kept_inputs_nothing_is_proved_and_the_test_says_so(tmp_path: Path) -> None:
    project = ScoringProject(tmp_path, profile=PLUGIN)
    project.facts(5)
    project.scoring_model("scores", arguments="keep_inputs=False")
    attach(project, ARGUMENTS)
    expect(project.dbt("build"), **{TEST: "fail"})
    assert project.found(TEST, "problem", "actual") == [("inputs", "no run has kept its inputs")]
    shown = call(project, "replay", "scores")
    assert (shown.exit_code, "no run of scores has kept its inputs" in shown.output) == (2, True)


def test_wrong_arguments_and_a_profile_without_the_plugin_are_named(tmp_path: Path) -> None:
    project = ScoringProject(tmp_path)
    project.facts(5)
    project.scoring_model("scores")
    attach(project, {**ARGUMENTS, "sample": 0, "runs": "two"})
    expect(project.dbt("build"), scores="success", **{TEST: "error"})
    message = project.outcome.nodes[TEST].message
    for part in (
        "sample is 0; it takes a whole number from 1",
        "runs is two; it takes a whole number from 1",
        "the target dev of profiles.yml does not load the replay plugin",
        "plugins: [{module: dbt_onnx.replay_plugin}]",
    ):
        assert part in message


def test_a_table_that_was_altered_fails_the_test_and_the_command(tmp_path: Path) -> None:
    project = ScoringProject(tmp_path, profile=PLUGIN)
    project.facts(30)
    project.scoring_model("scores")
    attach(project, ARGUMENTS)
    expect(project.dbt("build"), **{TEST: "pass"})
    project.sql("update facts set a = a + 1 where id < 20")
    expect(project.dbt("build"), scores="success", **{TEST: "pass"})
    project.sql("create table aside as from scores__history where id = 3")
    project.sql("delete from scores__history where id = 3")
    expect(project.dbt("test", "-s", TEST), **{TEST: "fail"})
    found = project.found(TEST, "run_id", "problem", "expected", "actual")
    [actual] = {row[-1] for row in found if row[:3] == (None, "ledger", "30")}
    assert actual.endswith(" has 29 rows")
    shown = call(project, "replay", "scores")
    assert shown.exit_code == 1
    assert "scores: tables FAILED" in shown.output
    project.sql("insert into scores__history from aside")
    # a change that row counts do not show
    project.sql("update scores__history set y = 7 where id = 3")
    shown = call(project, "replay", "scores")
    assert (shown.exit_code, "scores: tables match the records of the runs" in shown.output) == (
        0, True
    ), shown.output  # fmt: skip
    shown = call(project, "replay", "scores", "--all")
    assert (shown.exit_code, "scores: tables FAILED" in shown.output) == (1, True)
    project.sql("drop view scores")
    project.sql("drop table scores__history")
    shown = call(project, "replay", "scores")
    assert shown.exit_code == 1
    assert "main.scores__history is gone" in " ".join(shown.output.split())


def test_an_entity_is_forgotten_and_the_past_pruned(tmp_path: Path) -> None:
    project = ScoringProject(tmp_path, profile=PLUGIN)
    project.facts(30)
    project.scoring_model("scores")
    attach(project, ARGUMENTS)
    for _ in range(2):
        expect(project.dbt("build"), **{TEST: "pass"})
        project.sql("update facts set a = a + 1 where id < 20")
    count = "select count(*) from scores"

    asked = ("forget", "scores", "3", "--why", "asked for")
    shown = call(project, *asked, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert (
        shown.output == "scores: would erase 2 prediction(s) and 2 row(s) of inputs of 2 run(s)\n"
    )
    assert project.sql(count) == [(50,)]
    shown = call(project, *asked)
    assert shown.output == "scores: erased 2 prediction(s) and 2 row(s) of inputs of 2 run(s)\n"
    assert project.sql(count) == [(48,)]
    assert call(project, "history", "scores", "3").exit_code == 2

    old = ("prune", "scores", "--before", "2000-01-01")
    assert "erased 0 prediction(s)" in call(project, *old).output
    shown = call(project, *old[:-1], "2100-01-01", "--dry-run")
    assert "would erase 19 prediction(s) and 19 row(s) of inputs of 1 run(s)" in shown.output
    shown = call(project, *old[:-1], "2100-01-01")
    assert "scores: erased 19 prediction(s) and 19 row(s) of inputs of 1 run(s)" in shown.output
    assert project.sql(count) == [(29,)]
    assert project.sql("select distinct why from dbt_onnx_erasures order by why") == [
        ("asked for",), ("retention",),
    ]  # fmt: skip

    shown = call(project, "replay", "scores", "--all")
    assert shown.exit_code == 0, shown.output
    assert "note: 20 row(s) of this run were erased" in shown.output
    expect(project.dbt("test", "-s", TEST), **{TEST: "pass"})
    # an entity that is still among the features is scored again
    expect(project.dbt("build"), scores="success", **{TEST: "pass"})
    assert project.sql("select count(*) from scores where id = 3") == [(1,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["forget", "scores", "1"], "Missing option '--why'"),
        (["forget", "scores", "1", "2", "--why", "x"], "the key of main.scores is id; got 2 value(s)"),
        (["forget", "score", "1", "--why", "x"], "'score' is not a scoring model"),
        (["prune", "scores"], "Missing option '--before'"),
        (["prune", "scores", "--before", "soon"], "'soon' does not match the formats"),
    ],
)  # fmt: skip
def test_a_wrong_call_erases_nothing(
    project: ScoringProject, arguments: list[str], message: str
) -> None:
    before = project.sql("select count(*) from scores")
    shown = call(project, *arguments)
    assert shown.exit_code == 2
    assert message in shown.output
    assert "Traceback" not in shown.output
    assert project.sql("select count(*) from scores") == before
