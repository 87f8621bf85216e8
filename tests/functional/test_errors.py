"""Wrong input gives the message and the hint in docs/errors.md, and changes nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from error_cases import TOLERATED, run
from error_catalogue import (
    PROVOKED,
    PUBLISHING,
    RUNS,
    content,
    copied,
    create_template,
    faults_of_call,
    faults_of_command,
    faults_of_dbt,
    faults_of_publishing,
    faults_of_run,
    reopened,
)
from error_commands import COMMANDS, create_files
from error_document import ERRORS, ODD, pattern
from error_project import (
    CALLS,
    LOCKED,
    NODES,
    VARIABLES,
    VERSIONS,
    build,
    call_in_project,
    create_project,
    locked,
    node_name,
    with_another_version,
    with_variables,
)

from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumer import Outcome
    from scoring_project import ScoringProject
    from warehouse import Warehouse


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def warehouse(template: Path, tmp_path: Path) -> Iterator[Warehouse]:
    with copied(template, tmp_path / "copy") as warehouse:
        yield warehouse


def test_every_documented_error_has_a_case_and_every_case_is_documented() -> None:
    assert set(ERRORS) == PROVOKED
    assert len(ERRORS) >= 150
    assert set(ODD) == set(TOLERATED)


def test_every_documented_error_says_what_to_do() -> None:
    assert [name for name, row in ERRORS.items() if not row.message or not row.hint] == []


@pytest.mark.parametrize("name", RUNS)
def test_wrong_input_gives_its_message_and_changes_nothing(warehouse: Warehouse, name: str) -> None:
    assert faults_of_run(warehouse, name) == []


@pytest.mark.parametrize("name", TOLERATED)
def test_what_is_odd_and_no_error_does_not_stop_the_run(warehouse: Warehouse, name: str) -> None:
    TOLERATED[name](warehouse)


@pytest.mark.parametrize("name", PUBLISHING)
def test_what_cannot_be_published_gives_its_message_and_publishes_nothing(
    tmp_path: Path, name: str
) -> None:
    assert faults_of_publishing(tmp_path, name) == []


# --- on the command line


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    create_files(folder)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_call_gives_its_message_and_writes_nothing(
    seeds: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(seeds, folder)
    assert faults_of_command(folder, name) == []


DIES = """
import sys, time
from pathlib import Path
import dbt_onnx.runs.scorer as engine
from error_cases import run
from error_catalogue import reopened

score_batches = engine.score_batches

def stops_in_the_middle(*arguments, **settings):
    for number, batch in enumerate(score_batches(*arguments, **settings)):
        yield batch
        if number == 5:
            print("scoring", flush=True)
            time.sleep(600)

engine.score_batches = stops_in_the_middle
run(reopened(Path(sys.argv[1])), {"batch_rows": 1000})
"""


def test_a_killed_run_is_marked_interrupted_and_has_written_nothing(
    template: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(template, folder)
    warehouse = reopened(folder)
    warehouse.sql("insert into features select i, i, 1 from range(10, 300_010) as numbers (i)")
    before = content(warehouse)
    warehouse.connection.close()
    tests = Path(__file__).parents[1]
    own = [str(tests / "support")]
    paths = os.pathsep.join([*own, os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", DIES, str(folder)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "scoring\n"
        process.send_signal(signal.SIGKILL)
    warehouse = reopened(folder, runs=2)
    assert content(warehouse) == before
    assert warehouse.last_run("run_id, status") == ("run-2", "running")
    run(warehouse, {})
    assert warehouse.sql("select run_id, status, rows_scored from dbt_onnx_runs order by 1") == [
        ("run-1", "success", 3),
        ("run-2", "interrupted", None),
        ("run-3", "success", 300_001),
    ]


# --- through dbt


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    return create_project(tmp_path_factory.mktemp("errors"))


@pytest.fixture(scope="module")
def refused(project: ScoringProject) -> tuple[Outcome, int]:
    """Run dbt while another process holds the file. Returns the outcome and that process's id."""
    with locked(project) as holder:
        return project.dbt("run"), holder


@pytest.fixture(scope="module")
def built(project: ScoringProject, refused: object) -> Outcome:
    """Build all models and tests after the file is free again."""
    return build(project)


def test_a_locked_warehouse_names_the_process_that_holds_it(refused: tuple[Outcome, int]) -> None:
    outcome, holder = refused
    assert not outcome.success
    said = outcome.error + outcome.log
    assert faults_of_dbt(LOCKED, said) == []
    assert f"(PID {holder})" in said


@pytest.mark.parametrize("name", NODES)
def test_dbt_shows_the_documented_message(built: Outcome, name: str) -> None:
    node = built.nodes[node_name(name)]
    assert node.status == "error"
    assert faults_of_dbt(name, node.message) == []


@pytest.mark.parametrize("name", CALLS)
def test_a_command_about_a_project_gives_its_message(
    built: Outcome, project: ScoringProject, name: str
) -> None:
    assert faults_of_call(name, call_in_project(project, name)) == []


def test_a_wrong_variable_gives_its_message(built: Outcome, project: ScoringProject) -> None:
    said = with_variables(project)
    assert set(said) == set(VARIABLES)
    assert [fault for name, text in said.items() for fault in faults_of_dbt(name, text)] == []


def test_halves_of_different_versions_score_nothing_and_leave_no_run(
    built: Outcome, project: ScoringProject
) -> None:
    runs = project.sql("select count(*) from dbt_onnx_runs")
    said = with_another_version(project)
    assert faults_of_dbt(VERSIONS, said) == []
    assert "version 9.9.9" in said
    assert f"has version {__version__};" in said
    assert "pip install 'dbt-onnx==9.9.9'" in said
    assert f"`revision: v{__version__}` in packages.yml" in said
    assert project.sql("select count(*) from dbt_onnx_runs") == runs


def test_dbt_shows_one_clear_message(built: Outcome) -> None:
    assert built.nodes["no_model"].message.splitlines()[:3] == [
        "Compilation Error in model no_model (python_models/no_model.py)",
        "  registry error: main.model_registry has no model 'lime'; it has line",
        "  Hint: did you mean 'line'?",
    ]


def test_one_model_that_fails_leaves_an_error_row_and_the_others_alone(
    built: Outcome, project: ScoringProject
) -> None:
    assert built.nodes["scores"].status == "success"
    assert project.sql(
        "select scoring_model, status, error from dbt_onnx_runs "
        "where run_id = (select arg_min(run_id, started_at) from dbt_onnx_runs) order by scoring_model"
    ) == [
        (
            "no_model",
            "error",
            "main.model_registry has no model 'lime'; it has line\nHint: did you mean 'line'?",
        ),
        ("scores", "success", None),
        ("tested", "success", None),
    ]


def test_a_documented_text_stands_for_what_differs() -> None:
    wanted = pattern("`{path}` has … rows")
    assert re.fullmatch(wanted, "`a.csv` has 3 rows")
    assert not re.fullmatch(wanted, "`a.csv` has rows")
    assert not re.fullmatch(wanted, "`a.csv` has 3 rows; and more")
