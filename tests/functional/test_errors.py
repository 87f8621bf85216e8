"""Wrong input gives the message and the hint of docs/errors.md, and costs nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from error_cases import CASES, TOLERATED, run
from scoring_project import ScoringProject
from warehouse import Warehouse

from dbt_onnx.errors import DbtOnnxError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumer import Outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
ERROR_COLUMNS = ("id", "what is wrong", "message", "what to do")
BY_DBT = {
    "argument-missing",
    "model-returns-otherwise",
    "other-materialization",
    "sql-model",
    "database-locked",
}


@dataclass(frozen=True)
class Row:
    message: str
    hint: str


def read_tables() -> tuple[dict[str, Row], set[str]]:
    """The documented errors, and the ids of what is no error."""
    errors: dict[str, Row] = {}
    odd: set[str] = set()
    columns: tuple[str, ...] = ()
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = tuple(cell.strip() for cell in line.strip("|").split(" | "))
        if not line.startswith("|"):
            columns = ()
        elif not columns:
            columns = cells
        elif line.startswith("|---"):
            continue
        elif columns == ERROR_COLUMNS:
            assert len(cells) == 4, line
            assert cells[0] not in errors, line
            errors[cells[0]] = Row(cells[2].strip("`").strip(), cells[3])
        else:
            odd.add(cells[0])
    return errors, odd


ERRORS, ODD = read_tables()


def pattern(text: str) -> str:
    """A documented text as a regular expression: `…` and `{names}` stand for any text."""
    parts = re.split(r"…|\{[a-z0-9_]+\}", text)
    return ".+".join(re.escape(part) for part in parts)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with three predictions, and a feature that has changed since."""
    warehouse = Warehouse(tmp_path_factory.mktemp("template"))
    warehouse.register("1")
    warehouse.features((1, 1.0, 2.0), (2, 3.0, 1.0), (3, 0.0, 0.0))
    run(warehouse, {})
    warehouse.sql("update features set a = 7 where id = 2")
    warehouse.connection.close()
    return warehouse.folder


def reopened(folder: Path, *, runs: int = 1) -> Warehouse:
    warehouse = Warehouse(folder)
    warehouse.runs = runs
    return warehouse


@pytest.fixture
def warehouse(template: Path, tmp_path: Path) -> Iterator[Warehouse]:
    folder = tmp_path / "copy"
    shutil.copytree(template, folder)
    opened = reopened(folder)
    yield opened
    opened.connection.close()


def content(warehouse: Warehouse) -> dict[str, Any]:
    """Every table with its columns and rows, every view with its text; not the runs table."""
    found: dict[str, Any] = {}
    for (name,) in warehouse.sql("select table_name from duckdb_tables() where not internal"):
        if name != "dbt_onnx_runs":
            rows = warehouse.sql(f'select * from "{name}"')
            found[name] = (warehouse.sql(f'describe "{name}"'), sorted(map(repr, rows)))
    for name, sql in warehouse.sql("select view_name, sql from duckdb_views() where not internal"):
        found[name] = sql
    return found


def run_rows(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.sql("from dbt_onnx_runs order by all")


def test_every_documented_error_has_a_case_and_every_case_is_documented() -> None:
    assert set(ERRORS) == set(CASES) | BY_DBT
    assert set(ODD) == set(TOLERATED)


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_gives_its_message_and_changes_nothing(warehouse: Warehouse, name: str) -> None:
    attempt = CASES[name](warehouse)
    before, runs_before = content(warehouse), run_rows(warehouse)
    with pytest.raises(DbtOnnxError) as caught:
        run(warehouse, attempt.arguments)
    error = caught.value
    assert type(error) is attempt.kind
    message = f"{error.kind} error: {error.message}"
    assert re.fullmatch(pattern(ERRORS[name].message), message), message
    assert re.fullmatch(pattern(ERRORS[name].hint), error.hint), error.hint

    assert content(warehouse) == before
    if attempt.run_row is None:
        assert run_rows(warehouse) == runs_before
    else:
        (left,) = [row for row in run_rows(warehouse) if row not in runs_before]
        assert len(run_rows(warehouse)) == len(runs_before) + 1
        assert warehouse.last_run("run_id, status, error, ended_at is not null") == (
            f"run-{warehouse.runs}", "error", str(error), True,
        )  # fmt: skip
        assert left[0] == f"run-{warehouse.runs}"

    if attempt.undo is not None or attempt.arguments:
        if attempt.undo is not None:
            attempt.undo()
        run(warehouse, {})
        assert warehouse.last_run("status, rows_scored > 0") == ("success", True)


@pytest.mark.parametrize("name", TOLERATED)
def test_what_is_odd_and_no_error_does_not_stop_the_run(warehouse: Warehouse, name: str) -> None:
    TOLERATED[name](warehouse)


DIES = """
import sys, time
from pathlib import Path
import dbt_onnx.engines.duckdb.streaming as engine
from error_cases import run
from test_errors import reopened

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
    paths = os.pathsep.join(
        [str(DOCUMENT.parents[1] / "tests" / part) for part in ("unit", "functional")]
    )
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


# through dbt

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
HOLDS = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    project = ScoringProject(tmp_path_factory.mktemp("errors"))
    project.facts(5)
    project.scoring_model("scores")
    project.scoring_model("no_model", arguments="model='lime'")
    project.scoring_model("other_materialization")
    path = project.root / "python_models" / "other_materialization.py"
    path.write_text(path.read_text().replace('"predictions"', '"table"'))
    project.write("python_models/model_returns_otherwise.py", RETURNS_ROWS)
    project.write("python_models/argument_missing.py", MISSES_AN_ARGUMENT)
    project.write("models/sql_model.sql", "{{ config(materialized='predictions') }} select 1 as x")
    return project


@pytest.fixture(scope="module")
def locked(project: ScoringProject) -> tuple[Outcome, int]:
    """A run while another process holds the file, and that process's id."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(project.warehouse)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return project.dbt("run"), process.pid


@pytest.fixture(scope="module")
def built(project: ScoringProject, locked: object) -> Outcome:
    """All of the models, when the file is free again."""
    return project.dbt("build")


def test_a_locked_warehouse_names_the_process_that_holds_it(locked: tuple[Outcome, int]) -> None:
    outcome, holder = locked
    assert not outcome.success
    said = outcome.error + outcome.log
    assert re.search(pattern(ERRORS["database-locked"].message), said), said
    assert f"(PID {holder})" in said


@pytest.mark.parametrize("name", sorted(BY_DBT - {"database-locked"}))
def test_dbt_shows_the_documented_message(built: Outcome, name: str) -> None:
    said = built.nodes[name.replace("-", "_")].message
    assert re.search(pattern(ERRORS[name].message), said), said
    if name != "sql-model":
        assert ERRORS[name].hint in said


def test_dbt_shows_one_clear_message_without_a_traceback(built: Outcome) -> None:
    for name in ("no_model", "model_returns_otherwise", "argument_missing"):
        assert "Traceback" not in built.nodes[name].message
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
        "select scoring_model, status, error from dbt_onnx_runs order by scoring_model"
    ) == [
        (
            "no_model",
            "error",
            "main.model_registry has no model 'lime'; it has line\nHint: did you mean 'line'?",
        ),
        ("scores", "success", None),
    ]
