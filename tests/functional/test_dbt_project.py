"""A dbt project as dbt-onnx commands open it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from scoring_project import CLOCK, ScoringProject

from dbt_onnx.engines.base import TableName
from dbt_onnx.errors import ConfigError, WarehouseError
from dbt_onnx.project.dbt_project import DbtProject
from dbt_onnx.project.upstream import with_relations

if TYPE_CHECKING:
    from pathlib import Path


def project_in(root: Path, **options: Any) -> DbtProject:
    return DbtProject(root, profiles_dir=root, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    project = ScoringProject(
        tmp_path_factory.mktemp("project"), profile={"settings": {"TimeZone": "Asia/Tokyo"}}
    )
    project.facts(5)
    project.scoring_model("scores")
    project.scoring_model("risk", alias="risk_ledger", schema="marts")
    assert project.dbt("build").success
    return project


@pytest.fixture(scope="module")
def project(built: ScoringProject) -> DbtProject:
    return project_in(built.root)


def test_scoring_models_are_known_with_their_ledgers(project: DbtProject) -> None:
    tables = {model.name: str(model.table) for model in project.scoring_models()}
    assert tables == {"risk": "main_marts.risk_ledger", "scores": "main.scores"}
    assert project.scoring_model("scores").unique_id == "model.consumer.scores"
    assert project.scoring_model("scores").table.database == "warehouse"


def test_an_unknown_scoring_model_is_refused_with_those_that_there_are(project: DbtProject) -> None:
    with pytest.raises(ConfigError, match=r"it has risk, scores\nHint: did you mean 'scores'"):
        project.scoring_model("score")
    with pytest.raises(ConfigError, match="'features' is not a scoring model"):
        project.scoring_model("features")


def test_the_warehouse_is_read_as_dbt_reads_it_and_not_written(project: DbtProject) -> None:
    with project.connect() as connection:
        assert connection.execute("select count(*) from scores").fetchall() == [(5,)]
        zone = connection.execute("select current_setting('TimeZone')").fetchall()
        assert zone == [("Asia/Tokyo",)]
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            connection.execute("create table extra (a integer)")
        # another process can read at the same time
        reader = f"import duckdb; duckdb.connect({str(project.root / 'warehouse.duckdb')!r}, read_only=True)"
        subprocess.run([sys.executable, "-c", reader], check=True)


def test_dbt_runs_with_the_variables_and_leaves_no_trace_but_its_tables(
    built: ScoringProject, project: DbtProject, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in (built.root / "target").rglob("*.*")}
    log = (built.root / "logs" / "dbt.log").read_bytes()
    done = project.invoke("run", "--select", "scores", variables={"dbt_onnx_clock": "2024-01-11"})
    assert done.success, done.exception
    assert capfd.readouterr() == ("", "")
    assert {path: path.read_bytes() for path in (built.root / "target").rglob("*.*")} == before
    assert (built.root / "logs" / "dbt.log").read_bytes() == log
    # the file is unlocked for this process and for others
    clocks = built.sql("select clock::varchar from dbt_onnx_runs where scoring_model = 'scores'")
    assert clocks == [(CLOCK,), ("2024-01-11 00:00:00",)]


def test_a_manifest_that_was_changed_is_what_runs(
    built: ScoringProject, project: DbtProject
) -> None:
    place = TableName(database="warehouse", schema="elsewhere", identifier="features")
    manifest = with_relations(project.manifest, {"model.consumer.features": place})
    assert project.invoke("run", "--select", "features", manifest=manifest).success
    assert "elsewhere.features" in built.relations()
    assert project.manifest.nodes["model.consumer.features"].schema == "main"


def test_a_warehouse_that_another_process_holds_is_one_clear_message(
    built: ScoringProject, project: DbtProject
) -> None:
    program = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(built.warehouse)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(WarehouseError, match="held by another process"), project.connect():
            pass
    finally:
        holder.communicate(b"\n")


def test_what_is_not_there_is_one_clear_message_each(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a dbt project"):
        project_in(tmp_path).scoring_models()
    new = ScoringProject(tmp_path)
    new.dbt("deps")
    new.warehouse.unlink()
    project = project_in(tmp_path)
    with pytest.raises(WarehouseError, match="there is no warehouse at"), project.connect():
        pass
    assert not new.warehouse.exists()
    with pytest.raises(ConfigError, match="has no scoring models"):
        project.scoring_model("scores")
    with pytest.raises(ConfigError, match=r"dbt cannot read .*prod"):
        project_in(tmp_path, target="prod").scoring_models()
    new.write("models/broken.sql", "select * from {{ ref('nothing') }}")
    with pytest.raises(ConfigError, match=r"dbt cannot read .*nothing"):
        project_in(tmp_path).scoring_models()
